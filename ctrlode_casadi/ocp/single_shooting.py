"""Single shooting: the initial state and the controls are the only variables, one element simulates the horizon."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import casadi as ca
import numpy as np

from ..integrate.solvers import RungeKutta
from .definition import Definition, PointConstraint
from .elements import Element, join
from .groups import OBJECTIVE, IntArray
from .guess import Guess
from .points import Horizon, Slacks, boundary_rows, held, integral_rows, quadratures, slack_variables
from .shooting import ShootingStates, bounded_states, inside_rows, inside_values, repeated
from .simulation import interval_function


class _Rows:
    """Contributions of the one element and where they go."""

    def __init__(self) -> None:
        self.results: list[ca.MX] = []
        self.targets: list[IntArray] = []

    def add(self, result: ca.MX, target: IntArray) -> None:
        self.results.append(result)
        self.targets.append(target.reshape(-1))

    def pay(self, price: list[ca.MX]) -> None:
        """Contributions to the objective."""
        for cost in price:
            self.add(cost, np.array([OBJECTIVE]))


class _Trajectory:
    """States at the breaks and inside the intervals, and integrals, as expressions.

    `moves` (nx, N + 1) is added to the states: column k < N after break k, where the constraints at that break do not
    see it, the last column before the last break.
    """

    def __init__(self, h: Horizon, element: Element, interval: ca.Function, moves: ca.MX | None) -> None:
        d, mesh = h.problem, h.control.mesh
        values = ca.reshape(element.variables["u"], d.nu, h.u.shape[0])
        self.nodes, self.inner = [element.variables["x"]], []
        self.left, self.right, self.starts, self.lengths = [], [], [], []
        self.integrals: ca.MX = ca.MX.zeros(interval.numel_out(1), 1)
        for k in range(mesh.size):
            parts = h.control.parts(k)
            self.left.append(values[:, int(parts[0])])
            self.right.append(values[:, int(parts[-1])])
            self.starts.append(element.time(mesh.breaks[k]))
            self.lengths.append(mesh.lengths[k] * element.duration)
            start = self.nodes[k] if moves is None else self.nodes[k] + moves[:, k]
            X, Q = interval(self.starts[k], self.lengths[k], start, self.left[k], self.right[k], element.p)
            self.integrals = self.integrals + Q
            self.inner.append(X)
            self.nodes.append(X[:, -1])
        if moves is not None:
            self.nodes[-1] = self.nodes[-1] + moves[:, -1]


@dataclass(frozen=True, eq=False)
class _Layout:
    """Places of all variables and rows but those of states and controls, and how the intervals are integrated.

    Attributes
    ----------
    integrals, terminal
        Rows of the integral constraints and of the fixed terminal states.
    constraints
        Path constraints and state bounds: the breaks where each is imposed, its rows there and inside the intervals,
        and its slacks at both.
    ends
        Slacks and targets of the boundary constraints.
    integrands, n_costs
        What is integrated besides the states, None for nothing, and how many of it are costs; see `quadratures`.
    interval, segments
        One interval and in how many parts it is cut; see `interval_function`.
    """

    integrals: IntArray
    terminal: IntArray
    constraints: list[_Imposed]
    ends: list[tuple[Slacks, IntArray]]
    integrands: ca.Function | None
    n_costs: int
    interval: ca.Function
    segments: int

    @property
    def slacks(self) -> list[IntArray]:
        """Places of all slacks, in the order of the element's variables."""
        own = [slack for c in self.constraints for slack in (c.node_slacks, c.inner_slacks)]
        return [slack.places for slack in [*own, *(slack for slack, _ in self.ends)]]


@dataclass(frozen=True, eq=False)
class _Imposed:
    """A constraint, and where it is imposed; see `_Layout`."""

    constraint: PointConstraint
    nodes: IntArray
    node_rows: IntArray
    inner_rows: IntArray
    node_slacks: Slacks
    inner_slacks: Slacks


def transcribe_single(h: Horizon, guess: Guess, solver: RungeKutta) -> ShootingStates:
    """Write a problem down as an NLP by single shooting."""
    d, mesh = h.problem, h.control.mesh
    known = np.isfinite(d.x_start)
    start = h.build.variables(
        (1, d.nx),
        lambda i, j: f"initial state {d.state_names[j]}",
        stage=0.0,
        lb=np.where(known, d.x_start, d.x_lb),
        ub=np.where(known, d.x_start, d.x_ub),
        guess=guess.x(np.zeros(1)),
        scale=h.scales.x,
    )
    layout = _layout(h, solver)
    function, targets = _simulation(h, layout, moved=False)
    places = [start, h.u.reshape(1, -1), *(place.reshape(1, -1) for place in layout.slacks)]
    h.build.group("simulation", function, join(places, h.shared), np.zeros((1, 0)), targets[None, :])
    adjoint = partial(_adjoint, h, layout)
    return ShootingStates(mesh.breaks, start, np.zeros((0, d.nx), dtype=np.int64), adjoint)


def _layout(h: Horizon, solver: RungeKutta) -> _Layout:
    """Announce all rows and slacks."""
    d = h.problem
    integrands, n_costs = quadratures(d)
    constraints = _constraints(d)
    counts = [(c.inside or 0) + 1 for c in constraints]
    segments = int(np.lcm.reduce(counts)) if counts else 1
    nodes = [_nodes(h, c) for c in constraints]
    slacks = [_slacks(h, c, which) for c, which in zip(constraints, nodes)]
    ends = [boundary_rows(h, c) for c in d.boundary]
    integrals = integral_rows(h)
    terminal = _terminal_rows(h)
    imposed = [
        _Imposed(c, which, _node_rows(h, c, which), _inner_rows(h, c), *own)
        for c, which, own in zip(constraints, nodes, slacks)
    ]
    interval = interval_function(d, integrands, solver, segments)
    return _Layout(integrals, terminal, imposed, ends, integrands, n_costs, interval, segments)


def _simulation(h: Horizon, layout: _Layout, moved: bool) -> tuple[ca.Function, IntArray]:
    """The element's function and the targets of its results; if moved, with a fourth input (nx, N + 1)."""
    d = h.problem
    sizes = {f"slack{i}": place.size for i, place in enumerate(layout.slacks)}
    element = Element(d, {"x": d.nx, "u": h.u.size} | sizes, {})
    moves = ca.MX.sym("moves", d.nx, h.control.mesh.size + 1) if moved else None
    path = _Trajectory(h, element, layout.interval, moves)
    rows = _Rows()
    if layout.integrands is not None:
        rows.add(path.integrals, np.append(np.full(layout.n_costs, OBJECTIVE), layout.integrals))
    if layout.terminal.size:
        rows.add(path.nodes[-1][np.flatnonzero(np.isfinite(d.x_end)).tolist()], layout.terminal)
    for i, c in enumerate(layout.constraints):
        _at_nodes(h, element, c, element.variables[f"slack{2 * i}"], path, rows)
        _inside(h, element, c, element.variables[f"slack{2 * i + 1}"], path, rows, layout.segments)
    _ends(element, d, layout.ends, 2 * len(layout.constraints), path, rows)
    targets = np.concatenate([np.zeros(0, np.int64), *rows.targets]).astype(np.int64)
    return element.function("simulation", rows.results, moves), targets


def _adjoint(h: Horizon, layout: _Layout) -> ca.Function:
    """(v, s, q, multipliers of the results) -> (nx, N + 1) gradient with respect to moves of the states."""
    f, _ = _simulation(h, layout, moved=True)
    v, s, q, moves = (ca.MX.sym(f.name_in(i), f.sparsity_in(i)) for i in range(4))
    weights = ca.MX.sym("weights", f.numel_out(0))
    gradient = ca.densify(ca.jtimes(f(v, s, q, moves), moves, weights, True))
    at_zero = ca.Function("gradient", [v, s, q, weights, moves], [gradient])
    return ca.Function("adjoint", [v, s, q, weights], [at_zero(v, s, q, weights, 0.0)])


def _constraints(d: Definition) -> list[PointConstraint]:
    """Path constraints, and the state bounds as one."""
    function, lb, ub = bounded_states(d)
    bounds = PointConstraint(function, lb, ub, d.inside, None, "state bounds", False)
    return [*d.path, bounds] if lb.size else list(d.path)


def _nodes(h: Horizon, c: PointConstraint) -> IntArray:
    """Breaks where a constraint is imposed: not at the start where nothing can be chosen there."""
    d, n = h.problem, h.control.mesh.size
    fixed = not c.uses_control and (c.name == "state bounds" or bool(np.isfinite(d.x_start).all()))
    return np.arange(1 if fixed else 0, n if held(h, c) else n + 1)


def _slacks(h: Horizon, c: PointConstraint, which: IntArray) -> tuple[Slacks, Slacks]:
    """Slacks of a constraint at breaks and inside the intervals."""
    mesh = h.control.mesh
    nodes = slack_variables(h, c.soft, c.lb, c.ub, which.astype(np.float64), c.name, mesh.breaks[which])
    lb, ub = repeated(c, c.inside or 0)
    return nodes, slack_variables(h, c.soft, lb, ub, np.arange(mesh.size) + 0.5, c.name)


def _terminal_rows(h: Horizon) -> IntArray:
    d = h.problem
    (fixed,) = np.nonzero(np.isfinite(d.x_end))
    return h.build.rows(
        (fixed.size,),
        lambda i: f"terminal state {d.state_names[fixed[i]]}",
        stage=float(h.control.mesh.size),
        lb=d.x_end[fixed],
        ub=d.x_end[fixed],
        scale=1.0 / h.scales.x[fixed],
    )


def _node_rows(h: Horizon, c: PointConstraint, which: IntArray) -> IntArray:
    mesh, m = h.control.mesh, c.lb.size
    return h.build.rows(
        (which.size, m),
        lambda i, j: f"{c.name}{f'[{j}]' if m > 1 else ''} at {h.when(mesh.breaks[which[i]])}",
        stage=which[:, None],
        lb=c.lb,
        ub=c.ub,
    )


def _inner_rows(h: Horizon, c: PointConstraint) -> IntArray:
    none = np.zeros((h.control.mesh.size, 0), dtype=np.int64)
    return inside_rows(h, c, c.inside) if c.inside else none


def _at_nodes(h: Horizon, element: Element, c: _Imposed, symbol: ca.MX, path: _Trajectory, rows: _Rows) -> None:
    mesh, slack, per = h.control.mesh, c.node_slacks, c.node_slacks.places.shape[1]
    lengths = 0.5 * (np.append(mesh.lengths, 0.0) + np.append(0.0, mesh.lengths))
    for i, k in enumerate(c.nodes.tolist()):
        u = path.left[k] if k < mesh.size else path.right[-1]
        own = symbol[i * per : (i + 1) * per]
        inside = min(k, mesh.size - 1)
        p = element.parameters_in(mesh.breaks[inside] + 0.5 * mesh.lengths[inside])
        g = c.constraint.function(element.time(mesh.breaks[k]), path.nodes[k], u, p)
        rows.add(slack.relax(g, own), c.node_rows[i])
        rows.pay(slack.price(own, float(lengths[k]) * element.duration))


def _inside(
    h: Horizon, element: Element, c: _Imposed, symbol: ca.MX, path: _Trajectory, rows: _Rows, segments: int
) -> None:
    count = c.constraint.inside
    if not count:
        return
    slack, per = c.inner_slacks, c.inner_slacks.places.shape[1]
    for k in range(h.control.mesh.size):
        own = symbol[k * per : (k + 1) * per]
        at = (path.inner[k], path.starts[k], path.lengths[k], path.left[k], path.right[k])
        g = inside_values(c.constraint, count, segments, *at, element.p)
        rows.add(slack.relax(g, own), c.inner_rows[k])
        rows.pay(slack.price(own, path.lengths[k] / (count + 1)))


def _ends(
    element: Element, d: Definition, ends: list[tuple[Slacks, IntArray]], first: int, path: _Trajectory, rows: _Rows
) -> None:
    arguments = (path.nodes[0], path.nodes[-1], element.tf, element.p)
    if d.mayer is not None:
        rows.pay([d.mayer(*arguments)])
    for i, (c, (slack, targets)) in enumerate(zip(d.boundary, ends)):
        own = element.variables[f"slack{first + i}"]
        rows.add(slack.relax(c.function(*arguments), own), targets[0, : c.lb.size])
        rows.pay(slack.price(own, 1.0))
