"""Objectives of DAEs with CasADi's integrators, against the same problem with the algebraic variables eliminated."""

from __future__ import annotations

import pickle
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co

KNOTS, TS = np.array([0.0, 0.7, 1.5]), np.array([0.0, 0.4, 0.7, 1.1, 1.5])
P = np.array([1.3, 0.2])
TIGHT = {"rtol": 1e-9, "atol": 1e-10, "max_steps": 100_000}
SOLVERS: dict[str, Any] = {
    "idas": co.IDAS(**TIGHT),
    "rosenbrock": co.Rosenbrock(**TIGHT),
    "collocation": co.Collocation(degree=5, steps_per_interval=3),
}
TRUTH = co.DOP853(rtol=1e-13, atol=1e-13)


def pendulum(eliminated: bool) -> co.ControlledODE:
    """z1 + z1^3 = load and z2 = z1 + 0.5 x2, or the same with the real root in place of z1."""

    def load(t: Any, x: Any, u: Any, p: Any) -> Any:
        return p[0] * x[0] + 0.3 * u[0] + 0.1 * ca.sin(t)

    def root(t: Any, x: Any, u: Any, p: Any) -> Any:
        z = 2 / np.sqrt(3) * ca.sinh(ca.asinh(1.5 * np.sqrt(3) * load(t, x, u, p)) / 3)
        return [z, z + 0.5 * x[1]]

    def rhs(t: Any, x: Any, u: Any, p: Any, z: Any) -> Any:
        return [x[1] - 0.1 * z[1], -p[0] * ca.sin(x[0]) - p[1] * z[1] + u[0]]

    def output(t: Any, x: Any, u: Any, p: Any, z: Any) -> Any:
        return ca.vertcat(z[0] * p[0], x[1] * z[1] + u[0])

    if eliminated:
        return co.ControlledODE(
            lambda t, x, u, p: rhs(t, x, u, p, root(t, x, u, p)), nx=2, nu=1, params=2,
            output=lambda t, x, u, p: output(t, x, u, p, root(t, x, u, p)),
        )  # fmt: skip
    return co.ControlledODE(
        rhs, nx=2, nu=1, params=2, nz=2, output=output,
        algebraic=lambda t, x, u, p, z: [z[0] + z[0] ** 3 - load(t, x, u, p), z[1] - z[0] - 0.5 * x[1]],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sensitivity", "free"),
    [
        ("idas", "adjoint", True), ("idas", "forward", False), ("rosenbrock", "adjoint", False),
        ("collocation", "adjoint", True), ("collocation", "forward", False),
    ],
)  # fmt: skip
def test_value_gradient_and_hessian_products(name: str, sensitivity: str, free: bool) -> None:
    """Outputs of algebraic variables, at knots too, with costs, against the eliminated ODE."""
    rng = np.random.default_rng(3)
    control = co.PiecewiseConstant(KNOTS, rng.standard_normal((2, 3, 1)))
    data, x0 = rng.standard_normal((2, TS.size, 2)), rng.standard_normal((2, 2))
    data[1, 2, 0] = np.nan
    terms: dict[str, Any] = {
        "running": lambda t, x, u, y, p: p[0] * x[0] ** 2 + y[0],
        "terminal": lambda t, x, u, y, p: y[1] ** 2,
        "regularization": 0.1,
    }
    solver = SOLVERS[name]
    start: Any = co.Free(x0) if free else x0
    obj, truth = (
        co.Objective(co.Simulator(pendulum(e), s, how), start, control, TS, data=data, **terms)
        for e, s, how in ((False, solver, sensitivity), (True, TRUTH, "adjoint"))
    )
    theta = truth.append_free(P) if free else P
    v = np.linspace(0.4, -1.0, theta.size)
    value, gradient = obj(theta)
    exact = truth(theta)
    assert value == pytest.approx(exact[0], rel=1e-7)
    assert obj.value(theta) == pytest.approx(value, rel=1e-12)
    assert gradient == pytest.approx(exact[1], rel=1e-6, abs=1e-6)
    assert obj.derivative_along(theta, v) == pytest.approx(gradient @ v, rel=1e-6)
    assert obj.hessp(theta, v) == pytest.approx(truth.hessp(theta, v), rel=1e-5, abs=1e-6)


def test_residuals_and_their_jacobian() -> None:
    rng = np.random.default_rng(5)
    control, x0 = co.PiecewiseLinear(KNOTS, rng.standard_normal((2, 3, 1))), rng.standard_normal((2, 2))
    data = rng.standard_normal((2, TS.size, 2))
    obj, truth = (
        co.Objective(co.Simulator(pendulum(e), s), x0, control, TS, data=data)
        for e, s in ((False, SOLVERS["idas"]), (True, TRUTH))
    )
    assert obj.residuals(P) == pytest.approx(truth.residuals(P), rel=1e-7, abs=1e-9)
    assert obj.jac(P) == pytest.approx(truth.jac(P), rel=1e-6, abs=1e-8)
    assert obj.hess(P) == pytest.approx(truth.hess(P), rel=1e-5)
    copy = pickle.loads(pickle.dumps(obj))
    assert copy(P)[0] == obj(P)[0]


def test_gradient_with_coarse_fixed_steps() -> None:
    """The gradient is that of the numbers returned: collocation with one step, against differences."""
    control = co.PiecewiseConstant(KNOTS, [0.4, -0.7, 1.1])
    for scheme in ("radau", "legendre"):
        sim = co.Simulator(pendulum(False), co.Collocation(2, scheme))
        obj = co.Objective(sim, [0.5, -0.3], control, TS, data=np.zeros((1, TS.size, 2)))
        g = obj.grad(P)
        for d in np.eye(2):
            wide, half = (obj.value(P + h * d) - obj.value(P - h * d) for h in (2e-3, 1e-3))
            assert (8 * half - wide) / 12e-3 == pytest.approx(g @ d, rel=1e-8)
