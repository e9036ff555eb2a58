"""Which matrices are singular, and solutions of those systems that are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def solve_all(matrices: Array, right: NDArray[Any]) -> Array:
    """Solutions (B, m) of (B, m, m) systems; NaN where a matrix is singular or not finite."""
    bad = singular(matrices) | ~_finite(matrices)
    safe = np.where(bad[:, None, None], np.eye(matrices.shape[1]), matrices)
    out: Array = np.asarray(np.linalg.solve(safe, right[..., None])[..., 0], np.float64)
    out[bad] = np.nan
    return out


def singular(matrices: Array) -> NDArray[np.bool_]:
    """Which of (B, m, m) matrices are finite, and singular to rounding after scaling of rows and columns."""
    finite = _finite(matrices)
    scaled = np.where(finite[:, None, None], matrices, np.eye(matrices.shape[1]))
    bad = ~finite
    for axis in (2, 1):
        size = np.abs(scaled).max(axis=axis, keepdims=True)
        bad = bad | (size == 0.0).any(axis=(1, 2))
        scaled = scaled / np.where(size > 0.0, size, 1.0)
    if matrices.shape[1] > 1:
        safe = np.where(bad[:, None, None], np.eye(matrices.shape[1]), scaled)
        bad = bad | (np.linalg.cond(safe) > 1e14)
    return np.asarray(bad & finite, np.bool_)


def _finite(matrices: Array) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(matrices).all(axis=(1, 2)), np.bool_)


def nudge(guess: NDArray[Any]) -> Array:
    """The way to another point near a guess: a matrix that is singular at both counts as singular everywhere."""
    return np.asarray(0.1 + 0.1 * np.abs(guess), np.float64)
