"""What bad input gets, by public names only: the class, and a message with the argument, what came and the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co

TS = np.linspace(0.0, 1.0, 5)
KNOTS = np.array([0.0, 0.5, 1.0])
P = np.array([1.0, 0.1])
X0 = np.zeros((3, 2))
Y = np.zeros((3, 5, 2))


def oscillator() -> co.ControlledODE:
    """x1' = x2, x2' = u - p0 x1 - p1 x2."""
    return co.ControlledODE(lambda t, x, u, p: [x[1], u[0] - p[0] * x[0] - p[1] * x[1]], nx=2, nu=1, params=2)


def linear(**changed: Any) -> co.PiecewiseLinear:
    return co.PiecewiseLinear(**({"knots": KNOTS, "values": np.zeros((3, 3, 1))} | changed))


def simulate(**changed: Any) -> co.Trajectories:
    given = {"x0": X0, "controls": linear(), "p": P, "ts": TS} | changed
    return co.Simulator(oscillator(), solver=co.RK4())(**given)


def vjp(**changed: Any) -> Any:
    given = {"x0": X0, "controls": linear(), "p": P, "ts": TS, "xbar": Y} | changed
    return co.Simulator(oscillator(), solver=co.RK4()).vjp(**given)


def objective(**changed: Any) -> co.Objective:
    given = {"x0": X0, "controls": linear(), "ts": TS, "data": Y} | changed
    return co.Objective(co.Simulator(oscillator(), solver=co.RK4()), **given)


def ode(rhs: Any, **changed: Any) -> co.ControlledODE:
    return co.ControlledODE(rhs, **({"nx": 2, "nu": 1} | changed))


def of_two_names() -> co.ParameterLayout:
    return co.ParameterLayout(mass=1, gain=(2, 3))


Case = tuple[Callable[[], Any], type[co.CtrlodeError], tuple[str, ...]]

SHAPES: dict[str, Case] = {
    "x0, last axis": (lambda: simulate(x0=np.zeros((3, 4))), co.DataError, ("x0", "(3, 4)", "last axis", "nx=2")),
    "x0, batch": (lambda: simulate(x0=np.zeros((2, 2))), co.DataError, ("x0 has 2", "controls has 3", "be 1")),
    "x0, axes": (lambda: simulate(x0=np.zeros((3, 1, 2))), co.DataError, ("x0", "(3, 1, 2)", "(B, nx=2)")),
    "x0, ragged": (lambda: simulate(x0=[[0.0, 1.0], [0.0]]), co.DataError, ("x0", "unequal length")),
    "values, knots": (lambda: linear(values=np.zeros((3, 4, 1))), co.ControlError, ("values", "axis 1", "3", "4")),
    "values, rows": (
        lambda: linear(knots=np.tile(KNOTS, (2, 1))), co.ControlError, ("values", "B=2", "B=3", "axis 0")),
    "values, axes": (lambda: linear(values=np.zeros((1, 3, 1, 1))), co.ControlError, ("values", "(1, 3, 1, 1)")),
    "controls, nu": (
        lambda: simulate(controls=linear(values=np.zeros((3, 3, 2)))), co.ControlError, ("last axis", "nu=1", "2")),
    "controls, array": (
        lambda: simulate(controls=np.zeros((3, 3, 1))), co.ControlError, ("controls", "ndarray", "PiecewiseLinear")),
    "controls, none": (lambda: simulate(controls=None), co.ControlError, ("controls", "nu=1", "None")),
    "ts, axes": (lambda: simulate(ts=np.zeros((3, 5))), co.DataError, ("ts", "(3, 5)", "list of arrays")),
    "xbar": (lambda: vjp(xbar=np.zeros((3, 4, 2))), co.DataError, ("xbar", "T=5", "(3, 4, 2)")),
    "data, times": (lambda: objective(data=np.zeros((3, 4, 2))), co.DataError, ("data", "axis 1", "5", "4")),
    "data, outputs": (lambda: objective(data=np.zeros((3, 5, 3))), co.DataError, ("data", "axis 2", "ny=2", "3")),
    "data, batch": (lambda: objective(data=np.zeros((2, 5, 2))), co.DataError, ("data has 2", "x0 has 3")),
    "compile": (
        lambda: co.compile(oscillator().rhs)(0.0, np.zeros((4, 3)), np.zeros(1), P), co.DataError,
        ("x", "(B, 2)", "(4, 3)", "transpose")),
    "p, length": (lambda: simulate(p=np.zeros(3)), co.DataError, ("p", "(3,)", "np=2", "ParameterLayout(n=2: p[2])")),
    "p, objective": (lambda: objective()(np.zeros(3)), co.DataError, ("p", "(3,)", "2 entries", "p[2]")),
    "p, layout": (lambda: of_two_names().unflatten(np.zeros(3)), co.DataError, ("(3,)", "mass[1]", "gain[2x3]")),
    "p, missing": (lambda: simulate(p=None), co.DataError, ("p", "2 parameters", "None", "model.init")),
}  # fmt: skip

NUMBERS: dict[str, Case] = {
    "x0, NaN": (lambda: simulate(x0=np.array([0.0, np.nan])), co.DataError, ("x0", "finite", "nan", "index 1")),
    "x0, inf": (lambda: simulate(x0=np.full((3, 2), np.inf)), co.DataError, ("x0", "finite", "inf", "(0, 0)")),
    "p, NaN": (lambda: simulate(p=P * np.nan), co.DataError, ("p", "finite", "nan")),
    "ts, NaN": (lambda: simulate(ts=np.array([0.0, np.nan])), co.DataError, ("ts", "finite", "nan")),
    "values, NaN": (lambda: linear(values=np.full(3, np.nan)), co.ControlError, ("values", "finite", "nan")),
    "knots, inf": (lambda: linear(knots=np.array([0.0, 1.0, np.inf])), co.ControlError, ("knots", "finite", "inf")),
    "xbar, NaN": (lambda: vjp(xbar=Y * np.nan), co.DataError, ("xbar", "finite", "nan")),
    "data, inf": (lambda: objective(data=Y + np.inf), co.DataError, ("data", "finite or NaN", "inf")),
    "weights": (lambda: objective(weights=-1.0), co.DataError, ("weights", "negative", "-1")),
    "x0, integers": (lambda: simulate(x0=np.zeros((3, 2), int)), co.DataError, ("x0", "int64", "np.asarray")),
    "p, integers": (lambda: simulate(p=np.array([1, 2])), co.DataError, ("p", "int64", "np.asarray")),
    "values, objects": (
        lambda: linear(values=np.array([1.0, None, 2.0])), co.ControlError, ("values", "object", "np.asarray")),
    "data, objects": (lambda: objective(data=Y.astype(object)), co.DataError, ("data", "object", "np.asarray")),
    "x0, complex": (lambda: simulate(x0=X0.astype(complex)), co.DataError, ("x0", "complex128")),
    "x0, none": (lambda: simulate(x0=None), co.DataError, ("x0", "None")),
    "ts, text": (lambda: simulate(ts="0:1"), co.DataError, ("ts", "'0:1'")),
    "x0, symbol": (lambda: simulate(x0=ca.MX.sym("x", 2)), co.DataError, ("x0", "symbolic", "MX")),
    "x0, float32": (lambda: simulate(x0=X0.astype(np.float32)), co.DataError, ("x0", "float32", "must not be mixed")),
    "values, float32": (
        lambda: simulate(controls=linear(values=np.zeros((3, 3, 1), np.float32), dtype="float32")), co.DataError,
        ("controls", "float32", "dtype='float64'")),
    "data, float32": (lambda: objective(data=Y.astype(np.float32)), co.DataError, ("data", "float32", "mixed")),
    "rtol": (lambda: co.Tsit5(rtol=-1e-3), co.SolverError, ("rtol", "non-negative", "-0.001")),
    "atol": (lambda: co.DOP853(atol=-1.0), co.SolverError, ("atol", "non-negative", "-1.0")),
    "regularization": (lambda: objective(regularization=-2.0), co.DataError, ("regularization", "negative", "-2")),
}  # fmt: skip

TIMES: dict[str, Case] = {
    "knots, order": (
        lambda: linear(knots=np.array([0.0, 1.0, 0.5])), co.ControlError, ("knots", "out of order", "0.5", "sort")),
    "knots, repeated": (
        lambda: linear(knots=np.array([0.0, 0.5, 0.5])), co.ControlError, ("knots", "repeated", "0.5", "remove")),
    "knots, own": (
        lambda: linear(knots=np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])), co.ControlError,
        ("knots", "trajectory 1", "sort")),
    "ts, order": (lambda: simulate(ts=TS[::-1].copy()), co.DataError, ("ts", "ts[0]=1", "ts[1]=0.75", "sort")),
    "ts, repeated": (lambda: simulate(ts=np.array([0.0, 0.5, 0.5])), co.DataError, ("ts[1]=0.5", "ts[2]=0.5")),
    "ts, one row": (lambda: simulate(ts=[TS, TS, TS[::-1]]), co.DataError, ("ts[2]", "increase strictly")),
    "ts, objective": (lambda: objective(ts=TS[::-1].copy()), co.DataError, ("ts", "increase strictly")),
    "ts, too late": (lambda: simulate(ts=2 * TS), co.ControlError, ("ts: 2.0", "[0.0, 1.0]", "extrapolation")),
    "ts, too early": (lambda: simulate(ts=TS - 1), co.ControlError, ("ts: -1.0", "[0.0, 1.0]", "extrapolation")),
    "ts, of a record": (
        lambda: simulate(ts=[TS, TS, 2 * TS], controls=[linear(values=np.zeros(3))] * 3), co.ControlError,
        ("ts: 2.0", "extrapolation")),
    "ts, of objective": (lambda: objective(ts=2 * TS), co.ControlError, ("ts: 2.0", "'hold'")),
    "t": (lambda: linear()(np.array([2.0])), co.ControlError, ("t: 2.0", "[0.0, 1.0]", "'hold'")),
}  # fmt: skip

MODELS: dict[str, Case] = {
    "rhs, entries": (lambda: ode(lambda t, x, u, p: x[0]), co.ModelError, ("rhs", "nx=2", "returned 1")),
    "rhs, free symbol": (
        lambda: ode(lambda t, x, u, p: x * ca.MX.sym("k")), co.ModelError, ("rhs", "free symbol k", "params")),
    "rhs, arguments": (lambda: ode(lambda x, u: x), co.ModelError, ("rhs", "(t, x, u, p)", "(x, u)")),
    "rhs, nothing": (lambda: ode(lambda t, x, u, p: None), co.ModelError, ("rhs", "None", "return")),
    "rhs, network": (lambda: ode(co.Dense(2, 2)), co.ModelError, ("rhs", "n_in=2", "nx + nu = 3")),
    "output, free": (
        lambda: ode(lambda t, x, u, p: x, output=lambda t, x, u, p: ca.MX.sym("q")), co.ModelError,
        ("output", "free symbol q")),
    "loss, free": (
        lambda: objective(loss=lambda t, x, u, y, d, p: ca.MX.sym("k")), co.DataError, ("loss", "free symbol k")),
    "step": (lambda: oscillator().step("RK4", 0.1), co.ModelError, ("solver", "'RK4'", "RK4()")),
    "step, length": (lambda: oscillator().step(co.RK4(), -0.1), co.SolverError, ("dt", "positive", "-0.1")),
}  # fmt: skip

NAMES: dict[str, tuple[Callable[[], Any], type[Exception], str, str]] = {
    "activation": (lambda: co.Dense(2, 2, "tahn"), co.ModelError, "tahn", "tanh"),
    "activations": (lambda: co.activations.sigmod, AttributeError, "sigmod", "sigmoid"),
    "initialiser": (lambda: co.init.glorot_unifrom, AttributeError, "glorot_unifrom", "glorot_uniform"),
    "setting": (lambda: co.init.orthogonal(gian=1.0), co.ModelError, "gian", "gain"),
    "public name": (lambda: co.Simulater, AttributeError, "Simulater", "Simulator"),
    "block": (lambda: of_two_names().slice("mas"), co.ModelError, "mas", "mass"),
    "block value": (lambda: of_two_names().init(0, gian=1.0), co.ModelError, "gian", "gain"),
    "parameter": (lambda: ode(lambda t, x, u, p: x * p.mas, params=of_two_names()), co.ModelError, "mas", "mass"),
    "extrapolation": (lambda: linear(extrapolation="holt"), co.ControlError, "holt", "hold"),
    "side": (lambda: co.PiecewiseConstant(KNOTS, KNOTS, side="rihgt"), co.ControlError, "rihgt", "right"),
    "bc_type": (lambda: co.CubicSpline(KNOTS, KNOTS, bc_type="naturel"), co.ControlError, "naturel", "natural"),
    "loss": (lambda: objective(loss="mes"), co.DataError, "mes", "mse"),
    "backend": (lambda: co.Simulator(oscillator(), backend="casdi"), co.SolverError, "casdi", "casadi"),
    "sensitivity": (lambda: co.Simulator(oscillator(), sensitivity="adjont"), co.SolverError, "adjont", "adjoint"),
    "dtype": (lambda: co.Simulator(oscillator(), dtype="flaot32"), co.SolverError, "flaot32", "float32"),
}

CASES = SHAPES | NUMBERS | TIMES | MODELS


@pytest.mark.parametrize("name", CASES)
def test_the_message_names_the_argument_what_came_and_the_rule(name: str) -> None:
    misuse, error, words = CASES[name]
    with pytest.raises(error) as caught:
        misuse()
    assert isinstance(caught.value, (ValueError, RuntimeError))
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_name_gets_the_nearest_one(name: str) -> None:
    misuse, error, wrong, right = NAMES[name]
    with pytest.raises(error) as caught:
        misuse()
    assert f"{wrong!r}; did you mean {right!r}" in str(caught.value)


def test_nothing_is_compiled_before_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    from ctrlode_casadi.integrate.sweeps import load as sweeps
    from ctrlode_casadi.lowering import jit, kernels

    class CompiledError(Exception):
        pass

    def compiled(*_: Any) -> Any:
        raise CompiledError

    monkeypatch.setattr(jit.llvm, "parse_assembly", compiled)
    monkeypatch.setattr(kernels, "_MADE", {})
    monkeypatch.setattr(sweeps, "_LOADED", {})
    with pytest.raises(CompiledError):
        simulate()
    for misuse, error, _ in CASES.values():
        with pytest.raises(error):
            misuse()


# --- what looks unusual and is right --------------------------------------------------------------------------------


def test_columns_of_casadi_solvers_are_vectors() -> None:
    plain, columns = simulate(x0=np.array([1.0, 0.5])), simulate(x0=ca.DM([1.0, 0.5]), p=ca.DM(P))
    assert np.array_equal(plain.x, columns.x)
    assert objective()(ca.DM(P))[0] == objective()(P)[0]


@pytest.mark.parametrize("kind", ["array", "list"])
def test_an_empty_batch_has_empty_results(kind: str) -> None:
    sim = co.Simulator(oscillator(), solver=co.Tsit5())
    none = np.zeros((0, 2))
    controls: Any = linear(values=np.zeros((0, 3, 1))) if kind == "array" else []
    sol = sim(none, controls, P, TS)
    assert (sol.x.shape, sol.y.shape, sol.u.shape, len(sol), sol.status) == ((0, 5, 2), (0, 5, 2), (0, 5, 1), 0, [])
    p_bar, x0_bar, u_bar = sim.vjp(none, controls, P, TS, np.zeros((0, 5, 2)))
    assert np.array_equal(p_bar, np.zeros(2)) and x0_bar.shape == (0, 2)
    assert u_bar == [] if kind == "list" else u_bar.shape == (0, 3, 1)
    assert sim.jvp(none, controls, P, TS, dp=P).shape == (0, 5, 2)
    assert co.compile(oscillator().rhs)(0.0, none, np.zeros(1), P).shape == (0, 2)
    obj = co.Objective(sim, none, controls, TS, data=np.zeros((0, 5, 2)))
    assert obj(P)[0] == 0.0 and np.array_equal(obj(P)[1], np.zeros(2)) and obj.residuals(P).shape == (0,)


def test_inputs_shared_by_an_empty_batch_get_zero_gradients() -> None:
    sim, seeds = co.Simulator(oscillator(), solver=co.RK4()), np.zeros((0, 5, 2))
    _, _, u_bar = sim.vjp(np.zeros((0, 2)), linear(values=np.ones(3)), P, TS, seeds)
    assert np.array_equal(u_bar, np.zeros((1, 3, 1)))
    _, x0_bar, _ = sim.vjp(np.ones(2), linear(values=np.zeros((0, 3, 1))), P, TS, seeds)
    assert np.array_equal(x0_bar, np.zeros(2))


def lookup_model() -> co.ControlledODE:
    """A spring whose force is a spline table: an operation without a compiled form."""
    grid = np.linspace(-3.0, 3.0, 15)
    force = ca.interpolant("force", "bspline", [grid], np.sin(grid))
    return co.ControlledODE(lambda t, x, u, p: [x[1], u[0] - p[0] * force(x[0])], nx=2, nu=1, params=1)


@pytest.mark.parametrize("kind", ["bspline", "linear"])
def test_a_table_whose_gradient_would_be_zero(kind: str) -> None:
    """CasADi's `interpolant` with values as an input: refused, unless made with inline=True."""
    grid, values = list(np.linspace(0.0, 1.5, 6)), np.array([0.1, 0.3, 0.2, 0.5, 0.9, 1.0])
    silent = ca.interpolant("stock", kind, [grid], 1)
    with pytest.raises(co.ModelError, match=r"rhs: .*'stock'.*would be zero.*inline"):
        co.ControlledODE(lambda t, x, u, p: -silent(x[0], p), nx=1, params=6)
    with pytest.raises(co.ModelError, match=r"output: .*'stock'"):
        co.ControlledODE(lambda t, x, u, p: -x, nx=1, params=6, output=lambda t, x, u, p: silent(x[0], p))
    table = ca.interpolant("stock", kind, [grid], 1, {"inline": True})
    sim = co.Simulator(co.ControlledODE(lambda t, x, u, p: -table(x[0], p), nx=1, params=6), co.RK4(), backend="casadi")
    seeds = np.ones((5, 1))
    p_bar = sim.vjp([0.7], None, values, TS, seeds)[0]
    assert p_bar.sum() == pytest.approx(sim.jvp([0.7], None, values, TS, dp=np.ones(6)).sum(), rel=1e-12)
    assert np.abs(p_bar).max() > 0.1


@pytest.mark.parametrize("solver", [co.RK4(dt=1e-20), co.RK4(steps_per_interval=10**30), co.Rodas5P(dt=1e-9)])
def test_more_fixed_steps_than_memory_holds(solver: Any) -> None:
    sim = co.Simulator(oscillator(), solver)
    with pytest.raises(co.SolverError, match=r"steps of one trajectory, at most 50,000,000 .* adaptive"):
        sim(X0, linear(), P, TS)
    with pytest.raises(co.SolverError, match="at most 50,000,000"):
        co.Objective(sim, X0, linear(), TS, data=Y)


def test_an_operation_without_a_compiled_form() -> None:
    x0, controls, p = np.array([0.5, 0.0]), linear(values=np.ones(3)), np.array([1.3])
    with pytest.raises(co.UnsupportedOperation, match=r"force.*backend='casadi'"):
        co.Simulator(lookup_model(), solver=co.RK4(), backend="compiled")(x0, controls, p, TS)
    sim = co.Simulator(lookup_model(), solver=co.RK4(steps_per_interval=8))
    with pytest.warns(RuntimeWarning, match="force"):
        sol = sim(x0, controls, p, TS)
    smooth = co.ControlledODE(lambda t, x, u, p: [x[1], u[0] - p[0] * ca.sin(x[0])], nx=2, nu=1, params=1)
    np.testing.assert_allclose(sol.x, co.Simulator(smooth)(x0, controls, p, TS).x, atol=1e-4)
    p_bar, _, _ = sim.vjp(x0, controls, p, TS, np.ones((5, 2)))
    assert p_bar[0] == pytest.approx(sim.jvp(x0, controls, p, TS, dp=np.ones(1)).sum(), rel=1e-12)
    assert sim.backend == "casadi" and "force" in sim.explain()
