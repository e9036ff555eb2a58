"""Problems with a free final time whose straight start loses the constraints: the second attempt over fixed times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import ctrlode_casadi as co
from ocp.problems import cart, fastest_oscillator

#: From (1, 1) to rest at the origin with a force of at most one: brake, then the bang-bang time of the rest.
LEAST = 1.0 + 2.0 * math.sqrt(1.5)


def to_rest(rhs: Any, x0: list[float], tf: co.Free) -> co.OptimalControlProblem:
    ocp = co.OptimalControlProblem(co.ControlledODE(rhs, nx=len(x0), nu=1), tf=tf)
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf)
    ocp.bounds(u=(-1.0, 1.0))
    ocp.initial(x0)
    ocp.terminal([0.0] * len(x0))
    return ocp


def double_integrator(guess: float, lb: float = 0.1, ub: float = 20.0) -> co.OptimalControlProblem:
    return to_rest(lambda t, x, u, p: [x[1], u[0]], [1.0, 1.0], co.Free(guess, lb, ub))


@pytest.mark.parametrize(
    ("method", "guess"),
    [("multiple-shooting", 1.0), ("multiple-shooting", 5.0), ("single-shooting", 3.0), ("collocation", 1.0)],
)
def test_the_double_integrator_comes_to_rest_on_every_mesh(method: str, guess: float) -> None:
    integrator = {} if method == "collocation" else {"integrator": co.RK4()}
    for n in (10, 15, 25, 40, 100):
        sol = double_integrator(guess).solve(method=method, intervals=n, backend="casadi", **integrator)
        assert sol.success, f"{n}: {sol.message}"
        assert LEAST * (1 - 1e-3) < sol.objective < LEAST * (1 + 0.7 / n)


def test_what_was_done_is_said() -> None:
    sol = double_integrator(3.0).solve(intervals=10, backend="casadi")
    assert sol.stats["attempts"] == 4  # the usual one, at tf = 3, at tf = 6, and from there
    assert "first attempt ended with Infeasible_Problem_Detected" in sol.message and "fixed tf=6" in sol.message
    easy = fastest_oscillator()
    sol = easy.ocp.solve(intervals=10, guess=easy.guess, backend="casadi")
    assert sol.stats["attempts"] == 1 and "attempt" not in sol.message


def test_the_guess_moves_with_the_time_that_is_tried() -> None:
    """Rows of a guess stand on fractions of the horizon; a guess of the final time is where the attempts begin."""
    guess = {"x": np.linspace([1.0, 1.0], [0.0, 0.0], 5), "u": np.array([-1.0, 0.0, 1.0]), "tf": 1.5}
    sol = double_integrator(3.0).solve(intervals=10, backend="casadi", guess=guess)
    assert sol.success and "fixed tf=6" in sol.message


@pytest.mark.parametrize(
    ("rhs", "x0", "guess"),
    [
        (lambda t, x, u, p: [x[1], -x[0] + u[0]], [5.0, 0.0], 5.0),
        (lambda t, x, u, p: [x[1], x[2], u[0]], [1.0, 1.0, 1.0], 2.0),
        (lambda t, x, u, p: [x[1], u[0] - 0.2 * x[1] * (x[1] ** 2 + 1e-4) ** 0.5], [1.0, 1.0], 1.0),
    ],
    ids=["oscillator", "triple integrator", "drag"],
)
def test_other_systems_come_to_rest(rhs: Any, x0: list[float], guess: float) -> None:
    times = []
    for settings in (
        {"intervals": 10, "integrator": co.RK4(steps_per_interval=6)},
        {"method": "collocation", "intervals": 10},
    ):
        ocp = to_rest(rhs, x0, co.Free(guess, 0.1, 50.0))
        sol = ocp.solve(backend="casadi", **settings)
        assert sol.success and sol.stats["attempts"] > 1, sol.message
        times.append(sol.tf)
        if "integrator" in settings:
            assert sol.verify().end_error < 1e-3
    assert max(times) / min(times) < 1.03


def test_a_time_that_is_too_short_by_its_bound_stays_infeasible() -> None:
    sol = double_integrator(1.0, 0.5, 3.0).solve(intervals=10, backend="casadi")
    assert sol.status is co.SolveStatus.INFEASIBLE and sol.stats["attempts"] == 6  # tf = 1, 2, 0.5, 3; second start
    assert "4 attempts with a fixed final time led to no solution either" in sol.message
    ocp = cart()
    ocp.bounds(u=(-1.0, 1.0))
    assert ocp.solve(intervals=10, backend="casadi").stats["attempts"] == 2  # the time is not free; second start


def test_an_attempt_can_be_stopped() -> None:
    starts = []

    def stop(iteration: Any) -> bool:
        starts.append(iteration.number == 0)
        return sum(starts) == 3 and iteration.number == 1

    sol = double_integrator(3.0).solve(intervals=10, backend="casadi", callback=stop)
    assert sol.status is co.SolveStatus.INTERRUPTED and sum(starts) == 3 and np.isfinite(sol.x).all()
