"""Adaptive steps: accuracy, dense output, independence of lanes, failures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from ctrlode_casadi.base.status import Status
from ctrlode_casadi.controls import Akima, CubicSpline, Pchip, PiecewiseConstant, PiecewiseLinear
from ctrlode_casadi.integrate import BS3, DOP853, RK4, Dopri5, Simulator, Tsit5
from ctrlode_casadi.integrate.rosenbrock.solvers import Rodas5P
from ctrlode_casadi.model.ode import ControlledODE
from integrate.problems import P, blow_up, lotka_volterra, oscillator, reference

METHODS = [BS3, Dopri5, Tsit5, DOP853]
KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [PiecewiseConstant, PiecewiseLinear, CubicSpline])
def test_error_follows_the_tolerance(method, kind):
    rng = np.random.default_rng(1)
    control = kind(KNOTS, rng.standard_normal((5, 5, 1)))
    x0 = rng.standard_normal((5, 2))
    ts = np.linspace(0.0, 3.0, 23)
    rtol = 1e-5 if method is BS3 else 1e-8
    sol = Simulator(oscillator(), method(rtol=rtol, atol=rtol))(x0, control, P, ts)
    assert sol.success.all()
    for b in range(5):
        exact = reference(control, P, x0[b], ts, KNOTS, b)
        assert np.abs(sol.x[b] - exact).max() < 30 * rtol * (1 + np.abs(exact).max())


@pytest.mark.parametrize("kind", [Pchip, Akima, PiecewiseLinear])
@pytest.mark.parametrize("method", [Tsit5, DOP853, Rodas5P])
def test_knots_that_are_not_smooth_cost_no_accuracy(method, kind, rng):
    """A damped linear oscillator and random values on 21 knots: steps that crossed them were off by 30 tolerances."""
    model = ControlledODE(lambda t, x, u, p: [x[1], u[0] - x[0] - 0.5 * x[1]], nx=2, nu=1)
    knots, ends = np.linspace(0.0, 10.0, 21), np.array([0.0, 10.0])
    control, x0 = kind(knots, rng.standard_normal((9, 21, 1))), np.zeros((9, 2))
    exact = Simulator(model, DOP853(steps_per_interval=20))(x0, control, None, ends).x
    found = Simulator(model, method(rtol=1e-8, atol=1e-8))(x0, control, None, ends).x
    assert np.abs(found - exact).max() < 1e-8


def test_no_absolute_tolerance_for_a_state_that_stays_zero():
    model = ControlledODE(lambda t, x, u, p: [-x[0], 0 * x[1]], nx=2)
    for solver in (Tsit5(rtol=1e-8, atol=0), DOP853(rtol=1e-8, atol=0), Rodas5P(rtol=1e-8, atol=0)):
        sol = Simulator(model, solver)([1.0, 0.0], None, None, [0.0, 1.0])
        assert sol.success.all() and sol.x[0, -1] == pytest.approx([np.exp(-1.0), 0.0], rel=1e-7)


def test_terminal_gradient_of_the_sundials_example():
    """Values of SUNDIALS' cvsLotkaVolterra_ASA: dG/dp and dG/dx0 of 0.5 |1 - x(10)|^2."""
    p, ts = np.array([1.5, 1.0, 3.0, 1.0]), np.array([0.0, 10.0])
    sim = Simulator(lotka_volterra(), Tsit5(rtol=1e-10, atol=1e-12))
    end = sim([1.0, 1.0], None, p, ts).x[0, -1]
    assert end == pytest.approx([1.0263447675750945, 0.9096910781360363], rel=1e-8)
    p_bar, x0_bar, u_bar = sim.vjp([1.0, 1.0], None, p, ts, np.array([[0.0, 0.0], end - 1.0]))
    published = [0.6219615855513199, 0.06800140415087272, 0.1691764639959065, 0.27256069395001536]
    assert p_bar == pytest.approx(published, rel=1e-6)
    assert x0_bar == pytest.approx([0.29959950830370446, -0.014151816344859425], rel=1e-6)
    assert u_bar is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [PiecewiseConstant, PiecewiseLinear, CubicSpline])
def test_lanes_are_independent(method, kind):
    """Each trajectory has the same bits alone, and beside stiff and failing neighbours."""
    rng = np.random.default_rng(2)
    values, x0 = rng.standard_normal((19, 5, 1)), rng.standard_normal((19, 2))
    values[3], x0[7] = 80.0, [30.0, 400.0]
    ts = np.linspace(0.0, 3.0, 12)
    sim = Simulator(oscillator(), method(rtol=1e-5, atol=1e-6))
    control = kind(KNOTS, values)
    together = sim(x0, control, P, ts)
    order = rng.permutation(19)
    shuffled = sim(x0[order], control[order.tolist()], P, ts)
    assert np.array_equal(together.x[order], shuffled.x)
    for name in ("n_steps", "n_rejected", "n_rhs"):
        assert np.array_equal(together.stats[name][order], shuffled.stats[name])
    for b in (0, 3, 18):
        rows = np.full(19, b)
        alone = sim(x0[rows], control[rows.tolist()], P, ts)
        assert np.array_equal(together.x[b], alone.x[0])


@pytest.mark.parametrize("method", [*METHODS, lambda **_: RK4(steps_per_interval=20)])
def test_a_lane_that_blows_up_leaves_the_others_alone(method):
    x0 = np.full((11, 1), 0.1)
    x0[4] = 2.0
    ts, zero = np.linspace(0.0, 2.0, 9), PiecewiseConstant([0.0, 2.0], np.zeros((11, 2, 1)))
    sim = Simulator(blow_up(), method(rtol=1e-6, atol=1e-8))
    sol = sim(x0, zero, [1.0], ts)
    assert sol.status[4] in (Status.NON_FINITE, Status.STEP_TOO_SMALL)
    assert sol.success.sum() == 10
    assert not np.isnan(np.delete(sol.x, 4, axis=0)).any()
    assert np.isnan(sol.x[4, -1]).all()
    assert np.isfinite(sol.x[4, :2]).all()
    good = np.delete(np.arange(11), 4)
    healthy = sim(x0[good], zero[good.tolist()], [1.0], ts)
    assert np.array_equal(sol.x[good], healthy.x)
    with pytest.warns(match="1 of 11 trajectories failed"):
        p_bar, x0_bar, u_bar = sim.vjp(x0, zero, [1.0], ts, np.ones((11, 9, 1)))
    q_bar, y0_bar, v_bar = sim.vjp(x0[good], zero[good.tolist()], [1.0], ts, np.ones((10, 9, 1)))
    assert p_bar == pytest.approx(q_bar, rel=1e-13)
    assert np.array_equal(x0_bar[good], y0_bar)
    assert np.array_equal(u_bar[good], v_bar)
    assert not x0_bar[4].any()


def test_step_limit():
    sol = Simulator(oscillator(), Tsit5(rtol=1e-10, atol=1e-12, max_steps=20))(
        np.zeros((3, 2)), PiecewiseLinear([0.0, 50.0], [1.0, -1.0]), P, np.linspace(0.0, 50.0, 6)
    )
    assert sol.status == [Status.MAX_STEPS] * 3
    assert np.isnan(sol.x[:, -1]).all()
    assert np.all(sol.stats["n_steps"] + sol.stats["n_rejected"] == 20)


@pytest.mark.parametrize("kind", [PiecewiseConstant, PiecewiseLinear])
@pytest.mark.parametrize(("solver", "backend"), [(Tsit5, "compiled"), (Tsit5, "casadi"), (Rodas5P, "compiled")])
def test_step_limit_grows_with_the_knots_passed(solver, backend, kind, rng):
    """Each trajectory by its own knots: ten trials for each one, whatever those of its neighbours."""
    most = 40
    sim = Simulator(oscillator(), solver(max_steps=most), backend=backend)
    knots = [np.linspace(0.0, 20.0, n) for n in (401, 2, 201)]
    controls = [kind(k, rng.standard_normal(k.size), nu=1, extrapolation="hold") for k in knots]
    spans = [np.array([0.0, 20.0]), np.array([0.0, 200.0]), np.array([10.0, 20.0])]
    sol = sim(np.zeros((3, 2)), controls, P, spans)
    assert sol.status == [Status.SUCCESS, Status.MAX_STEPS, Status.SUCCESS]
    trials = sol.stats["n_steps"] + sol.stats["n_rejected"]
    assert trials[0] >= 400 and trials[1] in (most, most + 10) and trials[2] >= 100
    for b in range(3):
        alone = sim(np.zeros((1, 2)), controls[b], P, spans[b])
        assert alone.status == [sol.status[b]]
        assert alone.stats["n_steps"][0] + alone.stats["n_rejected"][0] == trials[b]
    # Knots before the initial time do not count: the second trajectory passes none.
    tight = Simulator(oscillator(), solver(rtol=1e-13, atol=1e-15, max_steps=2), backend=backend)
    late = tight(np.zeros((2, 2)), controls[0], P, [np.array([0.0, 19.96]), np.array([19.96, 19.99])])
    assert late.status[1] == Status.MAX_STEPS
    assert late.stats["n_steps"][1] + late.stats["n_rejected"][1] == 2


def test_more_knots_than_the_default_limit(rng):
    """x' = u - x with a control held on each of 120 000 intervals, against the exact recursion."""
    n, h = 120_000, 0.01
    model = ControlledODE(lambda t, x, u, p: u - x, nx=1, nu=1)
    u = rng.standard_normal(n + 1)
    ts = h * np.arange(n + 1)
    sol = Simulator(model, Tsit5(rtol=1e-8))([0.5], PiecewiseConstant(ts, u), None, ts)
    assert sol.status == [Status.SUCCESS]
    exact = lfilter([0.0, -np.expm1(-h)], [1.0, -np.exp(-h)], u, zi=[0.5])[0]
    np.testing.assert_allclose(sol.x[0, :, 0], exact, atol=1e-8)


def test_derivative_that_is_not_finite_at_once():
    with np.errstate(all="ignore"):
        sol = Simulator(blow_up(), Tsit5())([1.0], PiecewiseConstant([0.0, 1.0], [0.0, 0.0]), [1e308], [0.0, 1.0])
    assert sol.status[0] in (Status.NON_FINITE, Status.STEP_TOO_SMALL)


def test_given_first_step_saves_two_evaluations():
    control, ts = PiecewiseLinear([0.0, 1.0], [0.0, 1.0]), np.array([0.0, 1.0])
    sol = Simulator(oscillator(), Tsit5(dt0=0.01))(np.zeros(2), control, P, ts)
    trials = sol.stats["n_steps"] + sol.stats["n_rejected"]
    assert sol.stats["n_rhs"][0] == 6 * trials[0] + 1


def test_state_wise_tolerance():
    control, ts = PiecewiseLinear([0.0, 1.0], [0.0, 1.0]), np.array([0.0, 1.0])
    loose = Simulator(oscillator(), Tsit5(rtol=1e-12, atol=(1.0, 1.0)))(np.zeros(2), control, P, ts)
    tight = Simulator(oscillator(), Tsit5(rtol=1e-12, atol=(1.0, 1e-12)))(np.zeros(2), control, P, ts)
    assert tight.stats["n_steps"][0] > 3 * loose.stats["n_steps"][0]
