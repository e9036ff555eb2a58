"""Deferred weight gradients of one trajectory.

A rank-one update of a wide weight matrix reads and writes the whole gradient for one multiply-add per entry. With a
single trajectory that would be most of the time, so the factors of ``SLOTS`` successive calls wait in the accumulator
and are added together as one matrix product. The accumulator's first number counts the waiting calls; free slots hold
zeros, so that a flush may always take all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from . import outer
from .accumulate import Leaf, Outer
from .body import PiecePlace
from .lanes import I64, POINTER, Context

#: Calls whose factors wait before they are added.
SLOTS = 16
#: Numbers at the start of the accumulator that hold the counter (a whole cache line).
HEADER = 16
#: Weights from which on deferring pays.
SMALLEST = 256


def is_deferred(rows: int, columns: int) -> bool:
    """Whether the gradient of a rows x columns matrix is deferred."""
    return rows * columns >= SMALLEST


def slot(c: Context, acc: ir.Value | None) -> ir.Value:
    """Number of the free slot: the accumulator's first number."""
    return c.b.fptosi(c.load_scalar(acc, c.index(0)), I64)


def emit_flush(
    c: Context, scalar: Context, pieces: Sequence[Leaf | Outer], places: Sequence[PiecePlace]
) -> ir.Function:
    """The function ``flush(acc)``: add all waiting factors, empty the slots, reset the counter."""
    fn = ir.Function(c.module, ir.FunctionType(ir.VoidType(), [POINTER]), "flush")
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    entry, start = fn.append_basic_block("entry"), fn.append_basic_block("start")
    ir.IRBuilder(entry).branch(start)
    c.b = scalar.b = ir.IRBuilder(start)
    acc = fn.args[0]
    for piece, place in zip(pieces, places, strict=True):
        if place.slots is None or not isinstance(piece, Outer):
            continue
        rows, columns = piece.shape
        left, right = place.slots
        factors = outer.Factors(acc, c.index(left), 1, rows, acc, right, SLOTS)
        outer.add_products(c, acc, place.offset, rows, columns, factors)
        zero = scalar.splat_constant(0.0)
        with scalar.loop(SLOTS * rows) as i:
            scalar.store_vector(zero, acc, scalar.affine(i, 1, left))
    c.store_scalar(c.number(0.0), acc, c.index(0))
    c.b.ret_void()
    return fn


def emit_count(c: Context, acc: ir.Value, flush: ir.Function) -> None:
    """Count a call, and flush when all slots are taken."""
    b = c.b
    taken = b.fadd(c.load_scalar(acc, c.index(0)), c.number(1.0))
    c.store_scalar(taken, acc, c.index(0))
    with b.if_then(b.fcmp_ordered(">=", taken, c.number(float(SLOTS)))):
        b.call(flush, [acc])
