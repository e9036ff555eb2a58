"""Products of uniform matrices and varying vectors as functions of their own, one for each shape.

The derivatives of a Runge-Kutta step repeat the products of its network many times. In place, each is a loop nest with
a register block of its own: the Hessian of eight stages of a 4-32-32-3 network has 278 of them, which took two thirds
of the time to compile. Called, there are as many as shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from .lanes import POINTER, Context, Memory
from .matmul import Load, WeightView, matvec


@dataclass(frozen=True)
class Vector:
    """Entries ``first, first + step, ...`` of a value in memory."""

    memory: Memory
    first: int
    step: int

    def address(self, c: Context) -> ir.Value:
        """Address of the first entry."""
        entry = self.memory.offset + self.first
        return c.address(self.memory.pointer, c.index(entry * (c.target.lanes if self.memory.varying else 1)))

    @property
    def form(self) -> tuple[int, bool]:
        """What the code that reads it depends on, besides the address."""
        return self.step, self.memory.varying

    def reader(self, c: Context, pointer: ir.Value) -> Load:
        """How to read it from an address."""
        memory = Memory(pointer, 0, self.memory.varying)
        return lambda entry, m: c.load_entry(memory, c.affine(entry, self.step, 0), m)


def call_matvec(
    c: Context,
    weights: WeightView,
    shape: tuple[int, int],
    x: Vector,
    start: Vector | None,
    out: Vector,
) -> None:
    """``out = start + W @ x`` by the function for this shape, which is made when it is first needed."""
    functions = c.products
    if functions is None:
        raise RuntimeError("products are not shared in this module; this is a bug in the assembly")
    key = (shape, weights.down, weights.across, x.form, None if start is None else start.form, out.step)
    if key not in functions:
        functions[key] = _function(c, f"product.{len(functions)}", weights, shape, x, start, out)
    matrix = c.address(weights.pointer, c.index(weights.offset))
    addresses = [v.address(c) for v in (x, x if start is None else start, out)]
    c.b.call(functions[key], [matrix, *addresses])


def _function(
    c: Context,
    name: str,
    weights: WeightView,
    shape: tuple[int, int],
    x: Vector,
    start: Vector | None,
    out: Vector,
) -> ir.Function:
    fn = ir.Function(c.module, ir.FunctionType(ir.VoidType(), [POINTER] * 4), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    fn.attributes.add("nounwind")
    fn.args[3].add_attribute("noalias")
    before, c.b = c.b, ir.IRBuilder(fn.append_basic_block("entry"))
    view = WeightView(fn.args[0], 0, weights.down, weights.across)
    target = Memory(fn.args[3], 0, True)
    matvec(
        c,
        view,
        *shape,
        x.reader(c, fn.args[1]),
        None if start is None else start.reader(c, fn.args[2]),
        lambda i, m, value: c.store_entry(value, target, c.affine(i, out.step, 0), m),
    )
    c.b.ret_void()
    c.b = before
    return fn
