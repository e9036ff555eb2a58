"""Multiple shooting: Runge-Kutta steps over each interval, and equations that tie neighbouring nodes."""

from __future__ import annotations

from collections.abc import Callable

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import UnsupportedOperation
from ..integrate.solvers import RungeKutta
from ..integrate.tableaus import Tableau
from ..ocp.groups import OBJECTIVE
from .draft import Draft, Element
from .grid import Grid, IntArray
from .scheme import Read, Scheme, node_path

#: Most steps in one interval that the automatic choice takes, and before anything is known of the parameters.
MOST_STEPS, FIRST_STEPS = 256, 16
#: An iterate at which an interval's error, relative to the states, is larger than this has unstable steps.
UNSTABLE = 1e-2
#: The largest number of steps in an interval grows by this factor at most on account of such an iterate.
MOST_MORE = 8


def check_solver(solver: object) -> None:
    """Refuse a simulator's solver whose steps are no explicit formula."""
    if not isinstance(solver, RungeKutta):
        raise UnsupportedOperation(
            f"method: 'multiple-shooting' writes the steps of an explicit Runge-Kutta solver as expressions, the "
            f"objective's simulator has {type(solver).__name__}; use method='collocation', for stiff models too"
        )


class Shooting(Scheme):
    """Multiple shooting with the steps of the objective's simulator.

    Adaptive steps depend on the values, so they become fixed ones: as many equal steps in each interval as are needed
    for an accuracy.

    Parameters
    ----------
    solver
        The simulator's solver.
    steps
        Steps in each interval; None for the simulator's own.
    accuracy
        Largest error of an interval relative to the states, where steps are chosen here; None for no check.
    """

    def __init__(self, solver: RungeKutta, steps: int | None, accuracy: float | None) -> None:
        self._solver, self._tableau = solver, solver.tableau
        self._fixed, self._accuracy = steps, accuracy
        self._counts: IntArray = np.zeros(0, np.int64)

    def add(self, draft: Draft) -> None:
        if not self._counts.size:
            self._counts = self._first(draft.grid)
            self._counts = self._refined(draft, draft.states, draft.task.p0, FIRST_STEPS)
        self.evaluations = int(self._counts.sum()) * self._tableau.main
        add_intervals(draft, self._tableau, self._counts)
        node_path(draft)

    def refine(self, draft: Draft, read: Read, theta: Float64Array) -> tuple[Grid, Float64Array] | None:
        nodes, before = read(draft.nodes), self._counts
        self._counts = self._refined(draft, nodes, theta, MOST_STEPS)
        return (draft.grid, nodes) if (self._counts > before).any() else None

    def strayed(self, draft: Draft, read: Read, theta: Float64Array) -> bool:
        if not self._chooses:
            return False
        error, states = np.zeros(draft.grid.size), read(draft.nodes)
        everywhere, p = np.arange(error.size), theta[: draft.problem.n_params]
        self._estimate(draft, error, everywhere, self._counts, states, p)
        if ((error <= UNSTABLE) | (self._counts >= MOST_STEPS)).all():
            return False
        self._counts = self._refined(draft, states, theta, min(MOST_STEPS, MOST_MORE * int(self._counts.max())))
        return True

    @property
    def _chooses(self) -> bool:
        """Whether the number of steps is chosen here."""
        return self._accuracy is not None and self._fixed is None and self._solver.adaptive

    def _first(self, grid: Grid) -> IntArray:
        """The simulator's own steps, or those asked for; one to begin with where they are adaptive."""
        if self._fixed is not None:
            return np.full(grid.size, self._fixed)
        if self._solver.dt is not None:
            return np.maximum(np.ceil(grid.length / self._solver.dt * (1.0 - 1e-12)), 1).astype(np.int64)
        return np.full(grid.size, self._solver.steps_per_interval or 1)

    def _refined(self, draft: Draft, states: Float64Array, theta: Float64Array, most: int) -> IntArray:
        """Steps, `most` at most, with which doubling them changes no interval's end by more than the accuracy."""
        counts = self._counts.copy()
        if self._accuracy is None or not self._chooses:
            return counts
        p = theta[: draft.problem.n_params]
        active, error = np.arange(draft.grid.size), np.zeros(draft.grid.size)
        while active.size:
            self._estimate(draft, error, active, counts, states, p)
            active = active[~(error[active] <= self._accuracy) & (counts[active] < most)]
            counts[active] *= 2
        self.error = float(error.max(initial=0.0))
        return counts

    def _estimate(
        self,
        draft: Draft,
        error: Float64Array,
        active: IntArray,
        counts: IntArray,
        states: Float64Array,
        p: Float64Array,
    ) -> None:
        """Write the errors of some intervals (N,) with their numbers of steps."""
        for count in np.unique(counts[active]):
            some = active[counts[active] == count]
            error[some] = step_errors(draft, self._tableau, int(count), some, states, p)


def add_intervals(draft: Draft, tableau: Tableau, counts: IntArray) -> None:
    """Matching equations, and the integral of a running cost."""
    grid, problem = draft.grid, draft.problem
    nx = problem.model.nx
    rows = draft.build.rows(
        (grid.size, nx),
        lambda i, j: (
            f"matching of {draft.state_names[j]} at "
            + draft.when(grid.trajectory[grid.right[i]], grid.times[grid.right[i]])
        ),
        stage=grid.left[:, None] + 0.5,
        scale=1.0 / draft.x_scale,
    )
    powers = grid.coefficients.shape[2]
    integral = problem.functions.nx > nx
    for count in np.unique(counts):
        (some,) = np.nonzero(counts == count)
        sizes = {"t": 1, "h": 1, "anchor": 1, "control": problem.model.nu * powers, "scale": 1}
        element = Element(draft, {"x": nx, "next": nx}, sizes)
        s = element.constants
        C = ca.reshape(s["control"], powers, problem.model.nu).T
        end = interval(draft, tableau, int(count))(s["t"], s["h"], s["anchor"], C, element.own["x"], element.p)
        results = [end[:nx] - element.own["next"]]
        targets = rows[some]
        if integral:
            results.append(s["scale"] * end[nx])
            targets = np.hstack([targets, np.full((some.size, 1), OBJECTIVE)])
        own = np.hstack([draft.nodes[grid.left[some]], draft.nodes[grid.right[some]]])
        draft.add("interval", element, results, own, _constants(draft, some), targets)


def _constants(draft: Draft, some: IntArray) -> Float64Array:
    """Start, length, anchor, control polynomials and weight of some intervals."""
    grid = draft.grid
    control = grid.coefficients[some].reshape(some.size, -1)
    weight = draft.problem.scale[grid.trajectory[grid.left[some]]]
    return np.column_stack([grid.start[some], grid.length[some], grid.anchors[some], control, weight])


def interval(draft: Draft, tableau: Tableau, count: int) -> ca.Function:
    """``(t, h, anchor, C (nu, d + 1), x, p) -> x'``; the integral of a running cost is appended."""
    functions, model = draft.problem.functions, draft.problem.model
    t, h, anchor = (ca.MX.sym(name) for name in ("t", "h", "anchor"))
    C = ca.MX.sym("C", model.nu, draft.grid.coefficients.shape[2])
    x, p = ca.MX.sym("x", functions.nx), ca.MX.sym("p", model.np)

    def control(time: ca.MX) -> ca.MX:
        u = C[:, C.shape[1] - 1]
        for j in range(C.shape[1] - 2, -1, -1):
            u = u * (time - anchor) + C[:, j]
        return u

    after = runge_kutta_step(functions.rhs, tableau, t, h, x, control, p)
    one = ca.Function("one_step", [t, h, anchor, C, x, p], [after])
    start = ca.MX.sym("x0", model.nx)
    state = ca.vertcat(start, ca.MX.zeros(functions.nx - model.nx, 1))
    for i in range(count):
        state = one(t + (i / count) * h, h / count, anchor, C, state, p)
    return ca.Function("interval", [t, h, anchor, C, start, p], [state])


def runge_kutta_step(
    rhs: ca.Function,
    tableau: Tableau,
    t: ca.MX,
    h: ca.MX,
    x: ca.MX,
    control: Callable[[ca.MX], ca.MX],
    p: ca.MX,
) -> ca.MX:
    """One explicit step of length h."""
    slopes: list[ca.MX] = []
    for i in range(tableau.main):
        time = t + float(tableau.c[i]) * h
        slopes.append(rhs(time, _advance(x, h, tableau.A[i], slopes), control(time), p))
    return _advance(x, h, tableau.b, slopes)


def _advance(x: ca.MX, h: ca.MX, weights: Float64Array, slopes: list[ca.MX]) -> ca.MX:
    """x + h sum_j weights[j] slopes[j]."""
    terms = [float(w) * k for w, k in zip(weights, slopes) if w != 0.0]
    return x + h * sum(terms[1:], terms[0]) if terms else x


def step_errors(
    draft: Draft, tableau: Tableau, count: int, some: IntArray, states: Float64Array, p: Float64Array
) -> Float64Array:
    """What twice as many steps change at the ends of some intervals, relative to the states' size, (n,).

    `states` (M, nx) are the node states to start from, `p` the model's parameters.
    """
    size = np.maximum(draft.x_scale, np.abs(states[draft.grid.right[some]]))
    once, twice = (_ends(draft, tableau, n, some, states, p)[:, : size.shape[1]] for n in (count, 2 * count))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray((np.abs(once - twice) / size).max(axis=1, initial=0.0))


def _ends(
    draft: Draft, tableau: Tableau, count: int, some: IntArray, states: Float64Array, p: Float64Array
) -> Float64Array:
    """States at the ends of some intervals, each from its own left node, (n, nx + integrals)."""
    grid = draft.grid
    f = interval(draft, tableau, count)
    powers, nu = grid.coefficients.shape[2], draft.problem.model.nu
    C = np.ascontiguousarray(grid.coefficients[some].transpose(1, 0, 2).reshape(nu, some.size * powers))
    mapped = f.map(some.size, [False] * 5 + [True])
    rows = (v[some][None, :] for v in (grid.start, grid.length, grid.anchors))
    return np.asarray(mapped(*rows, C, states[grid.left[some]].T, p).full().T)
