"""log, log1p, asinh, acosh, atanh.

On AVX-512 x = 2**e m with m in [0.75, 1.5) from vgetexppd and vgetmantpd; a 16-entry table gives c near 1/m,
so that log(x) = (e ln(2) - log(c)) + log1p(m c - 1) with |m c - 1| <= 1/16, where the bracket vanishes for x
near 1. Elsewhere log(m) = 2 atanh(s), s = (m - 1) / (m + 1), with m in [sqrt(1/2), sqrt(2)).
"""

from __future__ import annotations

import math

from llvmlite import ir

from . import coefficients as table
from .exp import LN2
from .lanes import Lanes, Value

# as in LOG_OFFSET
LN2_ROUNDED = {"float64": 0.6931471805599453, "float32": 0.6931471824645996}
SQRT_HALF = math.sqrt(0.5)


def split(m: Lanes, b: ir.IRBuilder, x: Value) -> tuple[Value, Value]:
    """(e, m) with x = 2**e m, m in [sqrt(1/2), sqrt(2)), for positive finite x, subnormals included."""
    tiny = b.fcmp_ordered("<", x, m.power(1 - m.bias))
    x = b.select(tiny, b.fmul(x, m.power(m.mantissa + 2)), x)
    offset = m.bits(SQRT_HALF)
    one = m.bias << m.mantissa
    raw = b.add(m.as_int(b, x), b.sub(m.i(one), offset))
    fraction = b.and_(raw, m.i((1 << m.mantissa) - 1))
    # integer to float by adding it to the bit pattern of the rounding constant: no 64-bit conversion on AVX2
    e = b.fsub(m.as_real(b, b.add(b.lshr(raw, m.i(m.mantissa)), m.bits(m.magic))), m.c(m.magic + m.bias))
    e = b.select(tiny, b.fadd(e, m.c(-(m.mantissa + 2.0))), e)
    return e, m.as_real(b, b.add(fraction, offset))


def _special(m: Lanes, b: ir.IRBuilder, x: Value, result: Value) -> Value:
    """The logarithm at 0 (-inf), at inf, below 0 and at NaN (both NaN)."""
    result = b.select(b.fcmp_ordered("<", x, m.c(math.inf)), result, x)
    result = m.where(b, x, "<", 0.0, m.c(math.nan), result)
    return m.where(b, x, "==", 0.0, m.c(-math.inf), result)


def _log_table(m: Lanes, b: ir.IRBuilder, x: Value, rest: Value | None) -> Value:
    """log(x + rest) with vgetexp, vgetmant and the table."""
    e, mantissa = m.getexp(b, x), m.getmant(b, x)
    index = b.lshr(m.as_int(b, mantissa), m.i(m.mantissa - 4))
    c = m.look_up(b, table.LOG_RECIPROCAL[m.dtype], index)
    r = m.fma(b, mantissa, c, m.c(-1.0))
    if rest is not None:
        # mantissa and x differ in the exponent only: their difference is that of 2**-e. For x = inf, where
        # rest is NaN, and where 2**-e underflows, the bound takes over; it is below the rounding error.
        unit = m.as_real(b, b.add(b.sub(m.as_int(b, mantissa), m.as_int(b, x)), m.bits(1.0)))
        r = b.fadd(r, m.at_least_or(b, b.fmul(rest, b.fmul(unit, c)), m.c(-m.eps)))
    head = m.fma(b, e, m.c(LN2_ROUNDED[m.dtype]), m.look_up(b, table.LOG_OFFSET[m.dtype], index))
    tail = b.fmul(m.horner(b, r, table.LOG_TABLE_POLY[m.dtype]), r)
    return b.fadd(head, m.fma(b, tail, r, r))


def _log_plain(m: Lanes, b: ir.IRBuilder, x: Value, rest: Value | None) -> Value:
    """log(x + rest) for positive finite x, in the form of fdlibm: k ln(2) + (f - (f*f/2 - s*(f*f/2 + R)))."""
    k, mantissa = split(m, b, x)
    f = b.fadd(mantissa, m.c(-1.0))
    s = b.fdiv(f, b.fadd(mantissa, m.c(1.0)))
    z = b.fmul(s, s)
    big_r = b.fmul(z, m.horner(b, z, table.LOG_POLY[m.dtype]))
    square = b.fmul(b.fmul(f, m.c(0.5)), f)
    low = b.fmul(k, m.c(LN2[m.dtype][1]))
    if rest is not None:
        low = b.fadd(low, b.fdiv(rest, x))
    low = m.fma(b, s, b.fadd(square, big_r), low)
    return m.fma(b, k, m.c(LN2[m.dtype][0]), b.fsub(f, b.fsub(square, low)))


def log(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """Natural logarithm."""
    if m.avx512:
        return _log_table(m, b, x, None)
    return _special(m, b, x, _log_plain(m, b, x, None))


def log1p(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """log(1 + x): u = 1 + x rounded, with the rounding error as a correction."""
    one = m.c(1.0)
    large = b.select(b.fcmp_ordered(">", x, one), x, one)
    small = b.select(b.fcmp_ordered(">", x, one), one, x)
    u = b.fadd(large, small)
    rest = b.fsub(small, b.fsub(u, large))
    if m.avx512:
        result = _log_table(m, b, u, rest)
    else:
        result = _special(m, b, u, _log_plain(m, b, u, rest))
    return m.copysign(b, result, x)


def asinh(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """asinh(x) = log1p(a + a*a / (1 + sqrt(a*a + 1))), a = |x|; log(a) + log(2) for large a."""
    a = m.abs(b, x)
    large = b.fcmp_ordered(">", a, m.power(m.mantissa // 2 + 3))
    square = b.fmul(a, a)
    root = m.sqrt(b, b.fadd(square, m.c(1.0)))
    y = b.fadd(a, b.fdiv(square, b.fadd(root, m.c(1.0))))
    result = log1p(m, b, b.select(large, b.fadd(a, m.c(-1.0)), y))
    return m.copysign(b, b.fadd(result, b.select(large, m.c(math.log(2.0)), m.c(0.0))), x)


def acosh(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """acosh(x) = log1p(t + sqrt(t (t + 2))), t = x - 1; log(x) + log(2) for large x; NaN for x < 1."""
    large = b.fcmp_ordered(">", x, m.power(m.mantissa // 2 + 3))
    t = b.fadd(x, m.c(-1.0))
    y = b.fadd(t, m.sqrt(b, b.fmul(t, b.fadd(t, m.c(2.0)))))
    result = log1p(m, b, b.select(large, t, y))
    result = b.fadd(result, b.select(large, m.c(math.log(2.0)), m.c(0.0)))
    return m.where(b, x, "<", 1.0, m.c(math.nan), result)


def atanh(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """atanh(x) = log1p(2 a / (1 - a)) / 2, a = |x|."""
    a = m.abs(b, x)
    y = b.fdiv(b.fadd(a, a), b.fsub(m.c(1.0), a))
    return m.copysign(b, b.fmul(log1p(m, b, y), m.c(0.5)), x)
