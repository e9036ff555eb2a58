"""One block of lanes from initial states to results, and the loop of a thread over groups of blocks.

Blocks belong to at most 64 groups that do not depend on the number of threads. A group adds its blocks in order into
its own accumulators; the caller adds the groups in order. Gradients have the same bits for any thread count.

A lane that fails, and the lanes that fill up the last block, would pollute the sums over lanes with NaN times zero.
Before a reverse sweep such lanes follow a healthy trajectory of the block with zero seeds.
"""

from __future__ import annotations

import math

from . import slots as s
from .adaptive import forward_adaptive
from .costs import costs
from .fitted import fit_saves, fit_saves_adjoint
from .fixed import count_fixed, forward_fixed, plan_block, plan_lane
from .inputs import lane_rows, pack, pack_controls, unpack_control_bars
from .language import Bool, Int, Ints, call_kernel, copy, doubles, fill, ints, next_ticket, reals, sweep
from .linear import connect_linear
from .reverse import reverse
from .saves import save_count


@sweep
def plan_shared(table: Int) -> Int:
    """Plan the rows that all lanes share; the number of rows, counted even where the arrays are too small."""
    a = ints(table)
    rows = plan_lane(a, 0, 0, 1, a[s.ROW_CAP])
    a[s.ROWS] = rows
    return rows


@sweep
def pack_states(a: Ints) -> None:
    """Initial states of the block's trajectories to lanes."""
    pack(a[s.LANES], lane_rows(a, 1, a[s.NX]), a[s.X0_AT], 0, 1, a[s.NX], a[s.STATES_AT])


@sweep
def forward(a: Ints, keep: Bool, log: Bool) -> Int:
    """Pack the block's inputs and integrate; every lane's status, saves and counters are then in the lane arrays.

    Saved states of a DAE fulfil the algebraic equations.
    """
    pack_states(a)
    pack_controls(a)
    if a[s.ADAPTIVE]:
        code = forward_adaptive(a, keep, log)
    else:
        if a[s.SHARED_PLAN] == 0 and plan_block(a) < 0:
            return s.NEED_ROWS
        if keep and a[s.ROWS] + 1 > a[s.ROW_CAP]:
            return s.NEED_ROWS
        code = forward_fixed(a, keep)
        count_fixed(a)
    if a[s.PROJECT] and code != s.NEED_ROWS:
        fit_saves(a)
    return code


@sweep
def write_results(a: Ints) -> None:
    """Status, number of valid saves and counters of the live lanes."""
    lanes, i = a[s.LANES], ints(a[s.LANE_I_AT])
    for lane in range(lanes):
        if i[s.I_LIVE * lanes + lane]:
            b = i[s.I_INDEX * lanes + lane]
            ints(a[s.STATUS_AT])[b] = i[s.I_STATUS * lanes + lane]
            ints(a[s.REACHED_AT])[b] = i[s.I_SAVED * lanes + lane]
            ints(a[s.STEPS_AT])[b] = i[s.I_STEPS * lanes + lane]
            ints(a[s.REJECTED_AT])[b] = i[s.I_REJECTED * lanes + lane]
            ints(a[s.RHS_AT])[b] = i[s.I_RHS * lanes + lane]


@sweep
def write_saves(a: Ints) -> None:
    """States at the save times to (B, T, nx); rows that were not reached are NaN."""
    lanes, nx, rows, saves, sn = a[s.LANES], a[s.NX], a[s.NT], a[s.SAVES_AT], a[s.SN]
    live, good = ints(a[s.LANE_I_AT] + 8 * s.I_LIVE * lanes), ints(a[s.LANE_I_AT] + 8 * s.I_SAVED * lanes)
    base, out = ints(lane_rows(a, 1, rows * nx)), reals(a[s.X_AT])
    for k in range(rows):
        x = reals(saves + k * sn)
        for lane in range(lanes):
            if live[lane]:
                for c in range(nx):
                    out[base[lane] + k * nx + c] = x[c * lanes + lane] if k < good[lane] else math.nan


@sweep
def pack_seeds(a: Ints) -> None:
    """Seeds (B, T, nx) of the live lanes to lanes, zero elsewhere."""
    lanes, nx, rows, src, seeds, sn = a[s.LANES], a[s.NX], a[s.NT], a[s.XBAR_AT], a[s.SEEDS_AT], a[s.SN]
    base = lane_rows(a, 1, rows * nx)
    for k in range(rows):
        pack(lanes, base, src, k * nx, 1, nx, seeds + k * sn)
    live = ints(a[s.LANE_I_AT] + 8 * s.I_LIVE * lanes)
    for lane in range(lanes):
        for k in range(save_count(a, lane) if live[lane] else 0, rows):
            seed = reals(seeds + k * sn)
            for c in range(nx):
                seed[c * lanes + lane] = 0.0


@sweep
def complete_saves(a: Ints) -> None:
    """Repeat each lane's last save up to the longest record, so that cost kernels see finite numbers only."""
    lanes = a[s.LANES]
    for lane in range(lanes):
        for k in range(save_count(a, lane), a[s.NT]):
            x, old = reals(a[s.SAVES_AT] + k * a[s.SN]), reals(a[s.SAVES_AT] + (k - 1) * a[s.SN])
            for e in range(lane, a[s.N], lanes):
                x[e] = old[e]


@sweep
def block_costs(a: Ints, backward: Bool) -> None:
    """Losses of the block's live lanes, and seeds with `backward`."""
    lanes, i = a[s.LANES], ints(a[s.LANE_I_AT])
    loss = doubles(a[s.LANE_F_AT] + 8 * s.F_LOSS * lanes)
    slopes, sums = a[s.SLOPES], doubles(a[s.LANE_SLOPES_AT])
    for lane in range(lanes):
        loss[lane] = 0.0
    for e in range(slopes * lanes):
        sums[e] = 0.0
    if backward:
        for k in range(a[s.NT]):
            fill(a[s.SEEDS_AT] + k * a[s.SN], 0.0, a[s.N])
    if a[s.OWN_TS]:
        complete_saves(a)
    costs(a, backward)
    for lane in range(lanes):
        if i[s.I_LIVE * lanes + lane]:
            failed = i[s.I_STATUS * lanes + lane] != 0
            b = i[s.I_INDEX * lanes + lane]
            doubles(a[s.LOSS_AT])[b] = math.inf if failed else loss[lane]
            for j in range(slopes):
                doubles(a[s.SLOPES_AT])[b * slopes + j] = 0.0 if failed else sums[j * lanes + lane]


@sweep
def replace_failed(a: Ints) -> Int:
    """Let failed lanes follow a healthy one; the number of lanes changed, or -1 when no live lane is healthy."""
    lanes, i = a[s.LANES], ints(a[s.LANE_I_AT])
    healthy, failed = -1, 0
    for lane in range(lanes):
        if i[s.I_STATUS * lanes + lane]:
            failed += 1
        elif healthy < 0 and i[s.I_LIVE * lanes + lane]:
            healthy = lane
    if failed == 0:
        return 0
    if healthy < 0:
        return -1
    for lane in range(lanes):
        if i[s.I_STATUS * lanes + lane]:
            i[s.I_INDEX * lanes + lane] = i[s.I_INDEX * lanes + healthy]
            i[s.I_LIVE * lanes + lane] = 0
    return failed


@sweep
def lost_losses(a: Ints) -> None:
    """Infinite loss for the live lanes that failed."""
    lanes, i = a[s.LANES], ints(a[s.LANE_I_AT])
    for lane in range(lanes):
        if i[s.I_LIVE * lanes + lane] and i[s.I_STATUS * lanes + lane]:
            doubles(a[s.LOSS_AT])[i[s.I_INDEX * lanes + lane]] = math.inf


@sweep
def write_state_bars(a: Ints) -> None:
    """Lambda at the initial time to (B, nx)."""
    lanes, nx, i = a[s.LANES], a[s.NX], ints(a[s.LANE_I_AT])
    lam, out = reals(a[s.BARS_AT] + a[s.STAGES] * a[s.SN]), reals(a[s.X0_BAR_AT])
    for lane in range(lanes):
        if i[s.I_LIVE * lanes + lane]:
            for c in range(nx):
                out[i[s.I_INDEX * lanes + lane] * nx + c] = lam[c * lanes + lane]


@sweep
def clear_control_bars(a: Ints) -> None:
    """Zero the block's adjoint of the coefficients."""
    for q in range(a[s.NB] * a[s.POWERS]):
        fill(a[s.CF_BAR_AT] + q * a[s.SM], 0.0, a[s.M])


@sweep
def run_block(a: Ints, block: Int, group: Int) -> Int:
    """Everything for one block; DONE, NEED_ROWS or STOPPED."""
    lanes, mode, i = a[s.LANES], a[s.MODE], ints(a[s.LANE_I_AT])
    backward = mode == s.VJP or mode == s.GRADIENT
    keep = backward and a[s.CHECKPOINTS] == 0
    first = block * lanes
    count = min(lanes, a[s.BATCH] - first)
    for lane in range(lanes):
        i[s.I_INDEX * lanes + lane] = first + min(lane, count - 1)
        i[s.I_LIVE * lanes + lane] = 1 if lane < count else 0
    code = forward(a, keep, backward)
    if code != s.DONE and (code != s.STOPPED or backward or a[s.ADAPTIVE] == 0):
        return code
    write_results(a)
    if mode == s.SIMULATE or (mode == s.VJP and a[s.X_AT] != 0):
        write_saves(a)
    if mode == s.SIMULATE:
        return code
    if mode == s.LOSS:
        block_costs(a, False)
        return code
    if mode == s.GRADIENT:
        lost_losses(a)
    failed = replace_failed(a)
    if failed < 0:
        return code
    if failed > 0:
        code = forward(a, keep, True)
        if code != s.DONE:
            return code
    return run_reverse(a, group)


@sweep
def run_reverse(a: Ints, group: Int) -> Int:
    """Seeds, reverse sweep and the adjoints of states and controls of a block."""
    if a[s.WANT_U]:
        clear_control_bars(a)
    if a[s.MODE] == s.GRADIENT:
        block_costs(a, True)
    else:
        pack_seeds(a)
    if a[s.PROJECT]:
        if a[s.OWN_TS]:
            complete_saves(a)
        fit_saves_adjoint(a)
    if a[s.CHECKPOINTS] > 0:
        lanes_x0 = a[s.STATES_AT]
        pack_states(a)
        copy(lanes_x0 + 2 * a[s.SN], lanes_x0, a[s.N])
    a[s.REPLAYED] = 0
    code = reverse(a)
    work = ints(a[s.WORK_AT] + 24 * group)
    work[0] += a[s.REPLAYED]
    work[1] += a[s.ROWS]
    work[2] = max(work[2], a[s.ROWS])
    write_state_bars(a)
    if a[s.WANT_U]:
        unpack_control_bars(a, group)
    return code


@sweep
def start_group(a: Ints, group: Int) -> None:
    """Zero the accumulators of all kernels and, for a control shared by all, the group's adjoint of it.

    A group may start anew after its work arrays were enlarged; what it adds up must then be zero again.
    """
    for e in range(3):
        ints(a[s.WORK_AT] + 24 * group)[e] = 0
    if a[s.U_SAVES_BAR_AT] != 0:
        first = (group * a[s.BLOCKS] // a[s.GROUPS]) * a[s.LANES]
        last = min(((group + 1) * a[s.BLOCKS] // a[s.GROUPS]) * a[s.LANES], a[s.BATCH])
        saves = reals(a[s.U_SAVES_BAR_AT])
        for e in range(first * a[s.NT] * a[s.NU], last * a[s.NT] * a[s.NU]):
            saves[e] = 0.0
    if a[s.WANT_U] and a[s.OWN_COEF_BAR] == 0:
        size = a[s.NB] * a[s.NU] * a[s.POWERS]
        bars = reals(a[s.COEF_BAR_AT] + group * size * a[s.ITEM])
        for e in range(size):
            bars[e] = 0.0
    for kernel in (s.MODEL, s.COST, s.TERMINAL, s.JACOBIAN):
        if a[kernel + s.N_ACC] > 0:
            fill(a[kernel + s.ACC_AT], 0.0, a[kernel + s.N_ACC])


@sweep
def finish_group(a: Ints, group: Int) -> None:
    """Reduce the accumulators into the group's row of the parameter adjoint."""
    ins, outs = ints(a[s.IN_AT]), ints(a[s.OUT_AT])
    keep0, keep1, keep2 = ins[0], ins[1], outs[0]
    for kernel in (s.MODEL, s.COST, s.TERMINAL, s.JACOBIAN):
        if a[kernel + s.FINISH] != 0:
            ins[0] = a[kernel + s.ACC_AT]
            ins[1] = a[kernel + s.UNI_AT]
            outs[0] = a[s.P_BAR_AT] + group * a[s.NP] * a[s.ITEM]
            call_kernel(a[kernel + s.FINISH], a[s.IN_AT], a[s.OUT_AT])
    ins[0], ins[1], outs[0] = keep0, keep1, keep2


@sweep
def run_group(a: Ints, group: Int) -> Int:
    """All blocks of one group in order."""
    backward = a[s.MODE] == s.VJP or a[s.MODE] == s.GRADIENT
    if backward:
        start_group(a, group)
    for block in range(group * a[s.BLOCKS] // a[s.GROUPS], (group + 1) * a[s.BLOCKS] // a[s.GROUPS]):
        code = run_block(a, block, group)
        if code != s.DONE:
            return code
    if backward:
        finish_group(a, group)
    return s.DONE


@sweep
def connect(a: Ints) -> None:
    """The entries of the kernels' pointer arrays that stay the same during a call."""
    ins, back, outs = ints(a[s.IN_AT]), ints(a[s.BACK_IN_AT]), ints(a[s.BACK_OUT_AT])
    ins[3] = a[s.MODEL + s.UNI_AT]
    back[3], back[5] = a[s.MODEL + s.UNI_AT], a[s.K_BAR_AT]
    outs[0], outs[2], outs[3] = a[s.T_BAR_AT], a[s.U_BAR_AT], a[s.MODEL + s.ACC_AT]
    for at in (s.C_IN_AT, s.C_BACK_IN_AT):
        cost = ints(a[at])
        cost[0], cost[2], cost[4], cost[5] = a[s.C_T_AT], a[s.C_U_AT], a[s.C_D_AT], a[s.C_W_AT]
    cost[6], cost[7] = a[s.C_TAPE_AT], a[s.C_SEED_AT]
    cost = ints(a[s.C_OUT_AT])
    cost[0], cost[1] = a[s.C_ELL_AT], a[s.C_TAPE_AT]
    cost = ints(a[s.C_BACK_OUT_AT])
    cost[0], cost[1], cost[2] = a[s.T_BAR_AT], a[s.C_X_BAR_AT], a[s.U_BAR_AT]
    cost[3], cost[4] = a[s.C_DUMP_AT], a[s.C_DUMP_AT]
    if a[s.BLOCK] > 0:
        connect_linear(a)


@sweep
def run_groups(table: Int, group: Int) -> Int:
    """Work on groups until none is left; -1, or the group whose rows did not fit (call again with larger arrays).

    A thread draws its next group from the shared counter. A negative `group` starts with a drawn one.
    """
    a = ints(table)
    connect(a)
    while True:
        if group < 0:
            group = next_ticket(a[s.COUNTER_AT])
        if group >= a[s.GROUPS]:
            return -1
        code = run_group(a, group)
        if code == s.NEED_ROWS:
            return group
        if code == s.STOPPED:
            return -1
        group = -1
