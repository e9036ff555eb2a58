"""Steps, simulations and compiled nodes inside Opti, nlpsol, map, integrator and other CasADi models."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import casadi as ca
import numpy as np
import pytest

from controls.conftest import CASES
from ctrlode_casadi.base.arrays import call
from ctrlode_casadi.base.errors import ControlError, DataError, SolverError, UnsupportedOperation
from ctrlode_casadi.controls import Constant, PiecewiseConstant, PiecewiseLinear
from ctrlode_casadi.integrate.callback import simulation_callback
from ctrlode_casadi.integrate.expressions import simulation_function
from ctrlode_casadi.integrate.simulator import Simulator
from ctrlode_casadi.integrate.solvers import DOP853, RK4, Heun, Tsit5
from ctrlode_casadi.model.layers import Chain, Dense
from ctrlode_casadi.model.layout import ParameterLayout
from ctrlode_casadi.model.ode import ControlledODE
from integrate.plain_simulation import PlainSimulator, pendulum, pendulum_rhs

X0, P = np.array([0.4, -0.3]), np.array([1.3, 0.2, 0.8])
TS = np.array([0.1, 0.35, 0.9, 1.0, 1.7, 2.4])
KNOTS = np.array([0.0, 0.35, 0.8, 1.3, 2.0, 2.5])
QUIET = {"ipopt.print_level": 0, "ipopt.sb": "yes", "print_time": False}
LIMITED = {"ipopt.hessian_approximation": "limited-memory"}
TIGHT = Tsit5(rtol=1e-10, atol=1e-12)

every_control = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@pytest.fixture
def control(rng):
    return PiecewiseLinear(KNOTS, rng.normal(size=(6, 2)))


def node(form, solver, controls, model=None, ts=TS):
    """The simulation as an expression, or as a compiled node."""
    model = model or pendulum()
    if form == "expression":
        return simulation_function(model, solver, ts, controls)
    return simulation_callback(Simulator(model, solver=solver), ts, controls)


both_forms = pytest.mark.parametrize("form", ["expression", "compiled"])


def functional(f, order):
    """(x0, U, p) -> gradients (order 1) or all blocks of the Hessian (order 2) of a functional of all states."""
    symbols = [ca.MX.sym(name, f.sparsity_in(i)) for i, name in enumerate(f.name_in())]
    X = f(*symbols)
    J = ca.sumsqr(X) + ca.sum1(ca.sum2(ca.sin(X)))
    out = [ca.gradient(J, v) for v in symbols]
    if order == 2:
        out = [ca.jacobian(g, v) for g in out for v in symbols]
    return ca.Function("functional", symbols, out)


# The compiled node ------------------------------------------------------------------------------------------


@every_control
def test_a_compiled_node_equals_the_expression(case, rng):
    """Value, gradient, Jacobian and, with fixed steps, Hessian."""
    controls = case.make(KNOTS[1:], case.values(rng, 5, 2), extrapolation=("linear", "hold"))
    point = X0, controls.values[0].T, P
    solver, ts = RK4(steps_per_interval=2), TS + 0.3
    compiled, plain = node("compiled", solver, controls, ts=ts), node("expression", solver, controls, ts=ts)
    assert (compiled.name_in(), compiled.name_out()) == (plain.name_in(), plain.name_out())
    np.testing.assert_allclose(call(compiled, *point)[0], call(plain, *point)[0], rtol=1e-12, atol=1e-12)
    for order in (1, 2):
        for got, want in zip(*(call(functional(f, order), *point) for f in (compiled, plain))):
            np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10 * max(1.0, np.abs(want).max()))


def test_forward_and_reverse_of_an_adaptive_node(control):
    """Jacobians by seeds in both directions are transposes of each other and those of a fine fixed grid."""
    f = node("compiled", TIGHT, control)
    fine = node("expression", DOP853(steps_per_interval=8), control)
    point = X0, control.values[0].T, P
    symbols = [ca.MX.sym(name, f.sparsity_in(i)) for i, name in enumerate(f.name_in())]
    out = ca.vec(f(*symbols))
    w = ca.MX.sym("w", out.numel())
    reverse = [ca.gradient(ca.dot(w, out), v) for v in symbols]
    forward = [ca.jtimes(out, v, ca.MX.ones(v.shape)) for v in symbols]
    g = ca.Function("g", [*symbols, w], [*reverse, *forward])
    truth = call(ca.Function("J", symbols, [ca.jacobian(ca.vec(fine(*symbols)), ca.vec(v)) for v in symbols]), *point)
    weights = np.cos(np.arange(12.0))
    results = call(g, *point, weights)
    for got, J in zip(results[:3], truth):
        np.testing.assert_allclose(got.ravel(order="F"), weights @ J, rtol=1e-6, atol=1e-7)
    for got, J in zip(results[3:], truth):
        np.testing.assert_allclose(got, J.sum(axis=1), rtol=1e-6, atol=1e-7)
    for got, dx in zip(results[:3], results[3:]):
        np.testing.assert_allclose(got.sum(), weights @ dx, rtol=1e-12, atol=1e-12)


def test_derivatives_are_vjp_and_jvp(control):
    """The node adds nothing to the simulator's own numbers; complex steps are the truth of both."""
    sim = Simulator(pendulum(), solver=Heun())
    plain = PlainSimulator(pendulum(), Heun())
    f = simulation_callback(sim, TS, control)
    x = call(f, X0, control.values[0].T, P)[0].T[None]
    xbar = 2 * x + np.cos(x)
    got = call(functional(f, 1), X0, control.values[0].T, P)
    for other in (sim, plain):
        p_bar, x0_bar, u_bar = other.vjp(X0, control, P, TS, xbar)
        want = np.reshape(x0_bar, 2), np.reshape(u_bar, (6, 2)).T, np.reshape(p_bar, 3)
        for a, b in zip(got, want):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_a_derivative_does_not_compute_the_value(control):
    """CasADi hands the value to derivative functions; this one declares that it needs none."""

    class Counting(PlainSimulator):
        values = 0

        def __call__(self, *args):
            Counting.values += 1
            return super().__call__(*args)

    f = simulation_callback(Counting(pendulum(), RK4()), TS, control)
    p = ca.MX.sym("p", 3)
    J = ca.Function("J", [p], [ca.jacobian(f(X0, control.values[0].T, p), p)])
    call(J, P)
    assert Counting.values == 0


def test_second_derivatives_with_adaptive_steps_are_refused(control, capfd):
    f = node("compiled", Tsit5(), control)
    with pytest.raises(RuntimeError, match=r"Tsit5\(steps_per_interval=.*limited-memory"):
        functional(f, 2)
    assert "UnsupportedOperation" in capfd.readouterr().err


@pytest.mark.parametrize("solver", [RK4(), Tsit5()], ids=["fixed", "adaptive"])
def test_a_node_lives_on_without_a_python_name(control, solver):
    g = functional(node("compiled", solver, control), 1)
    before = call(g, X0, control.values[0].T, P)
    gc.collect()
    for a, b in zip(before, call(g, X0, control.values[0].T, P)):
        np.testing.assert_array_equal(a, b)


def test_a_node_in_several_threads(control):
    f = node("compiled", Tsit5(), control)
    point = X0, control.values[0].T, P
    want = call(f, *point)[0]
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: call(f, *point)[0], range(40)):
            np.testing.assert_array_equal(got, want)


def test_a_failure_is_not_a_number():
    """x' = x**2 from x = 1 ends at t = 1."""
    model = ControlledODE(lambda t, x, u, p: x**2, nx=1)
    f = simulation_callback(Simulator(model, solver=Tsit5()), np.array([0.0, 0.5, 2.0]))
    x = call(f, [1.0], np.zeros((0, 0)), [])[0].ravel()
    np.testing.assert_allclose(x[:2], [1.0, 2.0], rtol=1e-5)
    assert np.isnan(x[2])


def test_a_node_in_single_precision(control):
    single = PiecewiseLinear(KNOTS, control.values.astype(np.float32), dtype="float32")
    f = simulation_callback(Simulator(pendulum(), solver=RK4(), dtype="float32"), TS, single)
    want = call(node("expression", RK4(), control), X0, control.values[0].T, P)[0]
    np.testing.assert_allclose(call(f, X0, control.values[0].T, P)[0], want, atol=2e-6)


def test_a_node_without_control():
    model = ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    f = simulation_callback(Simulator(model, solver=TIGHT), TS)
    got = call(functional(f, 1), [2.0], np.zeros((0, 0)), [0.9])
    decay = np.exp(-0.9 * (TS - TS[0]))
    x = 2.0 * decay
    np.testing.assert_allclose(got[0], np.sum((2 * x + np.cos(x)) * decay), rtol=1e-8)
    np.testing.assert_allclose(got[2], np.sum((2 * x + np.cos(x)) * -(TS - TS[0]) * x), rtol=1e-8)


def test_misuse_of_a_node_is_refused(control):
    sim = Simulator(pendulum(), solver=RK4())
    with pytest.raises(ControlError, match=r"B=3; pass controls\[i\]"):
        simulation_callback(sim, TS, Constant(np.zeros((3, 2))))
    with pytest.raises(ControlError, match="outside the control's range"):
        simulation_callback(sim, TS + 5.0, control)
    with pytest.raises(DataError, match="must increase strictly"):
        simulation_callback(sim, TS[::-1].copy(), control)
    with pytest.raises(DataError, match="float types must not be mixed"):
        simulation_callback(sim, TS, PiecewiseLinear(KNOTS, control.values.astype(np.float32), dtype="float32"))
    dae = ControlledODE(lambda t, x, u, p, z: -z, nx=1, nz=1, algebraic=lambda t, x, u, p, z: z - x)
    with pytest.raises(UnsupportedOperation, match="nz=1"):
        simulation_callback(PlainSimulator(dae, RK4()), TS)


# Methods of the public objects ------------------------------------------------------------------------------


def test_the_model_and_the_simulator_hand_out_functions(control):
    f = pendulum().step(RK4(steps_per_interval=2), 0.2)
    assert (f.name_in(), f.name_out()) == (["t", "x", "u", "p"], ["xf"])
    point = X0, control.values[0].T, P
    fixed = Simulator(pendulum(), solver=RK4()).to_casadi(TS, control)
    assert "Callback" not in str(fixed)
    np.testing.assert_array_equal(call(fixed, *point)[0], call(node("expression", RK4(), control), *point)[0])
    adaptive = Simulator(pendulum(), solver=TIGHT)
    want = np.reshape(adaptive(X0, control, P, TS).x, (TS.size, 2)).T
    np.testing.assert_array_equal(call(adaptive.to_casadi(TS, control), *point)[0], want)
    compiled = Simulator(pendulum(), solver=RK4()).to_casadi(TS, control, form="callback")
    assert "Callback" in str(compiled)
    with pytest.raises(UnsupportedOperation, match="adaptive Tsit5"):
        adaptive.to_casadi(TS, control, form="expression")
    with pytest.raises(SolverError, match="did you mean 'callback'"):
        adaptive.to_casadi(TS, control, form="calback")


# Solvers of CasADi ------------------------------------------------------------------------------------------


@both_forms
@pytest.mark.parametrize("hessian", ["exact", "limited-memory"])
def test_opti_finds_the_parameters(form, hessian, control):
    f = node(form, RK4(steps_per_interval=2), control)
    data = call(f, X0, control.values[0].T, P)[0]
    opti = ca.Opti()
    p = opti.variable(3)
    opti.minimize(ca.sumsqr(f(X0, control.values[0].T, p) - data))
    opti.set_initial(p, [1.0, 0.5, 0.5])
    opti.solver("ipopt", {**QUIET, "ipopt.tol": 1e-10, "ipopt.hessian_approximation": hessian})
    solution = opti.solve()
    np.testing.assert_allclose(solution.value(p), P, atol=1e-6)
    assert solution.stats()["iter_count"] < 30


def test_opti_finds_the_parameters_through_adaptive_steps(control):
    f = node("compiled", TIGHT, control)
    data = call(f, X0, control.values[0].T, P)[0]
    opti = ca.Opti()
    p = opti.variable(3)
    opti.minimize(ca.sumsqr(f(X0, control.values[0].T, p) - data))
    opti.set_initial(p, [1.0, 0.5, 0.5])
    opti.solver("ipopt", {**QUIET, **LIMITED, "ipopt.tol": 1e-10})
    np.testing.assert_allclose(opti.solve().value(p), P, atol=1e-6)


@both_forms
def test_nlpsol_steers_a_linear_system_with_least_effort(form):
    """Linear dynamics: the optimum is the minimum-norm solution, found in one step with the exact Hessian."""
    A, b = np.array([[0.0, 1.0], [-2.0, -0.3]]), np.array([0.0, 1.0])
    model = ControlledODE(lambda t, x, u, p: A @ x + b * u, nx=2, nu=1)
    knots = np.linspace(0.0, 3.0, 13)
    f = node(form, RK4(), PiecewiseConstant(knots, np.zeros(13)), model, np.array([0.0, 3.0]))
    U = ca.MX.sym("U", 1, 13)
    end = f([1.0, 0.0], U, [])[:, 1]
    nlp = {"x": U.T, "f": ca.sumsqr(U), "g": end}
    result = ca.nlpsol("least_effort", "ipopt", nlp, QUIET)(x0=0, lbg=[0.5, -0.2], ubg=[0.5, -0.2])
    h = knots[1]
    one = sum(np.linalg.matrix_power(h * A, k) / f for k, f in enumerate([1, 1, 2, 6, 24]))
    push = h * sum(np.linalg.matrix_power(h * A, k) / f for k, f in enumerate([1, 2, 6, 24])) @ b
    columns = [np.linalg.matrix_power(one, 11 - k) @ push for k in range(12)]
    gap = np.array([0.5, -0.2]) - np.linalg.matrix_power(one, 12) @ [1.0, 0.0]
    want = np.append(np.linalg.pinv(np.array(columns).T) @ gap, 0.0)
    np.testing.assert_allclose(result["x"].full().ravel(), want, atol=1e-9)


def test_an_exact_hessian_needs_fewer_iterations(control):
    f = node("expression", RK4(), control)
    U = ca.MX.sym("U", 2, 6)
    nlp = {"x": ca.vec(U), "f": ca.sumsqr(U), "g": f(X0, U, P)[:, -1]}
    counts = []
    for options in ({}, LIMITED):
        solver = ca.nlpsol("swing", "ipopt", nlp, QUIET | options)
        result = solver(x0=0, lbg=[1.0, 0.0], ubg=[1.0, 0.0])
        assert solver.stats()["success"]
        np.testing.assert_allclose(result["g"].full().ravel(), [1.0, 0.0], atol=1e-8)
        counts.append(solver.stats()["iter_count"])
    assert counts[0] < counts[1] and counts[0] < 15


def test_multiple_shooting_with_steps_equals_single_shooting():
    model, n, h = pendulum(), 8, 0.25
    step, knots = model.step(RK4(), h), h * np.arange(n + 1)
    opti = ca.Opti()
    X, U = opti.variable(2, n + 1), opti.variable(2, n)
    for k in range(n):
        opti.subject_to(X[:, k + 1] == step(knots[k], X[:, k], U[:, k], P))
    opti.subject_to(X[:, 0] == X0)
    opti.minimize(ca.sumsqr(X[:, 1:]) + 0.1 * ca.sumsqr(U))
    opti.solver("ipopt", QUIET)
    many = opti.solve()
    f = simulation_function(model, RK4(), knots, PiecewiseConstant(knots, np.zeros((n + 1, 2))))
    V = ca.MX.sym("V", 2, n)
    J = ca.sumsqr(f(X0, ca.horzcat(V, ca.MX.zeros(2, 1)), P)[:, 1:]) + 0.1 * ca.sumsqr(V)
    single = ca.nlpsol("single", "ipopt", {"x": ca.vec(V), "f": J}, QUIET)(x0=0)
    np.testing.assert_allclose(single["x"].full().reshape(n, 2).T, many.value(U), atol=1e-6)


@both_forms
@pytest.mark.parametrize("parallel", ["serial", "thread"])
def test_map_over_trajectories(form, parallel, rng):
    many = PiecewiseLinear(KNOTS, rng.normal(size=(4, 6, 2)))
    f = node(form, RK4(), many[0])
    x0, U = rng.normal(size=(2, 4)), np.hstack([v.T for v in many.values])
    p = ca.MX.sym("p", 3)
    X = f.map(4, parallel)(x0, U, ca.repmat(p, 1, 4))
    got, gradient = call(ca.Function("m", [p], [X, ca.gradient(ca.sumsqr(X), p)]), P)
    sim, total = PlainSimulator(pendulum(), RK4()), 0.0
    for b in range(4):
        want = sim(x0[:, b], many[b], P, TS).x
        np.testing.assert_allclose(got[:, 6 * b : 6 * b + 6], want[0].T, rtol=1e-12, atol=1e-13)
        total = total + sim.vjp(x0[:, b], many[b], P, TS, 2 * want)[0]
    np.testing.assert_allclose(gradient, total, rtol=1e-11)


def test_the_integrators_of_casadi_agree(rng):
    """cvodes on the model's DAE, once per interval: it fails where its input jumps inside a call."""
    ts, values = np.linspace(0.0, 2.0, 6), rng.normal(size=(6, 2))
    options, xf = {"abstol": 1e-12, "reltol": 1e-12}, [X0]
    for k in range(5):
        F = ca.integrator("F", "cvodes", pendulum().to_dae(), float(ts[k]), float(ts[k + 1]), options)
        xf.append(F(x0=xf[-1], u=values[k], p=P)["xf"].full().ravel())
    for form, solver in (("expression", DOP853(steps_per_interval=4)), ("compiled", TIGHT)):
        f = node(form, solver, PiecewiseConstant(ts, values), ts=ts)
        np.testing.assert_allclose(call(f, X0, values.T, P)[0].T, xf, atol=2e-8)


# Other models -----------------------------------------------------------------------------------------------


def test_a_model_inside_another_model(rng):
    """A pump with first-order lag drives the pendulum; its right-hand side calls that of the pendulum."""
    inner = pendulum()

    def rhs(t, x, u, p):
        lag, pushed = x[2:], ca.vertcat(x[2], u[1])
        return ca.vertcat(inner.rhs(t, x[:2], pushed, p[:3]), (u[0] - lag) / p[3])

    def plain(t, x, u, p):
        return [*pendulum_rhs(t, x[:2], [x[2], u[1]], p), (u[0] - x[2]) / p[3]]

    outer = ControlledODE(rhs, nx=3, nu=2, params=4)
    control = PiecewiseLinear(KNOTS, rng.normal(size=(6, 2)))
    x0, p = np.append(X0, 0.2), np.append(P, 0.5)
    truth = PlainSimulator(outer, RK4(), plain)
    x = truth(x0, control, p, TS).x
    bars = truth.vjp(x0, control, p, TS, 2 * x + np.cos(x))
    for form in ("expression", "compiled"):
        f = node(form, RK4(), control, outer)
        np.testing.assert_allclose(call(f, x0, control.values[0].T, p)[0], x[0].T, rtol=1e-12, atol=1e-13)
        got = call(functional(f, 1), x0, control.values[0].T, p)
        for a, b in zip(got, (bars[1], bars[2][0].T, bars[0])):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


@both_forms
def test_encoder_simulation_decoder(form, control, rng):
    """One flat parameter vector through an encoder, a neural ODE and a decoder: gradient against differences."""
    ode = Chain(Dense(4, 5, "tanh"), Dense(5, 2))
    encoder, decoder = Chain(Dense(3, 4, "tanh"), Dense(4, 2)), Dense(2, 1)
    layout = ParameterLayout(encoder=encoder, ode=ode, decoder=decoder)
    f = node(form, RK4(), control, ControlledODE(ode, nx=2, nu=2))
    q, past = ca.MX.sym("q", layout.n), rng.normal(size=3)
    blocks = layout.unflatten(q)
    X = f(encoder(ca.DM(past), blocks.encoder), control.values[0].T, q[layout.slice("ode")])
    J = ca.sumsqr(decoder(X, blocks.decoder) - np.sin(TS)[None])
    g = ca.Function("g", [q], [J, ca.gradient(J, q)])
    q0, d = layout.init(3), rng.normal(size=layout.n)
    e = 1e-4
    ahead, back, ahead2, back2 = (call(g, q0 + k * e * d)[0][0] for k in (1, -1, 2, -2))
    slope = (8 * (ahead - back) - (ahead2 - back2)) / (12 * e)  # fourth order
    np.testing.assert_allclose(call(g, q0)[1] @ d, slope, rtol=1e-8)
