"""Controls that switch at times to be decided: derivatives with respect to knots, and the way over an event."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co


def integrator() -> co.ControlledODE:
    """x' = u."""
    return co.ControlledODE(lambda t, x, u, p: u, nx=1, nu=1)


def quadratic() -> co.ControlledODE:
    """x' = t u, whose solution for a control in pieces is a polynomial."""
    return co.ControlledODE(lambda t, x, u, p: t * u, nx=1, nu=1)


def double_integrator() -> co.ControlledODE:
    """x'' = u in the scaled time t / T with p = T."""
    return co.ControlledODE(lambda t, x, u, p: [p[0] * x[1], p[0] * u[0]], nx=2, nu=1, params=1)


KNOTS = np.array([0.0, 0.3, 0.85, 1.0])
U = np.array([[2.0, -1.0, 3.0, 5.0]])
TS = np.array([0.0, 0.5, 1.0])


def value(kind: Any, **options: Any) -> tuple[ca.Function, Any]:
    control = kind(KNOTS, U[0], **options)
    f = co.Simulator(integrator(), solver=co.RK4(steps_per_interval=2)).to_casadi(TS, control, knots=True)
    return f, control


@pytest.mark.parametrize("side", ["left", "right"])
def test_jumps_of_the_control_have_the_exact_derivative(side: str) -> None:
    f, _ = value(co.PiecewiseConstant, side=side)
    u = U[0][:-1] if side == "left" else U[0][1:]
    jac = np.asarray(ca.Function("j", f.mx_in(), [ca.jacobian(f(*f.mx_in())[0, 1:], f.mx_in(2))])(0, U, KNOTS, []))
    # x(0.5) = u0 k1 + u1 (0.5 - k1), and x(1) adds u1 (k2 - 0.5) + u2 (1 - k2)
    want = [[0, u[0] - u[1], 0, 0], [0, u[0] - u[1], u[1] - u[2], 0]]
    np.testing.assert_allclose(jac, want, atol=1e-12)
    np.testing.assert_allclose(f(0, U, KNOTS, [])[1], 0.3 * u[0] + 0.2 * u[1], rtol=1e-14)


def test_linear_pieces_have_exact_first_and_second_derivatives() -> None:
    f, _ = value(co.PiecewiseLinear)
    k = f.mx_in(2)
    end = f(0, U, k, [])[0, 2]
    area = sum(0.5 * (U[0, i] + U[0, i + 1]) * (k[i + 1] - k[i]) for i in range(3))
    for order in (1, 2):
        pair = [ca.gradient(v, k) if order == 1 else ca.hessian(v, k)[0] for v in (end, area)]
        found, want = ca.Function("d", [k], pair)(KNOTS)
        # At the outer knots a move would leave the control's range; the trapezia of the area move with them.
        np.testing.assert_allclose(np.asarray(found)[1:3], np.asarray(want)[1:3], atol=1e-12)


def test_values_are_those_of_the_simulation() -> None:
    for kind in (co.PiecewiseConstant, co.PiecewiseLinear):
        sim = co.Simulator(quadratic(), solver=co.RK4())
        control = kind([0.2, 0.3, 0.85, 0.9], U[0], extrapolation="hold")
        f = sim.to_casadi(TS, control, knots=True)
        found = np.asarray(f(0.1, U, control.knots, []))
        np.testing.assert_allclose(found, sim([0.1], control, None, TS).x[0].T, rtol=1e-14)
        moved = np.array([0.25, 0.4, 0.7, 0.95])
        want = sim([0.1], kind(moved, U[0], extrapolation="hold"), None, TS).x[0].T
        np.testing.assert_allclose(np.asarray(f(0.1, U, moved, [])), want, rtol=1e-13)


def test_the_order_of_knots_is_kept() -> None:
    f, _ = value(co.PiecewiseConstant)
    for knots in ([0.0, 0.6, 0.85, 1.0], [0.1, 0.3, 0.85, 1.0], [0.0, 0.3, 0.85, 0.9], [0.0, 0.3, 0.45, 1.0]):
        assert np.isnan(np.asarray(f(0, U, knots, []))).all()


def test_ipopt_finds_the_switching_time_of_a_bang_bang_control() -> None:
    # From rest to rest over the distance 1 with -1 <= u <= 2 (Pontryagin): v**2 = 4/3, T = 1.5 v, switch at T / 3.
    control = co.PiecewiseConstant([0.0, 0.6, 1.0], [2.0, -1.0, -1.0])
    sim = co.Simulator(double_integrator(), solver=co.RK4())
    f = sim.to_casadi([0.0, 1.0], control, knots=True)
    opti = ca.Opti()
    switch, T = opti.variable(), opti.variable()
    end = f([0, 0], control.values[0].T, ca.vertcat(0, switch, 1), T)[:, -1]
    opti.minimize(T)
    opti.subject_to(end == ca.DM([1, 0]))
    opti.subject_to(opti.bounded(0.05, switch, 0.95))
    opti.subject_to(T >= 0.1)
    opti.set_initial(switch, 0.6)
    opti.set_initial(T, 1.0)
    opti.solver("ipopt", {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes"})
    found = opti.solve()
    v = np.sqrt(4.0 / 3.0)
    assert found.value(switch) == pytest.approx(1.0 / 3.0, abs=1e-7)
    assert found.value(T) == pytest.approx(1.5 * v, abs=1e-7)


def test_a_switch_by_an_event_has_the_same_gradient() -> None:
    # The mode x[1] is 1 before tau and -1 after it: x(T) = tau - (T - tau).
    model = co.ControlledODE(lambda t, x, u, p: [x[1], 0 * t], nx=2, params=1)
    event = co.Event(lambda t, x, u, p: t - p[0], lambda t, x, u, p: [x[0], -1.0], direction=1)
    sim = co.Simulator(model, events=[event])
    tau = np.array([0.37])
    sol = sim([0.0, 1.0], None, tau, [0.0, 1.0])
    assert sol.x[0, 1, 0] == pytest.approx(2 * 0.37 - 1.0, abs=1e-12)
    assert sim.vjp([0.0, 1.0], None, tau, [0.0, 1.0], [[0.0, 0.0], [1.0, 0.0]])[0][0] == pytest.approx(2.0, abs=1e-12)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "kind": (lambda s: s.to_casadi(TS, co.CubicSpline(KNOTS, U[0]), knots=True), co.UnsupportedOperation, "Piecewise"),
    "none": (lambda s: s.to_casadi(TS, None, knots=True), co.ControlError, "nu=1"),
    "save time": (
        lambda s: s.to_casadi([0.0, 0.3, 1.0], co.PiecewiseConstant(KNOTS, U[0]), knots=True),
        co.ControlError,
        r"knots\[1\]=0.3 is also a save time",
    ),
    "periodic": (
        lambda s: s.to_casadi(TS, co.PiecewiseLinear(KNOTS, U[0], extrapolation="periodic"), knots=True),
        co.ControlError,
        "periodic",
    ),
    "callback": (
        lambda s: s.to_casadi(TS, co.PiecewiseConstant(KNOTS, U[0]), form="callback", knots=True),
        co.UnsupportedOperation,
        "expression",
    ),
    "adaptive": (
        lambda s: co.Simulator(s.model).to_casadi(TS, co.PiecewiseConstant(KNOTS, U[0]), knots=True),
        co.UnsupportedOperation,
        "fixed steps",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_misuse_is_named(name: str) -> None:
    action, error, message = BAD[name]
    with pytest.raises(error, match=message):
        action(co.Simulator(integrator(), solver=co.RK4()))
