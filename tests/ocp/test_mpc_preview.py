"""Previews that are held from one sampling time to the next, against the exact solution of a quadratic program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg

import ctrlode_casadi as co

N, DT, R = 8, 0.25, 0.1
METHODS: list[dict[str, Any]] = [
    {"integrator": co.DOP853(steps_per_interval=1), "backend": "casadi"},
    {"integrator": co.DOP853(steps_per_interval=1), "backend": "compiled"},
    {"method": "single-shooting", "integrator": co.DOP853(steps_per_interval=1)},
    {"method": "collocation", "degree": 5},
    {"method": "collocation", "degree": 5, "scheme": "legendre"},
]


def problem(t0: float = 0.0, cap: bool = False) -> co.OptimalControlProblem:
    """A lag with a known disturbance w follows a reference r; both change from interval to interval."""
    layout = co.ParameterLayout(gain=1, w=1, r=1, cap=1)
    model = co.ControlledODE(lambda t, x, u, p: p.gain * (u - x) + p.w, nx=1, nu=1, params=layout)
    ocp = co.OptimalControlProblem(model, t0=t0, tf=t0 + N * DT, p={"gain": 1.0, "w": 0.0, "r": 0.0, "cap": 1.0})
    ocp.minimize(lagrange=lambda t, x, u, p: (x - p.r) ** 2 + R * u**2, mayer=lambda x0, xf, tf, p: 2 * (xf - p.r) ** 2)
    if cap:
        ocp.path(lambda t, x, u, p: u - p.cap, None, 0.0)
        ocp.path(lambda t, x, u, p: x - 2 * p.cap, None, 0.0)
    return ocp


def exact(x0: float, w: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Optimal controls: cost and state of each interval are exact in (x, u, w, r), which are all held but x."""
    f = np.zeros((4, 4))
    f[0, :3] = [-1.0, 1.0, 1.0]
    weight = np.zeros((4, 4))
    weight[np.ix_([0, 3], [0, 3])] = [[1.0, -1.0], [-1.0, 1.0]]
    weight[1, 1] = R
    big = scipy.linalg.expm(np.block([[-f.T, weight], [np.zeros_like(f), f]]) * DT)
    phi, cost = big[4:, 4:], big[4:, 4:].T @ big[:4, 4:]
    row, states = np.append(np.zeros(N), x0), []  # x_k as an affine function of the controls
    for k in range(N):
        states.append(row)
        row = phi[0, 0] * row + phi[0, 1] * np.eye(N + 1)[k] + phi[0, 2] * np.append(np.zeros(N), w[k])
    total = np.zeros((N + 1, N + 1))
    for k, state in enumerate(states):
        z = np.stack([state, np.eye(N + 1)[k], w[k] * np.eye(N + 1)[N], r[k] * np.eye(N + 1)[N]])
        total += z.T @ cost @ z
    end = row - r[N] * np.eye(N + 1)[N]
    total += 2 * np.outer(end, end)
    return np.linalg.solve(total[:N, :N], -total[:N, N])


def tables() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=N + 1), rng.normal(size=N + 1)


def held(plan: co.OptimalControlSolution) -> np.ndarray:
    """The control's value in each interval."""
    return plan.trajectory.values[:, 0]


@pytest.mark.parametrize("settings", METHODS)
def test_held_previews_give_the_exact_optimum(settings: dict[str, Any]) -> None:
    """Far from t = 0 too, where rounding decides on which side of a break a time is."""
    w, r = tables()
    for t0 in (0.0, 1.7e9):
        mpc = co.MPC(
            problem(t0), intervals=N, preview=["w", "r"], preview_hold="zoh", options={"tol": 1e-11}, **settings
        )
        mpc.step([0.4], {"w": w, "r": r})
        assert mpc.plan is not None
        np.testing.assert_allclose(held(mpc.plan), exact(0.4, w, r), atol=1e-7 if t0 == 0.0 else 1e-5)


def test_lines_are_the_default_and_blocks_may_differ() -> None:
    w, r = tables()
    lines = co.MPC(problem(), intervals=N, preview=["w", "r"])
    named = co.MPC(problem(), intervals=N, preview=["w", "r"], preview_hold="foh")
    mixed = co.MPC(problem(), intervals=N, preview=["w", "r"], preview_hold={"w": "zoh"})
    steps = co.MPC(problem(), intervals=N, preview=["w", "r"], preview_hold="zoh")
    level = np.full(N + 1, 0.3)
    found = {m: m.step([0.4], {"w": w, "r": level})[0] for m in (lines, named, mixed, steps)}
    assert found[lines] == found[named] and abs(found[lines] - found[steps]) > 1e-3
    assert found[mixed] == pytest.approx(found[steps], abs=1e-7)  # a constant reference is the same in both
    found = {m: m.step([0.4], {"w": 0.0 * w, "r": r}, t=0.0)[0] for m in (lines, mixed, steps)}
    assert found[mixed] == pytest.approx(found[lines], abs=1e-7) and abs(found[mixed] - found[steps]) > 1e-3


def test_one_row_per_interval_and_functions_of_time() -> None:
    w, r = tables()
    settings: dict[str, Any] = {"intervals": N, "preview": ["w", "r"], "preview_hold": "zoh"}
    r[N] = r[N - 1]
    expected = co.MPC(problem(), **settings).step([0.4], {"w": w, "r": r})
    short = co.MPC(problem(), **settings)
    np.testing.assert_allclose(short.step([0.4], {"w": w[:N], "r": r[:N, None]}), expected, atol=1e-8)
    times = DT * np.arange(N + 1)
    control = co.PiecewiseConstant(times, w[:, None], extrapolation="hold", nu=1)
    by_time = co.MPC(problem(), **settings)
    function = by_time.step([0.4], {"w": control, "r": lambda t: r[min(N, int(t / DT + 1e-9))]})
    np.testing.assert_allclose(function, expected, atol=1e-8)
    with pytest.raises(co.DataError, match=r"\(9, 1\), or one per interval, \(8, 1\), got \(7,\)"):
        short.step([0.4], {"w": w[:7]})
    with pytest.raises(co.DataError, match=r"one row per break of the horizon, \(9, 1\), got \(8,\)"):
        co.MPC(problem(), intervals=N, preview=["w"]).step([0.4], {"w": w[:N]})
    with pytest.raises(co.DataError, match="preview_hold: unknown name 'zho'; did you mean 'zoh'"):
        co.MPC(problem(), intervals=N, preview=["w"], preview_hold="zho")
    with pytest.raises(co.DataError, match="preview_hold block: unknown name 'r'"):
        co.MPC(problem(), intervals=N, preview=["w"], preview_hold={"r": "zoh"})


@pytest.mark.parametrize("settings", METHODS)
def test_constraints_see_the_value_of_their_own_interval(settings: dict[str, Any]) -> None:
    w, _ = tables()
    cap = 0.2 + 0.3 * (np.arange(N + 1) % 3)
    mpc = co.MPC(
        problem(cap=True), intervals=N, preview={"w": w, "cap": cap}, preview_hold="zoh", soften=None,
        options={"tol": 1e-10}, **settings,
    )  # fmt: skip
    mpc.step([0.0], {"r": 1.5})
    assert mpc.plan is not None and mpc.stats[-1].success
    u = held(mpc.plan)
    assert np.all(u < cap[:N] + 1e-7) and np.sum(u > cap[:N] - 1e-6) >= 4
    report = mpc.plan.verify()
    assert report.success and report.max_defect < 1e-6 and report.objective_error < 1e-6


def test_a_loop_with_a_relaxed_problem() -> None:
    """The softened problem has the same tables."""
    ocp = problem(cap=True)
    ocp.bounds(u=(-1.0, 1.0))
    mpc = co.MPC(ocp, intervals=N, preview={"cap": np.linspace(0.2, 0.1, N)}, preview_hold="zoh")
    with pytest.warns(co.ControllerWarning, match="softened"):
        u = mpc.step([0.9], {"r": 0.0})
    assert mpc.stats[-1].source == "relaxed" and u[0] < 0.0
