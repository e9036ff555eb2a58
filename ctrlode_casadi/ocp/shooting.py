"""Multiple shooting: the differential equation is integrated over each interval by fixed Runge-Kutta steps.

The states at all breaks are variables; one equation per interval says that the state integrated from its left end
meets the variable at its right end (Bock & Plitt 1984; Betts 2010, ch. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..integrate.solvers import RungeKutta
from .definition import Definition, PointConstraint, point_symbols
from .elements import Element, join
from .groups import OBJECTIVE, IntArray
from .guess import Guess
from .points import (
    Horizon,
    Points,
    add_ends,
    add_point_constraint,
    held,
    integral_rows,
    quadratures,
    slack_variables,
)
from .simulation import interval_function


@dataclass(frozen=True, eq=False)
class ShootingStates:
    """States that are variables.

    Attributes
    ----------
    fractions
        (N + 1,) breaks of the mesh.
    places
        (N + 1, nx) places of the states in multiple shooting; (1, nx), the initial state, in single shooting.
    defects
        (N, nx) rows of the matching equations; none in single shooting.
    adjoint
        For single shooting, makes the function ``(v, s, q, multipliers of the element's results) -> (nx, N + 1)``: the
        derivative of their product by a change of the state at each break, for costates. None in multiple shooting.
    """

    fractions: Float64Array
    places: IntArray
    defects: IntArray
    adjoint: Callable[[], ca.Function] | None = None


def bounded_states(d: Definition) -> tuple[ca.Function, Float64Array, Float64Array]:
    """State bounds as a point constraint."""
    t, x, u, p = point_symbols(d)
    (which,) = np.nonzero(np.isfinite(d.x_lb) | np.isfinite(d.x_ub))
    function = ca.Function("bounds", [t, x, u, p], [x[which.tolist()]])
    return function, d.x_lb[which], d.x_ub[which]


def _inner(d: Definition) -> list[tuple[PointConstraint, int]]:
    """Constraints that hold at points inside the intervals too, with the number of points."""
    found = [(c, c.inside) for c in d.path if c.inside]
    if d.inside:
        function, lb, ub = bounded_states(d)
        if lb.size:
            found.append((PointConstraint(function, lb, ub, d.inside, None, "state bounds", False), d.inside))
    return found


def transcribe_multiple(h: Horizon, guess: Guess, solver: RungeKutta) -> ShootingStates:
    """Write a problem down as an NLP by multiple shooting."""
    d, mesh, build = h.problem, h.control.mesh, h.build
    n, stages = mesh.size, np.arange(mesh.size + 1.0)
    lb, ub = np.tile(d.x_lb, (n + 1, 1)), np.tile(d.x_ub, (n + 1, 1))
    for row, fixed in ((0, d.x_start), (-1, d.x_end)):
        known = np.isfinite(fixed)
        lb[row, known] = ub[row, known] = fixed[known]
    places = build.variables(
        (n + 1, d.nx),
        lambda i, j: f"state {d.state_names[j]} at {h.when(mesh.breaks[i])}",
        stage=stages[:, None] - 1e-3,
        lb=lb,
        ub=ub,
        guess=guess.x(mesh.breaks),
        scale=h.scales.x,
    )
    defects = build.rows(
        (n, d.nx),
        lambda i, j: f"matching of {d.state_names[j]} at {h.when(mesh.breaks[i + 1])} (interval {i})",
        stage=stages[:-1, None],
        scale=1.0 / h.scales.x,
    )
    _intervals(h, places, defects, solver)
    nodes = Points(mesh.breaks, stages, *mesh.locate(mesh.breaks), places, _node_weights(mesh.lengths))
    for c in d.path:
        fixed_start = not c.uses_control and np.isfinite(d.x_start).all()
        last = -1 if held(h, c) else None
        add_point_constraint(h, c, nodes.select(slice(1 if fixed_start else 0, last)))
    add_ends(h, places[0], places[-1])
    return ShootingStates(mesh.breaks, places, defects)


def _node_weights(lengths: Float64Array) -> Float64Array:
    """Trapezoidal weights of the breaks."""
    return 0.5 * (np.append(lengths, 0.0) + np.append(0.0, lengths))


def _intervals(h: Horizon, places: IntArray, defects: IntArray, solver: RungeKutta) -> None:
    """One element per interval: matching equations, costs, and constraints inside."""
    d, mesh = h.problem, h.control.mesh
    n = mesh.size
    integrands, n_costs = quadratures(d)
    integral = integral_rows(h)
    inner = _inner(d)
    segments = int(np.lcm.reduce([k + 1 for _, k in inner])) if inner else 1
    interval = interval_function(d, integrands, solver, segments)
    parts = [h.control.parts(k) for k in range(n)]
    control = np.stack([h.u[p].reshape(-1) for p in parts])
    slacks = [slack_variables(h, c.soft, *repeated(c, k), np.arange(n) + 0.5, c.name) for c, k in inner]
    sizes = {"x": d.nx, "xn": d.nx, "u": control.shape[1]}
    sizes |= {f"slack{i}": slack.places.shape[1] for i, slack in enumerate(slacks)}
    element = Element(d, sizes, {"tau": 1, "length": 1})
    v, s = element.variables, element.constants
    ua, ub = v["u"][: d.nu], v["u"][-d.nu :] if d.nu else v["u"]
    start, length = element.time(s["tau"]), s["length"] * element.duration
    X, Q = interval(start, length, v["x"], ua, ub, element.p)
    results, targets = [X[:, -1] - v["xn"]], [defects]
    if integrands is not None:
        results.append(Q)
        row = np.concatenate([np.full(n_costs, OBJECTIVE, dtype=np.int64), integral])
        targets.append(np.tile(row, (n, 1)))
    for i, ((c, k), slack) in enumerate(zip(inner, slacks)):
        g = inside_values(c, k, segments, X, start, length, ua, ub, element.p)
        price = slack.price(v[f"slack{i}"], length / (k + 1))
        results += [slack.relax(g, v[f"slack{i}"]), *price]
        targets += [inside_rows(h, c, k), np.full((n, len(price)), OBJECTIVE, dtype=np.int64)]
    variables = join([places[:-1], places[1:], control, *(slack.places for slack in slacks)], h.shared)
    constants = np.column_stack([mesh.breaks[:-1], mesh.lengths])
    h.build.group("interval", element.function("interval", results), variables, constants, np.hstack(targets))


def repeated(c: PointConstraint, k: int) -> tuple[Float64Array, Float64Array]:
    """Bounds of a constraint at k points, one after another."""
    return np.tile(c.lb, k), np.tile(c.ub, k)


def inside_values(
    c: PointConstraint, k: int, segments: int, X: ca.MX, t: ca.MX, h: ca.MX, ua: ca.MX, ub: ca.MX, p: ca.MX
) -> ca.MX:
    """Values of a constraint at k points inside an interval, one after another."""
    stride = segments // (k + 1)
    values = []
    for i in range(1, k + 1):
        theta = i / (k + 1)
        values.append(c.function(t + theta * h, X[:, i * stride - 1], ua + theta * (ub - ua), p))
    return ca.vertcat(*values)


def inside_rows(h: Horizon, c: PointConstraint, k: int) -> IntArray:
    """Rows (N, k m) of a constraint at k points inside each interval."""
    mesh, m = h.control.mesh, c.lb.size
    lb, ub = repeated(c, k)

    def text(i: int, j: int) -> str:
        theta = (j // m + 1) / (k + 1)
        entry = f"[{j % m}]" if m > 1 else ""
        return f"{c.name}{entry} at {h.when(mesh.breaks[i] + theta * mesh.lengths[i])} (inside interval {i})"

    return h.build.rows((mesh.size, k * m), text, stage=np.arange(mesh.size)[:, None] + 0.5, lb=lb, ub=ub)
