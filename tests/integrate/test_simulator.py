"""The public simulation: shapes, bad input, empty and ragged batches, results, solver settings."""

from __future__ import annotations

import pickle
import sys

import casadi as ca
import matplotlib
import numpy as np
import pytest

from ctrlode_casadi.base.errors import ControlError, DataError, MissingExtra, ModelError, SolverError
from ctrlode_casadi.base.status import Status
from ctrlode_casadi.controls import PiecewiseConstant, PiecewiseLinear
from ctrlode_casadi.integrate import (
    BS3,
    RK4,
    Adjoint,
    ContinuousAdjoint,
    Euler,
    Forward,
    Simulator,
    Tsit5,
)
from ctrlode_casadi.model.layout import ParameterLayout
from ctrlode_casadi.model.ode import ControlledODE
from integrate.problems import P, oscillator

TS = np.linspace(0.0, 1.0, 5)


def control(size=3):
    return PiecewiseLinear([0.0, 0.4, 1.0], np.arange(3.0 * size).reshape(size, 3, 1))


@pytest.fixture(scope="module")
def sim():
    return Simulator(oscillator(), RK4())


BAD = [
    ({"x0": np.zeros((3, 4))}, DataError, r"x0: expected shape .*nx=2"),
    ({"x0": np.zeros((2, 2))}, DataError, "x0 has 2, controls has 3"),
    ({"x0": np.array([np.nan, 0.0])}, DataError, "finite"),
    ({"x0": np.zeros(2, np.float32)}, DataError, "float32"),
    ({"x0": np.zeros(2, int)}, DataError, "int64"),
    ({"p": np.zeros(5)}, DataError, r"np=3.*\(5,\)"),
    ({"p": None}, DataError, "3 parameters, got None"),
    ({"p": np.array([1.0, np.inf, 1.0])}, DataError, "finite"),
    ({"controls": None}, ControlError, "nu=1"),
    ({"controls": np.zeros((3, 3))}, ControlError, "expected a control"),
    ({"controls": PiecewiseLinear([0.0, 1.0], np.zeros((3, 2, 2)))}, ControlError, "nu=1 entries, it has 2"),
    ({"controls": [control(3)] * 3}, ControlError, "belongs to one trajectory"),
    ({"ts": np.array([0.0, 2.0])}, ControlError, "outside"),
    ({"ts": np.array([0.0, 0.5, 0.5])}, DataError, r"ts\[1\]=0.5 and ts\[2\]=0.5"),
    ({"ts": np.array([1.0, 0.5])}, DataError, "increase strictly"),
    ({"ts": np.zeros(0)}, DataError, "at least one time"),
    ({"ts": np.zeros((2, 2, 2))}, DataError, "one axis"),
    ({"ts": [[0.0, 1.0], [0.0, 0.5]]}, DataError, "ts has 2"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_refused_before_anything_is_compiled(change, error, message):
    arguments = {"x0": np.zeros(2), "controls": control(), "p": P, "ts": TS} | change
    sim = Simulator(oscillator(), RK4())
    with pytest.raises(error, match=message):
        sim(**arguments)
    assert not sim._paths._engines


def test_bad_seeds_and_directions(sim):
    with pytest.raises(DataError, match=r"xbar: expected shape \(B=3, T=5, nx=2\)"):
        sim.vjp(np.zeros(2), control(), P, TS, np.zeros((3, 4, 2)))
    with pytest.raises(DataError, match="dp: expected"):
        sim.jvp(np.zeros(2), control(), P, TS, dp=np.zeros(2))
    with pytest.raises(DataError, match="du: expected"):
        sim.jvp(np.zeros(2), control(), P, TS, du=np.zeros((2, 3, 1)))
    with pytest.raises(DataError, match="dx0"):
        sim.jvp(np.zeros(2), control(), P, TS, dx0=np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tsit5(rtol=-1.0), "rtol.*non-negative"),
        (lambda: Tsit5(rtol=0.0, atol=0.0), "both be zero"),
        (lambda: Tsit5(atol="small"), "atol"),
        (lambda: Tsit5(max_steps=0), "max_steps"),
        (lambda: Tsit5(dt0=0.0), "dt0"),
        (lambda: RK4(steps_per_interval=0), "steps_per_interval"),
        (lambda: RK4(steps_per_interval=1.5), "integer"),
        (lambda: RK4(steps_per_interval=True), "integer"),
        (lambda: BS3(dt=np.nan), "dt"),
        (lambda: Euler(steps_per_interval=1, dt=0.1), "not both"),
        (lambda: Adjoint(checkpoints=0), "checkpoints"),
        (lambda: Forward(chunk=-1), "chunk"),
        (lambda: Simulator(oscillator(), "RK4"), "RK4"),
        (lambda: Simulator(oscillator(), RK4), "such as Tsit5"),
        (lambda: Simulator(oscillator(), Tsit5(atol=(1.0, 1.0, 1.0))), "nx=2 entries"),
        (lambda: Simulator(oscillator(), backend="gpu"), "unknown name 'gpu'"),
        (lambda: Simulator(oscillator(), backend="compield"), "did you mean 'compiled'"),
        (lambda: Simulator(oscillator(), sensitivity="adjont"), "did you mean 'adjoint'"),
        (lambda: Simulator(oscillator(), sensitivity=ContinuousAdjoint()), r"SUNDIALS.*use Adjoint\(\)"),
        (lambda: Simulator(oscillator(), dtype="float16"), "float16"),
        (lambda: Simulator(oscillator(), threads=0), "threads"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(SolverError, match=message):
        make()


def test_a_simulator_needs_an_ode():
    with pytest.raises(ModelError, match="ControlledODE"):
        Simulator(lambda t, x, u, p: x)
    dae = ControlledODE(lambda t, x, u, p, z: -z, nx=1, nz=1, algebraic=lambda t, x, u, p, z: z - x)
    with pytest.raises(ModelError, match="nz=1"):
        Simulator(dae, Tsit5())


def test_shapes_of_the_result(sim):
    sol = sim(np.zeros(2), control(), P, TS)
    assert (len(sol), sol.t.shape, sol.x.shape, sol.y.shape, sol.u.shape) == (3, (5,), (3, 5, 2), (3, 5, 2), (3, 5, 1))
    assert sol.success.tolist() == [True] * 3 and sol.status == [Status.SUCCESS] * 3
    assert set(sol.stats) == {"n_steps", "n_rejected", "n_rhs"}
    np.testing.assert_allclose(sol.u, control()(TS))
    assert sol[1].x.shape == (1, 5, 2) and np.array_equal(sol[-1].x[0], sol.x[2])
    assert np.array_equal(sol[1].u[0], sol.u[1])


def test_inputs_are_not_modified(sim):
    x0, p, ts, c = np.ones((3, 2)), P.copy(), TS.copy(), control()
    sim.vjp(x0, c, p, ts, np.ones((3, 5, 2)))
    sim.jvp(x0, c, p, ts, dp=p)
    assert np.array_equal(x0, np.ones((3, 2))) and np.array_equal(p, P) and np.array_equal(ts, TS)


def test_no_control_and_no_parameters():
    decay = Simulator(ControlledODE(lambda t, x, u, p: -x, nx=1), Tsit5(rtol=1e-10, atol=1e-12))
    sol = decay([[1.0], [2.0]], None, None, TS)
    np.testing.assert_allclose(sol.x[:, :, 0], [[1], [2]] * np.exp(-TS), rtol=1e-8)
    assert sol.u.shape == (2, 5, 0)
    p_bar, x0_bar, u_bar = decay.vjp([[1.0], [2.0]], None, None, TS, np.ones((2, 5, 1)))
    assert p_bar.shape == (0,) and u_bar is None
    np.testing.assert_allclose(x0_bar[:, 0], np.exp(-TS).sum(), rtol=1e-7)


@pytest.mark.parametrize("solver", [RK4(), Tsit5()])
def test_one_save_time(solver):
    sim = Simulator(oscillator(), solver)
    sol = sim(np.ones(2), control(), P, [0.3])
    assert np.array_equal(sol.x, np.ones((3, 1, 2))) and sol.success.all()
    assert np.array_equal(sim.vjp(np.ones((3, 2)), control(), P, [0.3], np.ones((3, 1, 2)))[1], np.ones((3, 2)))


def test_empty_batch(sim):
    empty = PiecewiseLinear([0.0, 1.0], np.zeros((0, 2, 1)))
    sol = sim(np.zeros((0, 2)), empty, P, TS)
    assert (sol.x.shape, sol.y.shape, sol.u.shape, sol.success.shape) == ((0, 5, 2), (0, 5, 2), (0, 5, 1), (0,))
    p_bar, x0_bar, u_bar = sim.vjp(np.zeros((0, 2)), empty, P, TS, np.zeros((0, 5, 2)))
    assert (p_bar.tolist(), x0_bar.shape, u_bar.shape) == ([0.0] * 3, (0, 2), (0, 2, 1))
    assert sim.jvp(np.zeros((0, 2)), empty, P, TS, dp=P).shape == (0, 5, 2)


@pytest.mark.parametrize("solver", [RK4(), Tsit5(rtol=1e-7)])
def test_ragged_batch(solver, rng):
    sim = Simulator(oscillator(), solver)
    times = [np.array([0.0, 0.5, 1.0]), np.array([0.2, 0.9]), np.array([0.1, 0.2, 0.3, 0.4])]
    controls = [PiecewiseLinear(np.linspace(0, 1, 3 + b), rng.standard_normal(3 + b)) for b in range(3)]
    x0, seeds = rng.standard_normal((3, 2)), rng.standard_normal((3, 4, 2))
    du = [rng.standard_normal((1, 3 + b, 1)) for b in range(3)]
    sol = sim(x0, controls, P, times)
    assert sol.t.shape == (3, 4) and np.isnan(sol.t[1, 2:]).all() and np.isnan(sol.x[1, 2:]).all()
    _, x0_bar, u_bar = sim.vjp(x0, controls, P, times, seeds)
    dx = sim.jvp(x0, controls, P, times, du=du)
    for b in range(3):
        alone = sim(x0[b], controls[b], P, times[b])
        assert np.array_equal(sol[b].x, alone.x) and np.array_equal(sol[b].u, alone.u)
        one = sim.vjp(x0[b], controls[b], P, times[b], seeds[b, : times[b].size])
        np.testing.assert_allclose(x0_bar[b], one[1], rtol=1e-12)
        np.testing.assert_allclose(u_bar[b], one[2][0], rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(
            dx[b, : times[b].size], sim.jvp(x0[b], controls[b], P, times[b], du=du[b])[0], rtol=1e-12, atol=1e-14
        )


def test_output_map_and_tables():
    layout = ParameterLayout(rate=1, gain=1)
    model = ControlledODE(
        lambda t, x, u, p: -p.rate * x + u, nx=1, nu=1, params=layout,
        output=lambda t, x, u, p: [p.gain * x + t, u],
        state_names=("h",), control_names=("v",), output_names=("a", "b"),
    )  # fmt: skip
    c = PiecewiseConstant([0.0, 0.5, 1.0], np.array([[[1.0], [2.0], [3.0]]]))
    sol = Simulator(model, RK4())([[1.0], [2.0]], c, [0.5, 3.0], TS)
    np.testing.assert_allclose(sol.y[:, :, 0], 3.0 * sol.x[:, :, 0] + TS, rtol=1e-14)
    np.testing.assert_allclose(sol.y[0, :, 1], [1, 1, 2, 2, 3])


def test_plot(sim):
    matplotlib.use("Agg")
    axes = sim(np.zeros(2), control(), P, TS).plot()
    assert len(axes.lines) == 6 and axes.get_xlabel() == "t"


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [("plot", "matplotlib.pyplot", "plot"), ("to_xarray", "xarray", "data"), ("to_dataframe", "pandas", "data")],
)
def test_missing_extras_name_the_command(method, module, extra, sim, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    sol = sim(np.zeros(2), control(), P, TS)
    with pytest.raises(MissingExtra, match=rf"ctrlode_casadi\[{extra}\]"):
        getattr(sol, method)()


def test_dataframe_and_dataset(sim):
    sol = sim(np.zeros(2), control(), P, TS)
    frame = sol.to_dataframe()
    assert frame.shape == (15, 3) and frame.index.names == ["trajectory", "t"]
    np.testing.assert_array_equal(frame["x1"].to_numpy().reshape(3, 5), sol.x[:, :, 1])
    data = sol.to_xarray()
    assert data["x"].dims == ("trajectory", "time", "state")


def test_pickled_simulator(sim):
    copy = pickle.loads(pickle.dumps(sim))
    assert np.array_equal(copy(np.zeros(2), control(), P, TS).x, sim(np.zeros(2), control(), P, TS).x)


def test_explain(sim):
    sim(np.zeros(2), control(), P, TS)
    text = sim.explain()
    for part in ("backend: compiled", "RK4", "order 4", "lanes", "threads"):
        assert part in text
    assert Simulator(oscillator(), backend="casadi").backend == "casadi"


@pytest.mark.parametrize("backend", ["auto", "compiled", "casadi"])
def test_requested_backend_compiles_nothing(backend):
    sim = Simulator(oscillator(), backend=backend)
    assert sim.requested_backend == pickle.loads(pickle.dumps(sim)).requested_backend == backend
    assert not sim._paths._engines


def test_single_precision_must_not_be_mixed():
    sim = Simulator(oscillator(), RK4(), dtype="float32")
    with pytest.raises(DataError, match="float types must not be mixed"):
        sim(np.zeros(2, np.float32), control(), P.astype(np.float32), TS)
    with pytest.raises(DataError, match="float64"):
        sim(np.zeros(2), control(), P.astype(np.float32), TS)


def test_to_casadi_has_derivatives():
    f = Simulator(oscillator(), RK4()).to_casadi(TS, control()[0])
    p = ca.MX.sym("p", 3)
    jacobian = ca.Function("J", [p], [ca.jacobian(f([0.1, 0.2], control()[0].values[0].T, p)[:, -1], p)])
    dx = Simulator(oscillator(), RK4()).jvp([0.1, 0.2], control()[0], P, TS, dp=np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(np.asarray(jacobian(P))[:, 1], dx[0, -1], rtol=1e-12)


def test_repr_names_sizes_solver_and_back_end():
    text = repr(Simulator(oscillator(), RK4(steps_per_interval=2), backend="casadi"))
    assert text.startswith("Simulator(nx=2") and "RK4(steps_per_interval=2" in text and "'casadi'" in text
