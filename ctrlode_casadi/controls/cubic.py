"""Cubic controls: a Hermite cubic between knots; the kinds differ in where the slopes come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, FloatArray, to_dm
from ..base.errors import ControlError, unknown_name
from . import inputs
from .inputs import Expression
from .interpolated import Interpolated
from .local_slopes import AkimaDerivative, PchipDerivative, akima_expression, pchip_expression
from .spline import BC_TYPES, SplineOperator
from .symbolic import secants


def _columns(array: FloatArray) -> Float64Array:
    """(b, K, nu) to (K, b * nu)."""
    b, K, nu = array.shape
    return np.ascontiguousarray(array.astype(np.float64, copy=False).transpose(1, 0, 2).reshape(K, b * nu))


def _trajectories(columns: Float64Array, b: int, nu: int) -> Float64Array:
    """(K, b * nu) to (b, K, nu)."""
    return np.ascontiguousarray(columns.reshape(columns.shape[0], b, nu).transpose(1, 0, 2))


class _Cubic(Interpolated):
    """A cubic whose slopes depend on the values through the secant slopes."""

    degree: ClassVar[int] = 3

    def _interpolant(self, knots: Float64Array, columns: Float64Array) -> Any:
        """SciPy's interpolant of columns (K, n)."""
        raise NotImplementedError

    def _new_slopes(self) -> Float64Array:
        B, K, nu = self._values.shape
        if B == 0:
            return np.zeros((B, K, nu))
        if not self._own_knots and not self._couples_trajectories:
            return _trajectories(self._scipy_slopes(self._knots[0], _columns(self._values)), B, nu)
        values = self._values.astype(np.float64, copy=False)
        rows = (self._knots[b if self._own_knots else 0] for b in range(B))
        return np.stack([self._scipy_slopes(row, v) for row, v in zip(rows, values)])

    def _scipy_slopes(self, knots: Float64Array, columns: Float64Array) -> Float64Array:
        """Slopes (K, n): SciPy's linear coefficients, and the derivative at the last knot."""
        with np.errstate(all="ignore"):  # overflow is refused afterwards; SciPy masks its divisions by zero
            try:
                interpolant = self._interpolant(knots, columns)
            except ValueError as exc:
                raise ControlError(
                    f"values: slopes at the knots cannot be computed ({exc}); differences of values "
                    "over differences of knots leave the range of floats: scale times or values"
                ) from exc
            return np.concatenate([interpolant.c[2], interpolant(knots[-1:], 1)])

    #: Whether SciPy's answer for a column depends on the others: each trajectory then needs its own call.
    _couples_trajectories: ClassVar[bool] = False

    def _distances(self, rows: slice) -> Float64Array:
        return np.diff(self._knot_rows(rows), axis=1)


class CubicHermite(_Cubic):
    """Cubic Hermite interpolation of values and given slopes.

    Parameters
    ----------
    knots, values, nu, dtype
        As in `PiecewiseConstant`.
    slopes
        Time derivatives at the knots, shapes as ``values``. They are constants: derivatives with respect to
        the knot values hold them fixed.
    extrapolation
        Beyond the knots: "error" (default) refuses; "hold" keeps the end value; "linear" continues along the
        tangent at the end; "periodic" repeats, with period knots[-1] - knots[0] (at the last knot the first
        value counts, as in ``scipy.interpolate.PPoly``); or a pair (left, right).

    Raises
    ------
    ControlError
        As in `PiecewiseConstant`.

    Notes
    -----
    Equals ``scipy.interpolate.CubicHermiteSpline``.
    """

    def __init__(
        self,
        knots: Any,
        values: Any,
        slopes: Any,
        extrapolation: str | tuple[str, str] = "error",
        *,
        nu: int | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__(knots, values, extrapolation, nu=nu, dtype=dtype)
        rows, K = self._knots.shape
        given = inputs.knot_values("slopes", slopes, rows, K, self.nu, self._values.dtype.type)
        self._values, given = _same_batch(self._values, given)
        self._values, self._slopes = inputs.read_only(self._values), inputs.own(given)

    @property
    def slopes(self) -> FloatArray:
        """Slopes at the knots, (B, K, nu), read-only."""
        return self._all_slopes()

    def with_values(self, values: Any) -> Self:
        new = super().with_values(values)
        both = _same_batch(new._values, self.slopes)
        return new._changed(_values=inputs.read_only(both[0]), _slopes=inputs.read_only(both[1]))

    def _slopes_tangent(self, rows: slice, dvalues: Float64Array) -> Float64Array:
        return np.zeros_like(dvalues)

    def _slopes_adjoint(self, rows: slice, slopes_bar: Float64Array) -> Float64Array:
        return np.zeros_like(slopes_bar)

    def _slopes_expression(self, U: Expression) -> Expression:
        if self.n_trajectories != 1:
            raise ControlError(
                f"expression: the B={self.n_trajectories} trajectories have own slopes; take one, "
                "controls[i].expression(t, U)"
            )
        return to_dm(self.slopes[0].T)


def _same_batch(values: FloatArray, slopes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Values and slopes with the same number of trajectories."""
    B = max(values.shape[0], slopes.shape[0]) if 0 not in (values.shape[0], slopes.shape[0]) else 0
    pair = []
    for name, array in (("values", values), ("slopes", slopes)):
        if array.shape[0] not in (1, B):
            raise ControlError(
                f"{name}: axis 0 must have 1 or B={B} entries, it has {array.shape[0]}; values have shape "
                f"{values.shape}, slopes {slopes.shape}"
            )
        pair.append(array if array.shape[0] == B else np.repeat(array, B, axis=0))
    return pair[0], pair[1]


class CubicSpline(_Cubic):
    """Cubic spline: twice continuously differentiable.

    Parameters
    ----------
    knots, values, nu, dtype
        As in `PiecewiseConstant`.
    bc_type
        Conditions at the ends: "not-a-knot" (default), "natural" (second derivative zero), "clamped" (first
        derivative zero), or a pair of these; or "periodic", where first and last value must be equal.
    extrapolation
        As in `CubicHermite`.

    Raises
    ------
    ControlError
        As in `PiecewiseConstant`; for "periodic" also when first and last value differ.

    Notes
    -----
    Equals ``scipy.interpolate.CubicSpline``. Linear in the values; the adjoint is a transposed sparse solve.
    With "periodic", derivatives treat first and last value as separate entries of ``values``, although they
    must be equal.
    """

    def __init__(
        self,
        knots: Any,
        values: Any,
        bc_type: str | tuple[str, str] = "not-a-knot",
        extrapolation: str | tuple[str, str] = "error",
        *,
        nu: int | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__(knots, values, extrapolation, nu=nu, dtype=dtype)
        pair = (bc_type, bc_type) if isinstance(bc_type, str) else tuple(bc_type)
        for name in pair:
            if name not in BC_TYPES:
                raise ControlError(unknown_name("bc_type", name, BC_TYPES))
        if len(pair) != 2 or (pair[0] == "periodic") != (pair[1] == "periodic"):
            raise ControlError(
                f"bc_type: expected a name or a pair of names, 'periodic' at both ends or none, got {bc_type!r}"
            )
        self._bc_type = (pair[0], pair[1])
        self._operator: SplineOperator | None = None
        self._check()

    @property
    def bc_type(self) -> tuple[str, str]:
        """Conditions at the first and last knot."""
        return self._bc_type

    def _check(self) -> None:
        if self._bc_type[0] != "periodic":
            return
        first, last = self._values[:, 0], self._values[:, -1]
        eps = 4.0 * np.finfo(self._values.dtype).eps
        bad = np.argwhere(np.abs(first - last) > eps * (1.0 + np.maximum(np.abs(first), np.abs(last))))
        if bad.size:
            b, c = (int(i) for i in bad[0])
            raise ControlError(
                f"values: bc_type 'periodic' needs equal first and last values, trajectory {b} component {c} "
                f"has {first[b, c]} and {last[b, c]}; set values[:, -1] = values[:, 0]"
            )

    @property
    def stop_at_knots(self) -> bool:
        return False

    @property
    def _smooth_period(self) -> bool:
        return self._bc_type[0] == "periodic"

    def _interpolant(self, knots: Float64Array, columns: Float64Array) -> Any:
        from scipy.interpolate import CubicSpline as SciPyCubicSpline

        if self._bc_type[0] != "periodic":
            return SciPyCubicSpline(knots, columns, bc_type=self._bc_type)
        closed = columns.copy()
        closed[-1] = closed[0]
        return SciPyCubicSpline(knots, closed, bc_type="periodic")

    def _shared_operator(self) -> SplineOperator:
        if self._operator is None:
            self._operator = SplineOperator(self._knots[0], self._bc_type)
        return self._operator

    def _per_knots(self, rows: slice, array: Float64Array, transpose: bool) -> Float64Array:
        """The operator of each trajectory's knots, or its transpose, on (b, n, nu)."""

        def act(operator: SplineOperator, columns: Float64Array) -> Float64Array:
            return operator.transpose(columns) if transpose else operator.apply(columns)

        if not self._own_knots:
            return _trajectories(act(self._shared_operator(), _columns(array)), array.shape[0], self.nu)
        operators = (SplineOperator(row, self._bc_type) for row in self._knot_rows(rows))
        parts = [act(operator, a) for operator, a in zip(operators, array)]
        n = array.shape[1] + (-1 if transpose else 1)
        return np.stack(parts) if parts else np.zeros((0, n, array.shape[2]))

    def _slopes_tangent(self, rows: slice, dvalues: Float64Array) -> Float64Array:
        return self._per_knots(rows, np.diff(dvalues, axis=1) / self._distances(rows)[:, :, None], False)

    def _slopes_adjoint(self, rows: slice, slopes_bar: Float64Array) -> Float64Array:
        return _secants_adjoint(self._distances(rows), self._per_knots(rows, slopes_bar, True))

    def _slopes_expression(self, U: Expression) -> Expression:
        return ca.mtimes(secants(self._knots[0], U), ca.sparsify(to_dm(self._shared_operator().matrix.T)))


def _secants_adjoint(h: Float64Array, m_bar: Float64Array) -> Float64Array:
    """Adjoint of m = diff(v) / h: from (b, K-1, nu) to (b, K, nu)."""
    scaled = m_bar / h[:, :, None]
    return np.pad(scaled, ((0, 0), (1, 0), (0, 0))) - np.pad(scaled, ((0, 0), (0, 1), (0, 0)))


class _LocalCubic(_Cubic):
    """A cubic whose slopes are a nonlinear function of a few secant slopes around each knot."""

    _derivative: ClassVar[type[PchipDerivative] | type[AkimaDerivative]]
    _formula: ClassVar[Callable[..., Expression]]

    def _linearised(self, rows: slice) -> PchipDerivative | AkimaDerivative:
        h = self._distances(rows)
        values = self._values[rows].astype(np.float64, copy=False)
        return self._derivative(h, np.diff(values, axis=1) / h[:, :, None])

    def _slopes_tangent(self, rows: slice, dvalues: Float64Array) -> Float64Array:
        dm = np.diff(dvalues, axis=1) / self._distances(rows)[:, :, None]
        return np.repeat(dm, 2, axis=1) if dm.shape[1] == 1 else self._linearised(rows).tangent(dm)

    def _slopes_adjoint(self, rows: slice, slopes_bar: Float64Array) -> Float64Array:
        if slopes_bar.shape[1] == 2:
            m_bar = slopes_bar.sum(axis=1, keepdims=True)
        else:
            m_bar = self._linearised(rows).adjoint(slopes_bar)
        return _secants_adjoint(self._distances(rows), m_bar)

    def _slopes_expression(self, U: Expression) -> Expression:
        m = secants(self._knots[0], U)
        if m.shape[1] == 1:
            return ca.horzcat(m, m)
        return self._formula(np.diff(self._knots[0]), m)


class Pchip(_LocalCubic):
    """Monotone piecewise cubic (PCHIP): no overshoot between knots, once continuously differentiable.

    Parameters
    ----------
    knots, values, nu, dtype
        As in `PiecewiseConstant`.
    extrapolation
        As in `CubicHermite`.

    Raises
    ------
    ControlError
        As in `PiecewiseConstant`.

    Notes
    -----
    Equals ``scipy.interpolate.PchipInterpolator``. Not linear in the values; derivatives with respect to them
    are exact except where a secant slope is zero, where a one-sided branch is taken.
    """

    _derivative = PchipDerivative
    _formula = staticmethod(pchip_expression)

    def _interpolant(self, knots: Float64Array, columns: Float64Array) -> Any:
        from scipy.interpolate import PchipInterpolator

        return PchipInterpolator(knots, columns)


class Akima(_LocalCubic):
    """Akima's piecewise cubic: local, smooth, little overshoot, once continuously differentiable.

    Parameters
    ----------
    knots, values, nu, dtype
        As in `PiecewiseConstant`.
    extrapolation
        As in `CubicHermite`.

    Raises
    ------
    ControlError
        As in `PiecewiseConstant`.

    Notes
    -----
    Equals ``scipy.interpolate.Akima1DInterpolator`` for each trajectory. SciPy decides where a slope is
    undefined by a threshold relative to the largest difference over all columns, so it is called for each
    trajectory on its own: one trajectory never changes another. Not linear in the values; derivatives with
    respect to them are exact except where two neighbouring secant slopes are equal.
    """

    _derivative = AkimaDerivative
    _formula = staticmethod(akima_expression)
    _couples_trajectories = True

    def _interpolant(self, knots: Float64Array, columns: Float64Array) -> Any:
        from scipy.interpolate import Akima1DInterpolator

        return Akima1DInterpolator(knots, columns)
