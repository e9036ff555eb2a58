"""CasADi's integrators behind the simulator: values and derivatives, for every control."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import ctrlode_casadi as co
from integrate.integrator_problems import FAMILIES, SOLVERS, TIGHT, TRUTH, pendulum, worst

KNOTS = np.array([0.0, 0.4, 0.9, 1.1, 1.7, 2.0])
TS = np.array([0.0, 0.1, 0.3, 0.9, 1.15, 1.4, 2.0])
P = np.array([1.3, 0.2])
KINDS: dict[str, Any] = {
    "constant": lambda values: co.Constant(values[:, 0]),
    "hold": lambda values: co.PiecewiseConstant(KNOTS, values),
    "right": lambda values: co.PiecewiseConstant(KNOTS, values, side="right"),
    "linear": lambda values: co.PiecewiseLinear(KNOTS, values),
    "periodic": lambda values: co.PiecewiseLinear(0.3 * KNOTS, values, extrapolation="periodic"),
    "spline": lambda values: co.CubicSpline(KNOTS, values),
    "pchip": lambda values: co.Pchip(0.8 * KNOTS, values, extrapolation="hold"),
    "shared": lambda values: co.PiecewiseLinear(KNOTS, values[:1]),
    "own knots": lambda values: co.Akima(KNOTS * np.linspace(1.0, 1.3, len(values))[:, None], values),
}


def check(solver: Any, sensitivity: Any, control: Any, x0: Any, rng: np.random.Generator) -> None:
    """Values, products with the Jacobian and with its transpose against a tight explicit method."""
    model = pendulum()
    sim, truth = co.Simulator(model, solver=solver, sensitivity=sensitivity), co.Simulator(model, solver=TRUTH)
    sol = sim(x0, control, P, TS)
    assert sol.success.all()
    assert sim.backend == "casadi"
    assert worst(sol.x, truth(x0, control, P, TS).x) < 1e-8
    seeds = rng.standard_normal(sol.x.shape)
    assert worst(sim.vjp(x0, control, P, TS, seeds), truth.vjp(x0, control, P, TS, seeds)) < 1e-8
    along = {
        "dp": rng.standard_normal(2),
        "dx0": rng.standard_normal((len(x0), 2)),
        "du": rng.standard_normal(control.values.shape),
    }
    assert worst(sim.jvp(x0, control, P, TS, **along), truth.jvp(x0, control, P, TS, **along)) < 1e-8


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("name", SOLVERS)
def test_values_and_derivatives(name: str, sensitivity: str, rng: np.random.Generator) -> None:
    control = KINDS["linear"](rng.standard_normal((2, KNOTS.size, 2)))
    check(SOLVERS[name], sensitivity, control, rng.standard_normal((2, 2)), rng)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["erk"])
def test_every_kind_of_control(name: str, kind: str, rng: np.random.Generator) -> None:
    control = KINDS[kind](rng.standard_normal((2, KNOTS.size, 2)))
    check(SOLVERS[name], "auto", control, rng.standard_normal((2, 2)), rng)


@pytest.mark.parametrize("name", ["erk", "rosenbrock", "collocation", "erk fixed", "rosenbrock fixed"])
def test_discrete_adjoints_are_exact(name: str, rng: np.random.Generator) -> None:
    """With loose tolerances too reverse and forward mode agree to rounding: both differentiate the numbers computed."""
    loose = {"erk": co.ERK(rtol=1e-2, atol=1e-2), "rosenbrock": co.Rosenbrock(rtol=1e-2, atol=1e-2)}
    solver = loose.get(name, SOLVERS[name])
    sim = co.Simulator(pendulum(), solver=solver)
    control, x0 = KINDS["linear"](rng.standard_normal((2, KNOTS.size, 2))), rng.standard_normal((2, 2))
    seeds, dp = rng.standard_normal((2, TS.size, 2)), rng.standard_normal(2)
    dx0, du = rng.standard_normal((2, 2)), rng.standard_normal(control.values.shape)
    bars = sim.vjp(x0, control, P, TS, seeds)
    reverse = sum(float(np.sum(a * b)) for a, b in zip(bars, (dp, dx0, du), strict=True))
    assert reverse == pytest.approx(float(np.sum(seeds * sim.jvp(x0, control, P, TS, dp, dx0, du))), rel=1e-11)


@pytest.mark.parametrize("scheme", ["radau", "legendre"])
def test_order_of_collocation(scheme: str) -> None:
    """Errors at the end fall with the order that the solver states."""
    sim = [co.Simulator(pendulum(), co.Collocation(degree=2, scheme=scheme, steps_per_interval=n)) for n in (4, 8, 16)]
    control = co.Constant([0.3, -0.2])
    exact = co.Simulator(pendulum(), TRUTH)([1.0, 0.0], control, P, [0.0, 2.0]).x[0, -1]
    errors = [float(np.abs(s([1.0, 0.0], control, P, [0.0, 2.0]).x[0, -1] - exact).max()) for s in sim]
    slope = np.log2(errors[1] / errors[2])
    assert slope == pytest.approx(sim[0].solver.order, abs=0.4)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e4, 1e6, 1e8])
def test_collocation_has_no_favourite_size_of_the_states(size: float) -> None:
    """x' = -p x sqrt(1 + (x / size)^2) from x = size: the solution is `size` times that for size 1."""
    scaled = co.ControlledODE(lambda t, x, u, p: -p * x * (1 + (x / size) ** 2) ** 0.5, nx=1, params=1)
    ts, seeds = np.linspace(0.0, 1.0, 5), np.ones((5, 1))
    sim, exact = (co.Simulator(scaled, s) for s in (co.Collocation(4, "legendre"), co.DOP853(rtol=1e-12, atol=1e-12)))
    assert sim([size], None, [1.0], ts).success.all()
    for found, wanted in zip(*(s.vjp([size], None, [1.0], ts, seeds)[:2] for s in (sim, exact)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-7)
    tangent = sim.jvp([size], None, [1.0], ts, dp=[1.0])
    np.testing.assert_allclose(tangent, exact.jvp([size], None, [1.0], ts, dp=[1.0]), rtol=1e-7, atol=1e-7 * size)


def test_many_save_times_cost_no_restart() -> None:
    """Save times without knots between them are outputs of one call."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], p[0] * (1 - x[0] ** 2) * x[1] - x[0]], nx=2, params=1)
    for solver in (co.CVODES(rtol=1e-8), co.ERK(rtol=1e-8), co.Rosenbrock(rtol=1e-8), co.IDAS(rtol=1e-8)):
        sim = co.Simulator(model, solver)
        few, many = (sim([2.0, 0.0], None, [1.0], np.linspace(0, 5, n)) for n in (2, 301))
        assert many.stats["n_steps"][0] < 1.1 * few.stats["n_steps"][0]
        assert worst(many.x[0, -1], few.x[0, -1]) < 1e-6


def test_ragged_batches_and_lists_of_controls(rng: np.random.Generator) -> None:
    controls = [co.PiecewiseLinear(np.linspace(0, 2, n), rng.standard_normal((n, 2))) for n in (3, 5)]
    ts = [np.array([0.0, 0.5, 1.9]), np.array([0.0, 0.31, 0.7, 1.3, 2.0])]
    x0, seeds = rng.standard_normal((2, 2)), rng.standard_normal((2, 5, 2))
    for name in ("bdf", "rosenbrock"):
        for how in ("adjoint", "forward"):
            sim, truth = co.Simulator(pendulum(), SOLVERS[name], how), co.Simulator(pendulum(), TRUTH)
            a, b = sim(x0, controls, P, ts), truth(x0, controls, P, ts)
            assert np.array_equal(np.isnan(a.x), np.isnan(b.x))
            assert worst(np.nan_to_num(a.x), np.nan_to_num(b.x)) < 1e-8
            weights = np.where(np.isnan(b.x), 0.0, seeds)
            found, exact = sim.vjp(x0, controls, P, ts, weights), truth.vjp(x0, controls, P, ts, weights)
            assert worst(found[:2], exact[:2]) < 1e-8
            assert worst(found[2], exact[2]) < 1e-8


def test_irregular_save_times_fall_back_to_calls_that_end_there(rng: np.random.Generator) -> None:
    """Every interval has another output grid: more integrators than are worth it."""
    knots = np.linspace(0.0, 2.0, 21)
    control = co.PiecewiseLinear(knots, rng.standard_normal((21, 2)))
    ts = np.append(0.0, np.sort(rng.uniform(0.01, 2.0, 50)))
    sim, truth = co.Simulator(pendulum(), SOLVERS["erk"]), co.Simulator(pendulum(), TRUTH)
    x0 = np.array([1.0, 0.2])
    assert worst(sim(x0, control, P, ts).x, truth(x0, control, P, ts).x) < 1e-8


@pytest.mark.parametrize("name", FAMILIES)
def test_first_step_and_lengths_of_time_in_options(name: str, rng: np.random.Generator) -> None:
    """dt0 and step limits are in the unit of t, whatever the interval's length."""
    if name == "collocation":
        return
    cls = type(SOLVERS[name])
    control, x0 = KINDS["hold"](rng.standard_normal((1, KNOTS.size, 2))), [1.0, 0.2]
    limited = co.Simulator(pendulum(), cls(dt0=1e-3, options={"max_step_size": 0.01}))
    sol = limited(x0, control, P, TS)
    assert sol.stats["n_steps"][0] >= 200
    assert worst(sol.x, co.Simulator(pendulum(), TRUTH)(x0, control, P, TS).x) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_and_pickles(name: str) -> None:
    sim = co.Simulator(pendulum(), SOLVERS[name], "forward")
    copy = pickle.loads(pickle.dumps(sim))
    control = co.Constant([0.1, 0.2])
    assert copy.solver == sim.solver
    assert copy.sensitivity == sim.sensitivity
    assert np.array_equal(copy([1.0, 0.0], control, P, TS).x, sim([1.0, 0.0], control, P, TS).x)
    assert type(SOLVERS[name]).__name__ in sim.explain()


def test_single_precision_is_that_of_the_arrays() -> None:
    sim = co.Simulator(pendulum(), co.ERK(**TIGHT), dtype="float32")
    control = co.Constant(np.array([0.1, 0.2], np.float32), dtype="float32")
    sol = sim(np.array([1.0, 0.0], np.float32), control, P.astype(np.float32), TS)
    assert sol.x.dtype == np.float32
    assert worst(sol.x, co.Simulator(pendulum(), TRUTH)([1.0, 0.0], co.Constant([0.1, 0.2]), P, TS).x) < 1e-6
