"""The options of the transcribed methods, checked."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import DataError, UnsupportedOperation, unknown_name
from ..fitting.initial import ComputedStates
from ..ocp.mesh import Rule, collocation_rule
from .algebraic import start_of
from .draft import Limits
from .ipopt import QUIET, check_options, read_hessian
from .least_squares import check_squares, is_squares
from .node_guess import read_states
from .path_constraints import read_path, read_state_bounds
from .shooting import check_solver
from .task import Task

#: Up to so many free parameters "auto" takes the exact Hessian of the Lagrangian.
EXACT_UP_TO = 150

_COMMON = ("states", "state_bounds", "path", "subintervals", "accuracy", "hessian", "backend")
OWN = {"multiple-shooting": (*_COMMON, "steps"), "collocation": (*_COMMON, "degree", "scheme")}
#: Largest error of an interval relative to the states; for collocation inside the interval, where it is larger.
ACCURACY = {"multiple-shooting": 1e-6, "collocation": 1e-5}
BACKENDS = ("auto", "compiled", "casadi")


@dataclass(frozen=True, eq=False)
class Settings:
    """Options of a transcribed method.

    Attributes
    ----------
    limits
        Bounds and constraints on the states.
    states
        Where node states start: "auto", "data", "simulation", or states (B, T, nx) at the save times.
    subintervals
        Equal parts of every interval between save times and control breaks.
    accuracy
        Largest error of an interval relative to the states; None for no refinement.
    steps
        Runge-Kutta steps in each interval; None for the simulator's own.
    rule
        Collocation rule.
    hessian
        "exact", "gauss-newton" or "limited-memory".
    backend
        "auto", "compiled" or "casadi".
    solver_options
        IPOPT's.
    """

    limits: Limits
    states: str | Float64Array
    subintervals: int
    accuracy: float | None
    steps: int | None
    rule: Rule
    hessian: str
    backend: str
    solver_options: dict[str, Any]


def read_settings(method: str, task: Task) -> Settings:
    """Check the options of a fit by `method`."""
    problem, given = task.objective.problem, task.options
    sim = task.objective.sim
    model = sim.model
    if sim.events:
        raise UnsupportedOperation(
            f"method: {method!r} is for models without events, the objective's simulator has some; use 'L-BFGS-B' or "
            f"another method that simulates"
        )
    if method == "multiple-shooting":
        check_solver(problem.machine.solver)
    if problem.batch.size == 0:
        raise DataError(f"method: {method!r} needs at least one trajectory, the objective has none")
    options = {k: v for k, v in given.items() if k not in OWN[method]}
    for name in options:
        if name in OWN["multiple-shooting"] or name in OWN["collocation"]:
            raise DataError(f"options: {name!r} does not belong to {method!r}; it has {', '.join(OWN[method])}")
    check_options({**QUIET, **{(k if "." in k else f"ipopt.{k}"): v for k, v in options.items()}})
    bounds = read_state_bounds(given.get("state_bounds"), model.nx)
    none = np.full(problem.model.nx - model.nx, np.inf)
    lb, ub = np.append(bounds[0], -none), np.append(bounds[1], none)
    limits = Limits(lb, ub, read_path(given.get("path"), model))
    _check_start(task, limits)
    accuracy = given.get("accuracy", ACCURACY[method])
    if accuracy is not None and not (isinstance(accuracy, numbers.Real) and 0 < float(accuracy) < math.inf):
        raise DataError(f"accuracy: expected a positive number, or None for no refinement, got {accuracy!r}")
    backend = given.get("backend", "auto")
    if backend not in BACKENDS:
        raise DataError(unknown_name("backend", backend, BACKENDS))
    steps = given.get("steps")
    return Settings(
        limits,
        read_states(given.get("states", "auto"), problem),
        _count("subintervals", given.get("subintervals", 1)),
        None if accuracy is None else float(accuracy),
        None if steps is None else _count("steps", steps),
        collocation_rule(given.get("scheme", "radau"), _count("degree", given.get("degree", 3))),
        _hessian(task),
        backend,
        options,
    )


def _hessian(task: Task) -> str:
    """The Hessian of the Lagrangian; "auto" goes by the number of free parameters, which enter every element."""
    hessian, problem = read_hessian(task), task.objective.problem
    if hessian == "gauss-newton":
        check_squares(task)
    if hessian != "auto":
        return hessian
    if int(task.free[: problem.n_params].sum()) <= EXACT_UP_TO:
        return "exact"
    return "gauss-newton" if is_squares(task) else "limited-memory"


def _check_start(task: Task, limits: Limits) -> None:
    """Refuse initial states that are given and lie outside the state bounds."""
    problem = task.objective.problem
    start = problem.start
    if isinstance(start_of(problem), ComputedStates):
        return
    states = np.asarray(start.states(problem.typed(task.p0)), dtype=np.float64)
    given = np.ones(states.shape, bool) if start.columns is None else start.columns < 0
    if problem.model.system_mass is not None:  # the others are guesses
        given &= problem.model.system_mass.any(axis=0)
    outside = np.argwhere(given & ((states < limits.lb) | (states > limits.ub)))
    if outside.size:
        b, i = (int(v) for v in outside[0])
        raise DataError(
            f"state_bounds: the given initial state {problem.model.state_names[i]} of trajectory {b} is "
            f"{states[b, i]:g}, outside [{limits.lb[i]:g}, {limits.ub[i]:g}]"
        )


def _count(name: str, value: object) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < 1:
        raise DataError(f"{name}: expected an integer of at least 1, got {value!r}")
    return int(value)
