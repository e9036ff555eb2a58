"""Piecewise constant and piecewise linear controls."""

from __future__ import annotations

from typing import Any, ClassVar

from ..base.errors import ControlError, unknown_name
from .interpolated import Interpolated


class PiecewiseConstant(Interpolated):
    """Zero-order hold: constant between knots.

    Parameters
    ----------
    knots
        Strictly increasing times, (K,), or (B, K) with own knots for each trajectory; K >= 2.
    values
        Values at the knots, (B, K, nu). Shorter forms: (K, nu) shared by all trajectories; (B, K) and (K,)
        when nu == 1. Two axes are read as (B, K) when the last one has K entries, unless ``nu`` says
        otherwise.
    side
        "left" (default): on [knots[k], knots[k+1]) the value is values[k], and values[K-1] at the last knot
        itself. "right": on (knots[k], knots[k+1]] it is values[k+1], and values[0] at the first knot itself.
    extrapolation
        Beyond the knots: "error" (default) refuses; "hold" keeps the end value, and so does "linear" here;
        "periodic" repeats, with period knots[-1] - knots[0]; or a pair (left, right). Under "periodic" the
        value that belongs to the closing knot is never used: values[K-1] for side "left", values[0] for side
        "right".
    nu
        Number of components, only needed where values with two axes are ambiguous.
    dtype
        "float64" (default) or "float32" for the values; times are float64 always.

    Raises
    ------
    ControlError
        For knots that do not increase, shapes that do not fit, NaN or infinite entries, unknown names.

    Notes
    -----
    Equals ``scipy.interpolate.interp1d(kind="previous")`` (left) and ``kind="next"`` (right).

    Examples
    --------
    >>> u = PiecewiseConstant([0.0, 1.0, 2.0], [5.0, 6.0, 7.0])
    >>> u([0.0, 0.99, 1.0, 2.0])[0, :, 0]
    array([5., 5., 6., 7.])
    """

    degree: ClassVar[int] = 0

    def __init__(
        self,
        knots: Any,
        values: Any,
        side: str = "left",
        extrapolation: str | tuple[str, str] = "error",
        *,
        nu: int | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__(knots, values, extrapolation, nu=nu, dtype=dtype)
        if side not in ("left", "right"):
            raise ControlError(unknown_name("side", side, ("left", "right")))
        self._side_right = side == "right"

    @property
    def side(self) -> str:
        """Which knot's value an interval has."""
        return "right" if self._side_right else "left"


class PiecewiseLinear(Interpolated):
    """Linear interpolation between knots (first-order hold).

    Parameters
    ----------
    knots, values, nu, dtype
        As in `PiecewiseConstant`.
    extrapolation
        Beyond the knots: "error" (default) refuses; "hold" keeps the end value; "linear" continues the end
        interval's line; "periodic" repeats, with period knots[-1] - knots[0] (at the last knot the first
        value counts, as in ``scipy.interpolate.PPoly``); or a pair (left, right).

    Raises
    ------
    ControlError
        As in `PiecewiseConstant`.

    Notes
    -----
    Equals ``scipy.interpolate.make_interp_spline(k=1)`` and ``numpy.interp``.

    Examples
    --------
    >>> u = PiecewiseLinear([0.0, 1.0], [[0.0, 1.0], [2.0, 5.0]], extrapolation="hold", nu=2)
    >>> u([0.5, 3.0])
    array([[[1., 3.],
            [2., 5.]]])
    """

    degree: ClassVar[int] = 1
