"""`co.check_gradient`: every reason that it gives is provoked by a case that has it."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from fitting.reference import Experiment, P


def function(*expressions: Any) -> ca.Function:
    x = ca.MX.sym("x", 2)
    return ca.Function("f", [x], [e(x) for e in expressions], ["x"], [f"y{i}" for i in range(len(expressions))])


def test_a_smooth_function_agrees() -> None:
    scalar = co.check_gradient(function(lambda x: ca.sin(x[0]) * x[1] ** 2), [0.3, 1.7])
    assert scalar.agrees and scalar.value == pytest.approx(np.sin(0.3) * 1.7**2) and "value" in str(scalar)
    several = co.check_gradient(function(lambda x: ca.exp(x), lambda x: x[0] * x), [0.3, 1.7])
    assert several.agrees and several.exact_error < 1e-14 and "random combination of the outputs" in str(several)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (lambda x: ca.fabs(x[0]) + x[1], r"fabs(x[0]) changes its branch"),
        (lambda x: ca.fmax(x[0], 0) + x[1], "fmax("),
        (lambda x: ca.if_else(x[0] < 0, x[0], 3 * x[0]) + x[1], "lt(x[0], 0)"),
    ],
)
def test_a_kink_of_a_function_is_named(expression: Any, text: str) -> None:
    report = co.check_gradient(function(expression), [0.0, 1.0])
    assert not report.agrees
    assert "lies on a kink" in str(report) and text in str(report)


def test_a_jump_of_a_function_is_named() -> None:
    report = co.check_gradient(function(lambda x: ca.if_else(x[0] > 1, x[1], 2 * x[1])), [1.0, 2.0])
    assert not report.agrees
    assert "p lies on a jump" in str(report) and "lt(1, x[0])" in str(report)


def test_an_infinite_derivative_is_named() -> None:
    report = co.check_gradient(function(lambda x: ca.sqrt(x[0])), [0.0, 2.0])
    assert not report.agrees and "the derivative is infinite or NaN here" in str(report)


def test_differences_shrink_until_no_trajectory_fails() -> None:
    def robertson(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        slow, fast, medium = p[0] * x[0], p[1] * x[1] * x[2], p[2] * x[1] ** 2
        return [-slow + fast, slow - fast - medium, medium]

    sim = co.Simulator(co.ControlledODE(robertson, nx=3, params=3), co.Rodas5P(rtol=1e-8, atol=1e-14))
    report = co.check_gradient(sim, [1.0, 0.0, 0.0], None, [0.04, 1e4, 3e7], [0.0, 40.0])
    assert report.agrees, report


def test_a_derivative_that_is_wrong_is_not_explained_away() -> None:
    class Wrong(ca.Callback):
        def __init__(self) -> None:
            ca.Callback.__init__(self)
            self.construct("wrong", {})

        def eval(self, arg: Any) -> Any:
            return [arg[0] ** 2]

        def has_jacobian(self) -> bool:
            return True

        def get_jacobian(self, name: str, inames: Any, onames: Any, opts: Any) -> ca.Function:
            x, y = ca.MX.sym("x"), ca.MX.sym("y")
            return ca.Function(name, [x, y], [3 * x], inames, onames)

    wrong = Wrong()
    report = co.check_gradient(wrong, [1.5])
    assert not report.agrees and "without a known reason" in str(report)


def test_parameters_of_a_bad_scale_are_named() -> None:
    report = co.check_gradient(function(lambda x: ca.sin(1e7 * x[0]) + x[1]), [1e-7, 1.0], directions=0, coordinates=2)
    assert report.agrees
    assert "bad parameter scale: x[0] is 1.0e-07" in str(report)


def weighted() -> ca.MX:
    """x' = sum p_i w_i(t): the right-hand side does not depend on x."""
    t, p = ca.MX.sym("t"), ca.MX.sym("p", 3)
    return t, p, p[0] * ca.exp(-((t - 7.3) ** 2) * 40) + p[1] * ca.sin(9 * t) + p[2]


@pytest.mark.parametrize("controlled", [False, True])
def test_a_quadrature_without_error_control_is_named(controlled: bool) -> None:
    t, p, rate = weighted()
    x = ca.MX.sym("x")
    options = {"abstol": 1e-10, "reltol": 1e-10, "quad_err_con": controlled}
    inner = ca.integrator("F", "cvodes", {"t": t, "x": x, "p": p, "ode": rate}, 0.0, 10.0, options)
    f = ca.Function("f", [x, p], [inner(x0=x, p=p)["xf"]])
    report = co.check_gradient(f, 0.0, [1.0, 2.0, 3.0], directions=2, coordinates=0)
    assert ("quadrature not under error control: the adjoint of cvodes" in str(report)) != controlled


def pendulum(**options: Any) -> tuple[co.Simulator, tuple[Any, ...]]:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0] * ca.sin(x[0]) - p[1] * x[1] + u[0]], nx=2, nu=1, params=2)
    knots = np.linspace(0.0, 2.0, 5)
    control = co.PiecewiseLinear(knots, np.sin(np.arange(15.0)).reshape(3, 5, 1))
    x0 = np.array([[0.3, 0.0], [1.0, 0.2], [-0.4, 0.5]])
    return co.Simulator(model, **options), (x0, control, np.array([1.3, 0.2]), np.linspace(0.0, 2.0, 9))


@pytest.mark.parametrize("solver", [co.RK4(), co.Tsit5(rtol=1e-10, atol=1e-12)])
def test_a_simulator_agrees(solver: Any) -> None:
    sim, where = pendulum(solver=solver)
    report = co.check_gradient(sim, *where, coordinates=5)
    assert report.agrees and report.exact_error < 1e-11
    assert len(report.checks) == 8
    listed = (where[0], [where[1][b] for b in range(3)], where[2], [where[3]] * 3)
    assert co.check_gradient(sim, *listed, directions=1, coordinates=0).agrees


def test_a_kink_of_a_simulation_is_named() -> None:
    model = co.ControlledODE(lambda t, x, u, p: co.activations["relu"](p - 0.5) - x, nx=1, params=1)
    report = co.check_gradient(co.Simulator(model, solver=co.RK4()), 0.0, None, [0.5], np.linspace(0.0, 1.0, 9))
    assert not report.agrees
    assert "lies on a kink" in str(report) and "in the right-hand side changes its branch at t = 0 " in str(report)


def test_the_kink_of_an_objective_is_named() -> None:
    model = co.ControlledODE(lambda t, x, u, p: ca.fabs(p - 0.5) - x, nx=1, params=1)
    obj = co.Objective(co.Simulator(model, solver=co.RK4()), 0.0, None, np.linspace(0.0, 1.0, 9), data=np.ones(9))
    report = co.check_gradient(obj, [0.5])
    assert "fabs((p - 0.5)) in the right-hand side changes its branch" in str(report)


def test_a_changed_step_sequence_is_reported() -> None:
    sim, where = pendulum(solver=co.Tsit5(rtol=1e-4, atol=1e-6))
    report = co.check_gradient(sim, *where)
    assert report.agrees and "step sequence changed" in str(report) and "tighten rtol" in str(report)


def test_a_tolerance_that_is_too_loose_is_named() -> None:
    model = co.ControlledODE(
        lambda t, x, u, p: [10 * (x[1] - x[0]), x[0] * (p[0] - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]],
        nx=3,
        params=1,
    )
    sim = co.Simulator(model, solver=co.BS3(rtol=1e-2, atol=1e-2))
    report = co.check_gradient(sim, [1.0, 1.0, 20.0], None, [28.0], [0.0, 1.0, 2.0], directions=1, coordinates=0)
    assert not report.agrees and "tolerance too loose" in str(report)


def test_an_objective_and_its_method_give_the_same_report() -> None:
    obj = Experiment(3).objective()
    report, same = co.check_gradient(obj, P, directions=2), obj.check_gradient(P, directions=2)
    assert str(report) == str(same) and report.agrees and isinstance(report, co.GradientReport)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3.0,), "target: expected an Objective"),
        ((function(lambda x: x), 1.0), r"x: expected 2 numbers"),
        ((function(lambda x: x),), "expected 1 inputs"),
        ((Experiment(1).objective(),), "expected one vector p"),
        ((pendulum()[0], 1.0), "x0, controls, p, ts"),
    ],
)
def test_misuse_is_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(co.DataError, match=message):
        co.check_gradient(*arguments)
