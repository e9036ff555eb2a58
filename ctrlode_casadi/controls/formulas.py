"""Formulas of all kinds on one interval, shared by the jitted and the vectorised evaluation.

On interval i, of length h, the value is ``w0 * v[i] + w1 * v[i + 1] + z0 * d[i] + z1 * d[i + 1]`` with values v and,
for the cubic kinds, slopes d at the knots; the weights depend on s = t - knots[i] only (Lagrange for degree 1, Hermite
for degree 3). Every function branches on integers and flags alone, so that floats may be numbers or arrays; with both
the same operations are done in the same order, and give the same bits.

Mode is 0 inside, -1 before all knots and 1 after.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .inputs import HOLD, PERIODIC


def ends(mode: int, degree: int, side_right: bool, left: int, right: int) -> tuple[bool, bool]:
    """Whether the end value is held, and whether the value at the interval's right knot is the origin's."""
    hold = (mode == -1 and left == HOLD) or (mode == 1 and right == HOLD)
    return hold, mode == 1 or (mode == 0 and degree == 0 and side_right)


def outside(
    t: Any, first: Any, last: Any, degree: int, side_right: bool, left: int, right: int
) -> tuple[Any, Any, Any]:
    """Whether t is extrapolated before the knots, after them, or moved by whole periods; at most one is true.

    At an end a constant has the value of the side without interval, the other kinds that of the end interval.
    """
    below = t <= first if side_right else t < first
    above = t > last if side_right else t >= last
    wrapped = (below & (left == PERIODIC)) | (above & (right == PERIODIC))
    after = above & (right != PERIODIC) & ((degree == 0) | (t > last))
    return below & (left != PERIODIC), after, wrapped


def in_first_period(t: Any, first: Any, last: Any, side_right: bool) -> Any:
    """t moved by whole periods between the first and the last knot."""
    turns = (t - first) / (last - first)
    cycle = np.ceil(turns) - 1.0 if side_right else np.floor(turns)
    return t - cycle * (last - first)


def weights(
    s: Any, h: Any, mode: int, degree: int, hold: bool, at_right: bool, order: int
) -> tuple[Any, Any, Any, Any]:
    """Weights (w0, w1, z0, z1) of the value (order 0) or its derivative with respect to time (order 1)."""
    if degree == 0 or hold:
        if order == 1:
            return 0.0, 0.0, 0.0, 0.0
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


def powers(
    v0: Any, v1: Any, d0: Any, d1: Any, h: Any, mode: int, degree: int, hold: bool, at_right: bool
) -> tuple[Any, Any, Any, Any]:
    """Coefficients of ascending powers of t - anchor, zero above the degree.

    Inside, the powers of the Hermite cubic are c1 = d0, c2 = (m - d0)/h - e, c3 = e/h with m the secant slope and
    e = (d0 + d1 - 2 m)/h. Left and right of all knots the line through the end value, or the end value itself.
    """
    origin = v1 if at_right else v0
    if degree == 0 or hold:
        return origin, 0.0, 0.0, 0.0
    if degree == 3 and mode != 0:
        return origin, d1 if at_right else d0, 0.0, 0.0
    m = (v1 - v0) / h
    if degree == 1:
        return origin, m, 0.0, 0.0
    e = (d0 + d1 - 2.0 * m) / h
    return origin, d0, (m - d0) / h - e, e / h


def powers_adjoint(
    c1: Any, c2: Any, c3: Any, h: Any, mode: int, degree: int, hold: bool, at_right: bool
) -> tuple[Any, Any, Any]:
    """Transpose of `powers`: from the adjoints of c1, c2, c3 those of (v1 - v0, d0, d1)."""
    if degree == 0 or hold:
        return 0.0, 0.0, 0.0
    if degree == 1:
        return c1 / h, 0.0, 0.0
    if mode != 0:
        return (0.0, 0.0, c1) if at_right else (0.0, c1, 0.0)
    e = c3 / h - c2
    return (c2 / h - 2.0 * e / h) / h, c1 - c2 / h + e / h, e / h
