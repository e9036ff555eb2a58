"""Jitted evaluation of controls and of their polynomials; `vectorised` has the same functions without Numba.

Evaluation gathers with the weights of `formulas`, its adjoint scatters with the same ones. Arrays: knots (1 or B, K),
values and slopes (B, K, nu).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import formulas

Array = NDArray[Any]


def _jit(function: Any) -> Any:
    """Compile with Numba; kept on disk unless neither the package's nor the user's folder can be written."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # Numba: no locator available
        return njit(nogil=True)(function)


_inline = njit(nogil=True, inline="always")  # LLVM alone makes slower loops of these
_outside = _inline(formulas.outside)
_in_first_period = _inline(formulas.in_first_period)
_ends = _jit(formulas.ends)
_weights = _jit(formulas.weights)
_powers = _jit(formulas.powers)
_powers_adjoint = _jit(formulas.powers_adjoint)


@_jit
def locate(t: float, knots: Array, degree: int, side_right: bool, left: int, right: int) -> tuple[int, float, int]:
    """Interval i, local time s and mode: 0 inside, -1 before all knots (t - first), 1 after (t - last)."""
    K = knots.size
    first, last = knots[0], knots[K - 1]
    before, after, wrapped = _outside(t, first, last, degree, side_right, left, right)
    if before:
        return 0, t - first, -1
    if after:
        return K - 2, t - last, 1
    if wrapped:
        t = _in_first_period(t, first, last, side_right)
    lo, hi = 0, K - 1
    while hi - lo > 1:
        mid = (lo + hi) // 2
        if (knots[mid] < t) if side_right else (knots[mid] <= t):
            lo = mid
        else:
            hi = mid
    return lo, t - knots[lo], 0


@_jit
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
            hold, at_right = _ends(mode, degree, side_right, left, right)
            w0, w1, z0, z1 = _weights(s, row[i + 1] - row[i], mode, degree, hold, at_right, order)
            for b in range(0 if shared else r, B if shared else r + 1):
                v = b if values.shape[0] > 1 else 0
                for c in range(nu):
                    u = w0 * values[v, i, c] + w1 * values[v, i + 1, c]
                    if degree == 3:
                        u += z0 * slopes[v, i, c] + z1 * slopes[v, i + 1, c]
                    out[b, j, c] = u


@_jit
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
            hold, at_right = _ends(mode, degree, side_right, left, right)
            w0, w1, z0, z1 = _weights(s, row[i + 1] - row[i], mode, degree, hold, at_right, 0)
            for c in range(nu):
                values_bar[v, i, c] += w0 * u_bar[b, j, c]
                values_bar[v, i + 1, c] += w1 * u_bar[b, j, c]
                if degree == 3:
                    slopes_bar[v, i, c] += z0 * u_bar[b, j, c]
                    slopes_bar[v, i + 1, c] += z1 * u_bar[b, j, c]


@_jit
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
    """Fill out (b, Nb, nu, degree + 1), ascending powers of t - anchor, for the intervals and modes of a span."""
    for b in range(out.shape[0]):
        row = knots[b if knots.shape[0] > 1 else 0]
        for q in range(intervals.size):
            i, mode = intervals[q], modes[q]
            hold, at_right = _ends(mode, degree, side_right, left, right)
            h = row[i + 1] - row[i]
            for c in range(out.shape[2]):
                v0, v1 = np.float64(values[b, i, c]), np.float64(values[b, i + 1, c])
                d0, d1 = 0.0, 0.0
                if degree == 3:
                    d0, d1 = np.float64(slopes[b, i, c]), np.float64(slopes[b, i + 1, c])
                c0, c1, c2, c3 = _powers(v0, v1, d0, d1, h, mode, degree, hold, at_right)
                out[b, q, c, 0] = c0
                if degree > 0:
                    out[b, q, c, 1] = c1
                if degree == 3:
                    out[b, q, c, 2] = c2
                    out[b, q, c, 3] = c3


@_jit
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
            hold, at_right = _ends(mode, degree, side_right, left, right)
            h = row[i + 1] - row[i]
            for c in range(coef_bar.shape[2]):
                c1 = coef_bar[b, q, c, 1] if degree > 0 else 0.0
                c2, c3 = (coef_bar[b, q, c, 2], coef_bar[b, q, c, 3]) if degree == 3 else (0.0, 0.0)
                rise, d0, d1 = _powers_adjoint(c1, c2, c3, h, mode, degree, hold, at_right)
                values_bar[b, i + 1 if at_right else i, c] += coef_bar[b, q, c, 0]
                values_bar[b, i, c] -= rise
                values_bar[b, i + 1, c] += rise
                if degree == 3:
                    slopes_bar[b, i, c] += d0
                    slopes_bar[b, i + 1, c] += d1
