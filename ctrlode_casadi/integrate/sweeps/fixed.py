"""Fixed steps: the rows are planned first (equal steps between neighbouring save times and breaks), then swept."""

from __future__ import annotations

import math

from . import slots as s
from .inputs import break_row, find_piece
from .language import Bool, Int, Ints, copy, doubles, ints, poll, reals, sweep
from .projection import mark_crossed, project, spoil_inconsistent
from .saves import save_count, save_first, save_lane, save_row, slack
from .stages import run_stages, spread_steps, step_end


@sweep
def plan_lane(a: Ints, lane: Int, head: Int, stride: Int, capacity: Int) -> Int:
    """Fill column `head` of the row arrays with one lane's steps; the number of steps needed.

    Rows beyond `capacity` are counted but not written. Row r of the column is at ``r * stride + head``.
    """
    t, h, end = doubles(a[s.ROW_T_AT]), doubles(a[s.ROW_H_AT]), doubles(a[s.ROW_E_AT])
    piece, saves = ints(a[s.ROW_PIECE_AT]), ints(a[s.ROW_SAVED_AT])
    ts, count, breaks = doubles(save_row(a, lane)), save_count(a, lane), doubles(break_row(a, lane))
    limit, dt = a[s.STEPS_PER], doubles(a[s.CONTROL_AT])[s.DT]
    row, left, q, last = 0, ts[0], find_piece(a, lane, ts[0]), a[s.NB] - 1
    for k in range(1, count):
        while left < ts[k]:
            while q < last and breaks[q + 1] <= left + slack(left):
                q += 1
            right = ts[k]
            if q < last and breaks[q + 1] < right - slack(right):
                right = breaks[q + 1]
            steps = limit if limit > 0 else int(math.ceil((right - left) / dt * (1.0 - 1e-12)))  # noqa: RUF046
            steps = max(steps, 1)
            step = (right - left) / steps
            for i in range(steps):
                if row < capacity:
                    at = row * stride + head
                    t[at] = left + i * step
                    end[at] = right if i + 1 == steps else left + (i + 1) * step
                    h[at] = step
                    piece[at] = q
                    saves[at] = k + 1 if right == ts[k] and i + 1 == steps else k
                row += 1
            left = right
    return row


@sweep
def pad_lane(a: Ints, head: Int, stride: Int, first: Int, rows: Int) -> None:
    """Rows first..rows-1 of a column: the lane has arrived and stays where it is."""
    t, h, end = doubles(a[s.ROW_T_AT]), doubles(a[s.ROW_H_AT]), doubles(a[s.ROW_E_AT])
    piece, saves = ints(a[s.ROW_PIECE_AT]), ints(a[s.ROW_SAVED_AT])
    for row in range(first, rows):
        at, before = row * stride + head, (row - 1) * stride + head
        t[at] = end[before] if row > 0 else 0.0
        h[at] = 0.0
        end[at] = t[at]
        piece[at] = piece[before] if row > 0 else 0
        saves[at] = saves[before] if row > 0 else 1


@sweep
def plan_block(a: Ints) -> Int:
    """Plan every lane of the block; the number of rows, or -1 when the row arrays are too small."""
    lanes, rows = a[s.LANES], 0
    own = ints(a[s.LANE_I_AT] + 8 * s.I_STEPS * lanes)
    for lane in range(lanes):
        own[lane] = plan_lane(a, lane, lane, lanes, a[s.ROW_CAP])
        rows = max(rows, own[lane])
    a[s.ROWS] = rows
    if rows > a[s.ROW_CAP]:
        return -1
    for lane in range(lanes):
        pad_lane(a, lane, lanes, own[lane], rows)
    return rows


@sweep
def forward_fixed(a: Ints, keep: Bool) -> Int:
    """Sweep the planned rows. With `keep`, states of all rows and tapes of the last ones stay for the reverse sweep."""
    sn, n, rows = a[s.SN], a[s.N], a[s.ROWS]
    ring, row_bytes = a[s.TAPE_ROWS], a[s.ROW_BYTES]
    saved, uniform = ints(a[s.ROW_SAVED_AT]), a[s.LH] == 1
    x = a[s.STATES_AT]
    for lane in range(a[s.LANES]):
        ints(a[s.LANE_I_AT] + 8 * s.I_BROKEN * a[s.LANES])[lane] = 0
    save_first(a, x)
    for row in range(rows):
        if poll(a[s.CANCEL_AT]) != 0:
            return s.STOPPED
        tape = keep and row >= rows - ring
        records = a[s.TAPES_AT] + (row % ring) * row_bytes if tape else a[s.SCRATCH_AT]
        spread_steps(a, row)
        if a[s.PROJECT] and mark_crossed(a, row) > 0:
            project(a, row, x)
            spoil_inconsistent(a, x)
        kernel = a[s.MODEL + s.VALUE_TAPE] if tape else a[s.MODEL + s.VALUE]
        run_stages(a, row, records, 0, a[s.MAIN], x, kernel)
        x_new = a[s.STATES_AT] + (row + 1 if keep else (row + 1) & 1) * sn
        step_end(a, x, x_new)
        if uniform:
            done = saved[row]
            if done > (saved[row - 1] if row > 0 else 1):
                copy(a[s.SAVES_AT] + (done - 1) * sn, x_new, n)
        else:
            save_lanes(a, row, x, x_new)
        x = x_new
    check_saves(a)
    return s.DONE


@sweep
def save_lanes(a: Ints, row: Int, x: Int, x_new: Int) -> None:
    """Saves of a row whose lanes have steps of their own."""
    lanes = a[s.LANES]
    saved = ints(a[s.ROW_SAVED_AT])
    end = doubles(a[s.ROW_E_AT])
    for lane in range(lanes):
        at = row * lanes + lane
        before = saved[at - lanes] if row > 0 else 1
        if saved[at] > before:
            save_lane(a, lane, before, saved[at], end[at], 0.0, end[at], x, x_new)


@sweep
def is_finite(a: Ints, x_at: Int, lane: Int) -> Bool:
    """Whether a lane's state has no infinity and no NaN."""
    x = reals(x_at)
    finite = True
    last = a[s.N_ERR] * a[s.LANES] if a[s.SLOPES] else a[s.N]  # sensitivities may be infinite where states are not
    for e in range(lane, last, a[s.LANES]):
        finite = finite and math.isfinite(x[e])
    return finite


@sweep
def check_saves(a: Ints) -> None:
    """Status of each lane. A state that is not finite stays so, since x' = x + ..., so the last save tells."""
    status = ints(a[s.LANE_I_AT] + 8 * s.I_STATUS * a[s.LANES])
    reached = ints(a[s.LANE_I_AT] + 8 * s.I_SAVED * a[s.LANES])
    broken = ints(a[s.LANE_I_AT] + 8 * s.I_BROKEN * a[s.LANES])
    for lane in range(a[s.LANES]):
        good = save_count(a, lane)
        while good > 0 and not is_finite(a, a[s.SAVES_AT] + (good - 1) * a[s.SN], lane):
            good -= 1
        reached[lane] = good
        status[lane] = 0 if good == save_count(a, lane) else max(broken[lane], 1)


@sweep
def count_fixed(a: Ints) -> None:
    """Steps and right-hand-side evaluations of each lane."""
    lanes, count, rows = a[s.LANES], a[s.LH], a[s.ROWS]
    base = a[s.LANE_I_AT]
    steps, rejected = ints(base + 8 * s.I_STEPS * lanes), ints(base + 8 * s.I_REJECTED * lanes)
    rhs = ints(base + 8 * s.I_RHS * lanes)
    h = doubles(a[s.ROW_H_AT])
    for lane in range(lanes):
        taken = rows
        while count > 1 and taken > 0 and h[(taken - 1) * count + lane] == 0.0:
            taken -= 1
        steps[lane], rejected[lane], rhs[lane] = taken, 0, taken * a[s.MAIN]
