"""Constraints that cannot be met are named: those of fixed states before the solve, the most violated after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ocp.problems import cart

Change = Callable[[co.OptimalControlProblem], Any]

METHODS = ("single-shooting", "multiple-shooting", "collocation")


def _some_free(o: co.OptimalControlProblem) -> None:
    o.initial([0.0, None])
    o.path(lambda t, x, u, p: [x[1] + u[0], x[0]], None, [9.0, -1.0], name="wall")


def _at_end(o: co.OptimalControlProblem) -> None:
    o.terminal([1.0, None])
    o.path(lambda t, x, u, p: x[0] + t, None, 1.5, name="wall")


def _log(o: co.OptimalControlProblem) -> None:
    o.path(lambda t, x, u, p: ca.log(x[0]), None, 1.0, name="height")


BEFORE: dict[str, tuple[Change, str]] = {
    "some entries free": (_some_free, r"the initial state violates wall: entry 1 is 0, allowed is \[-inf, -1\]"),
    "terminal": (_at_end, r"terminal: the terminal state violates wall: entry 0 is 2, allowed is \[-inf, 1.5\]"),
    "not finite": (_log, "violates height: entry 0 is -inf there; write the constraint so that it is finite"),
    "boundary in x0": (
        lambda o: o.boundary(lambda x0, xf, tf, p: [x0[1], xf[1] - x0[1]], [0.5, -9.0], [1.0, 9.0], name="push"),
        r"push: the fixed states of initial\(\) and terminal\(\) violate it: entry 0 is 0, allowed is \[0.5, 1\]",
    ),
    "boundary in both": (lambda o: o.periodic("s"), "periodicity of s: the fixed states .* entry 0 is 1"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_fixed_states_are_checked_before_the_solve(name: str) -> None:
    ocp = cart()
    change, message = BEFORE[name]
    change(ocp)
    with pytest.raises(co.DataError, match=message):
        ocp.solve(intervals=5, backend="casadi")


def test_what_may_still_be_chosen_is_not_checked() -> None:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1, params=2)
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.0, 0.5, 4.0), p=[0.0, 0.0])
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2 + ca.sumsqr(p))
    ocp.initial([0.0, None])
    ocp.terminal([1.0, None])
    ocp.free_parameters(-2.0, 2.0)
    ocp.path(lambda t, x, u, p: [x[0] - p[0], x[1] + 1e-9 * x[0]], [None, 0.1], [-0.5, None])
    ocp.path(lambda t, x, u, p: x[0] - 1.0, 0.5, None, soft=1.0)
    ocp.boundary(lambda x0, xf, tf, p: [x0[0] + tf, x0[0] + x0[1]], 0.2, 3.0)
    ocp.definition()
    ocp.initial([0.0, 0.0])
    with pytest.raises(co.DataError, match="path constraint 0: entry 1 is 0"):
        ocp.definition()


def test_round_off_in_a_fixed_state_is_no_violation() -> None:
    ocp = cart()
    ocp.initial([0.3, 0.0])
    ocp.bounds(x=([0.1 + 0.2, None], None))
    assert ocp.solve(intervals=5, backend="casadi").success
    ocp.initial([0.3 - 1e-9, 0.0])
    with pytest.raises(co.DataError, match=r"s = 0\.299999999 violates its lower bound 0\.3;"):
        ocp.solve(intervals=5)


@pytest.mark.parametrize("method", METHODS)
def test_a_violated_constraint_is_named_after_the_solve(method: str) -> None:
    ocp = cart()
    ocp.initial([0.0, None])
    ocp.bounds(x=([-5.0, -1.0], [5.0, 1.0]))
    ocp.path(lambda t, x, u, p: x[0] + 0.1 * x[1], 0.5, None, name="wall")
    sol = ocp.solve(method=method, intervals=10, backend="casadi")
    assert sol.status is co.SolveStatus.INFEASIBLE
    assert r"most violated (scaled): wall at t = 0 by 0.4," in sol.message  # 0.5 - 0.1 * 1, the best that v = 1 gives


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("single-shooting", "terminal state s"),
        ("multiple-shooting", "matching of s"),
        ("collocation", "differential equation of s"),
    ],
)
def test_a_weak_control_is_told_from_a_constraint(method: str, row: str) -> None:
    ocp = cart()
    ocp.bounds(u=(-1.0, 1.0))
    sol = ocp.solve(method=method, intervals=10, backend="casadi")
    assert sol.status is co.SolveStatus.INFEASIBLE
    assert f"most violated (scaled): {row}" in sol.message
    assert ("equations of the model" in sol.message) == (method != "single-shooting")
    if method == "single-shooting":  # with |u| <= 1 a cart gets 1/4 far in one second
        assert sol.message.endswith("terminal state s by 0.75)")


def test_a_solution_and_other_solvers() -> None:
    ocp = cart()
    assert "violated" not in ocp.solve(intervals=5, backend="casadi").message
    ocp.bounds(u=(-1.0, 1.0))
    sol = ocp.solve(intervals=3, backend="casadi", solver="scipy:SLSQP", options={"maxiter": 30})
    assert "most violated (scaled): matching of s" in sol.message


def test_bounds_of_variables_count() -> None:
    from ctrlode_casadi.ocp.infeasible import with_violations
    from ctrlode_casadi.ocp.solvers import Result

    sol = cart().solve(intervals=5, backend="casadi")
    w = sol.w.copy()
    w[sol.nlp.ubw > sol.nlp.lbw] += 100.0
    result = Result(w, 0.0, np.zeros(sol.nlp.n_g), np.zeros(sol.nlp.n_w), co.SolveStatus.STALLED, "stuck", {})
    w[np.argmax(sol.nlp.ubw == sol.nlp.lbw)] += 500.0
    told = with_violations(sol.nlp, sol.oracle, result, free_tf=True).message
    assert "bound of state s at t = 0 by " in told and "times are those of the guess of tf" in told
