"""A controller's steps against Riccati's gain, single optimal control problems, and what must hold at every step."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest
import scipy.linalg

import ctrlode_casadi as co
from ctrlode_casadi.ocp.drive import plan_of
from ctrlode_casadi.ocp.guess import make_guess
from ctrlode_casadi.ocp.mpc.shift import make_shift
from ctrlode_casadi.ocp.transcription import transcribe

A = np.array([[0.0, 1.0], [-0.5, 0.2]])
B = np.array([[0.0], [1.0]])
Q, R, P = np.diag([2.0, 0.5]), np.array([[0.3]]), np.diag([4.0, 1.0])


def linear_problem(tf: float = 2.0) -> co.OptimalControlProblem:
    model = co.ControlledODE(lambda t, x, u, p: ca.mtimes(A, x) + ca.mtimes(B, u), nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, tf=tf)
    ocp.minimize(
        lagrange=lambda t, x, u, p: ca.bilin(Q, x) + ca.bilin(R, u), mayer=lambda x0, xf, tf, p: ca.bilin(P, xf)
    )
    return ocp


def double_integrator(**bounds: Any) -> co.OptimalControlProblem:
    model = co.ControlledODE(
        lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1, state_names=("position", "speed"), control_names=("force",)
    )
    ocp = co.OptimalControlProblem(model, tf=4.0)
    ocp.minimize(lagrange=lambda t, x, u, p: x[0] ** 2 + x[1] ** 2 + u[0] ** 2)
    if bounds:
        ocp.bounds(**bounds)
    return ocp


def riccati_gain(dt: float, n: int) -> np.ndarray:
    """First gain of the finite-horizon problem with zero-order hold, its cost discretised exactly (Van Loan 1978)."""
    nx, nu = B.shape
    f = np.block([[A, B], [np.zeros((nu, nx + nu))]])
    weight = scipy.linalg.block_diag(Q, R)
    big = scipy.linalg.expm(np.block([[-f.T, weight], [np.zeros_like(f), f]]) * dt)
    phi = big[nx + nu :, nx + nu :]
    cost = phi.T @ big[: nx + nu, nx + nu :]
    ad, bd = phi[:nx, :nx], phi[:nx, nx:]
    q, s, r = cost[:nx, :nx], cost[:nx, nx:], cost[nx:, nx:]
    value, gain = P, np.zeros((nu, nx))
    for _ in range(n):
        gain = np.linalg.solve(r + bd.T @ value @ bd, s.T + bd.T @ value @ ad)
        value = q + ad.T @ value @ ad - (s + ad.T @ value @ bd) @ gain
    return gain


@pytest.mark.parametrize(
    "settings",
    [
        {"integrator": co.DOP853(steps_per_interval=2)},
        {"integrator": co.DOP853(steps_per_interval=2), "backend": "casadi"},
        {"method": "collocation", "degree": 5, "scheme": "legendre"},
        {"method": "single-shooting", "integrator": co.DOP853(steps_per_interval=2)},
    ],
)
def test_unconstrained_linear_mpc_is_the_finite_horizon_regulator(settings: dict[str, Any]) -> None:
    mpc = co.MPC(linear_problem(), intervals=10, options={"tol": 1e-11}, **settings)
    gain = np.column_stack([-mpc.step(x) for x in np.eye(2)])
    np.testing.assert_allclose(gain, riccati_gain(0.2, 10), rtol=1e-6)
    x = np.array([3.0, -2.0])
    np.testing.assert_allclose(mpc.step(x), -riccati_gain(0.2, 10) @ x, rtol=1e-6)
    assert mpc.stats.counts == {"solve": 3}


def moved(text: str, dt: float) -> str:
    """A description with its time one interval later, and its interval's number too."""
    later = re.sub(r"t = ([\d.e+-]+)", lambda m: f"t = {float(m[1]) + dt:.6g}", text)
    return re.sub(r"interval (\d+)", lambda m: f"interval {int(m[1]) + 1}", later)


@pytest.mark.parametrize("method", ["multiple-shooting", "collocation"])
@pytest.mark.parametrize("control", ["constant", "linear"])
def test_the_shift_moves_every_variable_and_row_by_one_interval(method: str, control: str) -> None:
    ocp = double_integrator(x=(None, [2.0, 1.0]), u=(-1, 1))
    ocp.path(lambda t, x, u, p: x[0] + u[0], ub=3.0, soft=10.0, name="sum")
    ocp.initial([0.0, 0.0])
    d = ocp.definition()
    program = transcribe(d, plan_of(d, method, 8, control, 3, "radau", co.RK4(), None, True), make_guess(d, None))
    shift, nlp, dt = make_shift(program), program.nlp, 0.5
    for places, describe in ((shift.w, nlp.describe_variable), (shift.g, nlp.describe_row)):
        names = {describe(i): i for i in range(places.size)}
        for i, source in enumerate(places):
            expected = names.get(moved(describe(i), dt), i)
            assert int(source) == expected, f"{describe(i)} comes from {describe(int(source))}"


@pytest.mark.parametrize("later", [1, 3])
def test_a_step_starts_from_the_plan_before_moved_in_time(later: int) -> None:
    mpc = co.MPC(double_integrator(u=(-1, 1)), intervals=10)
    mpc.step([1.0, 0.5])
    search, plan = mpc._search, mpc.plan
    start = search._shifted(search.program, later * mpc.dt)
    assert start is not None and start.warm and plan is not None
    begin = search.program.transcription.trajectory(start.w)
    np.testing.assert_array_equal(begin.x[:-later], plan.x[later:])
    np.testing.assert_array_equal(begin.u[: -later - 1], plan.u[later:-1])
    np.testing.assert_array_equal(begin.x[-later:], np.repeat(plan.x[-1:], later, axis=0))


def test_single_shooting_shifts_its_controls() -> None:
    mpc = co.MPC(linear_problem(), intervals=5, method="single-shooting")
    program = mpc._search.program
    u = program.transcription.u[:, 0]
    np.testing.assert_array_equal(program.shift.w[u], [*u[1:], u[-1]])


def test_a_time_varying_cost_sees_the_true_time() -> None:
    def problem(t0: float) -> co.OptimalControlProblem:
        model = co.ControlledODE(lambda t, x, u, p: u - x + 0.3 * ca.cos(2 * t), nx=1, nu=1)
        ocp = co.OptimalControlProblem(model, t0=t0, tf=t0 + 2.0)
        ocp.minimize(lagrange=lambda t, x, u, p: (x - ca.sin(t)) ** 2 + 0.01 * u**2)
        ocp.bounds(u=(-1.5, 1.5))
        return ocp

    mpc = co.MPC(problem(0.0), intervals=10)
    for t, x in ((0.0, 0.5), (0.2, 0.6), (3.4, -1.0)):
        ocp = problem(t)
        ocp.initial([x])
        sol = ocp.solve(intervals=10, integrator=co.RK4(steps_per_interval=2))
        np.testing.assert_allclose(mpc.step([x], t=t), sol.u[0], atol=1e-6)
        assert mpc.plan is not None
        np.testing.assert_allclose(mpc.plan.t, sol.t)
        np.testing.assert_allclose(mpc.plan.x, sol.x, atol=1e-5)
    assert mpc.t == pytest.approx(3.6)


def tracking(reference: Callable[[Any], Any] | None) -> co.OptimalControlProblem:
    """A first-order lag whose state follows p.r, or a function of time; p.gain is an ordinary parameter."""
    layout = co.ParameterLayout(gain=1, r=1)
    model = co.ControlledODE(lambda t, x, u, p: p.gain * (u - x), nx=1, nu=1, params=layout)
    ocp = co.OptimalControlProblem(model, tf=2.0, p={"gain": 1.0, "r": 0.2})
    ocp.minimize(
        lagrange=lambda t, x, u, p: (x - (p.r if reference is None else reference(t))) ** 2 + 0.1 * u**2,
        mayer=lambda x0, xf, tf, p: 2 * (xf - (p.r if reference is None else reference(tf))) ** 2,
    )
    return ocp


def test_a_preview_equals_the_same_reference_written_as_a_function_of_time() -> None:
    def line(t: Any) -> Any:
        return 0.3 + 0.25 * t

    expected = co.MPC(tracking(line), intervals=8)
    ahead = co.MPC(tracking(None), intervals=8, preview=["r"])
    control = co.PiecewiseLinear([0.0, 10.0], [line(0.0), line(10.0)])
    for k, x in enumerate((0.1, 0.3, 0.2, -0.4)):
        t = expected.t
        rows = line(t + 0.25 * np.arange(9))
        value = (rows, rows[:, None], control, line)[k]
        np.testing.assert_allclose(ahead.step([x], {"r": value}), expected.step([x]), atol=1e-7)
    given = co.MPC(tracking(None), intervals=8, preview={"r": line})
    np.testing.assert_allclose(given.step([0.7], t=1.5), expected.step([0.7], t=1.5), atol=1e-7)
    assert given.p[1] == pytest.approx(line(1.5))


def test_parameters_are_updated_by_block_kept_and_reset() -> None:
    mpc, fresh = co.MPC(tracking(None), intervals=8), co.MPC(tracking(None), intervals=8)
    first = mpc.step([0.5])
    changed = mpc.step([0.5], {"r": 0.9})
    np.testing.assert_allclose(changed, fresh.step([0.5], [1.0, 0.9]), atol=1e-7)
    np.testing.assert_allclose(mpc.step([0.5]), changed, atol=1e-7)  # kept
    np.testing.assert_allclose(mpc.step([0.5], {"gain": 2.0}), fresh.step([0.5], [2.0, 0.9]), atol=1e-7)
    assert abs(changed[0] - first[0]) > 0.1
    mpc.reset()
    assert mpc.t == 0.0 and len(mpc.stats) == 0 and mpc.plan is None
    np.testing.assert_allclose(mpc.step([0.5]), first, atol=1e-7)


def test_the_program_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = ca.nlpsol
    monkeypatch.setattr(ca, "nlpsol", lambda *a: built.append(1) or original(*a))
    mpc = co.MPC(tracking(None), intervals=8, preview=["r"])
    made = len(built)
    for k in range(5):
        mpc.step([0.1 * k], {"r": 0.1 * k, "gain": 1.0 + 0.1 * k}, t=0.3 * k)
    assert made == len(built) == 2  # cold and warm


def test_warm_starts_save_iterations() -> None:
    def iterations(warm_start: bool) -> float:
        mpc = co.MPC(double_integrator(x=(None, [None, 0.5]), u=(-1, 1)), warm_start=warm_start)
        loop = co.closed_loop(mpc, mpc.model, [-2.0, 0.0], 30, noise=1e-3)
        assert loop.success.all()
        return float(np.mean(mpc.stats.iterations[1:]))

    assert iterations(True) < 0.5 * iterations(False)


def test_a_cost_written_as_a_state_changes_nothing() -> None:
    """The cost state leaves the program, but has its values in the plan, from its measured value on."""
    plain = co.MPC(double_integrator(u=(-1, 1)), intervals=10)
    model = co.ControlledODE(lambda t, x, u, p: [x[1], u[0], x[0] ** 2 + x[1] ** 2 + u[0] ** 2], nx=3, nu=1)
    ocp = co.OptimalControlProblem(model, tf=4.0)
    ocp.minimize(mayer=lambda x0, xf, tf, p: xf[2])
    ocp.bounds(u=(-1, 1))
    mpc = co.MPC(ocp, intervals=10)
    np.testing.assert_allclose(mpc.step([1.0, 0.2, 7.0]), plain.step([1.0, 0.2]), atol=1e-9)
    assert mpc.plan is not None and plain.plan is not None
    np.testing.assert_allclose(mpc.plan.x[:, :2], plain.plan.x, atol=1e-9)
    np.testing.assert_allclose(mpc.plan.x[[0, -1], 2], [7.0, 7.0 + plain.plan.objective], rtol=1e-9)


def test_every_kind_of_control_is_applied_within_its_bounds() -> None:
    results = {}
    for control in ("constant", "linear", "collocation"):
        mpc = co.MPC(double_integrator(u=(-0.4, 0.4)), intervals=40, method="collocation", degree=3, control=control)
        results[control] = mpc.step([0.3, 0.1])
        assert np.all(np.abs(results[control]) <= 0.4)
    np.testing.assert_allclose(results["linear"], results["constant"], atol=1e-2)
    np.testing.assert_allclose(results["collocation"], results["constant"], atol=1e-2)


def test_two_controllers_in_two_threads() -> None:
    def run(speed: float, into: dict[float, np.ndarray]) -> None:
        mpc = co.MPC(double_integrator(u=(-speed, speed)))
        into[speed] = co.closed_loop(mpc, mpc.model, [2.0, 0.0], 15, noise=1e-3).x

    alone: dict[float, np.ndarray] = {}
    together: dict[float, np.ndarray] = {}
    for speed in (0.5, 1.0):
        run(speed, alone)
    threads = [threading.Thread(target=run, args=(speed, together)) for speed in (0.5, 1.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for speed, x in alone.items():
        np.testing.assert_array_equal(together[speed], x)


def test_short_integrator_steps_are_asked_for_once() -> None:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -400.0 * x[0] + u[0]], nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, tf=2.0)
    ocp.minimize(lagrange=lambda t, x, u, p: x[0] ** 2 + u[0] ** 2)
    mpc = co.MPC(ocp, intervals=10)
    with pytest.warns(co.ControllerWarning, match="integration error"):
        mpc.step([1.0, 0.0])
    mpc.step([1.0, 0.0])


def test_a_column_of_states_is_a_state() -> None:
    mpc = co.MPC(double_integrator(), intervals=5)
    u = mpc.step([0.1, 0.2])
    for x in ([[0.1], [0.2]], [[0.1, 0.2]], ca.DM([0.1, 0.2])):
        mpc.reset()
        assert np.allclose(mpc.step(x), u, rtol=1e-12, atol=0.0)


def test_misuse_is_refused() -> None:
    ocp = double_integrator()
    mpc = co.MPC(ocp)
    with pytest.raises(co.DataError, match="not finite: speed = nan"):
        mpc.step([0.0, np.nan])
    with pytest.raises(co.DataError, match="position = inf"):
        mpc.step([np.inf, 0.0])
    with pytest.raises(co.DataError, match=r"x_measured: expected shape \(nx=2,\)"):
        mpc.step([0.0, 1.0, 2.0])
    with pytest.raises(co.DataError, match="ocp: expected an OptimalControlProblem"):
        co.MPC(ocp.model)
    with pytest.raises(co.DataError, match="soften"):
        co.MPC(ocp, soften=-1.0)
    with pytest.raises(co.DataError, match="history"):
        co.MPC(ocp, history=0)
    with pytest.raises(co.SolverError, match="did you mean 'ipopt'"):
        co.MPC(ocp, solver="ipop")
    with pytest.raises(co.SolverError, match="backend"):
        co.MPC(ocp, backend="fast")
    with pytest.raises(co.ModelError, match="parameter block"):
        co.MPC(tracking(None), preview=["q"])
    free = co.OptimalControlProblem(ocp.model, tf=co.Free(1.0, 0.5, 2.0))
    free.minimize(mayer=lambda x0, xf, tf, p: tf)
    with pytest.raises(co.UnsupportedOperation, match="fixed length"):
        co.MPC(free)
    ahead = co.MPC(tracking(None), intervals=4, preview=["r"])
    with pytest.raises(co.DataError, match="one row per break"):
        ahead.step([0.0], {"r": np.zeros(4)})
    with pytest.raises(co.DataError, match="not finite at t = 1"):
        ahead.step([0.0], {"r": lambda t: 1.0 / (t - 1.0) if t != 1.0 else np.nan})
    with pytest.raises(co.DataError, match="preview"):
        ahead.step([0.0], {"gain": np.sin})
    assert len(ahead.stats) == 0
