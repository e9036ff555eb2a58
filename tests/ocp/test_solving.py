"""Solvers, guesses, warm starts, interruption, threads, refinement, and what a solution offers."""

from __future__ import annotations

import os
import pickle
import pprint
import signal
import threading
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ocp.problems import Case, brachistochrone, cart, fastest_oscillator, goddard, van_der_pol

FAST = {"method": "multiple-shooting", "intervals": 10, "backend": "casadi"}


@pytest.mark.parametrize("solver", ["ipopt", "sqpmethod", "fatrop", "scipy:SLSQP", "scipy:trust-constr"])
@pytest.mark.parametrize("method", ["multiple-shooting", "collocation"])
def test_solvers_agree(solver: str, method: str) -> None:
    ocp = cart()
    ocp.bounds(u=(-5.0, 5.0))
    settings: dict[str, Any] = {"method": method, "intervals": 8, "control": "constant", "backend": "casadi"}
    reference = ocp.solve(**settings)
    sol = ocp.solve(solver=solver, **settings)
    assert sol.success, sol.message
    assert sol.objective == pytest.approx(reference.objective, rel=1e-5)
    assert sol.stats["solver"] == solver and sol.stats["iterations"] >= 1
    assert sol.verify().optimality < 1e-5
    np.testing.assert_allclose(sol.multipliers.costates, reference.multipliers.costates, rtol=1e-3, atol=1e-2)


def test_statistics_print_short_and_hold_the_history() -> None:
    """IPOPT's own table of iterations, behind one line when the statistics are printed."""
    sol = cart().solve(**(FAST | {"intervals": 60}))
    history = sol.stats["history"]
    assert isinstance(sol.stats, dict) and set(history) >= {"obj", "inf_pr", "inf_du", "mu"}
    assert len(history["obj"]) == sol.stats["iterations"] + 1
    assert history["obj"][-1] / sol.nlp.scale_f == pytest.approx(sol.objective, rel=1e-6)
    for text in (str(sol.stats), pprint.pformat(sol.stats)):
        assert f"'history': <{sol.stats['iterations'] + 1} rows of " in text and len(text) < 1000
    assert pickle.loads(pickle.dumps(history)) == dict(history)


def test_options_reach_the_solver_in_every_spelling() -> None:
    for options in ({"max_iter": 2}, {"ipopt.max_iter": 2}, {"ipopt": {"max_iter": 2}}):
        case = goddard()
        sol = case.ocp.solve(guess=case.guess, options=options, **FAST)
        assert sol.status is co.SolveStatus.MAX_ITERATIONS and not sol.success
        assert sol.stats["iterations"] == 2 and np.isfinite(sol.x).all()
        assert "Maximum_Iterations_Exceeded" in sol.message


def test_warm_start_needs_few_iterations() -> None:
    case = goddard()
    settings = {"method": "collocation", "intervals": 30, "backend": "casadi"}
    cold = case.ocp.solve(guess=case.guess, **settings)
    warm = case.ocp.solve(guess=cold, **settings)
    assert cold.stats["iterations"] > 12 and warm.stats["iterations"] <= 6
    assert warm.objective == pytest.approx(cold.objective, rel=1e-7)
    finer = case.ocp.solve(guess=cold, **(settings | {"intervals": 45}))  # another mesh: states and controls only
    assert finer.success


def test_a_guess_is_resampled() -> None:
    ocp = cart()
    t = np.linspace(0.0, 1.0, 7)
    x = np.stack([3 * t**2 - 2 * t**3, 6 * t - 6 * t**2], axis=1)
    guess = {"x": x, "u": 6 - 12 * t}
    for settings in (FAST, FAST | {"method": "collocation"}):
        sol = ocp.solve(guess=guess, options={"max_iter": 0}, **settings)
        np.testing.assert_allclose(sol.x[:, 0], np.interp(sol.t, t, x[:, 0]), atol=1e-12)
    held = ocp.solve(guess={"x": [0.0, 0.0], "u": np.arange(10.0)}, options={"max_iter": 0}, **FAST)
    np.testing.assert_array_equal(held.trajectory.values[:, 0], np.arange(10.0))  # one row per interval: as they are


def test_default_guess_and_single_shooting_from_states() -> None:
    assert van_der_pol().ocp.solve(**FAST).success
    case = brachistochrone()
    sol = case.ocp.solve(guess=case.guess, **(FAST | {"method": "single-shooting", "intervals": 20}))
    assert sol.objective == pytest.approx(case.held[20], rel=1e-6)


def test_callback_sees_every_iteration_and_stops() -> None:
    seen: list[Any] = []

    def stop_at_three(iteration: Any) -> bool:
        seen.append(iteration)
        return iteration.number == 3

    case = goddard()
    for solver in ("ipopt", "scipy:trust-constr"):
        seen.clear()
        sol = case.ocp.solve(guess=case.guess, solver=solver, callback=stop_at_three, **FAST)
        assert sol.status is co.SolveStatus.INTERRUPTED and not sol.success
        assert [it.number for it in seen] == [0, 1, 2, 3]
        np.testing.assert_allclose(sol.w, seen[-1].w, rtol=1e-12)


def test_an_exception_in_the_callback_is_raised() -> None:
    def broken(iteration: Any) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        cart().solve(callback=broken, **FAST)


def test_progress_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    cart().solve(progress=True, **FAST)
    assert "objective" in capsys.readouterr().out
    cart().solve(**FAST)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("solver", ["ipopt", "scipy:trust-constr"])
def test_control_c_keeps_the_last_iterate(solver: str) -> None:
    """The signal arrives while the solver runs; the solution so far comes back."""
    case = goddard()

    def interrupt(iteration: Any) -> None:
        if iteration.number == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    sol = case.ocp.solve(guess=case.guess, solver=solver, callback=interrupt, **FAST)
    assert sol.status is co.SolveStatus.INTERRUPTED
    assert sol.stats["iterations"] < 10 and np.isfinite(sol.x).all()
    assert signal.getsignal(signal.SIGINT) is before


def test_infeasible_problem_has_a_status_and_a_last_iterate() -> None:
    ocp = cart()
    ocp.bounds(u=(-1.0, 1.0))  # at least 4 is needed
    sol = ocp.solve(**FAST)
    assert sol.status in (co.SolveStatus.INFEASIBLE, co.SolveStatus.RESTORATION_FAILED)
    assert "constraints" in sol.message and np.isfinite(sol.x).all()
    assert sol.verify().max_defect > 1e-3 or sol.verify().max_violation > 1e-3


def test_two_threads() -> None:
    """Two problems at once, and one problem from two threads: the same answers as alone."""
    cases = [goddard(), fastest_oscillator()]
    alone = [c.ocp.solve(guess=c.guess, **FAST).objective for c in cases]
    found: list[tuple[int, float]] = []

    def work(i: int, case: Case) -> None:
        for _ in range(3):
            found.append((i, case.ocp.solve(guess=case.guess, **FAST).objective))

    threads = [threading.Thread(target=work, args=(i % 2, cases[i % 2])) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for i, objective in found:
        assert objective == alone[i]


def test_refinement_meets_its_tolerance() -> None:
    """From a coarse mesh to an error below the tolerance, with more intervals only where they are needed."""
    case = goddard()
    coarse = case.ocp.solve(method="collocation", intervals=8, guess=case.guess, backend="casadi")
    sol = case.ocp.solve(method="collocation", intervals=8, guess=case.guess, backend="casadi", refine=1e-5)
    assert sol.success and sol.stats["refinements"] >= 1
    assert coarse.mesh_errors().max() > 1e-5 >= sol.mesh_errors().max()
    assert sol.verify().max_defect < 1e-4
    assert abs(sol.objective - case.exact) < abs(coarse.objective - case.exact)
    lengths = sol.transcription.plan.mesh.lengths
    assert lengths.max() / lengths.min() > 3


def test_mesh_error_is_the_error() -> None:
    """The estimate against a tight simulation over each interval."""
    case = van_der_pol()
    sol = case.ocp.solve(method="collocation", intervals=6, degree=2, guess=case.guess, backend="casadi")
    ratio = sol.mesh_errors() / sol.verify().defect
    assert np.all((ratio > 0.3) & (ratio < 30.0))


def test_integrator_steps_are_chosen_and_can_be_given() -> None:
    case = van_der_pol()
    sol = case.ocp.solve(guess=case.guess, **(FAST | {"intervals": 2}))
    assert sol.transcription.plan.integrator.steps_per_interval > 1
    assert sol.integration_error() < 1e-8 and sol.verify().max_defect < 1e-7
    given = case.ocp.solve(guess=case.guess, integrator=co.RK4(steps_per_interval=2), **FAST)
    assert given.transcription.plan.integrator == co.RK4(steps_per_interval=2)
    by_length = case.ocp.solve(guess=case.guess, integrator=co.RK4(dt=0.05), **FAST)
    assert by_length.transcription.plan.integrator.steps_per_interval == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "collocation", "degree": 3},
        {"method": "collocation", "degree": 4, "scheme": "legendre"},
        {"method": "collocation", "control": "linear"},
        {"method": "multiple-shooting", "control": "constant"},
        {"method": "multiple-shooting", "control": "linear"},
        {"method": "single-shooting", "control": "linear"},
    ],
)
def test_the_control_object_reproduces_the_solution(settings: dict[str, Any]) -> None:
    """Simulated from the initial state with the solution's control, the trajectory is the solution's."""
    case = van_der_pol()
    sol = case.ocp.solve(guess=case.guess, intervals=15, backend="casadi", **settings)
    assert sol.controls(sol.t).shape == (1, sol.t.size, 1)
    inside = sol.t[:-1] + 0.37 * np.diff(sol.t)
    x, u = sol.resample(inside)
    np.testing.assert_allclose(sol.controls(inside)[0], u, rtol=1e-9, atol=1e-11)
    ts = np.unique(np.append(inside, sol.t[0]))
    simulated = co.Simulator(sol.model, co.DOP853(rtol=1e-11, atol=1e-12), backend="casadi")(
        sol.x[0], sol.controls, sol.p, ts
    )
    np.testing.assert_allclose(simulated.x[0, 1:], x, atol=2e-5)
    report = sol.verify()
    assert report.objective == pytest.approx(sol.objective, rel=1e-6)
    assert report.optimality < 1e-6 and report.max_defect < 1e-5 and report.success
    assert "defect" in str(report)


def test_polynomial_control_derivatives() -> None:
    """vjp is the transpose of jvp, the polynomials and the CasADi expression give the values."""
    case = van_der_pol()
    sol = case.ocp.solve(method="collocation", guess=case.guess, intervals=4, degree=3, backend="casadi")
    control, rng = sol.controls, np.random.default_rng(0)
    t = np.sort(rng.uniform(0.0, 2.0, 9))
    dv, bar = rng.normal(size=control.values.shape), rng.normal(size=(1, 9, 1))
    assert np.sum(control.jvp(t, dv) * bar) == pytest.approx(np.sum(dv * control.vjp(t, bar)), rel=1e-12)
    pieces = control.pieces(0.1, 1.9)
    time, U = ca.MX.sym("t"), ca.MX.sym("U", *control.values[0].T.shape)
    expression = ca.Function("u", [time, U], [control.expression(time, U)])
    for now in t[(t > 0.1) & (t < 1.9)]:
        np.testing.assert_allclose(pieces(now)[0], control(now)[0], rtol=1e-10, atol=1e-12)
        assert float(expression(now, control.values[0].T)) == pytest.approx(control(now)[0, 0], rel=1e-9)
    c_bar = rng.normal(size=pieces.coefficients.shape)
    left = np.sum(control.pieces_tangent(0.1, 1.9, dv) * c_bar)
    assert left == pytest.approx(np.sum(dv * control.pieces_adjoint(0.1, 1.9, c_bar)), rel=1e-12)
    doubled = control.with_values(2.0 * control.values)
    np.testing.assert_allclose(doubled(t), 2.0 * control(t), rtol=1e-12)
    step = 1e-6
    slope = (control(t + step) - control(t - step)) / (2 * step)
    np.testing.assert_allclose(control.derivative(t), slope, rtol=1e-5, atol=1e-6)


def test_plot() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = cart().solve(**FAST).plot()
    assert len(axes) == 2 and next(line.get_label() for line in axes[0].lines) == "s"
    pyplot.close("all")


def test_scaling_changes_nothing_but_the_path() -> None:
    """A badly scaled copy of a problem: the same optimum with and without scaling, or with sizes given."""
    model = co.ControlledODE(lambda t, x, u, p: [1e-4 * x[1], u[0] * 1e-2], nx=2, nu=1)
    costs = []
    for scaling in (True, False, {"x": [1.0, 1e4], "u": 1e6, "objective": 10.0}):
        ocp = co.OptimalControlProblem(model, tf=1.0)
        ocp.minimize(lagrange=lambda t, x, u, p: (1e-6 * u[0]) ** 2)
        ocp.initial([0.0, 0.0])
        ocp.terminal([1.0, 0.0])
        sol = ocp.solve(method="collocation", intervals=5, scaling=scaling, backend="casadi")
        costs.append(sol.objective)
    np.testing.assert_allclose(costs, 12.0, rtol=1e-6)
