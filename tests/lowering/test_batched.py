"""co.compile against CasADi's virtual machine: shapes, mixtures of shared and batched inputs, derivatives, threads."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.base.errors import DataError, ModelError, UnsupportedOperation
from ctrlode_casadi.lowering import blocks
from ctrlode_casadi.lowering.batched import compile
from lowering.cases import OPERATIONS, dense_net, physics
from lowering.compare import W, assert_near, vjp, vm

SIZES = (1, W - 1, W, W + 1, 5 * W + 3)


def two_outputs() -> ca.Function:
    """A scalar, a vector, a matrix and a sparse matrix as inputs; two outputs."""
    s, x, a = ca.MX.sym("s"), ca.MX.sym("x", 3), ca.MX.sym("a", 2, 3)
    d = ca.MX.sym("d", ca.Sparsity.diag(3))
    return ca.Function(
        "g", [s, x, a, d], [ca.sin(s) * (a @ d @ x), ca.sumsqr(a) * x.T], ["s", "x", "a", "d"], ["y", "z"]
    )


def reference(f: ca.Function, inputs: list[Any], size: int) -> list[Any]:
    """Row by row with the virtual machine; inputs are (n,) or (size, n)."""
    rows = [vm(f, [x if x.ndim == 1 else x[b] for x in inputs]) for b in range(size)]
    return [np.array([r[j] for r in rows]) for j in range(f.n_out())]


@pytest.mark.parametrize("pattern", list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("size", SIZES)
def test_value_and_vjp(size: int, pattern: tuple[bool, bool], rng: np.random.Generator) -> None:
    f = two_outputs()
    g = compile(f)
    shared = [pattern[0], pattern[1], not pattern[0], False]
    inputs = [
        rng.standard_normal(n if s else (size, n)) for s, n in zip(shared, [f.nnz_in(i) for i in range(4)], strict=True)
    ]
    seeds = [rng.standard_normal((size, f.nnz_out(j))) for j in range(2)]
    before = [a.copy() for a in (*inputs, *seeds)]
    for got, want in zip(g(*inputs), reference(f, inputs, size), strict=True):
        assert_near(got, want, 1e-13, "value")
    bars = g.vjp(*inputs, seeds=seeds)
    want = reference(vjp(f), [*inputs, *seeds], size)
    for bar, x, w in zip(bars, inputs, want, strict=True):
        assert bar.shape == x.shape
        assert_near(bar, w if x.ndim == 2 else w.sum(axis=0), 1e-13, "bar")
    for a, b in zip((*inputs, *seeds), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [1, W + 1])
def test_jvp(size: int, rng: np.random.Generator) -> None:
    f = two_outputs()
    inputs = [rng.standard_normal(1), *(rng.standard_normal((size, f.nnz_in(i))) for i in range(1, 4))]
    tangents = [rng.standard_normal(x.shape) for x in inputs]
    got = compile(f).jvp(*inputs, tangents=tangents)
    h = 1e-6
    ends = [reference(f, [x + e * d for x, d in zip(inputs, tangents, strict=True)], size) for e in (h, -h)]
    for j, dy in enumerate(got):
        assert_near(dy, (ends[0][j] - ends[1][j]) / (2 * h), 1e-8, "tangent against difference")
    # Transposition: seeds . jvp == vjp . tangents
    seeds = [rng.standard_normal(dy.shape) for dy in got]
    bars = compile(f).vjp(*inputs, seeds=seeds)
    left = sum(np.sum(s * dy) for s, dy in zip(seeds, got, strict=True))
    right = sum(np.sum(b * d) for b, d in zip(bars, tangents, strict=True))
    assert left == pytest.approx(right, rel=1e-12)


def test_tangent_none_is_zero(rng: np.random.Generator) -> None:
    g = compile(physics())
    x, u, k = rng.standard_normal((4, 2)), rng.standard_normal((4, 1)), rng.standard_normal(3)
    dx = rng.standard_normal((4, 2))
    some = g.jvp(x, u, k, tangents=[dx, None, None])
    every = g.jvp(x, u, k, tangents=[dx, np.zeros((4, 1)), np.zeros(3)])
    for a, b in zip(some, every, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_shapes_of_arguments(rng: np.random.Generator) -> None:
    """Every way to write the same numbers gives the same result."""
    g = compile(two_outputs())
    s, x, a = rng.standard_normal(5), rng.standard_normal((5, 3)), rng.standard_normal((5, 2, 3))
    d = rng.standard_normal(3)
    flat = a.transpose(0, 2, 1).reshape(5, 6)
    want = g(s[:, None], x, flat, d)
    for arguments in ((s, x, a, d), (s[:, None], x[:, :, None], flat, d[:, None]), (s, x, flat[:, :, None], d)):
        for got, w in zip(g(*arguments), want, strict=True):
            np.testing.assert_array_equal(got, w)
    one = g(s[0], x[0], a[0], d)
    assert [y.shape for y in one] == [(2,), (3,)]
    for got, w in zip(one, want, strict=True):
        np.testing.assert_allclose(got, w[0], rtol=1e-14)
    for got, w in zip(g(float(s[0]), list(x[0]), a[0].tolist(), d), one, strict=True):
        np.testing.assert_array_equal(got, w)


def test_bars_have_the_shapes_of_the_arguments(rng: np.random.Generator) -> None:
    g = compile(two_outputs())
    a = rng.standard_normal((5, 2, 3))
    s, x, d = rng.standard_normal(5), rng.standard_normal((3, 1)), rng.standard_normal(3)
    seeds = [rng.standard_normal((5, 2)), None]
    bars = g.vjp(s, x, a, d, seeds=seeds)
    assert [b.shape for b in bars] == [(5,), (3, 1), (5, 2, 3), (3,)]
    flat = g.vjp(s, x, a.transpose(0, 2, 1).reshape(5, 6), d, seeds=seeds)
    np.testing.assert_array_equal(bars[2].transpose(0, 2, 1).reshape(5, 6), flat[2])
    shared = g.vjp(s, x, a[0], d, seeds=seeds)[2]
    assert shared.shape == (2, 3)


def test_seeds_may_be_shared_or_make_the_batch(rng: np.random.Generator) -> None:
    x = ca.MX.sym("x", 3)
    g = compile(ca.Function("f", [x], [ca.sin(x[:2]) * x[2]]))
    point, seeds = rng.standard_normal(3), rng.standard_normal((4, 2))
    each = [g.vjp(point, seeds=s) for s in seeds]
    np.testing.assert_allclose(g.vjp(point, seeds=seeds), np.sum(each, axis=0), rtol=1e-13)
    batch = np.tile(point, (4, 1))
    np.testing.assert_allclose(g.vjp(batch, seeds=seeds), each, rtol=1e-13)
    np.testing.assert_allclose(g.vjp(batch, seeds=seeds[0]), np.tile(each[0], (4, 1)), rtol=1e-13)
    np.testing.assert_allclose(g.vjp(batch, seeds=[seeds]), each, rtol=1e-13)


def test_results_do_not_depend_on_threads_or_layout(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(blocks, "LEAST_SHARE", 64)  # many shares from a small batch
    f = dense_net([3, 8, 2], "tanh")
    size = 700
    inputs = [0.0, rng.standard_normal((size, 2)), rng.standard_normal((size, 1)), rng.standard_normal(f.nnz_in(3))]
    seeds = rng.standard_normal((size, 2))
    one = compile(f, threads=1, lanes=W)
    value, bars = one(*inputs), one.vjp(*inputs, seeds=seeds)
    for threads in (2, 5):
        many = compile(f, threads=threads, lanes=W)
        np.testing.assert_array_equal(many(*inputs), value)
        for a, b in zip(many.vjp(*inputs, seeds=seeds), bars, strict=True):
            np.testing.assert_array_equal(a, b)
    inputs[1] = np.asfortranarray(inputs[1])
    np.testing.assert_array_equal(one(*inputs), value)
    np.testing.assert_array_equal(one(*inputs[:2], inputs[2][::-1][::-1], inputs[3]), value)
    np.testing.assert_allclose(
        bars[3],
        np.sum(
            [one.vjp(0.0, x, u, inputs[3], seeds=s)[3] for x, u, s in zip(inputs[1], inputs[2], seeds, strict=True)],
            axis=0,
        ),
        rtol=1e-11,
    )


def test_calls_from_several_threads(rng: np.random.Generator) -> None:
    g = compile(physics())
    k = rng.standard_normal(3)
    batches = [(rng.standard_normal((n, 2)), rng.standard_normal((n, 1))) for n in (3, 30, 90, 300)]
    want = [g(x, u, k) for x, u in batches]
    got: dict[int, Any] = {}

    def work(i: int) -> None:
        for _ in range(20):
            got[i] = g(*batches[i], k)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, w in enumerate(want):
        for a, b in zip(got[i], w, strict=True):
            np.testing.assert_array_equal(a, b)


def test_empty_batch() -> None:
    g = compile(two_outputs())
    empty = [np.zeros((0, 3)), np.zeros((0, 6)), np.zeros(3)]
    assert [y.shape for y in g(1.0, *empty)] == [(0, 2), (0, 3)]
    assert [y.shape for y in g(np.zeros(0), *empty)] == [(0, 2), (0, 3)]
    bars = g.vjp(1.0, *empty, seeds=[np.zeros((0, 2)), np.zeros((0, 3))])
    assert [b.shape for b in bars] == [(), (0, 3), (0, 6), (3,)]
    assert bars[0] == 0 and not bars[3].any()
    assert g.jvp(1.0, *empty, tangents=[1.0, None, None, None])[0].shape == (0, 2)


def test_functions_without_inputs_or_entries() -> None:
    assert compile(ca.Function("c", [], [ca.DM([1, 2])]))().tolist() == [1, 2]
    x, n = ca.MX.sym("x", 2), ca.MX.sym("n", 0)
    g = compile(ca.Function("n", [x, n], [2 * x, n]))
    y, none = g(np.ones((3, 2)), np.zeros(0))
    assert y.tolist() == [[2, 2]] * 3 and none.shape == (3, 0)
    bars = g.vjp(np.ones((3, 2)), np.zeros((3, 0)), seeds=[np.ones(2), None])
    assert bars[0].tolist() == [[2, 2]] * 3 and bars[1].shape == (3, 0)


def test_float32(rng: np.random.Generator) -> None:
    g = compile(physics(), dtype="float32")
    x, u = rng.standard_normal((20, 2)).astype(np.float32), rng.standard_normal((20, 1)).astype(np.float32)
    k = np.array([0.5, 1.0, 2.0], np.float32)
    got = g(x, u, k)
    assert all(y.dtype == np.float32 for y in got)
    for y, want in zip(got, reference(physics(), [x, u, k], 20), strict=True):
        assert_near(y, want, 1e-6, "float32")
    assert g.vjp(x, u, k, seeds=[np.ones(2, np.float32), None])[0].dtype == np.float32
    with pytest.raises(DataError, match=r"i0: expected dtype float32, got float64"):
        g(x.astype(float), u, k)


@pytest.mark.parametrize("name", ["map", "switch", "kron", "solve_varying", "logsumexp"])
@pytest.mark.parametrize("lanes", [1, None, 2 * W])
def test_options_of_lanes(name: str, lanes: int | None, rng: np.random.Generator) -> None:
    f = OPERATIONS[name]()
    inputs = [rng.standard_normal((W + 3, f.nnz_in(i))) for i in range(f.n_in())]
    got = compile(f, lanes=lanes)(*inputs)
    want = reference(f, inputs, W + 3)
    for a, b in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
        assert_near(a, b, 1e-11, name)


def test_functions_that_are_not_expressions(rng: np.random.Generator) -> None:
    """A map and a switch, compiled as they are."""
    x = rng.standard_normal((W + 1, 6))
    f = ca.Function("s", [q := ca.SX.sym("q", 2)], [ca.sin(q) * q[0]]).map(3)
    assert_near(compile(f)(x), reference(f, [x], W + 1)[0], 1e-13, "map")
    assert_near(compile(f).vjp(x, seeds=np.ones(6)), reference(vjp(f), [x, np.ones(6)], W + 1)[0], 1e-13, "map")


def test_names_and_explanation(rng: np.random.Generator) -> None:
    g = compile(two_outputs(), threads=1)
    assert g.name_in == ("s", "x", "a", "d") and g.name_out == ("y", "z")
    assert "nothing compiled yet" in g.explain()
    g(1.0, rng.standard_normal((40, 3)), np.ones(6), np.ones(3))
    text = g.explain()
    assert "shared s, a, d" in text and "float64" in text and "lanes" in text and "KiB" in text
    assert repr(g).startswith("CompiledFunction(g:(s,x[3],a[2x3]")


def test_misuse_is_named() -> None:
    f = two_outputs()
    with pytest.raises(ModelError, match=r"f: expected a casadi\.Function, got MX.*casadi\.Function\("):
        compile(ca.MX.sym("x"))
    with pytest.raises(DataError, match="dtype: expected 'float64' or 'float32', got 'float16'"):
        compile(f, dtype="float16")
    with pytest.raises(DataError, match=f"lanes: expected 1 or a positive multiple of {W}"):
        compile(f, lanes=W + 1)
    with pytest.raises(DataError, match="threads: expected a positive number"):
        compile(f, threads=0)
    g = compile(f)
    a, d = np.ones(6), np.ones(3)
    with pytest.raises(DataError, match=r"g: expected 4 inputs \(s, x, a, d\), got 2"):
        g(1.0, a)
    with pytest.raises(DataError, match=r"x: expected shape \(3,\).*\(B, 3\).*got shape \(3, 5\); .*transpose"):
        g(1.0, np.ones((3, 5)), a, d)
    with pytest.raises(DataError, match=r"a: expected shape \(6,\).*\(2, 3\) or \(B, 2, 3\).*got shape \(3, 2\)"):
        g(1.0, d, np.ones((3, 2)), d)
    with pytest.raises(DataError, match=r"a: .*got 7 rows where x has 5"):
        g(1.0, np.ones((5, 3)), np.ones((7, 6)), d)
    with pytest.raises(DataError, match=r"x: expected an array of float64, got dtype int64"):
        g(1.0, np.ones(3, dtype=int), a, d)
    with pytest.raises(DataError, match=r"seeds: expected a list of 2 arrays, one each for y, z .*got ndarray"):
        g.vjp(1.0, d, a, d, seeds=np.ones(2))
    with pytest.raises(DataError, match=r"tangents: expected a list of 4 arrays.*got 1"):
        g.jvp(1.0, d, a, d, tangents=[1.0])
    with pytest.raises(DataError, match=r"tangents of x: expected shape \(3,\)"):
        g.jvp(1.0, d, a, d, tangents=[None, np.ones(4), None, None])


def test_unsupported_operation_is_refused_at_once() -> None:
    x = ca.MX.sym("x", 2)
    lookup = ca.interpolant("table", "bspline", [[0.0, 1, 2, 3, 4]], [0.0, 1, 4, 9, 16])
    with pytest.raises(UnsupportedOperation, match=r"table.* of class BSplineInterpolant"):
        compile(ca.Function("f", [x], [lookup(x[0]) * x]))


def test_results_do_not_depend_on_earlier_batches() -> None:
    """The lanes follow from the batch alone, whatever was compiled before."""
    f = dense_net([3, 9, 2], "tanh")
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal((W, f.nnz_in(i))) for i in range(f.n_in())]
    inputs[-1] = inputs[-1][0]
    few = [a if a.ndim == 1 else a[:2] for a in inputs]
    used, fresh = compile(f), compile(f)
    used(*inputs)
    assert np.array_equal(used(*few), fresh(*few))
    assert "1 lane" in fresh.explain()
