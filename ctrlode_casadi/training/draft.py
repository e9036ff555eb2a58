"""A fit as a nonlinear program: variables, data, penalties and path constraints; the dynamics come from a method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..fitting.initial import ComputedStates
from ..fitting.problem import Problem
from ..ocp.assembly import GLOBAL, Assembler
from ..ocp.groups import NLP, OBJECTIVE
from .algebraic import equations_of, start_of
from .grid import Grid, IntArray
from .path_constraints import PathConstraint
from .task import Task


@dataclass(frozen=True, eq=False)
class Limits:
    """Constraints along the trajectories.

    Attributes
    ----------
    lb, ub
        Bounds on the states (nx,).
    path
        Further constraints.
    """

    lb: Float64Array
    ub: Float64Array
    path: tuple[PathConstraint, ...]


class Draft:
    """A program that is being written: variables first, then one group after another.

    Parameters
    ----------
    task, limits
        What is fitted, and the constraints.
    grid
        Intervals.
    states
        Guess of the node states (M, nx).
    theta
        Guess of the parameters (np_total,).

    Attributes
    ----------
    theta
        Places of the parameters (np_total,); -1 for those that are fixed.
    nodes
        Places of the node states (M, nx).
    states
        Guess of the node states (M, nx).
    x_scale
        Unit of each state (nx,), a power of two.
    equations
        The equations of a DAE, whose states are (x, z); None for an ODE.
    """

    def __init__(self, task: Task, limits: Limits, grid: Grid, states: Float64Array, theta: Float64Array) -> None:
        self.task, self.limits, self.grid = task, limits, grid
        self.problem: Problem = task.objective.problem
        self.equations = equations_of(self.problem)
        self.states = states
        self.build = Assembler()
        size = np.abs(states).max(axis=0, initial=0.0)
        self.x_scale = np.asarray(2.0 ** np.round(np.log2(np.where(size > 0, size, 1.0))), dtype=np.float64)
        self._names = task.objective.names()
        self.theta = self._parameters(theta)
        self.nodes = self._nodes(states)

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states."""
        return self.problem.model.state_names

    @cached_property
    def moving_scale(self) -> Float64Array:
        """Units of the states with derivatives."""
        if self.equations is None:
            return self.x_scale
        return np.asarray(2.0 ** np.round(np.log2(np.abs(self.equations.coordinates) @ self.x_scale)))

    @cached_property
    def equation_scale(self) -> Float64Array:
        """Sizes of the algebraic equations at the node states."""
        equations = self.equations
        if equations is None:
            return np.ones(0)
        grid, p = self.grid, self.task.p0[: self.problem.n_params]
        left = grid.left
        rows = np.column_stack([grid.start, self.states[left], grid.controls(grid.start[:, None])[:, 0]])
        return equations.sizes(rows, p, self.x_scale)

    def when(self, trajectory: Any, time: Any) -> str:
        """Place on a trajectory, for messages."""
        more = f" of trajectory {trajectory}" if self.problem.batch.size > 1 else ""
        return f"t = {time:g}{more}"

    # --- variables -----------------------------------------------------------------------------------------------

    def _parameters(self, theta: Float64Array) -> IntArray:
        task = self.task
        free = np.flatnonzero(task.free)
        lb, ub = task.lb.copy(), task.ub.copy()
        columns = self.problem.start.columns
        if columns is not None:  # free initial states are node states too
            for i in range(columns.shape[1]):
                known = columns[:, i][columns[:, i] >= 0]
                lb[known] = np.maximum(lb[known], self.limits.lb[i])
                ub[known] = np.minimum(ub[known], self.limits.ub[i])
        places = np.full(theta.size, -1, np.int64)
        places[free] = self.build.variables(
            (free.size,),
            lambda i: f"parameter {self._names[free[i]]}",
            stage=GLOBAL,
            lb=lb[free],
            ub=ub[free],
            guess=np.clip(theta, lb, ub)[free],
            scale=task.scale[free],
        )
        return places

    def _nodes(self, states: Float64Array) -> IntArray:
        """Node states; free initial states are parameters already, known ones are fixed by their bounds."""
        grid, problem = self.grid, self.problem
        lb = np.broadcast_to(self.limits.lb, states.shape).copy()
        ub = np.broadcast_to(self.limits.ub, states.shape).copy()
        guess = np.clip(states, lb, ub)
        places = np.full(states.shape, -1, np.int64)
        columns = problem.start.columns
        if columns is not None:
            places[grid.first] = np.where(columns >= 0, self.theta[columns], -1)
        if not isinstance(start_of(problem), ComputedStates):
            known = problem.start.states(problem.typed(self.task.p0))
            which = slice(None) if self.equations is None else np.flatnonzero(self.equations.fixed)
            start = np.arange(states.shape[1])[which]
            lb[np.ix_(grid.first, start)] = ub[np.ix_(grid.first, start)] = known[:, start]
            guess[np.ix_(grid.first, start)] = known[:, start]
        self._known = ~(lb < ub)
        node, state = np.nonzero(places < 0)
        names, times, trajectory = self.state_names, grid.times, grid.trajectory
        places[node, state] = self.build.variables(
            (node.size,),
            lambda i: f"state {names[state[i]]} at {self.when(trajectory[node[i]], times[node[i]])}",
            stage=node,
            lb=lb[node, state],
            ub=ub[node, state],
            guess=guess[node, state],
            scale=self.x_scale[state],
        )
        return places

    # --- groups --------------------------------------------------------------------------------------------------

    def add_objective(self) -> None:
        """Data, costs at the ends, penalties, and computed initial states."""
        self._costs()
        self._penalty()
        self._computed_start()

    def _costs(self) -> None:
        """Costs at the save times and at the last one; a running cost is added with the dynamics."""
        functions, saves = self.problem.functions, self.grid.saves
        if functions.cost is not None:
            weights = np.broadcast_to(self.problem.w, (*saves.shape, functions.nw))
            counts = (weights != 0).any(axis=2) if functions.nw else True
            self._cost_group("data", functions.cost, (saves >= 0) & counts)
        if functions.terminal is not None:
            last = np.asarray(self.problem.times.counts)[:, None] - 1 == np.arange(saves.shape[1])
            self._cost_group("end", functions.terminal, (saves >= 0) & last)

    def _cost_group(self, name: str, f: ca.Function, wanted: NDArray[np.bool_]) -> None:
        """A cost (t, x, u, p, d, w) at the save times where `wanted` (B, T) is True."""
        problem, functions = self.problem, self.problem.functions
        b, k = np.nonzero(wanted)
        sizes = {"t": 1, "u": functions.nu, "d": functions.nd, "w": functions.nw, "scale": 1}
        element = Element(self, {"x": problem.model.nx}, sizes, with_p=f.jac_sparsity(0, 3).nnz() > 0)
        s = element.constants
        x = ca.vertcat(element.own["x"], ca.MX(functions.nx - problem.model.nx, 1))
        ell = s["scale"] * f(s["t"], x, s["u"], element.p, s["d"], s["w"])
        controls = problem.batch.saved_controls(0, problem.batch.size)
        parts = [np.broadcast_to(v, (*wanted.shape, v.shape[-1]))[b, k] for v in (controls, problem.d, problem.w)]
        nodes = self.grid.saves[b, k]
        constants = np.column_stack([self.grid.times[nodes], *parts, problem.scale[b]])
        self.add(name, element, [ell], self.nodes[nodes], constants, np.full((b.size, 1), OBJECTIVE))

    def _penalty(self) -> None:
        element = Element(self, {}, {})
        value = self.problem.regularization.expression(element.p)
        if value.nnz() and not value.is_zero():
            none = np.zeros((1, 0), np.int64)
            self.add("penalty", element, [value], none, np.zeros((1, 0)), np.full((1, 1), OBJECTIVE))

    def _computed_start(self) -> None:
        """Equations for initial states that are functions of parameters."""
        start, first, nx = start_of(self.problem), self.grid.first, self.problem.model.nx
        combined = self.equations is not None and not self.equations.fixed.any()
        if isinstance(start, ComputedStates):
            element = Element(self, {"x": nx}, {"d0": start.inputs.shape[1]})
            known = start.function(element.constants["d0"], element.p)
            constants = start.inputs.astype(np.float64)
        elif combined:
            constants = np.asarray(start.states(self.problem.typed(self.task.p0)), dtype=np.float64)
            element = Element(self, {"x": nx}, {"x0": constants.shape[1]})
            known = element.constants["x0"]
        else:
            return
        more = nx - known.numel()
        rest = element.own["x"] - (ca.vertcat(known, ca.MX(more, 1)) if more else known)
        scale = self.x_scale
        if self.equations is not None:
            rest, scale = self.equations.moving(rest), self.moving_scale
        rows = self.build.rows(
            (first.size, scale.size),
            lambda b, i: f"initial state {i} of trajectory {b}",
            stage=first[:, None],
            scale=1.0 / scale,
        )
        self.add("initial state", element, [rest], self.nodes[first], constants, rows)

    def add_path(self, x: IntArray, trajectory: IntArray, times: Float64Array, controls: Float64Array) -> None:
        """Path constraints at points with states x (n, nx): times (n,), controls (n, nu)."""
        given = np.isin(x, self.nodes[self._known])
        for c in self.limits.path:
            # Nothing can be done about a state that is given.
            fixed = given.all(axis=1)
            if self.equations is not None:
                fixed = given[:, sorted(set(c.function.jac_sparsity(0, 1).get_col()))].all(axis=1)
            some = ~fixed if c.function.jac_sparsity(0, 3).nnz() == 0 else np.ones(fixed.size, bool)
            self._path_group(c, x[some], trajectory[some], times[some], controls[some])

    def _path_group(
        self, c: PathConstraint, x: IntArray, trajectory: IntArray, times: Float64Array, controls: Float64Array
    ) -> None:
        element = Element(self, {"x": self.problem.model.nx}, {"t": 1, "u": self.problem.model.nu})
        s = element.constants
        g = c.function(s["t"], element.own["x"], s["u"], element.p)
        rows = self.build.rows(
            (times.size, c.lb.size),
            lambda i, j: f"{c.name}[{j}] at {self.when(trajectory[i], times[i])}",
            stage=np.arange(times.size)[:, None],
            lb=c.lb,
            ub=c.ub,
        )
        self.add(c.name, element, [g], x, np.column_stack([times, controls]), rows)

    def add(
        self,
        name: str,
        element: Element,
        results: list[Any],
        own: IntArray,
        constants: Float64Array,
        rows: IntArray,
    ) -> None:
        """Announce a group."""
        self.build.group(name, element.function(name, results), element.places(own), constants, rows)

    def finish(self) -> tuple[NLP, IntArray]:
        """The program, and the new place of every variable."""
        nlp, places, _ = self.build.build(self.task.p0[: self.problem.n_params], self.task.gain)
        return nlp, places


class Element:
    """The symbols of one element of a group: its own variables, then the free parameters of the model.

    Parameters
    ----------
    draft
        The program.
    own, constants
        Names and sizes.
    with_p
        Whether the parameters are variables; without, they have their values at the start.

    Attributes
    ----------
    own, constants
        Symbols by name.
    p
        The model's parameters (np,).
    """

    def __init__(self, draft: Draft, own: Mapping[str, int], constants: Mapping[str, int], with_p: bool = True) -> None:
        n = draft.problem.n_params
        shared = draft.theta[:n]
        free = (shared >= 0) & with_p
        self._shared = shared[free]
        size = sum(own.values())
        self._v = ca.MX.sym("v", size + self._shared.size)
        self._s = ca.MX.sym("s", sum(constants.values()))
        self._q = ca.MX.sym("q", n)
        self.own, self.constants = _split(self._v, own), _split(self._s, constants)
        self.p = _merged(free, self._v[size:], self._q)

    def places(self, own: IntArray) -> IntArray:
        """Variables (N, n_local) of N elements from their own ones."""
        return np.hstack([own, np.broadcast_to(self._shared, (own.shape[0], self._shared.size))])

    def function(self, name: str, results: list[Any]) -> ca.Function:
        """``(v, s, q) -> r`` from contributions, one after another."""
        r = ca.densify(ca.vertcat(*results))
        plain = re.sub(r"[^a-zA-Z0-9]+", "_", name).strip("_")
        return ca.Function(plain, [self._v, self._s, self._q], [r], ["v", "s", "q"], ["r"])


def _split(symbol: ca.MX, sizes: Mapping[str, int]) -> dict[str, ca.MX]:
    parts, start = {}, 0
    for name, n in sizes.items():
        parts[name] = symbol[start : start + n]
        start += n
    return parts


def _merged(free: Any, values: ca.MX, others: ca.MX) -> ca.MX:
    """A vector whose free entries come from one vector, the rest from the other, in runs of neighbours."""
    if free.all():
        return values
    if not free.any():
        return others
    edges = (np.flatnonzero(np.diff(free)) + 1).tolist()
    pieces, place = [], 0
    for left, right in zip([0, *edges], [*edges, free.size]):
        if free[left]:
            pieces.append(values[place : place + right - left])
            place += right - left
        else:
            pieces.append(others[left:right])
    return ca.vertcat(*pieces)
