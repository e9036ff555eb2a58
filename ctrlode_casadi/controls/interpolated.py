"""Controls between knots: everything that is the same for all interpolation kinds."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import casadi as ca
import numpy as np

from ..base.arrays import Axis, Float64Array, FloatArray, to_dm
from ..base.errors import ControlError
from . import inputs, spans, symbolic
from .control import Control, Index
from .inputs import Expression
from .pieces import Pieces
from .rows import row_range, selection
from .vectorised import implementation


class Interpolated(Control):
    """A control given by values at knots. Subclasses set `degree`, and supply slopes where it is 3."""

    degree: ClassVar[int]

    def __init__(
        self,
        knots: Any,
        values: Any,
        extrapolation: str | tuple[str, str] = "error",
        *,
        nu: int | None = None,
        dtype: str = "float64",
    ) -> None:
        kind = inputs.float_type(dtype)
        rows = inputs.knots_array(knots, kind)
        self._knots = inputs.own(rows)
        array = inputs.knot_values("values", values, rows.shape[0], rows.shape[1], nu, kind)
        self._values = inputs.own(array)
        self._rules = inputs.extrapolation_rules(extrapolation)
        self._side_right = False
        self._slopes: FloatArray | None = None
        self._last_span: tuple[tuple[float, float], spans.Span] | None = None

    @property
    def values(self) -> FloatArray:
        return self._values

    @property
    def knots(self) -> Float64Array:
        return self._knots if self._own_knots else self._knots[0]

    @property
    def _own_knots(self) -> bool:
        return int(self._knots.shape[0]) != 1

    @property
    def extrapolation(self) -> tuple[str, str]:
        """Rules left and right of the knots."""
        return self._rules

    @property
    def stop_at_knots(self) -> bool:
        return True

    def __repr__(self) -> str:
        B, K, nu = self._values.shape
        first, last = ("..." if self._own_knots else f"{self._knots[0, j]:g}" for j in (0, -1))
        rule = self._rules[0] if self._rules[0] == self._rules[1] else self._rules
        return f"{type(self).__name__}(B={B}, K={K}, nu={nu}, t in [{first}, {last}], extrapolation={rule!r})"

    # Hooks of the cubic kinds -------------------------------------------------------------------------------

    def _new_slopes(self) -> Float64Array:
        """Slopes at the knots, (B, K, nu)."""
        raise NotImplementedError

    def _slopes_tangent(self, rows: slice, dvalues: Float64Array) -> Float64Array:
        """Tangent of the slopes of some trajectories, (b, K, nu)."""
        raise NotImplementedError

    def _slopes_adjoint(self, rows: slice, slopes_bar: Float64Array) -> Float64Array:
        """Adjoint of the values of some trajectories through their slopes, (b, K, nu)."""
        raise NotImplementedError

    def _slopes_expression(self, U: Expression) -> Expression:
        """Slopes (nu, K) of values U (nu, K)."""
        raise NotImplementedError

    @property
    def _smooth_period(self) -> bool:
        return False

    # Arguments of the kernels -------------------------------------------------------------------------------

    @property
    def _codes(self) -> tuple[int, bool, int, int]:
        return self.degree, self._side_right, inputs.RULES[self._rules[0]], inputs.RULES[self._rules[1]]

    def _all_slopes(self) -> FloatArray:
        """Slopes at the knots, computed once; a placeholder below degree 3."""
        if self._slopes is None:
            if self.degree < 3:
                slopes = np.zeros((1, 1, 1))
            else:
                slopes = inputs.finite_slopes(self._new_slopes())
            self._slopes = inputs.read_only(slopes.astype(self._values.dtype, copy=False))
        return self._slopes

    def _knot_rows(self, rows: slice) -> Float64Array:
        return self._knots[rows] if self._own_knots else self._knots

    def _slope_rows(self, rows: slice) -> FloatArray:
        slopes = self._all_slopes()
        return slopes[rows] if self.degree == 3 else slopes

    def _times(self, t: Any) -> tuple[Float64Array, bool]:
        t, scalar = inputs.times(t, self.n_trajectories)
        if t.shape[1] and t.shape[0] and self._knots.shape[0]:
            spans.check_range(t.min(axis=1), t.max(axis=1), self._knots, self._rules)
        return inputs.read_only(t), scalar

    def _evaluate(self, t: Any, values: FloatArray, slopes: FloatArray, order: int) -> FloatArray:
        t, scalar = self._times(t)
        rows = values.shape[0] if values.shape[0] != 1 else max(1, t.shape[0])
        out = np.empty((rows, t.shape[1], values.shape[2]), values.dtype)
        implementation(out.size).evaluate(t, self._knots, values, slopes, *self._codes, order, out)
        return out[:, 0] if scalar else out

    # Values at times ----------------------------------------------------------------------------------------

    def __call__(self, t: Any) -> FloatArray:
        return self._evaluate(t, self._values, self._all_slopes(), 0)

    def derivative(self, t: Any) -> FloatArray:
        return self._evaluate(t, self._values, self._all_slopes(), 1)

    def jvp(self, t: Any, dvalues: Any) -> FloatArray:
        B, K, nu = self._values.shape
        change = inputs.batch("dvalues", dvalues, (("B", B), ("K", K), ("nu", nu)), self._values.dtype.type)
        slopes = self._all_slopes()
        if self.degree == 3:
            tangent = self._slopes_tangent(slice(0, B), change.astype(np.float64, copy=False))
            slopes = tangent.astype(change.dtype, copy=False)
        return self._evaluate(t, inputs.read_only(change), inputs.read_only(slopes), 0)

    def vjp(self, t: Any, u_bar: Any) -> FloatArray:
        t, scalar = self._times(t)
        B, K, nu = self._values.shape
        rows = B if B != 1 else max(1, t.shape[0])
        shape = (("B", rows), ("nu", nu)) if scalar else (("B", rows), ("m", t.shape[1]), ("nu", nu))
        bar = inputs.batch("u_bar", u_bar, shape, np.float64)
        bar = inputs.read_only(bar.reshape(rows, t.shape[1], nu))
        values_bar = np.zeros((B, K, nu))
        slopes_bar = np.zeros((B, K, nu) if self.degree == 3 else (1, 1, 1))
        implementation(bar.size).evaluate_adjoint(t, self._knots, bar, *self._codes, values_bar, slopes_bar)
        if self.degree == 3:
            values_bar += self._slopes_adjoint(slice(0, B), slopes_bar)
        return values_bar.astype(self._values.dtype, copy=False)

    # Polynomials over a time span ---------------------------------------------------------------------------

    def _span(self, t0: float, t1: float, rows: slice) -> spans.Span:
        """The pieces over [t0, t1]; the last answer is kept where all trajectories share the knots."""
        last = self._last_span
        if last is not None and last[0] == (t0, t1):
            return last[1]
        t0, t1 = inputs.span(t0, t1)
        knots = self._knot_rows(rows)
        if knots.shape[0]:
            spans.check_range(np.full(1, t0), np.full(1, t1), knots, self._rules, rows.start)
        span = spans.cover(knots, t0, t1, self._rules, self.stop_at_knots, self._smooth_period)
        if not self._own_knots:
            self._last_span = (t0, t1), span
        return span

    def _coefficients(self, span: spans.Span, rows: slice, values: FloatArray, slopes: FloatArray) -> FloatArray:
        out = np.empty((values.shape[0], span.intervals.size, self.nu, self.degree + 1), values.dtype)
        knots = self._knot_rows(rows)
        implementation(out.size).coefficients(knots, values, slopes, span.intervals, span.modes, *self._codes, out)
        return out

    def pieces(self, t0: float, t1: float, start: int = 0, stop: int | None = None) -> Pieces:
        rows = row_range(start, stop, self.n_trajectories)
        span = self._span(t0, t1, rows)
        coefficients = self._coefficients(span, rows, self._values[rows], self._slope_rows(rows))
        if self._own_knots:
            return Pieces(span.breaks, span.anchors, coefficients, span.stops)
        return Pieces(span.breaks[0], span.anchors[0], coefficients, span.stops)

    def pieces_adjoint(
        self, t0: float, t1: float, coef_bar: Any, start: int = 0, stop: int | None = None
    ) -> FloatArray:
        rows = row_range(start, stop, self.n_trajectories)
        span = self._span(t0, t1, rows)
        _, K, nu = self._values.shape
        count = self._row_axis(rows)
        shape = (count, ("Nb", span.intervals.size), ("nu", nu), ("d+1", self.degree + 1))
        bar = inputs.read_only(inputs.batch("coef_bar", coef_bar, shape, np.float64))
        values_bar = np.zeros((bar.shape[0], K, nu))
        slopes_bar = np.zeros((bar.shape[0], K, nu) if self.degree == 3 else (1, 1, 1))
        implementation(bar.size).coefficients_adjoint(
            self._knot_rows(rows), bar, span.intervals, span.modes, *self._codes, values_bar, slopes_bar
        )
        if self.degree == 3:
            values_bar += self._slopes_adjoint(rows, slopes_bar)
        return values_bar.astype(self._values.dtype, copy=False)

    def pieces_tangent(self, t0: float, t1: float, dvalues: Any, start: int = 0, stop: int | None = None) -> FloatArray:
        rows = row_range(start, stop, self.n_trajectories)
        span = self._span(t0, t1, rows)
        _, K, nu = self._values.shape
        shape = (self._row_axis(rows), ("K", K), ("nu", nu))
        change = inputs.batch("dvalues", dvalues, shape, self._values.dtype.type)
        slopes = self._all_slopes()
        if self.degree == 3:
            tangent = self._slopes_tangent(rows, change.astype(np.float64, copy=False))
            slopes = tangent.astype(change.dtype, copy=False)
        return self._coefficients(span, rows, inputs.read_only(change), inputs.read_only(slopes))

    def _row_axis(self, rows: slice) -> Axis:
        """First axis that an adjoint or tangent must have; any size for a shared control."""
        return "b" if self.n_trajectories == 1 else ("b", rows.stop - rows.start)

    # Expressions --------------------------------------------------------------------------------------------

    def _table(self, U: Expression) -> symbolic.Table:
        K, nu = self._values.shape[1:]
        if not isinstance(U, (ca.MX, ca.SX, ca.DM)):
            U = to_dm(np.asarray(U, dtype=np.float64).reshape(np.shape(U) if np.ndim(U) == 2 else (1, -1)))
        if U.shape != (nu, K):
            raise ControlError(
                f"U: expected knot values of shape (nu={nu}, K={K}) of one trajectory, got {U.shape}; "
                "note the order: components are rows"
            )
        if self._own_knots:
            raise ControlError(
                f"expression: the B={self.n_trajectories} trajectories have own knots; take one, "
                "controls[i].expression(t, U)"
            )
        slopes = self._slopes_expression(U) if self.degree == 3 else None
        return symbolic.table(self._knots[0], U, slopes, self.degree, self._side_right, self._rules)

    def casadi_coefficients(self, U: Expression, t0: float | None = None, t1: float | None = None) -> list[Expression]:
        if (t0 is None) != (t1 is None):
            raise ControlError("casadi_coefficients: give both t0 and t1, or neither")
        polynomials = self._table(U)
        span = None if t0 is None or t1 is None else self._span(t0, t1, slice(0, 1))
        return symbolic.over_span(polynomials, self.degree, span)

    def expression(self, t: ca.MX | ca.SX | float, U: Expression) -> Expression:
        time = t if isinstance(t, (ca.MX, ca.SX, ca.DM)) else ca.DM(float(t))
        if time.numel() != 1:
            raise ControlError(f"t: expected one time (a scalar expression), got shape {time.shape}")
        return symbolic.evaluate(time, self._table(U), self.degree, self._side_right, self._rules)

    # Other controls from this one ---------------------------------------------------------------------------

    def with_values(self, values: Any) -> Self:
        rows = self._knots.shape[0] if self._own_knots else 1
        array = inputs.knot_values("values", values, rows, self._knots.shape[1], self.nu, self._values.dtype.type)
        return self._changed(_values=inputs.own(array), _slopes=None)

    def __getitem__(self, index: Index) -> Self:
        rows = selection(index, self.n_trajectories)
        changes: dict[str, Any] = {"_values": inputs.read_only(self._values[rows])}
        if self._own_knots:
            changes["_knots"] = inputs.read_only(self._knots[rows])
        if self.degree == 3 and self._slopes is not None:
            changes["_slopes"] = inputs.read_only(self._slopes[rows])
        return self._changed(**changes)

    def _changed(self, **attributes: Any) -> Self:
        """A copy with some private attributes replaced."""
        new = copy.copy(self)
        for name, value in attributes.items():
            setattr(new, name, value)
        new._check()
        return new

    def _check(self) -> None:
        """Conditions of the kind on its values."""
