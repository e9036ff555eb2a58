"""Adaptive steps, every lane with its own time, step and decision.

One row is one trial of all lanes. A lane that rejects its trial or has arrived enters the recorded row with h = 0, so
that the row repeats its state; a row that no lane accepted is not recorded. Error norm, first step and factor limits
are those of SciPy and Hairer, Norsett & Wanner I (II.4), the controller is the PI controller of Hairer & Wanner II
(IV.2, Gustafsson). A step cut short by a break or the end leaves the proposal as it was.
"""

from __future__ import annotations

import math

from . import slots as s
from .fixed import is_finite
from .inputs import break_row, find_piece, stop_row
from .language import Bool, Float, Int, Ints, copy, doubles, ints, poll, reals, sweep, weigh
from .projection import crossed_lanes, project, stop_inconsistent
from .saves import last_due, save_count, save_first, save_lane, save_row, slack
from .stages import evaluate_stage, run_stages, spread_steps, step_end
from .stiffness import notice_stiffness

#: Logarithm of 1e-4, the least error that the controller remembers (Hairer's FACOLD).
FIRST_ERROR = math.log(1e-4)


@sweep
def start_lanes(a: Ints, h: Float) -> None:
    """Initial time, piece and counters of every lane; all proposals are h."""
    lanes = a[s.LANES]
    f, i = doubles(a[s.LANE_F_AT]), ints(a[s.LANE_I_AT])
    for lane in range(lanes):
        t = doubles(save_row(a, lane))[0]
        i[s.I_BROKEN * lanes + lane] = 0
        i[s.I_CROSSED * lanes + lane] = 0
        f[s.F_T * lanes + lane] = t
        f[s.F_H * lanes + lane] = h
        f[s.F_ERR * lanes + lane] = FIRST_ERROR
        for q in (s.I_STATUS, s.I_STEPS, s.I_REJECTED, s.I_RHS, s.I_AGAIN, s.I_BAD, s.I_STIFF, s.I_CALM):
            i[q * lanes + lane] = 0
        i[s.I_SAVED * lanes + lane] = 1
        i[s.I_LIMIT * lanes + lane] = a[s.MAX_STEPS]
        i[s.I_PIECE * lanes + lane] = find_piece(a, lane, t)
        i[s.I_FRESH * lanes + lane] = 1
        i[s.I_ACTIVE * lanes + lane] = 1 if save_count(a, lane) > 1 else 0


@sweep
def next_target(a: Ints, lane: Int, piece: Int, t_final: Float) -> Float:
    """The next time at which the lane must stop: a break where the control is not smooth, or the last save."""
    breaks, stops, last = doubles(break_row(a, lane)), ints(stop_row(a, lane)), a[s.NB] - 1
    while piece < last:
        if stops[piece + 1]:
            return min(breaks[piece + 1], t_final)
        piece += 1
    return t_final


@sweep
def scaled_norm(a: Ints, v_at: Int, x_at: Int, y_at: Int, lane: Int) -> Float:
    """Root mean square of v / (atol + rtol max(|x|, |y|)) over the first N_ERR states of a lane; 0 / 0 counts as 0."""
    lanes, rtol, atol = a[s.LANES], doubles(a[s.CONTROL_AT])[s.RTOL], doubles(a[s.ATOL_AT])
    v, x, y = reals(v_at), reals(x_at), reals(y_at)
    total = 0.0
    for c in range(a[s.N_ERR]):
        e = c * lanes + lane
        r = v[e] / (atol[c] + rtol * max(abs(x[e]), abs(y[e]))) if v[e] != 0.0 else 0.0
        total += r * r
    return math.sqrt(total / a[s.N_ERR])


@sweep
def first_steps(a: Ints, x: Int) -> None:
    """Hairer's choice of the first step (I, II.4), lane by lane; uses row 0 of the row arrays."""
    lanes, f, i = a[s.LANES], doubles(a[s.LANE_F_AT]), ints(a[s.LANE_I_AT])
    t, h, end = doubles(a[s.ROW_T_AT]), doubles(a[s.ROW_H_AT]), doubles(a[s.ROW_E_AT])
    for lane in range(lanes):
        t[lane] = end[lane] = f[s.F_T * lanes + lane]
        h[lane] = 0.0
        ints(a[s.ROW_PIECE_AT])[lane] = i[s.I_PIECE * lanes + lane]
    value, k1 = a[s.MODEL + s.VALUE], a[s.K_AT] + a[s.STAGES] * a[s.SN]
    spread_steps(a, 0)
    evaluate_stage(a, 0, a[s.SCRATCH_AT], 0, x, value)
    copy(k1, a[s.K_AT], a[s.N])
    for lane in range(lanes):
        span = next_target(a, lane, i[s.I_PIECE * lanes + lane], doubles(save_row(a, lane))[save_count(a, lane) - 1])
        span -= t[lane]
        d0, d1 = scaled_norm(a, x, x, x, lane), scaled_norm(a, k1, x, x, lane)
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        h[lane] = min(h0, span) if math.isfinite(h0) else min(1e-6, span)
        end[lane] = t[lane] + h[lane]
    spread_steps(a, 0)
    add_step(a, x)
    probe(a, value)
    for lane in range(lanes):
        d1 = scaled_norm(a, k1, x, x, lane)
        d2 = norm_of_difference(a, x, lane) / h[lane] if h[lane] > 0.0 else 0.0
        top = max(d1, d2)
        h1 = max(1e-6, h[lane] * 1e-3) if top <= 1e-15 else (0.01 / top) ** (1.0 / a[s.ORDER])
        step = min(100.0 * h[lane], h1)
        step = step if step > 0.0 else max(h[lane], 1e-6)
        # A state that is zero but for rounding asks for a step far below the spacing of times: SciPy begins there, too.
        f[s.F_H * lanes + lane] = max(step, 2.3e-14 * max(abs(t[lane]), 1e-6 * span_of(a, lane)))
        i[s.I_RHS * lanes + lane] += 2


@sweep
def span_of(a: Ints, lane: Int) -> Float:
    """Time from a lane's first to its last save time."""
    ts = doubles(save_row(a, lane))
    return ts[save_count(a, lane) - 1] - ts[0]


@sweep
def add_step(a: Ints, x: Int) -> None:
    """X_NEW = x + h f(t, x): the explicit Euler step of the probe."""
    n = a[s.N]
    k, hx = reals(a[s.K_AT]), reals(a[s.HX_AT])
    out, start = reals(a[s.X_NEW_AT]), reals(x)
    for e in range(n):
        out[e] = start[e] + hx[e] * k[e]


@sweep
def probe(a: Ints, value: Int) -> None:
    """k[0] = f at the end of row 0, from X_NEW."""
    start = doubles(a[s.ROW_T_AT])
    end = doubles(a[s.ROW_E_AT])
    for lane in range(a[s.LANES]):
        start[lane] = end[lane]
    evaluate_stage(a, 0, a[s.SCRATCH_AT], 0, a[s.X_NEW_AT], value)


@sweep
def norm_of_difference(a: Ints, x: Int, lane: Int) -> Float:
    """Scaled norm of k[0] - k[S], the change of the derivative over the probe."""
    err, k0 = reals(a[s.ERR_AT]), reals(a[s.K_AT])
    k1 = reals(a[s.K_AT] + a[s.STAGES] * a[s.SN])
    for e in range(lane, a[s.N], a[s.LANES]):
        err[e] = k0[e] - k1[e]
    return scaled_norm(a, a[s.ERR_AT], x, x, lane)


@sweep
def interrupt_lanes(a: Ints) -> None:
    """Lanes that are not done get the status of an interruption; the others keep their results."""
    lanes, i = a[s.LANES], ints(a[s.LANE_I_AT])
    for lane in range(lanes):
        if i[s.I_ACTIVE * lanes + lane]:
            i[s.I_STATUS * lanes + lane] = 4


@sweep
def propose(a: Ints, row: Int) -> Int:
    """Choose each lane's trial and write the row's header; the number of active lanes."""
    lanes, f, i = a[s.LANES], doubles(a[s.LANE_F_AT]), ints(a[s.LANE_I_AT])
    start, h, end = doubles(a[s.ROW_T_AT]), doubles(a[s.ROW_H_AT]), doubles(a[s.ROW_E_AT])
    active = 0
    for lane in range(lanes):
        at, t, piece = row * lanes + lane, f[s.F_T * lanes + lane], i[s.I_PIECE * lanes + lane]
        start[at] = end[at] = t
        h[at] = 0.0
        ints(a[s.ROW_PIECE_AT])[at] = piece
        if i[s.I_ACTIVE * lanes + lane] == 0:
            continue
        wanted, ts = f[s.F_H * lanes + lane], doubles(save_row(a, lane))
        stiff = i[s.I_STIFF * lanes + lane] >= s.STIFF_STEPS
        t_final = ts[save_count(a, lane) - 1]
        if wanted < 2.3e-15 * max(abs(t), 1e-6 * (t_final - ts[0])):
            bad = i[s.I_BAD * lanes + lane]
            i[s.I_STATUS * lanes + lane] = bad if bad else 3
        elif stiff and a[s.STIFFNESS] == s.STOP_WHEN_STIFF:
            i[s.I_STATUS * lanes + lane] = 10
        elif i[s.I_STEPS * lanes + lane] + i[s.I_REJECTED * lanes + lane] >= i[s.I_LIMIT * lanes + lane]:
            i[s.I_STATUS * lanes + lane] = 10 if stiff else 2
        if i[s.I_STATUS * lanes + lane] != 0:
            i[s.I_ACTIVE * lanes + lane] = 0
            continue
        target = next_target(a, lane, piece, t_final)
        rest = target - t
        cut = 1.01 * wanted >= rest
        h[at] = rest if cut else wanted
        end[at] = target if cut else t + wanted
        i[s.I_TRUNCATED * lanes + lane] = 1 if cut and rest < wanted else 0
        active += 1
    return active


@sweep
def measure(a: Ints, x: Int, x_new: Int) -> None:
    """Error of each lane's trial, scaled so that 1 is the tolerance; NaN where something is not finite."""
    lanes, f = a[s.LANES], doubles(a[s.LANE_F_AT])
    pointers, rows = ints(a[s.F_PTR_AT]), a[s.STAGES] + 1
    for q in range(1 + a[s.TWO_ERRORS]):
        z = pointers[rows + q]
        count = pointers[rows + q + 1] - z
        cols, vals = a[s.F_COL_AT] + 8 * z, a[s.F_VAL_AT] + a[s.ITEM] * z
        weigh(a[s.ERR_AT], a[s.HX_AT], a[s.K_AT], a[s.SN], cols, vals, count, a[s.N])
        for lane in range(lanes):
            norm = scaled_norm(a, a[s.ERR_AT], x, x_new, lane)
            if q == 1:
                # DOP853 (Hairer, Norsett & Wanner I, II.10): the fifth-order error damped by the third-order one.
                fifth = f[s.F_NORM * lanes + lane]
                both = math.sqrt(fifth * fifth + 0.01 * norm * norm)
                norm = fifth * fifth / both if both > 0.0 else both
            f[s.F_NORM * lanes + lane] = norm
    for lane in range(lanes):
        if not is_finite(a, x_new, lane):
            f[s.F_NORM * lanes + lane] = math.nan


@sweep
def control_step(a: Ints, lane: Int, h: Float, norm: Float, accepted: Bool) -> None:
    """The controller: next proposal of a lane after a trial of size h with the given error."""
    lanes, f, i = a[s.LANES], doubles(a[s.LANE_F_AT]), ints(a[s.LANE_I_AT])
    c = doubles(a[s.CONTROL_AT])
    at = s.F_H * lanes + lane
    if not accepted:
        factor = c[s.SAFETY] * norm ** (-1.0 / a[s.ORDER]) if math.isfinite(norm) else 0.0
        f[at] = h * max(c[s.SHRINK], factor)
        return
    if i[s.I_TRUNCATED * lanes + lane] and norm <= 0.1 and h * c[s.GROW] <= f[at]:
        return
    alpha = 1.0 / a[s.ORDER] - 0.75 * c[s.BETA]
    factor, size = c[s.GROW], FIRST_ERROR
    if norm > 0.0:
        size = math.log(norm)
        factor = c[s.SAFETY] * math.exp(c[s.BETA] * f[s.F_ERR * lanes + lane] - alpha * size)
        factor = min(c[s.GROW], max(c[s.SHRINK], factor))
    if i[s.I_AGAIN * lanes + lane]:
        factor = min(1.0, factor)
    if i[s.I_TRUNCATED * lanes + lane]:
        f[at] = h * factor if factor < 1.0 else max(f[at], h * factor)
        return
    f[at] = h * factor
    f[s.F_ERR * lanes + lane] = max(size, FIRST_ERROR)


@sweep
def decide(a: Ints, row: Int) -> tuple[Int, Int, Bool]:
    """Accept or reject each lane's trial; (accepted lanes, rejected lanes, whether an inner save time is due)."""
    lanes, f, i = a[s.LANES], doubles(a[s.LANE_F_AT]), ints(a[s.LANE_I_AT])
    h, end, saves = doubles(a[s.ROW_H_AT]), doubles(a[s.ROW_E_AT]), ints(a[s.ROW_SAVED_AT])
    accepted, rejected, inner = 0, 0, False
    for lane in range(lanes):
        at, norm, saved = row * lanes + lane, f[s.F_NORM * lanes + lane], i[s.I_SAVED * lanes + lane]
        saves[at] = saved
        i[s.I_OK * lanes + lane] = 0
        if i[s.I_ACTIVE * lanes + lane] == 0:
            continue
        good = norm <= 1.0
        control_step(a, lane, h[at], norm, good)
        i[s.I_AGAIN * lanes + lane] = 0 if good else 1
        if not good:
            i[s.I_BAD * lanes + lane] = 0 if math.isfinite(norm) else max(i[s.I_BROKEN * lanes + lane], 1)
            i[s.I_REJECTED * lanes + lane] += 1
            i[s.I_FRESH * lanes + lane] = 1 if a[s.BLOCK] > 0 else 0
            rejected += 1
            continue
        accepted += 1
        i[s.I_BAD * lanes + lane] = 0
        i[s.I_OK * lanes + lane] = 1
        i[s.I_STEPS * lanes + lane] += 1
        saves[at] = last_due(a, lane, saved, end[at])
        ts = doubles(save_row(a, lane))
        inner = inner or (saves[at] > saved and ts[saved] < end[at] - slack(end[at]))
    return accepted, rejected, inner


@sweep
def advance(a: Ints, row: Int, x: Int, x_new: Int, x_next: Int, rejected: Int) -> None:
    """Move accepted lanes to the end of their trial: saves, state, time, piece; reject the others' step."""
    lanes, n, f, i = a[s.LANES], a[s.N], doubles(a[s.LANE_F_AT]), ints(a[s.LANE_I_AT])
    start, h, end = doubles(a[s.ROW_T_AT]), doubles(a[s.ROW_H_AT]), doubles(a[s.ROW_E_AT])
    saves, last = ints(a[s.ROW_SAVED_AT]), a[s.NB] - 1
    old, new, out = reals(x), reals(x_new), reals(x_next)
    whole, reuse = a[s.FSAL] and rejected == 0, a[s.K_AT] + (a[s.TRIAL] - 1) * a[s.SN]
    for lane in range(lanes):
        at = row * lanes + lane
        if i[s.I_OK * lanes + lane] == 0:
            h[at] = 0.0
            end[at] = start[at]
            for e in range(lane, n, lanes):
                out[e] = old[e]
            continue
        save_lane(a, lane, i[s.I_SAVED * lanes + lane], saves[at], start[at], h[at], end[at], x, x_new)
        for e in range(lane, n, lanes):
            out[e] = new[e]
        i[s.I_SAVED * lanes + lane] = saves[at]
        f[s.F_T * lanes + lane] = end[at]
        active = saves[at] < save_count(a, lane)
        i[s.I_ACTIVE * lanes + lane] = 1 if active else 0
        breaks, stops, crossed = doubles(break_row(a, lane)), ints(stop_row(a, lane)), False
        q = i[s.I_PIECE * lanes + lane]
        while q < last and breaks[q + 1] <= end[at]:
            q += 1
            crossed = crossed or stops[q] != 0
        i[s.I_LIMIT * lanes + lane] += s.STEPS_PER_KNOT * (q - i[s.I_PIECE * lanes + lane])
        i[s.I_PIECE * lanes + lane] = q
        i[s.I_CROSSED * lanes + lane] = 1 if active and crossed and a[s.JUMPS] else 0
        fresh = not a[s.FSAL] or (crossed and a[s.JUMPS])
        i[s.I_FRESH * lanes + lane] = 1 if active and fresh else 0
        if a[s.FSAL] and not whole:
            k0, k1 = reals(a[s.K_AT]), reals(reuse)
            for e in range(lane, n, lanes):
                k0[e] = k1[e]
    if whole:
        copy(a[s.K_AT], reuse, n)


@sweep
def first_stage(a: Ints, row: Int, records: Int, x: Int, kernel: Int, taped: Int) -> Int:
    """Stage 0 of a row: evaluated where no lane's last stage can be used again; the record that holds its tape."""
    lanes, n, i = a[s.LANES], a[s.N], ints(a[s.LANE_I_AT])
    fresh = 0
    for lane in range(lanes):
        fresh += i[s.I_FRESH * lanes + lane]
        i[s.I_RHS * lanes + lane] += i[s.I_FRESH * lanes + lane] * i[s.I_ACTIVE * lanes + lane]
    if fresh == 0 and taped != 0:
        return taped
    if fresh == lanes or a[s.BLOCK] > 0:
        run_stages(a, row, records, 0, 1, x, kernel)
        return records
    if fresh == 0 and kernel == a[s.MODEL + s.VALUE]:
        return records
    hold = a[s.K_AT] + a[s.STAGES] * a[s.SN]
    copy(hold, a[s.K_AT], n)
    run_stages(a, row, records, 0, 1, x, kernel)
    k, kept = reals(a[s.K_AT]), reals(hold)
    for lane in range(lanes):
        if i[s.I_FRESH * lanes + lane] == 0:
            for e in range(lane, n, lanes):
                k[e] = kept[e]
    return records


@sweep
def forward_adaptive(a: Ints, keep: Bool, log: Bool) -> Int:
    """Integrate the block. `log` records the rows' headers, `keep` also their states and the last rows' tapes."""
    lanes, sn, i = a[s.LANES], a[s.SN], ints(a[s.LANE_I_AT])
    ring, row_bytes = a[s.TAPE_ROWS], a[s.ROW_BYTES]
    flags, firsts = ints(a[s.ROW_FLAG_AT]), ints(a[s.ROW_FIRST_AT])
    x, dt0 = a[s.STATES_AT], doubles(a[s.CONTROL_AT])[s.DT0]
    kernel = a[s.MODEL + s.VALUE_TAPE] if keep and ring > 0 else a[s.MODEL + s.VALUE]
    start_lanes(a, dt0)
    save_first(a, x)
    if dt0 <= 0.0:
        first_steps(a, x)
    row, step, taped = 0, 0, 0
    while True:
        if poll(a[s.CANCEL_AT]) != 0:
            interrupt_lanes(a)
            return s.STOPPED
        if row + 1 >= a[s.ROW_CAP]:
            return s.NEED_ROWS
        if propose(a, row) == 0:
            break
        spread_steps(a, row)
        if a[s.PROJECT] and crossed_lanes(a) > 0:
            project(a, row, x)
            stop_inconsistent(a, row)
        records = a[s.TAPES_AT] + (step % ring) * row_bytes if keep and ring > 0 else a[s.SCRATCH_AT]
        first = first_stage(a, row, records, x, kernel, taped)
        run_stages(a, row, records, 1, a[s.TRIAL], x, kernel)
        x_new = records + (a[s.TRIAL] - 1) * a[s.RECORD] if a[s.FSAL] else a[s.X_NEW_AT]
        if a[s.FSAL] == 0:
            step_end(a, x, x_new)
        measure(a, x, x_new)
        accepted, rejected, inner = decide(a, row)
        if a[s.STIFFNESS]:
            notice_stiffness(a, row, records, x_new)
        if inner:
            run_stages(a, row, records, a[s.TRIAL], a[s.STAGES], x, kernel)
        for lane in range(lanes):
            i[s.I_RHS * lanes + lane] += (a[s.TRIAL] - 1) * i[s.I_ACTIVE * lanes + lane]
        x_next = a[s.STATES_AT] + (row + 1 if keep else (step + 1) & 1) * sn
        advance(a, row, x, x_new, x_next, rejected)
        taped = 0
        if accepted == 0:
            continue
        whole = keep and ring > 0 and rejected == 0
        flags[row] = (s.HAS_TAPE if whole else 0) + (s.HAS_DENSE if inner else 0)
        firsts[row] = first
        if whole and a[s.FSAL]:
            taped = records + (a[s.TRIAL] - 1) * a[s.RECORD]
        x = x_next
        step += 1
        row += 1 if log else 0
    a[s.ROWS] = row
    return s.DONE
