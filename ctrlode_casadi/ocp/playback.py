"""A solution played back: its control as an object, states between breaks, and the error of the steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..base.arrays import Float64Array
from ..controls.kinds import PiecewiseConstant, PiecewiseLinear
from . import simulation
from .polynomials import PiecewisePolynomial
from .transcription import Trajectory, Transcription


def control_object(t: Transcription, trajectory: Trajectory, t0: float) -> Any:
    """The control of a solution; None for a model without control."""
    mesh, values = t.plan.mesh, trajectory.values
    if values.shape[1] == 0:
        return None
    knots = t0 + mesh.breaks * (trajectory.tf - t0)
    nu = values.shape[1]
    if t.control.kind == "constant":
        return PiecewiseConstant(knots, np.vstack([values, values[-1:]]), extrapolation="hold", nu=nu)
    if t.control.kind == "linear":
        return PiecewiseLinear(knots, values, extrapolation="hold", nu=nu)
    return PiecewisePolynomial.through(knots, values, t.control)


def states_between(t: Transcription, trajectory: Trajectory, t0: float, fractions: Float64Array) -> Float64Array:
    """States (m, nx) of a shooting method at fractions of the horizon, simulated from the break before."""
    d, mesh = t.definition, t.plan.mesh
    full = replace(t.reduction.problem, rhs=d.rhs, x_lb=d.x_lb, x_ub=d.x_ub)
    interval = simulation.interval_function(full, None, t.plan.integrator, 1)
    k, theta = mesh.locate(fractions)
    duration = trajectory.tf - t0
    ua, ub = t.interval_controls(trajectory.values)
    starts, lengths = t0 + mesh.breaks[k] * duration, theta * mesh.lengths[k] * duration
    right = ua[k] + theta[:, None] * (ub[k] - ua[k])
    mapped = interval.map(fractions.size, [False] * 5 + [True])
    found = mapped(starts[None, :], lengths[None, :], trajectory.x[k].T, ua[k].T, right.T, trajectory.p)[0]
    return np.asarray(found.full().T)


def step_doubling_error(t: Transcription, trajectory: Trajectory, t0: float) -> float:
    """Largest difference of the states at the ends of the intervals to those with half the step, relative to size."""
    d, mesh, solver = t.definition, t.plan.mesh, t.plan.integrator
    full = replace(t.reduction.problem, rhs=d.rhs, x_lb=d.x_lb, x_ub=d.x_ub)
    times = t0 + mesh.breaks * (trajectory.tf - t0)
    ua, ub = t.interval_controls(trajectory.values)
    ends = []
    for steps in (solver.steps_per_interval or 1, 2 * (solver.steps_per_interval or 1)):
        interval = simulation.interval_function(full, None, replace(solver, steps_per_interval=steps), 1)
        states, _ = simulation.run(interval, times, trajectory.x[:-1], ua, ub, trajectory.p)
        ends.append(states[:, -1])
    size = np.maximum(np.abs(trajectory.x).max(axis=0), 1e-3 * (1.0 + np.abs(trajectory.x).max()))
    return float(np.max(np.abs(ends[1] - ends[0]) / size))
