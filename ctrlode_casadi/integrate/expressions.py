"""Runge-Kutta and Rosenbrock steps and whole simulations as CasADi expressions, differentiable to any order.

They take the same steps as the compiled sweeps and serve IPOPT, `Opti`, other CasADi models and C code
generation. One Function holds a step; a simulation calls it once per step, so the graph has as many nodes as
there are steps, whatever the size of the model.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, to_dm
from ..base.errors import ControlError, SolverError, UnsupportedOperation
from ..controls.control import Control
from ..model.ode import ControlledODE
from .problem import check_times
from .rosenbrock.expressions import rosenbrock_step
from .rosenbrock.tableaus import RosenbrockTableau
from .tableaus import Tableau


class ExplicitSolver(Protocol):
    """What the expressions need to know of a solver."""

    @property
    def tableau(self) -> Tableau:
        """The method's coefficients."""

    @property
    def adaptive(self) -> bool:
        """Whether the step size is controlled by an error estimate."""

    @property
    def steps_per_interval(self) -> int | None:
        """Number of equal steps in an interval."""

    @property
    def dt(self) -> float | None:
        """Largest step, instead of a number of steps."""


@dataclass(frozen=True, eq=False)
class StepPlan:
    """Fixed steps over the save times.

    Attributes
    ----------
    start, end, length
        Times at which the N steps begin and end, and their lengths, (N,).
    piece
        Index of the control's polynomial in each step, (N,).
    saved
        Number of steps taken at each save time, (T,); ``saved[0]`` is 0.
    """

    start: Float64Array
    end: Float64Array
    length: Float64Array
    piece: NDArray[np.int64]
    saved: NDArray[np.int64]


def step_function(solver: ExplicitSolver, model: ControlledODE, dt: float) -> ca.Function:
    """The state after a time dt under a constant control (zero-order hold).

    Parameters
    ----------
    solver
        A Runge-Kutta or Rosenbrock solver. It takes ``steps_per_interval`` equal steps over dt, or ``ceil(dt /
        solver.dt)``; one step if neither is set, and no error is controlled: rtol and atol play no part.
    model
        The model, without algebraic variables.
    dt
        Length of time, positive, in the unit of t.

    Returns
    -------
    casadi.Function
        ``(t, x, u, p) -> xf`` with t the time at the start, x (nx,), u (nu,), p (np,), xf (nx,). Derivatives
        of any order; `casadi.Function.expand` makes small models faster.

    Raises
    ------
    SolverError
        If dt is not a positive finite number.
    UnsupportedOperation
        If the model is a DAE, or the solver has no tableau.

    Examples
    --------
    >>> from ctrlode_casadi.integrate.solvers import Euler
    >>> model = ControlledODE(lambda t, x, u, p: u - p * x, nx=1, nu=1, params=1)
    >>> step_function(Euler(), model, 0.1)(0, 1, 3, 2)
    DM(1.1)
    """
    if not _is_positive(dt):
        raise SolverError(f"dt: expected a positive finite number, the length of the step, got {dt!r}")
    tableau = _tableau(solver, model)
    count = _count(solver, float(dt))
    t, x, u, p = ca.MX.sym("t"), ca.MX.sym("x", model.nx), ca.MX.sym("u", model.nu), ca.MX.sym("p", model.np)
    h = float(dt) / count
    after = _step(model, tableau, (t, t + h, h), x, (lambda _: u, ca.MX.zeros(model.nu)), p)
    one = ca.Function("one_step", [t, x, u, p], [after])
    xf = x
    for i in range(count):
        xf = one(t + i * h, xf, u, p)
    return ca.Function("step", [t, x, u, p], [xf], ["t", "x", "u", "p"], ["xf"])


def simulation_function(
    model: ControlledODE, solver: ExplicitSolver, ts: Any, controls: Control | None = None
) -> ca.Function:
    """A simulation with fixed steps as an expression of the initial state, the control values and p.

    The steps are those of `Simulator`: equal steps between neighbouring points of the save times and the
    control's knots merged, each on the polynomial of its own interval.

    Parameters
    ----------
    model
        The model, without algebraic variables.
    solver
        A Runge-Kutta or Rosenbrock solver with fixed steps.
    ts
        Save times (T,), strictly increasing; ``ts[0]`` is the initial time.
    controls
        The control of one trajectory, which gives kind, knots and extrapolation; its values are replaced by
        the input U. None for a model without control.

    Returns
    -------
    casadi.Function
        ``(x0, U, p) -> X`` with x0 (nx,), U (nu, K) one column per knot, (nu, 1) for `Constant` and (0, 0)
        without control, p (np,), X (nx, T). Derivatives of any order. The cost of one evaluation is that of
        CasADi's virtual machine.

    Raises
    ------
    ControlError
        If the control has more than one trajectory, another nu than the model, or does not cover ts.
    DataError
        If ts is not strictly increasing.
    UnsupportedOperation
        If the model is a DAE, or the solver is adaptive: its steps depend on the values.
    """
    tableau = _tableau(solver, model)
    if solver.adaptive:
        name = type(solver).__name__
        raise UnsupportedOperation(
            f"solver: the steps of an adaptive {name} depend on the values, so there is no expression of the "
            f"simulation; use fixed steps, {name}(steps_per_interval=...), or the compiled callback, which "
            "has first derivatives"
        )
    times = check_times(ts)
    check_single(model, controls)
    x0, p = ca.MX.sym("x0", model.nx), ca.MX.sym("p", model.np)
    U = ca.MX.sym("U", *control_shape(controls))
    anchors, polynomials, breaks = _polynomials(model, controls, U, times)
    plan = plan_steps(times, breaks, solver)
    one = _polynomial_step(model, tableau, polynomials[0].shape[1])
    states = [x0]
    for i, q in enumerate(plan.piece):
        when = to_dm([plan.start[i], plan.end[i], plan.length[i], anchors[q]])
        states.append(one(states[-1], polynomials[q], p, when))
    X = ca.horzcat(*(states[i] for i in plan.saved))
    return ca.Function("simulation", [x0, U, p], [X], ["x0", "U", "p"], ["X"])


def control_shape(controls: Control | None) -> tuple[int, int]:
    """Shape (nu, K) of the control values of one trajectory as a CasADi matrix; (0, 0) without control."""
    return (0, 0) if controls is None else (controls.nu, int(controls.values.shape[1]))


def check_single(model: ControlledODE, controls: Control | None) -> None:
    """Refuse controls that do not fit the model, or that belong to more than one trajectory."""
    if controls is None:
        if model.nu:
            raise ControlError(
                f"controls: the model has nu={model.nu} controls, got None; pass a control of one trajectory"
            )
        return
    if not isinstance(controls, Control):
        raise ControlError(
            f"controls: expected a control of one trajectory, such as PiecewiseLinear(knots, values), got "
            f"{type(controls).__name__}"
        )
    if controls.nu != model.nu:
        raise ControlError(f"controls: the model has nu={model.nu} controls, this control has nu={controls.nu}")
    if controls.n_trajectories != 1:
        raise ControlError(
            f"controls: an expression is of one trajectory, this control has B={controls.n_trajectories}; "
            "pass controls[i]"
        )


def plan_steps(ts: Float64Array, breaks: Float64Array, solver: ExplicitSolver) -> StepPlan:
    """Equal steps between neighbouring points of the save times and the control's breaks merged.

    Points closer than the round-off of times (about 8 ulp) count as one.
    """
    rows: list[tuple[float, float, float, int]] = []
    saved = [0]
    left, last = float(ts[0]), breaks.size - 2
    q = int(np.clip(np.searchsorted(breaks, left, side="right") - 1, 0, last))
    for due in ts[1:].tolist():
        while left < due:
            while q < last and breaks[q + 1] <= left + _slack(left):
                q += 1
            right = due
            if q < last and breaks[q + 1] < due - _slack(due):
                right = float(breaks[q + 1])
            count = _count(solver, right - left)
            h = (right - left) / count
            ends = [left + (i + 1) * h for i in range(count - 1)] + [right]
            rows += [(left + i * h, end, h, q) for i, end in enumerate(ends)]
            left = right
        saved.append(len(rows))
    table = np.array([row[:3] for row in rows], dtype=np.float64).reshape(-1, 3)
    piece = np.array([row[3] for row in rows], dtype=np.int64)
    return StepPlan(table[:, 0], table[:, 1], table[:, 2], piece, np.array(saved, dtype=np.int64))


def _slack(t: float) -> float:
    """Distance below which two times are one and the same, as in the compiled sweeps."""
    return 1.8e-15 * abs(t)


def _count(solver: ExplicitSolver, length: float) -> int:
    """Number of equal steps over a length of time."""
    if solver.dt is None:
        return solver.steps_per_interval or 1
    return max(1, math.ceil(length / solver.dt * (1.0 - 1e-12)))


def _is_positive(value: object) -> bool:
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
        and float(value) > 0
    )


def _tableau(solver: ExplicitSolver, model: ControlledODE) -> Tableau:
    """The solver's tableau, if there is an expression for this pair of solver and model."""
    if model.is_dae:
        what = f"nz={model.nz} algebraic variables" if model.nz else "a singular mass matrix"
        raise UnsupportedOperation(
            f"model: the expression of a step needs an ODE, the model has {what}; use casadi.integrator with "
            "model.to_dae()"
        )
    tableau = getattr(solver, "tableau", None)
    if not isinstance(tableau, Tableau):
        raise UnsupportedOperation(
            "solver: expected an explicit Runge-Kutta solver such as RK4() or a Rosenbrock method such as Rodas5P(), "
            f"got {type(solver).__name__}; for other methods use casadi.integrator with model.to_dae()"
        )
    return tableau


def _step(
    model: ControlledODE,
    tableau: Tableau,
    times: tuple[Any, Any, Any],
    x: ca.MX,
    controls: tuple[Callable[[Any], ca.MX], ca.MX],
    p: ca.MX,
) -> ca.MX:
    """One step with its start, end and length; `controls` are u as a function of time and du/dt at the start."""
    control, slope = controls
    if isinstance(tableau, RosenbrockTableau):
        return rosenbrock_step(model, tableau, times, x, control, slope, p)
    t, end, h = times
    slopes: list[ca.MX] = []
    for i in range(tableau.main):
        time = end if tableau.c[i] == 1.0 else t + float(tableau.c[i]) * h
        state = _advance(x, h, tableau.A[i], slopes)
        slopes.append(model.rhs(time, state, control(time), p))
    return _advance(x, h, tableau.b, slopes)


def _advance(x: ca.MX, h: Any, weights: Float64Array, slopes: list[ca.MX]) -> ca.MX:
    """x + h sum_j weights[j] slopes[j]."""
    terms = [float(w) * k for w, k in zip(weights, slopes) if w != 0.0]
    return x + h * sum(terms[1:], terms[0]) if terms else x


def _polynomials(
    model: ControlledODE, controls: Control | None, U: ca.MX, ts: Float64Array
) -> tuple[Float64Array, list[ca.MX], Float64Array]:
    """Anchors, coefficient expressions (nu, d + 1) and breaks of the control's pieces over the save times."""
    t0, t1 = float(ts[0]), max(float(ts[-1]), float(np.nextafter(ts[0], np.inf)))
    if controls is None:
        return np.array([t0]), [ca.MX(0, 1)], np.array([t0, t1])
    pieces = controls.pieces(t0, t1)
    return pieces.anchors, controls.casadi_coefficients(U, t0, t1), pieces.breaks


def _polynomial_step(model: ControlledODE, tableau: Tableau, powers: int) -> ca.Function:
    """One step under a polynomial control: (x, C (nu, d + 1), p, [start, end, length, anchor]) -> x'."""
    x, C = ca.MX.sym("x", model.nx), ca.MX.sym("C", model.nu, powers)
    p, when = ca.MX.sym("p", model.np), ca.MX.sym("when", 4)
    start, end, h, anchor = ca.vertsplit(when)

    def control(time: ca.MX) -> ca.MX:
        s = time - anchor
        u = C[:, powers - 1]
        for j in range(powers - 2, -1, -1):
            u = u * s + C[:, j]
        return u

    slope = ca.MX.zeros(model.nu)
    for j in range(powers - 1, 0, -1):
        slope = slope * (start - anchor) + j * C[:, j]
    after = _step(model, tableau, (start, end, h), x, (control, slope), p)
    return ca.Function("one_step", [x, C, p, when], [after], ["x", "C", "p", "when"], ["xf"])
