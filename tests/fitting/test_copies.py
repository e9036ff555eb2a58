"""Copies, pickles and the printed form of an objective."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from fitting.reference import Experiment, P


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def everything(e: Experiment) -> co.Objective:
    data = e.data.copy()
    data[0, 3, 1] = np.nan
    return e.objective(
        co.InitialState(lambda d0, p: [p[0] * d0[0], ca.sin(d0[1])]),
        data=data,
        loss=lambda t, x, u, y, d, p: ca.exp(0.1 * ca.sumsqr(y - d)) * p[0] + t * u[0],
        weights=np.ones((3, 1, 1)),
        regularization=lambda p: ca.sumsqr(p) ** 2,
        running=lambda t, x, u, y, p: x[0] ** 2 * p[2],
        terminal=lambda t, x, u, y, p: y[0] * y[1],
    )


def named(e: Experiment) -> co.Objective:
    layout = co.ParameterLayout(k=1, c=(2, 1))
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p.k * x[0] - p.c[0] * x[1] + p.c[1] * u], 2, 1, params=layout)
    sim = co.Simulator(model, solver=co.RK4(), threads=1)
    penalty = {"regularization": lambda p: ca.sumsqr(p.c), "terminal": lambda t, x, u, y, p: p.k * x[0]}
    return co.Objective(sim, co.Free(e.x0), e.controls, e.ts, data=e.data, **penalty)


MADE: dict[str, Callable[[Experiment], co.Objective]] = {
    "mse": lambda e: e.objective(regularization=0.1),
    "everything": everything,
    "named parameters": named,
}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled, lambda v: pickled(pickled(v))])
@pytest.mark.parametrize("kind", MADE)
def test_copies_compute_the_same(kind: str, copied: Callable[[Any], Any]) -> None:
    obj = MADE[kind](Experiment(3))
    theta = obj.append_free(P[: obj._problem.n_params])
    again = copied(obj)
    for f in (lambda o: o.value(theta), lambda o: o.grad(theta), lambda o: o.hessp(theta, theta)):
        np.testing.assert_allclose(f(again), f(obj), rtol=1e-13, atol=1e-13)
    assert again.names() == obj.names() and repr(again) == repr(obj)
    np.testing.assert_array_equal(again.append_free(theta[: obj._problem.n_params]), theta)


def test_what_cannot_be_pickled_is_named() -> None:
    class Square(ca.Callback):
        def __init__(self) -> None:
            ca.Callback.__init__(self)
            self.construct("square", {"enable_fd": True})

        def eval(self, arguments: Any) -> Any:
            return [arguments[0] ** 2]

    square = Square()
    obj = Experiment(2).objective(regularization=lambda p: square(p[0]))
    with pytest.raises(co.DataError, match="regularization: cannot be pickled"):
        pickle.dumps(obj)


def test_printed_form() -> None:
    e = Experiment(3)
    assert repr(e.objective()) == (
        "Objective(3 trajectories, 13 save times, 6 parameters, loss='mse', RK4(steps_per_interval=1))"
    )
    sim = co.Simulator(e.model, solver=co.Tsit5(rtol=1e-8))
    ts, data = [e.ts, e.ts[:4], e.ts], [e.data[0], e.data[1, :4], e.data[2]]
    text = repr(co.Objective(sim, co.Free(e.x0), e.controls, ts, data=data, terminal=lambda t, x, u, y, p: x[0]))
    assert "4 to 13 save times, 6 parameters + 6 free initial states, loss='mse' + terminal, Tsit5(rtol=1e-08)" in text


@pytest.mark.parametrize("with_output", [False, True])
def test_least_squares_without_parameters(with_output: bool) -> None:
    output = (lambda t, x, u, p: x[0] + 2 * x[1]) if with_output else None
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -x[0]], nx=2, params=0, output=output)
    ts, ny = np.linspace(0.0, 1.0, 5), 1 if with_output else 2
    sim = co.Simulator(model, solver=co.RK4(), threads=1)
    for start in (np.ones((3, 2)), co.InitialState(lambda d0, p: d0, inputs=np.ones((3, 2)))):
        obj = co.Objective(sim, start, None, ts, data=np.zeros((3, 5, ny)))
        rows = obj.residuals([])
        assert rows @ rows == pytest.approx(obj.value([]))
        assert obj.jac([]).shape == (rows.size, 0)
        assert obj.jac_operator([]).shape == (rows.size, 0)
        assert obj.grad([]).shape == (0,) and obj.hess([]).shape == (0, 0)
    free = co.Objective(sim, co.Free(np.ones((3, 2))), None, ts, data=np.zeros((3, 5, ny)))
    theta = free.append_free([])
    np.testing.assert_allclose(2 * free.jac(theta).T @ free.residuals(theta), free.grad(theta), rtol=1e-12)
