"""A control that does not change in time."""

from __future__ import annotations

from typing import Any, Self

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, FloatArray, check_shape, to_dm
from ..base.errors import ControlError
from . import inputs
from .control import Control, Index
from .inputs import Expression
from .pieces import Pieces
from .rows import row_range, selection


class Constant(Control):
    """Constant inputs, without knots, defined at all times.

    Parameters
    ----------
    values
        (B, nu), (nu,) shared by all trajectories, a number, or (B, 1, nu). The attribute ``values`` is (B, 1,
        nu), and K is 1 in all derivatives.
    nu
        With ``nu=1``, one axis is read as (B,).
    dtype
        "float64" (default) or "float32".

    Raises
    ------
    ControlError
        For shapes that do not fit, NaN or infinite entries.

    Examples
    --------
    >>> Constant([1.0, 2.0])([0.0, 5.0])
    array([[[1., 2.],
            [1., 2.]]])
    """

    def __init__(self, values: Any, *, nu: int | None = None, dtype: str = "float64") -> None:
        self._values = inputs.own(_constant_values(values, nu, inputs.float_type(dtype)))

    @property
    def values(self) -> FloatArray:
        return self._values

    @property
    def knots(self) -> Float64Array:
        return inputs.read_only(np.zeros(0))

    @property
    def stop_at_knots(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"Constant(B={self.n_trajectories}, nu={self.nu})"

    def _rows(self, t: Float64Array) -> int:
        return self.n_trajectories if self.n_trajectories != 1 else max(1, t.shape[0])

    def _spread(self, t: Any, values: FloatArray) -> FloatArray:
        t, scalar = inputs.times(t, self.n_trajectories)
        out = np.repeat(values, 1 if scalar else t.shape[1], axis=1)
        out = np.repeat(out, self._rows(t), axis=0) if out.shape[0] == 1 else out
        return out[:, 0] if scalar else out

    def __call__(self, t: Any) -> FloatArray:
        return self._spread(t, self._values)

    def derivative(self, t: Any) -> FloatArray:
        return self._spread(t, np.zeros_like(self._values))

    def jvp(self, t: Any, dvalues: Any) -> FloatArray:
        shape = (("B", self.n_trajectories), ("K", 1), ("nu", self.nu))
        return self._spread(t, inputs.batch("dvalues", dvalues, shape, self._values.dtype.type))

    def vjp(self, t: Any, u_bar: Any) -> FloatArray:
        t, scalar = inputs.times(t, self.n_trajectories)
        shape: tuple[Any, ...] = (("B", self._rows(t)), ("m", t.shape[1]), ("nu", self.nu))
        bar = inputs.batch("u_bar", u_bar, (shape[0], shape[2]) if scalar else shape, np.float64)
        bar = bar[:, None] if scalar else bar.sum(axis=1, keepdims=True)
        if bar.shape[0] != self.n_trajectories:
            bar = bar.sum(axis=0, keepdims=True)
        return bar.astype(self._values.dtype, copy=False)

    def pieces(self, t0: float, t1: float, start: int = 0, stop: int | None = None) -> Pieces:
        t0, t1 = inputs.span(t0, t1)
        rows = row_range(start, stop, self.n_trajectories)
        coefficients = self._values[rows].transpose(0, 2, 1)[:, None]
        end = t1 if t1 > t0 else float(np.nextafter(t0, np.inf))
        return Pieces(np.array([t0, end]), np.array([t0]), coefficients, np.array([False, False]))

    def pieces_adjoint(
        self, t0: float, t1: float, coef_bar: Any, start: int = 0, stop: int | None = None
    ) -> FloatArray:
        count = self._row_count(start, stop)
        bar = inputs.batch("coef_bar", coef_bar, (count, ("Nb", 1), ("nu", self.nu), ("d+1", 1)), np.float64)
        return np.ascontiguousarray(bar[:, 0].transpose(0, 2, 1), dtype=self._values.dtype)

    def pieces_tangent(self, t0: float, t1: float, dvalues: Any, start: int = 0, stop: int | None = None) -> FloatArray:
        count = self._row_count(start, stop)
        shape = (count, ("K", 1), ("nu", self.nu))
        change = inputs.batch("dvalues", dvalues, shape, self._values.dtype.type)
        return np.ascontiguousarray(change.transpose(0, 2, 1)[:, None])

    def _row_count(self, start: int, stop: int | None) -> Any:
        rows = row_range(start, stop, self.n_trajectories)
        return "b" if self.n_trajectories == 1 else ("b", rows.stop - rows.start)

    def casadi_coefficients(self, U: Expression, t0: float | None = None, t1: float | None = None) -> list[Expression]:
        return [self._column(U)]

    def expression(self, t: ca.MX | ca.SX | float, U: Expression) -> Expression:
        return self._column(U)

    def _column(self, U: Expression) -> Expression:
        if not isinstance(U, (ca.MX, ca.SX, ca.DM)):
            U = to_dm(np.asarray(U, dtype=np.float64))
        if U.shape != (self.nu, 1):
            raise ControlError(f"U: expected values of shape (nu={self.nu}, K=1) of one trajectory, got {U.shape}")
        return U

    def with_values(self, values: Any) -> Self:
        return type(self)(values, nu=self.nu, dtype=self._values.dtype.name)

    def __getitem__(self, index: Index) -> Self:
        return type(self)(self._values[selection(index, self.n_trajectories)], dtype=self._values.dtype.name)


def _constant_values(value: object, nu: int | None, dtype: type[np.floating[Any]]) -> FloatArray:
    array = inputs.real_array("values", value, dtype)
    if array.ndim == 0:
        array = array.reshape(1, 1, 1)
    elif array.ndim == 1:
        array = array.reshape(-1, 1, 1) if nu == 1 else array.reshape(1, 1, -1)
    elif array.ndim == 2:
        array = array[:, None, :]
    elif array.ndim != 3:
        raise ControlError(f"values: expected (B, nu), (nu,), a number or (B, 1, nu), got shape {array.shape}")
    last = "nu" if nu is None else ("nu", nu)
    check_shape("values", array.shape, ("B", ("K", 1), last), error=ControlError)
    if array.shape[2] == 0:
        raise ControlError(
            "values: axis 2 must have at least nu=1 entries; pass controls=None where the model has no control"
        )
    return array
