"""Times and controls of the stages: polynomials of the pieces, evaluated for all lanes of a block, and their adjoint.

Per block the coefficients lie as [Nb][d + 1][nu][L] (rows of nu*L padded to whole registers), so that Horner's rule
runs over contiguous memory when all lanes are on the same piece, which is the common case.
"""

from __future__ import annotations

from . import slots as s
from .language import (
    Bool,
    Float,
    Int,
    Ints,
    add,
    copy,
    doubles,
    fill,
    horner,
    ints,
    multiply,
    multiply_add,
    reals,
    sweep,
)


@sweep
def break_row(a: Ints, lane: Int) -> Int:
    """Address of the break times of a lane's trajectory."""
    own = ints(a[s.LANE_I_AT])[s.I_INDEX * a[s.LANES] + lane] * a[s.OWN_BREAKS]
    return a[s.BREAKS_AT] + 8 * own * (a[s.NB] + 1)


@sweep
def stop_row(a: Ints, lane: Int) -> Int:
    """Address of the stop flags of a lane's trajectory, one per break."""
    own = ints(a[s.LANE_I_AT])[s.I_INDEX * a[s.LANES] + lane] * a[s.OWN_STOPS]
    return a[s.STOPS_AT] + 8 * own * (a[s.NB] + 1)


@sweep
def find_piece(a: Ints, lane: Int, t: Float) -> Int:
    """Last piece that starts at or before t (bisection), clamped to the pieces there are."""
    breaks = doubles(break_row(a, lane))
    low, high = 0, a[s.NB] - 1
    while low < high:
        middle = (low + high + 1) >> 1
        if breaks[middle] <= t:
            low = middle
        else:
            high = middle - 1
    return low


@sweep
def lane_rows(a: Ints, own: Int, size: Int) -> Int:
    """Where each lane's row of an array with `size` entries per trajectory starts; the address of the lane array."""
    lanes = a[s.LANES]
    index = ints(a[s.LANE_I_AT] + 8 * s.I_INDEX * lanes)
    at = a[s.LANE_I_AT] + 8 * s.I_BASE * lanes
    base = ints(at)
    for lane in range(lanes):
        base[lane] = index[lane] * own * size
    return at


@sweep
def pack(lanes: Int, base_at: Int, src_at: Int, first: Int, step: Int, count: Int, out_at: Int) -> None:
    """out[c][lane] = src[base[lane] + first + c * step] for c < count."""
    base, src, out = ints(base_at), reals(src_at), reals(out_at)
    for c in range(count):
        for lane in range(lanes):
            out[c * lanes + lane] = src[base[lane] + first + c * step]


@sweep
def pack_controls(a: Ints) -> None:
    """Transpose the coefficients of this block's trajectories to lanes."""
    lanes, nu, powers, pieces = a[s.LANES], a[s.NU], a[s.POWERS], a[s.NB]
    base = lane_rows(a, a[s.OWN_COEF], pieces * nu * powers)
    for q in range(pieces):
        for j in range(powers):
            row = q * powers
            pack(lanes, base, a[s.COEF_AT], row * nu + j, powers, nu, a[s.CF_AT] + (row + j) * a[s.SM])


@sweep
def unpack_control_bars(a: Ints, group: Int) -> None:
    """Write this block's adjoint of the coefficients, or add it to the group's where all share one control."""
    lanes, nu, powers, pieces = a[s.LANES], a[s.NU], a[s.POWERS], a[s.NB]
    index = ints(a[s.LANE_I_AT] + 8 * s.I_INDEX * lanes)
    live = ints(a[s.LANE_I_AT] + 8 * s.I_LIVE * lanes)
    out, own = reals(a[s.COEF_BAR_AT]), a[s.OWN_COEF_BAR]
    for lane in range(lanes):
        if live[lane] == 0:
            continue
        at = (index[lane] if own else group) * pieces * nu * powers
        for q in range(pieces):
            for c in range(nu):
                for j in range(powers):
                    value = reals(a[s.CF_BAR_AT] + (q * powers + j) * a[s.SM])[c * lanes + lane]
                    # A trajectory's own row is written once; a row shared by the group is summed.
                    out[at] = value if own else out[at] + value
                    at += 1


@sweep
def spread_times(a: Ints, count: Int, t_at: Int) -> Bool:
    """Write lane times to `t_at` and local times to all components; True when all lanes are on one piece.

    Times and pieces of the first `count` lanes (1: shared by all) are in the lane arrays F_TAU and I_STAGE_PIECE.
    """
    lanes, nu = a[s.LANES], a[s.NU]
    tau = doubles(a[s.LANE_F_AT] + 8 * s.F_TAU * lanes)
    piece = ints(a[s.LANE_I_AT] + 8 * s.I_STAGE_PIECE * lanes)
    index = ints(a[s.LANE_I_AT] + 8 * s.I_INDEX * lanes)
    if count == 1:
        own = index[0] * a[s.OWN_BREAKS] * a[s.NB]
        fill(t_at, tau[0], lanes)
        fill(a[s.SU_AT], tau[0] - doubles(a[s.ANCHORS_AT])[own + piece[0]], a[s.M])
        return True
    same = True
    t, su = reals(t_at), reals(a[s.SU_AT])
    for lane in range(lanes):
        own = index[lane] * a[s.OWN_BREAKS] * a[s.NB]
        t[lane] = tau[lane]
        local = tau[lane] - doubles(a[s.ANCHORS_AT])[own + piece[lane]]
        for c in range(nu):
            su[c * lanes + lane] = local
        same = same and piece[lane] == piece[0]
    return same


@sweep
def stage_times(a: Ints, row: Int, i: Int, t_at: Int) -> Bool:
    """Times and pieces of stage i of a row. A step stays on its piece up to the next break where it has to stop."""
    lanes, count = a[s.LANES], a[s.ROW_LANES]
    at, node, last = row * a[s.LH], doubles(a[s.C_AT])[i], a[s.NB] - 1
    tau = doubles(a[s.LANE_F_AT] + 8 * s.F_TAU * lanes)
    piece = ints(a[s.LANE_I_AT] + 8 * s.I_STAGE_PIECE * lanes)
    start, h, end = doubles(a[s.ROW_T_AT]), doubles(a[s.ROW_H_AT]), doubles(a[s.ROW_E_AT])
    first = ints(a[s.ROW_PIECE_AT])
    for lane in range(count):
        t = end[at + lane] if node == 1.0 else start[at + lane] + node * h[at + lane]
        q = first[at + lane]
        if q < last:
            breaks, stops = doubles(break_row(a, lane)), ints(stop_row(a, lane))
            while q < last and stops[q + 1] == 0 and t >= breaks[q + 1]:
                q += 1
        tau[lane] = t
        piece[lane] = q
    return spread_times(a, count, t_at)


@sweep
def evaluate_controls(a: Ints, same: Bool, u_at: Int) -> None:
    """u = the pieces' polynomials at the local times, [nu][L]."""
    lanes, powers, m, sm = a[s.LANES], a[s.POWERS], a[s.M], a[s.SM]
    piece = ints(a[s.LANE_I_AT] + 8 * s.I_STAGE_PIECE * lanes)
    if same:
        row = a[s.CF_AT] + piece[0] * powers * sm
        copy(u_at, row + (powers - 1) * sm, m)
        for j in range(powers - 2, -1, -1):
            horner(u_at, a[s.SU_AT], row + j * sm, m)
        return
    u, su = reals(u_at), reals(a[s.SU_AT])
    for lane in range(lanes):
        row = a[s.CF_AT] + piece[lane] * powers * sm
        for e in range(lane, m, lanes):
            value = reals(row + (powers - 1) * sm)[e]
            for j in range(powers - 2, -1, -1):
                value = multiply_add(value, su[e], reals(row + j * sm)[e])
            u[e] = value


@sweep
def slopes(a: Ints, du_at: Int) -> None:
    """du/dt of the pieces' polynomials at the local times of the stage evaluated last, [nu][L]."""
    lanes, powers, m, sm = a[s.LANES], a[s.POWERS], a[s.M], a[s.SM]
    piece = ints(a[s.LANE_I_AT] + 8 * s.I_STAGE_PIECE * lanes)
    du, su = reals(du_at), reals(a[s.SU_AT])
    for lane in range(lanes):
        row = a[s.CF_AT] + (piece[0] if a[s.ROW_LANES] == 1 else piece[lane]) * powers * sm
        for e in range(lane, m, lanes):
            value = 0.0
            for j in range(powers - 1, 0, -1):
                value = value * su[e] + j * reals(row + j * sm)[e]
            du[e] = value


@sweep
def slope_bars(a: Ints, same: Bool, du_bar_at: Int) -> None:
    """Add the adjoint of the coefficients for the adjoint of du/dt at the local times."""
    lanes, powers, m, sm = a[s.LANES], a[s.POWERS], a[s.M], a[s.SM]
    piece = ints(a[s.LANE_I_AT] + 8 * s.I_STAGE_PIECE * lanes)
    du_bar, su = reals(du_bar_at), reals(a[s.SU_AT])
    for lane in range(lanes):
        row = a[s.CF_BAR_AT] + (piece[0] if same else piece[lane]) * powers * sm
        for e in range(lane, m, lanes):
            value = du_bar[e]
            for j in range(1, powers):
                reals(row + j * sm)[e] += j * value
                value *= su[e]


@sweep
def control_bars(a: Ints, same: Bool, u_bar_at: Int) -> None:
    """Add the adjoint of the coefficients for u_bar at the local times; u_bar is used up."""
    lanes, powers, m, sm = a[s.LANES], a[s.POWERS], a[s.M], a[s.SM]
    piece = ints(a[s.LANE_I_AT] + 8 * s.I_STAGE_PIECE * lanes)
    if same:
        row = a[s.CF_BAR_AT] + piece[0] * powers * sm
        for j in range(powers):
            add(row + j * sm, u_bar_at, m)
            if j + 1 < powers:
                multiply(u_bar_at, a[s.SU_AT], m)
        return
    u_bar, su = reals(u_bar_at), reals(a[s.SU_AT])
    for lane in range(lanes):
        row = a[s.CF_BAR_AT] + piece[lane] * powers * sm
        for e in range(lane, m, lanes):
            value = u_bar[e]
            for j in range(powers):
                reals(row + j * sm)[e] += value
                value *= su[e]
