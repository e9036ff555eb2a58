"""DAEs at jumps of the control: algebraic variables that fit the new control, and the adjoint of finding them.

Where the control jumps, the algebraic equations N^T F = 0 (see `consistent`) jump with it, and a step that starts from
the old algebraic variables loses its order. Before it, Newton's method changes the state along the null space of M,
with B = M + Q J R, Q = N N^T, R = V V^T: the solution of B d = -Q F is the Newton step. A row of the sweep in which a
lane starts on another piece than in the row before is such a row; the row's start state is overwritten. The adjoint is
that of the implicit function: B^T w = R lambda, lambda := lambda - F_y^T w, and -F_u^T w, -F_p^T w for u and p.
"""

from __future__ import annotations

import math

from . import slots as s
from .inputs import control_bars, stage_times, stop_row
from .language import (
    Int,
    Ints,
    add,
    call_kernel,
    doubles,
    factor,
    fill,
    ints,
    reals,
    solve,
    solve_transposed,
    sparse_add,
    sweep,
)
from .linear import evaluate_jacobian, use_record
from .stages import evaluate_stage, spread_steps

#: Most Newton steps.
LIMIT = 20
#: Entries of I_CROSSED: the lane starts on a new piece, its algebraic variables fit.
(CROSSED, FITS) = (1, 2)


@sweep
def crossed_lanes(a: Ints) -> Int:
    """Number of lanes that start on a new piece, as `advance` has marked them."""
    crossed, count = ints(a[s.LANE_I_AT] + 8 * s.I_CROSSED * a[s.LANES]), 0
    for lane in range(a[s.LANES]):
        count += crossed[lane]
    return count


@sweep
def mark_crossed(a: Ints, row: Int) -> Int:
    """Mark the lanes that start a recorded row on another piece than the row before, across a jump; their number."""
    lanes, heads, pieces = a[s.LANES], a[s.LH], ints(a[s.ROW_PIECE_AT])
    crossed, count = ints(a[s.LANE_I_AT] + 8 * s.I_CROSSED * lanes), 0
    for lane in range(lanes):
        crossed[lane] = 0
        if row > 0 and a[s.JUMPS]:
            head = lane if heads > 1 else 0
            stops = ints(stop_row(a, lane))
            for q in range(pieces[(row - 1) * heads + head], pieces[row * heads + head]):
                if stops[q + 1]:
                    crossed[lane] = CROSSED
        count += crossed[lane]
    return count


@sweep
def factor_projection(a: Ints, x: Int, records: Int) -> None:
    """Factors of B at the start of a row, whose stage 0 has just been evaluated."""
    lanes, n, step = a[s.LANES], a[s.BLOCK], a[s.STEP_AT]
    evaluate_jacobian(a, records, x, a[s.JACOBIAN + s.VALUE])
    w = step + a[s.OFF_LU]
    fill(w, 0.0, n * n * lanes)
    sparse_add(w, a[s.ONES_AT], a[s.M_LANES_AT], a[s.ONES_AT], a[s.W_M_AT], a[s.N_M], lanes)
    sparse_add(w, a[s.ONES_AT], step + a[s.OFF_J], a[s.M_LANES_AT], a[s.P_J_AT], a[s.N_P_J], lanes)
    factor(w, step + a[s.OFF_PIVOTS], a[s.LEAST_AT], n, lanes)


@sweep
def minus_one(a: Ints) -> Int:
    """Address of the constant -1 per lane."""
    return a[s.M_LANES_AT] + (a[s.N_CONSTANTS] - 1) * a[s.LANES] * a[s.ITEM]


@sweep
def project(a: Ints, row: Int, x: Int) -> None:
    """Change the start state of a row so that the marked lanes fulfil the algebraic equations.

    A lane that succeeds is marked FITS. A block of derivatives follows one step behind the block that it depends on.
    """
    records = a[s.SCRATCH_AT]
    start_newton(a, records)
    for _ in range(LIMIT):
        evaluate_stage(a, row, records, 0, x, a[s.MODEL + s.VALUE])
        if newton_step(a, x, records) == 0:
            break


@sweep
def start_newton(a: Ints, records: Int) -> None:
    """Before the first Newton step, which uses a record."""
    last = doubles(a[s.LANE_F_AT] + 8 * s.F_NORM * a[s.LANES])
    use_record(a, records)
    for lane in range(a[s.LANES]):
        last[lane] = math.inf


@sweep
def newton_step(a: Ints, x: Int, records: Int) -> Int:
    """One Newton step in the marked lanes, from a state at which stage 0 has just been evaluated; those left."""
    lanes, size, step = a[s.LANES], a[s.BLOCK], a[s.MV_AT]
    factor_projection(a, x, records)
    fill(step, 0.0, a[s.N])
    sparse_add(step, minus_one(a), a[s.M_LANES_AT], a[s.K_AT], a[s.Q_AT], a[s.N_Q], lanes)
    for r in range(a[s.N_BLOCKS]):
        w, pivots = a[s.STEP_AT] + a[s.OFF_LU], a[s.STEP_AT] + a[s.OFF_PIVOTS]
        solve(w, pivots, step, a[s.BLOCKS_AT] + 8 * r * size, size, lanes)
    return move_lanes(a, x, step)


@sweep
def move_lanes(a: Ints, x_at: Int, step_at: Int) -> Int:
    """Add the Newton step in the marked lanes; the number of those that have not converged."""
    lanes, x, step, left = a[s.LANES], reals(x_at), reals(step_at), 0
    crossed, last = ints(a[s.LANE_I_AT] + 8 * s.I_CROSSED * lanes), doubles(a[s.LANE_F_AT] + 8 * s.F_NORM * lanes)
    relative = 1e-11 if a[s.ITEM] == 8 else 1e-5
    noise = 1e-6 if a[s.ITEM] == 8 else 3e-4
    for lane in range(lanes):
        if crossed[lane] != CROSSED:
            continue
        size, scale, small = 0.0, 0.0, True
        for e in range(lane, a[s.N], lanes):
            size = max(size, abs(step[e]))
            scale = max(scale, abs(x[e]))
            small = small and abs(step[e]) <= relative * abs(x[e])
            x[e] += step[e]
        stalled = size >= 0.5 * last[lane] and size <= noise * (scale + 1e-6)
        last[lane] = size
        if small or stalled:
            crossed[lane] = FITS
        elif math.isfinite(size):
            left += 1
    return left


@sweep
def stop_inconsistent(a: Ints, row: Int) -> None:
    """End the trajectories of marked lanes that found no algebraic variables, in an adaptive sweep."""
    lanes, i = a[s.LANES], ints(a[s.LANE_I_AT])
    again = False
    for lane in range(lanes):
        if i[s.I_CROSSED * lanes + lane] == CROSSED:
            i[s.I_STATUS * lanes + lane] = 6
            i[s.I_ACTIVE * lanes + lane] = 0
            doubles(a[s.ROW_H_AT])[row * lanes + lane] = 0.0
            doubles(a[s.ROW_E_AT])[row * lanes + lane] = doubles(a[s.ROW_T_AT])[row * lanes + lane]
            again = True
        i[s.I_CROSSED * lanes + lane] = 0
    if again:
        spread_steps(a, row)


@sweep
def spoil_inconsistent(a: Ints, x_at: Int) -> None:
    """Let marked lanes that found no algebraic variables end, in a sweep with fixed steps."""
    lanes, x = a[s.LANES], reals(x_at)
    crossed, broken = ints(a[s.LANE_I_AT] + 8 * s.I_CROSSED * lanes), ints(a[s.LANE_I_AT] + 8 * s.I_BROKEN * lanes)
    for lane in range(lanes):
        if crossed[lane] == CROSSED:
            broken[lane] = 6
            for e in range(lane, a[s.N], lanes):
                x[e] = math.nan


@sweep
def project_adjoint(a: Ints, row: Int, x: Int) -> None:
    """Replace lambda after the projection at the start of a row by lambda before it, in the marked lanes."""
    records = a[s.SCRATCH_AT]
    use_record(a, records)
    evaluate_stage(a, row, records, 0, x, a[s.MODEL + s.VALUE_TAPE])
    pull_back(a, x, records, a[s.BARS_AT] + a[s.STAGES] * a[s.SN])
    if a[s.WANT_U]:
        same = stage_times(a, row, 0, a[s.T_BAR_AT])
        control_bars(a, same, a[s.U_BAR_AT])


@sweep
def pull_back(a: Ints, x: Int, records: Int, lam: Int) -> None:
    """The adjoint at a state that fits, at which stage 0 has just been evaluated with its tape.

    Changes the adjoint `lam` of the state in the marked lanes, adds to that of p, and leaves that of u in U_BAR.
    """
    lanes, size, n = a[s.LANES], a[s.BLOCK], a[s.N]
    factor_projection(a, x, records)
    factors, pivots = a[s.STEP_AT] + a[s.OFF_LU], a[s.STEP_AT] + a[s.OFF_PIVOTS]
    w, constants = a[s.MU_AT], a[s.M_LANES_AT]
    fill(w, 0.0, n)
    sparse_add(w, a[s.ONES_AT], constants, lam, a[s.R_AT], a[s.N_R], lanes)
    for r in range(1, a[s.N_BLOCKS]):
        solve_transposed(factors, pivots, w, a[s.BLOCKS_AT] + 8 * r * size, size, lanes)
    if a[s.N_BLOCKS] > 1:
        fill(a[s.MV_AT], 0.0, n)
        jacobian = a[s.STEP_AT] + a[s.OFF_J]
        sparse_add(a[s.MV_AT], minus_one(a), jacobian, w, a[s.COUPLE_T_AT], a[s.N_COUPLE], lanes)
        sparse_add(w, a[s.ONES_AT], constants, a[s.MV_AT], a[s.R_AT], a[s.N_R] // a[s.N_BLOCKS], lanes)
    solve_transposed(factors, pivots, w, a[s.BLOCKS_AT], size, lanes)
    crossed, seed = ints(a[s.LANE_I_AT] + 8 * s.I_CROSSED * lanes), reals(w)
    for lane in range(lanes):
        for e in range(lane, n, lanes):
            seed[e] = -seed[e] if crossed[lane] else 0.0
    inputs, outputs = ints(a[s.BACK_IN_AT]), ints(a[s.BACK_OUT_AT])
    inputs[0], inputs[1], inputs[2] = records + a[s.OFF_T], x, records + a[s.OFF_U]
    inputs[4], inputs[5] = records + a[s.OFF_TAPE], w
    outputs[1] = a[s.BARS_AT]
    call_kernel(a[s.MODEL + s.ADJOINT], a[s.BACK_IN_AT], a[s.BACK_OUT_AT])
    add(lam, a[s.BARS_AT], n)
