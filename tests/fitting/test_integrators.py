"""Objectives with CasADi's integrators, against the compiled path at tight tolerances."""

from __future__ import annotations

import pickle
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co

KNOTS, TS = np.array([0.0, 0.7, 1.5]), np.array([0.0, 0.4, 0.7, 1.1, 1.5])
P, V = np.array([1.3, 0.2]), np.array([0.4, -1.0])
TIGHT = {"rtol": 1e-10, "atol": 1e-11, "max_steps": 100_000}
SOLVERS: dict[str, Any] = {
    "cvodes": co.CVODES(**TIGHT),
    "idas": co.IDAS(**TIGHT),
    "erk": co.ERK(**TIGHT),
    "rosenbrock": co.Rosenbrock(**TIGHT),
    "collocation": co.Collocation(degree=5, steps_per_interval=3),
}
TRUTH = co.DOP853(rtol=1e-13, atol=1e-13)


def pendulum() -> co.ControlledODE:
    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        return [x[1], -p[0] * ca.sin(x[0]) - p[1] * x[1] + u[0]]

    return co.ControlledODE(rhs, nx=2, nu=1, params=2, output=lambda t, x, u, p: ca.vertcat(x[0] * p[0], x[1] + u[0]))


def objective(solver: Any, sensitivity: str = "auto", *, start: Any = None, **terms: Any) -> co.Objective:
    rng = np.random.default_rng(3)
    control = co.PiecewiseLinear(KNOTS, rng.standard_normal((2, 3, 1)))
    data = rng.standard_normal((2, TS.size, 2))
    data[1, 2, 0] = np.nan
    x0 = rng.standard_normal((2, 2)) if start is None else start
    return co.Objective(co.Simulator(pendulum(), solver, sensitivity), x0, control, TS, data=data, **terms)


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("name", SOLVERS)
def test_value_gradient_and_hessian_products(name: str, sensitivity: str) -> None:
    terms: dict[str, Any] = {
        "running": lambda t, x, u, y, p: p[0] * x[0] ** 2,
        "terminal": lambda t, x, u, y, p: x[1] ** 2,
        "regularization": 0.1,
    }
    obj, truth = objective(SOLVERS[name], sensitivity, **terms), objective(TRUTH, **terms)
    value, gradient = obj(P)
    exact = truth(P)
    assert value == pytest.approx(exact[0], rel=1e-8)
    assert obj.value(P) == pytest.approx(value, rel=1e-12)
    assert gradient == pytest.approx(exact[1], rel=1e-7)
    assert obj.hessp(P, V) == pytest.approx(truth.hessp(P, V), rel=1e-7)
    assert obj.derivative_along(P, V) == pytest.approx(gradient @ V, rel=1e-7)


@pytest.mark.parametrize("name", SOLVERS)
def test_residuals_and_their_jacobian(name: str) -> None:
    obj, truth = objective(SOLVERS[name]), objective(TRUTH)
    assert obj.residuals(P) == pytest.approx(truth.residuals(P), rel=1e-7, abs=1e-9)
    assert obj.jac(P) == pytest.approx(truth.jac(P), rel=1e-7, abs=1e-8)
    product = obj.jac_operator(P)
    assert product @ V == pytest.approx(truth.jac(P) @ V, rel=1e-7, abs=1e-8)
    assert product.T @ obj.residuals(P) == pytest.approx(0.5 * obj.grad(P), rel=1e-6)
    assert obj.hess(P) == pytest.approx(truth.hess(P), rel=1e-6)


def test_free_initial_states_and_copies() -> None:
    free = co.Free(np.array([[0.3, -0.2], [0.1, 0.4]]))
    obj, truth = objective(SOLVERS["cvodes"], start=free), objective(TRUTH, start=free)
    theta = truth.append_free(P)
    assert obj(theta)[1] == pytest.approx(truth(theta)[1], rel=1e-7)
    copy = pickle.loads(pickle.dumps(obj))
    assert copy(theta)[0] == obj(theta)[0]
    assert "CVODES" in repr(obj)


def test_failure_is_infinite_with_zero_gradient() -> None:
    model = co.ControlledODE(lambda t, x, u, p: p * x**2, nx=1, params=1)
    obj = co.Objective(co.Simulator(model, co.CVODES()), 1.0, None, [0.0, 1.0], data=np.array([1.0, 2.0]))
    with pytest.warns(co.IntegrationWarning):
        value, gradient = obj(np.array([2.0]))
    assert value == np.inf
    assert gradient == [0.0]
    assert obj.last_failure is not None
    assert np.isfinite(obj(np.array([0.5]))[0])


def test_training_with_scipy() -> None:
    from scipy.optimize import minimize

    model = co.ControlledODE(lambda t, x, u, p: [-p[0] * x[0], p[0] * x[0] - p[1] * x[1]], nx=2, params=2)
    ts, exact = np.linspace(0.0, 2.0, 9), np.array([1.7, 0.6])
    data = co.Simulator(model, TRUTH)([1.0, 0.0], None, exact, ts).x
    obj = co.Objective(co.Simulator(model, co.CVODES(rtol=1e-8, atol=1e-10)), [1.0, 0.0], None, ts, data=data)
    found = minimize(obj, [1.0, 1.0], jac=True, method="BFGS", options={"gtol": 1e-8})
    assert found.x == pytest.approx(exact, rel=1e-4)
