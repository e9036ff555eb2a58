"""The measured side of an objective: save times, controls, data and weights, checked and padded to one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, FloatArray, check_shape, floats
from ..base.errors import DataError
from ..integrate.batch import Batch
from ..integrate.problem import check_times


@dataclass(frozen=True, eq=False)
class Times:
    """Save times: (1, T) for all trajectories, or (B, T) padded with each row's last time.

    Attributes
    ----------
    rows
        The times.
    counts
        Number of save times of each row.
    """

    rows: Float64Array
    counts: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of trajectories with own times; 1 where all share them."""
        return self.rows.shape[0]

    @property
    def own(self) -> bool:
        """Whether every trajectory has its own times."""
        return self.rows.shape[0] != 1

    @property
    def n(self) -> int:
        """Length of the time axis."""
        return self.rows.shape[1]

    def valid(self, size: int) -> NDArray[np.bool_]:
        """(B, T), False where a row is padded."""
        inside = np.arange(self.n) < self.counts[:, None]
        return np.broadcast_to(inside, (size, self.n))


def _is_list(value: Any) -> bool:
    """Whether a value is a list with one array per trajectory."""
    return isinstance(value, (list, tuple)) and any(isinstance(v, (list, tuple, np.ndarray)) for v in value)


def read_times(ts: Any) -> Times:
    """Save times (T,), (B, T), or a list of arrays of any lengths."""
    if not _is_list(ts) and np.ndim(ts) != 2:
        row = check_times(ts)
        return Times(row[None], np.array([row.size], np.int64))
    rows = [check_times(row, f"ts[{b}]") for b, row in enumerate(ts)]
    if not rows:
        raise DataError("ts: expected at least one array of save times, got an empty list")
    counts = np.array([row.size for row in rows], np.int64)
    padded = np.empty((len(rows), int(counts.max())))
    for b, row in enumerate(rows):
        padded[b, : row.size], padded[b, row.size :] = row, row[-1]
    return Times(padded, counts)


def _padded(
    name: str, rows: Sequence[Any], times: Times, width: int | None, dtype: Any, finite: bool | str
) -> FloatArray:
    """One array per trajectory as (B, T, n), NaN after the end of a row."""
    if times.own and len(rows) != times.rows.shape[0]:
        raise DataError(f"{name}: expected B={times.rows.shape[0]} arrays, one per row of ts, got {len(rows)}")
    parts = []
    for b, row in enumerate(rows):
        part = floats(f"{name}[{b}]", row, dtype=dtype, finite=finite)
        part = part[:, None] if part.ndim == 1 else part
        count = int(times.counts[b if times.own else 0])
        check_shape(f"{name}[{b}]", part.shape, (("T", count), "ny" if width is None else ("ny", width)))
        width = part.shape[1]
        parts.append(part)
    out = np.full((len(parts), times.n, width or 0), np.nan, dtype)
    for b, part in enumerate(parts):
        out[b, : len(part)] = part
    return out


def read_data(data: Any, times: Times, width: int | None, dtype: Any) -> FloatArray | None:
    """Data as (1 or B, T, width) with NaN where missing; any width for None.

    A single axis is time, two are (T, width), or (B, T) for data with one component.
    """
    if data is None:
        return None
    if _is_list(data) and (times.own or isinstance(data[0], np.ndarray)):
        return _padded("data", data, times, width, dtype, "nan")
    array = floats("data", data, dtype=dtype, finite="nan")
    T = times.n
    if times.own and (times.counts != T).any():
        raise DataError("data: with save times of different lengths pass a list with one array per trajectory")
    if array.ndim == 1:
        array = array[None, :, None]
    elif array.ndim == 2 and width in (1, None) and array.shape[1] == T and array.shape != (T, 1):
        array = array[:, :, None]
    elif array.ndim == 2:
        array = array[None]
    check_shape("data", array.shape, ("B", ("T", T), "ny" if width is None else ("ny", width)))
    return array


def read_weights(weights: Any, times: Times, width: int, dtype: Any) -> FloatArray | None:
    """Weights as an array that broadcasts against (B, T, width), with three axes, or None."""
    if weights is None:
        return None
    array: FloatArray
    if _is_list(weights) and times.own:
        parts = []
        for b, row in enumerate(weights):
            part = floats(f"weights[{b}]", row, dtype=dtype)
            count = int(times.counts[min(b, times.size - 1)])
            column = part[:, None] if part.ndim == 1 and part.size == count else part
            try:
                parts.append(np.broadcast_to(column, (count, width)))
            except ValueError as exc:
                raise DataError(
                    f"weights[{b}]: must broadcast against data of shape (T={count}, ny={width}), got {part.shape}"
                ) from exc
        array = np.nan_to_num(_padded("weights", parts, times, width, dtype, True))
    else:
        array = floats("weights", weights, dtype=dtype)
    aligned = (1,) * (3 - array.ndim) + array.shape
    if array.ndim > 3 or any(n not in (1, m) for n, m in zip(aligned[1:], (times.n, width), strict=True)):
        raise DataError(
            f"weights: must broadcast against data of shape (B, T={times.n}, ny={width}), got {array.shape}; add "
            f"axes of length one, as in weights[:, None, None] for one weight per trajectory"
        )
    if (array < 0).any():
        raise DataError(f"weights: must not be negative, got {array.min():g}; use NaN in data for missing entries")
    return array.reshape(aligned)


def make_batch(times: Times, controls: Any, nu: int, size: int, dtype: Any) -> Batch:
    """The batch that the engine integrates; its first controls are made here, so that a bad time span is refused."""
    if isinstance(controls, (list, tuple)):
        controls = list(controls) if len(controls) == size else controls[0]
    batch = Batch(times.rows, times.counts, controls, size, nu, np.dtype(dtype))
    if size:
        batch.pieces(*batch.chunks()[0])
    return batch


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Trajectories start..stop-1 as a batch of their own."""
    if (start, stop) == (0, batch.size):
        return batch
    own = batch.ts.shape[0] > 1
    rows = slice(start, stop) if own else slice(None)
    controls = batch.controls if batch.shared_controls else batch.controls[start:stop]
    return Batch(batch.ts[rows], batch.counts[rows], controls, stop - start, batch.nu, batch.dtype)
