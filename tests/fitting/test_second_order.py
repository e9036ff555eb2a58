"""Hessian products, residuals and their Jacobian."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from fitting.reference import NP, Experiment, P, complex_step
from fitting.test_gradient import composed


def start_of(kind: str, e: Experiment) -> Any:
    if kind == "given":
        return e.x0
    if kind == "shared":
        return co.Free(e.x0[0])
    if kind == "own":
        return co.Free(e.x0, mask=[True, False])
    return co.InitialState(lambda d0, p: [p[0] * d0[0] * p[3], ca.sin(p[1] * d0[1])])


KINDS = ["given", "shared", "own", "computed"]


def differences(obj: co.Objective, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Derivative of the gradient along v, extrapolated twice."""

    def central(h: float) -> np.ndarray:
        return (obj.grad(theta + h * v) - obj.grad(theta - h * v)) / (2 * h)

    return (64 * central(2e-3) - 20 * central(4e-3) + central(8e-3)) / 45


def options_of(cost: str) -> dict[str, Any]:
    if cost == "mse":
        return {"regularization": 0.1}
    return {
        "loss": lambda t, x, u, y, d, p: ca.exp(0.1 * ca.sumsqr(y - d)) * p[0],
        "running": lambda t, x, u, y, p: x[0] ** 2 * p[2],
        "terminal": lambda t, x, u, y, p: y[0] * y[1] * p[5],
        "regularization": lambda p: ca.sumsqr(p) ** 2,
    }


@pytest.mark.parametrize("cost", ["mse", "everything"])
@pytest.mark.parametrize("kind", KINDS)
def test_hessian_product_is_the_derivative_of_the_gradient(kind: str, cost: str) -> None:
    e = Experiment(9)
    obj = e.objective(start_of(kind, e), **options_of(cost))
    theta = obj.append_free(P)
    v = e.rng.standard_normal(theta.size)
    v /= np.linalg.norm(v)
    product = obj.hessp(theta, v)
    np.testing.assert_allclose(product, differences(obj, theta, v), rtol=1e-7, atol=1e-7 * np.abs(product).max())
    assert obj.derivative_along(theta, v) == pytest.approx(obj.grad(theta) @ v, rel=1e-11)


def test_hessian_is_symmetric_and_made_of_products() -> None:
    e = Experiment(5)
    obj = e.objective(co.Free(e.x0[0]))
    theta = obj.append_free(P)
    hessian = obj.hess(theta)
    np.testing.assert_array_equal(hessian, hessian.T)
    for i in (0, NP):
        np.testing.assert_allclose(hessian[i], obj.hessp(theta, np.eye(theta.size)[i]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", ["mse", "sse"])
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_and_jacobian(kind: str, loss: str) -> None:
    e = Experiment(9)
    e.data[:, 1:][e.rng.random((9, 12, 2)) < 0.2] = np.nan
    lam = np.linspace(0.0, 0.5, NP)
    obj = e.objective(start_of(kind, e), loss=loss, weights=e.rng.random((9, 1, 2)), regularization=lam)
    theta = obj.append_free(P)
    value, gradient = obj(theta)
    r, jac = obj.residuals(theta), obj.jac(theta)
    assert r.shape == (np.sum(~np.isnan(e.data)) + NP,)
    assert jac.shape == (r.size, theta.size)
    assert np.sum(r**2) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(2 * jac.T @ r, gradient, rtol=1e-10, atol=1e-12)
    operator = obj.jac_operator(theta)
    v, w = e.rng.standard_normal(theta.size), e.rng.standard_normal(r.size)
    np.testing.assert_allclose(operator @ v, jac @ v, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(operator.T @ w, jac.T @ w, rtol=1e-10, atol=1e-12)


def test_order_and_scale_of_the_residuals() -> None:
    e = Experiment(3)
    obj = e.objective(regularization=0.3)
    want = np.concatenate([(e.residuals(P) / np.sqrt(e.data.size)).ravel(), np.sqrt(0.3) * P])
    np.testing.assert_allclose(obj.residuals(P), want, rtol=1e-11, atol=1e-13)

    def plain(p: np.ndarray) -> Any:
        return (e.residuals(p) / np.sqrt(e.data.size)).ravel()

    np.testing.assert_allclose(obj.jac(P)[: e.data.size], complex_step(plain, P), rtol=1e-10, atol=1e-13)


def test_jacobian_without_output_map_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    e = Experiment(9)
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0] * x[0] + p[1] * u[0]], nx=2, nu=1, params=2)
    sim = co.Simulator(model, solver=co.Tsit5(rtol=1e-8, atol=1e-10), threads=1)
    obj = co.Objective(sim, co.Free(e.x0), e.controls, e.ts, data=e.data)
    theta = obj.append_free(np.array([1.2, 0.7]))
    whole = obj.jac(theta)
    np.testing.assert_allclose(2 * whole.T @ obj.residuals(theta), obj.grad(theta), rtol=1e-9, atol=1e-11)
    monkeypatch.setattr("ctrlode_casadi.fitting.residuals.CHUNK_BYTES", 4000)
    np.testing.assert_allclose(obj.jac(theta), whole, rtol=1e-9, atol=1e-11)


def test_jacobian_of_ragged_records() -> None:
    e = Experiment(4)
    ends = [13, 4, 7, 2]
    controls = [e.controls[b] for b in range(4)]
    obj = co.Objective(
        e.sim, e.x0, controls, [e.ts[:n] for n in ends], data=[e.data[b, :n] for b, n in enumerate(ends)]
    )
    r, jac = obj.residuals(P), obj.jac(P)
    assert r.size == 2 * sum(ends)
    value, gradient = obj(P)
    assert np.sum(r**2) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(2 * jac.T @ r, gradient, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(obj.jac_operator(P).T @ r, gradient / 2, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", [co.Tsit5(rtol=1e-10, atol=1e-12), co.BS3(steps_per_interval=3)])
def test_second_order_with_other_methods(solver: Any) -> None:
    """With the steps held constant, products are exact for those steps; differences see the steps change."""
    e = Experiment(9)
    e.sim = co.Simulator(e.model, solver=solver, threads=1)
    obj = e.objective(running=lambda t, x, u, y, p: x[0] ** 2 * p[2])
    v = e.rng.standard_normal(NP)
    product = obj.hessp(P, v)
    np.testing.assert_allclose(product, differences(obj, P, v), rtol=1e-6, atol=1e-7 * np.abs(product).max())
    assert v @ obj.hessp(P, np.ones(NP)) == pytest.approx(np.ones(NP) @ product, rel=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_outputs_see_the_control_of_a_jump(side: str) -> None:
    """At a save time on a jump, value and residuals use the same side of the control as the control itself."""
    e = Experiment(3)
    hold = co.PiecewiseConstant(e.ts, e.values, side=side)
    model = co.ControlledODE(
        lambda t, x, u, p: -p[0] * x + u, nx=1, nu=1, params=2, output=lambda t, x, u, p: x + p[1] * u
    )
    data = e.data[:, :, :1].copy()
    obj = co.Objective(co.Simulator(model, solver=co.RK4()), 0.3, hold, e.ts, data=data)
    p = np.array([0.7, 1.1])
    value, gradient = obj(p)
    r = obj.residuals(p)
    assert np.sum(r**2) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(2 * obj.jac(p).T @ r, gradient, rtol=1e-11)
    first = p[1] * hold(e.ts)[:, 0, 0] + 0.3 - data[:, 0, 0]
    np.testing.assert_allclose(r.reshape(3, 13)[:, 0] * np.sqrt(data.size), first, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 5])
def test_composed_networks_to_second_order(size: int) -> None:
    obj, p = composed(size)
    v = np.random.default_rng(0).standard_normal(p.size)
    v /= np.linalg.norm(v)
    product = obj.hessp(p, v)
    np.testing.assert_allclose(product, differences(obj, p, v), rtol=1e-6, atol=1e-7 * np.abs(product).max())
    r, jac = obj.residuals(p), obj.jac(p)
    np.testing.assert_allclose(2 * jac.T @ r, obj.grad(p), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "mae_smooth"},
        {"terminal": lambda t, x, u, y, p: x[0]},
        {"running": lambda t, x, u, y, p: x[0]},
        {"regularization": lambda p: p[0]},
        {"loss": lambda t, x, u, y, d, p: x[0]},
    ],
)
def test_what_is_no_sum_of_squares_has_no_residuals(options: dict[str, Any]) -> None:
    obj = Experiment(2).objective(**options)
    for call in (obj.residuals, obj.jac, obj.jac_operator):
        with pytest.raises(co.UnsupportedOperation, match="sum of squares"):
            call(P)


@pytest.mark.parametrize("size", [1, 3, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_hessian_equals_its_products(kind: str, size: int) -> None:
    """Directions as trajectories give the matrix of single products; forward sensitivities give the same gradient."""
    e = Experiment(size)
    obj = e.objective(start_of(kind, e), **options_of("everything"))
    theta = obj.append_free(P)
    directions = np.eye(theta.size)
    wanted = np.array([obj.hessp(theta, v) for v in directions])
    packed, failure = obj.problem._packed_products(theta, directions)
    assert failure is None
    np.testing.assert_allclose(packed, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
    np.testing.assert_allclose(obj.hess(theta), wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())
    e.sim = e.sim.with_sensitivity(co.Forward(chunk=4))
    other = e.objective(start_of(kind, e), **options_of("everything"))
    np.testing.assert_allclose(other.grad(theta), obj.grad(theta), rtol=0, atol=1e-12 * np.abs(wanted).max())
    assert other.value(theta) == pytest.approx(other(theta)[0], rel=1e-13)


def test_gauss_newton_is_twice_the_squared_jacobian() -> None:
    e = Experiment(5)
    obj = e.objective(co.Free(e.x0[0]), regularization=0.3)
    theta = obj.append_free(P)
    jac = obj.jac(theta)
    found = obj.gauss_newton(theta)
    v = e.rng.standard_normal((theta.size, 2))
    np.testing.assert_allclose(found @ v, 2 * jac.T @ (jac @ v), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.rmatvec(v[:, 0]), found.matvec(v[:, 0]), rtol=1e-13)
    with pytest.raises(co.UnsupportedOperation, match="not a sum of squares"):
        e.objective(e.x0, **options_of("everything")).gauss_newton(P)
