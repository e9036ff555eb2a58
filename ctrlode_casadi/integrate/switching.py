"""A simulation as an expression of the times at which its control changes: for controls that switch at decided times.

The steps are those of `expressions.simulation_function`; their ends are the save times, which are numbers, and the
knots, which are symbols. The expression is thus exact to any order with respect to the knots, jumps of the control
included: a knot that moves makes the step before it longer and the one after it shorter.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import ControlError, UnsupportedOperation
from ..controls.control import Control
from ..controls.interpolated import Interpolated
from ..controls.kinds import PiecewiseConstant, PiecewiseLinear
from ..model.ode import ControlledODE
from .expressions import ExplicitSolver, _count, _polynomial_step, _slack, _tableau, check_single
from .problem import check_times


class SimulatorLike(Protocol):
    """What is asked of a simulator."""

    @property
    def model(self) -> ControlledODE:
        """The model."""

    @property
    def solver(self) -> Any:
        """The solver."""

    @property
    def events(self) -> tuple[Any, ...]:
        """The events."""


def switching_simulation(sim: SimulatorLike, ts: Any, controls: Control | None, form: str) -> ca.Function:
    """`switching_function` of a simulator; events and the compiled form are refused."""
    if form == "callback" or sim.events:
        raise UnsupportedOperation(
            "knots: the knots are an input of the expression of a simulation only, form='expression' and without events"
        )
    return switching_function(sim.model, sim.solver, ts, controls)


def switching_function(model: ControlledODE, solver: ExplicitSolver, ts: Any, controls: Control | None) -> ca.Function:
    """A simulation with fixed steps as a function (x0, U, knots, p) -> X.

    Parameters
    ----------
    model, solver, ts
        As in `simulation_function`.
    controls
        `PiecewiseConstant` or `PiecewiseLinear` control of one trajectory. Its knots give the order of knots and save
        times, which is kept: X is NaN where knots are given in another order. No knot between the first and the last
        save time may coincide with a save time.

    Returns
    -------
    casadi.Function
        x0 (nx,), U (nu, K), knots (K,), p (np,), X (nx, T). Derivatives of any order.

    Raises
    ------
    ControlError, DataError, UnsupportedOperation
        For a control of another kind, periodic extrapolation, a knot at a save time, adaptive steps.
    """
    tableau = _tableau(solver, model)
    if solver.adaptive:
        name = type(solver).__name__
        raise UnsupportedOperation(
            f"knots: with adaptive steps there is no expression of the simulation; use fixed steps, "
            f"{name}(steps_per_interval=...), or an Event at the time of the switch"
        )
    times = check_times(ts)
    check_single(model, controls)
    if not isinstance(controls, PiecewiseConstant | PiecewiseLinear):
        raise UnsupportedOperation(
            f"knots: only PiecewiseConstant and PiecewiseLinear controls may have knots as variables, got "
            f"{type(controls).__name__}"
        )
    if "periodic" in controls.extrapolation:
        raise ControlError("knots: a control with periodic extrapolation cannot have knots as variables")
    controls.pieces(float(times[0]), float(times[-1]))  # refuses times outside its range
    knots = np.asarray(controls.knots, np.float64)
    inner = _inner_knots(times, knots)
    x0, p = ca.MX.sym("x0", model.nx), ca.MX.sym("p", model.np)
    U, tau = ca.MX.sym("U", controls.nu, knots.size), ca.MX.sym("knots", knots.size)
    one = _polynomial_step(model, tableau, controls.degree + 1)
    marks = sorted([(t, ca.MX(t), True) for t in times.tolist()] + [(knots[k], tau[k], False) for k in inner],
                   key=lambda mark: mark[0])  # fmt: skip
    x, states, gaps = x0, [x0], []
    for (left, begin, _), (right, end, saved) in itertools.pairwise(marks):
        coefficients, anchor = _piece(controls, knots, U, tau, 0.5 * (left + right))
        count = _count(solver, right - left)
        h = (end - begin) / count
        for i in range(count):
            stop = end if i + 1 == count else begin + (i + 1) * h
            x = one(x, coefficients, p, ca.vertcat(begin + i * h, stop, h, anchor))
        gaps.append(end - begin)
        if saved:
            states.append(x)
    ordered = _ordered(controls, times, knots, tau, gaps)
    X = ca.horzcat(*states) + ca.if_else(ordered, 0.0, np.nan)
    return ca.Function("simulation", [x0, U, tau, p], [X], ["x0", "U", "knots", "p"], ["X"])


def _inner_knots(times: Float64Array, knots: Float64Array) -> list[int]:
    """Knots between the first and the last save time; none may be a save time."""
    inner = [k for k in range(knots.size) if times[0] + _slack(times[0]) < knots[k] < times[-1] - _slack(times[-1])]
    for k in inner:
        if np.abs(times - knots[k]).min() <= _slack(knots[k]):
            raise ControlError(
                f"knots: knots[{k}]={knots[k]:g} is also a save time, so it could move to either side; leave that time "
                f"out of ts, or start with a knot between save times"
            )
    return inner


def _piece(controls: Interpolated, knots: Float64Array, U: ca.MX, tau: ca.MX, middle: float) -> tuple[ca.MX, ca.MX]:
    """Coefficients (nu, d + 1) and anchor of the piece that holds the time `middle` at the start."""
    last = knots.size - 1
    k = int(np.searchsorted(knots, middle, side="right")) - 1
    inside = min(max(k, 0), last - 1)
    held = (k < 0 and controls.extrapolation[0] == "hold") or (k >= last and controls.extrapolation[1] == "hold")
    if isinstance(controls, PiecewiseConstant):
        value = inside + 1 if controls.side == "right" else inside
        return U[:, 0 if k < 0 else last if k >= last else value], tau[inside]
    if held:
        end = 0 if k < 0 else last
        return ca.horzcat(U[:, end], ca.MX.zeros(controls.nu)), tau[end]
    slope = (U[:, inside + 1] - U[:, inside]) / (tau[inside + 1] - tau[inside])
    return ca.horzcat(U[:, inside], slope), tau[inside]


def _ordered(controls: Interpolated, times: Float64Array, knots: Float64Array, tau: ca.MX, gaps: list[ca.MX]) -> ca.MX:
    """Whether the knots have the order that the expression was made for."""
    first, last = float(times[0]), float(times[-1])
    room = 1e-12 * max(abs(first), abs(last))
    margins = [*gaps, *(tau[k + 1] - tau[k] for k in range(knots.size - 1))]
    margins += [first - tau[k] for k in range(knots.size) if knots[k] <= first + _slack(first)]
    margins += [tau[k] - last for k in range(knots.size) if knots[k] >= last - _slack(last)]
    return ca.mmin(ca.vertcat(*margins)) >= -room
