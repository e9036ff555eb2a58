"""Phases of some trajectories of a batch as batches of their own, with the controls of the whole one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch, PieceArrays
from .grid import Points

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(eq=False)
class Pace:
    """How long the last call of an engine took.

    Attributes
    ----------
    seconds
        Its time, divided by the number of its trajectories; 0 before the first.
    """

    seconds: float = 0.0

    @contextmanager
    def measured(self, size: int) -> Iterator[None]:
        """Measure a call of `size` trajectories."""
        began = time.perf_counter()
        yield
        self.seconds = (time.perf_counter() - began) / size


@dataclass(frozen=True, eq=False)
class PhaseBatch(Batch):
    """Phases of trajectories; the pieces of the controls are those of the whole time span.

    Attributes
    ----------
    source
        Controls of the chunk that the trajectories belong to.
    own
        Controls of the phases: `source` where all share one, else its rows.
    again
        Whether the arrays are filled again for other phases, so that what an engine has prepared for them serves those.
    pace
        How long earlier calls took.
    """

    source: PieceArrays = field(default=None, repr=False)  # type: ignore[assignment]
    own: PieceArrays = field(default=None, repr=False)  # type: ignore[assignment]
    again: bool = False
    pace: Pace = field(default_factory=lambda: Pace(), repr=False)

    @property
    def shared_controls(self) -> bool:
        """Whether one control serves all trajectories of the chunk."""
        return self.source.coefficients.shape[0] == 1 and self.source.breaks.shape[0] == 1

    @property
    def steady(self) -> bool:
        """Times change when the arrays are filled again."""
        return not self.again

    @property
    def expected_seconds(self) -> float | None:
        """How long a call is expected to take, from earlier ones."""
        return self.pace.seconds * self.size if self.pace.seconds else None

    def pieces(self, start: int, stop: int) -> PieceArrays:
        """Controls of phases start..stop-1."""
        own = self.own

        def of(v: NDArray[Any]) -> NDArray[Any]:
            return v if v.shape[0] == 1 else v[start:stop]

        return PieceArrays(of(own.breaks), of(own.stops), of(own.anchors), of(own.coefficients), own.jumps)

    def keeps(self, start: int, stop: int) -> bool:
        """Whether controls stay where they are."""
        return self.again

    def fill(self, rows: IntArray, points: Points) -> None:
        """Enter phases: trajectories of the chunk, and their times. Phases that are left over have one time."""
        m, n = points.ts.shape
        self.ts[:m, :n], self.ts[:m, n:] = points.ts, points.ts[:, -1:]
        self.ts[m:], self.counts[:m], self.counts[m:] = points.ts[0, 0], points.counts, 1
        for name in ("breaks", "stops", "anchors", "coefficients"):
            source, own = getattr(self.source, name), getattr(self.own, name)
            if own is not source:
                own[:m], own[m:] = source[rows], source[rows[0]]


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
        if last == 0:
            return np.zeros(t.shape, np.int64)
        if breaks.shape[0] == 1 or rows.size == 0:
            found = np.searchsorted(breaks[0], t, side="right")
        elif t.size == rows.size:
            found = (breaks[rows] <= t.reshape(-1, 1)).sum(axis=1).reshape(t.shape)
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
        if self._pieces.coefficients.shape[2] == 0:
            return np.zeros((t.size, 0))
        coefficients, s = self._on(rows, q, t)
        powers = s[:, None] ** np.arange(coefficients.shape[2])
        out: Array = np.einsum("mcj,mj->mc", coefficients, powers)
        return out

    def slope(self, rows: IntArray, q: IntArray, t: Array) -> Array:
        """du/dt (m, nu) on pieces q (m,) at times t (m,)."""
        if self._pieces.coefficients.shape[2] == 0:
            return np.zeros((t.size, 0))
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
