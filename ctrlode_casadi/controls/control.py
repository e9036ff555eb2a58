"""What every control offers, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import EllipsisType
from typing import Any, Self, TypeAlias

import casadi as ca

from ..base.arrays import Float64Array, FloatArray
from .inputs import Expression
from .pieces import Pieces

Index: TypeAlias = int | slice | list[int] | Any | EllipsisType


class Control(ABC):
    """The inputs u(t) of B trajectories.

    A control is immutable. Contract of every kind:

    1. Over any time span it is a piecewise polynomial, extrapolation included (`pieces`); the time loops use
       nothing else.
    2. ``values`` has shape (B, K, nu), and every derivative with respect to the control is one with respect
       to ``values``: `pieces_adjoint` and `pieces_tangent` for the polynomials, `vjp` and `jvp` for values at
       given times. Adjoint and tangent are exact transposes of each other.
    3. B is 1 for a control that all trajectories share; then ``pieces`` ignores ``start`` and ``stop``.
    4. ``expression(t, U)`` is the same function of time as a CasADi expression.
    5. Arrays passed in are copied, so a control never changes; ``values``, ``knots`` and slopes are read-only. An array
       that nobody can write to, such as the ``values`` of another control, is shared.
    """

    @property
    @abstractmethod
    def values(self) -> FloatArray:
        """Values at the knots, (B, K, nu), read-only."""

    @property
    @abstractmethod
    def knots(self) -> Float64Array:
        """Knot times, (K,), or (B, K) where each trajectory has its own; empty without knots. Read-only."""

    @property
    @abstractmethod
    def stop_at_knots(self) -> bool:
        """Whether value, slope or curvature jumps at the knots, so that integration steps must end there."""

    @property
    def breakpoints(self) -> Float64Array:
        """Times at which the polynomial changes: the knots."""
        return self.knots

    @property
    def n_trajectories(self) -> int:
        """Number of trajectories B; 1 where all share the control."""
        return int(self.values.shape[0])

    @property
    def nu(self) -> int:
        """Number of control components."""
        return int(self.values.shape[2])

    def __len__(self) -> int:
        return self.n_trajectories

    @abstractmethod
    def __call__(self, t: Any) -> FloatArray:
        """Values at times t.

        Parameters
        ----------
        t
            Times, (m,), a number, or (B, m) with own times for each trajectory.

        Returns
        -------
        ndarray
            (B, m, nu); (B, nu) for a number.

        Raises
        ------
        ControlError
            For a time outside the knots where the extrapolation rule is "error".
        """

    @abstractmethod
    def derivative(self, t: Any) -> FloatArray:
        """Derivative with respect to time, shaped like the values; at a knot the one from the right.

        At the last knot, and at a knot of ``PiecewiseConstant(side="right")``, the one from the left.
        """

    @abstractmethod
    def vjp(self, t: Any, u_bar: Any) -> FloatArray:
        """Adjoint of ``controls(t)``: from u_bar, shaped like its result, to values_bar (B, K, nu)."""

    @abstractmethod
    def jvp(self, t: Any, dvalues: Any) -> FloatArray:
        """Tangent of ``controls(t)`` for a change dvalues (B, K, nu) of the values."""

    @abstractmethod
    def pieces(self, t0: float, t1: float, start: int = 0, stop: int | None = None) -> Pieces:
        """The polynomials over [t0, t1] of trajectories start ... stop-1 (all by default), extrapolation
        included.

        Raises
        ------
        ControlError
            If the span leaves the knots where the extrapolation rule is "error".
        """

    @abstractmethod
    def pieces_adjoint(
        self, t0: float, t1: float, coef_bar: Any, start: int = 0, stop: int | None = None
    ) -> FloatArray:
        """Adjoint of `pieces`: from coef_bar, shaped like its coefficients, to values_bar (stop - start, K,
        nu).

        For a shared control coef_bar may have any number b of rows; the result has as many (sum them for the
        total).
        """

    @abstractmethod
    def pieces_tangent(self, t0: float, t1: float, dvalues: Any, start: int = 0, stop: int | None = None) -> FloatArray:
        """Tangent of the coefficients for a change dvalues (stop - start, K, nu) of these trajectories'
        values.

        For a shared control dvalues may have any number b of rows; the result has as many.
        """

    @abstractmethod
    def casadi_coefficients(self, U: Expression, t0: float | None = None, t1: float | None = None) -> list[Expression]:
        """Coefficients as expressions of the knot values U (nu, K) of one trajectory.

        One (nu, d + 1) matrix, ascending powers, for each interval between knots, or with ``t0`` and ``t1``
        for each piece of ``pieces(t0, t1)``, which has the anchors.
        """

    @abstractmethod
    def expression(self, t: ca.MX | ca.SX | float, U: Expression) -> Expression:
        """The control (nu, 1) at time t (scalar) as an expression of t and the knot values U (nu, K), one
        trajectory.

        Differentiable to any order with respect to both. Outside the knots it is NaN where the extrapolation
        rule is "error". Cost proportional to K per evaluation.

        Raises
        ------
        ControlError
            If U has another shape, or trajectories with own knots or slopes were not reduced to one
            (``controls[i]``).
        """

    @abstractmethod
    def with_values(self, values: Any) -> Self:
        """The same control with other values (shapes as in the constructor)."""

    @abstractmethod
    def __getitem__(self, index: Index) -> Self:
        """The control of one trajectory (an integer) or of several (a slice, integers, a mask)."""
