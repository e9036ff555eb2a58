"""A limit of time per call: what is finished stays, the rest has a status, and nothing hangs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import ctrlode_casadi as co

TS = np.array([0.0, 1.0, 10.0, 100.0])
#: The second state is the rate of the first: the third trajectory is stiff beyond any number of explicit steps.
X0 = np.array([[0.0, 1.0], [0.5, 1.0], [0.0, 1e9], [0.0, 2.0]])
LIMIT = 0.5


def simulator(limit: float | None = LIMIT, **options: Any) -> co.Simulator:
    model = co.ControlledODE(lambda t, x, u, p: [-p[0] * (x[0] - 1) * x[1], 0 * x[0]], nx=2, params=1)
    return co.Simulator(model, solver=co.Tsit5(max_steps=10**12), time_limit=limit, **options)


@pytest.fixture(autouse=True)
def in_time() -> Any:
    began = time.perf_counter()
    yield
    assert time.perf_counter() - began < 60


def test_finished_trajectories_of_a_stiff_batch_keep_their_results() -> None:
    simulator(None)(X0[:2], None, [1.0], TS)  # compiles
    sim = simulator()
    began = time.perf_counter()
    sol = sim(X0, None, [1.0], TS)
    assert time.perf_counter() - began < LIMIT + 5.0
    assert [s.name for s in sol.status] == ["SUCCESS", "SUCCESS", "TIME_LIMIT", "SUCCESS"]
    for b in (0, 1, 3):
        want = 1 + (X0[b, 0] - 1) * np.exp(-X0[b, 1] * TS)
        np.testing.assert_allclose(sol.x[b, :, 0], want, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(sol.x[2, :, 0]), [False, True, True, True])
    assert "time_limit" in sol.status[2].message


@pytest.mark.parametrize("options", [{}, {"backend": "casadi"}, {"events": co.Event(lambda t, x, u, p: x[0] - 0.7)}])
def test_a_gradient_that_is_not_finished_is_zero(options: dict[str, Any]) -> None:
    sim = simulator(sensitivity="adjoint", **options)
    with pytest.warns(co.IntegrationWarning, match="time limit"):
        p_bar, x0_bar, _ = sim.vjp(X0, None, [1.0], TS, np.ones((4, 4, 2)))
    assert not p_bar.any() and not x0_bar.any()
    assert co.Status.TIME_LIMIT in sim(X0, None, [1.0], TS).status


def test_an_objective_has_the_limit_of_its_simulator() -> None:
    obj = co.Objective(simulator(sensitivity="adjoint"), X0, None, TS, data=np.zeros((4, 4, 2)))
    with pytest.warns(co.IntegrationWarning, match="TIME_LIMIT"):
        value, gradient = obj([1.0])
    assert value == np.inf and not gradient.any()
    assert obj.last_failure is not None and obj.last_failure.status == co.Status.TIME_LIMIT


def test_a_limit_that_is_not_reached_changes_nothing() -> None:
    free, limited = (simulator(limit)(X0[:2], None, [1.0], TS) for limit in (None, 50.0))
    np.testing.assert_array_equal(free.x, limited.x)
    assert limited.success.all()
