"""Costs at the save times: values per lane, and seeds for the reverse sweep.

Cost kernels have the inputs (t, x, u, p, d, w), with data d and weights w per save time, and one output: the cost,
followed by SLOPES further numbers, its derivatives along the directions that are integrated with the state.
"""

from __future__ import annotations

from . import slots as s
from .inputs import lane_rows, pack
from .language import Bool, Int, Ints, add, call_kernel, doubles, ints, reals, sweep
from .saves import save_count, save_row


@sweep
def pack_rows(a: Ints, src_at: Int, own: Int, width: Int, k: Int, out_at: Int) -> None:
    """Transpose row k of (B, T, width) data to lanes."""
    base = lane_rows(a, own, a[s.NT] * width)
    pack(a[s.LANES], base, src_at, k * width, 1, width, out_at)


@sweep
def save_inputs(a: Ints, k: Int) -> None:
    """Times, controls, data and weights at save time k into the cost kernels' inputs."""
    t = reals(a[s.C_T_AT])
    for lane in range(a[s.LANES]):
        t[lane] = doubles(save_row(a, lane))[min(k, save_count(a, lane) - 1)]
    pack_rows(a, a[s.U_SAVES_AT], a[s.OWN_U], a[s.NU], k, a[s.C_U_AT])
    pack_rows(a, a[s.D_AT], a[s.OWN_D], a[s.ND], k, a[s.C_D_AT])
    pack_rows(a, a[s.W_AT], a[s.OWN_W], a[s.NW], k, a[s.C_W_AT])


@sweep
def unpack_control_seeds(a: Ints, k: Int) -> None:
    """Add the kernels' adjoint of the controls at save time k to (B, T, nu), live lanes only."""
    lanes, nu = a[s.LANES], a[s.NU]
    live = ints(a[s.LANE_I_AT] + 8 * s.I_LIVE * lanes)
    base, out = ints(lane_rows(a, 1, a[s.NT] * nu)), reals(a[s.U_SAVES_BAR_AT])
    u_bar = reals(a[s.U_BAR_AT])
    for lane in range(lanes):
        if live[lane]:
            for c in range(nu):
                out[base[lane] + k * nu + c] += u_bar[c * lanes + lane]


@sweep
def seeds_of(a: Ints, k: Int, last_only: Bool) -> Bool:
    """Seed of each lane at save time k: the trajectory's scale, zero for lanes that do not count."""
    lanes = a[s.LANES]
    index = ints(a[s.LANE_I_AT] + 8 * s.I_INDEX * lanes)
    live = ints(a[s.LANE_I_AT] + 8 * s.I_LIVE * lanes)
    scale, seed = doubles(a[s.SCALE_AT]), reals(a[s.C_SEED_AT])
    due = False
    for lane in range(lanes):
        last = save_count(a, lane) - 1
        counts = live[lane] != 0 and (k == last if last_only else k <= last)
        seed[lane] = scale[index[lane]] if counts else 0.0
        due = due or counts
    return due


@sweep
def cost_at(a: Ints, k: Int, kernel: Int, backward: Bool) -> None:
    """One cost kernel at save time k; adds to the lanes' losses and, backward, to the seeds of the state."""
    lanes = a[s.LANES]
    last_only = kernel == s.TERMINAL
    if a[kernel + s.VALUE] == 0 or not seeds_of(a, k, last_only):
        return
    ins = ints(a[s.C_IN_AT])
    ins[1] = a[s.SAVES_AT] + k * a[s.SN]
    ins[3] = a[kernel + s.UNI_AT]
    call_kernel(a[kernel + (s.VALUE_TAPE if backward else s.VALUE)], a[s.C_IN_AT], a[s.C_OUT_AT])
    loss, ell = doubles(a[s.LANE_F_AT] + 8 * s.F_LOSS * lanes), reals(a[s.C_ELL_AT])
    live, slopes = ints(a[s.LANE_I_AT] + 8 * s.I_LIVE * lanes), doubles(a[s.LANE_SLOPES_AT])
    for lane in range(lanes):
        last = save_count(a, lane) - 1
        if live[lane] != 0 and (k == last if last_only else k <= last):
            loss[lane] += ell[lane]
            for j in range(1, a[s.SLOPES] + 1):
                slopes[(j - 1) * lanes + lane] += ell[j * lanes + lane]
    if not backward:
        return
    back, out = ints(a[s.C_BACK_IN_AT]), ints(a[s.C_BACK_OUT_AT])
    back[1] = ins[1]
    back[3] = ins[3]
    out[5] = a[kernel + s.ACC_AT]
    call_kernel(a[kernel + s.ADJOINT], a[s.C_BACK_IN_AT], a[s.C_BACK_OUT_AT])
    add(a[s.SEEDS_AT] + k * a[s.SN], a[s.C_X_BAR_AT], a[s.N])
    if a[s.WANT_U]:
        unpack_control_seeds(a, k)


@sweep
def costs(a: Ints, backward: Bool) -> None:
    """All costs of the block. Losses go to the lane array F_LOSS, seeds to SEEDS_AT (which must be zero)."""
    for k in range(a[s.NT]):
        if a[s.COST + s.VALUE] == 0 and k + 1 < a[s.NT] and a[s.OWN_TS] == 0:
            continue
        save_inputs(a, k)
        cost_at(a, k, s.COST, backward)
        cost_at(a, k, s.TERMINAL, backward)
