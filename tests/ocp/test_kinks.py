"""The hint at a kink on the trajectory of a failed solve: for kinks only, not for smooth functions with branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co


def swing(drag: Callable[[Any], Any], **settings: Any) -> co.OptimalControlSolution:
    """From -1 to 1 with a resistance that depends on the sign of the state, ended after a few iterations."""
    model = co.ControlledODE(lambda t, x, u, p: [u[0] - drag(x[0])], nx=1, nu=1)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: ca.exp(u[0] ** 2 / 10))
    ocp.initial([-1.0])
    ocp.terminal([1.0])
    return ocp.solve(**({"intervals": 9, "backend": "casadi", "options": {"max_iter": 2}} | settings))


@pytest.mark.parametrize("method", ["multiple-shooting", "collocation", "single-shooting"])
def test_a_kink_is_named_with_its_place(method: str) -> None:
    sol = swing(ca.fabs, method=method)
    assert sol.status is co.SolveStatus.MAX_ITERATIONS
    assert "Maximum_Iterations_Exceeded; the model has a kink on this trajectory, fabs(x) at t = " in sol.message
    time = float(sol.message.split("at t = ")[1].split(":")[0])
    assert sol.resample(time)[0][0, 0] == pytest.approx(0.0, abs=0.05)


def test_relu_has_a_kink_and_smooth_functions_have_none() -> None:
    assert "has a kink" in swing(co.activations["relu"]).message
    for name in ("tanh", "sigmoid", "softplus", "silu", "elu", "softsign"):
        sol = swing(co.activations[name])
        assert sol.status is co.SolveStatus.MAX_ITERATIONS and "kink" not in sol.message, name


def test_a_kink_in_the_cost_or_beside_the_trajectory() -> None:
    assert "kink" not in swing(lambda x: ca.fabs(x - 7.0)).message
    model = co.ControlledODE(lambda t, x, u, p: [u[0]], nx=1, nu=1)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 4 + ca.fmax(x[0], 0.0))
    ocp.initial([-1.0])
    ocp.terminal([1.0])
    sol = ocp.solve(intervals=9, backend="casadi", options={"max_iter": 2})
    assert "trajectory, fmax(" in sol.message and "softplus instead of relu" in sol.message


def test_a_solution_has_no_hint() -> None:
    sol = swing(lambda x: ca.fabs(x - 7.0), options={"max_iter": 500})
    assert sol.success and "kink" not in sol.message and np.isfinite(sol.x).all()
