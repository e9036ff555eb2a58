"""Failing trajectories, several threads, and what bad input gets."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

import ctrlode_casadi as co
from fitting.reference import NP, Experiment, P


def explosive(size: int = 9, bad: tuple[int, ...] = (3,), loss: Any = "mse") -> co.Objective:
    """x' = p x**2 blows up at t = 1 / (p x0)."""
    model = co.ControlledODE(lambda t, x, u, p: p * x**2, nx=1, params=1)
    sim = co.Simulator(model, solver=co.Tsit5(max_steps=2000))
    ts = np.linspace(0.0, 1.0, 11)
    x0 = np.full((size, 1), 0.2)
    x0[list(bad)] = 4.0
    return co.Objective(sim, x0, None, ts, data=np.zeros((size, 11)), loss=loss)


def test_a_failed_trajectory() -> None:
    obj = explosive()
    assert obj.last_failure is None
    p = np.array([1.0])
    with pytest.warns(co.IntegrationWarning, match="Trajectory 3"):
        value, gradient = obj(p)
    assert value == np.inf
    np.testing.assert_array_equal(gradient, [0.0])
    failure = obj.last_failure
    assert failure is not None
    assert (failure.trajectory, failure.n_failed, failure.time) == (3, 1, pytest.approx(0.2))
    assert failure.status != co.Status.SUCCESS and failure.status.name in str(failure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert obj.value(p) == np.inf
        np.testing.assert_array_equal(obj.hessp(p, p), [0.0])
        rows, jac = obj.residuals(p), obj.jac(p)
        np.testing.assert_allclose(obj.jac_operator(p).T @ np.ones(rows.size), jac.T @ np.ones(rows.size), rtol=1e-13)
    lost = np.repeat(np.arange(9) == 3, 11)
    assert np.isinf(rows[lost]).all() and np.isfinite(rows[~lost]).all()
    assert (jac[lost] == 0).all() and (jac[~lost][1:] != 0).any()
    assert np.isfinite(obj.value(np.array([0.1])))


def test_a_line_search_backs_off() -> None:
    obj = explosive(loss="sse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", co.IntegrationWarning)
        found = minimize(obj, [0.2], jac=True, method="L-BFGS-B")
    assert np.isfinite(found.fun) and found.fun < obj.value([0.2])


def test_a_cost_that_is_not_finite() -> None:
    e = Experiment(3)
    import casadi as ca

    obj = e.objective(data=None, loss=lambda t, x, u, y, d, p: ca.log(x[0] + 100 * p[0]))
    assert np.isfinite(obj.value(P))
    with pytest.warns(co.IntegrationWarning, match="its cost is not"):
        value, gradient = obj(-P)
    assert value == np.inf and not gradient.any()


def test_a_gradient_that_is_not_finite() -> None:
    import casadi as ca

    model = co.ControlledODE(lambda t, x, u, p: -p * ca.sqrt(x), nx=1, params=1)
    obj = co.Objective(co.Simulator(model, solver=co.RK4()), 0.0, None, [0.0, 0.5, 1.0], data=np.ones(3))
    one = np.array([1.0])
    assert np.isfinite(obj.value(one))
    with pytest.warns(co.IntegrationWarning, match="gradient is not: .* sqrt"):
        obj(one)
    obj.hessp(one, one)
    assert "regularization" not in str(obj.last_failure) and "Hessian product" in str(obj.last_failure)


def test_a_penalty_that_is_not_finite() -> None:
    import casadi as ca

    e = Experiment(3)
    obj = e.objective(regularization=lambda p: ca.sqrt(p[0] - P[0]))
    with pytest.warns(co.IntegrationWarning, match="gradient of the penalty"):
        obj(P)
    assert obj.value(P - 1.0) == np.inf
    assert str(obj.last_failure) == "The penalty on the parameters (regularization) is not finite."


def test_parameters_that_are_not_numbers_are_a_failure_not_an_error() -> None:
    obj = Experiment(3).objective()
    with pytest.warns(co.IntegrationWarning):
        assert obj.value(np.full(NP, np.nan)) == np.inf


def test_two_threads_use_one_objective() -> None:
    e = Experiment(20, threads=2)
    obj = e.objective(co.InitialState(lambda d0, p: [p[0] * d0[0], d0[1]]))
    points = [P * s for s in np.linspace(0.8, 1.2, 8)]
    v = np.ones(NP)
    want = [(*obj(p), obj.hessp(p, v), obj.jac(p)) for p in points]
    wrong: list[int] = []

    def work(shift: int) -> None:
        for k in range(40):
            i = (k + shift) % len(points)
            got = (*obj(points[i]), obj.hessp(points[i], v), obj.jac(points[i]))
            if not all(np.array_equal(a, b) for a, b in zip(got, want[i], strict=True)):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(3 * k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    one, two = (Experiment(40, threads=n).objective()(P) for n in (1, 2))
    assert one[0] == two[0]
    np.testing.assert_array_equal(one[1], two[1])


def test_inputs_are_left_alone() -> None:
    e = Experiment(3)
    e.data[0, 0, 0] = np.nan
    keep = e.data.copy(), e.x0.copy(), P.copy()
    obj = e.objective(weights=np.ones(2), regularization=0.1)
    obj(P)
    obj.jac(P)
    np.testing.assert_array_equal(e.data, keep[0])
    np.testing.assert_array_equal(e.x0, keep[1])
    np.testing.assert_array_equal(P, keep[2])


def test_an_empty_batch_has_value_zero() -> None:
    e = Experiment(2)
    controls = e.controls[[0]]
    obj = co.Objective(e.sim, np.zeros((0, 2)), controls, e.ts, data=np.zeros((0, 13, 2)), regularization=1.0)
    value, gradient = obj(P)
    assert value == pytest.approx(P @ P)
    np.testing.assert_allclose(gradient, 2 * P)


def test_check_gradient_explains_itself() -> None:
    report = Experiment(3).objective().check_gradient(P)
    assert report.agrees and report.exact_error < 1e-10 and report.difference_error < 1e-8
    assert "random 1" in str(report) and "agree" in str(report)


@pytest.mark.parametrize(("p", "reason"), [(0.500001, "kinks of the model"), (0.5, "p lies on a kink")])
def test_check_gradient_names_a_kink(p: float, reason: str) -> None:
    model = co.ControlledODE(lambda t, x, u, p: co.activations["relu"](p - t), nx=1, params=1)
    obj = co.Objective(co.Simulator(model, solver=co.RK4()), 0.0, None, np.linspace(0.0, 1.0, 21), data=np.ones(21))
    report = obj.check_gradient(np.array([p]))
    assert not report.agrees and reason in str(report)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_check_gradient_with_adaptive_steps_of_a_smooth_model(rtol: float) -> None:
    e = Experiment(3)
    sim = co.Simulator(e.model, solver=co.Tsit5(rtol=rtol, atol=1e-2 * rtol), threads=1)
    report = co.Objective(sim, e.x0, e.controls, e.ts, data=e.data).check_gradient(P)
    assert report.agrees and report.exact_error < 1e-12 and report.difference_error < 100 * rtol
    text = str(report)
    assert text.index("adjoint against tangent") < text.index("finite difference")
    assert all(c.reason == "agree" or c.reason.startswith("adaptive steps") for c in report.checks)
    assert "tighten rtol" in text and "lies on a kink" not in text


def test_check_gradient_finds_a_kink_with_adaptive_steps() -> None:
    model = co.ControlledODE(lambda t, x, u, p: co.activations["relu"](p - 0.5) - x, nx=1, params=1)
    obj = co.Objective(co.Simulator(model), 0.0, None, np.linspace(0.0, 1.0, 21), data=np.ones(21))
    assert "p lies on a kink" in str(obj.check_gradient(np.array([0.5])))


def test_check_gradient_where_a_trajectory_fails() -> None:
    with pytest.warns(co.IntegrationWarning):
        assert "no derivative here" in str(explosive().check_gradient(np.array([1.0])))


def without(**options: Any) -> Callable[[Experiment], Any]:
    return lambda e: e.objective(**options)


BAD: dict[str, tuple[Callable[[Experiment], Any], str]] = {
    "data components": (without(data=np.zeros((3, 13, 5))), "data: .*axis 2"),
    "data times": (without(data=np.zeros((3, 12, 2))), "data: .*T=13"),
    "data trajectories": (without(data=np.zeros((4, 13, 2))), "data has 4"),
    "data infinite": (without(data=np.full((3, 13, 2), np.inf)), "data: .*finite or NaN"),
    "data all missing": (without(data=np.full((3, 13, 2), np.nan)), "data: all entries are missing"),
    "data integers": (without(data=np.zeros((3, 13, 2), int)), "data: .*float64"),
    "data single": (without(data=np.zeros((3, 13, 2), np.float32)), "data: .*mixed"),
    "no data": (without(data=None), "data: loss='mse'"),
    "unknown loss": (without(loss="msee"), "did you mean 'mse'"),
    "no loss": (without(loss=None, data=None), "loss: None leaves nothing"),
    "data without loss": (without(loss=None, terminal=lambda t, x, u, y, p: x[0]), "data: without a loss"),
    "loss arguments": (without(loss=lambda t, x: x[0]), r"loss: must take the 6 arguments \(t, x, u, y, d, p\)"),
    "loss size": (without(loss=lambda t, x, u, y, d, p: x), "loss: must return one entry"),
    "loss scalar": (without(loss=lambda t, x, u, y, d, p: x), "scalar.*it returned 2; add them up"),
    "loss nothing": (without(loss=lambda t, x, u, y, d, p: None), "loss: returned None"),
    "running": (without(running=3.0), "running: expected a callable"),
    "terminal": (without(terminal=lambda t, x: x), "terminal: must take the 5 arguments"),
    "weights shape": (without(weights=np.ones(3)), "weights: must broadcast"),
    "weights negative": (without(weights=-1.0), "weights: must not be negative"),
    "weights nan": (without(weights=np.nan), "weights: .*finite"),
    "regularization shape": (without(regularization=np.ones(2)), "regularization: .*np"),
    "regularization negative": (without(regularization=-1.0), "regularization: must not be negative"),
    "x0 shape": (without(x0=np.zeros(3)), "x0: .*nx=2"),
    "x0 trajectories": (without(x0=np.zeros((5, 2))), "x0 has 5"),
    "x0 nan": (without(x0=np.array([0.0, np.nan])), "x0: .*finite"),
    "free guess": (without(x0=co.Free(np.zeros(3))), "Free guess.*nx=2"),
    "free mask": (without(x0=co.Free(np.zeros(2), mask=[1, 0])), "Free mask.*booleans"),
    "encoder size": (without(x0=co.InitialState(lambda d0, p: d0[0])), "InitialState fn.*nx=2"),
    "encoder arguments": (
        without(x0=co.InitialState(lambda d0: d0)),
        r"InitialState fn\): must take the 2 arguments \(d0, p\), but its signature is \(d0\)",
    ),
    "encoder without data": (
        without(x0=co.InitialState(lambda d0, p: d0), data=None, loss=lambda t, x, u, y, d, p: x[0]),
        "data is None",
    ),
    "times": (lambda e: co.Objective(e.sim, e.x0, e.controls, e.ts[::-1].copy(), data=e.data), "ts: .*increas"),
    "no control": (lambda e: co.Objective(e.sim, e.x0, None, e.ts, data=e.data), "controls: .*nu=1"),
    "beyond the control": (lambda e: co.Objective(e.sim, e.x0, e.controls, e.ts + 1, data=e.data), "extrapolation"),
    "list lengths": (
        lambda e: co.Objective(e.sim, e.x0, e.controls, [e.ts] * 3, data=[e.data[0]] * 2),
        "data: .*B=3",
    ),
    "list entry": (
        lambda e: co.Objective(e.sim, e.x0, e.controls, [e.ts, e.ts[:4], e.ts], data=[e.data[0]] * 3),
        r"data\[1\]: .*T=4",
    ),
    "p length": (lambda e: e.objective()(P[:3]), "p: expected a vector of 6"),
    "p length with free states": (lambda e: e.objective(co.Free(e.x0[0]))(P), "append_free"),
    "p integers": (lambda e: e.objective()(np.ones(6, int)), "p: .*float64"),
    "v length": (lambda e: e.objective().hessp(P, P[:2]), "v: expected a vector of 6"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    action, message = BAD[name]
    with pytest.raises((co.DataError, co.ControlError), match=f"(?s){message}"):
        action(Experiment(3))


def test_missing_data_in_the_first_row_of_an_encoder() -> None:
    e = Experiment(3)
    e.data[1, 0, 0] = np.nan
    with pytest.raises(co.DataError, match="trajectory 1 is missing"):
        e.objective(co.InitialState(lambda d0, p: d0))


def test_a_model_is_no_simulator() -> None:
    with pytest.raises(co.ModelError, match=r"sim: expected a Simulator, got ControlledODE; write Simulator\(model\)"):
        co.Objective(Experiment(1).model, [0.0, 0.0], None, [0.0, 1.0])  # type: ignore[arg-type]
