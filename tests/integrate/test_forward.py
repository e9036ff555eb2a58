"""Forward sensitivities in chunks, the choice of "auto", the comparison, and what `explain` reports."""

from __future__ import annotations

import math
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.integrate.forward import Columns, chunks_of, default_chunk
from ctrlode_casadi.lowering.jit import host
from integrate.problems import P, blow_up, oscillator

W = host().vector_bytes // 8
KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])
TS = np.linspace(0.0, 3.0, 9)


def flat(bars: Any) -> Any:
    parts = bars[2] if isinstance(bars[2], list) else [bars[2]]
    return np.concatenate([np.ravel(v) for v in (*bars[:2], *parts)])


@pytest.mark.parametrize("total", [1, 5, 12])
@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_chunks_cover_all_directions_once(total: int, chunk: int) -> None:
    n_params, n_states = total // 2, total - total // 2
    chunks = chunks_of(n_params, n_states, 3, chunk)
    assert [c.n <= chunk for c in chunks] == [True] * len(chunks)
    for kind, count in (("params", n_params), ("states", n_states), ("controls", 3)):
        assert [i for c in chunks for i in range(*getattr(c, kind))] == list(range(count))
    assert len(chunks) == math.ceil((total + 3) / chunk)


def test_default_chunk_bounds_the_work_arrays() -> None:
    assert default_chunk(12, 2, 50, 4, 16) == 12
    many = default_chunk(5000, 20, 500, 7, 16)
    assert many >= 8 and many * 20 * 16 * 8 * 500 < 20 << 20


@pytest.mark.parametrize("solver", [co.RK4(), co.Tsit5(rtol=1e-5), co.Rodas5P(rtol=1e-5)])
@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
@pytest.mark.parametrize("kind", ["own", "shared", "list", "spline"])
def test_every_chunk_gives_the_adjoint_s_numbers(kind: str, size: int, solver: Any, rng: np.random.Generator) -> None:
    values = rng.standard_normal((1 if kind == "shared" else size, 5, 1))
    control: Any = (co.CubicSpline if kind == "spline" else co.PiecewiseConstant)(KNOTS, values)
    if kind == "list":
        short = [co.Akima(KNOTS[[0, 1, 3, 4]], values[b, :4]) for b in range(size)]
        control = [co.PiecewiseLinear(KNOTS, values[b]) if b % 2 else short[b] for b in range(size)]
    x0, seeds = rng.standard_normal((size, 2)), rng.standard_normal((size, 9, 2))
    wanted = flat(co.Simulator(oscillator(), solver, "adjoint").vjp(x0, control, P, TS, seeds))
    for chunk in (None, 4):
        found = flat(co.Simulator(oscillator(), solver, co.Forward(chunk)).vjp(x0, control, P, TS, seeds))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


def test_casadi_path_and_single_precision(rng: np.random.Generator) -> None:
    control = co.PiecewiseLinear(KNOTS, rng.standard_normal((3, 5, 1)))
    x0, seeds = rng.standard_normal((3, 2)), rng.standard_normal((3, 9, 2))
    wanted = flat(co.Simulator(oscillator(), co.RK4(), "adjoint").vjp(x0, control, P, TS, seeds))
    plain = co.Simulator(oscillator(), co.RK4(), co.Forward(chunk=5), backend="casadi")
    np.testing.assert_allclose(flat(plain.vjp(x0, control, P, TS, seeds)), wanted, rtol=1e-11, atol=1e-12)
    single = co.Simulator(oscillator(), co.RK4(), "forward", dtype="float32")
    small = co.PiecewiseLinear(KNOTS, control.values.astype(np.float32), dtype="float32")
    narrow = [np.asarray(v, np.float32) for v in (x0, P, seeds)]
    found = single.vjp(narrow[0], small, narrow[1], TS, narrow[2])
    assert all(v.dtype == np.float32 for v in found)
    np.testing.assert_allclose(flat(found), wanted, atol=2e-5 * np.abs(wanted).max())


def test_a_failed_trajectory_contributes_nothing() -> None:
    control, ts = co.PiecewiseConstant([0.0, 2.0], np.zeros((3, 2, 1))), np.array([0.0, 1.0, 2.0])
    x0, seeds = np.array([[0.1], [3.0], [0.2]]), np.ones((3, 3, 1))
    bars = []
    for how in ("adjoint", "forward"):
        sim = co.Simulator(blow_up(), co.Tsit5(), how)
        with pytest.warns(co.IntegrationWarning, match="1 of 3 trajectories failed"):
            bars.append(sim.vjp(x0, control, [1.0], ts, seeds))
    np.testing.assert_allclose(flat(bars[0]), flat(bars[1]), rtol=1e-10)
    assert bars[1][1][1] == 0.0 and not bars[1][2][1].any()


def test_network_jacobian_by_rows_and_by_columns(rng: np.random.Generator) -> None:
    """Networks of few states take adjoint rows of the Jacobian, others CasADi's coloured Jacobian."""
    for nx in (2, 9):
        model = co.ControlledODE(co.Chain(co.Dense(nx, 4, "tanh"), co.Dense(4, nx)), nx=nx, nu=0)
        p, x0 = model.init(0), rng.standard_normal((3, nx))
        seeds = rng.standard_normal((3, 9, nx))
        wanted = flat((*co.Simulator(model, co.RK4(), "adjoint").vjp(x0, None, p, TS, seeds)[:2], 0.0))
        found = flat((*co.Simulator(model, co.RK4(), "forward").vjp(x0, None, p, TS, seeds)[:2], 0.0))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


def chain(nx: int) -> co.ControlledODE:
    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        return [p[0] * (x[i - 1] - x[i] if i else -x[0]) + ca.sin(x[i]) for i in range(nx)]

    return co.ControlledODE(rhs, nx=nx, params=1)


def test_auto_takes_forward_for_one_parameter_and_the_adjoint_for_many() -> None:
    ts, data = np.linspace(0.0, 1.0, 201), np.zeros((1, 201, 20))
    obj = co.Objective(co.Simulator(chain(20), co.RK4()), np.ones(20), None, ts, data=data)
    net = co.ControlledODE(co.Chain(co.Dense(2, 40, "tanh"), co.Dense(40, 2)), nx=2, nu=0)
    large = co.Objective(co.Simulator(net, co.RK4()), np.ones(2), None, ts, data=data[..., :2])
    value, gradient = obj([0.5])
    assert "Forward" in obj.explain() and "us by the adjoint" in obj.explain()
    large(net.init(0))
    assert "Adjoint" in large.explain()
    plain = co.Objective(co.Simulator(chain(20), co.RK4(), "adjoint"), np.ones(20), None, ts, data=data)([0.5])
    assert value == pytest.approx(plain[0], rel=1e-14) and gradient == pytest.approx(plain[1], rel=1e-12)
    rodas = co.Simulator(oscillator(), co.Rodas5P())
    rodas.vjp(np.ones(2), co.PiecewiseLinear(KNOTS, np.zeros(5)), P, TS, np.ones((9, 2)))
    assert "may be implicit" in rodas.explain()


@pytest.mark.parametrize("checkpoints", [1, 3, 10])
def test_recomputation_is_the_least_possible(checkpoints: int) -> None:
    """Griewank & Walther: k states reverse N steps with N r - C(k + r, r - 1) replayed ones, C(k + r, r) >= N."""
    steps, repeats = 300, 1
    while math.comb(checkpoints + repeats, repeats) < steps:
        repeats += 1
    sim = co.Simulator(blow_up(), co.RK4(steps_per_interval=steps), co.Adjoint(checkpoints))
    control = co.Constant(np.zeros((1, 1)))
    sim.vjp([0.1], control, [1.0], [0.0, 1.0], np.ones((2, 1)))
    work = sim.last_work
    assert work is not None
    assert (work.rows, work.replayed) == (steps, steps * repeats - math.comb(checkpoints + repeats, repeats - 1))
    assert work.state_bytes == 64 * (checkpoints + 2) and work.header_bytes == 40 * steps
    assert f"at most {checkpoints} states" in sim.explain() and f"{work.replayed} replayed" in sim.explain()


def test_comparison_names_the_fastest() -> None:
    sim = co.Simulator(oscillator(), co.RK4())
    control = co.PiecewiseLinear(KNOTS, np.ones((2, 5, 1)))
    report = sim.compare_sensitivities(np.ones(2), control, P, TS, seconds=0.01)
    names = [row.name for row in report.rows]
    assert names[:3] == ["discrete adjoint", "adjoint, 10 checkpoints", "forward, all directions packed"]
    errors = {row.name: row.error for row in report.rows}
    assert errors["forward, all directions packed"] < 1e-12 and errors["central finite differences"] < 1e-6
    assert errors.get("continuous adjoint, CVODES", 0.0) < 1e-2  # RK4 with these steps has errors of its own
    assert report.fastest.name in report.reason and "10 directions" in report.reason
    assert all(name in str(report) for name in names)
    assert Columns((0, 3)).n == 3


def test_nothing_is_compared_where_every_trajectory_fails() -> None:
    sim = co.Simulator(co.ControlledODE(lambda t, x, u, p: p * x**2, nx=1, params=1), co.Tsit5())
    with pytest.raises(co.DataError, match="no trajectory succeeds"):
        sim.compare_sensitivities([2.0], None, [1.0], [0.0, 1.0])
