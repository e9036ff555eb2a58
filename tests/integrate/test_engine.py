"""Costs and their gradients, groups, threads, interruption, work arrays: the engine that objectives are built on."""

from __future__ import annotations

import threading
import time

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.controls import CubicSpline, PiecewiseConstant, PiecewiseLinear
from ctrlode_casadi.integrate import RK4, Tsit5, engine as engine_module, threads
from ctrlode_casadi.integrate.batch import Batch
from ctrlode_casadi.integrate.engine import Engine
from ctrlode_casadi.lowering.kernels import lane_kernels
from integrate.problems import P, oscillator

KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])
DOUBLE = np.dtype(np.float64)


def cost_function(terminal):
    """sum w (x - d)^2 + 0.1 p0 u^2 + 0.01 t x0, or at the end p1 |x|^2 + u."""
    t, x, u, p = ca.MX.sym("t"), ca.MX.sym("x", 2), ca.MX.sym("u"), ca.MX.sym("p", 3)
    d, w = ca.MX.sym("d", 2), ca.MX.sym("w", 2)
    value = p[1] * ca.sumsqr(x) + u if terminal else ca.dot(w, (x - d) ** 2) + 0.1 * p[0] * u**2 + 0.01 * t * x[0]
    return ca.Function("cost", [t, x, u, p, d, w], [value], ["t", "x", "u", "p", "d", "w"], ["ell"])


def make(solver, size, n_threads=1, lanes=8, terminal=True):
    rhs = oscillator().rhs
    kernels = [lane_kernels(f, "p", lanes) for f in (rhs, cost_function(False), cost_function(True))]
    return Engine(
        kernels[0], 2, 1, 3, solver, cost=kernels[1], terminal=kernels[2] if terminal else None, nd=2, nw=2,
        n_threads=n_threads,
    )  # fmt: skip


def data(rng, size, kind=PiecewiseLinear, T=9):
    control = kind(KNOTS, rng.standard_normal((size, 5, 1)))
    ts = np.linspace(0.0, 3.0, T)
    batch = Batch(ts[None], np.array([T]), control, size, 1, DOUBLE)
    d, w = rng.standard_normal((size, T, 2)), rng.uniform(0.5, 1, (1, T, 2))
    return batch, rng.standard_normal((size, 2)), d, w, rng.uniform(0.5, 2, size)


def plain_costs(batch, x, p, d, w):
    u = batch.controls(batch.ts[0])[:, :, 0]
    each = (w * (x - d) ** 2).sum(axis=2) + 0.1 * p[0] * u**2 + 0.01 * batch.ts * x[:, :, 0]
    return each.sum(axis=1) + p[1] * (x[:, -1] ** 2).sum(axis=1) + u[:, -1]


@pytest.mark.parametrize("solver", [RK4(), Tsit5(rtol=1e-5)])
@pytest.mark.parametrize("size", [1, 8, 19])
@pytest.mark.parametrize("kind", [PiecewiseConstant, CubicSpline])
def test_losses_equal_the_sum_over_the_states(solver, size, kind, rng):
    batch, x0, d, w, _ = data(rng, size, kind)
    engine = make(solver, size)
    x, _ = engine.simulate(batch, x0, P)
    loss, sweep = engine.losses(batch, x0, P, d, w)
    np.testing.assert_allclose(loss, plain_costs(batch, x, P, d, w), rtol=1e-13)
    assert sweep.success.all()


@pytest.mark.parametrize("kind", [PiecewiseConstant, PiecewiseLinear, CubicSpline])
def test_gradient_of_the_costs(kind, rng):
    batch, x0, d, w, scale = data(rng, 11, kind)
    engine = make(RK4(steps_per_interval=2), 11)
    found = engine.gradient(batch, x0, P, d, w, scale, want_u=True)
    u_bar = batch.values_adjoint(found.control_bars)

    def total(p, x0, values):
        other = Batch(batch.ts, batch.counts, batch.controls.with_values(values), 11, 1, DOUBLE)
        return scale @ engine.losses(other, x0, p, d, w)[0]

    values = batch.controls.values
    for bar, point, place in ((found.p_bar, 0, 1), (found.x0_bar, 1, (3, 1)), (u_bar, 2, (4, 2, 0))):
        slopes = []
        for h in (1e-3, 5e-4):
            ends = []
            for sign in (1, -1):
                args = [P.copy(), x0.copy(), values.copy()]
                args[point][place] += sign * h
                ends.append(total(*args))
            slopes.append((ends[0] - ends[1]) / (2 * h))
        assert bar[place] == pytest.approx((4 * slopes[1] - slopes[0]) / 3, rel=1e-9)


@pytest.mark.parametrize("solver", [RK4(), Tsit5(rtol=1e-4)])
def test_same_bits_for_any_number_of_threads(solver, rng):
    batch, x0, d, w, scale = data(rng, 700)
    results = [make(solver, 700, n).gradient(batch, x0, P, d, w, scale, want_u=True) for n in (1, 2, 3, 7)]
    for other in results[1:]:
        assert np.array_equal(results[0].p_bar, other.p_bar)
        assert np.array_equal(results[0].loss, other.loss)
        assert np.array_equal(results[0].x0_bar, other.x0_bar)
        assert np.array_equal(results[0].control_bars[0].coefficients, other.control_bars[0].coefficients)


def test_chunks_of_a_large_batch(rng, monkeypatch):
    from ctrlode_casadi.integrate import batch as batch_module

    batch, x0, d, w, scale = data(rng, 50)
    whole = make(RK4(), 50).gradient(batch, x0, P, d, w, scale, want_u=True)
    monkeypatch.setattr(batch_module, "CHUNK", 16)
    monkeypatch.setattr(batch_module, "KEEP_BYTES", 0)
    parted_batch = Batch(batch.ts, batch.counts, batch.controls, 50, 1, DOUBLE)
    parted = make(RK4(), 50).gradient(parted_batch, x0, P, d, w, scale, want_u=True)
    np.testing.assert_allclose(parted.p_bar, whole.p_bar, rtol=1e-13)
    assert np.array_equal(parted.loss, whole.loss)
    for name in ("coefficients", "saves"):
        chunks = np.concatenate([getattr(bar, name) for bar in parted.control_bars])
        assert np.array_equal(chunks, getattr(whole.control_bars[0], name))
    assert not parted_batch.prepared


@pytest.mark.parametrize("solver", [RK4(steps_per_interval=4), Tsit5(rtol=1e-9, atol=1e-9)])
def test_work_arrays_grow_and_tapes_may_be_missing(solver, rng, monkeypatch):
    batch, x0, d, w, scale = data(rng, 20)
    usual = make(solver, 20).gradient(batch, x0, P, d, w, scale)
    monkeypatch.setattr(engine_module, "_FIRST_ROWS", 4)
    small = make(solver, 20).gradient(batch, x0, P, d, w, scale)
    assert np.array_equal(usual.p_bar, small.p_bar)
    monkeypatch.setattr(engine_module.workspace, "TAPE_BYTES", 0)
    batch.prepared.clear()
    without = make(solver, 20).gradient(batch, x0, P, d, w, scale)
    np.testing.assert_allclose(without.p_bar, usual.p_bar, rtol=1e-12)
    assert np.array_equal(without.loss, usual.loss)


def test_records_of_different_length(rng):
    """Padded rows: each trajectory gives what it gives alone."""
    lengths, size = [4, 9, 2, 1, 7], 5
    times = [np.sort(rng.uniform(0, 3, n)) for n in lengths]
    padded = np.stack([np.append(t, np.full(9 - t.size, t[-1])) for t in times])
    controls = [PiecewiseLinear(np.linspace(0, 3, 3 + b), rng.standard_normal(3 + b)) for b in range(size)]
    x0, d, w = rng.standard_normal((size, 2)), rng.standard_normal((size, 9, 2)), np.ones((1, 9, 2))
    for solver in (RK4(), Tsit5(rtol=1e-6)):
        engine = make(solver, size)
        batch = Batch(padded, np.array(lengths), controls, size, 1, DOUBLE)
        found = engine.gradient(batch, x0, P, d, w, np.ones(size), want_u=True)
        bars = batch.values_adjoint(found.control_bars)
        p_bar = np.zeros(3)
        for b, n in enumerate(lengths):
            one = Batch(times[b][None], np.array([n]), controls[b], 1, 1, DOUBLE)
            alone = engine.gradient(one, x0[b : b + 1], P, d[b : b + 1, :n], w[:, :n], np.ones(1), want_u=True)
            assert found.loss[b] == pytest.approx(alone.loss[0], rel=1e-13)
            np.testing.assert_allclose(found.x0_bar[b], alone.x0_bar[0], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(bars[b], one.values_adjoint(alone.control_bars)[0], rtol=1e-11, atol=1e-13)
            p_bar += alone.p_bar
        np.testing.assert_allclose(found.p_bar, p_bar, rtol=1e-12)


def test_two_python_threads_use_one_engine(rng):
    batch, x0, d, w, scale = data(rng, 200)
    engine = make(Tsit5(rtol=1e-6), 200, 2)
    want = engine.gradient(batch, x0, P, d, w, scale).p_bar
    results = []

    def work():
        for _ in range(10):
            results.append(engine.gradient(batch, x0, P, d, w, scale).p_bar)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 30 and all(np.array_equal(r, want) for r in results)


def test_interruption_stops_a_long_sweep(rng, monkeypatch):
    """Ctrl-C in the waiting thread: the sweeps stop at their next step and the engine stays usable."""
    batch, x0, d, w, _ = data(rng, 64)
    engine = make(RK4(steps_per_interval=400_000), 64, 2)
    interrupted = []
    original = threads.Future.result

    def interrupt(self, timeout=None):
        monkeypatch.setattr(threads.Future, "result", original)
        time.sleep(0.2)
        interrupted.append(time.perf_counter())
        raise KeyboardInterrupt

    monkeypatch.setattr(threads.Future, "result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.losses(batch, x0, P, d, w)
    assert time.perf_counter() - interrupted[0] < 1.0
    loss, _ = make(RK4(), 64, 2).losses(batch, x0, P, d, w)
    assert np.isfinite(loss).all()
