"""Single shooting: the initial state and the controls are the only variables, one element simulates the horizon."""

from __future__ import annotations

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
    """States at the breaks and inside the intervals, and integrals, as expressions."""

    def __init__(self, h: Horizon, element: Element, interval: ca.Function) -> None:
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
            X, Q = interval(self.starts[k], self.lengths[k], self.nodes[k], self.left[k], self.right[k], element.p)
            self.integrals = self.integrals + Q
            self.inner.append(X)
            self.nodes.append(X[:, -1])


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
    integrands, n_costs = quadratures(d)
    constraints = _constraints(d)
    counts = [(c.inside or 0) + 1 for c in constraints]
    segments = int(np.lcm.reduce(counts)) if counts else 1
    nodes = [_nodes(h, c) for c in constraints]
    slacks = [_slacks(h, c, which) for c, which in zip(constraints, nodes)]
    ends = [boundary_rows(h, c) for c in d.boundary]
    places = [slack.places for pair in slacks for slack in pair] + [slack.places for slack, _ in ends]
    sizes = {f"slack{i}": place.size for i, place in enumerate(places)}
    element = Element(d, {"x": d.nx, "u": h.u.size} | sizes, {})
    path = _Trajectory(h, element, interval_function(d, integrands, solver, segments))
    rows = _Rows()
    if integrands is not None:
        rows.add(path.integrals, np.append(np.full(n_costs, OBJECTIVE), integral_rows(h)))
    _terminal_state(h, path, rows)
    for i, (c, which) in enumerate(zip(constraints, nodes)):
        v = element.variables
        _at_nodes(h, element, c, which, slacks[i][0], v[f"slack{2 * i}"], path, rows)
        _inside(h, element, c, slacks[i][1], v[f"slack{2 * i + 1}"], path, rows, segments)
    _ends(element, d, ends, 2 * len(constraints), path, rows)
    function = element.function("simulation", rows.results)
    variables = join([start, h.u.reshape(1, -1), *(place.reshape(1, -1) for place in places)], h.shared)
    targets = np.concatenate([np.zeros(0, np.int64), *rows.targets]).astype(np.int64)[None, :]
    h.build.group("simulation", function, variables, np.zeros((1, 0)), targets)
    return ShootingStates(mesh.breaks, start, np.zeros((0, d.nx), dtype=np.int64))


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


def _terminal_state(h: Horizon, path: _Trajectory, rows: _Rows) -> None:
    d = h.problem
    (fixed,) = np.nonzero(np.isfinite(d.x_end))
    if fixed.size:
        places = h.build.rows(
            (fixed.size,),
            lambda i: f"terminal state {d.state_names[fixed[i]]}",
            stage=float(h.control.mesh.size),
            lb=d.x_end[fixed],
            ub=d.x_end[fixed],
            scale=1.0 / h.scales.x[fixed],
        )
        rows.add(path.nodes[-1][fixed.tolist()], places)


def _at_nodes(
    h: Horizon,
    element: Element,
    c: PointConstraint,
    which: IntArray,
    slack: Slacks,
    symbol: ca.MX,
    path: _Trajectory,
    rows: _Rows,
) -> None:
    mesh, m, per = h.control.mesh, c.lb.size, slack.places.shape[1]
    places = h.build.rows(
        (which.size, m),
        lambda i, j: f"{c.name}{f'[{j}]' if m > 1 else ''} at {h.when(mesh.breaks[which[i]])}",
        stage=which[:, None],
        lb=c.lb,
        ub=c.ub,
    )
    lengths = 0.5 * (np.append(mesh.lengths, 0.0) + np.append(0.0, mesh.lengths))
    for i, k in enumerate(which.tolist()):
        u = path.left[k] if k < mesh.size else path.right[-1]
        own = symbol[i * per : (i + 1) * per]
        g = c.function(element.time(mesh.breaks[k]), path.nodes[k], u, element.p)
        rows.add(slack.relax(g, own), places[i])
        rows.pay(slack.price(own, float(lengths[k]) * element.duration))


def _inside(
    h: Horizon,
    element: Element,
    c: PointConstraint,
    slack: Slacks,
    symbol: ca.MX,
    path: _Trajectory,
    rows: _Rows,
    segments: int,
) -> None:
    if not c.inside:
        return
    places, per = inside_rows(h, c, c.inside), slack.places.shape[1]
    for k in range(h.control.mesh.size):
        own = symbol[k * per : (k + 1) * per]
        at = (path.inner[k], path.starts[k], path.lengths[k], path.left[k], path.right[k])
        g = inside_values(c, c.inside, segments, *at, element.p)
        rows.add(slack.relax(g, own), places[k])
        rows.pay(slack.price(own, path.lengths[k] / (c.inside + 1)))


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
