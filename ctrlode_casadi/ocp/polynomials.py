"""The control of a collocation: a polynomial on each interval that may jump at the breaks."""

from __future__ import annotations

from typing import Any, Self

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, FloatArray, to_dm
from ..base.errors import ControlError, UnsupportedOperation
from ..controls.control import Control, Index
from ..controls.inputs import Expression
from ..controls.pieces import Pieces
from .controls import ControlGrid


class PiecewisePolynomial(Control):
    """Polynomials between knots, through values at points inside the intervals; one trajectory.

    Parameters
    ----------
    knots
        (N + 1,) strictly increasing times.
    values
        (M, nu) values at the points of all intervals, one interval after another.
    maps
        For each interval the values that it uses, first and last + 1, and the matrix (n, n) that turns them into
        coefficients of ascending powers of the time since the interval's begin.
    """

    def __init__(self, knots: Float64Array, values: Float64Array, maps: list[tuple[slice, Float64Array]]) -> None:
        self._knots, self._maps = knots, maps
        self._values = np.ascontiguousarray(values)[None]
        self._powers = max(matrix.shape[0] for _, matrix in maps)

    @classmethod
    def through(cls, knots: Float64Array, values: Float64Array, grid: ControlGrid) -> PiecewisePolynomial:
        """The control of a solution."""
        maps = []
        for k in range(grid.mesh.size):
            parts = grid.parts(k)
            n, h = parts.size, float(knots[k + 1] - knots[k])
            theta = 0.5 * (1.0 - np.cos(np.pi * (np.arange(n) + 0.5) / n))
            powers = (theta[:, None]) ** np.arange(n)[None, :]
            matrix = np.linalg.solve(powers, grid.weights(k, theta)) / h ** np.arange(n)[:, None]
            maps.append((slice(int(parts[0]), int(parts[-1]) + 1), matrix))
        return cls(knots, values, maps)

    @property
    def values(self) -> FloatArray:
        return self._values

    @property
    def knots(self) -> Float64Array:
        return self._knots

    @property
    def stop_at_knots(self) -> bool:
        return True

    def __repr__(self) -> str:
        first, last = self._knots[0], self._knots[-1]
        return f"PiecewisePolynomial(N={self._knots.size - 1}, nu={self.nu}, t in [{first:g}, {last:g}])"

    def _coefficients(self, values: Float64Array) -> Float64Array:
        """(N, nu, powers) from values (M, nu)."""
        out = np.zeros((len(self._maps), self.nu, self._powers))
        for k, (which, matrix) in enumerate(self._maps):
            out[k, :, : matrix.shape[0]] = (matrix @ values[which]).T
        return out

    def _locate(self, t: Any) -> tuple[Any, Any, bool]:
        times = np.asarray(t, dtype=np.float64)
        flat = times.reshape(-1)
        slack = 1e-12 * max(abs(self._knots[0]), abs(self._knots[-1]))
        if flat.size and (flat.min() < self._knots[0] - slack or flat.max() > self._knots[-1] + slack):
            raise ControlError(f"t: times must lie between {self._knots[0]:g} and {self._knots[-1]:g}")
        k = np.clip(np.searchsorted(self._knots, flat, side="right") - 1, 0, len(self._maps) - 1)
        return k, flat - self._knots[k], times.ndim == 0

    def _evaluate(self, t: Any, coefficients: Float64Array) -> FloatArray:
        k, s, scalar = self._locate(t)
        powers = s[:, None] ** np.arange(coefficients.shape[2])[None, :]
        out = np.einsum("mnj,mj->mn", coefficients[k], powers)
        return out[:1] if scalar else out[None]

    def __call__(self, t: Any) -> FloatArray:
        return self._evaluate(t, self._coefficients(self._values[0]))

    def derivative(self, t: Any) -> FloatArray:
        c = self._coefficients(self._values[0])
        return self._evaluate(t, c[:, :, 1:] * np.arange(1, c.shape[2])[None, None, :])

    def jvp(self, t: Any, dvalues: Any) -> FloatArray:
        return self._evaluate(
            t, self._coefficients(np.asarray(dvalues, dtype=np.float64).reshape(self._values.shape[1:]))
        )

    def vjp(self, t: Any, u_bar: Any) -> FloatArray:
        k, s, _ = self._locate(t)
        bar = np.asarray(u_bar, dtype=np.float64).reshape(-1, self.nu)
        coef_bar = np.zeros((len(self._maps), self.nu, self._powers))
        np.add.at(coef_bar, k, bar[:, :, None] * (s[:, None] ** np.arange(self._powers)[None, :])[:, None, :])
        return self._adjoint(coef_bar)[None]

    def _adjoint(self, coef_bar: Float64Array) -> Float64Array:
        out = np.zeros(self._values.shape[1:])
        for k, (which, matrix) in enumerate(self._maps):
            out[which] += matrix.T @ coef_bar[k, :, : matrix.shape[0]].T
        return out

    def _span(self, t0: float, t1: float) -> tuple[Float64Array, slice]:
        self._locate(np.array([t0, t1]))
        first = int(np.clip(np.searchsorted(self._knots, t0, side="right") - 1, 0, len(self._maps) - 1))
        last = int(np.clip(np.searchsorted(self._knots, t1, side="left") - 1, first, len(self._maps) - 1))
        breaks = self._knots[first : last + 2].copy()
        breaks[0], breaks[-1] = min(breaks[0], t0), max(breaks[-1], t1)
        return breaks, slice(first, last + 1)

    def pieces(self, t0: float, t1: float, start: int = 0, stop: int | None = None) -> Pieces:
        breaks, which = self._span(t0, t1)
        coefficients = self._coefficients(self._values[0])[which][None]
        return Pieces(breaks, self._knots[which], coefficients, np.ones(breaks.size, dtype=bool))

    def pieces_adjoint(
        self, t0: float, t1: float, coef_bar: Any, start: int = 0, stop: int | None = None
    ) -> FloatArray:
        _, which = self._span(t0, t1)
        rows = np.asarray(coef_bar, dtype=np.float64)
        out = np.zeros((rows.shape[0], *self._values.shape[1:]))
        for b in range(rows.shape[0]):
            full = np.zeros((len(self._maps), self.nu, self._powers))
            full[which] = rows[b]
            out[b] = self._adjoint(full)
        return out

    def pieces_tangent(self, t0: float, t1: float, dvalues: Any, start: int = 0, stop: int | None = None) -> FloatArray:
        _, which = self._span(t0, t1)
        rows = np.asarray(dvalues, dtype=np.float64).reshape(-1, *self._values.shape[1:])
        return np.stack([self._coefficients(row)[which] for row in rows])

    def casadi_coefficients(self, U: Expression, t0: float | None = None, t1: float | None = None) -> list[Expression]:
        which = slice(None) if t0 is None or t1 is None else self._span(t0, t1)[1]
        results = []
        for part, matrix in self._maps[which]:
            padded = np.zeros((self._powers, matrix.shape[1]))
            padded[: matrix.shape[0]] = matrix
            results.append(ca.mtimes(U[:, part], to_dm(padded.T)))
        return results

    def expression(self, t: ca.MX | ca.SX | float, U: Expression) -> Expression:
        coefficients = self.casadi_coefficients(U)
        time: Any = t if isinstance(t, (ca.MX, ca.SX, ca.DM)) else ca.DM(float(t))
        k = ca.low(to_dm(self._knots), time)
        chosen: Any = ca.DM.zeros(self.nu, 1)
        for i, c in enumerate(coefficients):
            s = time - float(self._knots[i])
            value = ca.mtimes(c, ca.vertcat(*(s**j for j in range(self._powers))))
            chosen = chosen + ca.if_else(k == i, value, 0)
        return chosen

    def with_values(self, values: Any) -> Self:
        array = np.asarray(values, dtype=np.float64).reshape(self._values.shape[1:])
        return type(self)(self._knots, array, self._maps)

    def __getitem__(self, index: Index) -> Self:
        if index in (0, -1):
            return self
        raise UnsupportedOperation("the control of a solution has one trajectory, controls[0]")
