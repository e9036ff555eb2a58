"""Residual Jacobians and forward gradients of objectives with events: closed forms and least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares

import ctrlode_casadi as co
from ctrlode_casadi.lowering.jit import host

W = host().vector_bytes // 8
TS = np.linspace(0.0, 0.8, 9)
EPS = 1e-30
TRUE = np.array([9.81, 0.75])


def height(t: float, h: Any, g: Any, e: Any) -> Any:
    """Height of a ball that is dropped from h and bounces once or not at all before t."""
    when, impact = np.sqrt(2 * h / g), np.sqrt(2 * h * g)
    d = t - when
    return h - 0.5 * g * t * t if t <= np.real(when) else e * impact * d - 0.5 * g * d * d


def simulator(solver: Any, sensitivity: str = "auto") -> co.Simulator:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0]], nx=2, params=2, output=lambda t, x, u, p: x[0])
    bounce = co.Event(lambda t, x, u, p: x[0], lambda t, x, u, p: [x[0], -p[1] * x[1]], direction=-1)
    return co.Simulator(model, solver, sensitivity, events=bounce)


def starts(size: int) -> np.ndarray:
    heights = np.linspace(1.0, 3.0, size) if size > 1 else np.array([1.0])
    return np.stack([heights, np.zeros(size)], axis=1)


def data(x0: np.ndarray, p: Any) -> np.ndarray:
    return np.array([[height(t, row[0], *p) for t in TS] for row in x0])[:, :, None]


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
@pytest.mark.parametrize("solver", [co.Tsit5(rtol=1e-10, atol=1e-12), co.RK4()], ids=["Tsit5", "RK4"])
def test_the_jacobian_is_exact(solver: Any, size: int) -> None:
    x0, p = starts(size), np.array([9.5, 0.7])
    obj = co.Objective(simulator(solver), x0, None, TS, data=data(x0, TRUE), loss="sse")
    want = [np.imag(data(x0, p + 1j * EPS * e)).ravel() / EPS for e in np.eye(2)]
    np.testing.assert_allclose(obj.jac(p), np.stack(want, axis=1), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(obj.residuals(p), (data(x0, p) - data(x0, TRUE)).ravel(), atol=1e-9)
    _, gradient = obj(p)
    np.testing.assert_allclose(gradient, 2 * obj.jac(p).T @ obj.residuals(p), rtol=1e-8)
    operator, v = obj.jac_operator(p), np.array([0.3, -1.2])
    np.testing.assert_allclose(operator @ v, obj.jac(p) @ v, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_the_forward_gradient_equals_the_adjoint(size: int) -> None:
    x0, p = starts(size), np.array([9.5, 0.7])
    for solver in (co.Tsit5(), co.RK4(), co.Rodas5P()):
        pairs = [
            co.Objective(simulator(solver, how), x0, None, TS, data=data(x0, TRUE), regularization=0.1)(p)
            for how in ("adjoint", "forward")
        ]
        assert pairs[0][0] == pytest.approx(pairs[1][0], rel=1e-12)
        np.testing.assert_allclose(pairs[0][1], pairs[1][1], rtol=1e-9)


def test_least_squares_finds_gravity_and_restitution() -> None:
    x0 = starts(5)
    obj = co.Objective(simulator(co.Tsit5(rtol=1e-10, atol=1e-12)), x0, None, TS, data=data(x0, TRUE))
    found = least_squares(obj.residuals, [9.5, 0.7], jac=obj.jac, method="lm", xtol=1e-12)
    np.testing.assert_allclose(found.x, TRUE, rtol=1e-8)
    assert found.nfev < 12


def test_free_initial_states_and_a_penalty() -> None:
    x0 = np.array([[1.1, 0.0], [2.1, 0.0]])
    sim = simulator(co.Tsit5(rtol=1e-10, atol=1e-12))
    obj = co.Objective(sim, co.Free(x0), None, TS, data=data(starts(2), TRUE), regularization=1e-3)
    theta = obj.append_free(np.array([9.6, 0.72]))
    jac = obj.jac(theta)
    assert jac.shape == (2 * TS.size + 2, 2 + 4)
    np.testing.assert_allclose(obj(theta)[1], 2 * jac.T @ obj.residuals(theta), rtol=1e-8)
    h = 1e-6
    for j, v in enumerate(np.eye(6)):
        slope = (obj.residuals(theta + h * v) - obj.residuals(theta - h * v)) / (2 * h)
        np.testing.assert_allclose(jac[:, j], slope, atol=2e-7)
    forward = co.Objective(
        sim.with_sensitivity("forward"), co.Free(x0), None, TS, data=data(starts(2), TRUE), regularization=1e-3
    )
    np.testing.assert_allclose(forward(theta)[1], obj(theta)[1], rtol=1e-9)


def test_rows_of_a_failed_trajectory_are_zero() -> None:
    x0 = np.array([[1.0, 0.0], [1e-6, 0.0]])  # the second ball bounces for ever
    obj = co.Objective(simulator(co.Tsit5()), x0, None, TS, data=np.zeros((2, TS.size, 1)))
    with pytest.warns(co.IntegrationWarning):
        jac = obj.jac(np.array([9.81, 0.5]))
    assert jac[: TS.size].any() and not jac[TS.size :].any()
