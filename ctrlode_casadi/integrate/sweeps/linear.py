"""The linear algebra of a Rosenbrock step for a block of lanes, forward and adjoint.

With W = M / gamma - h J, J and T at the start of the step (see `rosenbrock_tableaus`), stage i is

    W k_i = r_i,   r_i = F_i + M sum_j C_ij k_j + gamma_i h T.

The adjoint with fixed h, for i descending:

    kbar_i = h (b_i lambda + sum_{l>i} a_li Xbar_l) + sum_{l>i} C_li M^T mu_l,   mu_i = W^-T kbar_i,
    Xbar_i = (dF/dx)^T mu_i,   Jbar = h sum_i mu_i k_i^T,   Tbar = h sum_i gamma_i mu_i,

after which the adjoint of the Jacobian kernel (t, x, u, p, u') -> (J, T) gives its share of x, u, u' and p.

Systems of derivatives, such as (x, dx), are made of blocks with one and the same diagonal block J, coupled to the first
block only: F is (f(x), J(x) dx + ...). The kernel gives the first block column, and one factorisation of the size of
a block serves all.
"""

from __future__ import annotations

from . import slots as s
from .inputs import control_bars, slope_bars, slopes, stage_times
from .language import (
    Int,
    Ints,
    add,
    call_kernel,
    combine,
    factor,
    fill,
    ints,
    reals,
    solve,
    solve_transposed,
    sparse_add,
    sweep,
    weigh,
)


@sweep
def connect_linear(a: Ints) -> None:
    """What stays the same during a call: constants per lane and the pointer arrays of the Jacobian kernel."""
    lanes, values = a[s.LANES], reals(a[s.M_VAL_AT])
    fill(a[s.ONES_AT], 1.0, a[s.N])
    fill(a[s.INVERSE_AT], 1.0 / reals(a[s.DIAGONAL_AT])[0], lanes)
    mass = reals(a[s.M_LANES_AT])
    for z in range(a[s.N_CONSTANTS]):
        for lane in range(lanes):
            mass[z * lanes + lane] = values[z]
    ins, back, out = ints(a[s.J_IN_AT]), ints(a[s.J_BACK_IN_AT]), ints(a[s.J_BACK_OUT_AT])
    ins[3], ins[4] = a[s.JACOBIAN + s.UNI_AT], a[s.DU_AT]
    back[3], back[4], back[6], back[7] = ins[3], ins[4], a[s.J_BAR_AT], a[s.TIME_BAR_AT]
    out[0], out[1], out[2], out[3] = a[s.T_BAR_AT], a[s.MV_AT], a[s.U_BAR_AT], a[s.DU_BAR_AT]
    out[4] = a[s.JACOBIAN + s.ACC_AT]


@sweep
def use_record(a: Ints, records: Int) -> None:
    """Let the stages' k and the step's factors lie in the record of a row."""
    a[s.STEP_AT] = records + a[s.OFF_STEP]
    a[s.K_AT] = a[s.STEP_AT]


@sweep
def evaluate_jacobian(a: Ints, records: Int, x: Int, kernel: Int) -> None:
    """J and T at the start of a step, whose stage 0 has just been evaluated; `kernel` is with or without tape."""
    step = a[s.STEP_AT]
    ins, outs = ints(a[s.J_IN_AT]), ints(a[s.J_OUT_AT])
    slopes(a, a[s.DU_AT])
    ins[0], ins[1], ins[2] = records + a[s.OFF_T], x, records + a[s.OFF_U]
    outs[0], outs[1], outs[2] = step + a[s.OFF_J], a[s.TIME_AT], step + a[s.OFF_J_TAPE]
    call_kernel(kernel, a[s.J_IN_AT], a[s.J_OUT_AT])


@sweep
def begin_step(a: Ints, records: Int, x: Int, kernel: Int) -> None:
    """Jacobian and factors of W. Lanes that stay where they are get W = I, so that a singular M does no harm."""
    lanes, n, step = a[s.LANES], a[s.BLOCK], a[s.STEP_AT]
    evaluate_jacobian(a, records, x, kernel)
    w, h, minus = step + a[s.OFF_LU], reals(a[s.HX_AT]), reals(a[s.MINUS_H_AT])
    fill(w, 0.0, n * n * lanes)
    sparse_add(w, a[s.INVERSE_AT], a[s.M_LANES_AT], a[s.ONES_AT], a[s.W_M_AT], a[s.N_M], lanes)
    for lane in range(lanes):
        minus[lane] = -h[lane]
    sparse_add(w, a[s.MINUS_H_AT], step + a[s.OFF_J], a[s.ONES_AT], a[s.W_J_AT], a[s.N_W_J], lanes)
    entries = reals(w)
    for lane in range(lanes):
        if h[lane] == 0.0:
            for e in range(n * n):
                entries[e * lanes + lane] = 0.0
            for k in range(n):
                entries[(k * n + k) * lanes + lane] = 1.0
    factor(w, step + a[s.OFF_PIVOTS], a[s.LEAST_AT], n, lanes)
    note_singular(a)


@sweep
def note_singular(a: Ints) -> None:
    """Mark lanes whose W is singular (status 5): their stages are not finite, which rejects an adaptive step."""
    lanes, bad = a[s.LANES], ints(a[s.LANE_I_AT] + 8 * s.I_BROKEN * a[s.LANES])
    least = reals(a[s.LEAST_AT])
    for lane in range(lanes):
        if least[lane] == 0.0:
            bad[lane] = 5
        elif a[s.ADAPTIVE]:
            bad[lane] = 0


@sweep
def solve_stage(a: Ints, i: Int) -> None:
    """k_i from F_i, in place."""
    k, n, lanes, z = a[s.K_AT] + i * a[s.SN], a[s.N], a[s.LANES], ints(a[s.C_PTR_AT])[i]
    count = ints(a[s.C_PTR_AT])[i + 1] - z
    cols, vals = a[s.C_COL_AT] + 8 * z, a[s.C_VAL_AT] + a[s.ITEM] * z
    if count > 0 and a[s.MASS]:
        weigh(a[s.MV_AT], a[s.ONES_AT], a[s.K_AT], a[s.SN], cols, vals, count, n)
        sparse_add(k, a[s.ONES_AT], a[s.M_LANES_AT], a[s.MV_AT], a[s.M_AT], a[s.N_MM], lanes)
    elif count > 0:
        combine(k, k, a[s.ONES_AT], a[s.K_AT], a[s.SN], cols, vals, count, n)
    if reals(a[s.GAMMA_VAL_AT])[i] != 0.0:
        combine(k, k, a[s.HX_AT], a[s.TIME_AT], 0, a[s.GAMMA_COL_AT], a[s.GAMMA_VAL_AT] + a[s.ITEM] * i, 1, n)
    w, pivots, size = a[s.STEP_AT] + a[s.OFF_LU], a[s.STEP_AT] + a[s.OFF_PIVOTS], a[s.BLOCK]
    solve(w, pivots, k, a[s.BLOCKS_AT], size, lanes)
    if a[s.N_BLOCKS] > 1:
        jacobian = a[s.STEP_AT] + a[s.OFF_J]
        sparse_add(k, a[s.HX_AT], jacobian, k, a[s.COUPLE_AT], a[s.N_COUPLE], lanes)
        for r in range(1, a[s.N_BLOCKS]):
            solve(w, pivots, k, a[s.BLOCKS_AT] + 8 * r * size, size, lanes)


@sweep
def solve_adjoint(a: Ints, i: Int) -> Int:
    """mu_i from kbar_i, and its share of Jbar; the address of mu_i."""
    mu, n, lanes = a[s.MU_AT] + i * a[s.SN], a[s.N], a[s.LANES]
    w, pivots, size = a[s.STEP_AT] + a[s.OFF_LU], a[s.STEP_AT] + a[s.OFF_PIVOTS], a[s.BLOCK]
    z = ints(a[s.D_PTR_AT])[i]
    count = ints(a[s.D_PTR_AT])[i + 1] - z
    later = a[s.MTMU_AT] if a[s.MASS] else a[s.MU_AT]
    cols, vals = a[s.D_COL_AT] + 8 * z, a[s.D_VAL_AT] + a[s.ITEM] * z
    combine(mu, a[s.K_BAR_AT], a[s.ONES_AT], later, a[s.SN], cols, vals, count, n)
    if a[s.N_BLOCKS] > 1:
        for r in range(1, a[s.N_BLOCKS]):
            solve_transposed(w, pivots, mu, a[s.BLOCKS_AT] + 8 * r * size, size, lanes)
        jacobian = a[s.STEP_AT] + a[s.OFF_J]
        sparse_add(mu, a[s.HX_AT], jacobian, mu, a[s.COUPLE_T_AT], a[s.N_COUPLE], lanes)
    solve_transposed(w, pivots, mu, a[s.BLOCKS_AT], size, lanes)
    sparse_add(a[s.J_BAR_AT], a[s.HX_AT], mu, a[s.K_AT] + i * a[s.SN], a[s.OUTER_AT], a[s.N_OUTER], lanes)
    if a[s.MASS]:
        mtmu = a[s.MTMU_AT] + i * a[s.SN]
        fill(mtmu, 0.0, n)
        sparse_add(mtmu, a[s.ONES_AT], a[s.M_LANES_AT], mu, a[s.MT_AT], a[s.N_MM], lanes)
    return mu


@sweep
def begin_adjoint(a: Ints, records: Int) -> None:
    """Start the adjoint of a step whose records lie at `records`."""
    use_record(a, records)
    fill(a[s.J_BAR_AT], 0.0, a[s.N_J] * a[s.LANES])


@sweep
def end_adjoint(a: Ints, row: Int) -> None:
    """Add the share of J and T to lambda, the parameters and the controls."""
    stages, n, record = a[s.STAGES], a[s.N], a[s.STEP_AT] - a[s.OFF_STEP]
    weigh(a[s.TIME_BAR_AT], a[s.HX_AT], a[s.MU_AT], a[s.SN], a[s.GAMMA_COL_AT], a[s.GAMMA_VAL_AT], stages, n)
    back = ints(a[s.J_BACK_IN_AT])
    back[0], back[1], back[2] = record + a[s.OFF_T], a[s.TIME_AT], record + a[s.OFF_U]
    back[5] = a[s.STEP_AT] + a[s.OFF_J_TAPE]
    call_kernel(a[s.JACOBIAN + s.ADJOINT], a[s.J_BACK_IN_AT], a[s.J_BACK_OUT_AT])
    add(a[s.BARS_AT] + stages * a[s.SN], a[s.MV_AT], n)
    if a[s.WANT_U]:
        same = stage_times(a, row, 0, a[s.T_BAR_AT])
        slope_bars(a, same, a[s.DU_BAR_AT])
        control_bars(a, same, a[s.U_BAR_AT])
