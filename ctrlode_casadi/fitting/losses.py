"""The built-in losses as a table: one row per name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import Float64Array, FloatArray
from ..base.errors import DataError, unknown_name

#: Width of the smooth bottom of "mae_smooth" relative to the standard deviation of the data.
SMOOTHING = 1e-2


@dataclass(frozen=True)
class Loss:
    """A loss that compares outputs with data, entry by entry.

    Parameters
    ----------
    penalty
        Penalty of residuals r, a column, given one width for each of them; CasADi expressions.
    mean
        Whether the penalties are divided by the number of entries present.
    squares
        Whether the penalty is r**2, so that the objective is a sum of squared residuals.
    """

    penalty: Callable[[Any, Any], Any]
    mean: bool
    squares: bool


def _square(r: Any, width: Any) -> Any:
    return r * r


def _rounded_absolute(r: Any, width: Any) -> Any:
    """sqrt(r**2 + width**2) - width without cancellation for small r: Charbonnier et al., ICIP 1994."""
    return r * r / (width + (r * r + width * width) ** 0.5)


LOSSES = {
    "mse": Loss(_square, mean=True, squares=True),
    "sse": Loss(_square, mean=False, squares=True),
    "mae_smooth": Loss(_rounded_absolute, mean=True, squares=False),
}


def find_loss(name: object) -> Loss:
    """The loss of a name; `DataError` with the nearest known one."""
    if not isinstance(name, str) or name not in LOSSES:
        raise DataError(
            unknown_name("loss", name, LOSSES) + "; or a callable loss(t, x, u, y, d, p) that returns a scalar "
            "CasADi expression, or None together with terminal= or running="
        )
    return LOSSES[name]


def widths(data: FloatArray) -> Float64Array:
    """Width of "mae_smooth" for each output: SMOOTHING times the standard deviation of its data present.

    Parameters
    ----------
    data
        (..., ny) with NaN for missing entries. A constant output has the width SMOOTHING.
    """
    rows = data.reshape(-1, data.shape[-1])
    result = np.full(rows.shape[1], SMOOTHING)
    for j, column in enumerate(rows.T):
        present = column[~np.isnan(column)]
        spread = float(present.std()) if present.size else 0.0
        result[j] = SMOOTHING * (spread if spread > 0 else 1.0)
    return result
