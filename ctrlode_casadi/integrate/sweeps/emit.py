"""LLVM code of the primitive operations of the sweeps' language."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

REGISTER = 64
I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
DOUBLE = ir.DoubleType()


def declare(module: ir.Module, name: str, result: Any, args: list[Any]) -> ir.Function:
    """The function of this name, declared on first use."""
    found = module.globals.get(name)
    return found if found is not None else ir.Function(module, ir.FunctionType(result, args), name)


@contextmanager
def loop(b: ir.IRBuilder, count: Any, step: int = 1) -> Iterator[Any]:
    """Emit ``for i in range(0, count, step)``; yields i."""
    head, body, end = (b.append_basic_block(n) for n in ("loop", "body", "end"))
    with b.goto_entry_block():
        index = b.alloca(I64)
    b.store(I64(0), index)
    b.branch(head)
    b.position_at_end(head)
    i = b.load(index)
    b.cbranch(b.icmp_signed("<", i, count), body, end)
    b.position_at_end(body)
    yield i
    b.store(b.add(i, I64(step)), index)
    b.branch(head)
    b.position_at_end(end)


class Registers:
    """Emits vector loops over arrays of one float type."""

    def __init__(self, b: ir.IRBuilder, elem: Any) -> None:
        self.b, self.elem = b, elem
        self.item = 8 if isinstance(elem, ir.DoubleType) else 4
        self.width = REGISTER // self.item
        self.vec = ir.VectorType(elem, self.width)

    def splat(self, value: Any) -> Any:
        v = self.b.insert_element(ir.Constant(self.vec, ir.Undefined), value, I32(0))
        return self.b.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, self.width), [0] * self.width))

    def load(self, address: Any) -> Any:
        v = self.b.load(self.b.inttoptr(address, self.vec.as_pointer()))
        v.align = REGISTER
        return v

    def store(self, value: Any, address: Any) -> None:
        self.b.store(value, self.b.inttoptr(address, self.vec.as_pointer())).align = REGISTER

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        name = f"llvm.fmuladd.v{self.width}f{8 * self.item}"
        return self.b.call(declare(self.b.module, name, self.vec, [self.vec] * 3), [x, y, z])

    def each(self, n: Any, body: Callable[[Any], None]) -> None:
        """Run `body(offset in bytes)` for every register of n entries."""
        with loop(self.b, n, self.width) as i:
            body(self.b.mul(i, I64(self.item)))

    def weighted(self, off: Any, k: Any, stride: Any, cols: Any, vals: Any, count: Any) -> Any:
        """sum over z < count of vals[z] * k[cols[z]] for one register."""
        b = self.b
        with b.goto_entry_block():
            total = b.alloca(self.vec)
        b.store(ir.Constant(self.vec, [self.elem(0.0)] * self.width), total)
        with loop(b, count) as z:
            col = b.load(b.inttoptr(b.add(cols, b.mul(z, I64(8))), I64.as_pointer()))
            val = b.load(b.inttoptr(b.add(vals, b.mul(z, I64(self.item))), self.elem.as_pointer()))
            term = self.load(b.add(b.add(k, off), b.mul(col, stride)))
            b.store(self.fma(self.splat(val), term, b.load(total)), total)
        return b.load(total)


def _fill(r: Registers, y: Any, value: Any, n: Any) -> None:
    v = r.splat(value)
    r.each(n, lambda o: r.store(v, r.b.add(y, o)))


def _copy(r: Registers, y: Any, x: Any, n: Any) -> None:
    r.each(n, lambda o: r.store(r.load(r.b.add(x, o)), r.b.add(y, o)))


def _add(r: Registers, y: Any, x: Any, n: Any) -> None:
    r.each(n, lambda o: r.store(r.b.fadd(r.load(r.b.add(y, o)), r.load(r.b.add(x, o))), r.b.add(y, o)))


def _multiply(r: Registers, y: Any, x: Any, n: Any) -> None:
    r.each(n, lambda o: r.store(r.b.fmul(r.load(r.b.add(y, o)), r.load(r.b.add(x, o))), r.b.add(y, o)))


def _horner(r: Registers, y: Any, s: Any, c: Any, n: Any) -> None:
    at = r.b.add
    r.each(n, lambda o: r.store(r.fma(r.load(at(y, o)), r.load(at(s, o)), r.load(at(c, o))), at(y, o)))


def _combine(r: Registers, y: Any, x: Any, h: Any, *terms: Any) -> None:
    *sparse, n = terms
    at = r.b.add

    def body(o: Any) -> None:
        total = r.weighted(o, *sparse)
        r.store(r.fma(r.load(at(h, o)), total, r.load(at(x, o))), at(y, o))

    r.each(n, body)


def _weigh(r: Registers, y: Any, h: Any, *terms: Any) -> None:
    *sparse, n = terms
    at = r.b.add

    def body(o: Any) -> None:
        total = r.weighted(o, *sparse)
        r.store(r.b.fmul(r.load(at(h, o)), total), at(y, o))

    r.each(n, body)


def _call_kernel(r: Registers, address: Any, inputs: Any, outputs: Any) -> None:
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, pointer]).as_pointer()
    r.b.call(r.b.inttoptr(address, kind), [r.b.inttoptr(v, pointer) for v in (inputs, outputs)])


def _next_ticket(r: Registers, address: Any) -> Any:
    return r.b.atomic_rmw("add", r.b.inttoptr(address, I64.as_pointer()), I64(1), "seq_cst")


def _poll(r: Registers, address: Any) -> Any:
    return r.b.load_atomic(r.b.inttoptr(address, I64.as_pointer()), "monotonic", 8)


def _multiply_add(r: Registers, x: Any, y: Any, z: Any) -> Any:
    name = f"llvm.fmuladd.f{8 * r.item}"
    return r.b.call(declare(r.b.module, name, r.elem, [r.elem] * 3), [x, y, z])


def _pointer(kind: str) -> Callable[..., Any]:
    def emit(r: Registers, address: Any) -> Any:
        elem = {"ints": I64, "floats": DOUBLE, "reals": r.elem}[kind]
        return r.b.inttoptr(address, elem.as_pointer())

    return emit


#: Emitters by the name of the primitive.
PRIMITIVES: dict[str, Callable[..., Any]] = {
    "ints": _pointer("ints"),
    "doubles": _pointer("floats"),
    "reals": _pointer("reals"),
    "call_kernel": _call_kernel,
    "next_ticket": _next_ticket,
    "poll": _poll,
    "multiply_add": _multiply_add,
    "fill": _fill,
    "copy": _copy,
    "add": _add,
    "multiply": _multiply,
    "horner": _horner,
    "combine": _combine,
    "weigh": _weigh,
}
