"""Optimal costs of published problems."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import ctrlode_casadi as co
from ocp.problems import CASES, Case, cart

INTERVALS = {"bryson_denham": 60, "goddard": 60, "catalyst": 100, "fastest_oscillator": 80}


@pytest.fixture(params=CASES, ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


@pytest.mark.parametrize("scheme", ["radau", "legendre"])
def test_collocation_finds_the_published_cost(case: Case, scheme: str, request: pytest.FixtureRequest) -> None:
    intervals = INTERVALS.get(request.node.callspec.params["case"].__name__, 40)
    sol = case.ocp.solve(
        method="collocation", intervals=intervals, degree=4, scheme=scheme, guess=case.guess, backend="casadi"
    )
    assert sol.success, sol.message
    assert sol.objective == pytest.approx(case.exact, rel=case.rtol)
    assert sol.stats["iterations"] < 200


@pytest.mark.parametrize("method", ["multiple-shooting", "single-shooting"])
def test_shooting_finds_the_cost_of_a_held_control(case: Case, method: str) -> None:
    for intervals, cost in case.held.items():
        sol = case.ocp.solve(method=method, intervals=intervals, guess=case.guess, backend="casadi")
        assert sol.success, sol.message
        assert sol.objective == pytest.approx(cost, rel=1e-6)


def test_all_methods_agree_on_a_held_control() -> None:
    """Collocation of high degree with a constant control is the same finite problem as both kinds of shooting."""
    costs = [
        cart().solve(method=method, intervals=8, control="constant", degree=5, backend="casadi").objective
        for method in ("collocation", "multiple-shooting", "single-shooting")
    ]
    np.testing.assert_allclose(costs, costs[0], rtol=1e-9)
    # least squares over step functions with the two end conditions: 12 / (1 - 1/N^2)
    assert costs[0] == pytest.approx(12.0 / (1.0 - 1.0 / 64.0), rel=1e-9)


def test_linear_control_is_exact_where_the_optimum_is_linear() -> None:
    for method in ("collocation", "multiple-shooting", "single-shooting"):
        sol = cart().solve(method=method, intervals=3, control="linear", backend="casadi")
        assert sol.objective == pytest.approx(12.0, rel=1e-9)
        np.testing.assert_allclose(sol.u[[0, -1], 0], [6.0, -6.0], rtol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif("CTRLODE_CASES" not in os.environ, reason="CTRLODE_CASES names no folder with cases.py")
def test_reference_cases() -> None:
    """All cases of the folder in CTRLODE_CASES, through the benchmark's own table."""
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root / "benchmarks"))
    try:
        from optimal_control import load_cases, measure
    finally:
        sys.path.pop(0)
    rows = [measure(case) for case in load_cases(Path(os.environ["CTRLODE_CASES"]))]
    late = [row for row in rows if not row.good]
    assert not late and len(rows) >= 20


def test_pure_cost_state_is_a_quadrature() -> None:
    """A state that only sums up the cost leaves the NLP, and comes back in the solution."""
    model = co.ControlledODE(
        lambda t, x, u, p: [x[1], u[0], u[0] ** 2 + 0 * t], nx=3, nu=1, state_names=("s", "v", "cost")
    )
    for method in ("collocation", "multiple-shooting", "single-shooting"):
        ocp = co.OptimalControlProblem(model, tf=1.0)
        ocp.minimize(mayer=lambda x0, xf, tf, p: 2.0 * xf[2] + 1.0)
        ocp.initial([0.0, 0.0, 0.5])
        ocp.terminal([1.0, 0.0, None])
        sol = ocp.solve(method=method, intervals=10, control="linear", backend="casadi")
        plain = cart().solve(method=method, intervals=10, control="linear", backend="casadi")
        assert sol.nlp.n_w == plain.nlp.n_w
        assert sol.objective == pytest.approx(2.0 * 12.5 + 1.0, rel=1e-9)
        np.testing.assert_allclose(sol.x[:, 2], 0.5 + _effort(sol.t), rtol=1e-6)
        assert sol.verify().max_defect < 1e-9


def _effort(t: np.ndarray) -> np.ndarray:
    """Integral of (6 - 12 s)^2 from 0 to t."""
    return 36 * t - 72 * t**2 + 48 * t**3


def test_cost_state_that_something_depends_on_stays() -> None:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], u[0], u[0] ** 2], nx=3, nu=1)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(mayer=lambda x0, xf, tf, p: xf[2] ** 2)  # not linear
    ocp.initial([0.0, 0.0, 0.0])
    ocp.terminal([1.0, 0.0, None])
    sol = ocp.solve(method="collocation", intervals=4, backend="casadi")
    assert sol.nlp.n_w == (4 * 3 + 1) * 3 + 12
    assert sol.objective == pytest.approx(144.0, rel=1e-7)
