"""The estimator against the Kalman filter, nonlinear least squares, and its own promises."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize

import ctrlode_casadi as co
from ctrlode_casadi.ocp.mpc.program import Program

A = np.array([[0.0, 1.0], [-2.0, -0.3]])
B = np.array([[0.0], [1.0]])
DT = 0.1
SIGMA_Y, SIGMA_X = 0.1, np.array([0.02, 0.05])


def linear_model() -> co.ControlledODE:
    return co.ControlledODE(
        lambda t, x, u, p: [x[1], -2.0 * x[0] - 0.3 * x[1] + u[0]], nx=2, nu=1, output=lambda t, x, u, p: x[0]
    )


def estimator(window: int, **settings: Any) -> co.MHE:
    given = {
        "measurement_noise": SIGMA_Y, "process_noise": SIGMA_X, "x0": [0.0, 0.0], "x0_noise": 1.0,
        "integrator": co.RK4(steps_per_interval=4), "options": {"tol": 1e-12},
    } | settings  # fmt: skip
    return co.MHE(linear_model(), DT, window, **given)


class KalmanFilter:
    """The textbook filter of the sampled system, with noise that is constant over each interval."""

    def __init__(self) -> None:
        big = scipy.linalg.expm(DT * np.block([[A, np.eye(2), B], [np.zeros((3, 5))]]))
        self.a, self.g, self.b = big[:2, :2], big[:2, 2:4] / DT, big[:2, 4:]
        self.x, self.p = np.zeros(2), np.eye(2)

    def predict(self, u: np.ndarray) -> None:
        self.x = self.a @ self.x + self.b @ u
        self.p = self.a @ self.p @ self.a.T + self.g @ np.diag(SIGMA_X**2) @ self.g.T

    def update(self, y: np.ndarray) -> None:
        if np.isfinite(y[0]):
            gain = self.p[:, :1] / (self.p[0, 0] + SIGMA_Y**2)
            self.x = self.x + gain @ (y - self.x[:1])
            self.p = self.p - gain @ self.p[:1]


@pytest.mark.parametrize(
    ("window", "settings"),
    [
        (40, {}),  # the window holds all data
        (40, {"backend": "casadi"}),
        (6, {}),  # the arrival cost stands for the older data
        (6, {"method": "collocation", "degree": 5, "scheme": "legendre"}),
        (1, {}),
    ],
)
def test_it_is_the_kalman_filter_on_a_linear_system(
    window: int, settings: dict[str, Any], rng: np.random.Generator
) -> None:
    mhe, kalman = estimator(window, **settings), KalmanFilter()
    x, u = np.array([1.0, 0.0]), np.zeros(1)
    for k in range(25):
        if k:
            x = kalman.a @ x + kalman.b @ u + kalman.g @ (SIGMA_X * rng.standard_normal(2))
            kalman.predict(u)
        y = x[:1] + SIGMA_Y * rng.standard_normal(1)
        if k in (7, 8):
            y = np.array([np.nan])  # missing measurements
        kalman.update(y)
        np.testing.assert_allclose(mhe.step(y, u), kalman.x, atol=1e-6)
        np.testing.assert_allclose(mhe.covariance, kalman.p, atol=1e-6)
        u = np.array([np.sin(k)])
    assert mhe.stats.counts == {"solve": 25}
    t, smoothed = mhe.window
    n = min(window + 1, 25)
    assert smoothed.shape == (n, 2) and t[-1] == pytest.approx(24 * DT) and t.size == n
    np.testing.assert_array_equal(smoothed[-1], mhe.x)


def test_a_fixed_arrival_cost_is_another_estimator(rng: np.random.Generator) -> None:
    filtering, fixed = estimator(3), estimator(3, arrival="fixed")
    for k in range(12):
        y = np.array([np.cos(0.2 * k) + 0.1 * rng.standard_normal()])
        a, b = filtering.step(y, [0.0]), fixed.step(y, [0.0])
    assert 1e-4 < np.abs(a - b).max() < 1.0


def lotka(x: Any, p: Any) -> list[Any]:
    return [x[0] * (1.0 - p[0] * x[1]), x[1] * (p[1] * x[0] - 1.0)]


def lotka_data(rng: np.random.Generator, n: int, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """True states at n times and measurements of both, for the parameters 0.8 and 0.5."""
    times = dt * np.arange(n)
    done = scipy.integrate.solve_ivp(
        lambda t, x: lotka(x, [0.8, 0.5]), (0.0, times[-1]), [1.5, 1.0], "DOP853", times, rtol=1e-11, atol=1e-12
    )
    return done.y.T, done.y.T + 0.05 * rng.standard_normal((n, 2))


def lotka_estimator(window: int, **settings: Any) -> co.MHE:
    layout = co.ParameterLayout(a=1, b=1)
    model = co.ControlledODE(lambda t, x, u, p: lotka(x, [p.a, p.b]), nx=2, params=layout)
    given = {
        "measurement_noise": 0.05, "process_noise": 0.0, "x0": [1.2, 1.2], "x0_noise": 0.5, "p": [1.0, 0.6],
        "estimate": ["a", "b"], "p_noise": [0.4, 0.3], "integrator": co.RK4(steps_per_interval=6),
        "options": {"tol": 1e-11},
    } | settings  # fmt: skip
    return co.MHE(model, 0.2, window, **given)


def test_without_process_noise_it_is_nonlinear_least_squares(rng: np.random.Generator) -> None:
    """All data in the window: states and parameters equal SciPy's least squares on the same residuals."""
    n, dt = 12, 0.2
    _, y = lotka_data(rng, n, dt)
    mhe = lotka_estimator(20)
    for row in y:
        estimate = mhe.step(row)
    prior, deviations = np.array([1.2, 1.2, 1.0, 0.6]), np.array([0.5, 0.5, 0.4, 0.3])

    def states(z: np.ndarray) -> np.ndarray:
        done = scipy.integrate.solve_ivp(
            lambda t, x: lotka(x, z[2:]),
            (0.0, dt * (n - 1)),
            z[:2],
            "DOP853",
            dt * np.arange(n),
            rtol=1e-12,
            atol=1e-13,
        )
        return done.y.T

    def residuals(z: np.ndarray) -> np.ndarray:
        return np.concatenate([(z - prior) / deviations, ((states(z) - y) / 0.05).ravel()])

    found = scipy.optimize.least_squares(residuals, prior, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    np.testing.assert_allclose(mhe.p, found.x[2:], atol=3e-6)
    np.testing.assert_allclose(estimate, states(found.x)[-1], atol=3e-6)
    assert mhe.stats[-1].objective == pytest.approx(found.cost, rel=1e-5)


@pytest.mark.parametrize("method", ["multiple-shooting", "collocation"])
def test_parameters_converge_over_many_windows(method: str, rng: np.random.Generator) -> None:
    x, y = lotka_data(rng, 80, 0.2)
    mhe = lotka_estimator(
        8, method=method, degree=4, process_noise=1e-3, x_bounds=(0.0, None), p_bounds=(0.1, 2.0), options=None
    )
    for row in y:
        estimate = mhe.step(row)
    np.testing.assert_allclose(mhe.p, [0.8, 0.5], atol=0.02)
    np.testing.assert_allclose(estimate, x[-1], atol=0.06)
    deviations = np.sqrt(np.diag(mhe.covariance))
    assert np.all(np.abs(np.append(estimate - x[-1], mhe.p - [0.8, 0.5])) < 4 * deviations)
    assert mhe.stats.counts == {"solve": 80}


def test_bounds_hold(rng: np.random.Generator) -> None:
    """The level of a leaking tank is never negative, whatever the sensor says; nor is the estimate."""
    model = co.ControlledODE(lambda t, x, u, p: -0.5 * x + u[0], nx=1, nu=1, state_names=("level",))
    given = {"measurement_noise": 0.3, "process_noise": 0.05, "x0": [0.2], "x0_noise": 0.5}
    bounded = co.MHE(model, 0.2, 6, x_bounds=(0.0, None), **given)
    free = co.MHE(model, 0.2, 6, **given)
    low = []
    for _ in range(15):
        y = [-0.4 + 0.1 * rng.standard_normal()]
        assert bounded.step(y, [0.0])[0] > -1e-7
        low.append(free.step(y, [0.0])[0])
        assert bounded.window[1].min() > -1e-7
    assert min(low) < -0.05


def test_a_failed_solve_returns_the_filter_s_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Program.solve

    def solve(self: Program, nlp: Any, start: Any) -> Any:
        result = original(self, nlp, start)
        bad = len(mhe.stats) in (3, 4)
        return replace(result, status=co.SolveStatus.INFEASIBLE, message="forced") if bad else result

    monkeypatch.setattr(Program, "solve", solve)
    mhe, kalman = estimator(5), KalmanFilter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(8):
            y = np.array([np.cos(0.3 * k)])
            if k:
                kalman.predict(np.zeros(1))
            kalman.update(y)
            np.testing.assert_allclose(mhe.step(y, [0.0]), kalman.x, atol=1e-6)
    assert len(caught) == 1 and "forced" in str(caught[0].message)
    assert mhe.stats.sources == ["solve"] * 3 + ["predicted"] * 2 + ["solve"] * 3


def test_reset_begins_anew(rng: np.random.Generator) -> None:
    _, y = lotka_data(rng, 6, 0.2)
    mhe = lotka_estimator(3)
    first = [mhe.step(row) for row in y]
    assert not np.allclose(mhe.p, [1.0, 0.6], atol=1e-3)
    mhe.reset()
    assert mhe.t == 0.0 and len(mhe.stats) == 0 and mhe.window[0].size == 0
    np.testing.assert_array_equal(mhe.p, [1.0, 0.6])
    np.testing.assert_allclose([mhe.step(row) for row in y], first, atol=1e-8)


def test_output_feedback_in_a_closed_loop() -> None:
    """Only the position is measured; the estimator gives the controller the speed."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1, output=lambda t, x, u, p: x[0])
    ocp = co.OptimalControlProblem(model, tf=3.0)
    ocp.minimize(lagrange=lambda t, x, u, p: 4 * x[0] ** 2 + x[1] ** 2 + 0.1 * u[0] ** 2)
    ocp.bounds(u=(-1.0, 1.0))
    mpc = co.MPC(ocp, intervals=15)
    mhe = co.MHE(
        model, mpc.dt, 10, measurement_noise=0.01, process_noise=[0.001, 0.01], x0=[1.0, 0.0], x0_noise=[0.1, 1.0]
    )
    loop = co.closed_loop(mpc, model, [1.0, -0.5], 40, noise=0.01, observer=mhe)
    assert loop.measured.shape == (40, 1) and loop.estimated.shape == (40, 2)
    assert np.abs(loop.estimated[10:] - loop.x[0, 10:-1]).max() < 0.1
    assert np.abs(loop.x[0, -1]).max() < 0.1
    assert mhe.stats.counts == {"solve": 40}


def test_misuse_is_refused() -> None:
    model = linear_model()
    given = {"measurement_noise": 0.1, "process_noise": 0.1, "x0": [0.0, 0.0], "x0_noise": 1.0}
    for match, changes in {
        "x0: expected shape": {"x0": [0.0]},
        "measurement_noise: standard deviations must be positive": {"measurement_noise": 0.0},
        "process_noise: standard deviations must be non-negative": {"process_noise": -1.0},
        "process_noise: expected standard deviations": {"process_noise": [1.0, 1.0, 1.0]},
        "x0_noise: a covariance must be symmetric": {"x0_noise": [[1.0, 2.0], [2.0, 1.0]]},
        "x_bounds: expected a pair": {"x_bounds": 3},
        "x_bounds: bounds are crossed": {"x_bounds": (1.0, 0.0)},
        "method: unknown name": {"method": "single-shooting"},
        "arrival: unknown name": {"arrival": "ekf"},
        "dt: the sampling time": {"dt": 0.0},
        "intervals: expected an integer": {"window": 0},
    }.items():
        chosen = {"dt": 0.1, "window": 5} | given | changes
        with pytest.raises(co.DataError, match=match):
            co.MHE(model, **chosen)
    with pytest.raises(co.DataError, match="p_noise"):
        lotka_estimator(5, p_noise=None)
    with pytest.raises(co.DataError, match="p: the model has np=2"):
        lotka_estimator(5, p=None)
    mhe = co.MHE(model, 0.1, 5, **given)
    with pytest.raises(co.DataError, match=r"y: expected shape \(ny=1,\)"):
        mhe.step([1.0, 2.0])
    with pytest.raises(co.DataError, match="y: all entries must be finite or NaN"):
        mhe.step([np.inf])
    with pytest.raises(co.DataError, match=r"u_previous: expected shape \(nu=1,\)"):
        mhe.step([1.0], [1.0, 2.0])
    assert len(mhe.stats) == 0
