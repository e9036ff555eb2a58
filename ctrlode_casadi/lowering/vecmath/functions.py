"""Vectorised elementary functions as inline LLVM IR.

    math = VectorMath(module, lanes=8, dtype="float64", avx512=True)
    y = math.tanh(builder, x)                    # x : <8 x double>

No branches, no calls into libm, no fast-math flags: NaN, infinities, signed zeros and subnormals follow C
except where `LIMITS` says otherwise. The functions of each family are in the modules beside it: exp, log, pow, trig,
special and basic.
"""

from __future__ import annotations

from llvmlite import ir

from . import (
    basic as vecmath_basic,
    exp as vecmath_exp,
    log as vecmath_log,
    pow as vecmath_pow,
    special as vecmath_special,
    trig as vecmath_trig,
)
from .lanes import Lanes, Value

# Largest error in units in the last place, (float64, float32), over the whole range but for LIMITS; tests
# enforce it. All functions that are not here are exact or correctly rounded.
ULP_BOUNDS: dict[str, tuple[float, float]] = {
    "exp": (1.25, 1.25),
    "expm1": (2.0, 2.0),
    "tanh": (2.0, 2.0),
    "log": (1.5, 1.5),
    "log1p": (1.5, 1.5),
    "sin": (2.0, 2.0),
    "cos": (2.0, 2.0),
    "tan": (3.0, 3.0),
    "sinh": (3.0, 3.0),
    "cosh": (2.0, 2.0),
    "asin": (2.5, 2.5),
    "acos": (1.5, 1.5),
    "atan": (2.5, 2.5),
    "asinh": (2.5, 2.5),
    "acosh": (3.0, 3.0),
    "atanh": (2.5, 2.5),
    "erf": (3.5, 4.0),
    "erfinv": (2.5, 2.5),
    "sqrt": (1.0, 1.0),
    "atan2": (2.5, 2.5),
    "pow": (1.5, 1.5),
    "hypot": (1.5, 1.5),
    "quotient": (1.0, 1.0),
}

# Where the bounds do not hold, and deviations from C.
LIMITS: dict[str, str] = {
    "exp": "without AVX-512 a result below 2**-1021 (2**-125) is 0; pow likewise",
    "sin": "|x| <= 1e9 (1e5); beyond, the result is meaningless; cos and tan likewise",
    "fmod": "exact for |x / y| < 2**53 (2**24), NaN beyond; remainder likewise",
    "quotient": "finite x and 2**-1000 < |y| < 2**1000 (2**-120, 2**120); reciprocal likewise",
}


class VectorMath:
    """Elementary functions on vectors of one type; each method emits its instructions at the builder.

    Parameters
    ----------
    module : llvmlite.ir.Module
        The module that the builder works in.
    lanes : int
        Lanes of the vector type, a power of two. 8 (float64) or 16 (float32) fill a 512-bit register; AVX-512
        instructions are used for multiples of these, narrower vectors get the generic code.
    dtype : "float64" or "float32"
    avx512 : bool, default False
        The target has AVX-512 F and DQ.

    Notes
    -----
    Arguments and results are values of type <lanes x double> or <lanes x float>.
    """

    def __init__(self, module: ir.Module, lanes: int, dtype: str, avx512: bool = False) -> None:
        self._m = Lanes(module, lanes, dtype, avx512)

    def exp(self, b: ir.IRBuilder, x: Value) -> Value:
        """e**x."""
        return vecmath_exp.exp(self._m, b, x)

    def expm1(self, b: ir.IRBuilder, x: Value) -> Value:
        """e**x - 1."""
        return vecmath_exp.expm1(self._m, b, x)

    def log(self, b: ir.IRBuilder, x: Value) -> Value:
        """Natural logarithm."""
        return vecmath_log.log(self._m, b, x)

    def log1p(self, b: ir.IRBuilder, x: Value) -> Value:
        """log(1 + x)."""
        return vecmath_log.log1p(self._m, b, x)

    def tanh(self, b: ir.IRBuilder, x: Value) -> Value:
        """Hyperbolic tangent."""
        return vecmath_exp.tanh(self._m, b, x)

    def sin(self, b: ir.IRBuilder, x: Value) -> Value:
        """Sine."""
        return vecmath_trig.sin(self._m, b, x)

    def cos(self, b: ir.IRBuilder, x: Value) -> Value:
        """Cosine."""
        return vecmath_trig.cos(self._m, b, x)

    def tan(self, b: ir.IRBuilder, x: Value) -> Value:
        """Tangent."""
        return vecmath_trig.tan(self._m, b, x)

    def sinh(self, b: ir.IRBuilder, x: Value) -> Value:
        """Hyperbolic sine."""
        return vecmath_exp.sinh(self._m, b, x)

    def cosh(self, b: ir.IRBuilder, x: Value) -> Value:
        """Hyperbolic cosine."""
        return vecmath_exp.cosh(self._m, b, x)

    def asin(self, b: ir.IRBuilder, x: Value) -> Value:
        """Inverse sine."""
        return vecmath_trig.asin(self._m, b, x)

    def acos(self, b: ir.IRBuilder, x: Value) -> Value:
        """Inverse cosine."""
        return vecmath_trig.acos(self._m, b, x)

    def atan(self, b: ir.IRBuilder, x: Value) -> Value:
        """Inverse tangent."""
        return vecmath_trig.atan(self._m, b, x)

    def asinh(self, b: ir.IRBuilder, x: Value) -> Value:
        """Inverse hyperbolic sine."""
        return vecmath_log.asinh(self._m, b, x)

    def acosh(self, b: ir.IRBuilder, x: Value) -> Value:
        """Inverse hyperbolic cosine."""
        return vecmath_log.acosh(self._m, b, x)

    def atanh(self, b: ir.IRBuilder, x: Value) -> Value:
        """Inverse hyperbolic tangent."""
        return vecmath_log.atanh(self._m, b, x)

    def erf(self, b: ir.IRBuilder, x: Value) -> Value:
        """Error function."""
        return vecmath_special.erf(self._m, b, x)

    def erfinv(self, b: ir.IRBuilder, x: Value) -> Value:
        """Inverse error function."""
        return vecmath_special.erfinv(self._m, b, x)

    def atan2(self, b: ir.IRBuilder, y: Value, x: Value) -> Value:
        """Angle of the point (x, y) = (second, first argument)."""
        return vecmath_trig.atan2(self._m, b, y, x)

    def pow(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """x**y."""
        return vecmath_pow.pow(self._m, b, x, y)

    def hypot(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """sqrt(x*x + y*y)."""
        return vecmath_basic.hypot(self._m, b, x, y)

    def fmod(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """Remainder of the division truncated towards zero."""
        return vecmath_basic.fmod(self._m, b, x, y)

    def remainder(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """Remainder of the division rounded to nearest."""
        return vecmath_basic.remainder(self._m, b, x, y)

    def sqrt(self, b: ir.IRBuilder, x: Value) -> Value:
        """Square root."""
        return self._m.fast_sqrt(b, x)

    def floor(self, b: ir.IRBuilder, x: Value) -> Value:
        """Largest integer not above x."""
        return self._m.call(b, "floor", x)

    def ceil(self, b: ir.IRBuilder, x: Value) -> Value:
        """Smallest integer not below x."""
        return self._m.call(b, "ceil", x)

    def fabs(self, b: ir.IRBuilder, x: Value) -> Value:
        """Absolute value."""
        return self._m.call(b, "fabs", x)

    def sign(self, b: ir.IRBuilder, x: Value) -> Value:
        """-1, 1, or x itself where it is 0 or NaN."""
        return vecmath_basic.sign(self._m, b, x)

    def copysign(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """Magnitude of x with the sign of y."""
        return self._m.call(b, "copysign", x, y)

    def fmin(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """Smaller of the two; the other one where one is NaN."""
        return self._m.call(b, "minnum", x, y)

    def fmax(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """Larger of the two; the other one where one is NaN."""
        return self._m.call(b, "maxnum", x, y)

    def div(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """x / y, correctly rounded, for any operands."""
        return b.fdiv(x, y)

    def reciprocal(self, b: ir.IRBuilder, x: Value) -> Value:
        """1 / x within 1 ulp, for 2**-1000 < |x| < 2**1000 (2**-120, 2**120) only; see `quotient`."""
        return self._m.quotient(b, self._m.c(1.0), x)

    def quotient(self, b: ir.IRBuilder, x: Value, y: Value) -> Value:
        """x / y within 1 ulp for finite x and 2**-1000 < |y| < 2**1000 (2**-120, 2**120).

        Faster than `div`.
        """
        return self._m.quotient(b, x, y)
