"""Models without a compiled form: the CasADi path gives the same values and derivatives."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from fitting.reference import Experiment, P

OPTIONS: dict[str, dict[str, Any]] = {
    "mse": {"regularization": 0.1},
    "everything": {
        "loss": lambda t, x, u, y, d, p: ca.sumsqr(y - d) * p[0] + u[0] * x[0] * t,
        "running": lambda t, x, u, y, p: x[0] ** 2 * p[2],
        "terminal": lambda t, x, u, y, p: y[0] * y[1] * p[5],
    },
}


@pytest.mark.parametrize("cost", OPTIONS)
def test_both_paths_agree(cost: str) -> None:
    e = Experiment(3)
    e.data[1, 3] = np.nan
    compiled = e.objective(co.Free(e.x0), **OPTIONS[cost])
    e.sim = co.Simulator(e.model, solver=co.RK4(), backend="casadi")
    slow = e.objective(co.Free(e.x0), **OPTIONS[cost])
    theta = compiled.append_free(P)
    v = e.rng.standard_normal(theta.size)
    (value, gradient), (want, exact) = slow(theta), compiled(theta)
    assert value == pytest.approx(want, rel=1e-12)
    np.testing.assert_allclose(gradient, exact, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slow.hessp(theta, v), compiled.hessp(theta, v), rtol=1e-9, atol=1e-11)
    if cost == "mse":
        np.testing.assert_allclose(slow.jac(theta), compiled.jac(theta), rtol=1e-9, atol=1e-11)


class Sine(ca.Callback):
    """A function that no compiler can look into; its derivative is an expression."""

    def __init__(self) -> None:
        ca.Callback.__init__(self)
        self.construct("sine", {})

    def get_n_in(self) -> int:
        return 1

    def get_n_out(self) -> int:
        return 1

    def eval(self, arguments: Any) -> Any:
        return [ca.sin(arguments[0])]

    def has_jacobian(self) -> bool:
        return True

    def get_jacobian(self, name: str, inames: Any, onames: Any, options: Any) -> ca.Function:
        x, y = ca.MX.sym("x"), ca.MX.sym("y")
        return ca.Function(name, [x, y], [ca.cos(x)], inames, onames, options)


def test_a_model_that_cannot_be_compiled_runs_with_a_warning() -> None:
    sine = Sine()
    odd = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0] * sine(x[0])], nx=2, nu=0, params=1)
    plain = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0] * ca.sin(x[0])], nx=2, nu=0, params=1)
    ts, data, p = np.linspace(0.0, 1.0, 6), np.ones((2, 6, 2)), np.array([1.4])
    x0 = np.array([[1.0, 0.0], [0.5, 0.2]])
    want = co.Objective(co.Simulator(plain, solver=co.RK4()), x0, None, ts, data=data)(p)
    obj = co.Objective(co.Simulator(odd, solver=co.RK4()), x0, None, ts, data=data)
    with pytest.warns(RuntimeWarning, match="CasADi path"):
        value, gradient = obj(p)
    assert value == pytest.approx(want[0], rel=1e-12)
    np.testing.assert_allclose(gradient, want[1], rtol=1e-10)
    strict = co.Objective(co.Simulator(odd, solver=co.RK4(), backend="compiled"), x0, None, ts, data=data)
    with pytest.raises(co.UnsupportedOperation):
        strict(p)
