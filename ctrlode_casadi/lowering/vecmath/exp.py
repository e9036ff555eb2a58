"""exp, expm1, tanh, sinh, cosh.

Cody-Waite reduction x = k ln(2) + r and q = expm1(r). With s = 2**k, exp(x) = s + s q and expm1(x) = (s - 1)
+ s q, where s - 1 is exact when it cancels. On AVX-512 k is a multiple of 1/16, so that |r| <= ln(2)/32, and
2**k is a look-up in two registers plus vscalefpd. Calls with the same argument emit the same reduction and
polynomial, which LLVM merges.
"""

from __future__ import annotations

import math

from llvmlite import ir

from . import coefficients as table
from .lanes import Lanes, Value

# ln(2) in a head with trailing zero bits, so that k * head is exact, and the rest; both positive: k * part
# then has one sign, which keeps -0.0
LN2 = {
    "float64": (0.6931471805598903, 5.497923018708371e-14),
    "float32": (0.693145751953125, 1.42860676533018e-06),
}
LN2_ERROR = {"float64": -2.3190468138462996e-17, "float32": 1.904654290582768e-09}  # of ln(2) in one float
INVERSE_LN2 = 1.4426950408889634


def reduce(m: Lanes, b: ir.IRBuilder, x: Value, *, shift: int = 1, twice: bool = False) -> tuple[Value, Value, Value]:
    """(t, k, r) with x = k ln(2) + r, or 2 x = k ln(2) + 2 r for `twice`.

    t holds in its low bits the table index (AVX-512) or the exponent field of 2**(k - shift).
    """
    scale = 2.0 if twice else 1.0
    magic = m.magic / 16 if m.avx512 else m.magic + m.bias - shift
    t = m.fma(b, x, m.c(INVERSE_LN2 * scale), m.c(magic))
    k = b.fsub(t, m.c(magic))
    r = x
    # one part does for tanh: its error is in the table for k < 1, beyond it does not count
    for part in (m.rounded(math.log(2.0)),) if twice else LN2[m.dtype]:
        r = m.fma(b, k, m.c(-part / scale), r)
    return t, k, r


def _bend(m: Lanes, b: ir.IRBuilder, r: Value, scale: float = 1.0) -> Value:
    """(expm1(scale r) - scale r) / r for the reduced argument.

    Adding 0.0 makes it a positive zero at r = -0.0, so that bend * r + r is -0.0.
    """
    coefficients = (table.EXP_TABLE_POLY if m.avx512 else table.EXP_POLY)[m.dtype]
    return m.fma(b, r, m.horner(b, r, [value * scale**2 for value in coefficients], scale), m.c(0.0))


def clamp(m: Lanes, b: ir.IRBuilder, x: Value, low: float | None, high: float) -> Value:
    """x in [low, high]; NaN stays."""
    x = m.at_most(b, x, m.c(high))
    return x if low is None else m.at_least(b, x, m.c(low))


def bounds(m: Lanes) -> tuple[float, float]:
    """Where exp is 0 and inf for certain, but the scale 2**k / 2 is still finite."""
    if m.avx512:
        return (-746.0, 710.0) if m.double else (-104.5, 89.0)
    return -(m.bias - 1) * math.log(2.0), (m.bias + 1.4) * math.log(2.0)


def exp(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """exp(x). Subnormal results are right on AVX-512; elsewhere results below 2**(2 - bias) become 0."""
    x = clamp(m, b, x, *bounds(m))
    return finish_exp(m, b, *reduce(m, b, x))


def finish_exp(m: Lanes, b: ir.IRBuilder, t: Value, k: Value, r: Value) -> Value:
    """2**k exp(r)."""
    q = m.fma(b, _bend(m, b, r), r, r)
    if m.avx512:
        head = m.look_up(b, table.EXP2_16[m.dtype], m.as_int(b, t))
        return m.scalef(b, m.fma(b, head, q, head), k)
    s = m.exponent_field(b, t)
    half = m.fma(b, s, q, s)
    return b.fadd(half, half)


def _scaled_expm1(m: Lanes, b: ir.IRBuilder, x: Value, shift: int, *, twice: bool = False) -> Value:
    """expm1(x) * 2**-shift for a clamped x, or expm1(2 x) * 2**-shift; keeps the sign of zero."""
    t, k, r = reduce(m, b, x, shift=shift, twice=twice)
    bend = _bend(m, b, r, 2.0 if twice else 1.0)
    if m.avx512:
        index = m.as_int(b, t)
        heads = tuple(math.ldexp(value, -shift) for value in table.EXP2_16[m.dtype])
        ratio = table.EXP2_16_RATIO[m.dtype]
        if twice:
            ratio = tuple(value + i / 16 * LN2_ERROR[m.dtype] for i, value in enumerate(ratio))
        low = m.fma(b, bend, r, m.look_up(b, ratio, index))
        q = m.fma(b, r, m.c(2.0), low) if twice else b.fadd(r, low)
        s = m.scalef(b, m.look_up(b, heads, index), k)
    else:
        q = m.fma(b, bend, r, b.fadd(r, r) if twice else r)
        s = m.exponent_field(b, t)
    rest = b.fsub(m.power(-shift), s)  # not s - 2**-shift: -0.0 must come out as s * -0.0 - 0.0
    return m.fma(b, s, q, b.fneg(rest))


def expm1(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """exp(x) - 1, computed halved, as 2**k overflows before the result does."""
    half = _scaled_expm1(m, b, clamp(m, b, x, *bounds(m)), 1)
    return b.fadd(half, half)


def tanh(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """tanh(x) = e / (e + 2), e = expm1(2 |x|).

    The error of e enters by less than once, for e < 0 up to twice.
    """
    a = clamp(m, b, m.abs(b, x), None, 22.0 if m.double else 11.0)
    e = _scaled_expm1(m, b, a, 0, twice=True)
    y = m.rough_reciprocal(b, b.fadd(e, m.c(2.0)))
    first = b.fmul(e, y)
    # residual with the unrounded e + 2
    excess = m.fma(b, e, first, m.fma(b, first, m.c(2.0), b.fneg(e)))
    return m.copysign(b, m.fma(b, b.fneg(excess), y, first), x)


def sinh(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """sinh(x) = (e + e / (e + 1)) / 2 with e = expm1(|x|), computed with e / 4."""
    quarter = _scaled_expm1(m, b, clamp(m, b, m.abs(b, x), None, (m.bias + 2.1) * math.log(2.0)), 2)
    below = m.at_most(b, m.fma(b, quarter, m.c(4.0), m.c(1.0)), m.power(m.bias - 30))
    half = b.fadd(quarter, m.quotient(b, quarter, below))
    return m.copysign(b, b.fadd(half, half), x)


def cosh(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """cosh(x) = (e + 1 / e) / 2 with e = exp(|x|), computed with e / 4."""
    x = clamp(m, b, m.abs(b, x), None, (m.bias + 2.1) * math.log(2.0))
    t, k, r = reduce(m, b, x, shift=2)
    q = m.fma(b, _bend(m, b, r), r, r)
    if m.avx512:
        heads = tuple(value / 4 for value in table.EXP2_16[m.dtype])
        s = m.scalef(b, m.look_up(b, heads, m.as_int(b, t)), k)
    else:
        s = m.exponent_field(b, t)
    quarter = m.fma(b, s, q, s)
    below = m.at_most(b, quarter, m.power(m.bias - 30))
    return m.fma(b, quarter, m.c(2.0), m.quotient(b, m.c(0.125), below))
