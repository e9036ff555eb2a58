"""Selection of trajectories by index or by range, for controls."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..base.errors import ControlError


def selection(index: Any, n: int) -> Any:
    """The index of ``controls[index]`` in a form that keeps the trajectory axis: a slice or an array."""
    if isinstance(index, slice):
        return index
    if isinstance(index, (list, np.ndarray)):
        rows = np.asarray(index)
        if rows.size == 0:
            rows = rows.astype(np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iub" or (rows.dtype.kind == "b" and rows.size != n):
            raise ControlError(
                f"controls[...]: expected integers or a mask of B={n} entries, got an array of dtype "
                f"{rows.dtype} and shape {rows.shape}"
            )
        return rows
    try:
        i = operator.index(index)
    except TypeError as exc:
        raise ControlError(
            f"controls[...]: expected an integer, a slice, a list of integers or a mask, got {type(index).__name__}"
        ) from exc
    if not -n <= i < n:
        raise IndexError(f"controls[{i}]: there are B={n} trajectories")
    i %= n
    return slice(i, i + 1)


def row_range(start: int, stop: int | None, n: int) -> slice:
    """Trajectories start ... stop-1 of n as a slice; all of a shared control whatever the range."""
    if n == 1:
        return slice(0, 1)
    end = n if stop is None else stop
    if not 0 <= start <= end <= n:
        raise ControlError(f"start, stop: expected 0 <= start <= stop <= B={n}, got {start} and {stop}")
    return slice(start, end)
