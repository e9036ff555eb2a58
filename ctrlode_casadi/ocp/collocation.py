"""Direct collocation: states are polynomials on each interval, the differential equation holds at points.

On an interval of length h with the node state X and the collocation states x_1 ... x_d, the state is the polynomial
through X and the x_i. Its slope at each point equals the right-hand side; integrals are the scheme's quadrature
(Betts, Practical Methods for Optimal Control, 2010, ch. 4; Biegler, Nonlinear Programming, 2010, ch. 10).

The slopes are linear in the states and form one group; the right-hand side at a point depends on the states and the
controls there only and forms another, whose elements are the points of all intervals together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from . import algebraic
from .elements import Element, join
from .groups import OBJECTIVE, IntArray
from .guess import Guess
from .mesh import Mesh, Rule, collocation_rule, lagrange
from .points import (
    Horizon,
    Points,
    add_ends,
    add_point_constraint,
    control_at,
    depends_on_control,
    extra_breaks,
    free_at_point,
    held,
    integral_rows,
    quadratures,
)


@dataclass(frozen=True, eq=False)
class CollocationStates:
    """States of a collocation.

    Attributes
    ----------
    fractions
        (P,) breaks and collocation points, increasing; a Radau point at the end of an interval is the break.
    places
        (P, nx) places of the states.
    breaks
        (N + 1,) which of them are breaks.
    points
        For each interval, which of them are its collocation points (d,).
    defects
        For each interval, rows (d, nx) of its equations.
    closings
        (N, nx) rows of the continuity at the end of each interval; -1 where a Radau point is that end.
    algebraic
        (n + k, nz) places of the algebraic variables at the collocation points of all intervals, and at the k breaks
        where they are needed too; empty for an ODE.
    algebraic_fractions
        (n + k,) where these stand.
    """

    fractions: Float64Array
    places: IntArray
    breaks: IntArray
    points: list[IntArray]
    defects: list[IntArray]
    closings: IntArray
    algebraic: IntArray
    algebraic_fractions: Float64Array


def transcribe(h: Horizon, guess: Guess, scheme: str) -> CollocationStates:
    """Write a problem down as an NLP by collocation."""
    mesh = h.control.mesh
    rules = {int(n): collocation_rule(scheme, int(n)) for n in np.unique(mesh.degrees)}
    states = _states(h, guess, mesh, rules)
    _slopes(h, states, rules)
    points = _collocation_points(h, states, rules)
    if h.problem.nz:
        ends_at_one = rules[int(mesh.degrees[-1])].ends_at_one
        places = algebraic.add_variables(h, guess, points.fractions, points.stages, ends_at_one)
        points = replace(points, algebraic=places)
    _dynamics(h, states, points)
    at_breaks = _breaks(mesh, states)
    covered = np.isin(at_breaks.states[:, 0], points.states[:, 0])
    if h.problem.nz:
        at_breaks = replace(at_breaks, algebraic=algebraic.at_breaks(h, guess, at_breaks, covered))
    _path(h, at_breaks, points, covered)
    add_ends(h, *algebraic.at_ends(h.problem, at_breaks, points))
    if not h.problem.nz:
        return states
    present = at_breaks.algebraic[:, 0] >= 0
    return replace(
        states,
        algebraic=np.vstack([points.algebraic, at_breaks.algebraic[present]]),
        algebraic_fractions=np.append(points.fractions, mesh.breaks[present]),
    )


def _states(h: Horizon, guess: Guess, mesh: Mesh, rules: dict[int, Rule]) -> CollocationStates:
    """Variables for the states at breaks and collocation points."""
    d = h.problem
    fractions, stages = [0.0], [0.0]
    breaks, points = [0], []
    for k in range(mesh.size):
        rule = rules[int(mesh.degrees[k])]
        first = len(fractions)
        fractions += (mesh.breaks[k] + mesh.lengths[k] * rule.points).tolist()
        stages += (k + rule.points).tolist()
        points.append(np.arange(first, first + rule.degree))
        if rule.ends_at_one:
            fractions[-1] = mesh.breaks[k + 1]
        else:
            fractions.append(mesh.breaks[k + 1])
            stages.append(k + 1.0)
        breaks.append(len(fractions) - 1)
    where, stage = np.array(fractions), np.array(stages)
    lb, ub = np.tile(d.x_lb, (where.size, 1)), np.tile(d.x_ub, (where.size, 1))
    for row, fixed in ((0, d.x_start), (-1, d.x_end)):
        known = np.isfinite(fixed)
        lb[row, known] = ub[row, known] = fixed[known]
    places = h.build.variables(
        (where.size, d.nx),
        lambda i, j: f"state {d.state_names[j]} at {h.when(where[i])}",
        stage=stage[:, None],
        lb=lb,
        ub=ub,
        guess=guess.x(where),
        scale=h.scales.x,
    )
    defects = []
    for k, p in enumerate(points):
        at = where[p]

        def text(i: int, j: int, k: int = k, at: Float64Array = at) -> str:
            return f"differential equation of {d.state_names[j]} at {h.when(at[i])} (interval {k})"

        defects.append(h.build.rows((p.size, d.nx), text, stage=stage[p][:, None], scale=1.0 / h.scales.x))
    closings = np.full((mesh.size, d.nx), -1, dtype=np.int64)
    none: IntArray = np.zeros((0, 0), dtype=np.int64)
    return CollocationStates(where, places, np.array(breaks), points, defects, closings, none, np.zeros(0))


def _slopes(h: Horizon, states: CollocationStates, rules: dict[int, Rule]) -> None:
    """Slopes of the polynomials, and for Legendre points the value at the end of the interval."""
    d, mesh = h.problem, h.control.mesh
    for degree, rule in rules.items():
        (which,) = np.nonzero(mesh.degrees == degree)
        nodes = np.stack([np.append(states.breaks[k], states.points[k]) for k in which])
        ends = states.breaks[which + 1]
        with_end = 0 if rule.ends_at_one else 1
        v = ca.MX.sym("v", d.nx * (degree + 1 + with_end))
        columns = ca.reshape(v[: d.nx * (degree + 1)], d.nx, degree + 1)
        results = [ca.vec(ca.mtimes(columns, ca.DM(rule.slopes)))]
        rows = np.stack([states.defects[k].reshape(-1) for k in which])
        variables = states.places[nodes].reshape(which.size, -1)
        if with_end:
            results.append(ca.mtimes(columns, ca.DM(rule.end)) - v[d.nx * (degree + 1) :])
            variables = np.hstack([variables, states.places[ends]])
            breaks = mesh.breaks[which + 1]

            def text(i: int, j: int, breaks: Float64Array = breaks) -> str:
                return f"continuity of {d.state_names[j]} at {h.when(breaks[i])}"

            closing = h.build.rows((which.size, d.nx), text, stage=(which + 1.0)[:, None], scale=1.0 / h.scales.x)
            states.closings[which] = closing
            rows = np.hstack([rows, closing])
        symbols = [v, ca.MX.sym("s", 0), ca.MX.sym("q", 2 + d.np)]
        function = ca.Function("slopes", symbols, [ca.densify(ca.vertcat(*results))], ["v", "s", "q"], ["r"])
        h.build.group("polynomial", function, variables, np.zeros((which.size, 0)), rows)


def _collocation_points(h: Horizon, states: CollocationStates, rules: dict[int, Rule]) -> Points:
    mesh = h.control.mesh
    which = np.concatenate(states.points)
    intervals = np.repeat(np.arange(mesh.size), mesh.degrees)
    theta = np.concatenate([rules[int(n)].points for n in mesh.degrees])
    weights = np.concatenate([rules[int(n)].weights * h for n, h in zip(mesh.degrees, mesh.lengths)])
    return Points(states.fractions[which], intervals + theta, intervals, theta, states.places[which], weights)


def _dynamics(h: Horizon, states: CollocationStates, points: Points) -> None:
    """Right-hand side and running costs at the collocation points."""
    d, mesh = h.problem, h.control.mesh
    integrands, n_costs = quadratures(d)
    integral = integral_rows(h)
    places, mix, classes = control_at(h, points)
    lengths = np.repeat(mesh.lengths, mesh.degrees)
    defects = np.concatenate(states.defects)
    for chosen in classes:
        some = points.select(chosen)
        parts = 1 if places.shape[1] == 1 else h.control.parts(int(some.intervals[0])).size
        extra = parts if parts > 1 else 0
        sizes = {"x": d.nx, "u": parts * d.nu, "z": d.nz}
        element = Element(d, sizes, {"tau": 1, "length": 1, "weight": 1, "mix": extra})
        s, x = element.constants, element.variables["x"]
        u = free_at_point(element, d, parts)
        t = element.time(s["tau"])
        results = [-s["length"] * element.duration * d.rhs(t, x, u, element.p)]
        targets = [defects[chosen]]
        if d.algebraic is not None:
            results.append(d.algebraic(t, x, u, element.p))
            targets.append(algebraic.equation_rows(h, some.fractions, some.stages))
        if integrands is not None:
            results.append(s["weight"] * element.duration * integrands(t, x, u, element.p))
            row = np.concatenate([np.full(n_costs, OBJECTIVE, dtype=np.int64), integral])
            targets.append(np.tile(row, (chosen.size, 1)))
        constants = np.column_stack([some.fractions, lengths[chosen], some.weights, mix[chosen][:, :extra]])
        controls = places[chosen][:, :parts].reshape(chosen.size, -1)
        own = [some.states, controls, some.algebraic] if d.nz else [some.states, controls]
        variables = join(own, h.shared)
        function = element.function("dynamics", results)
        h.build.group("collocation point", function, variables, constants, np.hstack(targets))


def _breaks(mesh: Mesh, states: CollocationStates) -> Points:
    """The breaks as points."""
    return Points(
        mesh.breaks,
        np.arange(mesh.size + 1.0),
        np.minimum(np.arange(mesh.size + 1), mesh.size - 1),
        (np.arange(mesh.size + 1) == mesh.size).astype(np.float64),
        states.places[states.breaks],
        np.zeros(mesh.size + 1),
    )


def _path(h: Horizon, at_breaks: Points, points: Points, covered: NDArray[np.bool_]) -> None:
    """Path constraints at the collocation points; at the breaks too where the control is known there."""
    for c in h.problem.path:
        if held(h, c):
            add_point_constraint(h, c, at_breaks.select(slice(None, -1)))
            continue
        add_point_constraint(h, c, points)
        extra = extra_breaks(h, covered, depends_on_control(h.problem, c))
        if c.soft is None and extra.any():
            add_point_constraint(h, c, at_breaks.select(extra))


def interpolate(mesh: Mesh, scheme: str, states: CollocationStates, x: Float64Array, at: Float64Array) -> Float64Array:
    """The polynomials at fractions of the horizon, (m, nx), from the states (P, nx)."""
    intervals, theta = mesh.locate(at)
    out = np.empty((at.size, x.shape[1]))
    for k in np.unique(intervals):
        here = intervals == k
        rule = collocation_rule(scheme, int(mesh.degrees[k]))
        rows = np.append(states.breaks[k], states.points[k])
        out[here] = lagrange(np.append(0.0, rule.points), theta[here]) @ x[rows]
    return out


def integrate_rates(
    mesh: Mesh, scheme: str, states: CollocationStates, rates: list[Float64Array], start: Float64Array, duration: float
) -> Float64Array:
    """Integrals (P, n) at all points of rates given at the collocation points of each interval, (d, n) each."""
    out = np.empty((states.fractions.size, start.size))
    out[0] = start
    for k in range(mesh.size):
        rule = collocation_rule(scheme, int(mesh.degrees[k]))
        before, h = out[states.breaks[k]], mesh.lengths[k] * duration
        out[states.breaks[k + 1]] = before + h * (rule.weights @ rates[k])
        out[states.points[k]] = before + h * (rule.sums.T @ rates[k])
    return out
