"""Controls as CasADi expressions of time and knot values.

The polynomials of all intervals are matrices (nu, K-1), one per power. At a time t the interval is chosen by
a vector of zeros and a single one, made of comparisons, so that values and derivatives of any order with
respect to t and to the knot values are exact, in MX and SX alike; the cost is proportional to K.
(`casadi.interpolant` with parametric values returns a zero derivative with respect to them.)
"""

from __future__ import annotations

from dataclasses import dataclass

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, to_dm
from .inputs import Expression
from .spans import Span, slack


@dataclass(frozen=True, eq=False)
class Table:
    """Polynomials of one trajectory: inside, a (nu, K-1) matrix per power; at both ends, powers 0 and 1."""

    knots: Float64Array
    inside: list[Expression]
    left: list[Expression]
    right: list[Expression]


def secants(knots: Float64Array, U: Expression) -> Expression:
    """Secant slopes (nu, K-1) of knot values (nu, K)."""
    return (U[:, 1:] - U[:, :-1]) / to_dm(np.tile(np.diff(knots), (U.shape[0], 1)))


def table(
    knots: Float64Array,
    U: Expression,
    slopes: Expression | None,
    degree: int,
    side_right: bool,
    rules: tuple[str, str],
) -> Table:
    """The polynomials for knot values U (nu, K) and, for degree 3, slopes (nu, K)."""
    zero = 0.0 * U[:, 0]
    if degree == 0:
        inside = [U[:, 1:] if side_right else U[:, :-1]]
        ends = [zero, zero]
    elif slopes is None:
        m = secants(knots, U)
        inside = [U[:, :-1], m]
        ends = [m[:, 0], m[:, -1]]
    else:
        h, m = to_dm(np.tile(np.diff(knots), (U.shape[0], 1))), secants(knots, U)
        d0, d1 = slopes[:, :-1], slopes[:, 1:]
        e = (d0 + d1 - 2.0 * m) / h
        inside = [U[:, :-1], d0, (m - d0) / h - e, e / h]
        ends = [slopes[:, 0], slopes[:, -1]]
    left, right = (zero if rule == "hold" else end for rule, end in zip(rules, ends, strict=True))
    return Table(knots, inside, [U[:, 0], left], [U[:, -1], right])


def evaluate(t: Expression, polynomials: Table, degree: int, side_right: bool, rules: tuple[str, str]) -> Expression:
    """The control (nu, 1) at time t (a scalar expression)."""
    knots = polynomials.knots
    first, last = float(knots[0]), float(knots[-1])
    below = t <= first if side_right else t < first
    above = t > last if side_right else t >= last
    wrap = (below if rules[0] == "periodic" else 0.0) + (above if rules[1] == "periodic" else 0.0)
    tau = t
    if "periodic" in rules:
        turns = (t - first) / (last - first)
        cycle = ca.ceil(turns) - 1.0 if side_right else ca.floor(turns)
        tau = t - ca.if_else(wrap > 0.5, cycle * (last - first), 0.0)
    beyond_left = 0.0 if rules[0] == "periodic" else below
    beyond_right = 0.0 if rules[1] == "periodic" else (above if degree == 0 else t > last)
    chosen = _chosen(tau, knots, side_right)
    chosen = ca.vertcat(beyond_left, chosen * (1.0 - beyond_left) * (1.0 - beyond_right), beyond_right)
    s = tau - ca.dot(to_dm(np.concatenate([[first], knots[:-1], [last]])), chosen)
    u: Expression = 0.0 * polynomials.left[0]
    for j in range(degree, -1, -1):
        parts = (polynomials.left, polynomials.inside, polynomials.right)
        columns = [part[j] if j < len(part) else 0.0 * part[0] for part in parts]
        u = u * s + ca.mtimes(ca.horzcat(*columns), chosen)
    if "error" not in rules:
        return u
    room = float(slack(first, last))
    early = t < first - room if rules[0] == "error" else 0.0
    late = t > last + room if rules[1] == "error" else 0.0
    return u + ca.if_else(early + late > 0.5, float("nan"), 0.0)


def _chosen(tau: Expression, knots: Float64Array, side_right: bool) -> Expression:
    """A column (K-1) with a one at the interval that holds tau; the outer intervals have no end."""
    if knots.size == 2:
        return 1.0 + 0.0 * tau
    inner = to_dm(knots[1:-1])
    passed = tau > inner if side_right else tau >= inner
    return ca.vertcat(1.0, passed) * ca.vertcat(1.0 - passed, 1.0)


def over_span(polynomials: Table, degree: int, span: Span | None) -> list[Expression]:
    """Coefficients (nu, degree + 1) of each interval, or of each piece of a span."""
    count = polynomials.inside[0].shape[1]
    columns = [ca.horzsplit(c) for c in polynomials.inside]
    pairs = zip(span.intervals, span.modes) if span is not None else ((i, 0) for i in range(count))
    out: list[Expression] = []
    for i, mode in pairs:
        if mode == 0:
            out.append(ca.horzcat(*(c[int(i)] for c in columns)))
            continue
        end = (polynomials.left if mode < 0 else polynomials.right)[: degree + 1]
        out.append(ca.horzcat(*end, *([0.0 * end[0]] * (degree + 1 - len(end)))))
    return out
