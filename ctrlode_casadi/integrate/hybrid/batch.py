"""Phases of some trajectories of a batch as a batch of their own, with the controls of the whole one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch, PieceArrays
from .grid import Points

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PhaseBatch(Batch):
    """Phases of trajectories; the pieces of the controls are those of the whole time span.

    Attributes
    ----------
    source
        Controls of the chunk that the trajectories belong to.
    rows
        Which trajectories of the chunk; one may come twice.
    """

    source: PieceArrays = field(default=None, repr=False)  # type: ignore[assignment]
    rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    @property
    def shared_controls(self) -> bool:
        """Whether one control serves all trajectories of the chunk."""
        return self.source.coefficients.shape[0] == 1 and self.source.breaks.shape[0] == 1

    def pieces(self, start: int, stop: int) -> PieceArrays:
        """Controls of phases start..stop-1."""
        rows, source = self.rows[start:stop], self.source

        def taken(v: NDArray[Any]) -> NDArray[Any]:
            return v if v.shape[0] == 1 else np.ascontiguousarray(v[rows])

        return PieceArrays(
            taken(source.breaks), taken(source.stops), taken(source.anchors), taken(source.coefficients), source.jumps
        )

    def keeps(self, start: int, stop: int) -> bool:
        """Phases are integrated once or twice, nothing is kept."""
        return False


def phase_batch(parent: Batch, source: PieceArrays, rows: IntArray, points: Points) -> PhaseBatch:
    """The batch that integrates `points` of some trajectories of a chunk."""
    return PhaseBatch(
        points.ts,
        points.counts,
        parent.controls,
        rows.size,
        parent.nu,
        np.dtype(parent.dtype),
        source=source,
        rows=rows,
    )


class ControlRows:
    """Values of the controls of a chunk on given pieces.

    Parameters
    ----------
    pieces
        Controls of the chunk.
    """

    def __init__(self, pieces: PieceArrays) -> None:
        self._pieces = pieces

    def find(self, rows: IntArray, t: Array) -> IntArray:
        """Last piece that starts at or before t, the shape of t (m,) or (m, k)."""
        breaks = self._pieces.breaks
        last = self._pieces.anchors.shape[1] - 1
        if breaks.shape[0] == 1 or rows.size == 0:
            found = np.searchsorted(breaks[0], t, side="right")
        else:
            found = np.stack([np.searchsorted(breaks[b], t[i], side="right") for i, b in enumerate(rows)])
        return np.clip(found - 1, 0, last).astype(np.int64)

    def _on(self, rows: IntArray, q: IntArray, t: Array) -> tuple[Array, Array]:
        """Coefficients (m, nu, d + 1) and local times (m,)."""
        p = self._pieces
        coefficients = p.coefficients[0 if p.coefficients.shape[0] == 1 else rows, q].astype(np.float64)
        anchors = p.anchors[0 if p.anchors.shape[0] == 1 else rows, q]
        return coefficients, t - anchors

    def value(self, rows: IntArray, q: IntArray, t: Array) -> Array:
        """u (m, nu) on pieces q (m,) at times t (m,)."""
        coefficients, s = self._on(rows, q, t)
        powers = s[:, None] ** np.arange(coefficients.shape[2])
        out: Array = np.einsum("mcj,mj->mc", coefficients, powers)
        return out

    def slope(self, rows: IntArray, q: IntArray, t: Array) -> Array:
        """du/dt (m, nu) on pieces q (m,) at times t (m,)."""
        coefficients, s = self._on(rows, q, t)
        j = np.arange(1, coefficients.shape[2])
        powers = j * s[:, None] ** (j - 1)
        out: Array = np.einsum("mcj,mj->mc", coefficients[:, :, 1:], powers)
        return out

    def add_bar(self, bar: NDArray[Any], rows: IntArray, q: IntArray, t: Array, u_bar: Array) -> None:
        """Add the adjoint of `value` to that of the coefficients, (b or 1, Nb, nu, d + 1)."""
        _, s = self._on(rows, q, t)
        change = u_bar[:, :, None] * (s[:, None] ** np.arange(bar.shape[3]))[:, None, :]
        np.add.at(bar, (np.zeros_like(rows) if bar.shape[0] == 1 else rows, q), change)
