"""Algebraic variables at the save times: they fulfil their equations, and gradients are those of the numbers given."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.base.status import Status
from ctrlode_casadi.lowering.kernels import simd_width

KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])
P = np.array([1.3, 0.4])
W = simd_width("float64")
#: Save times inside steps and on every knot.
TS = np.sort(np.concatenate([KNOTS, [0.01, 0.3, 0.31, 1.7, 2.6]]))


def rhs(t, x, u, p, z):
    return [0.5 * x[1] * z[0], -p[0] * x[0] * z[1] + u[0]]


def algebraic(t, x, u, p, z):
    """Triangular: z0^3 + z0 = p1 + x0^2 + 0.3 u + 0.1 sin t, and z1 = z0 + 0.2 x1 z1^2 / (1 + z1^2)."""
    first = z[0] ** 3 + z[0] - p[1] - x[0] ** 2 - 0.3 * u[0] - 0.1 * ca.sin(t)
    return [first, z[1] - z[0] - 0.2 * x[1] * z[1] ** 2 / (1 + z[1] ** 2)]


def residuals(t, x, u, p, z):
    """The same in NumPy for arrays (B, T, n)."""
    first = z[..., 0] ** 3 + z[..., 0] - p[1] - x[..., 0] ** 2 - 0.3 * u[..., 0] - 0.1 * np.sin(t)
    return np.stack([first, z[..., 1] - z[..., 0] - 0.2 * x[..., 1] * z[..., 1] ** 2 / (1 + z[..., 1] ** 2)])


def dae(**options):
    return co.ControlledODE(rhs, nx=2, nu=1, params=2, nz=2, algebraic=algebraic, **options)


def as_mass_matrix():
    def whole(t, x, u, p):
        return [*rhs(t, x[:2], u, p, x[2:]), *algebraic(t, x[:2], u, p, x[2:])]

    return co.ControlledODE(whole, nx=4, nu=1, params=2, mass=np.diag([1.0, 1.0, 0.0, 0.0]))


KINDS = [
    co.PiecewiseConstant, lambda k, v: co.PiecewiseConstant(k, v, side="right"), co.PiecewiseLinear, co.CubicSpline
]  # fmt: skip


def inputs(kind, size, rng):
    return rng.standard_normal((size, 2)), kind(KNOTS, rng.standard_normal((size, 5, 1))), P, TS


SOLVERS = [co.Rodas5P(rtol=1e-4), co.Rodas4(), co.Rodas5P(steps_per_interval=2)]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_equations_hold_at_every_save_time(solver, kind, size, rng):
    """With the control that the result reports, on knots too, whatever the tolerance of the integration."""
    given = inputs(kind, size, rng)
    sol = co.Simulator(dae(output=lambda t, x, u, p, z: [z[0], u[0] * z[1]]), solver)(*given)
    assert sol.success.all() and np.abs(residuals(TS, sol.x, sol.u, P, sol.z)).max() < 1e-13
    np.testing.assert_array_equal(sol.y, np.stack([sol.z[..., 0], sol.u[..., 0] * sol.z[..., 1]], axis=2))
    if size == W:
        guess = np.concatenate([given[0], np.zeros((size, 2))], axis=1)
        whole = co.Simulator(as_mass_matrix(), solver)(guess, *given[1:])
        assert np.abs(residuals(TS, whole.x[..., :2], whole.u, P, whole.x[..., 2:])).max() < 1e-13


def test_own_times_and_single_precision(rng):
    x0, control, _, _ = inputs(co.PiecewiseConstant, 3, rng)
    times = [TS, TS[2:7], np.array([0.5])]
    sol = co.Simulator(dae(), co.Rodas5P(rtol=1e-4))(x0, control, P, times)
    for b, ts in enumerate(times):
        x, z, u = sol.x[b, : ts.size], sol.z[b, : ts.size], control[b](ts)[0]
        assert np.abs(residuals(ts, x, u, P, z)).max() < 1e-13
        assert np.isnan(sol.z[b, ts.size :]).all()
    single = control.values.astype(np.float32)
    u32 = co.PiecewiseConstant(KNOTS, single, dtype="float32")
    sim = co.Simulator(dae(), co.Rodas5P(rtol=1e-4), dtype="float32")
    sol = sim(x0.astype(np.float32), u32, P.astype(np.float32), TS)
    assert sol.success.all() and np.abs(residuals(TS, sol.x, sol.u, P, sol.z)).max() < 3e-6


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_adjoint_is_the_transpose_of_the_tangent(solver, kind, size, rng):
    """Seeds of algebraic variables at all save times, with respect to parameters, initial states and controls."""
    x0, control, p, ts = inputs(kind, size, rng)
    y0 = np.concatenate([x0, np.zeros((size, 2))], axis=1)
    seeds = rng.standard_normal((size, TS.size, 4))
    dp, dx0, du = rng.standard_normal(2), rng.standard_normal(y0.shape), rng.standard_normal(control.values.shape)
    model = as_mass_matrix()
    dx = co.Simulator(model, solver).jvp(y0, control, p, ts, dp, dx0, du)
    for sensitivity in (co.Adjoint(), co.Adjoint(checkpoints=2)):
        p_bar, x_bar, u_bar = co.Simulator(model, solver, sensitivity).vjp(y0, control, p, ts, seeds)
        total = p_bar @ dp + np.sum(x_bar * dx0) + np.sum(u_bar * du)
        assert np.sum(seeds * dx) == pytest.approx(total, abs=1e-11 * np.abs(seeds * dx).sum())
    if size == 1:
        bars = co.Simulator(model, solver, "forward").vjp(y0, control, p, ts, seeds)
        assert np.sum(bars[2] * du) == pytest.approx(np.sum(u_bar * du), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_numbers_given(kind, rng):
    """Against extrapolated differences of the same fixed steps, for every control value, parameter and state."""
    x0, control, p, ts = inputs(kind, 2, rng)
    y0 = np.concatenate([x0, np.zeros((2, 2))], axis=1)
    sim = co.Simulator(as_mass_matrix(), co.Rodas5P(steps_per_interval=2), "adjoint")
    seeds = rng.standard_normal((2, TS.size, 4))
    bars = sim.vjp(y0, control, p, ts, seeds)

    def value(q, y, v):
        return np.sum(seeds * sim(y, control.with_values(v), q, ts).x)

    point = [p, y0, control.values]
    for i, bar in enumerate(bars):
        for _ in range(3):
            d = rng.standard_normal(point[i].shape)
            found = []
            for h in (1e-3, 2e-3):
                sides = [[v + s * h * d if j == i else v for j, v in enumerate(point)] for s in (1, -1)]
                found.append((value(*sides[0]) - value(*sides[1])) / (2 * h))
            assert (4 * found[0] - found[1]) / 3 == pytest.approx(np.sum(bar * d), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("solver", [co.Rodas5P(rtol=1e-4), co.Rodas5P(steps_per_interval=2)])
def test_objectives_see_the_same_numbers(solver, rng):
    """Value from the simulation's outputs; gradient, Hessian product and Jacobian from each other and differences."""
    x0, control, p, ts = inputs(co.PiecewiseConstant, W + 1, rng)
    data = rng.standard_normal((W + 1, TS.size, 3))

    def output(t, x, u, p, z):
        return [p[0] * z[0], z[1] * u[0], x[0] * z[1]]

    sim = co.Simulator(dae(output=output), solver)
    y = sim(x0, control, p, ts).y
    objectives = [co.Objective(sim.with_sensitivity(how), x0, control, ts, data=data) for how in ("adjoint", "forward")]
    v = np.array([0.6, -0.3])
    for obj in objectives:
        value, g = obj(p)
        assert value == pytest.approx(np.mean((y - data) ** 2), rel=1e-13)
        assert obj.derivative_along(p, v) == pytest.approx(g @ v, rel=1e-11)
        np.testing.assert_allclose(2.0 * obj.jac(p).T @ obj.residuals(p), g, rtol=1e-10)
    if not solver.adaptive:
        h = 1e-3
        wide, half = (obj.value(p + s * v) - obj.value(p - s * v) for s in (2 * h, h))
        assert (8 * half - wide) / (12 * h) == pytest.approx(g @ v, rel=1e-8)
        wide, half = (obj.grad(p + s * v) - obj.grad(p - s * v) for s in (2 * h, h))
        np.testing.assert_allclose((8 * half - wide) / (12 * h), obj.hessp(p, v), rtol=1e-7)


def test_no_algebraic_values_for_the_control_of_a_save_time():
    """z^2 = 1 + u has no solution with u = -3, the value of the last knot alone."""
    model = co.ControlledODE(
        lambda t, x, u, p, z: -z, nx=1, nu=1, nz=1, algebraic=lambda t, x, u, p, z: z**2 - 1.0 - u, z0=[1.0]
    )
    control = co.PiecewiseConstant([0.0, 1.0, 2.0], [[[0.0], [0.0], [-3.0]], [[0.0], [3.0], [0.0]]])
    for solver in (co.Rodas5P(), co.Rodas5P(steps_per_interval=4)):
        sim = co.Simulator(model, solver, "adjoint")
        sol = sim(np.ones((2, 1)), control, None, [0.0, 1.0, 2.0])
        assert sol.status == [Status.INCONSISTENT, Status.SUCCESS]
        np.testing.assert_allclose(sol.z[:, :, 0], [[1.0, 1.0, np.nan], [1.0, 2.0, 1.0]], rtol=1e-12)
        with pytest.warns(match="1 of 2"):
            x_bar = sim.vjp(np.ones((2, 1)), control, None, [0.0, 1.0, 2.0], np.ones((2, 3, 1)))[1]
        np.testing.assert_allclose(x_bar, [[0.0], [3.0]], rtol=1e-12)
