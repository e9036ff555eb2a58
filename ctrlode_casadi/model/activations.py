"""Activation functions by name, with the definitions and constants of torch.nn.functional.

Every formula stays finite, in its value and in the first and second derivatives that CasADi builds from it,
for any finite argument (`exp` and `square` overflow where their value does). Three rules keep it so, in
float32 too:

- exp only sees arguments <= 0, so that no derivative is a product of 0 and infinity;
- branches are selections ``c ? x : 0``, whose derivative is a selection. CasADi differentiates fmin and fmax
  with a division and gives half a slope at a tie; a selection costs nothing and has torch's one-sided slope
  at a kink;
- the quantity ``-|x|`` is written ``x - 2 max(x, 0)``, whose derivative at 0 belongs to the left branch; with
  ``fabs``, whose derivative at 0 is 0, the slope of sigmoid and softplus at 0 would be wrong.

Each needs one transcendental function, softplus and log_sigmoid two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

import casadi as ca
import numpy as np

from ..base.arrays import call_rows, floats
from ..base.errors import ModelError, UnknownName, unknown_name

#: Any CasADi matrix. The stubs overload on the three kinds, so expressions that serve all of them are typed
#: Any.
Expression: TypeAlias = Any
ActivationFunction: TypeAlias = Callable[[Any], Any]

SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717
LEAKY_SLOPE = 0.01
GELU_CUBIC = 0.044715


def _halves(x: Expression) -> tuple[Expression, Expression, Expression]:
    """(x <= 0, max(x, 0), min(x, 0)); the slopes at 0 are 0 and 1, and NaN stays NaN in the second."""
    left = x <= 0
    return left, ca.if_else(left, 0, x), ca.if_else(left, x, 0)


def _decay(x: Expression, positive: Expression) -> Expression:
    """exp(-|x|), with slope 1 at 0."""
    return ca.exp(x - 2 * positive)


def _clamp(x: Expression, low: float, high: float) -> Expression:
    """x between two bounds, with slope 0 at the bounds as in torch.nn.functional.hardtanh."""
    above, below = x >= high, x <= low
    return high * above + low * below + ca.if_else(above + below, 0, x)


def _identity(x: Expression) -> Expression:
    return x


def _tanh(x: Expression) -> Expression:
    return ca.tanh(x)


def _sigmoid(x: Expression) -> Expression:
    """1 / (1 + exp(-x)) for x > 0 and exp(x) / (1 + exp(x)) else: exact in the left tail, where tanh(x/2) is
    not.
    """
    left, positive, _ = _halves(x)
    w = _decay(x, positive)
    return ca.if_else(left, w, 1) / (1 + w)


def _relu(x: Expression) -> Expression:
    return _halves(x)[1]


def _leaky_relu(x: Expression) -> Expression:
    _, positive, negative = _halves(x)
    return positive + LEAKY_SLOPE * negative


def _elu(x: Expression) -> Expression:
    _, positive, negative = _halves(x)
    return positive + ca.expm1(negative)


def _selu(x: Expression) -> Expression:
    _, positive, negative = _halves(x)
    return SELU_SCALE * positive + (SELU_SCALE * SELU_ALPHA) * ca.expm1(negative)


def _gelu(x: Expression) -> Expression:
    return 0.5 * x * (1 + ca.erf(math.sqrt(0.5) * x))


def _gelu_tanh(x: Expression) -> Expression:
    return 0.5 * x * (1 + ca.tanh(math.sqrt(2 / math.pi) * x * (1 + GELU_CUBIC * x * x)))


def _silu(x: Expression) -> Expression:
    return x * _sigmoid(x)


def _softplus(x: Expression) -> Expression:
    """log(1 + exp(x)); torch gives x above 20, a jump of 2.1e-9 that a smooth model should not have."""
    _, positive, _ = _halves(x)
    return positive + ca.log1p(_decay(x, positive))


def _mish(x: Expression) -> Expression:
    """x tanh(softplus(x)). With w = exp(-|x|): tanh(log(1 + w)) = (w^2 + 2w) / (w^2 + 2w + 2) for x <= 0, and
    the same multiplied through by w^2 for x > 0."""
    left, positive, _ = _halves(x)
    w = _decay(x, positive)
    square = w * w
    numerator = 2 * w + ca.if_else(left, square, 1)
    return x * (numerator / (numerator + 2 * ca.if_else(left, 1, square)))


def _softsign(x: Expression) -> Expression:
    return x / (1 + ca.fabs(x))


def _hard_tanh(x: Expression) -> Expression:
    return _clamp(x, -1, 1)


def _hard_sigmoid(x: Expression) -> Expression:
    return _clamp(x + 3, 0, 6) * (1 / 6)


def _relu6(x: Expression) -> Expression:
    return _clamp(x, 0, 6)


def _log_sigmoid(x: Expression) -> Expression:
    _, positive, negative = _halves(x)
    return negative - ca.log1p(_decay(x, positive))


def _tanhshrink(x: Expression) -> Expression:
    return x - ca.tanh(x)


def _sin(x: Expression) -> Expression:
    return ca.sin(x)


def _cos(x: Expression) -> Expression:
    return ca.cos(x)


def _exp(x: Expression) -> Expression:
    return ca.exp(x)


def _square(x: Expression) -> Expression:
    return x * x


@dataclass(frozen=True)
class Activation:
    """Named elementwise function of SX, MX, DM, arrays of any shape and numbers; returns the same kind."""

    name: str
    expression: ActivationFunction

    def __call__(self, x: Any) -> Any:
        if isinstance(x, (ca.SX, ca.MX, ca.DM)):
            return self.expression(x)
        array = floats(f"{self.name}(x)", x, finite=False)
        out = call_rows(self._function, array.reshape(-1, 1)).reshape(array.shape)
        return out if isinstance(x, np.ndarray) or array.ndim else float(out)

    @cached_property
    def _function(self) -> ca.Function:
        x = ca.SX.sym("x")
        return ca.Function(self.name, [x], [self.expression(x)])

    def __repr__(self) -> str:
        return f"activations.{self.name}"


class ActivationTable(Mapping[str, Activation]):
    """Activations by name: ``activations["selu"]`` or ``activations.selu``; iterating gives the names.

    Raises
    ------
    UnknownName
        A `ModelError`, for an unknown name, with the nearest known one.
    """

    def __init__(self, rows: Mapping[str, ActivationFunction]) -> None:
        self._rows = MappingProxyType({name: Activation(name, f) for name, f in rows.items()})

    def __getitem__(self, name: str) -> Activation:
        if name not in self._rows:
            raise UnknownName(unknown_name("activation", name, self._rows))
        return self._rows[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __getattr__(self, name: str) -> Activation:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._rows:
            raise UnknownName(unknown_name("activation", name, self._rows))
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._rows]

    def __repr__(self) -> str:
        return f"activations({', '.join(self._rows)})"


#: The table. A new activation is one row; the tests of all rows pick it up.
activations = ActivationTable(
    {
        "identity": _identity,
        "tanh": _tanh,
        "sigmoid": _sigmoid,
        "relu": _relu,
        "leaky_relu": _leaky_relu,
        "elu": _elu,
        "selu": _selu,
        "celu": _elu,  # alpha = 1, where celu equals elu
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
        "silu": _silu,
        "swish": _silu,
        "softplus": _softplus,
        "mish": _mish,
        "softsign": _softsign,
        "hard_tanh": _hard_tanh,
        "hard_sigmoid": _hard_sigmoid,
        "relu6": _relu6,
        "log_sigmoid": _log_sigmoid,
        "tanhshrink": _tanhshrink,
        "sin": _sin,
        "cos": _cos,
        "exp": _exp,
        "square": _square,
    }
)


def find_activation(activation: str | ActivationFunction) -> ActivationFunction:
    """The function for a name or a callable of one CasADi expression."""
    if isinstance(activation, str):
        return activations[activation]
    if callable(activation):
        return activation
    raise ModelError(
        f"activation: expected a name or a callable of one CasADi expression, got {activation!r}; "
        f"names: {', '.join(activations)}"
    )
