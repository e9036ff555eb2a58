"""Steps and simulations as expressions: the textbook loop, complex steps and SciPy are the truth."""

from __future__ import annotations

import itertools

import casadi as ca
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from controls.conftest import CASES
from ctrlode_casadi.base.arrays import call
from ctrlode_casadi.base.errors import ControlError, DataError, SolverError, UnsupportedOperation
from ctrlode_casadi.controls import Constant, PiecewiseConstant, PiecewiseLinear
from ctrlode_casadi.integrate.expressions import plan_steps, simulation_function, step_function
from ctrlode_casadi.integrate.solvers import BS3, DOP853, RK4, Dopri5, Euler, Heun, Midpoint, Tsit5
from ctrlode_casadi.model.ode import ControlledODE
from integrate.plain_simulation import PlainSimulator, pendulum, pendulum_rhs, step

SOLVERS = [Euler, Midpoint, Heun, RK4, BS3, Dopri5, Tsit5, DOP853]
X0, P = np.array([0.4, -0.3]), np.array([1.3, 0.2, 0.8])
TS = np.array([0.1, 0.35, 0.9, 1.0, 1.7, 2.4])
KNOTS = np.array([0.0, 0.35, 0.8, 1.3, 2.0, 2.5])

every_solver = pytest.mark.parametrize("kind", SOLVERS, ids=lambda k: k.__name__)
every_control = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def gradients(f):
    """(x0, U, p) -> J and its gradients, J a smooth nonlinear functional of all states."""
    x0, U, p = (ca.MX.sym(n, f.sparsity_in(i)) for i, n in enumerate(("x0", "U", "p")))
    X = f(x0, U, p)
    J = ca.sumsqr(X) + ca.sum1(ca.sum2(ca.sin(X)))
    return ca.Function("g", [x0, U, p], [J, *(ca.gradient(J, v) for v in (x0, U, p))])


def hessian(f):
    """(z) -> Hessian of J with respect to z = [x0; vec U; p]."""
    sizes = [f.numel_in(i) for i in range(3)]
    z = ca.MX.sym("z", sum(sizes))
    x0, U, p = ca.vertsplit(z, np.cumsum([0, *sizes]).tolist())
    X = f(x0, ca.reshape(U, *f.size_in(1)), p)
    J = ca.sumsqr(X) + ca.sum1(ca.sum2(ca.sin(X)))
    H, g = ca.hessian(J, z)
    return ca.Function("H", [z], [H, g])


# Steps ------------------------------------------------------------------------------------------------------


@every_solver
def test_a_step_is_the_textbook_step(kind):
    f = step_function(kind(), pendulum(), 0.3)
    u = np.array([0.7, -0.4])
    want = step(pendulum_rhs, kind().tableau, 1.1, 0.3, X0, lambda t: u, P)
    np.testing.assert_allclose(call(f, 1.1, X0, u, P)[0], want, rtol=1e-14, atol=1e-15)
    assert (f.name_in(), f.name_out()) == (["t", "x", "u", "p"], ["xf"])
    assert pendulum().np == f.numel_in(3)


@pytest.mark.parametrize("solver", [RK4(steps_per_interval=3), RK4(dt=0.1), RK4(dt=0.14)], ids=repr)
def test_several_steps_in_one(solver):
    u, short, x = np.array([0.7, -0.4]), step_function(RK4(), pendulum(), 0.1), X0
    for i in range(3):
        x = call(short, 0.5 + 0.1 * i, x, u, P)[0]
    got = call(step_function(solver, pendulum(), 0.3), 0.5, X0, u, P)[0]
    np.testing.assert_allclose(got, x, rtol=1e-14)


@every_solver
def test_order_under_a_zero_order_hold(kind):
    """Steps that end where the control jumps keep the method's order."""
    controls = np.array([[1.5, -0.5], [-1.0, 0.6], [0.3, 1.2]])
    want = [X0]
    for k, u in enumerate(controls):
        ode = lambda t, x, u=u: pendulum_rhs(t, x, u, P)  # noqa: E731
        want.append(solve_ivp(ode, (k, k + 1), want[-1], method="DOP853", rtol=2.3e-14, atol=1e-14).y[:, -1])
    order = kind().tableau.order
    counts = np.array([2, 3, 4]) if order > 5 else np.array([8, 12, 16, 24]) * (1 if order > 3 else 4)
    errors = []
    for n in counts:
        f, got = step_function(kind(steps_per_interval=int(n)), pendulum(), 1.0), [X0]
        for k, u in enumerate(controls):
            got.append(call(f, float(k), got[-1], u, P)[0])
        errors.append(np.abs(np.array(got) - want).max())
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert order - 0.3 < slope < order + 1.3, (slope, errors)


def test_second_derivatives_of_a_step_against_differences():
    f = step_function(Tsit5(), pendulum(), 0.4)
    z = ca.MX.sym("z", 8)
    t, x, u, p = ca.vertsplit(z, [0, 1, 3, 5, 8])
    H, g = ca.hessian(ca.sum1(ca.exp(f(t, x, u, p))), z)
    F = ca.Function("F", [z], [H, g])
    point, e = np.concatenate([[0.3], X0, [0.7, -0.4], P]), 1e-5
    want = [(call(F, point + e * d)[1] - call(F, point - e * d)[1]) / (2 * e) for d in np.eye(8)]
    np.testing.assert_allclose(call(F, point)[0], want, atol=2e-8)


def test_a_step_without_control_and_without_parameters():
    model = ControlledODE(lambda t, x, u, p: -x, nx=1)
    f = step_function(RK4(), model, 0.5)
    np.testing.assert_allclose(call(f, 0.0, 1.0, [], [])[0], 1 - 0.5 + 0.125 - 0.125 / 6 + 0.0625 / 24)


def test_code_generation_of_a_step_and_of_a_simulation():
    control = PiecewiseLinear(KNOTS, np.zeros((6, 2)))
    for f in (step_function(DOP853(), pendulum(), 0.1), simulation_function(pendulum(), RK4(), TS, control)):
        generator = ca.CodeGenerator("model.c")
        generator.add(f)
        text = generator.dump()
        assert f"int {f.name()}(const casadi_real** arg" in text and "casadi_f0" in text


@pytest.mark.parametrize("dt", [0.0, -0.1, float("nan"), float("inf"), "0.1", True, None])
def test_a_bad_step_length_is_refused(dt):
    with pytest.raises(SolverError, match=r"^dt: expected a positive finite number"):
        step_function(RK4(), pendulum(), dt)


def test_pairs_without_an_expression_are_refused():
    dae = ControlledODE(lambda t, x, u, p, z: -z, nx=1, nz=1, algebraic=lambda t, x, u, p, z: z - x)
    with pytest.raises(UnsupportedOperation, match=r"nz=1.*model\.to_dae"):
        step_function(RK4(), dae, 0.1)
    with pytest.raises(UnsupportedOperation, match="explicit Runge-Kutta solver such as RK4"):
        step_function("rk4", pendulum(), 0.1)
    with pytest.raises(UnsupportedOperation, match=r"Tsit5\(steps_per_interval"):
        simulation_function(pendulum(), Tsit5(), TS, Constant([1.0, 2.0]))


# Simulations ------------------------------------------------------------------------------------------------


@every_solver
def test_a_simulation_is_the_textbook_loop(kind, rng):
    control = PiecewiseLinear(KNOTS, rng.normal(size=(6, 2)))
    solver = kind(steps_per_interval=2)
    f = simulation_function(pendulum(), solver, TS, control)
    got = call(f, X0, control.values[0].T, P)[0]
    want = PlainSimulator(pendulum(), solver)(X0, control, P, TS).x[0].T
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)
    assert (f.name_in(), f.name_out(), f.size_out(0)) == (["x0", "U", "p"], ["X"], (2, TS.size))


@every_control
@pytest.mark.parametrize("rules", list(itertools.product(("hold", "linear", "periodic"), repeat=2)), ids="-".join)
def test_every_control_and_extrapolation(case, rules, rng):
    knots = KNOTS[1:5]  # the save times begin before and end after them
    control = case.make(knots, case.values(rng, 4, 2), extrapolation=rules)
    solver = RK4(dt=0.2)
    f = simulation_function(pendulum(), solver, TS - 0.2, control)
    got = call(f, X0, control.values[0].T, P)[0]
    want = PlainSimulator(pendulum(), solver)(X0, control, P, TS - 0.2).x[0].T
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


@every_control
def test_first_derivatives_are_those_of_complex_steps(case, rng):
    control = case.make(KNOTS, case.values(rng, 6, 2))
    f = simulation_function(pendulum(), Heun(), TS, control)
    g = gradients(f)
    _, by_x0, by_U, by_p = call(g, X0, control.values[0].T, P)
    sim = PlainSimulator(pendulum(), Heun())
    x = sim(X0, control, P, TS).x
    p_bar, x0_bar, u_bar = sim.vjp(X0, control, P, TS, 2 * x + np.cos(x))
    np.testing.assert_allclose(by_p, p_bar, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(by_x0, x0_bar, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(by_U, u_bar[0].T, rtol=1e-10, atol=1e-11)


@every_control
def test_second_derivatives_against_differences_of_first(case, rng):
    control = case.make(KNOTS, case.values(rng, 6, 2))
    H = hessian(simulation_function(pendulum(), RK4(), TS, control))
    z, e = np.concatenate([X0, control.values[0].ravel(), P]), 1e-5
    want = np.array([(call(H, z + e * d)[1] - call(H, z - e * d)[1]) / (2 * e) for d in np.eye(z.size)])
    np.testing.assert_allclose(call(H, z)[0], want, atol=1e-7 * np.abs(want).max())


def test_third_derivatives_exist():
    model = ControlledODE(lambda t, x, u, p: p * x, nx=1, params=1)
    f = simulation_function(model, RK4(), np.array([0.0, 1.0]))
    p = ca.MX.sym("p")
    d = f(1.0, ca.MX(0, 0), p)[-1]
    for _ in range(3):
        d = ca.jacobian(d, p)
    # RK4 is the Taylor polynomial of exp(p) of degree 4, whose third derivative is 1 + p.
    np.testing.assert_allclose(call(ca.Function("d", [p], [d]), 0.7)[0], [1.7], rtol=1e-13)


def test_a_constant_control_and_no_control():
    control = Constant([0.7, -0.4])
    f = simulation_function(pendulum(), Dopri5(dt=0.1), TS, control)
    assert f.size_in(1) == (2, 1)
    want = PlainSimulator(pendulum(), Dopri5(dt=0.1))(X0, control, P, TS).x[0].T
    np.testing.assert_allclose(call(f, X0, [0.7, -0.4], P)[0], want, rtol=1e-13)
    model = ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    f = simulation_function(model, DOP853(steps_per_interval=4), TS)
    assert f.size_in(1) == (0, 0)
    got = call(f, [2.0], np.zeros((0, 0)), [0.9])[0]
    np.testing.assert_allclose(got[0], 2.0 * np.exp(-0.9 * (TS - TS[0])), rtol=1e-13)


def test_one_save_time_is_the_initial_state():
    control = PiecewiseLinear(KNOTS, np.zeros((6, 2)))
    for start in (0.7, 0.0, 2.5):
        f = simulation_function(pendulum(), RK4(), np.array([start]), control)
        np.testing.assert_array_equal(call(f, X0, np.zeros((2, 6)), P)[0], X0)


def test_the_last_stage_does_not_see_the_next_interval():
    """x' = u with a zero-order hold: Heun's second stage lies on the jump, and the integral must be exact."""
    model = ControlledODE(lambda t, x, u, p: u, nx=1, nu=1)
    control = PiecewiseConstant(np.array([0.0, 1.0, 2.0]), np.array([3.0, -5.0, 0.0]))
    f = simulation_function(model, Heun(), np.array([0.0, 1.0, 2.0]), control)
    np.testing.assert_allclose(call(f, [0.0], [[3.0, -5.0, 0.0]], [])[0].ravel(), [0.0, 3.0, -2.0], atol=1e-15)


def test_a_control_in_single_precision():
    values = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)
    control = PiecewiseLinear(KNOTS, values, dtype="float32")
    f = simulation_function(pendulum(), RK4(), TS, control)
    double = PiecewiseLinear(KNOTS, values.astype(np.float64))
    want = call(simulation_function(pendulum(), RK4(), TS, double), X0, double.values[0].T, P)[0]
    np.testing.assert_array_equal(call(f, X0, double.values[0].T, P)[0], want)


# The grid ---------------------------------------------------------------------------------------------------


def test_steps_end_on_save_times_and_knots():
    plan = plan_steps(TS, KNOTS, RK4(steps_per_interval=2))
    ends = np.unique(np.concatenate([TS[1:], KNOTS[1:5]]))
    np.testing.assert_array_equal(plan.end[1::2], ends)
    np.testing.assert_array_equal(plan.end[plan.saved[1:] - 1], TS[1:])
    np.testing.assert_allclose(plan.start + plan.length, plan.end, rtol=1e-15)
    middle = 0.5 * (plan.start + plan.end)
    np.testing.assert_array_equal(plan.piece, np.searchsorted(KNOTS, middle) - 1)


def test_points_a_rounding_apart_are_one():
    knots = np.array([0.0, 0.1 + 0.2, 0.6])
    ts = np.array([0.0, 0.3, 0.6000000000000001])
    assert knots[1] != ts[1]
    plan = plan_steps(ts, knots, RK4())
    assert plan.saved.tolist() == [0, 1, 2] and plan.piece.tolist() == [0, 1]


def test_the_graph_grows_with_steps_only():
    """A thousand steps: one call each and a few nodes for time and coefficients."""
    knots = np.linspace(0.0, 10.0, 1001)
    f = simulation_function(pendulum(), RK4(), knots, PiecewiseLinear(knots, np.zeros((1001, 2))))
    assert f.n_instructions() < 10_000
    assert gradients(f).n_instructions() < 100


# Refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "message"),
    [
        (None, "nu=2 controls, got None"),
        (Constant([1.0]), "this control has nu=1"),
        (Constant(np.zeros((3, 2))), r"B=3; pass controls\[i\]"),
        (Constant(np.zeros((0, 2))), r"B=0; pass controls\[i\]"),
        (np.zeros((6, 2)), "expected a control of one trajectory.*got ndarray"),
        (PiecewiseLinear(KNOTS[1:], np.zeros((5, 2))), "outside the control's range"),
    ],
)  # fmt: skip
def test_controls_that_do_not_fit(control, message):
    with pytest.raises(ControlError, match=message):
        simulation_function(pendulum(), RK4(), TS, control)


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([0.0, 1.0, 1.0], r"must increase strictly, got ts\[1\]=1 and ts\[2\]=1"),
        ([0.0, float("nan")], "must be finite"),
        (np.zeros((2, 3)), "expected one axis"),
        (np.zeros(0), "at least one time"),
    ],
)
def test_save_times_that_do_not_fit(ts, message):
    with pytest.raises(DataError, match=message):
        simulation_function(pendulum(), RK4(), ts, Constant([1.0, 2.0]))


def test_one_of_several_trajectories(rng):
    many = PiecewiseLinear(KNOTS, rng.normal(size=(3, 6, 2)))
    f = simulation_function(pendulum(), RK4(), TS, many[1])
    want = PlainSimulator(pendulum(), RK4())(X0, many[1], P, TS).x[0].T
    np.testing.assert_allclose(call(f, X0, many.values[1].T, P)[0], want, rtol=1e-12)
