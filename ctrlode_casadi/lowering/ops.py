"""The operation table: one row for each elementwise operation of CasADi.

A row says which CasADi opcode it is, its meaning in NumPy (the reference), how machine code is emitted for it, and
whether it is cheap enough to be computed again instead of being stored. Structural operations (movement, products,
reductions) are few and have code of their own; they are listed in ``STRUCTURAL``.

Source of the meanings: CasADi's ``calculus.hpp`` (``BinaryOperation``), checked in the tests against CasADi's virtual
machine entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np


@dataclass(frozen=True, slots=True)
class Elementwise:
    """One elementwise operation.

    Parameters
    ----------
    name : str
        Name in programs; also the method of the emitters, unless ``emitter`` names another.
    opcode : int
        CasADi's opcode.
    arity : int
        Number of operands.
    reference : callable
        The operation on NumPy arrays.
    cheap : bool
        One or two machine instructions: worth computing again in the reverse sweep rather than storing.
    meaning : str
        For documentation and error messages.
    """

    name: str
    opcode: int
    arity: int
    reference: Callable[..., Any]
    cheap: bool
    meaning: str


def _erf(x: Any) -> Any:
    from scipy.special import erf

    return erf(x)


def _erfinv(x: Any) -> Any:
    from scipy.special import erfinv

    return erfinv(x)


def _remainder(x: Any, y: Any) -> Any:
    """C's ``remainder``: exact, the quotient rounded to the nearest integer and to even in a tie."""
    r = np.fmod(x, y)
    beyond = np.abs(r) - (np.abs(y) - np.abs(r))  # positive above half of y, which itself might underflow
    odd = np.fmod(x, y + y) != r
    return np.where((beyond > 0) | ((beyond == 0) & odd), r - np.copysign(y, r), r)


def _flag(test: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *a: np.asarray(test(*a)).astype(np.result_type(*a))


def _as_bool(x: Any) -> Any:
    return np.not_equal(x, 0)


_ROWS: tuple[tuple[str, str, int, Callable[..., Any], bool, str], ...] = (
    ("assign", "OP_ASSIGN", 1, lambda x: x, True, "x"),
    ("add", "OP_ADD", 2, np.add, True, "x + y"),
    ("sub", "OP_SUB", 2, np.subtract, True, "x - y"),
    ("mul", "OP_MUL", 2, np.multiply, True, "x * y"),
    ("div", "OP_DIV", 2, np.divide, False, "x / y"),
    ("neg", "OP_NEG", 1, np.negative, True, "-x"),
    ("exp", "OP_EXP", 1, np.exp, False, "e**x"),
    ("log", "OP_LOG", 1, np.log, False, "natural logarithm"),
    ("pow", "OP_POW", 2, np.power, False, "x**y"),
    ("constpow", "OP_CONSTPOW", 2, np.power, False, "x**y with constant y"),
    ("sqrt", "OP_SQRT", 1, np.sqrt, False, "square root"),
    ("sq", "OP_SQ", 1, np.square, True, "x * x"),
    ("twice", "OP_TWICE", 1, lambda x: x + x, True, "2 x"),
    ("sin", "OP_SIN", 1, np.sin, False, "sine"),
    ("cos", "OP_COS", 1, np.cos, False, "cosine"),
    ("tan", "OP_TAN", 1, np.tan, False, "tangent"),
    ("asin", "OP_ASIN", 1, np.arcsin, False, "arc sine"),
    ("acos", "OP_ACOS", 1, np.arccos, False, "arc cosine"),
    ("atan", "OP_ATAN", 1, np.arctan, False, "arc tangent"),
    ("lt", "OP_LT", 2, _flag(np.less), True, "1 where x < y, else 0"),
    ("le", "OP_LE", 2, _flag(np.less_equal), True, "1 where x <= y, else 0"),
    ("eq", "OP_EQ", 2, _flag(np.equal), True, "1 where x == y, else 0"),
    ("ne", "OP_NE", 2, _flag(np.not_equal), True, "1 where x != y, else 0"),
    ("not", "OP_NOT", 1, _flag(lambda x: np.equal(x, 0)), True, "1 where x is 0, else 0"),
    ("and", "OP_AND", 2, _flag(lambda x, y: _as_bool(x) & _as_bool(y)), True, "logical and"),
    ("or", "OP_OR", 2, _flag(lambda x, y: _as_bool(x) | _as_bool(y)), True, "logical or"),
    ("floor", "OP_FLOOR", 1, np.floor, True, "largest integer not above x"),
    ("ceil", "OP_CEIL", 1, np.ceil, True, "smallest integer not below x"),
    ("fmod", "OP_FMOD", 2, np.fmod, False, "remainder of x / y with the sign of x"),
    ("remainder", "OP_REMAINDER", 2, _remainder, False, "x - y rint(x / y)"),
    ("fabs", "OP_FABS", 1, np.abs, True, "|x|"),
    ("sign", "OP_SIGN", 1, np.sign, True, "-1, 0 or 1"),
    ("copysign", "OP_COPYSIGN", 2, np.copysign, True, "|x| with the sign of y"),
    (
        "if_else_zero",
        "OP_IF_ELSE_ZERO",
        2,
        lambda c, y: np.where(_as_bool(c), y, np.zeros_like(y)),
        True,
        "y where c is not 0, else 0",
    ),
    ("erf", "OP_ERF", 1, _erf, False, "error function"),
    ("fmin", "OP_FMIN", 2, np.fmin, True, "smaller of x and y"),
    ("fmax", "OP_FMAX", 2, np.fmax, True, "larger of x and y"),
    ("inv", "OP_INV", 1, lambda x: 1.0 / x, False, "1 / x"),
    ("sinh", "OP_SINH", 1, np.sinh, False, "hyperbolic sine"),
    ("cosh", "OP_COSH", 1, np.cosh, False, "hyperbolic cosine"),
    ("tanh", "OP_TANH", 1, np.tanh, False, "hyperbolic tangent"),
    ("asinh", "OP_ASINH", 1, np.arcsinh, False, "inverse hyperbolic sine"),
    ("acosh", "OP_ACOSH", 1, np.arccosh, False, "inverse hyperbolic cosine"),
    ("atanh", "OP_ATANH", 1, np.arctanh, False, "inverse hyperbolic tangent"),
    ("atan2", "OP_ATAN2", 2, np.arctan2, False, "angle of the point (y, x)"),
    ("erfinv", "OP_ERFINV", 1, _erfinv, False, "inverse error function"),
    ("log1p", "OP_LOG1P", 1, np.log1p, False, "log(1 + x)"),
    ("expm1", "OP_EXPM1", 1, np.expm1, False, "e**x - 1"),
    ("hypot", "OP_HYPOT", 2, np.hypot, False, "sqrt(x**2 + y**2)"),
)

#: Elementwise operations by name.
ELEMENTWISE: dict[str, Elementwise] = {
    name: Elementwise(name, getattr(ca, code), arity, reference, cheap, meaning)
    for name, code, arity, reference, cheap, meaning in _ROWS
}

#: Elementwise operations by CasADi opcode.
BY_OPCODE: dict[int, Elementwise] = {op.opcode: op for op in ELEMENTWISE.values()}

#: Operations that pass their first operand on (names for debugging, assertions, lifting).
PASS_THROUGH = frozenset({ca.OP_LIFT, ca.OP_PRINTME, ca.OP_MONITOR, ca.OP_ASSERTION, ca.OP_SPARSITY_CAST})

#: Structural operations of programs, with their meaning.
STRUCTURAL: dict[str, str] = {
    "const": "a constant vector",
    "gather": "out[i] = x[index[i]], 0 where the index is -1",
    "concat": "the operands one after the other",
    "scatter": "a copy of x with out[index[i]] = y[i] (or += y[i])",
    "mtimes": "acc + A @ B for dense column-major matrices",
    "triples": "acc with out[o] += a[i] * b[j] for each (o, i, j)",
    "sum": "sum of all entries",
    "segment_sum": "out[i] = sum over j of x[i + n j]",
    "max": "largest entry",
    "min": "smallest entry",
    "call": "all outputs of a function, one after another",
}

#: Name of every CasADi opcode, for messages.
OPCODE_NAMES: dict[int, str] = {getattr(ca, k): k for k in dir(ca) if k.startswith("OP_")}
