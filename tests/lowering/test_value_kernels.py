"""Functions that are evaluated only: fixed rows, shared products and calls, against CasADi's virtual machine."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi import UnsupportedOperation
from ctrlode_casadi.lowering import calls, value_kernels
from ctrlode_casadi.lowering.interpreter import interpret
from ctrlode_casadi.lowering.kernels import simd_width
from ctrlode_casadi.lowering.value_kernels import FixedRows

W = simd_width("float64")


def check(f: ca.Function, uniform: int, rows: int, threads: int = 1, scale: float = 1.0) -> None:
    """All rows, twice with different uniform inputs, agree with one evaluation of f for each row."""
    rng = np.random.default_rng(rows)
    ins = [scale * rng.normal(size=(rows, f.nnz_in(i))) for i in range(f.n_in())]
    outs = [np.full((rows, f.nnz_out(j)), np.nan) for j in range(f.n_out())]
    made = FixedRows(f, uniform, [a for i, a in enumerate(ins) if i != uniform], outs, threads)
    for _ in range(2):
        p = scale * rng.normal(size=f.nnz_in(uniform))
        made.p[:] = p
        made.prepare()
        made.run()
        for k in range(rows):
            arguments = [p if i == uniform else a[k] for i, a in enumerate(ins)]
            expected = f.call([ca.DM(f.sparsity_in(i), a) for i, a in enumerate(arguments)])
            for e, o in zip(expected, outs, strict=True):
                want = np.array(e.nonzeros())
                np.testing.assert_allclose(o[k], want, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(want).max(initial=0)))
        ins[0 if uniform else 1] += 0.25


def pendulum_steps(steps: int, kind: type) -> ca.Function:
    """(p, x) -> x after steps of Heun's method, of scalar expressions that are called in each stage."""
    x, p = kind.sym("x", 2), kind.sym("p", 2)
    force = p[0] * ca.sin(x[0]) / (1.0 + p[1] ** 2 + 0.1 * ca.cos(x[0]) ** 2) + ca.tanh(x[1] * p[1])
    more = sum(ca.sin((k + 1) * x[0]) * ca.cos(x[1] - k) for k in range(4))
    rhs = ca.Function("rhs", [x, p], [ca.vertcat(x[1], -force + 0.05 * more)])
    x, p = ca.MX.sym("x", 2), ca.MX.sym("p", 2)
    end = x
    for _ in range(steps):
        k1 = rhs(end, p)
        end = end + 0.01 * (k1 + rhs(end + 0.02 * k1, p))
    start = rhs(p, ca.DM([1.0, 2.0])) + rhs(2 * p, p) + rhs(p[::-1], p)  # depends on p only
    return ca.Function("simulation", [p, x], [end + start, ca.jacobian(end, x)])


@pytest.mark.parametrize("kind", [ca.SX, ca.MX])
@pytest.mark.parametrize("rows", [1, 2, 3, W - 1, W, W + 1, 2 * W + 3])
def test_long_programs_keep_their_calls(kind: type, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_kernels, "MOST_SCALARS_FOR_ONE_LANE", 10**9)
    f = pendulum_steps(60, kind)
    program = calls.read_program(f)
    assert calls.callees(program)
    assert len(program.instructions) < 0.2 * calls.expanded_scalars(program)
    check(f, 0, rows)


def test_short_programs_have_no_calls() -> None:
    assert not calls.callees(calls.read_program(pendulum_steps(2, ca.SX)))


def test_programs_with_calls_are_interpreted_alike() -> None:
    f = pendulum_steps(60, ca.SX)
    program = calls.read_program(f)
    rng = np.random.default_rng(0)
    p, x = rng.normal(size=2), rng.normal(size=(2, 5))
    found = interpret(program, [p, x])
    for k in range(5):
        for ours, theirs in zip(found, f.call([p, x[:, k]]), strict=True):
            np.testing.assert_allclose(ours[:, k], np.array(theirs.nonzeros()), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rows", [1, 2, 3, W - 1, W, W + 1])
def test_products_in_functions_of_their_own(rows: int) -> None:
    """Products of several shapes, with and without a start, transposed, strided and repeated."""
    p, x, z = ca.MX.sym("p", 5 * 7 + 9 * 5 + 5), ca.MX.sym("x", 7), ca.MX.sym("z", 14)
    a, b, c = ca.reshape(p[:35], 5, 7), ca.reshape(p[35:80], 9, 5), p[80:]
    h = ca.tanh(a @ x + c)
    y = ca.tanh(a @ z[::2] + h)
    wide = b @ ca.reshape(ca.vertcat(h, y, z[:5]), 5, 3)
    back = a.T @ (h * y) + b[:7, :] @ y
    f = ca.Function("products", [p, x, z], [wide, back, b @ h, b @ y + ca.vertcat(x, c[:2]), ca.dot(h, y)])
    check(f, 0, rows, scale=0.5)


def test_a_zero_beside_an_entry_is_no_descending_view() -> None:
    """Entries 0 and "none" of a sparse factor look like the indices 0, -1."""
    p, x = ca.MX.sym("p", 4), ca.MX.sym("x", 3)
    sparse = ca.MX(ca.Sparsity.triplet(2, 1, [0], [0]), x[0])
    f = ca.Function("f", [p, x], [ca.reshape(p, 2, 2) @ ca.densify(sparse) + x[1:]])
    for rows in (1, W, W + 1):
        check(f, 0, rows)


def test_threads_give_the_same_bits() -> None:
    f = pendulum_steps(60, ca.SX)
    rng = np.random.default_rng(0)
    x, found = rng.normal(size=(40 * W + 3, 2)), []
    for threads in (1, 2, 5):
        outs = [np.empty((x.shape[0], f.nnz_out(j))) for j in range(2)]
        made = FixedRows(f, 0, [x], outs, threads)
        made.p[:] = [1.0, 0.5]
        made.prepare()
        for _ in range(5):
            made.run()
        found.append(outs)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_what_would_take_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    f = pendulum_steps(61, ca.SX)  # not in the cache, where length does not matter any more
    monkeypatch.setattr(value_kernels, "LONGEST_COMPILATION", 1e-3)
    monkeypatch.setenv("CTRLODE_CACHE_DIR", "/nowhere")
    with pytest.raises(UnsupportedOperation, match="to compile"):
        value_kernels.value_kernels(f, 0, 100)
    monkeypatch.undo()
    monkeypatch.setenv("CTRLODE_CACHE_DIR", "/nowhere")
    monkeypatch.setattr(value_kernels, "MOST_SCALARS_FOR_ONE_LANE", 10)
    with pytest.raises(UnsupportedOperation, match="few rows"):
        value_kernels.value_kernels(f, 0, 1)
