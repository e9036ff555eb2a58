"""Derivatives through events: closed forms by complex steps, adjoint against tangent, objectives, composition."""

from __future__ import annotations

import warnings
from typing import Any

import casadi as ca
import numpy as np
import pytest
from scipy.optimize import minimize

import ctrlode_casadi as co
from integrate.hybrid_models import G, W, ball, bounce, bouncing, clock, starts, thermostat, thermostat_state

TS = np.linspace(0.0, 1.5, 16)
TIGHT = co.Tsit5(rtol=1e-11, atol=1e-13)
EPS = 1e-30


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
@pytest.mark.parametrize("solver", [TIGHT, co.RK4()], ids=lambda s: type(s).__name__)
def test_the_gradient_of_bouncing_balls_is_exact(solver: Any, size: int, rng: np.random.Generator) -> None:
    sim = co.Simulator(ball(), solver=solver, events=bounce())
    x0, p = starts(size), np.array([G, 0.7])
    seeds = rng.standard_normal((size, TS.size, 2))
    p_bar, x0_bar, _ = sim.vjp(x0, None, p, TS, seeds)

    def total(b: int, values: Any) -> Any:
        return sum(np.dot(seeds[b, k], bouncing(t, *values)) for k, t in enumerate(TS))

    want_p, want_x = np.zeros(2), np.zeros((size, 2))
    for b in range(size):
        at = np.array([*x0[b], *p], complex)
        slopes = [np.imag(total(b, at + 1j * EPS * e)) / EPS for e in np.eye(4)]
        want_x[b], want_p = slopes[:2], want_p + slopes[2:]
    np.testing.assert_allclose(p_bar, want_p, rtol=1e-8, atol=1e-8 * size)
    np.testing.assert_allclose(x0_bar, want_x, rtol=1e-8, atol=1e-8)
    dp, dx0 = rng.standard_normal(2), rng.standard_normal((size, 2))
    along = np.sum(seeds * sim.jvp(x0, None, p, TS, dp=dp, dx0=dx0))
    assert along == pytest.approx(p_bar @ dp + np.sum(x0_bar * dx0), rel=1e-11)


def test_the_gradient_of_a_thermostat_is_exact() -> None:
    model, events = thermostat(1.0, 2.0)
    sim = co.Simulator(model, solver=TIGHT, events=events)
    p, T = np.array([0.7, 3.0]), 9.3
    p_bar, _, _ = sim.vjp([0.0, 1.0], None, p, [0.0, T], [[0.0, 0.0], [1.0, 0.0]])
    want = [np.imag(thermostat_state(T, *(p + 1j * EPS * e), 1.0, 2.0)) / EPS for e in np.eye(2)]
    np.testing.assert_allclose(p_bar, want, rtol=1e-8)


def ramp(values: Any, x0: Any, p: Any, T: float) -> Any:
    """x' = u with u linear on [0, 1] and on [1, 3]; x = p0 happens in the second part and sets x to p1 tau + u(tau)."""
    a, b, c = values
    first, slope = 0.5 * (a + b), 0.5 * (c - b)
    rest = p[0] - x0 - first  # b s + slope s**2 / 2 = rest
    s = (-b + np.sqrt(b * b + 2 * slope * rest)) / slope
    area = b * (T - 1) + 0.5 * slope * (T - 1) ** 2
    return p[1] * (1 + s) + b + slope * s + area - rest


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_the_gradient_of_control_values_is_exact(size: int, rng: np.random.Generator) -> None:
    model = co.ControlledODE(lambda t, x, u, p: u, nx=1, nu=1, params=2)
    event = co.Event(lambda t, x, u, p: x[0] - p[0], lambda t, x, u, p: p[1] * t + u[0], direction=1)
    knots, values = np.array([0.0, 1.0, 3.0]), np.array([0.6, 1.0, 1.8]) + 0.2 * rng.random((size, 3))
    p, x0, ts = np.array([1.5, -2.0]), 0.1 * rng.random((size, 1)), np.array([0.0, 0.9, 2.9])
    seeds = np.zeros((size, 3, 1))
    seeds[:, 2] = rng.standard_normal((size, 1))
    for solver in (TIGHT, co.RK4()):
        sim = co.Simulator(model, solver=solver, events=event)
        control = co.PiecewiseLinear(knots, values[:, :, None])
        sol = sim(x0, control, p, ts)
        want = np.array([ramp(v, x[0], p, 2.9) for v, x in zip(values, x0, strict=True)])
        np.testing.assert_allclose(sol.x[:, 2, 0], want, rtol=1e-11)
        p_bar, x0_bar, u_bar = sim.vjp(x0, control, p, ts, seeds)
        for b in range(size):
            at = np.array([*values[b], x0[b, 0], *p], complex)
            found = [np.imag(ramp(z[:3], z[3], z[4:], 2.9)) / EPS for z in at + 1j * EPS * np.eye(6)]
            np.testing.assert_allclose(u_bar[b, :, 0], seeds[b, 2, 0] * np.array(found[:3]), rtol=1e-8)
            np.testing.assert_allclose(x0_bar[b], seeds[b, 2, 0] * found[3], rtol=1e-8)
        du, dp = rng.standard_normal(control.values.shape), rng.standard_normal(2)
        along = np.sum(seeds * sim.jvp(x0, control, p, ts, dp=dp, du=du))
        assert along == pytest.approx(np.sum(u_bar * du) + p_bar @ dp, rel=1e-10)
        shared = co.PiecewiseLinear(knots, values[0])
        u_shared = sim.vjp(x0, shared, p, ts, seeds)[2]
        u_list = sim.vjp(x0, [shared] * size, p, ts, seeds)[2]
        np.testing.assert_allclose(u_shared[0], np.sum([v.reshape(3, 1) for v in u_list], axis=0), rtol=1e-10)


def test_a_jump_of_the_control_fixes_the_time_of_its_event() -> None:
    # u jumps from 1 to 3 at 0.5, where x is multiplied by p: x(1) = p (x0 + 0.5 u0) + 0.5 u1
    model = co.ControlledODE(lambda t, x, u, p: u, nx=1, nu=1, params=1)
    event = co.Event(lambda t, x, u, p: u[0] - 2.0, lambda t, x, u, p: p * x)
    control = co.PiecewiseConstant([0.0, 0.5, 1.0], [1.0, 3.0, 3.0])
    sim = co.Simulator(model, events=event)
    p_bar, x0_bar, u_bar = sim.vjp([0.2], control, [4.0], [0.0, 1.0], [[0.0], [1.0]])
    np.testing.assert_allclose(p_bar, [0.7], rtol=1e-12)
    np.testing.assert_allclose(x0_bar, [4.0], rtol=1e-12)
    np.testing.assert_allclose(u_bar[0, :, 0], [2.0, 0.5, 0.0], atol=1e-12)


def test_an_event_at_a_save_time_keeps_the_gradient() -> None:
    # x' = 1 from x0; at x = p it is multiplied by 3: x(T) = 3 p + T - (p - x0); the row at the event is x0 + 0.5
    sim = co.Simulator(clock(), events=co.Event(lambda t, x, u, p: x[0] - p[0], lambda t, x, u, p: 3 * x))
    for k, want in ((1, (0.0, 1.0)), (2, (2.0, 1.0))):
        seeds = np.zeros((3, 1))
        seeds[k] = 1.0
        p_bar, x0_bar, _ = sim.vjp([0.0], None, [0.5], [0.0, 0.5, 1.0], seeds)
        np.testing.assert_allclose([p_bar[0], x0_bar[0]], want, atol=1e-12)


def test_a_terminal_event_and_a_failure_take_no_part_in_the_gradient() -> None:
    sim = co.Simulator(ball(), events=co.Event(lambda t, x, u, p: x[0], direction=-1, terminal=True))
    ts = np.array([0.0, 0.2, 0.4, 0.8])  # the ball lands at 0.4515
    p_bar, x0_bar, _ = sim.vjp([1.0, 0.0], None, [G, 0.0], ts, np.ones((4, 2)))
    np.testing.assert_allclose(p_bar[0], -0.5 * (0.2**2 + 0.4**2) - 0.6, rtol=1e-10)
    np.testing.assert_allclose(x0_bar, [3.0, 3.0 + 0.6], rtol=1e-10)
    two = co.Simulator(ball(), events=bounce(), max_events=1)
    with pytest.warns(co.IntegrationWarning, match="max_events"):
        p_bar, x0_bar, _ = two.vjp([[1.0, 0.0], [9.0, 0.0]], None, [G, 0.5], ts * 1.5, np.ones((2, 4, 2)))
    assert not x0_bar[0].any() and x0_bar[1].all()


def test_an_objective_learns_the_restitution() -> None:
    # The height is continuous; the speed at a save time jumps where an impact passes it, and so would the cost.
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0]], nx=2, params=2, output=lambda t, x, u, p: x[0])
    sim = co.Simulator(model, solver=co.Tsit5(rtol=1e-9, atol=1e-11), events=bounce())
    true = np.array([G, 0.75])
    x0 = np.array([[1.0, 0.0], [0.6, 0.4], [2.0, -1.0]])
    ts = np.linspace(0.0, 0.7, 22)
    obj = co.Objective(sim, x0, None, ts, data=sim(x0, None, true, ts).y)
    p = np.array([9.5, 0.7])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", co.IntegrationWarning)  # far steps of the differences meet a Zeno ball
        report = obj.check_gradient(p, directions=2, coordinates=0)
    assert report.exact_error < 1e-11  # differences see the kink where an impact passes a save time
    found = minimize(obj, p, jac=True, method="L-BFGS-B", options={"ftol": 1e-16, "gtol": 1e-9})
    np.testing.assert_allclose(found.x, true, atol=1e-4)
    with pytest.raises(co.UnsupportedOperation, match="events"):
        obj.hessp(p, p)
    ending = co.Simulator(ball(), events=co.Event(lambda t, x, u, p: x[0], terminal=True))
    with pytest.raises(co.UnsupportedOperation, match="terminal event"):
        co.Objective(ending, x0, None, ts, data=np.zeros((3, 22, 2)))


def test_running_and_terminal_costs_with_events() -> None:
    # x' = 1, set to 0 at x = p: the integral of x over [0, 1] from 0 is p**2 / 2 + (1 - p)**2 / 2.
    event = co.Event(lambda t, x, u, p: x[0] - p[0], lambda t, x, u, p: 0 * x, direction=1)
    sim = co.Simulator(clock(), events=event)
    obj = co.Objective(
        sim, [0.0], None, [0.0, 1.0], loss=None, running=lambda t, x, u, y, p: x[0], terminal=lambda t, x, u, y, p: x[0]
    )
    value, gradient = obj([0.7])
    assert value == pytest.approx(0.5 * (0.49 + 0.09) + 0.3, rel=1e-12)
    assert gradient[0] == pytest.approx(0.7 - 0.3 - 1.0, rel=1e-11)
    assert obj.derivative_along([0.7], [1.0]) == pytest.approx(gradient[0], rel=1e-11)


def test_a_simulation_with_events_as_a_casadi_function() -> None:
    sim = co.Simulator(ball(), solver=co.RK4(), events=bounce())
    f = sim.to_casadi([0.0, 0.5, 0.8])
    p = ca.MX.sym("p", 2)
    end = f([1.0, 0.0], ca.MX(0, 0), p)[0, 2]
    slope = ca.Function("slope", [p], [end, ca.gradient(end, p)])([G, 0.8])
    at = np.array([1.0, 0.0, G, 0.8], complex)
    want = [np.imag(bouncing(0.8, *(at + 1j * EPS * e))[0]) / EPS for e in np.eye(4)[2:]]
    assert float(slope[0]) == pytest.approx(bouncing(0.8, 1.0, 0.0, G, 0.8)[0], abs=1e-12)
    np.testing.assert_allclose(np.asarray(slope[1])[:, 0], want, rtol=1e-10)
    with pytest.raises(Exception, match="second derivatives of a simulation with events"):
        ca.Function("h", [p], [ca.hessian(end, p)[0]])


def test_forward_sensitivities_equal_the_adjoint() -> None:
    x0, p, seeds = starts(3), np.array([G, 0.7]), np.ones((3, TS.size, 2))
    one, two = (
        co.Simulator(ball(), solver=TIGHT, events=bounce(), sensitivity=how).vjp(x0, None, p, TS, seeds)
        for how in ("adjoint", "forward")
    )
    np.testing.assert_allclose(one[0], two[0], rtol=1e-10)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-10)
