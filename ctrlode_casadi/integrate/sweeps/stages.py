"""The stages of one Runge-Kutta step for a block of lanes, forward and adjoint.

With X_i = x + h sum_j a_ij k_j, k_i = f(t + c_i h, X_i, u_i) and x' = x + h sum_i b_i k_i, the discrete adjoint with
fixed h is, for i descending (Hairer, Norsett & Wanner I, II.6; Sanz-Serna, SIAM Review 58, 2016, section 3):

    kbar_i = h (b_i lambda + sum_{j>i} a_ji Xbar_j),   Xbar_i = (df/dx)^T kbar_i,   lambda := lambda + sum_i Xbar_i

A stage record holds X_i [nx][L], u_i [nu][L], t_i [L] and the kernel's tape, in this order.
"""

from __future__ import annotations

from . import slots as s
from .inputs import control_bars, evaluate_controls, stage_times
from .language import Bool, Int, Ints, add, call_kernel, combine, doubles, fill, ints, reals, sweep, weigh
from .linear import begin_adjoint, begin_step, end_adjoint, solve_adjoint, solve_stage, use_record


@sweep
def same_steps(a: Ints, row: Int) -> Bool:
    """Whether all lanes take the same step on the same piece, as they do between common breaks."""
    lanes = a[s.LANES]
    if a[s.OWN_BREAKS]:
        return False
    t, h = doubles(a[s.ROW_T_AT] + 8 * row * lanes), doubles(a[s.ROW_H_AT] + 8 * row * lanes)
    end, piece = doubles(a[s.ROW_E_AT] + 8 * row * lanes), ints(a[s.ROW_PIECE_AT] + 8 * row * lanes)
    for lane in range(1, lanes):
        if t[lane] != t[0] or h[lane] != h[0] or end[lane] != end[0] or piece[lane] != piece[0]:
            return False
    return True


@sweep
def spread_steps(a: Ints, row: Int) -> None:
    """Write the step sizes of a row to all components, [nx][L], and note whether all lanes take the same step."""
    lanes, count = a[s.LANES], a[s.LH]
    h = doubles(a[s.ROW_H_AT] + 8 * row * count)
    a[s.ROW_LANES] = 1 if count == 1 or same_steps(a, row) else lanes
    if a[s.ROW_LANES] == 1:
        fill(a[s.HX_AT], h[0], a[s.N])
        return
    hx = reals(a[s.HX_AT])
    for lane in range(lanes):
        step = h[lane]
        for e in range(lane, a[s.N], lanes):
            hx[e] = step


@sweep
def evaluate_stage(a: Ints, row: Int, records: Int, i: Int, x: Int, kernel: Int) -> None:
    """The right-hand side of stage i into row i of k; `kernel` is the address with or without tape."""
    alias, pointers = ints(a[s.ALIAS_AT]), ints(a[s.F_PTR_AT])
    inputs, outputs = ints(a[s.IN_AT]), ints(a[s.OUT_AT])
    record = records + i * a[s.RECORD]
    state = x
    z = pointers[i]
    count = pointers[i + 1] - z
    if count > 0:
        state = record
        cols, vals = a[s.F_COL_AT] + 8 * z, a[s.F_VAL_AT] + a[s.ITEM] * z
        combine(state, x, a[s.HX_AT], a[s.K_AT], a[s.SN], cols, vals, count, a[s.N])
    shared = records + alias[i] * a[s.RECORD]
    if alias[i] == i:
        shared = record
        same = stage_times(a, row, i, record + a[s.OFF_T])
        evaluate_controls(a, same, record + a[s.OFF_U])
    inputs[0] = shared + a[s.OFF_T]
    inputs[1] = state
    inputs[2] = shared + a[s.OFF_U]
    outputs[0] = a[s.K_AT] + i * a[s.SN]
    outputs[1] = record + a[s.OFF_TAPE]
    call_kernel(kernel, a[s.IN_AT], a[s.OUT_AT])


@sweep
def run_stages(a: Ints, row: Int, records: Int, first: Int, last: Int, x: Int, kernel: Int) -> None:
    """Stages first..last-1 of a row into k; `kernel` is the address with or without tape."""
    implicit = a[s.BLOCK] > 0
    if implicit:
        use_record(a, records)
    for i in range(first, last):
        evaluate_stage(a, row, records, i, x, kernel)
        if implicit:
            if i == 0:
                taped = kernel == a[s.MODEL + s.VALUE_TAPE]
                begin_step(a, records, x, a[s.JACOBIAN + s.VALUE_TAPE] if taped else a[s.JACOBIAN + s.VALUE])
            solve_stage(a, i)


@sweep
def step_end(a: Ints, x: Int, x_new: Int) -> None:
    """x_new = x + h sum_i b_i k_i."""
    z = ints(a[s.F_PTR_AT])[a[s.STAGES]]
    count = ints(a[s.F_PTR_AT])[a[s.STAGES] + 1] - z
    cols, vals = a[s.F_COL_AT] + 8 * z, a[s.F_VAL_AT] + a[s.ITEM] * z
    combine(x_new, x, a[s.HX_AT], a[s.K_AT], a[s.SN], cols, vals, count, a[s.N])


@sweep
def adjoint_stages(a: Ints, row: Int, records: Int, first_record: Int, x: Int, dense: Int) -> None:
    """Replace lambda (the last row of the bars) at the end of a step by lambda at its start.

    `first_record` is the record of stage 0, which may be that of the previous row's last stage. With `dense`, all
    stages take part and the seeds of the stages in DENSE_AT are added.
    """
    stages = a[s.STAGES]
    count_stages = stages if dense else a[s.MAIN]
    alias = ints(a[s.ALIAS_AT])
    pointers = ints(a[s.B_PTR_AT] + 8 * stages * dense)
    inputs, outputs = ints(a[s.BACK_IN_AT]), ints(a[s.BACK_OUT_AT])
    item, k_bar, lam = a[s.ITEM], a[s.K_BAR_AT], a[s.BARS_AT] + stages * a[s.SN]
    implicit = a[s.BLOCK] > 0
    if implicit:
        begin_adjoint(a, records)
    for i in range(count_stages - 1, -1, -1):
        z = pointers[i]
        count = pointers[i + 1] - z
        cols, vals = a[s.B_COL_AT] + 8 * z, a[s.B_VAL_AT] + item * z
        if dense:
            seed = a[s.DENSE_AT] + i * a[s.SN]
            combine(k_bar, seed, a[s.HX_AT], a[s.BARS_AT], a[s.SN], cols, vals, count, a[s.N])
        elif count == 0 and not implicit:
            fill(a[s.BARS_AT] + i * a[s.SN], 0.0, a[s.N])
            continue
        else:
            weigh(k_bar, a[s.HX_AT], a[s.BARS_AT], a[s.SN], cols, vals, count, a[s.N])
        record = first_record if i == 0 else records + i * a[s.RECORD]
        shared = record if i == 0 else records + alias[i] * a[s.RECORD]
        inputs[0] = shared + a[s.OFF_T]
        inputs[1] = record if ints(a[s.F_PTR_AT])[i + 1] > ints(a[s.F_PTR_AT])[i] else x
        inputs[2] = shared + a[s.OFF_U]
        inputs[4] = record + a[s.OFF_TAPE]
        inputs[5] = solve_adjoint(a, i) if implicit else k_bar
        outputs[1] = a[s.BARS_AT] + i * a[s.SN]
        call_kernel(a[s.MODEL + s.ADJOINT], a[s.BACK_IN_AT], a[s.BACK_OUT_AT])
        if a[s.WANT_U]:
            same = stage_times(a, row, i, a[s.T_BAR_AT])
            control_bars(a, same, a[s.U_BAR_AT])
    for i in range(count_stages):
        add(lam, a[s.BARS_AT] + i * a[s.SN], a[s.N])
    if implicit:
        end_adjoint(a, row)
