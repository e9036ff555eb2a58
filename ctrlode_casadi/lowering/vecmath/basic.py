"""Rounding, signs, extrema, remainders, hypot."""

from __future__ import annotations

import math

from llvmlite import ir

from .lanes import Lanes, Value


def sign(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """-1, 1, or x itself where it is 0 or NaN, as CasADi's sign."""
    unit = m.copysign(b, m.c(1.0), x)
    return b.select(b.fcmp_ordered("!=", x, m.c(0.0)), unit, x)


def fmod(m: Lanes, b: ir.IRBuilder, x: Value, y: Value) -> Value:
    """x - trunc(x / y) y, exact for |x / y| < 2**53 (2**24), NaN beyond; C's fmod otherwise."""
    a, d = m.abs(b, x), m.abs(b, y)
    n = m.call(b, "trunc", b.fdiv(a, d))
    r = m.fma(b, b.fneg(n), d, a)
    r = m.where(b, r, "<", 0.0, b.fadd(r, d), r)  # the quotient was rounded up to an integer
    return _finish_remainder(m, b, x, y, n, m.copysign(b, r, x))


def remainder(m: Lanes, b: ir.IRBuilder, x: Value, y: Value) -> Value:
    """x - n y with n the integer nearest to x / y, even in a tie.

    Exact for |x / y| < 2**52 (2**23), NaN beyond.
    """
    a, d = m.abs(b, x), m.abs(b, y)
    n = m.call(b, "rint", b.fdiv(a, d))
    r = m.fma(b, b.fneg(n), d, a)
    # |r| > d / 2, written so that d / 2 is not rounded: the quotient was rounded onto a tie
    excess = b.fsub(m.abs(b, r), b.fsub(d, m.abs(b, r)))
    r = m.where(b, excess, ">", 0.0, b.fsub(r, m.copysign(b, d, r)), r)
    negative = b.icmp_signed("<", m.as_int(b, x), m.i(0))
    zero = m.where(b, r, "==", 0.0, m.c(0.0), r)  # an exact multiple has the sign of x
    return _finish_remainder(m, b, x, y, n, b.select(negative, b.fneg(zero), zero))


def _finish_remainder(m: Lanes, b: ir.IRBuilder, x: Value, y: Value, n: Value, r: Value) -> Value:
    """NaN where the multiple does not fit the format; x itself for infinite y."""
    r = m.where(b, n, "<", math.ldexp(1.0, m.mantissa + 1), r, m.c(math.nan))
    endless = b.and_(b.fcmp_ordered("==", m.abs(b, y), m.c(math.inf)), b.fcmp_ordered("<", m.abs(b, x), m.c(math.inf)))
    return b.select(endless, x, r)


def hypot(m: Lanes, b: ir.IRBuilder, x: Value, y: Value) -> Value:
    """sqrt(x*x + y*y) without overflow or underflow; inf if either is infinite."""
    x, y = m.abs(b, x), m.abs(b, y)
    large = b.select(b.fcmp_ordered(">", x, y), x, y)
    step = m.bias // 2 + m.mantissa
    huge = b.fcmp_ordered(">", large, m.power(m.bias // 2 - 2))
    tiny = b.fcmp_ordered("<", large, m.power(m.mantissa - m.bias // 2))
    one = m.c(1.0)
    down = b.select(huge, m.power(-step), b.select(tiny, m.power(step), one))
    up = b.select(huge, m.power(step), b.select(tiny, m.power(-step), one))
    x_scaled, y_scaled = b.fmul(x, down), b.fmul(y, down)
    root = m.sqrt(b, m.fma(b, x_scaled, x_scaled, b.fmul(y_scaled, y_scaled)))
    infinite = b.or_(b.fcmp_ordered("==", x, m.c(math.inf)), b.fcmp_ordered("==", y, m.c(math.inf)))
    return b.select(infinite, m.c(math.inf), b.fmul(root, up))
