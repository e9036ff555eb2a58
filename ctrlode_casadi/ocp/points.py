"""Constraints at points of the horizon and at its ends, the same for all transcriptions with free states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from .assembly import GLOBAL, Assembler
from .checks import depends_on
from .controls import ControlGrid
from .definition import Definition, EndConstraint, PointConstraint, Soft, point_symbols
from .elements import Element, join
from .groups import OBJECTIVE, IntArray
from .scaling import Scales


@dataclass(frozen=True, eq=False)
class Horizon:
    """What all parts of a transcription share.

    Attributes
    ----------
    problem
        The problem that is transcribed.
    scales
        Typical sizes.
    build
        Collects variables, rows and groups.
    control
        The control's grid.
    u
        Places of its values, (M, nu).
    shared
        Places of final time and free parameters.
    tf
        Final time of the guess, for times in messages.
    """

    problem: Definition
    scales: Scales
    build: Assembler
    control: ControlGrid
    u: IntArray
    shared: IntArray
    tf: float

    def when(self, fraction: Any) -> str:
        """Time at a fraction of the horizon, for messages."""
        d = self.problem
        return f"t = {d.t0 + fraction * (self.tf - d.t0):.6g}"


def _no_places() -> IntArray:
    return np.zeros((0, 0), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Points:
    """Points of the horizon with states of their own.

    Attributes
    ----------
    fractions
        (n,) fractions of the horizon.
    stages
        (n,) places in the order of the NLP.
    intervals, theta
        (n,) interval and place inside it, which give the control.
    states
        (n, nx) places of the states.
    weights
        (n,) fraction of the horizon that each point stands for, for prices of violations.
    algebraic
        (n, nz) places of the algebraic variables; empty where there are none.
    """

    fractions: Float64Array
    stages: Float64Array
    intervals: IntArray
    theta: Float64Array
    states: IntArray
    weights: Float64Array
    algebraic: IntArray = field(default_factory=_no_places)

    def select(self, which: Any) -> Points:
        """Some of the points."""
        return Points(
            self.fractions[which],
            self.stages[which],
            self.intervals[which],
            self.theta[which],
            self.states[which],
            self.weights[which],
            self.algebraic[which] if self.algebraic.size else self.algebraic,
        )


def held(h: Horizon, c: PointConstraint) -> bool:
    """Whether a constraint has one value per interval: imposed twice, its rows would be the same."""
    known = (depends_on(c.function, 0), depends_on(c.function, 1))
    alone = c.uses_control and not c.uses_algebraic and not any(known)
    return h.control.kind == "constant" and c.soft is None and alone


def depends_on_control(d: Definition, c: PointConstraint) -> bool:
    """Whether a constraint depends on the control, directly or by the algebraic variables."""
    return c.uses_control or (c.uses_algebraic and d.nu > 0)


def extra_breaks(h: Horizon, covered: NDArray[np.bool_], by_control: bool) -> NDArray[np.bool_]:
    """Breaks (N + 1,) at which collocation imposes a hard constraint besides its points: the control is known there.

    Parameters
    ----------
    covered
        Breaks that are collocation points.
    by_control
        Whether the constraint depends on the control.
    """
    kind = h.control.kind
    if by_control and kind == "collocation":
        return np.zeros(covered.size, dtype=bool)
    extra = ~covered
    if by_control and kind == "constant":
        extra[:-1] = True  # the value of the interval that begins here
    if not by_control and np.isfinite(h.problem.x_start).all():
        extra[0] = False  # nothing to choose
    return extra


def control_at(h: Horizon, points: Points) -> tuple[IntArray, Float64Array, list[IntArray]]:
    """Values that make the control at each point: places (n, parts, nu), weights (n, parts), padded to one size.

    Points of intervals with different numbers of parts come in several classes, whose indices are the third result.
    """
    counts = np.array([h.control.parts(int(k)).size for k in points.intervals], dtype=np.int64)
    classes = [np.flatnonzero(counts == n) for n in np.unique(counts)]
    width = int(counts.max(initial=0))
    places = np.zeros((points.intervals.size, width, h.u.shape[1]), dtype=np.int64)
    weights = np.zeros((points.intervals.size, width))
    for i, k in enumerate(points.intervals):
        parts = h.control.parts(int(k))
        places[i, : parts.size] = h.u[parts]
        weights[i, : parts.size] = h.control.weights(int(k), points.theta[i : i + 1])[0]
    exact = np.isin(weights, (0.0, 1.0)).all(axis=1)
    if exact.all() and h.control.kind == "collocation":  # each point is one of the values
        chosen = weights.argmax(axis=1)
        rows = np.arange(chosen.size)
        return places[rows, chosen][:, None], np.ones((chosen.size, 1)), [rows]
    return places, weights, classes


def mixed_control(element: Element, parts: int, nu: int) -> ca.MX:
    """The control from the element's variables "u" (parts * nu) and constants "mix" (parts)."""
    if parts == 1:
        return element.variables["u"]
    values = ca.reshape(element.variables["u"], nu, parts)
    return ca.mtimes(values, element.constants["mix"])


def free_at_point(element: Element, d: Definition, parts: int, algebraic: bool = True) -> ca.MX:
    """v = (u, z) from the element's variables "u" and "z"; zeros for u without parts, and for z that is not there."""
    u = mixed_control(element, parts, d.nu) if parts else ca.MX(d.nu, 1)
    if d.nz == 0:
        return u
    return ca.vertcat(u, element.variables["z"] if algebraic else ca.MX(d.nz, 1))


def add_point_constraint(h: Horizon, c: PointConstraint, points: Points) -> None:
    """Impose a constraint at points."""
    if not c.uses_control:
        none = np.zeros((points.fractions.size, 0), dtype=np.int64)
        _point_group(h, c, points, none, np.zeros((points.fractions.size, 0)), 0)
        return
    places, weights, classes = control_at(h, points)
    for rows in classes:
        some = points.select(rows)
        parts = h.control.parts(int(some.intervals[0])).size if places.shape[1] > 1 else 1
        flat = places[rows][:, :parts].reshape(rows.size, -1)
        _point_group(h, c, some, flat, weights[rows][:, :parts], parts)


def _point_group(
    h: Horizon, c: PointConstraint, points: Points, places: IntArray, weights: Float64Array, parts: int
) -> None:
    d, m, n = h.problem, c.lb.size, points.fractions.size
    if n == 0:
        return
    slack = slack_variables(h, c.soft, c.lb, c.ub, points.stages, c.name, points.fractions)
    mix = parts if parts > 1 else 0
    algebraic = points.algebraic if c.uses_algebraic else np.zeros((n, 0), dtype=np.int64)
    sizes = {"x": d.nx, "u": parts * d.nu, "z": algebraic.shape[1], "slack": slack.places.shape[1]}
    element = Element(d, sizes, {"tau": 1, "weight": 1, "mix": mix, "middle": 1})
    u = free_at_point(element, d, parts, c.uses_algebraic)
    p = element.parameters_in(element.constants["middle"])
    g = c.function(element.time(element.constants["tau"]), element.variables["x"], u, p)
    price = slack.price(element.variables["slack"], element.constants["weight"] * element.duration)
    function = element.function("path", [slack.relax(g, element.variables["slack"]), *price])
    rows = h.build.rows(
        (n, m),
        lambda i, j: f"{c.name}{_entry(j, m)} at {h.when(points.fractions[i])}",
        stage=points.stages[:, None],
        lb=c.lb,
        ub=c.ub,
    )
    mesh = h.control.mesh
    middles = mesh.breaks[points.intervals] + 0.5 * mesh.lengths[points.intervals]
    constants = np.column_stack([points.fractions, points.weights, weights[:, :mix], middles])
    targets = np.hstack([rows, np.full((n, len(price)), OBJECTIVE, dtype=np.int64)])
    own = [points.states, places, algebraic, slack.places]
    h.build.group(c.name, function, join(own, h.shared), constants, targets)


@dataclass(frozen=True, eq=False)
class Slacks:
    """Slack variables of a soft constraint: ``lb <= g + below - above <= ub`` with both non-negative."""

    soft: Soft | None
    below: tuple[int, ...]
    above: tuple[int, ...]
    places: IntArray

    def relax(self, g: ca.MX, slack: ca.MX) -> ca.MX:
        """g with its slacks."""
        for k, i in enumerate(self.below):
            g = g + slack[k] * _unit(i, g.numel())
        for k, i in enumerate(self.above):
            g = g - slack[len(self.below) + k] * _unit(i, g.numel())
        return g

    def price(self, slack: ca.MX, weight: Any) -> list[ca.MX]:
        """Contribution to the objective, if any."""
        if self.soft is None:
            return []
        violation = ca.sumsqr(slack) if self.soft.norm == "l2" else ca.sum1(slack)
        return [weight * self.soft.weight * violation]


def slack_variables(
    h: Horizon,
    soft: Soft | None,
    lb: Float64Array,
    ub: Float64Array,
    stages: NDArray[Any],
    name: str,
    fractions: Float64Array | None = None,
) -> Slacks:
    """Slacks of one soft constraint at n places (none for a hard one)."""
    if soft is None:
        return Slacks(None, (), (), np.zeros((stages.size, 0), dtype=np.int64))
    below = tuple(int(i) for i in np.flatnonzero(np.isfinite(lb)))
    above = tuple(int(i) for i in np.flatnonzero(np.isfinite(ub)))

    def text(i: int, j: int) -> str:
        where = "" if fractions is None else f" at {h.when(fractions[i])}"
        return f"slack of {name}{where}"

    places = h.build.variables(
        (stages.size, len(below) + len(above)), text, stage=stages[:, None], lb=0.0, ub=np.inf, guess=0.0, scale=1.0
    )
    return Slacks(soft, below, above, places)


def add_ends(h: Horizon, start: IntArray, end: IntArray) -> None:
    """Mayer term and boundary constraints, as functions of the variables at both ends."""
    d = h.problem
    n0, nf = start.size, end.size

    def at_ends(element: Element) -> list[ca.MX]:
        """x0 and xf with zeros for what no function depends on."""
        n = d.nx + d.nz if d.with_ends else d.nx
        own = (element.variables["x0"], element.variables["xf"])
        return [x if x.numel() == n else ca.vertcat(x, ca.MX(n - x.numel(), 1)) for x in own]

    if d.mayer is not None:
        element = Element(d, {"x0": n0, "xf": nf}, {})
        cost = d.mayer(*at_ends(element), element.tf, element.p)
        places = join([start[None, :], end[None, :]], h.shared)
        function = element.function("mayer", [cost])
        h.build.group("Mayer term", function, places, np.zeros((1, 0)), np.full((1, 1), OBJECTIVE))
    for c in d.boundary:
        slack, rows = boundary_rows(h, c)
        element = Element(d, {"x0": n0, "xf": nf, "slack": slack.places.shape[1]}, {})
        slacks = element.variables["slack"]
        g = slack.relax(c.function(*at_ends(element), element.tf, element.p), slacks)
        function = element.function("boundary", [g, *slack.price(slacks, 1.0)])
        places = join([start[None, :], end[None, :], slack.places], h.shared)
        h.build.group(c.name, function, places, np.zeros((1, 0)), rows)


def boundary_rows(h: Horizon, c: EndConstraint) -> tuple[Slacks, IntArray]:
    """Slacks of a boundary constraint, and the targets of its values and its price."""
    m = c.lb.size
    slack = slack_variables(h, c.soft, c.lb, c.ub, np.array([GLOBAL]), c.name)
    last = float(h.control.mesh.size)
    rows = h.build.rows((1, m), lambda i, j: f"{c.name}{_entry(j, m)}", stage=last, lb=c.lb, ub=c.ub)
    price = 0 if c.soft is None else 1
    return slack, np.hstack([rows, np.full((1, price), OBJECTIVE, dtype=np.int64)])


def integral_rows(h: Horizon) -> IntArray:
    """Rows of the integral constraints, one after another."""
    d = h.problem
    rows = [np.zeros(0, dtype=np.int64)]
    for c in d.integrals:
        m, name = c.lb.size, c.name

        def text(i: int, m: int = m, name: str = name) -> str:
            return f"{name}{_entry(i, m)}"

        rows.append(h.build.rows((m,), text, stage=float(h.control.mesh.size), lb=c.lb, ub=c.ub))
    return np.concatenate(rows)


def quadratures(d: Definition) -> tuple[ca.Function | None, int]:
    """``(t, x, u, p) -> (running cost, integrands)`` stacked, and the number of costs (0 or 1)."""
    t, x, u, p = point_symbols(d)
    results = [] if d.lagrange is None else [d.lagrange(t, x, u, p)]
    results += [c.function(t, x, u, p) for c in d.integrals]
    if not results:
        return None, 0
    return ca.Function("quadratures", [t, x, u, p], [ca.densify(ca.vertcat(*results))]), int(d.lagrange is not None)


def _entry(j: int, m: int) -> str:
    return f"[{j}]" if m > 1 else ""


def _unit(i: int, n: int) -> ca.DM:
    return ca.DM(ca.Sparsity.triplet(n, 1, [i], [0]), 1.0)
