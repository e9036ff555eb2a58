"""Save times: which lie in a step, dense output inside it, and the adjoint of both.

x(t + theta h) = x + h sum_i w_i(theta) k_i with w_i(theta) = sum_j P[i, j] theta**(j + 1). A save time within a few
ulp of a step's end takes the step's end itself.
"""

from __future__ import annotations

from . import slots as s
from .language import Float, Int, Ints, add, copy, doubles, fill, ints, reals, sweep


@sweep
def save_row(a: Ints, lane: Int) -> Int:
    """Address of a lane's save times."""
    own = ints(a[s.LANE_I_AT])[s.I_INDEX * a[s.LANES] + lane] * a[s.OWN_TS]
    return a[s.TS_AT] + 8 * own * a[s.NT]


@sweep
def save_count(a: Ints, lane: Int) -> Int:
    """Number of a lane's save times."""
    return ints(a[s.COUNT_AT])[ints(a[s.LANE_I_AT])[s.I_INDEX * a[s.LANES] + lane] * a[s.OWN_TS]]


@sweep
def slack(t: Float) -> Float:
    """Distance below which two times are one and the same, about 8 ulp."""
    return 1.8e-15 * abs(t)


@sweep
def last_due(a: Ints, lane: Int, saved: Int, t_end: Float) -> Int:
    """Number of saves done once the lane has reached t_end."""
    ts, count = doubles(save_row(a, lane)), save_count(a, lane)
    while saved < count and ts[saved] <= t_end + slack(t_end):
        saved += 1
    return saved


@sweep
def weight(a: Ints, i: Int, theta: Float) -> Float:
    """w_i(theta) of the dense output."""
    p = doubles(a[s.P_AT] + 8 * i * a[s.DEGREE])
    value = 0.0
    for j in range(a[s.DEGREE] - 1, -1, -1):
        value = (value + p[j]) * theta
    return value


@sweep
def save_lane(
    a: Ints, lane: Int, first: Int, last: Int, t: Float, h: Float, t_end: Float, x_at: Int, x_new_at: Int
) -> None:
    """Write saves first..last-1 of a lane from the step (t, h)."""
    lanes = a[s.LANES]
    ts = doubles(save_row(a, lane))
    x, x_new = reals(x_at), reals(x_new_at)
    for k in range(first, last):
        out = reals(a[s.SAVES_AT] + k * a[s.SN])
        if ts[k] >= t_end - slack(t_end):
            for e in range(lane, a[s.N], lanes):
                out[e] = x_new[e]
            continue
        theta = (ts[k] - t) / h
        for e in range(lane, a[s.N], lanes):
            out[e] = x[e]
        for i in range(a[s.STAGES]):
            w = h * weight(a, i, theta)
            if w != 0.0:
                ki = reals(a[s.K_AT] + i * a[s.SN])
                for e in range(lane, a[s.N], lanes):
                    out[e] += w * ki[e]


@sweep
def seed_row(a: Ints, row: Int, dense: Int) -> None:
    """Add the seeds of the saves in a row to lambda and, with `dense`, to the stages and to the step's start."""
    lanes, count, n, sn = a[s.LANES], a[s.LH], a[s.N], a[s.SN]
    stages = a[s.STAGES]
    saved = ints(a[s.ROW_SAVED_AT])
    lam_at = a[s.BARS_AT] + stages * sn
    if count == 1 and dense == 0:
        before = saved[row - 1] if row > 0 else 1
        for k in range(before, saved[row]):
            add(lam_at, a[s.SEEDS_AT] + k * sn, n)
        return
    if dense:
        for i in range(stages + 1):
            fill(a[s.DENSE_AT] + i * sn, 0.0, n)
    lam, start = reals(lam_at), reals(a[s.DENSE_AT] + stages * sn)
    for lane in range(lanes):
        head = lane if count > 1 else 0
        before = saved[(row - 1) * count + head] if row > 0 else 1
        after = saved[row * count + head]
        if after == before:
            continue
        ts = doubles(save_row(a, lane))
        at = row * count + head
        t, h, end = doubles(a[s.ROW_T_AT])[at], doubles(a[s.ROW_H_AT])[at], doubles(a[s.ROW_E_AT])[at]
        for k in range(before, after):
            seed = reals(a[s.SEEDS_AT] + k * sn)
            if ts[k] >= end - slack(end):
                for e in range(lane, n, lanes):
                    lam[e] += seed[e]
                continue
            theta = (ts[k] - t) / h
            for e in range(lane, n, lanes):
                start[e] += seed[e]
            for i in range(stages):
                w = h * weight(a, i, theta)
                if w != 0.0:
                    bar = reals(a[s.DENSE_AT] + i * sn)
                    for e in range(lane, n, lanes):
                        bar[e] += w * seed[e]


@sweep
def save_first(a: Ints, x_at: Int) -> None:
    """The first save time is the initial time."""
    copy(a[s.SAVES_AT], x_at, a[s.N])
