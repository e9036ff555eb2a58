"""sin, cos, tan, asin, acos, atan, atan2.

Reduction by multiples of pi (pi/2 for tan) in three parts with fma: the first product cancels exactly, so
that the reduced argument keeps full relative precision next to every multiple of pi while the multiple fits
the rounding trick: |x| < 1e9 in float64 (tested; about 1e15 by construction), 1e5 in float32. Beyond, results
are meaningless.
"""

from __future__ import annotations

import math

from llvmlite import ir

from . import coefficients as table
from .lanes import Lanes, Value

# pi as a sum of three floats, each rounded down: n * part has one sign then, which keeps sin(-0.0) = -0.0
PI = {
    "float64": (3.141592653589793, 1.224646799147353e-16, 2.1657133478438278e-32),
    "float32": (3.141592502593994, 1.5099578831723193e-07, 1.078060505991553e-14),
}


def _odd(m: Lanes, b: ir.IRBuilder, r: Value, z: Value, coefficients: tuple[float, ...]) -> Value:
    """r + r z P(z).

    The addition of 0.0 makes z P(z) a positive zero for r = -0.0, the sum then stays -0.0.
    """
    return m.fma(b, m.fma(b, m.horner(b, z, coefficients), z, m.c(0.0)), r, r)


def _subtract(m: Lanes, b: ir.IRBuilder, x: Value, n: Value, unit: float) -> Value:
    """x - n * unit * pi."""
    for part in PI[m.dtype]:
        x = m.fma(b, n, m.c(-part * unit), x)
    return x


def sin(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """sin(x) = (-1)**n sin(x - n pi)."""
    t = m.fma(b, x, m.c(1.0 / math.pi), m.c(m.magic))
    r = _subtract(m, b, x, b.fsub(t, m.c(m.magic)), 1.0)
    return m.flip(b, _odd(m, b, r, b.fmul(r, r), table.SIN_POLY[m.dtype]), t)


def cos(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """cos(x) = (-1)**n sin(x + pi/2 - n pi); n - 1/2 is doubled, as the rounding trick gives integers."""
    turns = m.fma(b, x, m.c(1.0 / math.pi), m.c(0.5))
    t = b.fadd(turns, m.c(m.magic))
    n = b.fsub(b.fsub(t, m.c(m.magic)), m.c(0.5))
    r = _subtract(m, b, x, n, 1.0)
    return m.flip(b, _odd(m, b, r, b.fmul(r, r), table.SIN_POLY[m.dtype]), t)


def tan(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """sin / cos of x - n pi/2; -cos / sin for odd n."""
    t = m.fma(b, x, m.c(2.0 / math.pi), m.c(m.magic))
    r = _subtract(m, b, x, b.fsub(t, m.c(m.magic)), 0.5)
    z = b.fmul(r, r)
    s = _odd(m, b, r, z, table.SIN4_POLY[m.dtype])
    c = m.horner(b, z, (1.0, -0.5, *table.COS4_POLY[m.dtype]))
    odd = b.icmp_unsigned("!=", b.and_(m.as_int(b, t), m.i(1)), m.i(0))
    return m.quotient(b, b.select(odd, c, s), b.select(odd, b.fneg(s), c))


def _atan_ratio(m: Lanes, b: ir.IRBuilder, y: Value, x: Value) -> Value:
    """atan(y / x) in [0, pi/2] for y, x >= 0; 0 for 0/0 and pi/4 for inf/inf.

    With q = small / large: atan(q) = pi/4 - atan((large - small) / (large + small)) for q > tan(pi/8).
    """
    swapped = b.fcmp_ordered(">", y, x)
    large, small = b.select(swapped, y, x), b.select(swapped, x, y)
    # equal operands (also 0/0 and inf/inf, where the quotient would be NaN) go through 1 * pi/4 or 0
    middle = b.fcmp_ordered(">", small, b.fmul(large, m.c(math.sqrt(2.0) - 1.0)))
    equal = b.fcmp_ordered("==", small, large)
    numerator = b.select(middle, b.fsub(small, large), small)
    denominator = b.select(middle, b.fadd(small, large), large)
    numerator = b.select(equal, m.c(0.0), numerator)
    denominator = b.select(equal, m.c(1.0), denominator)
    r = b.fdiv(numerator, denominator)
    angle = _odd(m, b, r, b.fmul(r, r), table.ATAN_POLY[m.dtype])
    quarter, low = PI[m.dtype][0] / 4, PI[m.dtype][1] / 4
    shifted = b.or_(middle, b.and_(equal, b.fcmp_ordered(">", large, m.c(0.0))))
    angle = b.select(shifted, b.fadd(b.fadd(angle, m.c(low)), m.c(quarter)), angle)
    turned = b.fadd(b.fsub(m.c(2 * quarter), angle), m.c(2 * low))
    return b.select(swapped, turned, angle)


def atan(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """atan(x)."""
    return m.copysign(b, _atan_ratio(m, b, m.abs(b, x), m.c(1.0)), x)


def atan2(m: Lanes, b: ir.IRBuilder, y: Value, x: Value) -> Value:
    """Angle of the point (x, y), with the signed zeros and infinities of C."""
    angle = _atan_ratio(m, b, m.abs(b, y), m.abs(b, x))
    pi, low = PI[m.dtype][:2]
    negative = b.icmp_signed("<", m.as_int(b, x), m.i(0))
    angle = b.select(negative, b.fadd(b.fsub(m.c(pi), angle), m.c(low)), angle)
    angle = b.select(b.fcmp_unordered("uno", x, y), m.c(math.nan), angle)
    return m.copysign(b, angle, y)


def _asin_core(m: Lanes, b: ir.IRBuilder, a: Value) -> tuple[Value, Value]:
    """(large, v) for a = |x|: v = asin(a) up to 1/2, beyond v = asin(sqrt((1 - a) / 2))."""
    large = b.fcmp_ordered(">", a, m.c(0.5))
    z = b.select(large, b.fmul(b.fsub(m.c(1.0), a), m.c(0.5)), b.fmul(a, a))
    r = b.select(large, m.fast_sqrt(b, z), a)
    return large, _odd(m, b, r, z, table.ASIN_POLY[m.dtype])


def asin(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """asin(x); pi/2 - 2 asin(sqrt((1 - a) / 2)) for a = |x| > 1/2."""
    large, v = _asin_core(m, b, m.abs(b, x))
    pi, low = PI[m.dtype][:2]
    far = b.fadd(m.fma(b, v, m.c(-2.0), m.c(low / 2)), m.c(pi / 2))
    return m.copysign(b, b.select(large, far, v), x)


def acos(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """acos(x) = pi/2 - asin(x), 2 v for x > 1/2 and pi - 2 v for x < -1/2 with v of `_asin_core`."""
    large, v = _asin_core(m, b, m.abs(b, x))
    pi, low = PI[m.dtype][:2]
    negative = b.fcmp_ordered("<", x, m.c(0.0))
    near = b.fadd(b.fsub(m.c(low / 2), m.copysign(b, v, x)), m.c(pi / 2))
    twice = b.fadd(v, v)
    far = b.select(negative, b.fadd(b.fsub(m.c(low), twice), m.c(pi)), twice)
    return b.select(large, far, near)
