"""erf, erfinv."""

from __future__ import annotations

import math

from llvmlite import ir

from . import coefficients as table
from .exp import finish_exp, reduce
from .lanes import Lanes, Value
from .log import log
from .tables import ERF_TABLE, ERFINV_TABLE, PIECE


def _pieces(m: Lanes, b: ir.IRBuilder, x: Value, rows: tuple[tuple[float, ...], ...]) -> Value:
    """Piecewise polynomial of x >= 0, constant beyond the last piece."""
    h = PIECE[m.dtype]
    x = m.at_most(b, x, m.c(15.49 * h))
    t = m.fma(b, x, m.c(1.0 / h), m.c(m.magic))
    d = m.fma(b, b.fsub(t, m.c(m.magic)), m.c(-h), x)
    index = m.as_int(b, t)
    result = m.look_up(b, rows[-1], index)
    for row in reversed(rows[:-1]):
        result = m.fma(b, result, d, m.look_up(b, row, index))
    return result


def erf(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """erf(x): 16 polynomials on AVX-512.

    Elsewhere x P(x*x) below 1 and 1 - exp(L(|x|)) above, L = log(erfc).
    """
    a = m.abs(b, x)
    if m.avx512:
        return m.copysign(b, _pieces(m, b, a, ERF_TABLE[m.dtype]), x)
    near = b.fmul(a, m.horner(b, b.fmul(a, a), table.ERF_POLY[m.dtype]))
    far = m.at_most(b, a, m.c(6.0 if m.double else 4.1))
    log_erfc = m.horner(b, b.fsub(far, m.c(3.5)), table.ERF_LOG_POLY[m.dtype])
    erfc = finish_exp(m, b, *reduce(m, b, log_erfc))
    small = b.fcmp_ordered("<", a, m.c(1.0))
    return m.copysign(b, b.select(small, near, b.fsub(m.c(1.0), erfc)), x)


def erfinv(m: Lanes, b: ir.IRBuilder, x: Value) -> Value:
    """erfinv(x) = x g(s), s = sqrt(-log(1 - x*x)); +-inf at +-1, NaN beyond."""
    one = m.c(1.0)
    w = b.fneg(log(m, b, b.fmul(b.fsub(one, x), b.fadd(one, x))))
    result = b.fmul(x, _pieces(m, b, m.sqrt(b, m.abs(b, w)), ERFINV_TABLE[m.dtype]))
    a = m.abs(b, x)
    return m.where(b, a, "==", 1.0, m.copysign(b, m.c(math.inf), x), m.where(b, a, ">", 1.0, m.c(math.nan), result))
