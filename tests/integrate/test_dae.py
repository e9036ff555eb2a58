"""DAEs of index 1 and mass matrices with Rodas5P, against the eliminated ODE."""

from __future__ import annotations

import pickle

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.base.errors import DataError, ModelError, SolverError, UnsupportedOperation
from ctrlode_casadi.base.status import Status
from ctrlode_casadi.lowering.kernels import simd_width
from ctrlode_casadi.model.system import system_of

KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])
P = np.array([1.3, 0.4])
W = simd_width("float64")


def rhs(t, x, u, p, z):
    return [0.5 * x[1] * z[0], -p[0] * x[0] * z[0] + u[0]]


def level(t, x, u, p):
    return p[1] + x[0] ** 2 + 0.3 * u[0] + 0.1 * ca.sin(t)


def algebraic(t, x, u, p, z):
    """z^3 + z = level: one real solution."""
    return z[0] ** 3 + z[0] - level(t, x, u, p)


def root(t, x, u, p):
    """Cardano's solution."""
    half = 0.5 * level(t, x, u, p)
    d = ca.sqrt(half**2 + 1.0 / 27.0)
    return (half + d) ** (1.0 / 3.0) - (d - half) ** (1.0 / 3.0)


def output(t, x, u, p, z):
    return [x[0], p[0] * z[0]]


def dae(**options):
    return co.ControlledODE(rhs, nx=2, nu=1, params=2, nz=1, algebraic=algebraic, **options)


def eliminated(**options):
    def ode(t, x, u, p):
        return rhs(t, x, u, p, [root(t, x, u, p)])

    return co.ControlledODE(ode, nx=2, nu=1, params=2, **options)


def inputs(kind, size, rng):
    control = kind(KNOTS, rng.standard_normal((size, 5, 1)))
    ts = np.sort(np.append(0.0, rng.uniform(0.0, 3.0, 8)))
    return rng.standard_normal((size, 2)), control, P, ts


# --- values and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [co.PiecewiseConstant, co.PiecewiseLinear, co.CubicSpline])
@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_against_the_eliminated_ode(kind, size, rng):
    """States, algebraic variables and gradients; a constant control jumps, and z jumps with it."""
    given = inputs(kind, size, rng)
    sim = co.Simulator(dae(), co.Rodas5P(rtol=1e-8, atol=1e-10), "adjoint")
    truth = co.Simulator(eliminated(output=root), co.DOP853(rtol=1e-11, atol=1e-12), "adjoint")
    sol, wanted = sim(*given), truth(*given)
    assert sol.success.all() and sol.z.shape == (size, 9, 1)
    np.testing.assert_allclose(sol.x, wanted.x, atol=1e-6)
    np.testing.assert_allclose(sol.z, wanted.y, atol=1e-6)
    seeds = rng.standard_normal((size, 9, 2))
    for one, two in zip(sim.vjp(*given, seeds), truth.vjp(*given, seeds), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize("solver", [co.Rodas5P(rtol=1e-5), co.Rodas5P(steps_per_interval=6), co.Rodas4(rtol=1e-4)])
@pytest.mark.parametrize("kind", [co.PiecewiseConstant, co.CubicSpline])
def test_adjoint_is_the_transpose_of_the_tangent(solver, kind, rng):
    given = inputs(kind, W + 1, rng)
    x0, control, *_ = given
    seeds = rng.standard_normal((W + 1, 9, 2))
    dp, dx0, du = rng.standard_normal(2), rng.standard_normal(x0.shape), rng.standard_normal(control.values.shape)
    dx = co.Simulator(dae(), solver).jvp(*given, dp, dx0, du)
    sensitivities = (co.Adjoint(), co.Adjoint(checkpoints=2), co.Forward())
    for sensitivity in sensitivities:
        p_bar, x0_bar, u_bar = co.Simulator(dae(), solver, sensitivity).vjp(*given, seeds)
        total = p_bar @ dp + np.sum(x0_bar * dx0) + np.sum(u_bar * du)
        assert np.sum(seeds * dx) == pytest.approx(total, abs=1e-11 * np.abs(seeds * dx).sum())


@pytest.mark.parametrize("kind", [co.PiecewiseConstant, co.PiecewiseLinear])
def test_measured_order(kind, rng):
    """Order 5 for x and z with fixed steps, across jumps of the algebraic variables too."""
    x0, control, p, _ = inputs(kind, 1, rng)
    ts = np.array([0.0, 1.5, 2.9])
    truth = co.Simulator(eliminated(output=root), co.DOP853(rtol=1e-12, atol=1e-13))(x0, control, p, ts)
    counts, errors = np.array([24, 48]), []
    for n in counts:
        sol = co.Simulator(dae(), co.Rodas5P(steps_per_interval=int(n)))(x0, control, p, ts)
        errors.append([np.abs(sol.x - truth.x).max(), np.abs(sol.z - truth.y).max()])
    assert np.all(np.log2(np.array(errors[0]) / errors[1]) > 4.6)


def test_fixed_steps_against_differences(rng):
    """Gradient of z and x through outputs, with jumps, against extrapolated differences of the same steps."""
    x0, control, p, ts = inputs(co.PiecewiseConstant, 3, rng)
    sim = co.Simulator(dae(output=output), co.Rodas5P(steps_per_interval=2), "adjoint")
    obj = co.Objective(sim, x0, control, ts, data=rng.standard_normal((3, 9, 2)))
    g = obj.grad(p)
    for c in range(2):
        d, h = np.eye(2)[c], 1e-3
        wide, half = (obj.value(p + s * d) - obj.value(p - s * d) for s in (2 * h, h))
        assert (8 * half - wide) / (12 * h) == pytest.approx(g[c], rel=1e-9)


@pytest.mark.parametrize("free", [False, True])
def test_objective_with_algebraic_outputs(free, rng):
    x0, control, p, ts = inputs(co.PiecewiseConstant, 3, rng)
    data = rng.standard_normal((3, 9, 2))
    ode = eliminated(output=lambda t, x, u, p: output(t, x, u, p, [root(t, x, u, p)]))
    found = []
    for model, solver in ((ode, co.DOP853(rtol=1e-11, atol=1e-12)), (dae(output=output), co.Rodas5P(rtol=1e-9))):
        obj = co.Objective(co.Simulator(model, solver), co.Free(x0) if free else x0, control, ts, data=data)
        theta = obj.append_free(p) if free else p
        v = np.linspace(0.3, -0.2, theta.size)
        value, g = obj(theta)
        found.append([np.array([value]), g, obj.hessp(theta, v), obj.jac(theta), obj.residuals(theta)])
        assert obj.derivative_along(theta, v) == pytest.approx(g @ v, rel=1e-11)
        assert pickle.loads(pickle.dumps(obj))(theta)[0] == value
        assert obj.initial_states(theta).shape == (3, 2)
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("mass", [False, True])
def test_default_solver(mass, rng):
    """Without a solver a DAE is integrated by Rodas5P with the default tolerances, and said to be; an ODE by Tsit5."""

    def whole(t, x, u, p):
        return [*rhs(t, x[:2], u, p, x[2:]), algebraic(t, x[:2], u, p, x[2:])]

    model = co.ControlledODE(whole, nx=3, nu=1, params=2, mass=np.diag([1.0, 1.0, 0.0])) if mass else dae()
    x0, control, p, ts = inputs(co.PiecewiseConstant, 3, rng)
    x0 = np.concatenate([x0, np.zeros((3, 1))], axis=1) if mass else x0
    sim = co.Simulator(model)
    assert sim.solver == co.Rodas5P() and pickle.loads(pickle.dumps(sim)).solver == co.Rodas5P()
    assert "solver: Rodas5P(" in sim.explain() and "adaptive steps, the default for a DAE" in sim.explain()
    assert "default" not in co.Simulator(model, co.Rodas4()).explain()
    sol, same = sim(x0, control, p, ts), co.Simulator(model, co.Rodas5P())(x0, control, p, ts)
    truth = co.Simulator(eliminated(output=root), co.DOP853(rtol=1e-11, atol=1e-12))(x0[:, :2], control, p, ts)
    assert sol.success.all()
    np.testing.assert_array_equal(sol.x, same.x)
    np.testing.assert_allclose(sol.x[..., :2], truth.x, atol=1e-4)
    data = np.zeros((3, 9, 3 if mass else 2))
    obj = co.Objective(sim, x0, control, ts, data=data)
    value = np.mean(sol.x**2)
    assert obj.value(p) == pytest.approx(value, rel=1e-12)
    regular = co.Simulator(co.ControlledODE(pendulum, nx=2, nu=1, params=2, mass=np.eye(2)))
    assert regular.solver == co.Tsit5() and "default" not in regular.explain()


# --- mass matrices -------------------------------------------------------------------------------------------------


def pendulum(t, x, u, p):
    return [p[0] * x[1], -p[1] * ca.sin(x[0]) - 0.2 * x[1] + u[0]]


@pytest.mark.parametrize("solver", [co.Rodas5P(rtol=1e-8, atol=1e-10), co.Tsit5(rtol=1e-8, atol=1e-10)])
def test_regular_mass_matrix(solver, rng):
    """M x' = f equals x' = M^-1 f, with any solver."""
    mass = np.array([[2.0, 0.5], [-0.3, 1.0]])
    model = co.ControlledODE(pendulum, nx=2, nu=1, params=2, mass=mass)
    inverse = ca.DM(np.linalg.inv(mass))
    plain = co.ControlledODE(
        lambda t, x, u, p: ca.mtimes(inverse, ca.vertcat(*pendulum(t, x, u, p))), nx=2, nu=1, params=2
    )
    given = inputs(co.PiecewiseLinear, 3, rng)
    assert not model.is_dae and system_of(model) is model
    sol, truth = co.Simulator(model, solver)(*given), co.Simulator(plain, co.DOP853(rtol=1e-11, atol=1e-12))(*given)
    np.testing.assert_allclose(sol.x, truth.x, atol=1e-7)
    dae_form = model.to_dae()
    f = ca.Function(
        "f", [dae_form[name] for name in ("t", "x", "u", "p")], [dae_form["ode"], model.dynamics(0, [1, 2], 3, P)]
    )
    xdot, product = (np.array(v).ravel() for v in f(0, [1, 2], 3, P))
    np.testing.assert_allclose(mass @ xdot, product, rtol=1e-13)


@pytest.mark.parametrize("solver", [co.Rodas5P(rtol=1e-8, atol=1e-10), co.Rodas5P(steps_per_interval=8)])
def test_general_singular_mass_matrix(solver, rng):
    """The DAE in other coordinates: M = L diag(1, 1, 0) R, with y = R w."""
    left, right = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))

    def mixed(t, w, u, p):
        y = ca.mtimes(ca.DM(right), w)
        parts = [*rhs(t, y[:2], u, p, y[2:]), algebraic(t, y[:2], u, p, y[2:])]
        return ca.mtimes(ca.DM(left), ca.vertcat(*parts))

    model = co.ControlledODE(mixed, nx=3, nu=1, params=2, mass=left @ np.diag([1.0, 1.0, 0.0]) @ right)
    x0, control, p, ts = inputs(co.PiecewiseConstant, W + 1, rng)
    w0 = np.linalg.solve(right, np.concatenate([x0, np.zeros((W + 1, 1))], axis=1).T).T
    truth = co.Simulator(eliminated(output=root), co.DOP853(rtol=1e-11, atol=1e-12))(x0, control, p, ts)
    sim = co.Simulator(model, solver, "adjoint")
    sol = sim(w0, control, p, ts)
    assert sol.z is None and model.is_dae
    np.testing.assert_allclose(sol.x @ right.T, np.concatenate([truth.x, truth.y], axis=2), atol=1e-5)
    seeds, dw = rng.standard_normal((W + 1, 9, 3)), rng.standard_normal(w0.shape)
    p_bar, w0_bar, u_bar = sim.vjp(w0, control, p, ts, seeds)
    dp, du = rng.standard_normal(2), rng.standard_normal(control.values.shape)
    dx = sim.jvp(w0, control, p, ts, dp, dw, du)
    total = p_bar @ dp + np.sum(w0_bar * dw) + np.sum(u_bar * du)
    # The coordinates amplify rounding, which adaptive steps feel: their sizes then differ a little.
    gap = 1e-7 if solver.adaptive else 1e-12
    assert np.sum(seeds * dx) == pytest.approx(total, abs=gap * np.abs(seeds * dx).sum())


def test_robertson_as_a_dae():
    """x1 + x2 + x3 = 1 in place of the third equation (SUNDIALS idasRoberts), with a diagonal mass matrix."""

    def robertson(t, x, u, p):
        flow = p[0] * x[0] - p[1] * x[1] * x[2]
        return [-flow, flow - p[2] * x[1] ** 2, x[0] + x[1] + x[2] - 1.0]

    model = co.ControlledODE(robertson, nx=3, params=3, mass=np.diag([1.0, 1.0, 0.0]))
    sol = co.Simulator(model, co.Rodas5P(rtol=1e-7, atol=1e-15))([1.0, 0.0, 0.0], None, [0.04, 1e4, 3e7], [0.0, 1e11])
    wanted = [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050]
    np.testing.assert_allclose(sol.x[0, -1], wanted, rtol=1e-6)
    semi = model.to_dae()
    assert (semi["x"].shape[0], semi["z"].shape[0], semi["alg"].shape[0]) == (2, 1, 1)
    f = ca.Function("f", [semi[name] for name in ("t", "x", "z", "u", "p")], [semi["ode"], semi["alg"]])
    ode, alg = f(0, [0.9, 1e-5], [0.2], [], [0.04, 1e4, 3e7])
    flow = 0.04 * 0.9 - 1e4 * 1e-5 * 0.2
    np.testing.assert_allclose(np.array(ode).ravel(), [-flow, flow - 3e7 * 1e-10], rtol=1e-12)
    assert float(alg) == pytest.approx(0.9 + 1e-5 + 0.2 - 1.0)


# --- initial values and failures -----------------------------------------------------------------------------------


def test_initial_algebraic_values_and_guesses(rng):
    """z^2 = x has two solutions; the guess chooses."""
    model = co.ControlledODE(
        lambda t, x, u, p, z: -p * z, nx=1, params=1, nz=1, algebraic=lambda t, x, u, p, z: z**2 - x, z0=[1.0]
    )
    sim, ts = co.Simulator(model, co.Rodas5P(rtol=1e-9, atol=1e-11), "adjoint"), [0.0, 0.5, 1.0]
    x0 = np.array([[4.0], [9.0]])
    sol = sim(x0, None, [1.0], ts)  # sqrt(x) = sqrt(x0) - p t / 2
    np.testing.assert_allclose(sol.z[:, :, 0], np.array([[2.0], [3.0]]) - 0.5 * np.array(ts), rtol=1e-7)
    other = sim(x0, None, [1.0], ts, z0=[[-1.0], [2.0]])
    np.testing.assert_allclose(other.z[0, :, 0], -2.0 - 0.5 * np.array(ts), rtol=1e-7)
    np.testing.assert_allclose(other.z[1], sol.z[1], rtol=1e-7)
    p_bar, x0_bar, _ = sim.vjp(x0, None, [1.0], ts, [[[0.0], [0.0], [1.0]]] * 2)
    end = np.array([1.5, 2.5])  # x = (sqrt(x0) - p t / 2)^2
    np.testing.assert_allclose(x0_bar[:, 0], end / [2.0, 3.0], rtol=1e-7)
    assert p_bar[0] == pytest.approx(-end.sum(), rel=1e-7)


def test_inconsistent_and_singular_starts():
    """One trajectory of three has no solution; its neighbours do not notice."""
    model = co.ControlledODE(lambda t, x, u, p, z: -z, nx=1, nz=1, algebraic=lambda t, x, u, p, z: z**2 - x, z0=[1.0])
    sim = co.Simulator(model, co.Rodas5P(), "adjoint")
    x0 = np.array([[4.0], [-1.0], [9.0]])
    sol = sim(x0, None, None, [0.0, 1.0])
    assert sol.status == [Status.SUCCESS, Status.INCONSISTENT, Status.SUCCESS]
    assert np.isnan(sol.x[1]).all() and np.isnan(sol.z[1]).all() and np.isfinite(sol.x[[0, 2]]).all()
    with pytest.warns(match="1 of 3"):
        _, x0_bar, _ = sim.vjp(x0, None, None, [0.0, 1.0], np.ones((3, 2, 1)))
    assert x0_bar[1, 0] == 0.0
    np.testing.assert_allclose(x0_bar[[0, 2], 0], 1.0 + np.array([1.5, 2.5]) / [2.0, 3.0], rtol=1e-5)
    index_two = co.ControlledODE(
        lambda t, x, u, p, z: [x[1] + z[0], -x[0]], nx=2, params=1, nz=1,
        algebraic=lambda t, x, u, p, z: x[0] - ca.sin(t) + p * z[0],
    )  # fmt: skip
    sim = co.Simulator(index_two, co.Rodas5P())
    assert sim([0.0, 1.0], None, [1.0], [0.0, 1.0]).status == [Status.SUCCESS]
    assert sim([0.0, 1.0], None, [0.0], [0.0, 1.0]).status == [Status.SINGULAR]


def test_no_algebraic_values_after_a_jump():
    """z^2 = 1 + u has no solution once u = -3: the trajectory ends at the knot, adaptive or not."""
    model = co.ControlledODE(
        lambda t, x, u, p, z: -z, nx=1, nu=1, nz=1, algebraic=lambda t, x, u, p, z: z**2 - 1.0 - u, z0=[1.0]
    )
    control = co.PiecewiseConstant([0.0, 1.0, 2.0], [[[0.0], [-3.0], [0.0]], [[0.0], [3.0], [0.0]]])
    for solver in (co.Rodas5P(), co.Rodas5P(steps_per_interval=4)):
        sol = co.Simulator(model, solver)([[1.0], [1.0]], control, None, [0.0, 0.5, 1.5])
        assert sol.status == [Status.INCONSISTENT, Status.SUCCESS]
        np.testing.assert_allclose(sol.x[:, 1, 0], 0.5, rtol=1e-6)
        assert np.isnan(sol.x[0, 2, 0])
        assert sol.x[1, 2, 0] == pytest.approx(0.0 - 2.0 * 0.5, abs=1e-6)


def test_what_is_refused(rng):
    with pytest.raises(ModelError, match=r"Tsit5 cannot integrate a DAE \(nz=1\); use Rodas5P"):
        co.Simulator(dae(), co.Tsit5())
    singular = co.ControlledODE(pendulum, nx=2, nu=1, params=2, mass=np.ones((2, 2)))
    with pytest.raises(ModelError, match="singular mass matrix"):
        co.Simulator(singular, co.RK4())
    with pytest.raises(ModelError, match="there is no right-hand side"):
        singular.rhs  # noqa: B018
    with pytest.raises(ModelError, match="2 nonzero rows"):
        singular.to_dae()
    with pytest.raises(UnsupportedOperation, match=r"singular mass matrix.*to_dae"):
        singular.step(co.Rodas5P(), 0.1)
    for mass, words in ((np.eye(3), "shape"), (np.zeros((2, 2)), "zero"), ([[np.nan, 0], [0, 1]], "mass")):
        with pytest.raises(ModelError, match=words):
            co.ControlledODE(pendulum, nx=2, nu=1, params=2, mass=mass)
    with pytest.raises(ModelError, match="z0"):
        co.ControlledODE(pendulum, nx=2, nu=1, params=2, z0=[1.0])
    x0, control, p, ts = inputs(co.PiecewiseLinear, 2, rng)
    sim = co.Simulator(dae(), co.Rodas5P())
    with pytest.raises(DataError, match="z0"):
        sim(x0, control, p, ts, z0=[1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="z0"):
        co.Simulator(eliminated(), co.Rodas5P())(x0, control, p, ts, z0=[1.0])
    with pytest.raises(SolverError, match=r"nx \+ nz = 3"):
        co.Simulator(dae(), co.Rodas5P(atol=(1e-6, 1e-6)))
    with pytest.raises(ModelError, match="events"):
        co.Simulator(dae(), co.Rodas5P(), events=co.Event(lambda t, x, u, p: x[0]))


def test_single_precision(rng):
    x0, control, p, ts = inputs(co.PiecewiseConstant, 5, rng)
    small = co.PiecewiseConstant(KNOTS, control.values.astype(np.float32), dtype="float32")
    sim = co.Simulator(dae(), co.Rodas5P(rtol=1e-4, atol=1e-5), dtype="float32")
    sol = sim(x0.astype(np.float32), small, p.astype(np.float32), ts)
    wide = co.Simulator(dae(), co.Rodas5P(rtol=1e-8))(x0, control, p, ts)
    assert sol.z.dtype == np.float32 and sol.success.all()
    np.testing.assert_allclose(sol.x, wide.x, atol=1e-3)
    np.testing.assert_allclose(sol.z, wide.z, atol=1e-3)
