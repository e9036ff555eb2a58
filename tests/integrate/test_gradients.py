"""The discrete adjoint against complex steps of an independent integration, tangents, checkpoints and other paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ctrlode_casadi.base.errors import UnsupportedOperation
from ctrlode_casadi.controls import CubicSpline, Pchip, PiecewiseConstant, PiecewiseLinear
from ctrlode_casadi.integrate import (
    BS3,
    DOP853,
    RK4,
    Adjoint,
    Dopri5,
    Euler,
    Forward,
    Heun,
    Midpoint,
    Simulator,
    Tsit5,
)
from integrate.problems import P, blow_up, oscillator, oscillator_rhs

FIXED = [Euler, Midpoint, Heun, RK4, BS3, Dopri5, Tsit5, DOP853]
ADAPTIVE = [BS3, Dopri5, Tsit5, DOP853]
KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])


def plain_runge_kutta(tab, knots, values, p, x0, ts, n):
    """Fixed steps between save times and knots with linear interpolation, in whatever arithmetic the inputs have."""
    points = np.unique(np.concatenate([ts, knots]))
    x, out = np.asarray(x0) + 0 * p[0] + 0 * values[0], []
    if ts[0] == points[0]:
        out.append(x)
    for left, right in itertools.pairwise(points):
        j = np.searchsorted(knots, 0.5 * (left + right)) - 1
        slope = (values[j + 1] - values[j]) / (knots[j + 1] - knots[j])
        h = (right - left) / n
        for i in range(n):
            t, k = left + i * h, []
            for c, row in zip(tab.c, tab.A, strict=True):
                state = x + h * sum((a * s for a, s in zip(row, k, strict=False)), start=0 * x)
                k.append(oscillator_rhs(t + c * h, state, values[j] + slope * (t + c * h - knots[j]), p))
            x = x + h * sum(b * s for b, s in zip(tab.b, k, strict=True))
        if right in ts:
            out.append(x)
    return np.array(out)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_against_complex_steps(method, rng):
    ts, values, x0 = np.array([0.0, 0.5, 1.1, 3.0]), rng.standard_normal(5), rng.standard_normal(2)
    seeds = rng.standard_normal((4, 2))
    sim = Simulator(oscillator(), method(steps_per_interval=2))
    control = PiecewiseLinear(KNOTS, values)
    solver = method(steps_per_interval=2)

    def functional(p, x0, values):
        return np.sum(seeds * plain_runge_kutta(solver.tableau, KNOTS, values, p, x0, ts, 2))

    assert np.sum(seeds * sim(x0, control, P, ts).x[0]) == pytest.approx(functional(P, x0, values), rel=1e-12)
    found = [np.ravel(v) for v in sim.vjp(x0, control, P, ts, seeds)]
    where = [P, x0, values]
    for i, point in enumerate(where):
        for j in range(point.size):
            moved = [v.astype(complex) for v in where]
            moved[i][j] += 1e-30j
            assert found[i][j] == pytest.approx(functional(*moved).imag / 1e-30, rel=1e-9, abs=1e-12)


def agreement(sim, x0, control, p, ts, rng):
    """Relative gap in <seeds, J d> = <J^T seeds, d> for random seeds and directions."""
    size = (x0.shape[0], len(ts), x0.shape[1])
    seeds = rng.standard_normal(size)
    dp, dx0, du = rng.standard_normal(p.shape), rng.standard_normal(x0.shape), rng.standard_normal(control.values.shape)
    dx = sim.jvp(x0, control, p, ts, dp, dx0, du)
    p_bar, x0_bar, u_bar = sim.vjp(x0, control, p, ts, seeds)
    left, right = np.sum(seeds * dx), p_bar @ dp + np.sum(x0_bar * dx0) + np.sum(u_bar * du)
    return abs(left - right) / (np.abs(seeds * dx).sum())


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("kind", [PiecewiseConstant, PiecewiseLinear, CubicSpline, Pchip])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 21])
def test_adaptive_adjoint_is_the_transpose_of_the_tangent(method, kind, size, rng):
    control = kind(KNOTS, rng.standard_normal((size, 5, 1)))
    x0, ts = rng.standard_normal((size, 2)), np.sort(rng.uniform(0, 3, 17))
    sim = Simulator(oscillator(), method(rtol=1e-4, atol=1e-5))
    assert agreement(sim, x0, control, P, ts, rng) < 1e-12


def test_shared_control_and_own_knots(rng):
    x0, ts = rng.standard_normal((10, 2)), np.linspace(0.0, 3.0, 9)
    sims = [Simulator(oscillator(), RK4()), Simulator(oscillator(), Tsit5(rtol=1e-5))]
    shared = PiecewiseLinear(KNOTS, rng.standard_normal((1, 5, 1)))
    own = PiecewiseLinear(np.sort(rng.uniform(0, 3, (10, 6)), axis=1), rng.standard_normal((10, 6, 1)), "hold")
    for sim in sims:
        assert agreement(sim, x0, shared, P, ts, rng) < 1e-12
        assert agreement(sim, x0, own, P, ts, rng) < 1e-12


@pytest.mark.parametrize("solver", [RK4(steps_per_interval=3), Tsit5(rtol=1e-7), DOP853(rtol=1e-9)])
@pytest.mark.parametrize("checkpoints", [1, 2, 3, 7, 1000])
def test_checkpoints_change_no_bit(solver, checkpoints, rng):
    control, ts = PiecewiseLinear(KNOTS, rng.standard_normal((9, 5, 1))), np.linspace(0.0, 3.0, 11)
    x0, seeds = rng.standard_normal((9, 2)), rng.standard_normal((9, 11, 2))
    kept = Simulator(oscillator(), solver).vjp(x0, control, P, ts, seeds)
    few = Simulator(oscillator(), solver, Adjoint(checkpoints=checkpoints)).vjp(x0, control, P, ts, seeds)
    for a, b in zip(kept, few, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("solver", [RK4(), Tsit5(rtol=1e-6)])
def test_forward_sensitivity_gives_the_same_gradient(solver, rng):
    control, ts = PiecewiseConstant(KNOTS, rng.standard_normal((3, 5, 1))), np.linspace(0.0, 3.0, 7)
    x0, seeds = rng.standard_normal((3, 2)), rng.standard_normal((3, 7, 2))
    adjoint = Simulator(oscillator(), solver).vjp(x0, control, P, ts, seeds)
    forward = Simulator(oscillator(), solver, Forward()).vjp(x0, control, P, ts, seeds)
    for a, b in zip(adjoint, forward, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("solver", [Euler(), RK4(dt=0.2), BS3(rtol=1e-4), Tsit5(rtol=1e-6), DOP853(rtol=1e-8)])
@pytest.mark.parametrize("kind", [PiecewiseConstant, CubicSpline])
def test_both_back_ends_agree(solver, kind, rng):
    control, ts = kind(KNOTS, rng.standard_normal((3, 5, 1))), np.linspace(0.0, 3.0, 8)
    x0, seeds = rng.standard_normal((3, 2)), rng.standard_normal((3, 8, 2))
    compiled = Simulator(oscillator(), solver, backend="compiled")
    casadi = Simulator(oscillator(), solver, backend="casadi")
    assert (compiled.backend, casadi.backend) == ("compiled", "casadi")
    one, two = compiled(x0, control, P, ts), casadi(x0, control, P, ts)
    np.testing.assert_allclose(one.x, two.x, rtol=1e-10, atol=1e-12)
    assert np.array_equal(one.stats["n_steps"], two.stats["n_steps"])
    for a, b in zip(compiled.vjp(x0, control, P, ts, seeds), casadi.vjp(x0, control, P, ts, seeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    change = rng.standard_normal(3)
    np.testing.assert_allclose(
        compiled.jvp(x0, control, P, ts, dp=change), casadi.jvp(x0, control, P, ts, dp=change), rtol=1e-9, atol=1e-11
    )


def test_single_precision(rng):
    control = PiecewiseLinear(KNOTS, rng.standard_normal((5, 5, 1)).astype(np.float32), dtype="float32")
    double = PiecewiseLinear(KNOTS, control.values.astype(np.float64))
    x0, ts = rng.standard_normal((5, 2)).astype(np.float32), np.linspace(0.0, 3.0, 7)
    seeds = rng.standard_normal((5, 7, 2)).astype(np.float32)
    for solver in (RK4(), Tsit5()):
        small, large = Simulator(oscillator(), solver, dtype="float32"), Simulator(oscillator(), solver)
        sol = small(x0, control, P.astype(np.float32), ts)
        assert sol.x.dtype == sol.u.dtype == np.float32
        truth = large(x0.astype(float), double, P, ts)
        np.testing.assert_allclose(sol.x, truth.x, atol=2e-4)
        parts = small.vjp(x0, control, P.astype(np.float32), ts, seeds)
        wanted = large.vjp(x0.astype(float), double, P, ts, seeds.astype(float))
        for a, b in zip(parts, wanted, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=2e-3)


def test_shared_initial_state_gets_the_sum(rng):
    control, ts = PiecewiseLinear(KNOTS, rng.standard_normal((6, 5, 1))), np.linspace(0.0, 3.0, 5)
    seeds, sim = rng.standard_normal((6, 5, 2)), Simulator(oscillator(), RK4())
    shared = sim.vjp(np.array([0.1, 0.2]), control, P, ts, seeds)[1]
    own = sim.vjp(np.tile([0.1, 0.2], (6, 1)), control, P, ts, seeds)[1]
    np.testing.assert_allclose(shared, own.sum(axis=0), rtol=1e-14)


def test_all_trajectories_fail():
    control = PiecewiseConstant([0.0, 2.0], np.zeros((3, 2, 1)))
    with pytest.warns(match="3 of 3 trajectories failed"):
        parts = Simulator(blow_up(), Tsit5()).vjp(np.full((3, 1), 2.0), control, [1.0], [0.0, 2.0], np.ones((3, 2, 1)))
    assert not any(np.any(v) for v in parts)


def test_a_model_that_cannot_be_compiled(monkeypatch):
    from ctrlode_casadi.lowering import kernels

    def refuse(*args, **kwargs):
        raise UnsupportedOperation("no lowering for OP_TEST")

    monkeypatch.setattr(kernels, "lane_kernels", refuse)
    control, ts = PiecewiseLinear(KNOTS, np.zeros(5)), np.linspace(0.0, 3.0, 4)
    sim = Simulator(oscillator(), RK4())
    with pytest.warns(RuntimeWarning, match="OP_TEST"):
        sol = sim(np.ones(2), control, P, ts)
    assert sol.success.all() and sim.backend == "casadi" and "OP_TEST" in sim.explain()
    with pytest.raises(UnsupportedOperation, match="OP_TEST"):
        Simulator(oscillator(), RK4(), backend="compiled")(np.ones(2), control, P, ts)
