"""The common language of all controls over a time span: a sequence of polynomials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, FloatArray


@dataclass(frozen=True, eq=False)
class Pieces:
    """A control over a time span as a piecewise polynomial, extrapolation included.

    On piece q, that is between ``breaks[..., q]`` and ``breaks[..., q + 1]``, component c of trajectory b is
    ``sum_j coefficients[b, q, c, j] * (t - anchors[..., q])**j``.

    Attributes
    ----------
    breaks
        Strictly increasing ends of the pieces, (Nb + 1,), or (b, Nb + 1) where each trajectory has its own
        knots. They cover the span asked for. Where only some trajectories need an extrapolating piece, the
        others carry it too, outside the span.
    anchors
        Origin of each piece's polynomial, (Nb,) or (b, Nb).
    coefficients
        Ascending powers, (b, Nb, nu, d + 1); b is 1 for a control that all trajectories share.
    stops
        Whether value, slope or curvature may jump at each break, (Nb + 1,): an integration step should end there.
    """

    breaks: Float64Array
    anchors: Float64Array
    coefficients: FloatArray
    stops: NDArray[np.bool_]

    def __call__(self, t: float) -> FloatArray:
        """Values at one time, (b, nu); at a break the later piece counts. Plain, for checks."""
        rows = max(self.coefficients.shape[0], self.breaks.shape[0] if self.breaks.ndim == 2 else 0)
        breaks, anchors = np.atleast_2d(self.breaks), np.atleast_2d(self.anchors)
        out = np.zeros((rows, self.coefficients.shape[2]), self.coefficients.dtype)
        for b in range(rows):
            row = breaks[b % breaks.shape[0]]
            q = int(np.clip(np.searchsorted(row, t, side="right") - 1, 0, row.size - 2))
            s: Any = t - anchors[b % anchors.shape[0], q]
            for j in range(self.coefficients.shape[3] - 1, -1, -1):
                out[b] = out[b] * s + self.coefficients[b % self.coefficients.shape[0], q, :, j]
        return out
