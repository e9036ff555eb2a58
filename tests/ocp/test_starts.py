"""Automatic scales, costs that are small, and what is tried after a solve that did not end well."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.ocp import restarts
from ctrlode_casadi.ocp.solvers import Result
from ctrlode_casadi.ocp.status import SolveStatus
from ctrlode_casadi.ocp.time_limit import TimeLimit
from ocp.problems import cart, catalyst, goddard

#: Half of the time with a control inside its bounds, for least effort over one length in one second with |u| <= 5.
INSIDE = np.sqrt(0.15)
#: The least effort: bang, a line, bang.
EFFORT = 25.0 - 100.0 * INSIDE / 3.0
#: A mesh with breaks where the control reaches its bounds; the optimum lies in the discrete space.
MESH = [0.0, 0.05, 0.5 - INSIDE, 0.3, 0.5, 0.7, 0.5 + INSIDE, 0.95, 1.0]


def effort(weight: float) -> co.OptimalControlProblem:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: weight * u[0] ** 2)
    ocp.bounds(u=(-5.0, 5.0))
    ocp.initial([0.0, 0.0])
    ocp.terminal([1.0, 0.0])
    return ocp


@pytest.mark.parametrize("weight", [1e4, 1.0, 1e-3, 1e-5, 1e-8, 1e-11])
@pytest.mark.parametrize("settings", [{"method": "collocation"}, {"method": "multiple-shooting", "control": "linear"}])
def test_costs_of_every_size_are_right(weight: float, settings: dict[str, Any]) -> None:
    """The tolerances of the solver are absolute; without a second solve the cost is wrong by 1e-3 and more."""
    sol = effort(weight).solve(mesh=MESH, backend="casadi", **settings)
    assert sol.success
    assert sol.objective == pytest.approx(weight * EFFORT, rel=1e-6)
    np.testing.assert_allclose(
        sol.resample(np.linspace(0.15, 0.85, 8))[1][:, 0], np.linspace(0.35, -0.35, 8) * 5.0 / INSIDE, rtol=1e-3
    )


def test_the_scale_of_a_small_cost_is_kept() -> None:
    """The second solve is needed once; sizes that the user gives, or none, are left alone."""
    ocp = effort(1e-6)
    first = ocp.solve(mesh=MESH, method="collocation", backend="casadi")
    assert first.stats["attempts"] == 2 and first.nlp.scale_f == 2.0**16
    assert ocp.solve(mesh=MESH, method="collocation", backend="casadi").stats["attempts"] == 1
    refined = effort(1e-6).solve(intervals=5, method="collocation", backend="casadi", refine=1e-4)
    assert refined.stats["refinements"] >= 1 and refined.stats["attempts"] == 1 and refined.nlp.scale_f == 2.0**16
    for scaling in (False, {"objective": 0.5}):
        sol = effort(1e-6).solve(mesh=MESH, method="collocation", backend="casadi", scaling=scaling)
        assert sol.stats["attempts"] == 1 and sol.nlp.scale_f == (1.0 if scaling is False else 2.0)


def test_a_cost_that_is_zero_at_the_optimum_is_no_small_cost() -> None:
    """A tracking cost that can be met exactly."""
    ocp = co.OptimalControlProblem(co.ControlledODE(lambda t, x, u, p: [u[0] - x[0]], nx=1, nu=1), tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: (x[0] - 1.0 - t) ** 2)
    ocp.bounds(u=(-10.0, 10.0))
    ocp.initial([1.0])
    sol = ocp.solve(method="collocation", intervals=10, backend="casadi")
    assert sol.success and abs(sol.objective) < 1e-12 and sol.stats["attempts"] == 1
    assert sol.mesh_errors().max() < 1e-2  # not relative to rounding errors of the cost
    np.testing.assert_allclose(sol.x[:, 0], 1.0 + sol.t, atol=1e-3)


def test_sizes_near_one_are_left_alone() -> None:
    """Powers of two from guess and bounds, for collocation a factor of 16 closer to one."""
    model = co.ControlledODE(lambda t, x, u, p: [u[0] - x[0], x[1], u[1], x[2]], nx=4, nu=2)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2 + u[1] ** 2 + x[3] ** 2)
    ocp.bounds(x=([-10.0, -1e6, -np.inf, -np.inf], [10.0, 1e6, np.inf, np.inf]), u=([-2.0, -1e-5], [2.0, 1e-5]))
    ocp.initial([0.0, 0.0, 3000.0, 0.0])
    for method, x, u in (
        ("collocation", [1.0, 2.0**17, 2.0**8, 1.0], [1.0, 2.0**-12]),
        ("multiple-shooting", [2.0**4, 2.0**21, 2.0**12, 1.0], [4.0, 2.0**-16]),
    ):
        sol = ocp.solve(method=method, intervals=3, options={"max_iter": 0}, backend="casadi")
        place = sol.transcription
        np.testing.assert_array_equal(sol.nlp.scale_w[place.states.places[0]], x)
        np.testing.assert_array_equal(sol.nlp.scale_w[place.u[0]], u)
    sol = ocp.solve(method=method, intervals=3, options={"max_iter": 0}, backend="casadi", scaling={"x": 7.0})
    np.testing.assert_array_equal(sol.nlp.scale_w[place.states.places[0]], 7.0)


def two_link_arm() -> co.OptimalControlProblem:
    """Time-optimal motion of an arm with two links (Luus 2000, sec. 12.4.2); PROPT's manual gives 2.98336."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        s, c = ca.sin(x[2]), ca.cos(x[2])
        mass = 31.0 / 36.0 + 9.0 / 4.0 * s**2
        first = s * (9.0 / 4.0 * c * x[0] ** 2 + 2.0 * x[1] ** 2) + 4.0 / 3.0 * (u[0] - u[1]) - 1.5 * c * u[1]
        second = s * (3.5 * x[0] ** 2 + 9.0 / 4.0 * c * x[1] ** 2) - 7.0 / 3.0 * u[1] + 1.5 * c * (u[0] - u[1])
        return [first / mass, -second / mass, x[1] - x[0], x[0]]

    ocp = co.OptimalControlProblem(co.ControlledODE(rhs, nx=4, nu=2), tf=co.Free(3.0, 1.0, 10.0))
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf)
    ocp.bounds(x=(-2.0, 2.0), u=(-1.0, 1.0))
    ocp.initial([0.0, 0.0, 0.5, 0.0])
    ocp.terminal([0.0, 0.0, 0.5, 0.522])
    return ocp


@pytest.mark.parametrize(("intervals", "degree"), [(40, 3), (60, 4), (100, 3)])
def test_two_link_arm_has_one_optimum_on_every_mesh(intervals: int, degree: int) -> None:
    sol = two_link_arm().solve(method="collocation", intervals=intervals, degree=degree, backend="casadi")
    assert sol.success and sol.stats["attempts"] == 1
    assert sol.tf == pytest.approx(2.9823, rel=1e-4)


def isoperimetric() -> co.OptimalControlProblem:
    """Least area under a curve whose control has a given square; at u = 0 no constraint depends on u."""
    model = co.ControlledODE(lambda t, x, u, p: [-ca.sin(x[0]) + u[0], u[0] ** 2], nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: x[0])
    ocp.bounds(x=([-10.0, -np.inf], [10.0, np.inf]), u=(-4.0, 4.0))
    ocp.initial([1.0, 0.0])
    ocp.terminal([0.0, 10.0])
    return ocp


def test_a_failed_solve_is_repeated_from_moved_controls() -> None:
    guess = {"x": [[1.0, 0.0], [0.0, 10.0]], "u": [0.0]}
    sol = isoperimetric().solve(method="collocation", intervals=20, guess=guess, backend="casadi")
    assert sol.success, sol.message
    assert sol.objective == pytest.approx(-0.3755058, rel=1e-4)  # PSOPT's manual
    assert sol.stats["restarted"] == "second start" and sol.stats["attempts"] == 2


def test_no_start_has_more_equations_than_variables(capfd: pytest.CaptureFixture[str]) -> None:
    """With an equation at every collocation point a linear control has too few values; that start is left out."""
    model = co.ControlledODE(lambda t, x, u, p: [u[0]], nx=1, nu=2)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: u[1] ** 2)
    ocp.path(lambda t, x, u, p: u[0], 1.0, 1.0)
    ocp.initial([0.0])
    ocp.terminal([2.0])  # the speed is one
    sol = ocp.solve(method="collocation", intervals=5, backend="casadi")
    assert not sol.success and sol.stats["attempts"] == 2 and "restarted" not in sol.stats
    seen = capfd.readouterr()
    assert "overconstrained" not in seen.out + seen.err


def test_a_long_collocation_goes_on_from_a_linear_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some iterations another start is tried; where there is none, the first one is taken up again."""
    settings: dict[str, Any] = {"method": "collocation", "backend": "casadi"}
    monkeypatch.setattr(restarts, "_PATIENCE", 20)
    case = catalyst()
    sol = case.ocp.solve(guess=case.guess, intervals=40, degree=4, scheme="legendre", **settings)
    assert sol.success and sol.objective == pytest.approx(case.exact, rel=case.rtol)
    assert sol.stats["restarted"] == "linear control" and sol.stats["attempts"] == 3
    monkeypatch.setattr(restarts, "_PATIENCE", 3)
    case = goddard()
    sol = case.ocp.solve(guess=case.guess, intervals=30, **settings)
    assert sol.success and sol.stats["attempts"] == 3 and "restarted" not in sol.stats
    assert len(sol.stats["history"]["obj"]) == sol.stats["iterations"] + 1
    for limit in ({"max_iter": 500}, {"ipopt": {"max_cpu_time": 60.0}}):
        again = case.ocp.solve(guess=case.guess, intervals=30, options=limit, **settings)
        assert again.stats["attempts"] == 1 and again.objective == sol.objective
    ocp = co.OptimalControlProblem(co.ControlledODE(lambda t, x, u, p: [u[0]], nx=1, nu=2), tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: ca.exp(u[1] ** 2) + x[0] ** 4)
    ocp.initial([2.0])
    ocp.path(lambda t, x, u, p: u[0] - u[1], 0.0, 0.0)  # equations along the way: it is not cut short
    sol = ocp.solve(intervals=10, **settings)
    assert sol.success and sol.stats["attempts"] == 1 and sol.stats["iterations"] > 3


def test_settings_that_the_user_made_hold_in_the_second_start() -> None:
    """The user's sizes stay; a limit that the user set and that was met is the end."""
    ocp = cart()
    ocp.bounds(u=(-1.0, 1.0))  # at least 4 is needed
    sol = ocp.solve(method="multiple-shooting", intervals=10, backend="casadi", scaling=False)
    assert not sol.success and sol.stats["attempts"] == 2 and np.all(sol.nlp.scale_w == 1.0)
    sol = ocp.solve(method="multiple-shooting", intervals=10, backend="casadi", options={"max_iter": 2})
    assert sol.status is co.SolveStatus.MAX_ITERATIONS and sol.stats["attempts"] == 1


@pytest.mark.parametrize(
    "options", [{"max_wall_time": 5.0}, {"ipopt.max_cpu_time": 5.0}, {"ipopt": {"max_wall_time": 5}}]
)
def test_the_time_limit_holds_for_all_solves_together(options: dict[str, Any]) -> None:
    limit = TimeLimit("ipopt", options)
    starts: list[bool] = []

    def solve(seconds: float, stopped: bool = False) -> Any:
        def run(watch: Any) -> Result:
            starts.append(watch is not None)
            status = SolveStatus.INTERRUPTED if watch is not None and watch(None) else SolveStatus.INFEASIBLE
            return Result(np.zeros(1), 0.0, np.zeros(0), np.zeros(1), status, "", {"seconds": seconds})

        return limit.run(run, (lambda iteration: True) if stopped else None)

    assert solve(4.0).status is SolveStatus.INFEASIBLE and not limit.over  # the solver's own limit
    assert solve(2.0).status is SolveStatus.INFEASIBLE and limit.over
    assert solve(0.0, stopped=True).status is SolveStatus.INTERRUPTED  # by the user
    late = solve(0.0)
    assert late.status is SolveStatus.TIME_LIMIT and "all solves" in late.message
    assert starts == [False, True, True, True]
    assert not TimeLimit("fatrop", options).over


def test_a_limit_in_seconds_ends_restarts() -> None:
    ocp = cart()
    ocp.bounds(u=(-1.0, 1.0))
    sol = ocp.solve(method="collocation", intervals=10, backend="casadi", options={"max_wall_time": 1e-6})
    assert sol.status is co.SolveStatus.TIME_LIMIT and sol.stats["attempts"] == 1
