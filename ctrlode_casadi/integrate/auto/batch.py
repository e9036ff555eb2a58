"""Some trajectories of a chunk as a batch of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch, PieceArrays

IntArray = NDArray[np.int64]


def _taken(array: NDArray[Any], rows: IntArray) -> NDArray[Any]:
    """Rows of an array whose first axis may be shared."""
    return array if array.shape[0] == 1 else np.ascontiguousarray(array[rows])


@dataclass(frozen=True, eq=False)
class SelectedBatch(Batch):
    """Trajectories of a batch; controls come from the batch, with the shape that they have there.

    Attributes
    ----------
    parent
        The batch.
    start, stop
        The chunk that the trajectories belong to.
    rows
        The trajectories, counted from `start`.
    """

    parent: Batch = field(default=None, repr=False)  # type: ignore[assignment]
    start: int = 0
    stop: int = 0
    rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    @property
    def shared_controls(self) -> bool:
        """Whether one control serves all trajectories of the parent."""
        return self.parent.shared_controls

    def pieces(self, start: int, stop: int) -> PieceArrays:
        """Controls of trajectories start..stop-1."""
        source, rows = self.parent.pieces(self.start, self.stop), self.rows[start:stop]
        breaks, stops = _taken(source.breaks, rows), _taken(source.stops, rows)
        return PieceArrays(breaks, stops, _taken(source.anchors, rows), _taken(source.coefficients, rows), source.jumps)

    def saved_controls(self, start: int, stop: int) -> NDArray[Any]:
        """Controls at the save times of trajectories start..stop-1."""
        return _taken(self.parent.saved_controls(self.start, self.stop), self.rows[start:stop])

    def keeps(self, start: int, stop: int) -> bool:
        """Whether the parent keeps its controls."""
        return self.parent.keeps(self.start, self.stop)


def selected(parent: Batch, start: int, stop: int, rows: IntArray) -> SelectedBatch:
    """Trajectories `rows` of the chunk start..stop-1; the last selection of a chunk is used again."""
    key = SelectedBatch, start
    found: SelectedBatch | None = parent.prepared.get(key)
    if found is None or not np.array_equal(found.rows, rows):
        every = start + rows if parent.ts.shape[0] > 1 else np.zeros(1, np.int64)
        found = parent.prepared[key] = SelectedBatch(
            np.ascontiguousarray(parent.ts[every]), np.ascontiguousarray(parent.counts[every]), parent.controls,
            rows.size, parent.nu, np.dtype(parent.dtype), parent=parent, start=start, stop=stop, rows=rows,
        )  # fmt: skip
    return found
