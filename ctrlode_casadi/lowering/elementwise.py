"""Machine code of one elementwise operation on SIMD vectors.

Arithmetic and comparisons are single instructions and stand here; everything else is a method of ``VectorMath`` with
the name of the operation. Products may be contracted to fused multiply-adds, nothing else may be reordered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .lanes import Context

_CONTRACT = ("contract",)


def _arithmetic(name: str) -> Callable[..., ir.Value]:
    def emit(c: Context, *args: ir.Value) -> ir.Value:
        return getattr(c.b, name)(*args, flags=_CONTRACT)

    return emit


def _flag(c: Context, bit: ir.Value) -> ir.Value:
    return c.b.select(bit, c.splat_constant(1.0), c.splat_constant(0.0))


def _bit(c: Context, x: ir.Value) -> ir.Value:
    return c.b.fcmp_unordered("!=", x, c.splat_constant(0.0))


def _compare(relation: str, ordered: bool = True) -> Callable[..., ir.Value]:
    def emit(c: Context, x: ir.Value, y: ir.Value) -> ir.Value:
        compare = c.b.fcmp_ordered if ordered else c.b.fcmp_unordered
        return _flag(c, compare(relation, x, y))

    return emit


def _not(c: Context, x: ir.Value) -> ir.Value:
    return _flag(c, c.b.fcmp_ordered("==", x, c.splat_constant(0.0)))


def _if_else_zero(c: Context, condition: ir.Value, y: ir.Value) -> ir.Value:
    return c.b.select(_bit(c, condition), y, c.splat_constant(0.0))


_SIMPLE: dict[str, Callable[..., ir.Value]] = {
    "add": _arithmetic("fadd"),
    "sub": _arithmetic("fsub"),
    "mul": _arithmetic("fmul"),
    "neg": lambda c, x: c.b.fneg(x),
    "sq": lambda c, x: c.b.fmul(x, x, flags=_CONTRACT),
    "twice": lambda c, x: c.b.fadd(x, x),
    "inv": lambda c, x: c.math.div(c.b, c.splat_constant(1.0), x),
    "lt": _compare("<"),
    "le": _compare("<="),
    "eq": _compare("=="),
    "ne": _compare("!=", ordered=False),
    "not": _not,
    "and": lambda c, x, y: _flag(c, c.b.and_(_bit(c, x), _bit(c, y))),
    "or": lambda c, x, y: _flag(c, c.b.or_(_bit(c, x), _bit(c, y))),
    "if_else_zero": _if_else_zero,
    "constpow": lambda c, x, y: c.math.pow(c.b, x, y),
    "assign": lambda c, x: x,
}


def emit_elementwise(c: Context, op: str, args: list[Any]) -> ir.Value:
    """Vector result of ``op`` on vector operands."""
    simple = _SIMPLE.get(op)
    if simple is not None:
        return simple(c, *args)
    return getattr(c.math, op)(c.b, *args)
