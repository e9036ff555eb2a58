"""Slopes of Pchip and Akima as functions of the secant slopes m: derivatives, and the same formulae in
CasADi.

Values come from SciPy. Both rules are smooth except where they switch branch (a secant slope changes sign,
two neighbouring ones are equal); there the derivative of the branch that SciPy takes is used.

Arrays: h (1 or b, K-1) knot distances, m and its tangents and adjoints (b, K-1, nu), slopes (b, K, nu), K >=
3.
"""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, to_dm
from .inputs import Expression

#: Relative size below which scipy.interpolate.Akima1DInterpolator takes a slope as undefined.
_AKIMA_CUTOFF = 1e-9


class PchipDerivative:
    """Linearisation of the slopes of Fritsch and Butland (SIAM J. Sci. Comput. 5, 300, 1984,
    doi:10.1137/0905021).

    Inside d[k] = (w1 + w2) / (w1/m[k-1] + w2/m[k]) with w1 = 2 h[k] + h[k-1], w2 = h[k] + 2 h[k-1], or 0
    where the secants differ in sign; at the ends a three-point formula, limited as in Moler, Numerical
    Computing with MATLAB.
    """

    def __init__(self, h: Float64Array, m: Float64Array) -> None:
        h = h[:, :, None]
        w1, w2 = 2.0 * h[:, 1:] + h[:, :-1], h[:, 1:] + 2.0 * h[:, :-1]
        m0, m1 = m[:, :-1], m[:, 1:]
        flat = np.sign(m0) * np.sign(m1) <= 0.0
        a, b = np.where(flat, 1.0, m0), np.where(flat, 1.0, m1)
        largest = np.maximum(np.abs(a), np.abs(b))
        a, b = a / largest, b / largest
        root = (w1 * b + w2 * a) ** 2
        total = w1 + w2
        self.before = np.where(flat, 0.0, total * w1 * b * b / root)
        self.after = np.where(flat, 0.0, total * w2 * a * a / root)
        self.start = _pchip_end(h[:, 0], h[:, 1], m[:, 0], m[:, 1])
        self.end = _pchip_end(h[:, -1], h[:, -2], m[:, -1], m[:, -2])

    def tangent(self, dm: Float64Array) -> Float64Array:
        """Tangent of the slopes."""
        out = np.empty((dm.shape[0], dm.shape[1] + 1, dm.shape[2]))
        out[:, 1:-1] = self.before * dm[:, :-1] + self.after * dm[:, 1:]
        out[:, 0] = self.start[0] * dm[:, 0] + self.start[1] * dm[:, 1]
        out[:, -1] = self.end[0] * dm[:, -1] + self.end[1] * dm[:, -2]
        return out

    def adjoint(self, slopes_bar: Float64Array) -> Float64Array:
        """Adjoint of the secant slopes."""
        out = np.zeros((slopes_bar.shape[0], slopes_bar.shape[1] - 1, slopes_bar.shape[2]))
        out[:, :-1] += self.before * slopes_bar[:, 1:-1]
        out[:, 1:] += self.after * slopes_bar[:, 1:-1]
        for near, far, bar, partials in ((0, 1, slopes_bar[:, 0], self.start), (-1, -2, slopes_bar[:, -1], self.end)):
            out[:, near] += partials[0] * bar
            out[:, far] += partials[1] * bar
        return out


def _pchip_end(h0: Any, h1: Any, m0: Float64Array, m1: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Partial derivatives of an end slope with respect to the two secants next to it."""
    d = ((2.0 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)
    against = np.sign(d) != np.sign(m0)
    limited = ~against & (np.sign(m0) != np.sign(m1)) & (np.abs(d) > 3.0 * np.abs(m0))
    p0 = np.where(against, 0.0, np.where(limited, 3.0, (2.0 * h0 + h1) / (h0 + h1)))
    return p0, np.where(against | limited, 0.0, -h0 / (h0 + h1))


def pchip_expression(h: Float64Array, m: Expression) -> Expression:
    """Slopes (nu, K) from knot distances (K-1,) and secants (nu, K-1), as an expression."""
    nu = m.shape[0]
    w1 = to_dm(np.tile(2.0 * h[1:] + h[:-1], (nu, 1)))
    w2 = to_dm(np.tile(h[1:] + 2.0 * h[:-1], (nu, 1)))
    m0, m1 = m[:, :-1], m[:, 1:]
    flat = ca.sign(m0) * ca.sign(m1) <= 0
    below = ca.if_else(flat, 1.0, w1 * m1 + w2 * m0)
    inner = ca.if_else(flat, 0.0, m0 * (m1 * (w1 + w2) / below))
    return ca.horzcat(
        _pchip_end_expression(h[0], h[1], m[:, 0], m[:, 1]),
        inner,
        _pchip_end_expression(h[-1], h[-2], m[:, -1], m[:, -2]),
    )


def _pchip_end_expression(h0: float, h1: float, m0: Expression, m1: Expression) -> Expression:
    d = ((2.0 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)
    limited = ca.logic_and(ca.sign(m0) != ca.sign(m1), ca.fabs(d) > 3.0 * ca.fabs(m0))
    return ca.if_else(ca.sign(d) != ca.sign(m0), 0.0, ca.if_else(limited, 3.0 * m0, d))


class AkimaDerivative:
    """Linearisation of the slopes of Akima (J. ACM 17, 589, 1970, doi:10.1145/321607.321609).

    With two secants added at each end by linear extrapolation, e[k ... k+3] around knot k,
    d[k] = e[k+1] + f2/(f1 + f2) (e[k+2] - e[k+1]), f1 = |e[k+3] - e[k+2]|, f2 = |e[k+1] - e[k]|, or
    (e[k] + e[k+3])/2 where f1 + f2 is below 1e-9 of its largest value over the trajectory.
    """

    def __init__(self, h: Float64Array, m: Float64Array) -> None:
        e = _extend(m)
        K = m.shape[1] + 1
        e0, e1, e2, e3 = (e[:, j : j + K] for j in range(4))
        f1, f2 = np.abs(e3 - e2), np.abs(e1 - e0)
        total = f1 + f2
        defined = total > _AKIMA_CUTOFF * total.max(axis=(1, 2), keepdims=True, initial=0.0)
        total = np.where(defined, total, 1.0)
        share = f2 / total
        by_f1 = -(e2 - e1) / total * share * np.sign(e3 - e2)
        by_f2 = (e2 - e1) / total * (f1 / total) * np.sign(e1 - e0)
        inside = (-by_f2, 1.0 - share + by_f2, share - by_f1, by_f1)
        mean = (0.5, 0.0, 0.0, 0.5)
        self.partials = tuple(np.where(defined, p, q) for p, q in zip(inside, mean, strict=True))

    def tangent(self, dm: Float64Array) -> Float64Array:
        """Tangent of the slopes."""
        e, K = _extend(dm), dm.shape[1] + 1
        p0, p1, p2, p3 = self.partials
        return p0 * e[:, :K] + p1 * e[:, 1 : K + 1] + p2 * e[:, 2 : K + 2] + p3 * e[:, 3:]

    def adjoint(self, slopes_bar: Float64Array) -> Float64Array:
        """Adjoint of the secant slopes."""
        b, K, nu = slopes_bar.shape
        e = np.zeros((b, K + 3, nu))
        for j, p in enumerate(self.partials):
            e[:, j : j + K] += p * slopes_bar
        for a, near, far in ((0, 1, 2), (1, 2, 3), (-1, -2, -3), (-2, -3, -4)):  # reverse of _extend
            e[:, near] += 2.0 * e[:, a]
            e[:, far] -= e[:, a]
        return e[:, 2:-2]


def _extend(m: Float64Array) -> Float64Array:
    """Two more secants at each end by linear extrapolation, (b, K+3, nu)."""
    e = np.empty((m.shape[0], m.shape[1] + 4, m.shape[2]))
    e[:, 2:-2] = m
    e[:, 1] = 2.0 * e[:, 2] - e[:, 3]
    e[:, 0] = 2.0 * e[:, 1] - e[:, 2]
    e[:, -2] = 2.0 * e[:, -3] - e[:, -4]
    e[:, -1] = 2.0 * e[:, -2] - e[:, -3]
    return e


def akima_expression(h: Float64Array, m: Expression) -> Expression:
    """Slopes (nu, K) from secants (nu, K-1), as an expression."""
    K = m.shape[1] + 1
    before = 2.0 * m[:, 0] - m[:, 1]
    after = 2.0 * m[:, -1] - m[:, -2]
    e = ca.horzcat(2.0 * before - m[:, 0], before, m, after, 2.0 * after - m[:, -1])
    e0, e1, e2, e3 = (e[:, j : j + K] for j in range(4))
    f1, f2 = ca.fabs(e3 - e2), ca.fabs(e1 - e0)
    total = f1 + f2
    defined = total > _AKIMA_CUTOFF * ca.mmax(total)
    share = f2 / ca.if_else(defined, total, 1.0)
    return ca.if_else(defined, e1 + share * (e2 - e1), 0.5 * (e0 + e3))
