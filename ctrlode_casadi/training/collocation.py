"""Collocation: on each interval the states are a polynomial that fulfils the differential equation at some points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call_rows
from ..ocp.groups import OBJECTIVE
from ..ocp.mesh import Rule, lagrange
from .algebraic import Equations
from .draft import Draft, Element
from .grid import Grid, IntArray, make_grid
from .node_guess import resampled
from .scheme import Read, Scheme, node_path

#: An interval is cut into so many parts at most in one round.
MOST_PARTS = 8


@dataclass(frozen=True, eq=False)
class Inner:
    """Collocation points of all intervals.

    Attributes
    ----------
    places
        Places of the states (N, d, nx).
    times, controls
        (N, d) and (N, d, nu).
    """

    places: IntArray
    times: Float64Array
    controls: Float64Array


class Collocation(Scheme):
    """Collocation of one degree; intervals whose error is too large are divided.

    Parameters
    ----------
    rule
        Points, slopes and weights.
    accuracy
        Largest error of an interval relative to the states; None for no check.
    """

    def __init__(self, rule: Rule, accuracy: float | None) -> None:
        self._rule, self._accuracy = rule, accuracy
        self._inner: Inner | None = None

    def add(self, draft: Draft) -> None:
        inner = self._inner = add_intervals(draft, self._rule)
        nx, grid = draft.problem.model.nx, draft.grid
        self.evaluations = inner.times.size
        if self._rule.ends_at_one:  # the points reach the next node; only the first node of a trajectory is left
            (first,) = np.nonzero(np.isin(grid.left, grid.first))
            u = grid.controls(grid.start[:, None])[first, 0]
            draft.add_path(draft.nodes[grid.left[first]], grid.trajectory[grid.left[first]], grid.start[first], u)
        else:
            node_path(draft)
        trajectory = np.repeat(grid.trajectory[grid.left], self._rule.degree)
        u = inner.controls.reshape(inner.times.size, draft.problem.model.nu)
        draft.add_path(inner.places.reshape(-1, nx), trajectory, inner.times.ravel(), u)

    def refine(self, draft: Draft, read: Read, theta: Float64Array) -> tuple[Grid, Float64Array] | None:
        inner, grid = cast(Inner, self._inner), draft.grid
        nodes, points = read(draft.nodes), read(inner.places)
        p = theta[: draft.problem.n_params]
        error = local_errors(draft, self._rule, nodes[grid.left], points, p)
        self.error = float(error.max(initial=0.0))
        if self._accuracy is None or self.error <= self._accuracy:
            return None
        # The residual has order d: so many parts bring it down to the accuracy.
        wanted = np.ceil((error / self._accuracy) ** (1.0 / (self._rule.degree + 1)))
        factor = np.ones(int(grid.whole.max()) + 1, np.int64)
        np.maximum.at(factor, grid.whole, np.clip(wanted, 1, MOST_PARTS).astype(np.int64))
        parts = np.bincount(grid.whole) * factor
        new = make_grid(draft.problem.batch, parts)
        own = self._rule.degree - int(self._rule.ends_at_one)
        times = np.concatenate([grid.times, inner.times[:, :own].ravel()])
        trajectory = np.concatenate([grid.trajectory, np.repeat(grid.trajectory[grid.left], own)])
        states = np.concatenate([nodes, points[:, :own].reshape(-1, nodes.shape[1])])
        return new, resampled(times, trajectory, states, new)


def add_intervals(draft: Draft, rule: Rule) -> Inner:
    """States at the collocation points, their equations, and the integral of a running cost."""
    inner = _points(draft, rule)
    grid, nx, d = draft.grid, draft.problem.model.nx, rule.degree
    if draft.equations is not None:
        add_equations(draft, draft.equations, rule, inner)
        return inner

    def text(i: int, j: int, k: int) -> str:
        where = draft.when(grid.trajectory[grid.left[i]], inner.times[i, j])
        return f"differential equation of {draft.state_names[k]} at {where}"

    stage = grid.left[:, None, None] + np.clip(rule.points, 0.0, 0.99)[:, None]
    rows = draft.build.rows((grid.size, d, nx), text, stage=stage, scale=1.0 / draft.x_scale)
    _polynomials(draft, rule, inner, rows)
    _slopes(draft, rule, inner, rows)
    return inner


def add_equations(draft: Draft, equations: Equations, rule: Rule, inner: Inner) -> None:
    """The equations of a DAE: those with derivatives and those without, at the points; the latter at nodes too.

    Such a node is the first one of a trajectory, and with Legendre points every other one.
    """
    grid, n = draft.grid, equations.n_states

    def text(i: int, j: int, k: int) -> str:
        where = draft.when(grid.trajectory[grid.left[i]], inner.times[i, j])
        return f"differential equation {k} at {where}"

    stage = grid.left[:, None, None] + np.clip(rule.points, 0.0, 0.99)[:, None]
    rows = draft.build.rows((grid.size, rule.degree, n), text, stage=stage, scale=1.0 / draft.moving_scale)
    _polynomials(draft, rule, inner, rows)
    _slopes(draft, rule, inner, rows)
    (first,) = np.nonzero(np.isin(grid.left, grid.first))
    own, times, controls = (
        draft.nodes[grid.left[first]],
        grid.start[first],
        grid.controls(grid.start[:, None])[first, 0],
    )
    if not rule.ends_at_one:
        ends = grid.times[grid.right]
        own = np.vstack([own, draft.nodes[grid.right]])
        times = np.append(times, ends)
        controls = np.vstack([controls, grid.controls(ends[:, None])[:, 0]])
    nodes = np.append(grid.left[first], grid.right if not rule.ends_at_one else [])
    targets = algebraic_rows(draft, equations, nodes, times)
    functions, nx = draft.problem.functions, draft.problem.model.nx
    element = Element(draft, {"x": nx}, {"t": 1, "u": draft.problem.model.nu})
    s, x = element.constants, ca.vertcat(element.own["x"], ca.MX(functions.nx - nx, 1))
    value = functions.rhs(s["t"], x, s["u"], element.p)[:nx]
    draft.add("node", element, [equations.residual(value)], own, np.column_stack([times, controls]), targets)


def algebraic_rows(draft: Draft, equations: Equations, stages: Any, times: Float64Array) -> IntArray:
    """Rows (m, n) of the algebraic equations at times (m,)."""
    return draft.build.rows(
        (times.size, equations.n_algebraic),
        lambda i, j: f"algebraic equation {j} at t = {times[i]:g}",
        stage=np.asarray(stages, dtype=np.float64)[:, None],
        scale=1.0 / draft.equation_scale,
    )


def _points(draft: Draft, rule: Rule) -> Inner:
    """Variables for the states at the collocation points; a Radau scheme's last point is the next node."""
    grid, names = draft.grid, draft.state_names
    times = grid.start[:, None] + grid.length[:, None] * rule.points
    own = rule.degree - int(rule.ends_at_one)
    left, right = draft.states[grid.left], draft.states[grid.right]
    guess = left[:, None] + rule.points[:, None] * (right - left)[:, None]
    lb, ub = draft.limits.lb, draft.limits.ub
    places = draft.build.variables(
        (grid.size, own, len(names)),
        lambda i, j, k: f"state {names[k]} at {draft.when(grid.trajectory[grid.left[i]], times[i, j])}",
        stage=grid.left[:, None, None] + rule.points[:own, None],
        lb=lb,
        ub=ub,
        guess=np.clip(guess[:, :own], lb, ub),
        scale=draft.x_scale,
    )
    if rule.ends_at_one:
        places = np.concatenate([places, draft.nodes[grid.right][:, None]], axis=1)
    return Inner(places, times, grid.controls(times))


def _polynomials(draft: Draft, rule: Rule, inner: Inner, rows: IntArray) -> None:
    """Slopes of the polynomials, and for Legendre points their value at the next node."""
    grid, nx, d = draft.grid, draft.problem.model.nx, rule.degree
    closing = not rule.ends_at_one
    element = Element(draft, {"x": nx * (d + 1), "next": nx * closing}, {}, with_p=False)
    columns = ca.reshape(element.own["x"], nx, d + 1)
    moving = columns if draft.equations is None else draft.equations.moving(columns)
    results = [ca.vec(ca.mtimes(moving, ca.DM(rule.slopes)))]
    own = np.concatenate([draft.nodes[grid.left][:, None], inner.places], axis=1).reshape(grid.size, -1)
    targets = rows.reshape(grid.size, -1)
    if closing:
        after = element.own["next"]
        after = after if draft.equations is None else draft.equations.moving(after)
        results.append(ca.mtimes(moving, ca.DM(rule.end)) - after)
        own = np.hstack([own, draft.nodes[grid.right]])
        ends = draft.build.rows(
            (grid.size, draft.moving_scale.size),
            lambda i, j: (
                f"continuity of {draft.state_names[j] if draft.equations is None else f'state {j}'} at "
                + draft.when(grid.trajectory[grid.right[i]], grid.times[grid.right[i]])
            ),
            stage=grid.left[:, None] + 0.995,
            scale=1.0 / draft.moving_scale,
        )
        targets = np.hstack([targets, ends])
    draft.add("polynomial", element, results, own, np.zeros((grid.size, 0)), targets)


def _slopes(draft: Draft, rule: Rule, inner: Inner, rows: IntArray) -> None:
    """The right-hand side at every point, and the quadrature of a running cost."""
    grid, problem = draft.grid, draft.problem
    functions, nx, d = problem.functions, problem.model.nx, rule.degree
    element = Element(draft, {"x": nx}, {"t": 1, "h": 1, "u": problem.model.nu, "weight": 1})
    s = element.constants
    x = ca.vertcat(element.own["x"], ca.MX(functions.nx - nx, 1))
    slope = functions.rhs(s["t"], x, s["u"], element.p)
    equations, targets = draft.equations, rows.reshape(-1, rows.shape[2])
    if equations is None:
        results = [-s["h"] * slope[:nx]]
    else:
        results = [-s["h"] * equations.slopes(slope[:nx]), equations.residual(slope[:nx])]
        stages = (grid.left[:, None] + np.clip(rule.points, 0.0, 0.99)).ravel()
        targets = np.hstack([targets, algebraic_rows(draft, equations, stages, inner.times.ravel())])
    if functions.nx > nx:
        results.append(s["weight"] * slope[nx])
        targets = np.hstack([targets, np.full((targets.shape[0], 1), OBJECTIVE)])
    scale = problem.scale[grid.trajectory[grid.left]]
    weights = (scale * grid.length)[:, None] * rule.weights
    length = np.broadcast_to(grid.length[:, None], inner.times.shape)
    controls = inner.controls.reshape(grid.size * d, problem.model.nu)
    constants = np.column_stack([inner.times.ravel(), length.ravel(), controls, weights.ravel()])
    draft.add("collocation point", element, results, inner.places.reshape(-1, nx), constants, targets)


def local_errors(draft: Draft, rule: Rule, nodes: Float64Array, points: Float64Array, p: Float64Array) -> Float64Array:
    """Error of each interval (N,): the integral of the absolute residual of its polynomial, relative to the states.

    The residual vanishes at the collocation points; a quadrature with more points sees what is left. It bounds the
    error inside the interval; that of the nodes is of higher order. (Betts, Practical Methods for Optimal Control,
    2010, section 4.7.)

    Parameters
    ----------
    nodes, points
        States at the left nodes (N, nx) and at the collocation points (N, d, nx).
    p
        The model's parameters.
    """
    grid, functions, nx = draft.grid, draft.problem.functions, draft.problem.model.nx
    theta, weight = np.polynomial.legendre.leggauss(rule.degree + 3)
    theta, weight = 0.5 * (theta + 1.0), 0.5 * weight
    knots = np.append(0.0, rule.points)
    basis, slopes = lagrange(knots, theta), lagrange_slopes(knots, theta)
    columns = np.concatenate([nodes[:, None], points], axis=1)
    x = np.einsum("mi,kix->kmx", basis, columns)
    times = grid.start[:, None] + grid.length[:, None] * theta
    equations = draft.equations
    if equations is not None:
        flat = np.concatenate([times[..., None], x, grid.controls(times)], axis=2).reshape(times.size, -1)
        y = equations.consistent(flat, p)
        f = call_rows(equations.along_rows(equations.slopes), np.hstack([flat[:, :1], y, flat[:, 1 + nx :]]), p)
        C = equations.coordinates.T
        return _relative(draft, weight, slopes, columns @ C, f.reshape(*times.shape, -1))
    rest = np.zeros((*times.shape, functions.nx - nx))
    rows = np.concatenate([times[..., None], x, rest, grid.controls(times)], axis=2).reshape(times.size, -1)
    v, q = ca.MX.sym("v", rows.shape[1]), ca.MX.sym("p", p.size)
    slope = functions.rhs(v[0], v[1 : 1 + functions.nx], v[1 + functions.nx :], q)
    f = call_rows(ca.Function("slope", [v, q], [ca.densify(slope)]), rows, p)[:, :nx].reshape(*times.shape, nx)
    return _relative(draft, weight, slopes, columns, f)


def _relative(
    draft: Draft, weight: Float64Array, slopes: Float64Array, columns: Float64Array, f: Float64Array
) -> Float64Array:
    """Integrals of the residuals relative to the states, largest of each interval (N,)."""
    slope_of = np.einsum("mi,kix->kmx", slopes, columns)
    residual = np.abs(slope_of - draft.grid.length[:, None, None] * f)
    size = np.maximum(draft.moving_scale, np.abs(columns).max(axis=1))
    return np.asarray((np.einsum("m,kmx->kx", weight, residual) / size).max(axis=1, initial=0.0))


def lagrange_slopes(nodes: Float64Array, at: Float64Array) -> Float64Array:
    """Derivatives (m, n) of the n Lagrange polynomials of the nodes at m places that are no nodes."""
    inverse = 1.0 / (at[:, None] - nodes)
    return np.asarray(lagrange(nodes, at) * (inverse.sum(axis=1, keepdims=True) - inverse))
