"""LLVM code of small dense linear algebra across lanes: every lane has its own matrix, right-hand side and pivots.

A matrix is [n][n][L], a vector [n][L], lanes innermost. Each routine becomes one internal function of the module, in
two versions: for whole SIMD vectors of lanes, and for a single lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ...lowering.jit import host
from .emit import DOUBLE, I32, I64, declare, loop


class _Lanes:
    """Rows of one vector of lanes, `width` wide."""

    def __init__(self, b: ir.IRBuilder, elem: Any, width: int, row: Any, at: Any) -> None:
        self.b, self.elem, self.width, self.row, self.at = b, elem, width, row, at
        self.item = 8 if isinstance(elem, ir.DoubleType) else 4
        self.vec = ir.VectorType(elem, width)

    def splat(self, value: Any) -> Any:
        v = self.b.insert_element(ir.Constant(self.vec, ir.Undefined), value, I32(0))
        return self.b.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, self.width), [0] * self.width))

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vec, [self.elem(value)] * self.width)

    def place(self, base: Any, index: Any) -> Any:
        b = self.b
        address = b.add(b.add(base, b.mul(index, self.row)), self.at)
        return b.inttoptr(address, self.vec.as_pointer())

    def load(self, base: Any, index: Any) -> Any:
        v = self.b.load(self.place(base, index))
        v.align = self.item * self.width
        return v

    def store(self, value: Any, base: Any, index: Any) -> None:
        self.b.store(value, self.place(base, index)).align = self.item * self.width

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        name = f"llvm.fmuladd.v{self.width}f{8 * self.item}"
        return self.b.call(declare(self.b.module, name, self.vec, [self.vec] * 3), [x, y, z])

    def minus_product(self, z: Any, x: Any, y: Any) -> Any:
        """z - x * y."""
        return self.fma(self.b.fneg(x), y, z)

    def size(self, x: Any) -> Any:
        name = f"llvm.fabs.v{self.width}f{8 * self.item}"
        return self.b.call(declare(self.b.module, name, self.vec, [self.vec]), [x])

    def number(self, i: Any) -> Any:
        """An index as a vector of reals."""
        return self.splat(self.b.sitofp(i, self.elem))

    def any(self, mask: Any) -> Any:
        bits = self.b.bitcast(mask, ir.IntType(self.width))
        return self.b.icmp_unsigned("!=", bits, ir.IntType(self.width)(0))

    def exchange(self, mask: Any, base: Any, i: Any, j: Any) -> None:
        """Swap rows i and j in the lanes of the mask."""
        x, y = self.load(base, i), self.load(base, j)
        self.store(self.b.select(mask, y, x), base, i)
        self.store(self.b.select(mask, x, y), base, j)


def _between(b: ir.IRBuilder, first: Any, last: Any) -> Any:
    """``for i in range(first, last)``; yields i - first."""
    return loop(b, b.sub(last, first))


def _factor(v: _Lanes, w: Any, pivots: Any, least: Any, n: Any) -> None:
    """LU factors in place, the pivots' reciprocals on the diagonal, row numbers to `pivots`.

    `least` receives the smallest pivot: zero where the matrix is singular, NaN where it is not finite.
    """
    b, one, zero = v.b, I64(1), I64(0)
    with b.goto_entry_block():
        best, row = b.alloca(v.vec), b.alloca(v.vec)
    v.store(v.constant(float("inf")), least, zero)
    with loop(b, n) as k:
        line, after = b.mul(k, n), b.add(k, one)
        diagonal = b.add(line, k)
        b.store(v.size(v.load(w, diagonal)), best)
        b.store(v.number(k), row)
        with _between(b, after, n) as q:
            i = b.add(after, q)
            size, old = v.size(v.load(w, b.add(b.mul(i, n), k))), b.load(best)
            larger = b.fcmp_ordered(">", size, old)
            b.store(b.select(larger, size, old), best)
            b.store(b.select(larger, v.number(i), b.load(row)), row)
        v.store(b.load(row), pivots, k)
        with b.if_then(v.any(b.fcmp_unordered("!=", b.load(row), v.number(k)))), _between(b, after, n) as q:
            i = b.add(after, q)
            mask = b.fcmp_ordered("==", b.load(row), v.number(i))
            with b.if_then(v.any(mask)), loop(b, n) as j:
                v.exchange(mask, w, b.add(line, j), b.add(b.mul(i, n), j))
        found, low = b.load(best), v.load(least, zero)
        smaller = b.select(b.fcmp_ordered("<", found, low), found, low)
        v.store(v.fma(found, v.constant(0.0), smaller), least, zero)  # keeps what is not finite
        inverse = b.fdiv(v.constant(1.0), v.load(w, diagonal))
        v.store(inverse, w, diagonal)
        with _between(b, after, n) as q:
            other = b.mul(b.add(after, q), n)
            factor = b.fmul(v.load(w, b.add(other, k)), inverse)
            v.store(factor, w, b.add(other, k))
            with _between(b, after, n) as z:
                j = b.add(after, z)
                entry = b.add(other, j)
                v.store(v.minus_product(v.load(w, entry), factor, v.load(w, b.add(line, j))), w, entry)


class _Rows:
    """A vector whose entries lie in listed rows of an array."""

    def __init__(self, v: _Lanes, base: Any, rows: Any) -> None:
        self.v, self.base, self.rows = v, base, rows

    def at(self, i: Any) -> Any:
        b = self.v.b
        return b.load(b.inttoptr(b.add(self.rows, b.mul(i, I64(8))), I64.as_pointer()))

    def load(self, i: Any) -> Any:
        return self.v.load(self.base, self.at(i))

    def store(self, value: Any, i: Any) -> None:
        self.v.store(value, self.base, self.at(i))


def _permute(v: _Lanes, pivots: Any, x: _Rows, k: Any, n: Any) -> None:
    """The exchange of step k of the factorisation."""
    b = v.b
    row, after = v.load(pivots, k), b.add(k, I64(1))
    with b.if_then(v.any(b.fcmp_unordered("!=", row, v.number(k)))), _between(b, after, n) as q:
        i = b.add(after, q)
        mask = b.fcmp_ordered("==", row, v.number(i))
        with b.if_then(v.any(mask)):
            v.exchange(mask, x.base, x.at(k), x.at(i))


def _solve(v: _Lanes, w: Any, pivots: Any, x_at: Any, rows: Any, n: Any) -> None:
    """x = W^-1 x for the factors of `_factor`."""
    b, x = v.b, _Rows(v, x_at, rows)
    with b.goto_entry_block():
        total = b.alloca(v.vec)
    with loop(b, n) as k:
        _permute(v, pivots, x, k, n)
    with loop(b, n) as k:
        b.store(x.load(k), total)
        with loop(b, k) as i:
            b.store(v.minus_product(b.load(total), v.load(w, b.add(b.mul(k, n), i)), x.load(i)), total)
        x.store(b.load(total), k)
    with loop(b, n) as q:
        k = b.sub(b.sub(n, q), I64(1))
        after = b.add(k, I64(1))
        b.store(x.load(k), total)
        with loop(b, q) as z:
            i = b.add(after, z)
            b.store(v.minus_product(b.load(total), v.load(w, b.add(b.mul(k, n), i)), x.load(i)), total)
        x.store(b.fmul(b.load(total), v.load(w, b.add(b.mul(k, n), k))), k)


def _solve_transposed(v: _Lanes, w: Any, pivots: Any, x_at: Any, rows: Any, n: Any) -> None:
    """x = W^-T x for the factors of `_factor`."""
    b, x = v.b, _Rows(v, x_at, rows)
    with b.goto_entry_block():
        total = b.alloca(v.vec)
    with loop(b, n) as k:
        b.store(x.load(k), total)
        with loop(b, k) as i:
            b.store(v.minus_product(b.load(total), v.load(w, b.add(b.mul(i, n), k)), x.load(i)), total)
        x.store(b.fmul(b.load(total), v.load(w, b.add(b.mul(k, n), k))), k)
    with loop(b, n) as q:
        k = b.sub(b.sub(n, q), I64(1))
        after = b.add(k, I64(1))
        b.store(x.load(k), total)
        with loop(b, q) as z:
            i = b.add(after, z)
            b.store(v.minus_product(b.load(total), v.load(w, b.add(b.mul(i, n), k)), x.load(i)), total)
        x.store(b.load(total), k)
    with loop(b, n) as q:
        _permute(v, pivots, x, b.sub(b.sub(n, q), I64(1)), n)


def _sparse_add(v: _Lanes, y: Any, h: Any, a: Any, x: Any, places: Any, count: Any) -> None:
    """y[i] += h[0] a[j] x[k] for the triples (i, j, k) of row numbers in `places`."""
    b = v.b
    step = v.load(h, I64(0))
    with loop(b, count) as z:
        at = b.add(places, b.mul(z, I64(24)))
        i, j, k = (b.load(b.inttoptr(b.add(at, I64(8 * q)), I64.as_pointer())) for q in range(3))
        v.store(v.fma(b.fmul(step, v.load(a, j)), v.load(x, k), v.load(y, i)), y, i)


#: Routines by the name of the primitive; the arguments are those of the primitive without the number of lanes.
_ROUTINES: dict[str, tuple[Callable[..., None], int]] = {
    "factor": (_factor, 4),
    "solve": (_solve, 5),
    "solve_transposed": (_solve_transposed, 5),
    "sparse_add": (_sparse_add, 6),
}


def _routine(module: ir.Module, elem: Any, name: str) -> ir.Function:
    """The internal function of a routine, made on first use."""
    found = module.globals.get(f"linear_{name}")
    if found is not None:
        return found
    emit, arguments = _ROUTINES[name]
    item = 8 if elem is DOUBLE else 4
    width = host().vector_bytes // item
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * (arguments + 1)), f"linear_{name}")
    made.linkage = "internal"
    *args, lanes = made.args
    b = ir.IRBuilder(made.append_basic_block("entry"))
    start, wide, narrow = (made.append_basic_block(label) for label in ("start", "wide", "narrow"))
    b.branch(start)
    b.position_at_end(start)
    row = b.mul(lanes, I64(item))
    b.cbranch(b.icmp_signed("==", b.srem(lanes, I64(width)), I64(0)), wide, narrow)
    for block, step in ((wide, width), (narrow, 1)):
        b.position_at_end(block)
        with loop(b, lanes, step) as lane:
            emit(_Lanes(b, elem, step, row, b.mul(lane, I64(item))), *args)
        b.ret_void()
    return made


def _primitive(name: str) -> Callable[..., None]:
    def emit(r: Any, *args: Any) -> None:
        r.b.call(_routine(r.b.module, r.elem, name), list(args))

    return emit


#: Emitters by the name of the primitive.
LINEAR: dict[str, Callable[..., None]] = {name: _primitive(name) for name in _ROUTINES}
