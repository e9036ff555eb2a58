"""The reverse sweep: replays the recorded rows backwards and propagates the adjoint of the state.

A row without a tape is recomputed from its start state into the scratch records first. With checkpoints, only that many
start states exist at a time and the missing ones are recomputed by binomial checkpointing (Griewank & Walther,
ACM TOMS 26, 2000): with s states and r repetitions, rows up to binomial(s + r, s) can be reversed.
"""

from __future__ import annotations

from . import slots as s
from .language import Bool, Float, Int, Ints, add, copy, fill, ints, poll, sweep
from .projection import mark_crossed, project, project_adjoint
from .saves import seed_row
from .stages import adjoint_stages, run_stages, spread_steps, step_end


@sweep
def reverse_row(a: Ints, row: Int, x: Int, records: Int, first_record: Int, taped: Bool) -> None:
    """Lambda at the start of a row from lambda at its end."""
    dense = 1 if a[s.LH] == a[s.LANES] and a[s.ADAPTIVE] and ints(a[s.ROW_FLAG_AT])[row] & s.HAS_DENSE else 0
    spread_steps(a, row)
    crossed = a[s.PROJECT] and mark_crossed(a, row) > 0
    if crossed and a[s.CHECKPOINTS] > 0:
        project(a, row, x)
    if not taped:
        last = a[s.STAGES] if dense else a[s.MAIN]
        run_stages(a, row, records, 0, last, x, a[s.MODEL + s.VALUE_TAPE])
    seed_row(a, row, dense)
    adjoint_stages(a, row, records, first_record, x, dense)
    if dense:
        lam, sn = a[s.BARS_AT] + a[s.STAGES] * a[s.SN], a[s.SN]
        add(lam, a[s.DENSE_AT] + a[s.STAGES] * sn, a[s.N])
    if crossed and mark_crossed(a, row) > 0:
        project_adjoint(a, row, x)


@sweep
def reverse_kept(a: Ints) -> Int:
    """Reverse sweep over rows whose states are all kept; DONE or STOPPED."""
    rows, ring, row_bytes = a[s.ROWS], a[s.TAPE_ROWS], a[s.ROW_BYTES]
    flags, firsts = ints(a[s.ROW_FLAG_AT]), ints(a[s.ROW_FIRST_AT])
    for row in range(rows - 1, -1, -1):
        if poll(a[s.CANCEL_AT]) != 0:
            return s.STOPPED
        x = a[s.STATES_AT] + row * a[s.SN]
        if a[s.ADAPTIVE]:
            # The first stage's tape may lie in the row before, hence the stricter bound.
            taped = flags[row] & s.HAS_TAPE and row > rows - ring
        else:
            taped = row >= rows - ring
        records, first = a[s.SCRATCH_AT], a[s.SCRATCH_AT]
        if taped:
            records = a[s.TAPES_AT] + (row % ring) * row_bytes
            first = firsts[row] if a[s.ADAPTIVE] else records
        reverse_row(a, row, x, records, first, taped)
    return s.DONE


@sweep
def replay(a: Ints, row: Int, x: Int, x_new: Int) -> None:
    """The state at the end of a recorded row."""
    spread_steps(a, row)
    if a[s.PROJECT] and mark_crossed(a, row) > 0:
        project(a, row, x)
    run_stages(a, row, a[s.SCRATCH_AT], 0, a[s.MAIN], x, a[s.MODEL + s.VALUE])
    step_end(a, x, x_new)


@sweep
def choose(n: Int, r: Int) -> Float:
    """Binomial coefficient as a float, so that it cannot overflow."""
    value = 1.0
    for j in range(1, min(r, n - r) + 1):
        value = value * (n - min(r, n - r) + j) / j
    return value


@sweep
def split(rows: Int, free: Int) -> Int:
    """Rows to advance from a stored state before the next one is stored, with `free` states left, its own included."""
    repeats = 1
    while choose(free + repeats, free) < rows:
        repeats += 1
    left = choose(free + repeats - 1, free)
    right = choose(free - 1 + repeats, free - 1)
    least = max(rows - right, choose(free + repeats - 2, free) if repeats > 1 else 1.0)
    return int(max(1.0, min(min(left, least), rows - 1.0)))


@sweep
def reverse_checkpointed(a: Ints) -> Int:
    """Reverse sweep with at most CHECKPOINTS stored states; the first holds the initial state on entry."""
    limit, sn, n = a[s.CHECKPOINTS], a[s.SN], a[s.N]
    at, used, end = ints(a[s.STACK_AT]), 1, a[s.ROWS]
    store = a[s.STATES_AT] + 2 * sn
    at[0] = 0
    while end > 0:
        start, free = at[used - 1], limit - used + 1
        x = store + (used - 1) * sn
        if start == end:
            used -= 1
            continue
        goal = end - 1
        if free > 1 and end - start > 1:
            goal = start + split(end - start, free)
        for row in range(start, goal):
            if poll(a[s.CANCEL_AT]) != 0:
                return s.STOPPED
            x_new = a[s.STATES_AT] + (row & 1) * sn
            replay(a, row, x, x_new)
            a[s.REPLAYED] += 1
            x = x_new
        if free > 1 and goal > start:
            copy(store + used * sn, x, n)
            at[used] = goal
            used += 1
            continue
        reverse_row(a, goal, x, a[s.SCRATCH_AT], a[s.SCRATCH_AT], False)
        end = goal
    return s.DONE


@sweep
def reverse(a: Ints) -> Int:
    """Full reverse sweep; lambda at the initial time is left in the last row of the bars."""
    lam = a[s.BARS_AT] + a[s.STAGES] * a[s.SN]
    fill(lam, 0.0, a[s.N])
    if a[s.CHECKPOINTS] > 0:
        code = reverse_checkpointed(a)
    else:
        code = reverse_kept(a)
    add(lam, a[s.SEEDS_AT], a[s.N])
    return code
