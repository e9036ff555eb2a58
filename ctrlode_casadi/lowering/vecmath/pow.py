"""pow: log in two floats, product in two floats, exp with a correction, special cases as in C."""

from __future__ import annotations

import math
from fractions import Fraction

from llvmlite import ir

from . import coefficients as table
from .exp import LN2, bounds, clamp, finish_exp, reduce
from .lanes import Lanes, Value
from .log import split


def _two_product(m: Lanes, b: ir.IRBuilder, x: Value, y: Value) -> tuple[Value, Value]:
    """x * y as a rounded product and its exact error."""
    high = b.fmul(x, y)
    return high, m.fma(b, x, y, b.fneg(high))


def _fast_two_sum(b: ir.IRBuilder, x: Value, y: Value) -> tuple[Value, Value]:
    """x + y as a rounded sum and its exact error, for |x| >= |y| or x = 0."""
    high = b.fadd(x, y)
    return high, b.fsub(y, b.fsub(high, x))


def _split_native(m: Lanes, b: ir.IRBuilder, x: Value) -> tuple[Value, Value]:
    """(e, m) with x = 2**e m and m in [0.75, 1.5) (AVX-512)."""
    e = m.getexp(b, b.fmul(x, m.c(4.0 / 3.0)))
    return e, m.scalef(b, x, b.fneg(e))


def _log_pair(m: Lanes, b: ir.IRBuilder, x: Value) -> tuple[Value, Value]:
    """log(x) as a sum of two floats, relative error about 2**-62 (2**-31), for positive finite x.

    log = e ln(2) + 2 s + s z (2/3 + z P(z)), with s = (m - 1) / (m + 1) and z = s*s; all but P in two floats.
    """
    e, mantissa = _split_native(m, b, x) if m.avx512 else split(m, b, x)
    one = m.c(1.0)
    f, d = b.fsub(mantissa, one), b.fadd(mantissa, one)
    d_low = b.fsub(mantissa, b.fsub(d, one))
    inverse = m.quotient(b, one, d)
    s = b.fmul(f, inverse)
    minus_s = b.fneg(s)
    s_low = b.fmul(m.fma(b, minus_s, d_low, m.fma(b, minus_s, d, f)), inverse)
    twice = b.fadd(s, s)
    z, z_low = _two_product(m, b, s, s)
    z_low = m.fma(b, twice, s_low, z_low)
    third = m.c(2.0 / 3.0)
    rest = b.fmul(z, m.horner(b, z, table.POW_LOG_POLY[m.dtype]))
    p, p_low = _fast_two_sum(b, third, rest)
    p_low = b.fadd(p_low, m.c(float(Fraction(2, 3) - Fraction(m.rounded(2.0 / 3.0)))))
    zp, zp_low = _two_product(m, b, z, p)
    zp_low = b.fadd(zp_low, m.fma(b, z, p_low, b.fmul(z_low, p)))
    t, t_low = _two_product(m, b, s, zp)
    t_low = b.fadd(t_low, m.fma(b, s, zp_low, m.fma(b, s_low, zp, b.fadd(s_low, s_low))))
    head, tail = LN2[m.dtype]
    high, low = _fast_two_sum(b, b.fmul(e, m.c(head)), twice)
    high, low_t = _fast_two_sum(b, high, t)
    low = b.fadd(b.fadd(low, low_t), m.fma(b, e, m.c(tail), t_low))
    return _fast_two_sum(b, high, low)


def pow(m: Lanes, b: ir.IRBuilder, x: Value, y: Value) -> Value:
    """x**y with the special cases of C."""
    a, zero, one, inf = m.abs(b, x), m.c(0.0), m.c(1.0), m.c(math.inf)
    high, low = _log_pair(m, b, a)
    high = b.select(b.fcmp_ordered("<", a, inf), high, a)
    high = m.where(b, a, "==", 0.0, m.c(-math.inf), high)
    product, error = _two_product(m, b, y, high)
    error = m.fma(b, y, low, error)
    error = m.where(b, m.abs(b, product), "<", 2.0 * m.bias, error, zero)
    product = m.where(b, a, "==", 1.0, zero, product)  # also for infinite y
    t, k, r = reduce(m, b, clamp(m, b, product, *bounds(m)))
    result = finish_exp(m, b, t, k, b.fadd(r, error))
    # negative base: NaN unless y is an integer, sign of x for odd y
    half = b.fmul(y, m.c(0.5))
    whole = b.fcmp_ordered("==", m.call(b, "floor", y), y)
    odd = b.and_(whole, b.fcmp_ordered("!=", m.call(b, "floor", half), half))
    result = b.select(odd, m.copysign(b, result, x), result)
    refused = b.and_(b.and_(b.fcmp_ordered("<", x, zero), b.fcmp_ordered(">", x, m.c(-math.inf))), b.not_(whole))
    result = b.select(refused, m.c(math.nan), result)
    ones = b.or_(b.fcmp_ordered("==", y, zero), b.fcmp_ordered("==", x, one))
    return b.select(ones, one, result)
