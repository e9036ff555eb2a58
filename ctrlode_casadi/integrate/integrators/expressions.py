"""Simulations and steps with CasADi's integrators as CasADi expressions: a call of the integrator for each interval.

Derivatives are those that CasADi's integrators offer. CVODES' and IDAS' adjoints are solved to the same tolerances, for
the seeds as they come: an objective whose derivatives are much smaller than one needs a smaller `atol`.
"""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np

from ...base.arrays import to_dm
from ...base.errors import SolverError, UnsupportedOperation
from ...controls.control import Control
from ...model.ode import ControlledODE
from ..expressions import check_single, control_shape
from ..problem import check_times
from .objects import Dynamics, Settings, make_integrator
from .plan import Call, local_powers, plan_calls


class _Interval:
    """Calls of a solver's integrators in a graph; one integrator for each output grid."""

    def __init__(self, model: ControlledODE, solver: Settings, powers: int) -> None:
        self._dynamics = Dynamics(model.rhs, model.algebraic)
        self._model, self._solver, self._powers = model, solver, powers
        self._made: dict[Any, ca.Function] = {}
        self._find = None if model.algebraic is None else _consistent(model.algebraic)

    def __call__(self, call: Call, state: list[Any], p: ca.MX, coefficients: ca.MX) -> tuple[ca.MX, ca.MX]:
        """x (nx, n) and z (nz, n) at the call's grid, from [x] or [x, z] with a guess of z."""
        length = call.length if self._solver.time_dependent else 1.0
        key = (call.grid, length)
        if key not in self._made:
            self._made[key] = make_integrator(
                self._dynamics,
                self._solver,
                self._powers,
                call.grid,
                length,
                as_states=self._solver.parameters_as_states,
            )
        f, nx = self._made[key], self._model.nx
        free = ca.vertcat(p, ca.vec(coefficients))
        fixed: Any = to_dm([*np.ones(free.numel()), call.start, call.length])
        arguments = {"x0": state[0], "p": ca.vertcat(free, fixed)}
        if self._solver.parameters_as_states:
            arguments = {"x0": ca.vertcat(state[0], free), "p": fixed}
        if self._find is not None:
            arguments["z0"] = self._find(state[1], call.start, state[0], coefficients[:, 0], p)
        made = f(**arguments)
        return made["xf"][:nx, :], made["zf"]


def _consistent(algebraic: ca.Function) -> ca.Function:
    """(guess, t, x, u, p) -> z with algebraic(t, x, u, p, z) = 0."""
    z = ca.MX.sym("z", algebraic.numel_in(4))
    others = [ca.MX.sym(algebraic.name_in(i), algebraic.numel_in(i)) for i in range(4)]
    residual = ca.Function("residual", [z, *others], [algebraic(*others, z)])
    return ca.rootfinder("consistent", "newton", residual)


def integrator_simulation(
    model: ControlledODE, solver: Settings, ts: Any, controls: Control | None = None
) -> ca.Function:
    """A simulation as an expression of the initial state, the control values and p.

    Parameters
    ----------
    model
        The model; a DAE starts from its guess ``model.z0``.
    solver
        An integrator of CasADi.
    ts
        Save times (T,), strictly increasing; ``ts[0]`` is the initial time.
    controls
        The control of one trajectory, which gives kind, knots and extrapolation; its values are replaced by the
        input U. None for a model without control.

    Returns
    -------
    casadi.Function
        ``(x0, U, p) -> X`` with x0 (nx,), U (nu, K) one column per knot, (nu, 1) for `Constant` and (0, 0) without
        control, p (np,), X (nx, T). First and second derivatives; a failure is an exception of CasADi.
    """
    times = check_times(ts)
    check_single(model, controls)
    x0, p = ca.MX.sym("x0", model.nx), ca.MX.sym("p", model.np)
    U = ca.MX.sym("U", *control_shape(controls))
    t0, t1 = float(times[0]), max(float(times[-1]), float(np.nextafter(times[0], np.inf)))
    anchors, breaks, polynomials = np.array([t0]), np.array([t0, t1]), [ca.MX(0, 1)]
    if controls is not None:
        pieces = controls.pieces(t0, t1)
        anchors, breaks, polynomials = pieces.anchors, pieces.breaks, controls.casadi_coefficients(U, t0, t1)
    powers = polynomials[0].shape[1]
    # IDAS cannot restart its adjoint at an output inside a call: every save time ends one.
    calls = plan_calls(times, breaks, solver.splits or solver.parameters_as_states)
    maps = local_powers(calls, anchors, powers)
    interval, columns = _Interval(model, solver, powers), [x0]
    state: list[Any] = [x0, to_dm(model.z0)] if model.nz else [x0]
    for call, change in zip(calls, maps, strict=True):
        x, z = interval(call, state, p, ca.mtimes(polynomials[call.piece], to_dm(change)))
        columns += [x[:, i] for i in range(call.last - call.first)]
        state = [x[:, -1], z[:, -1]] if model.nz else [x[:, -1]]
    X = ca.horzcat(*columns)
    return ca.Function("simulation", [x0, U, p], [X], ["x0", "U", "p"], ["X"])


def integrator_step(solver: Settings, model: ControlledODE, dt: float) -> ca.Function:
    """The state after a time dt under a constant control, (t, x, u, p) -> xf."""
    if isinstance(dt, bool) or not isinstance(dt, int | float | np.floating) or not 0.0 < float(dt) < np.inf:
        raise SolverError(f"dt: expected a positive finite number, the length of the step, got {dt!r}")
    if model.nz:
        raise UnsupportedOperation(
            f"model: a step (t, x, u, p) -> xf has no place for the nz={model.nz} algebraic variables; use "
            f"Simulator.to_casadi, or casadi.integrator with model.to_dae()"
        )
    options = solver.integrator_options(float(dt))
    f = ca.integrator("step", solver.plugin, Dynamics(model.rhs).scaled(1), 0.0, [1.0], options)
    t, x, u, p = ca.MX.sym("t"), ca.MX.sym("x", model.nx), ca.MX.sym("u", model.nu), ca.MX.sym("p", model.np)
    xf = f(x0=x, p=ca.vertcat(p, u, np.ones(p.numel() + u.numel()), t, float(dt)))["xf"]
    return ca.Function("step", [t, x, u, p], [xf], ["t", "x", "u", "p"], ["xf"])
