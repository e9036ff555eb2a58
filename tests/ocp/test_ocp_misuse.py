"""Every misuse of an optimal control problem is refused with the argument, the rule and the usual fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ocp.problems import cart

Change = Callable[[co.OptimalControlProblem], Any]

MODEL = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1, state_names=("s", "v"), control_names=("force",))

CONSTRUCTION: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "model": (lambda: co.OptimalControlProblem("model"), co.ModelError, "model: expected a ControlledODE"),
    "tf before t0": (lambda: co.OptimalControlProblem(MODEL, t0=1.0, tf=1.0), co.DataError, "larger than t0"),
    "free tf lb": (lambda: co.OptimalControlProblem(MODEL, tf=co.Free(1.0, 0.0, 2.0)), co.DataError, "positive"),
    "free tf negative": (lambda: co.OptimalControlProblem(MODEL, tf=co.Free(1.0, -1.0, 2.0)), co.DataError, "got -1"),
    "free tf bounds": (lambda: co.OptimalControlProblem(MODEL, tf=co.Free(1.0)), co.DataError, "needs bounds"),
    "free tf order": (lambda: co.OptimalControlProblem(MODEL, tf=co.Free(3.0, 1.0, 2.0)), co.DataError, "lb <= guess"),
    "p length": (lambda: co.OptimalControlProblem(MODEL, p=[1.0]), co.DataError, "np=0"),
}

CHANGES: dict[str, tuple[Change, str]] = {
    "crossed bounds": (lambda o: o.bounds(u=(1.0, -1.0)), "crossed for force: lb=1 is larger than ub=-1"),
    "bounds shape": (lambda o: o.bounds(x=([0.0] * 3, 1.0)), r"x lb: expected a number or shape \(2,\), got \(3,\)"),
    "bounds pair": (lambda o: o.bounds(x=3.0), r"expected a pair \(lb, ub\)"),
    "bounds nan": (lambda o: o.bounds(u=(np.nan, 1.0)), "NaN is no bound"),
    "initial shape": (lambda o: o.initial([1.0]), r"x0: expected shape \(nx=2,\)"),
    "constant path": (lambda o: o.path(lambda t, x, u, p: ca.MX(1.0), 0.0, 2.0), "does not depend on any variable"),
    "path of time": (lambda o: o.path(lambda t, x, u, p: t - 2, None, 0.0), "does not depend on any variable"),
    "path without bounds": (lambda o: o.path(lambda t, x, u, p: x[0]), "give lb=, ub= or both"),
    "path signature": (lambda o: o.path(lambda t, x: x[0], 0.0), r"must take the 4 arguments \(t, x, u, p\)"),
    "path crossed": (lambda o: o.path(lambda t, x, u, p: x, [0.0, 2.0], 1.0), "crossed for entry 1"),
    "soft weight": (lambda o: o.path(lambda t, x, u, p: x, 0.0, soft=-1.0), "weight must be positive"),
    "soft norm": (lambda o: o.path(lambda t, x, u, p: x, 0.0, soft=co.Soft(1.0, "l3")), "did you mean 'l"),
    "inside": (lambda o: o.path(lambda t, x, u, p: x, 0.0, inside=-1), "inside: expected a number of points"),
    "boundary signature": (lambda o: o.boundary(lambda x0, xf: x0), r"4 arguments \(x0, xf, tf, p\)"),
    "path index": (
        lambda o: o.path(lambda t, x, u, p: x[5], 0.0, name="wall"),
        r"wall: Out of bounds error.*while calling wall\(t, x, u, p\) with .* x \(2, 1\)",
    ),
    "cost shapes": (
        lambda o: o.minimize(lagrange=lambda t, x, u, p: ca.vertcat(x, u) + x),
        "^lagrange: Dimension mismatch",
    ),
    "two costs": (lambda o: o.minimize(lagrange=lambda t, x, u, p: x), "must return 1 entry, it returned 2"),
    "no cost": (lambda o: o.minimize(), "give lagrange=, mayer=, or both"),
    "periodic name": (lambda o: o.periodic("w"), "names of states"),
    "no parameters": (lambda o: o.free_parameters(0.0, 1.0), "the model has no parameters"),
}

SOLVES: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "multiple-shoting"}, "did you mean 'multiple-shooting'"),
    "control": ({"control": "linaer"}, "did you mean 'linear'"),
    "control of shooting": ({"control": "collocation"}, "shooting has no such points"),
    "scheme": ({"method": "collocation", "scheme": "gauss"}, "scheme: unknown name 'gauss'"),
    "intervals": ({"intervals": 0}, "intervals: expected an integer of at least 1, got 0"),
    "degree": ({"method": "collocation", "degree": 0}, "degree: expected an integer of at least 1"),
    "degrees": ({"method": "collocation", "degree": [2, 3]}, "one for each of the 5 intervals"),
    "mesh": ({"mesh": [0.0, 0.5]}, "from 0.0 to 1.0"),
    "mesh order": ({"mesh": [0.0, 0.6, 0.5, 1.0]}, "strictly increasing"),
    "adaptive": ({"integrator": co.Tsit5()}, r"Tsit5\(steps_per_interval=2\)"),
    "integrator": ({"integrator": "rk4"}, "needs an explicit Runge-Kutta solver"),
    "solver": ({"solver": "ipot"}, "did you mean 'ipopt'"),
    "missing library": ({"solver": "worhp"}, "its library cannot be loaded here"),
    "backend": ({"backend": "gpu"}, "backend: unknown name"),
    "option": ({"options": {"no_such_option": 1}}, "no_such_option"),
    "refine shooting": ({"refine": 1e-3}, "needs method='collocation'"),
    "scaling key": ({"scaling": {"y": 1.0}}, "scaling: unknown name 'y'"),
    "scaling value": ({"scaling": {"x": [1.0, 0.0]}}, "must be positive"),
    "callback": ({"callback": 3}, "callback: expected a callable"),
    "guess type": ({"guess": 3}, "guess: expected a dict"),
    "guess key": ({"guess": {"y": 1.0}}, "guess: unknown name 'y'"),
    "guess x": ({"guess": {"x": np.zeros((5, 3))}}, r"guess\['x'\]: expected shape \(M, nx=2\)"),
    "guess u": ({"guess": {"u": np.zeros((5, 2))}}, r"guess\['u'\]: expected shape \(M, nu=1\)"),
    "guess nan": ({"guess": {"x": [np.nan, 0.0]}}, "finite"),
    "guess tf": ({"guess": {"tf": -1.0}}, "larger than t0"),
    "guess fixed tf": ({"guess": {"tf": 2.0}}, r"guess\['tf'\]: the final time is fixed, tf=1, got 2; .* tf=Free\(2,"),
    "guess t": ({"guess": {"t": [0.0, 1.0, 0.5], "x": np.zeros((3, 2))}}, "increasing times"),
    "guess t without length": ({"guess": {"t": [1.0, 1.0], "x": np.zeros((2, 2))}}, "last one larger than the first"),
}


@pytest.mark.parametrize("name", CONSTRUCTION)
def test_construction(name: str) -> None:
    build, error, message = CONSTRUCTION[name]
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("name", CHANGES)
def test_changes(name: str) -> None:
    change, message = CHANGES[name]
    with pytest.raises(co.DataError, match=message):
        change(cart())


@pytest.mark.parametrize("name", SOLVES)
def test_solve(name: str) -> None:
    settings, message = SOLVES[name]
    with pytest.raises(co.CtrlodeError, match=message):
        cart().solve(**({"intervals": 5, "backend": "casadi"} | settings))


def test_a_guess_may_repeat_the_fixed_final_time() -> None:
    assert cart().solve(intervals=5, backend="casadi", guess={"tf": 1.0}).success


def test_missing_cost_and_parameters() -> None:
    with pytest.raises(co.DataError, match="the problem has no cost"):
        co.OptimalControlProblem(MODEL).solve()
    model = co.ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    ocp = co.OptimalControlProblem(model)
    ocp.minimize(mayer=lambda x0, xf, tf, p: xf)
    with pytest.raises(co.DataError, match=r"np=1 parameters; pass p="):
        ocp.solve()


def test_infeasible_initial_state_names_the_bound() -> None:
    ocp = cart()
    ocp.bounds(x=([-1.0, 0.5], [2.0, 3.0]))
    with pytest.raises(co.DataError, match=r"initial state v = 0 violates its lower bound 0.5"):
        ocp.solve()
    ocp.bounds(x=([-1.0, -1.0], [0.5, 3.0]))
    with pytest.raises(co.DataError, match=r"terminal state s = 1 violates its upper bound 0.5"):
        ocp.solve()


def test_infeasible_initial_state_names_the_path_constraint() -> None:
    ocp = cart()
    ocp.path(lambda t, x, u, p: x[0] + x[1], 0.1, None, name="distance to the wall")
    with pytest.raises(co.DataError, match=r"violates distance to the wall: entry 0 is 0, allowed is \[0.1, inf\]"):
        ocp.solve()


def test_nan_at_the_guess_says_where() -> None:
    model = co.ControlledODE(lambda t, x, u, p: [ca.sqrt(x[0]) + u[0], x[0]], nx=2, nu=1, state_names=("h", "q"))
    ocp = co.OptimalControlProblem(model, tf=2.0)
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2)
    ocp.initial([1.0, 0.0])
    x = np.ones((11, 2))
    x[6:9, 0] = -1.0
    with pytest.raises(co.DataError, match=r"nan at the guess.*of h at t = 1\.4 \(interval 6\)"):
        ocp.solve(guess={"x": x}, intervals=10, backend="casadi")
    with pytest.raises(co.DataError, match=r"nan at the guess, in differential equation of h at t = 1\.2"):
        ocp.solve(guess={"x": x}, method="collocation", degree=1, intervals=10, backend="casadi")


def test_changing_a_problem_forgets_what_was_prepared() -> None:
    ocp = cart()
    first = ocp.solve(intervals=5, backend="casadi").objective
    ocp.bounds(u=(-5.0, 5.0))
    second = ocp.solve(intervals=5, backend="casadi").objective
    ocp.minimize(lagrange=lambda t, x, u, p: 2 * u[0] ** 2)
    assert first < second
    assert ocp.solve(intervals=5, backend="casadi").objective == pytest.approx(2 * second, rel=1e-6)


def test_errors_of_the_user_keep_their_type_and_name_the_function() -> None:
    with pytest.raises(IndexError) as info:
        cart().path(lambda t, x, u, p: x[[0, 1][2]], 0.0, name="wall")
    assert "while calling wall(t, x, u, p)" in info.value.__notes__[0]


def test_a_solve_that_becomes_nan_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], ca.log(x[0]) + u[0]], nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2)
    ocp.initial([0.1, 0.0])
    ocp.terminal([1.0, 0.0])
    sol = ocp.solve(method="single-shooting", intervals=10, guess={"x": [1.0, 0.0]}, backend="casadi")
    assert sol.status is co.SolveStatus.NON_FINITE
    assert capfd.readouterr() == ("", "")
