"""Penalties on the model's parameters."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call, floats, to_dm
from ..base.errors import DataError, UnsupportedOperation
from ..model.ode import ControlledODE
from .expressions import parameters, scalar

RegularizationLike: TypeAlias = "float | Float64Array | Callable[[Any], Any] | None"


class Regularization(ABC):
    """A scalar function of the parameters p (np,) with derivatives. All methods return new arrays."""

    @abstractmethod
    def value(self, p: Float64Array) -> float:
        """Value."""

    @abstractmethod
    def grad(self, p: Float64Array) -> Float64Array:
        """Gradient (np,)."""

    @abstractmethod
    def hessp(self, p: Float64Array, v: Float64Array) -> Float64Array:
        """Product of the Hessian with v, (np,)."""

    @abstractmethod
    def expression(self, p: ca.MX) -> ca.MX:
        """Value as an expression of p (np,)."""

    @property
    @abstractmethod
    def row_weights(self) -> Float64Array:
        """Weights r (np,) with ``value == sum((r * p)**2)``; empty for no penalty.

        Raises
        ------
        UnsupportedOperation
            If the penalty is not such a sum.
        """


@dataclass(frozen=True, eq=False)
class WeightDecay(Regularization):
    """``sum(lam * p**2)``; no penalty when `lam` is empty."""

    lam: Float64Array

    def value(self, p: Float64Array) -> float:
        return float(self.lam @ (p * p)) if self.lam.size else 0.0

    def grad(self, p: Float64Array) -> Float64Array:
        return 2.0 * self.lam * p if self.lam.size else np.zeros(p.size)

    def hessp(self, p: Float64Array, v: Float64Array) -> Float64Array:
        return 2.0 * self.lam * v if self.lam.size else np.zeros(p.size)

    def expression(self, p: ca.MX) -> ca.MX:
        return ca.dot(to_dm(self.lam), p * p) if self.lam.size else ca.MX(0.0)

    @property
    def row_weights(self) -> Float64Array:
        return np.sqrt(self.lam)


class Expression(Regularization):
    """A user's expression."""

    def __init__(self, model: ControlledODE, source: Callable[[Any], Any]) -> None:
        p, v = ca.MX.sym("p", model.np), ca.MX.sym("v", model.np)
        value = scalar("regularization", source, {"p": parameters(model, p)}, [p])
        gradient = ca.densify(ca.gradient(value, p))
        self._value = ca.Function("regularization", [p], [value])
        self._grad = ca.Function("grad", [p], [gradient])
        self._hessp = ca.Function("hessp", [p, v], [ca.densify(ca.jtimes(gradient, p, v))])

    def value(self, p: Float64Array) -> float:
        return float(call(self._value, p)[0][0])

    def grad(self, p: Float64Array) -> Float64Array:
        return call(self._grad, p)[0]

    def hessp(self, p: Float64Array, v: Float64Array) -> Float64Array:
        return call(self._hessp, p, v)[0]

    def expression(self, p: ca.MX) -> ca.MX:
        return self._value(p)

    @property
    def row_weights(self) -> Float64Array:
        raise UnsupportedOperation(
            "residuals: a callable regularization is not a sum of squares; use a number or one number per "
            "parameter, or minimise obj itself"
        )


def make_regularization(model: ControlledODE, value: RegularizationLike) -> Regularization:
    """Check the argument `regularization` of an objective."""
    if value is None:
        return WeightDecay(np.zeros(0))
    if callable(value):
        return Expression(model, value)
    if isinstance(value, numbers.Real):
        value = np.full(model.np, float(value))
    lam = floats("regularization", value, (("np", model.np),)).astype(np.float64)
    if (lam < 0).any():
        raise DataError(f"regularization: must not be negative, got {lam.min():g}; it weighs p**2")
    return WeightDecay(lam)
