"""Losses, weights, missing data, penalties, terminal and running cost, and lists, against plain NumPy formulae."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from fitting.reference import Experiment, P, complex_step, plain_output, plain_rk4

SIZE = 5


def agree(obj: co.Objective, plain: Callable[[np.ndarray], Any], p: np.ndarray = P) -> None:
    """Value, value alone, and gradient."""
    value, gradient = obj(p)
    assert value == pytest.approx(float(np.real(plain(p))), rel=1e-12)
    assert obj.value(p) == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(gradient, complex_step(plain, p), rtol=1e-10, atol=1e-12)


def smooth(e: Experiment, r: np.ndarray) -> np.ndarray:
    width = 1e-2 * np.nanstd(e.data.reshape(-1, 2), axis=0)
    return np.sqrt(r**2 + width**2) - width


def entry(e: Experiment, loss: str) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """Penalty of an entry, and whether the mean is taken."""
    return (lambda r: smooth(e, r)) if loss == "mae_smooth" else (lambda r: r**2), loss != "sse"


@pytest.mark.parametrize("loss", ["mse", "sse", "mae_smooth"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weights", [None, (2,), (SIZE, 1, 1), (13, 2), (SIZE, 13, 2)])
def test_built_in_losses(loss: str, missing: bool, weights: tuple[int, ...] | None) -> None:
    e = Experiment(SIZE)
    if missing:
        e.data[e.rng.random(e.data.shape) < 0.3] = np.nan
        e.data[2] = np.nan
    w = 1.0 if weights is None else e.rng.random(weights)
    penalty, mean = entry(e, loss)
    count = np.sum(~np.isnan(e.data))

    def plain(p: np.ndarray) -> Any:
        terms = w * penalty(e.residuals(p))
        return np.sum(np.where(np.isnan(e.data), 0.0, terms)) / (count if mean else 1)

    agree(e.objective(loss=loss, weights=None if weights is None else w), plain)


def test_masked_data_are_missing_data() -> None:
    e = Experiment(3)
    full = e.data.copy()
    e.data[1, 3] = np.nan
    missing = e.objective().value(P)
    e.data = np.ma.masked_array(full, mask=np.isnan(e.data))
    assert e.objective().value(P) == missing


def test_zero_weight_is_like_missing_but_for_the_count() -> None:
    e = Experiment(3)
    w = np.ones(e.data.shape)
    w[1] = 0.0
    full = e.objective(weights=w).value(P)
    e.data[1] = np.nan
    assert full == pytest.approx(e.objective().value(P) * 2 / 3, rel=1e-13)


def test_callable_loss_with_data() -> None:
    e = Experiment(SIZE)

    def loss(t: Any, x: Any, u: Any, y: Any, d: Any, p: Any) -> Any:
        return ca.sumsqr(y - d) ** 2 + t * x[0] * u[0] + p[0] ** 2 * x[1]

    def plain(p: np.ndarray) -> Any:
        x, r = e.states(p, e.x0), e.residuals(p)
        each = np.sum(r**2, axis=2) ** 2 + e.ts * x[..., 0] * e.values + p[0] ** 2 * x[..., 1]
        return each.sum() / SIZE

    agree(e.objective(loss=loss), plain)


def test_callable_loss_with_missing_data_and_weights() -> None:
    e = Experiment(SIZE)
    e.data[e.rng.random(e.data.shape) < 0.3] = np.nan
    e.data[1, 4] = np.nan
    w = e.rng.random((SIZE, 1, 1))

    def loss(t: Any, x: Any, u: Any, y: Any, d: Any, p: Any) -> Any:
        return ca.sumsqr(y - d) + 1.0

    def plain(p: np.ndarray) -> Any:
        r = np.where(np.isnan(e.data), 0.0, e.residuals(p))
        some = (~np.isnan(e.data)).any(axis=2)
        return np.sum(w[:, :, 0] * some * (np.sum(r**2, axis=2) + 1.0)) / SIZE

    agree(e.objective(loss=loss, weights=w), plain)


def test_callable_loss_without_data() -> None:
    e = Experiment(9)
    obj = e.objective(data=None, loss=lambda t, x, u, y, d, p: ca.sumsqr(x))
    agree(obj, lambda p: np.sum(e.states(p, e.x0)[..., :2] ** 2) / 9)


def test_terminal_and_running_cost() -> None:
    e = Experiment(SIZE)

    def running(t: Any, x: Any, u: Any, p: Any) -> Any:
        return x[0] ** 2 + p[2] * x[1] * u

    obj = e.objective(
        loss="mse",
        running=lambda t, x, u, y, p: x[0] ** 2 + p[2] * x[1] * u[0],
        terminal=lambda t, x, u, y, p: t * y[0] ** 2 + p[5] * u[0],
    )

    def plain(p: np.ndarray) -> Any:
        x = e.states(p, e.x0, running)
        y = e.outputs(p, x)
        last = e.ts[-1] * y[:, -1, 0] ** 2 + p[5] * e.values[:, -1]
        return np.mean((y - e.data) ** 2) + np.mean(last) + np.mean(x[:, -1, 2])

    agree(obj, plain)


@pytest.mark.parametrize("which", ["terminal", "running"])
def test_no_loss_at_the_save_times(which: str) -> None:
    e = Experiment(SIZE)

    def cost(t: Any, x: Any, u: Any, y: Any, p: Any) -> Any:
        return x[0] ** 2 + x[1] ** 2

    obj = e.objective(data=None, loss=None, **{which: cost})

    def plain(p: np.ndarray) -> Any:
        x = e.states(p, e.x0, lambda t, x, u, p: x[0] ** 2 + x[1] ** 2)
        return np.mean(x[:, -1, 2]) if which == "running" else np.mean(x[:, -1, 0] ** 2 + x[:, -1, 1] ** 2)

    agree(obj, plain)


def test_running_cost_whose_rate_does_not_depend_on_the_state() -> None:
    """The adjoint of a pure quadrature: the integral of p0 sin t + p1 is known."""
    model = co.ControlledODE(lambda t, x, u, p: -x, nx=1, params=2)
    obj = co.Objective(
        co.Simulator(model, solver=co.Tsit5(rtol=1e-10, atol=1e-12)),
        1.0,
        None,
        np.array([0.0, 1.0, 3.0]),
        loss=None,
        running=lambda t, x, u, y, p: p[0] * ca.sin(t) + p[1],
    )
    value, gradient = obj(np.array([2.0, 0.5]))
    assert value == pytest.approx(2.0 * (1 - np.cos(3.0)) + 1.5, rel=1e-9)
    np.testing.assert_allclose(gradient, [1 - np.cos(3.0), 3.0], rtol=1e-9)


@pytest.mark.parametrize("kind", ["number", "array", "callable"])
def test_regularization(kind: str) -> None:
    e = Experiment(3)
    lam = np.linspace(0.1, 0.6, P.size)
    given = {"number": 0.2, "array": lam, "callable": lambda p: ca.exp(p[0]) * ca.sumsqr(p)}[kind]

    def plain(p: np.ndarray) -> Any:
        penalty = {"number": np.sum(0.2 * p**2), "array": np.sum(lam * p**2), "callable": np.exp(p[0]) * np.sum(p**2)}
        return np.mean(e.residuals(p) ** 2) + penalty[kind]

    agree(e.objective(regularization=given), plain)


@pytest.mark.parametrize("params", [3, {"p": 3}, co.ParameterLayout(p=3), co.Skip(co.Dense(1, 1))])
def test_a_loss_gets_p_as_the_model_does(params: Any) -> None:
    """A tree for a layout or dict, even with one block named p; the vector for a number or a network."""
    seen: dict[str, type] = {}

    def rhs(t: ca.MX, x: ca.MX, u: ca.MX, p: Any) -> ca.MX:
        seen["model"] = type(p)
        return -x

    def loss(t: ca.MX, x: ca.MX, u: ca.MX, y: ca.MX, d: ca.MX, p: Any) -> ca.MX:
        seen["loss"] = type(p)
        return ca.sumsqr(x)

    model = co.ControlledODE(rhs, nx=1, params=params)
    co.Objective(co.Simulator(model), np.ones(1), None, np.linspace(0.0, 1.0, 3), loss=loss)
    assert seen["loss"] is seen["model"]
    assert (seen["loss"] is not ca.MX) == model.named_parameters == isinstance(params, dict | co.ParameterLayout)


def test_functions_get_named_parameters() -> None:
    layout = co.ParameterLayout(rate=1, gain=2)
    model = co.ControlledODE(lambda t, x, u, p: -p.rate * x, nx=1, params=layout)
    sim = co.Simulator(model, solver=co.RK4(steps_per_interval=10))
    ts = np.linspace(0.0, 1.0, 5)
    obj = co.Objective(
        sim,
        co.InitialState(lambda d0, p: p.gain[0] * d0, inputs=np.array([2.0])),
        None,
        ts,
        loss=None,
        terminal=lambda t, x, u, y, p: p.gain[1] * x,
        regularization=lambda p: p.rate**2,
    )
    _, gradient = obj(np.array([0.5, 1.5, 3.0]))
    end = np.exp(-0.5)
    np.testing.assert_allclose(gradient, [-9 * end + 1.0, 6 * end, 3 * end], rtol=1e-8)


def ragged(e: Experiment) -> tuple[list[Any], ...]:
    """Records that end at different times, on their own grids."""
    ends = [13, 5, 9, 2, 1]
    ts = [e.ts[:n] + 0.1 * b for b, n in enumerate(ends)]
    controls = [
        co.PiecewiseLinear(t if t.size > 1 else np.append(t, t[0] + 1), e.values[b, : max(t.size, 2), None])
        for b, t in enumerate(ts)
    ]
    data = [e.data[b, : t.size].copy() for b, t in enumerate(ts)]
    return ts, controls, data


@pytest.mark.parametrize("kind", ["mse", "callable", "terminal"])
def test_trajectories_of_different_length(kind: str) -> None:
    e = Experiment(SIZE)
    ts, controls, data = ragged(e)
    data[1][2] = np.nan
    options: dict[str, Any] = {"data": data, "loss": kind}
    if kind == "callable":
        options["loss"] = lambda t, x, u, y, d, p: ca.sumsqr(y - d)
    if kind == "terminal":
        options = {"loss": None, "terminal": lambda t, x, u, y, p: ca.sumsqr(y)}
    obj = co.Objective(e.sim, e.x0, controls, ts, **options)

    def plain(p: np.ndarray) -> Any:
        total, count, last = 0.0, 0, 0.0
        for b in range(SIZE):
            u = e.values[b, : ts[b].size]
            x = plain_rk4(ts[b], e.x0[b], u, p)
            y = np.array([plain_output(t, z, v, p) for t, z, v in zip(ts[b], x, u, strict=True)])
            r = (y - data[b])[~np.isnan(data[b])]
            total, count = total + np.sum(r**2), count + r.size
            last = last + np.sum(y[-1] ** 2)
        return {"mse": total / count, "callable": total / SIZE, "terminal": last / SIZE}[kind]

    agree(obj, plain)


def test_lists_of_equal_length_are_the_same_as_arrays() -> None:
    e = Experiment(SIZE)
    want, gradient = e.objective()(P)
    controls = [e.controls[b] for b in range(SIZE)]
    obj = co.Objective(e.sim, e.x0, controls, [e.ts] * SIZE, data=list(e.data))
    value, own = obj(P)
    assert value == pytest.approx(want, rel=1e-14)
    np.testing.assert_allclose(own, gradient, rtol=1e-12)


def test_axes_of_length_one_may_be_left_out() -> None:
    model = co.ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    sim, ts, p = co.Simulator(model, solver=co.RK4()), np.linspace(0.0, 1.0, 4), np.array([0.7])
    data = np.arange(12.0).reshape(3, 4)
    full = co.Objective(sim, np.ones((3, 1)), None, ts, data=data[:, :, None]).value(p)
    assert co.Objective(sim, 1.0, None, ts, data=data).value(p) == full
    one = co.Objective(sim, [1.0], None, ts, data=data[0]).value(p)
    assert one == co.Objective(sim, [1.0], None, ts, data=data[0][:, None]).value(p)
