"""Traps of CasADi's integrators, by name: each of them gave a wrong gradient, a crash or a hang at some time."""

from __future__ import annotations

import warnings
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from integrate.integrator_problems import SOLVERS, TRUTH, pendulum, worst

KNOTS = np.array([0.0, 0.4, 0.9, 1.1, 1.7, 2.0])
TS = np.array([0.0, 0.1, 0.3, 0.9, 1.15, 1.4, 2.0])
P = np.array([1.3, 0.2])


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("name", SOLVERS)
def test_trap_right_hand_side_that_does_not_depend_on_the_state(name: str, sensitivity: str) -> None:
    """xdot = sum p_i w_i(t): the adjoint of p is a quadrature alone, which CasADi leaves outside the step control."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        return p[0] * ca.sin(7 * t) + p[1] * ca.exp(-10 * t)

    sim = co.Simulator(co.ControlledODE(rhs, nx=1, params=2), solver=SOLVERS[name], sensitivity=sensitivity)
    ts, seeds = np.array([0.0, 0.21, 0.35, 0.8, 1.0]), np.array([3.0, 1.0, -2.0, 0.5, 0.3])
    p_bar, x0_bar, _ = sim.vjp([0.3], None, [1.0, 2.0], ts, seeds[:, None])
    exact = np.array([seeds @ (1 - np.cos(7 * ts)) / 7, seeds @ (1 - np.exp(-10 * ts)) / 10])
    assert np.allclose(p_bar, exact, rtol=1e-8, atol=1e-9)
    assert x0_bar == pytest.approx(seeds.sum(), rel=1e-12)


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("name", SOLVERS)
def test_trap_cost_that_depends_on_one_state_only(name: str, sensitivity: str, rng: np.random.Generator) -> None:
    """Seeds of one component at one inner save time; the adjoint is zero after it, and of that state at first."""
    control = co.PiecewiseLinear(KNOTS, rng.standard_normal((1, KNOTS.size, 2)))
    x0, seeds = rng.standard_normal((1, 2)), np.zeros((1, TS.size, 2))
    seeds[0, 4, 1] = 1e-4  # small, as those of a mean: absolute tolerances must not decide
    model = pendulum()
    sim, truth = co.Simulator(model, SOLVERS[name], sensitivity), co.Simulator(model, TRUTH)
    found, exact = sim.vjp(x0, control, P, TS, seeds), truth.vjp(x0, control, P, TS, seeds)
    assert worst(found, exact) < 1e-8
    assert not found[2][0, 5].any()  # u after the seed


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("name", SOLVERS)
def test_trap_control_that_jumps_within_the_output_grid(name: str, sensitivity: str) -> None:
    """x' = u, x(0) = 0, steps of u between save times: X is linear in u with known slopes."""
    sim = co.Simulator(co.ControlledODE(lambda t, x, u, p: u, nx=1, nu=1), SOLVERS[name], sensitivity)
    knots, ts = np.array([0.0, 0.25, 0.6, 1.0]), np.linspace(0.0, 1.0, 8)
    control = co.PiecewiseConstant(knots, [1.0, -3.0, 2.0, 0.0])
    slopes = np.clip(ts[:, None] - knots[:-1], 0.0, np.diff(knots))
    assert sim([0.0], control, None, ts).x[0, :, 0] == pytest.approx(slopes @ [1.0, -3.0, 2.0], abs=1e-9)
    seeds = np.cos(9.0 * ts)
    _, x0_bar, u_bar = sim.vjp([0.0], control, None, ts, seeds[:, None])
    assert u_bar[0, :, 0] == pytest.approx(np.append(seeds @ slopes, 0.0), rel=1e-8, abs=1e-9)
    assert x0_bar == pytest.approx(seeds.sum(), rel=1e-9)


@pytest.mark.parametrize("solver", [co.CVODES(), co.IDAS(), co.ERK(), co.Rosenbrock(), co.Collocation()])
def test_trap_adjoint_of_a_trajectory_that_fails(solver: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """SUNDIALS' adjoint never returns from a forward integration that fails; the others must not be touched by it."""
    model = co.ControlledODE(lambda t, x, u, p: [p[0] * x[0] ** 2, -x[1]], nx=2, params=1)
    x0, ts = np.array([[0.1, 1.0], [1.0, 1.0], [0.2, 2.0]]), np.array([0.0, 0.5, 0.9, 1.5])
    sim = co.Simulator(model, solver)
    sol = sim(x0, None, [1.0], ts)
    assert list(sol.success) == [True, False, True]
    assert sol.status[1] in (
        co.Status.MAX_STEPS, co.Status.SOLVER_FAILURE, co.Status.STEP_TOO_SMALL, co.Status.NON_FINITE
    )  # fmt: skip
    assert np.isnan(sol.x[1, -1]).all()
    assert np.isfinite(sol.x[1, 0]).all()
    seeds = np.ones((3, 4, 2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        p_bar, x0_bar, _ = sim.vjp(x0, None, [1.0], ts, seeds)
    assert [w.category for w in caught] == [co.IntegrationWarning]
    alone = sim.vjp(x0[[0, 2]], None, [1.0], ts, seeds[:2])
    assert np.array_equal(x0_bar[[0, 2]], alone[1])
    assert not x0_bar[1].any()
    assert p_bar == pytest.approx(alone[0], rel=1e-12)
    assert capfd.readouterr().err == ""


def test_trap_model_that_is_not_finite(capfd: pytest.CaptureFixture[str]) -> None:
    """NaN in the right-hand side; CasADi and SUNDIALS print nothing that the status says already."""
    model = co.ControlledODE(lambda t, x, u, p: -ca.sqrt(x[0]), nx=1)
    for solver in (co.CVODES(), co.IDAS(), co.ERK(), co.Rosenbrock(), co.Collocation()):
        sol = co.Simulator(model, solver)([[4.0], [-1.0]], None, None, [0.0, 1.0])
        assert [s.name for s in sol.status] == ["SUCCESS", "NON_FINITE"]
        assert sol.x[0, -1] == pytest.approx(2.25, rel=1e-4)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("solver", [co.CVODES(max_steps=20), co.IDAS(max_steps=20), co.ERK(max_steps=5)])
def test_trap_too_many_steps(solver: Any) -> None:
    sol = co.Simulator(pendulum(), solver)([1.0, 0.0], co.Constant([0.0, 0.0]), P, [0.0, 50.0])
    assert sol.status == [co.Status.MAX_STEPS]
