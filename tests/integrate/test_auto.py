"""The automatic choice between an explicit and a stiff method, against these methods alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.integrate import batch as batch_module, tableaus
from integrate.problems import P, blow_up, oscillator

SETTINGS = {"rtol": 1e-6, "atol": 1e-8}
TS = np.linspace(0.0, 12.0, 9)
#: From an oscillator to a relaxation oscillation; the explicit method is in trouble from about 50 on.
MU = np.array([1000.0, 0.1, 200.0, 2.0, 0.5, 500.0, 1.0, 100.0, 5.0, 300.0])
STIFF = MU > 50


def van_der_pol(t, x, u, p):
    return [p[0] * x[1], u[0] * (1 - p[1] * x[0] ** 2) * x[1] - x[0] + p[2] * u[1]]


MODEL = co.ControlledODE(van_der_pol, nx=2, nu=2, params=3, output=lambda t, x, u, p: [x[0] + p[2] * x[1] / (1 + u[0])])
Q = np.array([1.0, 1.1, 0.3])


def simulators(model=MODEL, **options):
    solvers = [co.Auto(**SETTINGS), co.Tsit5(**SETTINGS), co.Rodas5P(**SETTINGS)]
    return [co.Simulator(model, solver, **options) for solver in solvers]


def inputs(size, rng, dtype="float64"):
    """Initial states, and controls (mu, force) with mu constant along each trajectory."""
    knots = np.linspace(0.0, 12.0, 4)
    values = np.zeros((size, 4, 2))
    values[:, :, 0], values[:, :, 1] = MU[:size, None], rng.standard_normal((size, 4))
    x0 = np.column_stack([2.0 + 0.1 * rng.standard_normal(size), np.zeros(size)])
    return x0.astype(dtype), co.PiecewiseLinear(knots, values.astype(dtype), dtype=dtype)


@pytest.mark.parametrize("tab", [tableaus.tsit5(), tableaus.dopri5()])
def test_limit_of_the_test_is_that_of_real_stability(tab):
    def growth(z):
        return abs(1 - z * tab.b @ np.linalg.solve(np.eye(tab.stages) + z * tab.A, np.ones(tab.stages)))

    assert max(growth(z) for z in np.linspace(0.01, tab.stability, 500)) < 1
    assert growth(1.03 * tab.stability) > 1
    assert tab.c[tab.trial - 2] == tab.c[tab.trial - 1] == 1.0


@pytest.mark.parametrize("size", [1, 7, 8, 9, 21])
def test_problems_that_are_not_stiff_are_those_of_the_explicit_method(size, rng):
    x0, ts = rng.standard_normal((size, 2)), np.linspace(0.0, 3.0, 9)
    control = co.CubicSpline([0.0, 0.7, 1.1, 2.0, 3.0], rng.standard_normal((size, 5, 1)))
    auto, explicit, _ = simulators(oscillator())
    one, two = auto(x0, control, P, ts), explicit(x0, control, P, ts)
    assert np.array_equal(one.x, two.x) and not one.stats["stiff"].any()
    for name, counted in two.stats.items():  # among them evaluations of the right-hand side: the test needs none
        assert np.array_equal(one.stats[name], counted)
    seeds = rng.standard_normal((size, 9, 2))
    explicit = explicit.with_sensitivity("adjoint")
    for a, b in zip(auto.vjp(x0, control, P, ts, seeds), explicit.vjp(x0, control, P, ts, seeds), strict=True):
        assert np.array_equal(a, b)
    direction = rng.standard_normal(3)
    assert np.array_equal(auto.jvp(x0, control, P, ts, dp=direction), explicit.jvp(x0, control, P, ts, dp=direction))
    assert f"0 of {size} trajectories were stiff" in auto.explain()


@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_stiff_problems_are_those_of_the_stiff_method(size, rng):
    def robertson(t, x, u, p):
        a, b, c = p[0] * x[0], p[1] * x[1] * x[2], p[2] * x[1] ** 2
        return [-a + b, a - b - c, c]

    model = co.ControlledODE(robertson, nx=3, params=3)
    p, x0 = np.array([0.04, 1e4, 3e7]), np.column_stack([rng.uniform(0.9, 1.1, size), np.zeros((size, 2))])
    ts, seeds = np.array([0.0, 1.0, 1e4]), rng.standard_normal((size, 3, 3))
    auto, stiff = (co.Simulator(model, s(rtol=1e-6, atol=1e-12)) for s in (co.Auto, co.Rodas5P))
    one, two = auto(x0, None, p, ts), stiff(x0, None, p, ts)
    assert one.stats["stiff"].all() and one.success.all()
    assert np.array_equal(one.x, two.x) and np.array_equal(one.stats["n_steps"], two.stats["n_steps"])
    tried = one.stats["n_rhs"] - two.stats["n_rhs"]  # evaluations until stiffness was found
    assert (tried > 90).all() and (tried < 600).all()
    for a, b in zip(auto.vjp(x0, None, p, ts, seeds)[:2], stiff.vjp(x0, None, p, ts, seeds)[:2], strict=True):
        assert np.array_equal(a, b)


def single(rows, explicit, stiff, call):
    """`call(simulator, rows)` for the two methods, each on its own trajectories."""
    return [(r, call(sim, r)) for sim, r in ((explicit, rows[~STIFF[rows]]), (stiff, rows[STIFF[rows]])) if r.size]


@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_mixed_batch(size, rng):
    x0, control = inputs(size, rng)
    auto, explicit, stiff = simulators()
    sol, rows, seeds = auto(x0, control, Q, TS), np.arange(size), rng.standard_normal((size, 9, 2))
    assert np.array_equal(sol.stats["stiff"], STIFF[:size]) and sol.success.all()
    for b, alone in ((~STIFF[:size], explicit), (STIFF[:size], stiff)):
        whole = alone(x0, control, Q, TS)
        for name in ("n_steps", "n_rejected"):
            assert np.array_equal(sol.stats[name][b], whole.stats[name][b])
        assert np.array_equal(sol.x[b], whole.x[b])
    assert f"{STIFF[:size].sum()} of {size} trajectories were stiff" in auto.explain()
    made = auto.vjp(x0, control, Q, TS, seeds)
    parts = single(rows, explicit, stiff, lambda sim, r: sim.vjp(x0[r], control[r], Q, TS, seeds[r]))
    np.testing.assert_allclose(made[0], sum(p[0] for _, p in parts), rtol=1e-10)
    for r, (_, x_bar, u_bar) in parts:
        np.testing.assert_allclose(made[1][r], x_bar, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(made[2][r], u_bar, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["own", "shared", "list"])
@pytest.mark.parametrize("chunk", [4, 4096])
def test_adjoint_is_the_transpose_of_the_tangent(kind, chunk, rng, monkeypatch):
    """All layouts of controls, in one chunk of trajectories and in several."""
    monkeypatch.setattr(batch_module, "CHUNK", chunk)
    x0, control = inputs(10, rng)
    p, model = Q, MODEL
    if kind == "shared":  # mu is a state that stays as it is

        def rhs(t, x, u, p):
            return [p[0] * x[1], x[2] * (1 - p[1] * x[0] ** 2) * x[1] - x[0] + p[2] * u[0], 0 * x[0]]

        model = co.ControlledODE(rhs, nx=3, nu=1, params=3)
        x0 = np.column_stack([x0, MU])
        control = co.PiecewiseConstant([0.0, 4.0, 8.0, 12.0], rng.standard_normal((4, 1)))
    if kind == "list":
        more = [np.sort(np.append(rng.uniform(0.1, 11.9, 2 + b % 3), [0.0, 12.0])) for b in range(10)]
        control = [co.PiecewiseLinear(k, np.stack([np.full(k.size, MU[b]), np.cos(k)], 1)) for b, k in enumerate(more)]
    auto, seeds = simulators(model)[0], rng.standard_normal((10, 9, x0.shape[1]))
    dp, dx0 = rng.standard_normal(3), rng.standard_normal(x0.shape)
    listed = control if isinstance(control, list) else [control]
    du = [rng.standard_normal(c.values.shape) for c in listed]
    changes = du if isinstance(control, list) else du[0]
    sol, dx = auto(x0, control, p, TS), auto.jvp(x0, control, p, TS, dp, dx0, changes)
    assert np.array_equal(sol.stats["stiff"], STIFF) and sol.success.all()
    p_bar, x0_bar, u_bar = auto.vjp(x0, control, p, TS, seeds)
    bars = u_bar if isinstance(control, list) else [u_bar]
    right = (
        p_bar @ dp + np.sum(x0_bar * dx0) + sum(np.sum(a * b.reshape(a.shape)) for a, b in zip(bars, du, strict=True))
    )
    assert abs(np.sum(seeds * dx) - right) < 1e-10 * np.abs(seeds * dx).sum()
    few = auto.with_sensitivity(co.Adjoint(checkpoints=3)).vjp(x0, control, p, TS, seeds)
    np.testing.assert_allclose(few[0], p_bar, rtol=1e-10)
    forward = auto.with_sensitivity(co.Forward()).vjp(x0, control, p, TS, seeds)
    np.testing.assert_allclose(forward[0], p_bar, rtol=1e-7)
    np.testing.assert_allclose(forward[1], x0_bar, rtol=1e-6, atol=1e-8)


def test_the_choice_belongs_to_the_trajectory(rng):
    """Other neighbours, another order, threads, and calls before: the same bits."""
    x0, control = inputs(10, rng)
    auto, order, seeds = simulators()[0], rng.permutation(10), rng.standard_normal((10, 9, 2))
    sol, bars = auto(x0, control, Q, TS), auto.vjp(x0, control, Q, TS, seeds)
    other = auto(x0[order], control[order], Q, TS)
    assert np.array_equal(other.x, sol.x[order]) and np.array_equal(other.stats["stiff"], STIFF[order])
    again, many = auto.vjp(x0, control, Q, TS, seeds), simulators(threads=3)[0].vjp(x0, control, Q, TS, seeds)
    one = simulators(threads=1)[0].vjp(x0, control, Q, TS, seeds)
    for a, b, c, d in zip(bars, again, many, one, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c) and np.array_equal(a, d)


def test_other_trajectories_of_the_same_batch(rng):
    """Controls and save times stay, and which trajectories are stiff changes from call to call."""
    model = co.ControlledODE(lambda t, x, u, p: [-x[1] * (p[0] * x[0] - u[0]), 0 * x[1]], nx=2, nu=1, params=1)
    ts, seeds = np.linspace(0.0, 3.0, 4), rng.standard_normal((9, 4, 2))
    control = co.PiecewiseLinear([0.0, 1.5, 3.0], rng.standard_normal((9, 3, 1)))
    auto, explicit, stiff = simulators(model, sensitivity="adjoint")
    for _ in range(3):
        hard = rng.permutation(9) < 4
        x0 = np.column_stack([rng.standard_normal(9), np.where(hard, 1e4, 1.0)])
        sol, bars = auto(x0, control, [1.3], ts), auto.vjp(x0, control, [1.3], ts, seeds)
        assert np.array_equal(sol.stats["stiff"], hard)
        for rows, alone in ((hard, stiff), (~hard, explicit)):
            assert np.array_equal(sol.x[rows], alone(x0, control, [1.3], ts).x[rows])
            truth = alone.vjp(x0[rows], control[np.flatnonzero(rows)], [1.3], ts, seeds[rows])
            np.testing.assert_allclose(bars[1][rows], truth[1], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(bars[2][rows], truth[2], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [4, 4096])
def test_ragged_records(chunk, rng, monkeypatch):
    monkeypatch.setattr(batch_module, "CHUNK", chunk)
    x0, control = inputs(7, rng)
    ts = [np.linspace(0.0, 10.0 + 0.2 * b, 4 + b) for b in range(7)]
    auto, explicit, stiff = simulators()
    sol = auto(x0, control, Q, ts)
    for b in range(7):
        alone = (stiff if STIFF[b] else explicit)(x0, control, Q, ts)
        assert np.array_equal(sol.x[b], alone.x[b], equal_nan=True)


def objective(sim, rng, **options):
    x0, control = inputs(9, rng)
    data = rng.standard_normal((9, 9, 1))
    return co.Objective(sim, x0, control, TS, data=data, **options)


@pytest.mark.parametrize("how", ["adjoint", "forward"])
def test_objective_on_a_mixed_batch(how, rng):
    sim = co.Simulator(MODEL, co.Auto(rtol=1e-9, atol=1e-11), sensitivity=how)
    obj = objective(sim, rng, running=lambda t, x, u, y, p: p[2] * x[0] ** 2)
    value, gradient = obj(Q)
    assert value == pytest.approx(obj.value(Q), rel=1e-12)
    step = 1e-5 * np.eye(3)
    differences = [(obj.value(Q + h) - obj.value(Q - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(gradient, differences, rtol=2e-5)
    v = rng.standard_normal(3)
    products = (obj(Q + 1e-5 * v)[1] - obj(Q - 1e-5 * v)[1]) / 2e-5
    np.testing.assert_allclose(obj.hessp(Q, v), products, rtol=1e-4)


def test_least_squares_on_a_mixed_batch(rng):
    obj = objective(simulators()[0], rng)
    residuals, jacobian = obj.residuals(Q), obj.jac(Q)
    value, gradient = obj(Q)
    assert value == pytest.approx(residuals @ residuals, rel=1e-10)
    np.testing.assert_allclose(2 * jacobian.T @ residuals, gradient, rtol=1e-8)


def test_single_precision(rng):
    x0, control = inputs(9, rng, "float32")
    p, seeds = Q.astype(np.float32), rng.standard_normal((9, 9, 2)).astype(np.float32)
    auto, explicit, stiff = simulators(dtype="float32")
    sol = auto(x0, control, p, TS)
    assert sol.x.dtype == np.float32 and np.array_equal(sol.stats["stiff"], STIFF[:9]) and sol.success.all()
    for b, alone in ((~STIFF[:9], explicit), (STIFF[:9], stiff)):
        assert np.array_equal(sol.x[b], alone(x0, control, p, TS).x[b])
        x_bar = auto.vjp(x0, control, p, TS, seeds)[1]
        np.testing.assert_allclose(x_bar[b], alone.vjp(x0, control, p, TS, seeds)[1][b], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(("most", "stiff"), [(30, [True, False, False, False]), (40, [True, False, True, False])])
def test_step_limit(most, stiff, rng):
    """Where the explicit method is at the limit the stiff one is tried; if that fails, too, the explicit result stands.

    The stiff method needs 21, 111, 74 and 234 trials, stiffness is found after some 40; knots add to the limit.
    """
    x0, control = inputs(10, rng)
    x0, control = x0[:4], control[:4]
    solver = co.Auto(max_steps=most, **SETTINGS)
    auto, *alone = (co.Simulator(MODEL, s) for s in (solver, solver.explicit_solver, solver.stiff_solver))
    sol, others = auto(x0, control, Q, TS), [sim(x0, control, Q, TS) for sim in alone]
    assert sol.status == [co.Status.SUCCESS] + [co.Status.MAX_STEPS] * 3
    assert list(sol.stats["stiff"]) == stiff
    for b in range(4):
        assert np.array_equal(sol.x[b], others[stiff[b]].x[b], equal_nan=True)
    seeds = rng.standard_normal((4, 9, 2))
    with pytest.warns(co.IntegrationWarning, match="3 of 4"):
        made = auto.vjp(x0, control, Q, TS, seeds)
    truth = alone[1].vjp(x0[:1], control[:1], Q, TS, seeds[:1])
    np.testing.assert_allclose(made[0], truth[0], rtol=1e-10)
    np.testing.assert_allclose(made[1][:1], truth[1], rtol=1e-10)
    assert not made[1][1:].any() and not made[2][1:].any()


def test_failures_of_the_solution_stand():
    control = co.PiecewiseConstant([0.0, 2.0], np.zeros((3, 2, 1)))
    x0 = np.array([[0.1], [2.0], [0.2]])
    auto, explicit, _ = simulators(blow_up())
    one, two = auto(x0, control, [1.0], [0.0, 2.0]), explicit(x0, control, [1.0], [0.0, 2.0])
    assert one.status == two.status and not one.success[1] and not one.stats["stiff"].any()
    with pytest.warns(co.IntegrationWarning, match="1 of 3"):
        auto.vjp(x0, control, [1.0], [0.0, 2.0], np.ones((3, 2, 1)))


def test_an_explicit_method_says_that_the_model_is_stiff():
    decay = co.ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    for solver in (co.Tsit5(max_steps=300), co.Dopri5(max_steps=300)):
        assert co.Simulator(decay, solver)([1.0], None, [1e4], [0.0, 10.0]).status == [co.Status.STIFF]
    assert "solver='auto'" in co.Status.STIFF.message and "solver='auto'" in co.Status.MAX_STEPS.message
    fast = co.ControlledODE(lambda t, x, u, p: [p[0] * x[1], -p[0] * x[0]], nx=2, params=1)
    sol = co.Simulator(fast, co.Tsit5(max_steps=300))([1.0, 0.0], None, [1e4], [0.0, 10.0])
    assert sol.status == [co.Status.MAX_STEPS]  # a fast oscillation is work, not stiffness


def test_short_stiff_phases_do_not_add_up():
    """Six pulses with a fast decay, each of a few steps at the limit of stability; between them an easy oscillation."""
    model = co.ControlledODE(lambda t, x, u, p: [3 * x[1], -3 * x[0], -u[0] * (x[2] - x[0])], nx=3, nu=1)
    knots = np.sort(np.concatenate([np.arange(0.0, 19.0, 3.0), 0.004 + np.arange(0.0, 18.0, 3.0)]))
    pulses = co.PiecewiseConstant(knots, np.where(np.arange(knots.size) % 2 == 0, 1e4, 1.0))
    lasting = pulses.with_values(np.full(pulses.values.shape, 1e4))
    sim = co.Simulator(model, "auto")
    found = [sim([1.0, 0.0, 1.0], c, None, [0.0, 18.0]).stats["stiff"][0] for c in (pulses, lasting)]
    assert found == [False, True]


def test_a_tangent_follows_the_choice_of_its_state():
    """A fast mode that the state does not have and the change has: the derivative is that of the numbers computed."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -x[0], -20 * x[2]], nx=3)
    ts, change = np.linspace(0.0, 30.0, 4), np.array([0.0, 0.0, 1.0])
    auto, explicit, stiff = simulators(model)
    assert not auto([1.0, 0.0, 0.0], None, None, ts).stats["stiff"].any()
    dx = [sim.jvp([1.0, 0.0, 0.0], None, None, ts, dx0=change) for sim in (auto, explicit, stiff)]
    assert np.array_equal(dx[0], dx[1]) and abs(dx[0][0, -1, 2]) > 1 > 1e6 * abs(dx[2][0, -1, 2])


def test_daes_go_to_the_stiff_method(rng):
    model = co.ControlledODE(
        lambda t, x, u, p, z: -p[0] * z, nx=1, params=1, nz=1, algebraic=lambda t, x, u, p, z: z**3 + z - x, z0=[0.5]
    )
    sims = [co.Simulator(model, s(**SETTINGS)) for s in (co.Auto, co.Rodas5P)]
    x0, ts = rng.uniform(1.0, 2.0, (3, 1)), np.linspace(0.0, 1.0, 4)
    one, two = (sim(x0, None, [1.0], ts) for sim in sims)
    assert np.array_equal(one.x, two.x) and np.array_equal(one.z, two.z) and one.stats["stiff"].all()
    data = rng.standard_normal((3, 4, 1))
    (a, da), (b, db) = (co.Objective(sim, x0, None, ts, data=data)(np.ones(1)) for sim in sims)
    assert a == b and np.array_equal(da, db)


def test_settings():
    sim = co.Simulator(MODEL, "auto")
    assert sim.solver == co.Auto() and sim.solver.order == 5 and sim.solver.adaptive
    assert pickle.loads(pickle.dumps(sim)).solver == co.Auto() == sim.with_solver("auto").solver
    other = co.Auto(rtol=1e-4, explicit=co.Dopri5, stiff=co.Rodas4)
    assert other.explicit_solver == co.Dopri5(rtol=1e-4) and other.stiff_solver == co.Rodas4(rtol=1e-4)
    assert repr(other).endswith("explicit=Dopri5, stiff=Rodas4)") and other.tableau.name == "Dopri5"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"explicit": co.BS3}, "BS3 has no stiffness test"),
        ({"explicit": co.RK4}, "expected the class Tsit5"),
        ({"explicit": co.Tsit5()}, "expected the class Tsit5"),
        ({"stiff": co.Tsit5}, "expected the class Rodas5P"),
        ({"rtol": -1.0}, "Auto"),
    ],
)
def test_bad_settings(options, match):
    with pytest.raises(co.SolverError, match=match):
        co.Auto(**options)


def test_bad_uses():
    with pytest.raises(co.SolverError, match="expected 'auto' or"):
        co.Simulator(MODEL, "Tsit5")
    with pytest.raises(co.UnsupportedOperation, match="Auto runs in compiled form only"):
        co.Simulator(MODEL, "auto", backend="casadi")
    with pytest.raises(co.SolverError, match="no step of its own"):
        MODEL.step(co.Auto(), 0.1)


def test_time_limit(rng):
    """The limit holds for both methods together."""
    x0, control = inputs(10, rng)
    sol = co.Simulator(MODEL, "auto", time_limit=1e-9)(x0, control, Q, TS)
    assert sol.status == [co.Status.TIME_LIMIT] * 10 and not sol.stats["stiff"].any()
