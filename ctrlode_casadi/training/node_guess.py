"""States at the nodes from which a transcription starts: data where states are measured, else a simulation."""

from __future__ import annotations

import warnings
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call_rows, floats
from ..base.errors import DataError, IntegrationWarning
from ..fitting.problem import Problem
from ..model.ode import ControlledODE
from .grid import Grid, IntArray

#: A simulated state further from zero than this many times the largest initial or measured one is not believed.
_BELIEVED = 1e3


def measured_states(model: ControlledODE) -> dict[int, int]:
    """State -> output that equals it, found by evaluating the output at a few random points."""
    if not model.has_output:
        return {j: j for j in range(model.nx)}
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(0.1, 0.9, (4, n)) for n in (1, model.nx, model.nu, model.np)]
    columns = np.hstack(inputs)
    v = ca.MX.sym("v", columns.shape[1])
    parts = ca.vertsplit(v, np.cumsum([0, *(part.shape[1] for part in inputs)]).tolist())
    y = call_rows(ca.Function("outputs", [v], [ca.densify(model.output_function(*parts))]), columns)
    found: dict[int, int] = {}
    for i in range(model.ny):
        same = np.flatnonzero((inputs[1] == y[:, i : i + 1]).all(axis=0))
        if same.size == 1:
            found.setdefault(int(same[0]), i)
    return found


def simulated(problem: Problem, theta: Float64Array) -> Float64Array:
    """States (B, T, nx) of a simulation, NaN from where one fails."""
    typed = problem.typed(theta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IntegrationWarning)
        x, sweep = problem.engine.simulate(problem.batch, problem.initial(typed), typed[: problem.n_params])
    states = np.array(x[..., : problem.model.nx], dtype=np.float64)
    late = np.arange(states.shape[1]) >= np.asarray(sweep.reached)[:, None]
    states[late & ~sweep.success[:, None]] = np.nan
    return states


def read_states(value: Any, problem: Problem) -> str | Float64Array:
    """The option `states`: "auto", "data", "simulation", or states (B, T, nx) or (T, nx) at the save times."""
    if isinstance(value, str):
        if value not in ("auto", "data", "simulation"):
            raise DataError(f"states: expected 'auto', 'data', 'simulation' or an array (B, T, nx), got {value!r}")
        return value
    shape = (problem.batch.size, problem.times.n, problem.model.n_visible)
    array = floats("states", value, finite="nan")
    try:
        states = np.array(np.broadcast_to(array, shape), dtype=np.float64)
    except ValueError as exc:
        raise DataError(f"states: expected shape (B, T, nx)={shape} or (T, nx), got {array.shape}") from exc
    more = problem.model.nx - shape[2]
    return np.concatenate([states, np.full((*shape[:2], more), np.nan)], axis=2) if more else states


def states_at_saves(problem: Problem, theta: Float64Array, wanted: str | Float64Array) -> Float64Array:
    """Guess (B, T, nx) at the save times; NaN where it has to be interpolated.

    Measured states take their data, which is what multiple shooting lives from: where a simulation at p0 leaves the
    data, nodes on the data do not. Hidden states take the simulation.
    """
    if not isinstance(wanted, str):
        return _with_algebraic(problem, theta, wanted)
    shape = (problem.batch.size, problem.times.n, problem.model.nx)
    states = np.full(shape, np.nan)
    if wanted != "data":
        states = simulated(problem, theta)
    data = problem.data_terms.data
    if wanted != "simulation" and data is not None and data.shape[2] == problem.model.ny:
        for j, i in measured_states(problem.model).items():
            values = np.broadcast_to(data[..., i], shape[:2])
            if np.isfinite(values).any():
                # One record without any data of this state keeps its simulation.
                some = np.isfinite(values).any(axis=1)
                states[some, :, j] = values[some]
    start = problem.start.states(problem.typed(theta))
    known = np.concatenate([np.abs(start).ravel(), *([] if data is None else [np.abs(data[np.isfinite(data)])])])
    far = ~(np.abs(states) <= _BELIEVED * max(1.0, float(known.max(initial=0.0))))
    states[far] = np.nan
    mass = problem.model.system_mass
    if mass is None:
        states[:, 0] = start
        return states
    moving = mass.any(axis=0)
    states[:, 0, moving] = start[:, moving]
    return _with_algebraic(problem, theta, states)


def _with_algebraic(problem: Problem, theta: Float64Array, states: Float64Array) -> Float64Array:
    """The states, with the guess of the algebraic variables of a DAE where a trajectory has no other."""
    if problem.model.system_mass is not None:
        start = problem.start.states(problem.typed(theta))
        unknown = np.isnan(states).all(axis=1)
        states[:, 0] = np.where(unknown, start, states[:, 0])
    return states


def states_at_nodes(grid: Grid, at_saves: Float64Array) -> Float64Array:
    """Guess (M, nx) from values at the save times, linear in between; NaN is bridged."""
    out = np.empty((grid.times.size, at_saves.shape[2]))
    for b, nodes in enumerate(_nodes_by_trajectory(grid)):
        valid = grid.saves[b] >= 0
        known_at = grid.times[grid.saves[b][valid]]
        values = at_saves[b][valid]
        for j in range(values.shape[1]):
            some = np.isfinite(values[:, j])
            out[nodes, j] = np.interp(grid.times[nodes], known_at[some], values[some, j])
    return out


def resampled(times: Float64Array, trajectory: IntArray, states: Float64Array, grid: Grid) -> Float64Array:
    """Node states (M, nx) of a grid from states (n, nx) at other times of the same trajectories, linear in between."""
    out = np.empty((grid.times.size, states.shape[1]))
    for b, nodes in enumerate(_nodes_by_trajectory(grid)):
        (own,) = np.nonzero(trajectory == b)
        own = own[np.argsort(times[own], kind="stable")]
        for j in range(states.shape[1]):
            out[nodes, j] = np.interp(grid.times[nodes], times[own], states[own, j])
    return out


def _nodes_by_trajectory(grid: Grid) -> list[IntArray]:
    ends = np.append(grid.first[1:], grid.times.size)
    return [np.arange(a, b) for a, b in zip(grid.first, ends)]
