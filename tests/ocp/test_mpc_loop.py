"""Closed loops: plants, noise, failures that are survived, interruption, and a long run."""

from __future__ import annotations

import gc
import os
import signal
import threading
import tracemalloc
import warnings
from dataclasses import replace
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.ocp.mpc.program import Program
from ctrlode_casadi.ocp.solvers import Result


def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
    return [x[1], p[0] * u[0] - 0.2 * x[1] ** 3]


def problem(path: bool = False, **bounds: Any) -> co.OptimalControlProblem:
    model = co.ControlledODE(rhs, nx=2, nu=1, params=1, state_names=("position", "speed"))
    ocp = co.OptimalControlProblem(model, tf=3.0, p=[1.0])
    ocp.minimize(
        lagrange=lambda t, x, u, p: 5 * x[0] ** 2 + x[1] ** 2 + 0.1 * u[0] ** 2,
        mayer=lambda x0, xf, tf, p: 10 * xf[0] ** 2 + 5 * xf[1] ** 2,
    )
    ocp.bounds(**({"u": (-1.0, 1.0)} | bounds))
    if path:
        ocp.path(lambda t, x, u, p: x[0] + x[1], lb=-1.0, name="sum")
    return ocp


def rk4(x: np.ndarray, u: np.ndarray, t: float, dt: float) -> np.ndarray:
    def f(x: np.ndarray) -> np.ndarray:
        return np.array([x[1], u[0] - 0.2 * x[1] ** 3])

    h = dt / 20
    for _ in range(20):
        a = f(x)
        b = f(x + 0.5 * h * a)
        c = f(x + 0.5 * h * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c))
    return x


def test_the_kinds_of_plants_agree() -> None:
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)
    loops = []
    for plant, settings in (
        (ocp.model, {"p": [1.0]}),
        (ocp.model, {"p": lambda t, rng: [1.0], "solver": co.DOP853(rtol=1e-10, atol=1e-12)}),
        (co.Simulator(ocp.model, solver=co.Tsit5(rtol=1e-10, atol=1e-12)), {"p": [1.0]}),
        (rk4, {}),
        (ocp.model.step(co.RK4(steps_per_interval=20), mpc.dt), {"p": [1.0]}),
        (ocp.model.step(co.RK4(steps_per_interval=20), mpc.dt), {"p": lambda t, rng: {"p": [1.0]}}),
    ):
        mpc.reset()
        loops.append(co.closed_loop(mpc, plant, [2.0, 0.0], 12, **settings))
    for loop in loops:
        assert isinstance(loop, co.Trajectories) and loop.success.all()
        assert loop.x.shape == (1, 13, 2) and loop.u.shape == (1, 13, 1) and loop.y.shape == (1, 13, 2)
        assert loop.statuses == [co.SolveStatus.SUCCESS] * 12
        np.testing.assert_allclose(loop.x, loops[0].x, atol=1e-6)
        np.testing.assert_allclose(loop.t, 0.2 * np.arange(13))
    assert loops[0].stats["n_rhs"][0] > 12 * 6
    assert abs(loops[0].x[0, -1, 0]) < 0.5


def test_functions_of_casadi_as_plants_by_names_and_by_sizes() -> None:
    """The inputs in any order, CasADi's own integrator, and positions where the inputs have no names."""
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)
    step = ocp.model.step(co.RK4(steps_per_interval=20), mpc.dt)
    t, x, u, p, dt = (ca.MX.sym(name, n) for name, n in (("t", 1), ("x", 2), ("u", 1), ("p", 1), ("dt", 1)))
    dae = {"x": x, "u": u, "p": p, "ode": ocp.model.rhs(0.0, x, u, p)}
    exact = ca.integrator("exact", "cvodes", dae, 0.0, mpc.dt, {"reltol": 1e-10, "abstol": 1e-12})
    euler = ca.Function("euler", [x, u, t, dt], [x + dt * ocp.model.rhs(t, x, u, 1.0)])
    loops = []
    for plant, settings in (
        (step, {"p": [1.0]}),
        (exact, {"p": [1.0]}),
        (ca.Function("turned", [u, p, x], [step(0.0, x, u, p)], ["u", "p", "x"], ["next"]), {"p": [1.0]}),
        (ca.Function("unnamed", [t, x, u, p], [step(t, x, u, p)]), {"p": [1.0]}),
        (ca.Function("own", [x, u], [step(0.0, x, u, 1.0)]), {}),
        (euler, {}),
        (lambda x, u, t, dt: euler(x, u, t, dt).full(), {}),
    ):
        mpc.reset()
        loops.append(co.closed_loop(mpc, plant, [2.0, 0.0], 8, **settings))
    for loop in loops[:5]:
        assert loop.success.all() and loop.stats["n_steps"][0] == 8 and loop.y.shape == (1, 9, 2)
        np.testing.assert_allclose(loop.x, loops[0].x, atol=1e-6)
    np.testing.assert_allclose(loops[5].x, loops[6].x, atol=1e-12)
    assert np.abs(loops[5].x - loops[0].x).max() > 1e-3
    wider = ca.Function("wider", [x, u, p], [ca.vertcat(x, 0.0)], ["x", "u", "p"], ["next"])
    single = ca.MX.sym("x")
    for plant, match in (
        (wider, r"first output of wider.* must be the next state, \(2,\)"),
        (ca.Function("other", [x], [x]), r"must make one step of mpc.dt, .*inputs \(t, x, u, p\)"),
        (ca.Function("other", [t, single, u, p], [single]), "nx=2 as x0, nu=1"),
    ):
        with pytest.raises(co.DataError, match=match):
            co.closed_loop(mpc, plant, [2.0, 0.0], 2, p=[1.0])
    with pytest.raises(co.DataError, match="has no input p"):
        co.closed_loop(mpc, euler, [2.0, 0.0], 2, p=[1.0])
    with pytest.raises(co.DataError, match="pass p= to closed_loop"):
        co.closed_loop(mpc, step, [2.0, 0.0], 2)
    scalar = co.ControlledODE(lambda t, x, u, p: u - x, nx=1, nu=1)
    small = co.OptimalControlProblem(scalar, tf=1.0)
    small.minimize(lagrange=lambda t, x, u, p: x**2 + u**2)
    unclear = ca.Function("unclear", [t, single, u, p], [single + u])
    with pytest.raises(co.DataError, match="the sizes fit several orders: name the inputs"):
        co.closed_loop(co.MPC(small, intervals=4), unclear, [1.0], 2, p=[1.0])


def test_a_casadi_integrator_that_fails_ends_the_loop() -> None:
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)
    x, u, t = ca.MX.sym("x", 2), ca.MX.sym("u"), ca.MX.sym("t")
    dae = {"x": x, "u": u, "ode": ca.vertcat(x[1], 1e4 * x[0] ** 2 + u)}
    blown = ca.integrator("blown", "cvodes", dae, 0.0, mpc.dt, {"max_num_steps": 50, "show_eval_warnings": False})
    loop = co.closed_loop(mpc, blown, [2.0, 0.0], 5)
    assert loop.status == [co.Status.SOLVER_FAILURE] and loop.x.shape == (1, 1, 2)
    nan = ca.Function("nan", [x, u, t], [x / (t < 0.3)], ["x", "u", "t"], ["next"])
    loop = co.closed_loop(mpc, nan, [0.1, 0.0], 5)
    assert loop.status == [co.Status.NON_FINITE] and 1 < loop.x.shape[1] < 6 and np.isfinite(loop.x).all()


def test_without_model_error_the_loop_respects_hard_constraints() -> None:
    ocp = problem(path=True, x=([None, -0.8], None))
    mpc = co.MPC(ocp, intervals=15, integrator=co.RK4(steps_per_interval=4))
    loop = co.closed_loop(mpc, ocp.model, [2.0, 0.0], 40, p=[1.0])
    assert loop.x[0, :, 1].min() > -0.8 - 1e-5 and loop.x[0, :, 1].min() < -0.79
    assert (loop.x[0, :, 0] + loop.x[0, :, 1]).min() > -1.0 - 1e-5
    assert mpc.stats.counts == {"solve": 40}
    assert np.abs(loop.x[0, -1]).max() < 0.02


def test_disturbances_are_rejected_and_random_numbers_repeat() -> None:
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)

    def kick(t: float, x: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.array([0.0, 1.0]) if abs(t - 4.0) < 1e-9 else np.zeros(2)

    loop = co.closed_loop(mpc, ocp.model, [0.0, 0.0], 60, p=[1.0], disturbance=kick)
    assert np.abs(loop.x[0, :21]).max() < 1e-6 and loop.x[0, 21, 1] == pytest.approx(1.0, abs=1e-3)
    assert np.abs(loop.x[0, -1]).max() < 0.01
    runs = []
    for seed in (5, 5, 6):
        mpc.reset()
        noisy = co.closed_loop(mpc, ocp.model, [0.5, 0.0], 8, p=[1.0], noise=[0.01, 0.02], disturbance=0.01, seed=seed)
        assert np.abs(noisy.measured - noisy.x[0, :-1]).max() > 1e-3
        runs.append(noisy.x)
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3


def test_updates_and_an_observer_function() -> None:
    """The plant's gain doubles at t = 1; the controller is told, and gets the state from the speed by an observer."""
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)

    def gain(t: float, *_: Any) -> list[float]:
        return [2.0 if t >= 1.0 else 1.0]

    def observer(t: float, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        assert y.shape == (1,) and u.shape == (1,)
        seen.append(y[0])
        return np.array([0.5, y[0]])

    seen: list[float] = []
    loop = co.closed_loop(
        mpc, ocp.model, [0.5, 0.0], 10, p=gain, updates=gain, observer=observer,
        measurement=lambda t, x, u: x[1], noise=lambda t, y, rng: y + 1.0,
    )  # fmt: skip
    np.testing.assert_allclose(np.array(seen) - 1.0, loop.x[0, :-1, 1])
    assert loop.estimated.shape == (10, 2) and np.all(loop.estimated[:, 0] == 0.5)
    assert mpc.p[0] == 2.0 and loop.p[0] == 2.0


def test_a_state_outside_its_bounds_is_brought_back_with_softened_constraints() -> None:
    ocp = problem(x=([None, -0.5], [None, 0.5]))
    mpc = co.MPC(ocp, intervals=15)
    with pytest.warns(co.ControllerWarning, match=r"speed = 1.2 is above its upper bound 0.5"):
        loop = co.closed_loop(mpc, ocp.model, [0.0, 1.2], 30, p=[1.0])
    sources = mpc.stats.sources
    assert sources[0] == "relaxed" and sources[-1] == "solve" and set(sources) == {"relaxed", "solve"}
    assert "above its upper bound" in mpc.stats[0].message and mpc.stats[0].status is co.SolveStatus.SUCCESS
    assert np.all(loop.u[0, :3, 0] < -0.999)  # back as fast as possible
    inside = np.argmax(loop.x[0, :, 1] < 0.5 + 1e-6)
    assert 0 < inside < 8 and np.all(np.abs(loop.x[0, inside:, 1]) < 0.5 + 1e-5)
    assert np.abs(loop.x[0, -1]).max() < 0.05


def test_without_softening_an_infeasible_state_is_reported() -> None:
    mpc = co.MPC(problem(x=([None, -0.5], [None, 0.5])), intervals=15, soften=None)
    with pytest.warns(co.ControllerWarning, match="no plan"):
        u = mpc.step([0.0, 3.0])
    assert mpc.stats[-1].source == "held" and u.shape == (1,)
    assert "speed = 3 is above" in mpc.stats[-1].message and not mpc.stats[-1].success
    mpc.step([0.5, 0.0])
    assert mpc.stats[-1].source == "solve" and mpc.stats.n_failed == 1


def failing(monkeypatch: pytest.MonkeyPatch, which: set[int]) -> None:
    """Make the steps of the given numbers fail, by the time they are solved for."""
    original = Program.solve

    def solve(self: Program, nlp: Any, start: Any) -> Result:
        result = original(self, nlp, start)
        if round(float(nlp.q[0]) / 0.2) in which:
            return replace(result, status=co.SolveStatus.RESTORATION_FAILED, message="forced")
        return result

    monkeypatch.setattr(Program, "solve", solve)


def test_failed_solves_follow_the_last_plan_and_recover(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, {3, 4, 5})
    ocp = problem(u=(-2.0, 2.0))
    mpc = co.MPC(ocp, intervals=15)
    x = np.array([1.0, 0.0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(8):
            u = mpc.step(x)
            if k == 2:
                assert mpc.plan is not None
                planned = mpc.plan.u.copy()
            if k in (3, 4, 5):
                np.testing.assert_array_equal(u, planned[k - 2])
            x = rk4(x, u, 0.0, mpc.dt)
    assert mpc.stats.sources == ["solve"] * 3 + ["shifted"] * 3 + ["solve"] * 2
    assert mpc.stats[4].status is co.SolveStatus.RESTORATION_FAILED and "forced" in mpc.stats[4].message
    assert mpc.stats.counts == {"solve": 5, "shifted": 3} and mpc.stats.n_failed == 3
    assert len(caught) == 1 and "the last plan is followed" in str(caught[0].message)


def test_a_limit_reached_at_a_feasible_point_gives_a_suboptimal_plan() -> None:
    """Single shooting is feasible at every iterate; multiple shooting after one step is not."""
    exact = co.MPC(problem(), intervals=10)
    quick = co.MPC(problem(), intervals=10, method="single-shooting", options={"max_iter": 3})
    with pytest.warns(co.ControllerWarning, match="feasible point is used"):
        u = quick.step([1.0, 0.0])
    assert quick.stats[-1].source == "suboptimal" and quick.stats[-1].status is co.SolveStatus.MAX_ITERATIONS
    assert 0.0 < abs(u[0] - exact.step([1.0, 0.0])[0]) < 0.5
    rough = co.MPC(problem(), intervals=10, options={"max_iter": 1})
    with pytest.warns(co.ControllerWarning, match="held"):
        rough.step([1.0, 0.0])


def test_when_the_last_plan_has_run_out_the_control_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, set(range(1, 100)))
    mpc = co.MPC(problem(), intervals=15)
    with pytest.warns(co.ControllerWarning):
        controls = [mpc.step([1.0, 0.0])[0] for _ in range(18)]
    assert mpc.stats.sources == ["solve"] + ["shifted"] * 14 + ["held"] * 3
    assert len(set(controls[14:])) == 1


def test_a_model_that_fails_in_the_solver_does_not_end_the_loop() -> None:
    """The square root has no value left of -1: the solver fails there, the loop goes on with the control held."""
    model = co.ControlledODE(lambda t, x, u, p: u - (x + 1.0) ** 0.5, nx=1, nu=1)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: x**2 + u**2)
    ocp.bounds(u=(-1.0, 1.0))
    mpc = co.MPC(ocp, intervals=5)
    mpc.step([0.5])
    with pytest.warns(co.ControllerWarning):
        u = mpc.step([-2.0])
    assert np.isfinite(u).all() and not mpc.stats[-1].success
    mpc.step([0.4])
    assert mpc.stats[-1].success


def test_ctrl_c_keeps_what_was_done() -> None:
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)

    def interrupt(t: float, x: np.ndarray, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if t > 0.9:
            raise KeyboardInterrupt
        return np.zeros(2)

    loop = co.closed_loop(mpc, ocp.model, [1.0, 0.0], 50, p=[1.0], disturbance=interrupt)
    assert loop.status == [co.Status.INTERRUPTED] and loop.x.shape == (1, 6, 2) and len(loop.records) == 5
    assert loop.u.shape == (1, 6, 1) and loop.measured.shape == (5, 2)
    again = co.closed_loop(mpc, ocp.model, [1.0, 0.0], 50, p=[1.0], callback=lambda t, x, u: t > mpc.t - 0.05)
    assert again.x.shape[1] == 2 and again.status == [co.Status.INTERRUPTED]


def test_a_real_interrupt_signal_ends_the_loop() -> None:
    """It arrives in the solver, the simulator or between them; in all cases the rows that were done are returned."""
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)
    co.closed_loop(mpc, ocp.model, [1.0, 0.0], 2, p=[1.0])  # what is compiled once is not what is interrupted
    timer = threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    loop = co.closed_loop(mpc, ocp.model, [1.0, 0.0], 100_000, p=[1.0], noise=0.01)
    timer.join()
    n = loop.t.size
    assert loop.status == [co.Status.INTERRUPTED]
    assert loop.x.shape[1] == n and len(loop.records) == n - 1 and np.isfinite(loop.x).all()


def test_a_plant_that_fails_ends_the_loop_with_its_status() -> None:
    mpc = co.MPC(problem(), intervals=15)
    loop = co.closed_loop(mpc, lambda x, u, t, dt: x + (np.nan if t > 0.5 else 0.0), [0.1, 0.0], 10)
    assert loop.status == [co.Status.NON_FINITE] and loop.x.shape[1] == 4 and np.isfinite(loop.x).all()


def test_misuse_is_refused() -> None:
    ocp = problem()
    mpc = co.MPC(ocp, intervals=15)
    for match, arguments in {
        "mpc: expected an MPC": {"mpc": ocp},
        "plant: expected a ControlledODE": {"plant": 3},
        "steps: expected an integer": {"steps": 0},
        "x0: expected shape": {"x0": [1.0]},
        "p: the plant has np=1": {"p": None},
        "p: belongs to a plant that is a model": {"plant": rk4},
        "solver: belongs to": {"plant": rk4, "p": None, "solver": co.RK4()},
        "noise: expected non-negative": {"noise": -1.0},
        "noise: expected 2 standard deviations": {"noise": [1.0, 1.0, 1.0]},
        "measurement: expected a function": {"measurement": 3},
        "observer: expected a function or an estimator": {"observer": 3},
    }.items():
        chosen = {"mpc": mpc, "plant": ocp.model, "x0": [1.0, 0.0], "steps": 2, "p": [1.0]} | arguments
        with pytest.raises(co.DataError, match=match):
            co.closed_loop(chosen.pop("mpc"), chosen.pop("plant"), chosen.pop("x0"), chosen.pop("steps"), **chosen)
    with pytest.raises(co.DataError, match="must return 2 states"):
        co.closed_loop(mpc, lambda x, u, t, dt: [1.0], [1.0, 0.0], 2)


def test_records_beyond_the_history_only_count() -> None:
    mpc = co.MPC(problem(), intervals=5, history=3)
    for _ in range(5):
        mpc.step([0.1, 0.0])
    assert len(mpc.stats) == 3 and mpc.stats.n_steps == 5 and mpc.stats.seconds.shape == (3,)
    assert mpc.stats[0].t == pytest.approx(2 * mpc.dt) and len(mpc.stats.latest(2)) == 2
    summary = mpc.stats.summary()
    assert summary["steps"] == 5 and 0 < summary["seconds_median"] <= summary["seconds_max"]


@pytest.mark.slow
def test_a_thousand_steps_with_noise_and_model_error_and_flat_memory() -> None:
    """Set points change every 50 steps, the true gain is 5 % larger; the speed limit rides on its bound."""
    model = co.ControlledODE(
        lambda t, x, u, p: [x[1], p.gain * u[0] - 0.2 * x[1] ** 3],
        nx=2, nu=1, params=co.ParameterLayout(gain=1, target=1), state_names=("position", "speed"),
    )  # fmt: skip
    ocp = co.OptimalControlProblem(model, tf=3.0, p=[1.0, 0.0])
    ocp.minimize(lagrange=lambda t, x, u, p: 5 * (x[0] - p.target) ** 2 + x[1] ** 2 + 0.1 * u[0] ** 2)
    ocp.bounds(u=(-1.0, 1.0), x=([None, -0.6], [None, 0.6]))
    mpc = co.MPC(ocp, intervals=20)
    resource = pytest.importorskip("resource")
    used, resident = [], []

    def target(t: float, x: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
        if len(mpc.stats) in (200, 575, 950):
            gc.collect()  # what waits to be collected is no leak
            used.append(tracemalloc.get_traced_memory()[0])
            resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return {"target": 1.5 * (-1.0) ** int(t / 7.5)}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", co.ControllerWarning)
        tracemalloc.start()
        loop = co.closed_loop(mpc, model, [0.0, 0.0], 1000, p=[1.05, 0.0], noise=0.005, updates=target)
        tracemalloc.stop()
    assert loop.success.all() and loop.x.shape[1] == 1001
    assert np.abs(loop.x[0, :, 1]).max() < 0.6 + 0.03  # noise and model error of one sampling time
    assert np.abs(loop.u).max() <= 1.0
    assert mpc.stats.n_failed == mpc.stats.counts.get("relaxed", 0)
    # Bytes per step: the records of steps that the caller keeps. A table of the whole process, such as that of interned
    # strings, may once grow by megabytes on the way, in one of the two halves; a leak shows in both.
    assert np.diff(used).min() / 375 < 2000
    assert resident[-1] - resident[0] < 20_000  # kilobytes, native memory included
