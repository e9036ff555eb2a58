"""Jitted evaluation of controls and of their polynomials; imported only when first needed.

All kinds share one form. On interval i, of length h, the value is
``w0 * v[i] + w1 * v[i + 1] + z0 * d[i] + z1 * d[i + 1]`` with values v and, for the cubic kinds, slopes d at
the knots; the weights depend on s = t - knots[i] only (Lagrange for degree 1, Hermite for degree 3).
Evaluation gathers with these weights, its adjoint scatters with the same ones. Arrays: knots (1 or B, K),
values and slopes (B, K, nu).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .inputs import HOLD as _HOLD
from .inputs import PERIODIC as _PERIODIC

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def locate(t: float, knots: Array, degree: int, side_right: bool, left: int, right: int) -> tuple[int, float, int]:
    """Interval i, local time s and mode: 0 inside, -1 before all knots (t - first), 1 after (t - last)."""
    K = knots.size
    first, last = knots[0], knots[K - 1]
    below = t <= first if side_right else t < first
    above = t > last if side_right else t >= last
    if below and left != _PERIODIC:
        return 0, t - first, -1
    if above and right != _PERIODIC and (degree == 0 or t > last):
        return K - 2, t - last, 1
    if (below and left == _PERIODIC) or (above and right == _PERIODIC):
        turns = (t - first) / (last - first)
        cycle = np.ceil(turns) - 1.0 if side_right else np.floor(turns)
        t = t - cycle * (last - first)
    lo, hi = 0, K - 1
    while hi - lo > 1:
        mid = (lo + hi) // 2
        if (knots[mid] < t) if side_right else (knots[mid] <= t):
            lo = mid
        else:
            hi = mid
    return lo, t - knots[lo], 0


@njit(nogil=True, cache=True)
def weights(
    s: float, h: float, mode: int, degree: int, side_right: bool, left: int, right: int, order: int
) -> tuple[float, float, float, float]:
    """Weights (w0, w1, z0, z1) of the value (order 0) or its derivative with respect to time (order 1)."""
    if degree == 0 or (mode == -1 and left == _HOLD) or (mode == 1 and right == _HOLD):
        if order == 1:
            return 0.0, 0.0, 0.0, 0.0
        at_right = mode == 1 or (mode == 0 and degree == 0 and side_right)
        return (0.0, 1.0, 0.0, 0.0) if at_right else (1.0, 0.0, 0.0, 0.0)
    if degree == 1:
        if order == 1:
            return -1.0 / h, 1.0 / h, 0.0, 0.0
        x = s / h
        return (-x, 1.0 + x, 0.0, 0.0) if mode == 1 else (1.0 - x, x, 0.0, 0.0)
    if mode == -1:
        return (0.0, 0.0, 1.0, 0.0) if order == 1 else (1.0, 0.0, s, 0.0)
    if mode == 1:
        return (0.0, 0.0, 0.0, 1.0) if order == 1 else (0.0, 1.0, 0.0, s)
    x = s / h
    y = 1.0 - x
    if order == 1:
        return -6.0 * x * y / h, 6.0 * x * y / h, y * (1.0 - 3.0 * x), x * (3.0 * x - 2.0)
    return (1.0 + 2.0 * x) * y * y, x * x * (3.0 - 2.0 * x), s * y * y, -s * x * y


@njit(nogil=True, cache=True)
def evaluate(
    t: Array,
    knots: Array,
    values: Array,
    slopes: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    order: int,
    out: Array,
) -> None:
    """Fill out (B, m, nu) at times t (1 or B, m); shared times in shared knots are located once."""
    B, nu = out.shape[0], out.shape[2]
    shared = t.shape[0] == 1 and knots.shape[0] == 1
    for r in range(1 if shared else B):
        row = knots[r if knots.shape[0] > 1 else 0]
        for j in range(t.shape[1]):
            i, s, mode = locate(t[r if t.shape[0] > 1 else 0, j], row, degree, side_right, left, right)
            w0, w1, z0, z1 = weights(s, row[i + 1] - row[i], mode, degree, side_right, left, right, order)
            for b in range(0 if shared else r, B if shared else r + 1):
                v = b if values.shape[0] > 1 else 0
                for c in range(nu):
                    u = w0 * values[v, i, c] + w1 * values[v, i + 1, c]
                    if degree == 3:
                        u += z0 * slopes[v, i, c] + z1 * slopes[v, i + 1, c]
                    out[b, j, c] = u


@njit(nogil=True, cache=True)
def evaluate_adjoint(
    t: Array,
    knots: Array,
    u_bar: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    values_bar: Array,
    slopes_bar: Array,
) -> None:
    """Transpose of `evaluate` at order 0: adds to values_bar and slopes_bar (Bv, K, nu), Bv = 1 or B."""
    B, nu = u_bar.shape[0], u_bar.shape[2]
    for b in range(B):
        row = knots[b if knots.shape[0] > 1 else 0]
        v = b if values_bar.shape[0] > 1 else 0
        for j in range(t.shape[1]):
            i, s, mode = locate(t[b if t.shape[0] > 1 else 0, j], row, degree, side_right, left, right)
            w0, w1, z0, z1 = weights(s, row[i + 1] - row[i], mode, degree, side_right, left, right, 0)
            for c in range(nu):
                values_bar[v, i, c] += w0 * u_bar[b, j, c]
                values_bar[v, i + 1, c] += w1 * u_bar[b, j, c]
                if degree == 3:
                    slopes_bar[v, i, c] += z0 * u_bar[b, j, c]
                    slopes_bar[v, i + 1, c] += z1 * u_bar[b, j, c]


@njit(nogil=True, cache=True)
def coefficients(
    knots: Array,
    values: Array,
    slopes: Array,
    intervals: Array,
    modes: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    out: Array,
) -> None:
    """Fill out (b, Nb, nu, degree + 1), ascending powers of t - anchor.

    Inside, the powers of the Hermite cubic are c1 = d0, c2 = (m - d0)/h - e, c3 = e/h with m the secant slope
    and e = (d0 + d1 - 2 m)/h. Left and right of all knots the line through the end value, or the end value
    itself.
    """
    for b in range(out.shape[0]):
        row = knots[b if knots.shape[0] > 1 else 0]
        for q in range(intervals.size):
            i, mode = intervals[q], modes[q]
            hold = (mode == -1 and left == _HOLD) or (mode == 1 and right == _HOLD)
            h = row[i + 1] - row[i]
            for c in range(out.shape[2]):
                v0, v1 = values[b, i, c], values[b, i + 1, c]
                if degree == 0:
                    out[b, q, c, 0] = v1 if mode == 1 or (mode == 0 and side_right) else v0
                    continue
                out[b, q, c, 0] = v1 if mode == 1 else v0
                m = (np.float64(v1) - v0) / h
                if degree == 1:
                    out[b, q, c, 1] = 0.0 if hold else m
                    continue
                d0, d1 = np.float64(slopes[b, i, c]), np.float64(slopes[b, i + 1, c])
                if mode == 0:
                    e = (d0 + d1 - 2.0 * m) / h
                    out[b, q, c, 1] = d0
                    out[b, q, c, 2] = (m - d0) / h - e
                    out[b, q, c, 3] = e / h
                else:
                    out[b, q, c, 1] = 0.0 if hold else (d0 if mode == -1 else d1)
                    out[b, q, c, 2] = 0.0
                    out[b, q, c, 3] = 0.0


@njit(nogil=True, cache=True)
def coefficients_adjoint(
    knots: Array,
    coef_bar: Array,
    intervals: Array,
    modes: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    values_bar: Array,
    slopes_bar: Array,
) -> None:
    """Transpose of `coefficients`: adds to values_bar (b, K, nu) and slopes_bar (b, K, nu)."""
    for b in range(coef_bar.shape[0]):
        row = knots[b if knots.shape[0] > 1 else 0]
        for q in range(intervals.size):
            i, mode = intervals[q], modes[q]
            hold = (mode == -1 and left == _HOLD) or (mode == 1 and right == _HOLD)
            h = row[i + 1] - row[i]
            at_right = mode == 1 or (mode == 0 and degree == 0 and side_right)
            for c in range(coef_bar.shape[2]):
                values_bar[b, i + 1 if at_right else i, c] += coef_bar[b, q, c, 0]
                m_bar = 0.0
                if degree == 1 and not hold:
                    m_bar = np.float64(coef_bar[b, q, c, 1])
                elif degree == 3 and mode == 0:
                    e_bar = coef_bar[b, q, c, 3] / h - coef_bar[b, q, c, 2]
                    m_bar = coef_bar[b, q, c, 2] / h - 2.0 * e_bar / h
                    slopes_bar[b, i, c] += coef_bar[b, q, c, 1] - coef_bar[b, q, c, 2] / h + e_bar / h
                    slopes_bar[b, i + 1, c] += e_bar / h
                elif degree == 3 and not hold:
                    slopes_bar[b, i if mode == -1 else i + 1, c] += coef_bar[b, q, c, 1]
                values_bar[b, i, c] -= m_bar / h
                values_bar[b, i + 1, c] += m_bar / h
