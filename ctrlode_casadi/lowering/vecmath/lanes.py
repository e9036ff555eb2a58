"""Typed vector operations on an LLVM builder: what every elementary function of vecmath is written in.

`Lanes` knows the vector type (lanes, float64 or float32) and emits constants, intrinsics, polynomials, exact
tricks on the bit pattern, and the few AVX-512 instructions that have no generic form. Everything else is
plain IR that LLVM legalises on any target.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

Value = Any  # llvmlite's ir.Value has no type information

I32 = ir.IntType(32)


def _bits(value: float, dtype: str) -> int:
    """Bit pattern of a float as an unsigned integer."""
    if dtype == "float64":
        return int(struct.unpack("<Q", struct.pack("<d", value))[0])
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


class Lanes:
    """Vector type and primitive operations.

    Parameters
    ----------
    module : llvmlite.ir.Module
        Receives the declarations and constant tables.
    lanes : int
        Number of lanes, a power of two.
    dtype : "float64" or "float32"
    avx512 : bool
        Use AVX-512 (F, DQ) instructions where a multiple of 512 bits is at hand.
    """

    def __init__(self, module: ir.Module, lanes: int, dtype: str, avx512: bool = False) -> None:
        if dtype not in ("float64", "float32"):
            raise ValueError(f'dtype must be "float64" or "float32"; got {dtype!r}')
        if lanes < 1 or lanes & (lanes - 1):
            raise ValueError(f"lanes must be a power of two; got {lanes}")
        self.module, self.lanes, self.dtype = module, lanes, dtype
        self.double = dtype == "float64"
        self.mantissa, self.bias = (52, 1023) if self.double else (23, 127)
        self.real = ir.DoubleType() if self.double else ir.FloatType()
        self.integer = ir.IntType(64 if self.double else 32)
        self.vec, self.ivec = ir.VectorType(self.real, lanes), ir.VectorType(self.integer, lanes)
        self.suffix = f"v{lanes}f{64 if self.double else 32}"
        self.native = 8 if self.double else 16
        self.avx512 = avx512 and lanes % self.native == 0
        self.eps = math.ldexp(1.0, -self.mantissa)
        self.magic = math.ldexp(1.5, self.mantissa)  # adding it rounds to an integer, kept in the low bits

    # -- constants ------------------------------------------------------------------------------------------

    def rounded(self, value: float) -> float:
        """The value as the format stores it."""
        return value if self.double else float(struct.unpack("<f", struct.pack("<f", value))[0])

    def c(self, value: float) -> Value:
        """The same float in every lane."""
        return ir.Constant(self.vec, [ir.Constant(self.real, self.rounded(value))] * self.lanes)

    def i(self, value: int) -> Value:
        """The same integer in every lane."""
        return ir.Constant(self.ivec, [ir.Constant(self.integer, value)] * self.lanes)

    def power(self, exponent: int) -> Value:
        """The constant 2**exponent."""
        return self.c(math.ldexp(1.0, exponent))

    # -- intrinsics -----------------------------------------------------------------------------------------

    def declare(self, name: str, result: Value, arguments: Sequence[Value]) -> Value:
        """Function of this name in the module, declared on first use."""
        found = self.module.globals.get(name)
        return found or ir.Function(self.module, ir.FunctionType(result, list(arguments)), name)

    def call(self, b: ir.IRBuilder, name: str, *x: Value) -> Value:
        """The LLVM intrinsic `llvm.<name>` on vectors of this type."""
        return b.call(self.declare(f"llvm.{name}.{self.suffix}", self.vec, [self.vec] * len(x)), x)

    def fma(self, b: ir.IRBuilder, x: Value, y: Value, z: Value) -> Value:
        """x * y + z, rounded once."""
        return self.call(b, "fma", x, y, z)

    def abs(self, b: ir.IRBuilder, x: Value) -> Value:
        """Absolute value."""
        return self.call(b, "fabs", x)

    def sqrt(self, b: ir.IRBuilder, x: Value) -> Value:
        """Correctly rounded square root.

        Better than `fast_sqrt` next to work that does not need the multipliers.
        """
        return self.call(b, "sqrt", x)

    def fast_sqrt(self, b: ir.IRBuilder, x: Value) -> Value:
        """Square root: correctly rounded, on AVX-512 within 1 ulp (exact squares are exact).

        There t = x y with y = 1 / sqrt(x) to 14 bits, and sqrt(x) = t / sqrt(1 - e), e = 1 - t y, as a series
        in e: 10 instructions, 7 cycles against 26 of the divider. The bounds of y make 0 and inf right.
        """
        if not self.avx512:
            return self.call(b, "sqrt", x)
        low, high = (1e-160, 1e170) if self.double else (1e-21, 1e24)
        y = self.at_least(b, self.at_most(b, self._masked(b, "rsqrt14", [x], [], False), self.c(high)), self.c(low))
        t = b.fmul(x, y)
        e = self.fma(b, b.fneg(t), y, self.c(1.0))
        series = (0.5, 0.375, 0.3125, 0.2734375)[: 4 if self.double else 2]
        return self.fma(b, b.fmul(t, e), self.horner(b, e, series), t)

    def copysign(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """Magnitude of x with the sign of y."""
        return self.call(b, "copysign", x, y)

    # -- comparisons ----------------------------------------------------------------------------------------

    def at_least(self, b: ir.IRBuilder, x: Value, bound: Value) -> Value:
        """max(x, bound) in one instruction; NaN in x stays."""
        return b.select(b.fcmp_ordered("<", x, bound), bound, x)

    def at_most(self, b: ir.IRBuilder, x: Value, bound: Value) -> Value:
        """min(x, bound) in one instruction; NaN in x stays."""
        return b.select(b.fcmp_ordered(">", x, bound), bound, x)

    def at_least_or(self, b: ir.IRBuilder, x: Value, bound: Value) -> Value:
        """max(x, bound) in one instruction; NaN in x becomes the bound."""
        return b.select(b.fcmp_ordered(">", x, bound), x, bound)

    def where(self, b: ir.IRBuilder, x: Value, comparison: str, bound: float, yes: Value, no: Value) -> Value:
        """`yes` in the lanes where x compares so with a constant, otherwise (and for NaN) `no`."""
        return b.select(b.fcmp_ordered(comparison, x, self.c(bound)), yes, no)

    # -- polynomials ----------------------------------------------------------------------------------------

    def horner(self, b: ir.IRBuilder, x: Value, coefficients: Sequence[float], scale: float = 1.0) -> Value:
        """sum c[j] * (scale * x)**j for a power of two `scale`.

        Horner, not Estrin: the calls sit in loops over independent values, so that the number of
        instructions counts and their latency is hidden.
        """
        scaled = [value * scale**power for power, value in enumerate(coefficients)]
        result = self.c(scaled[-1])
        for value in reversed(scaled[:-1]):
            result = self.fma(b, result, x, self.c(value))
        return result

    # -- bit patterns ---------------------------------------------------------------------------------------

    def as_int(self, b: ir.IRBuilder, x: Value) -> Value:
        """Bit pattern."""
        return b.bitcast(x, self.ivec)

    def as_real(self, b: ir.IRBuilder, x: Value) -> Value:
        """Float with this bit pattern."""
        return b.bitcast(x, self.vec)

    def bits(self, value: float) -> Value:
        """Bit pattern of a float constant in every lane."""
        return self.i(_bits(value, self.dtype))

    def exponent_field(self, b: ir.IRBuilder, x: Value) -> Value:
        """2**(low bits of x - bias).

        Moves the low bits of a float that `magic` was added to into the exponent.
        """
        return self.as_real(b, b.shl(self.as_int(b, x), self.i(self.mantissa)))

    def flip(self, b: ir.IRBuilder, x: Value, odd: Value) -> Value:
        """x, negated where the lowest bit of the float `odd` is set."""
        sign = b.shl(self.as_int(b, odd), self.i(63 if self.double else 31))
        return self.as_real(b, b.xor(self.as_int(b, x), sign))

    # -- AVX-512 --------------------------------------------------------------------------------------------

    def _native(self, b: ir.IRBuilder, emit: Callable[..., Value], *x: Value) -> Value:
        """Apply a 512-bit instruction to each 512-bit part of wider vectors."""
        parts = self.lanes // self.native
        if parts == 1:
            return emit(*x)

        def part(value: Value, k: int) -> Value:
            mask = ir.Constant(ir.VectorType(I32, self.native), list(range(k * self.native, (k + 1) * self.native)))
            return b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)

        done = [emit(*(part(value, k) for value in x)) for k in range(parts)]
        while len(done) > 1:
            mask = ir.Constant(ir.VectorType(I32, 2 * done[0].type.count), list(range(2 * done[0].type.count)))
            done = [b.shuffle_vector(p, q, mask) for p, q in zip(done[::2], done[1::2])]
        return done[0]

    def _masked(
        self, b: ir.IRBuilder, name: str, x: Sequence[Value], immediate: Sequence[int], rounding: bool
    ) -> Value:
        """An AVX-512 intrinsic with pass-through, full mask and, where it has one, the rounding argument."""
        vec, mask = ir.VectorType(self.real, self.native), ir.IntType(self.native)
        kind = "pd" if self.double else "ps"
        types = [vec] * len(x) + [I32] * len(immediate) + [vec, mask] + [I32] * rounding
        function = self.declare(f"llvm.x86.avx512.{name}.{kind}.512", vec, types)
        constants = [ir.Constant(I32, value) for value in immediate]

        def emit(*parts: Value) -> Value:
            tail = [ir.Constant(vec, ir.Undefined), ir.Constant(mask, -1)]
            return b.call(function, [*parts, *constants, *tail, *([ir.Constant(I32, 4)] * rounding)])

        return self._native(b, emit, *x)

    def scalef(self, b: ir.IRBuilder, x: Value, k: Value) -> Value:
        """x * 2**floor(k), rounded once, with subnormals, 0 and inf (AVX-512)."""
        return self._masked(b, "mask.scalef", [x, k], [], True)

    def getexp(self, b: ir.IRBuilder, x: Value) -> Value:
        """floor(log2(abs(x))) as a float; -inf for 0, inf for inf (AVX-512)."""
        return self._masked(b, "mask.getexp", [x], [], True)

    def getmant(self, b: ir.IRBuilder, x: Value) -> Value:
        """Mantissa in [0.75, 1.5); NaN for x < 0, 1 for 0 and inf (AVX-512)."""
        return self._masked(b, "mask.getmant", [x], [0b1011], True)

    def reciprocal14(self, b: ir.IRBuilder, x: Value) -> Value:
        """1 / x to 14 bits (AVX-512)."""
        return self._masked(b, "rcp14", [x], [], False)

    # -- tables ---------------------------------------------------------------------------------------------

    def look_up(self, b: ir.IRBuilder, table: Sequence[float], index: Value) -> Value:
        """table[index mod 16] for 16 entries; `index` is an integer vector."""
        if not self.avx512:
            return self._gather(b, table, index)
        vec, ivec = ir.VectorType(self.real, self.native), ir.VectorType(self.integer, self.native)
        halves = [
            ir.Constant(vec, [ir.Constant(self.real, value) for value in table[k : k + self.native]])
            for k in range(0, 16, self.native)
        ]
        if self.double:
            function = self.declare("llvm.x86.avx512.vpermi2var.pd.512", vec, [vec, ivec, vec])
            return self._native(b, lambda k: b.call(function, [halves[0], k, halves[1]]), index)
        function = self.declare("llvm.x86.avx512.permvar.sf.512", vec, [vec, ivec])
        return self._native(b, lambda k: b.call(function, [halves[0], k]), index)

    def _gather(self, b: ir.IRBuilder, table: Sequence[float], index: Value) -> Value:
        kind = ir.ArrayType(self.real, 16)
        name = f".table.{self.dtype}.{zlib.crc32(struct.pack('<16d', *table)):x}"
        data = self.module.globals.get(name)
        if data is None:
            data = ir.GlobalVariable(self.module, kind, name)
            data.global_constant, data.linkage = True, "internal"
            data.initializer = ir.Constant(kind, [ir.Constant(self.real, value) for value in table])
        low = b.and_(index, self.i(15))
        result = ir.Constant(self.vec, ir.Undefined)
        for lane in range(self.lanes):
            at = ir.Constant(I32, lane)
            place = b.gep(data, [ir.Constant(self.integer, 0), b.extract_element(low, at)], inbounds=True)
            result = b.insert_element(result, b.load(place), at)
        return result

    # -- division -------------------------------------------------------------------------------------------

    def rough_reciprocal(self, b: ir.IRBuilder, x: Value) -> Value:
        """1 / x to half the format (28 or 14 bits), which one correction of a quotient completes.

        On AVX-512 a 14-bit reciprocal and, in float64, a Newton step: 2**-1000 < abs(x) < 2**1000
        (2**-120, 2**120) is required. Correctly rounded elsewhere.
        """
        if not self.avx512:
            return b.fdiv(self.c(1.0), x)
        inverse = self.reciprocal14(b, x)
        if self.double:
            inverse = self.fma(b, inverse, self.fma(b, b.fneg(x), inverse, self.c(1.0)), inverse)
        return inverse

    def quotient(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """x / y to 0.6 ulp for finite x and 2**-1000 < abs(y) < 2**1000 (2**-120, 2**120).

        Keeps the sign of zero. On AVX-512 6 instructions (4 in float32), 5 cycles against 17 of the divider.
        """
        if not self.avx512:
            return b.fdiv(x, y)
        inverse = self.rough_reciprocal(b, y)
        first = b.fmul(x, inverse)
        excess = self.fma(b, y, first, b.fneg(x))  # this order of signs keeps -0.0
        return self.fma(b, b.fneg(excess), inverse, first)
