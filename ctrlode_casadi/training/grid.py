"""The intervals of a transcription: all trajectories cut at save times and control breaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..integrate.batch import Batch

IntArray = NDArray[np.int64]

#: Relative distance below which two times are one, as in the sweeps.
_SLACK = 1.8e-15


@dataclass(frozen=True, eq=False)
class Grid:
    """Nodes and intervals of B trajectories, one trajectory after another.

    Attributes
    ----------
    times, trajectory
        Time and trajectory of each node, (M,).
    first
        First node of each trajectory, (B,).
    saves
        Node of each save time, (B, T); -1 where a row is padded.
    left, right
        Nodes at both ends of each interval, (N,).
    anchors, coefficients
        The control on each interval: ascending powers of ``t - anchor``, (N,) and (N, nu, d + 1).
    whole
        The undivided interval that each belongs to, (N,).
    """

    times: Float64Array
    trajectory: IntArray
    first: IntArray
    saves: IntArray
    left: IntArray
    right: IntArray
    anchors: Float64Array
    coefficients: Float64Array
    whole: IntArray

    @property
    def size(self) -> int:
        """Number of intervals N."""
        return self.left.size

    @property
    def start(self) -> Float64Array:
        """Time at the left end of each interval, (N,)."""
        return self.times[self.left]

    @property
    def length(self) -> Float64Array:
        """Length of each interval, (N,)."""
        return self.times[self.right] - self.start

    def controls(self, t: Float64Array) -> Float64Array:
        """Controls at times t (N, m) of each interval, by its own polynomial, (N, m, nu)."""
        s = (t - self.anchors[:, None])[..., None]
        u = np.zeros((*t.shape, self.coefficients.shape[1]))
        for j in range(self.coefficients.shape[2] - 1, -1, -1):
            u = u * s + self.coefficients[:, None, :, j]
        return u


@dataclass(frozen=True, eq=False)
class _Row:
    """One trajectory: times of its nodes, which of them are save times, piece and whole of each interval."""

    times: Float64Array
    saves: IntArray
    pieces: IntArray
    whole: IntArray


def make_grid(batch: Batch, parts: int | IntArray) -> Grid:
    """The grid of a batch.

    Parameters
    ----------
    batch
        Save times and controls.
    parts
        Number of equal parts that each interval between neighbouring save times and breaks is cut into: one number,
        or one per undivided interval.
    """
    rows: list[_Row] = []
    anchors: list[Float64Array] = []
    coefficients: list[Float64Array] = []
    done = 0
    shared: _Row | None = None
    for start, stop in batch.chunks():
        p = batch.pieces(start, stop)
        for b in range(start, stop):
            k = b - start
            ts = batch.ts[b if batch.ts.shape[0] > 1 else 0]
            ts = ts[: int(batch.counts[b if batch.counts.size > 1 else 0])]
            row = shared
            if row is None or isinstance(parts, np.ndarray):
                row = _row(ts, p.breaks[k if p.breaks.shape[0] > 1 else 0], parts, done)
            if batch.ts.shape[0] == 1 and p.breaks.shape[0] == 1 and batch.shared_controls:
                shared = row
            shift = done - (int(row.whole[0]) if row.whole.size else 0)
            rows.append(_Row(row.times, row.saves, row.pieces, row.whole + shift))
            done += int(np.unique(row.whole).size)
            anchors.append(p.anchors[k if p.anchors.shape[0] > 1 else 0][row.pieces])
            coefficients.append(p.coefficients[k if p.coefficients.shape[0] > 1 else 0][row.pieces])
    return _joined(rows, anchors, coefficients, batch.n_save, batch.nu)


def _row(ts: Float64Array, breaks: Float64Array, parts: int | IntArray, done: int) -> _Row:
    """One trajectory; `done` undivided intervals precede it."""
    inner = breaks[np.isfinite(breaks) & (breaks > ts[0]) & (breaks < ts[-1])]
    near = np.searchsorted(ts, inner)
    distance = np.minimum(np.abs(ts[near] - inner), np.abs(inner - ts[near - 1]))
    ends = np.sort(np.concatenate([ts, inner[distance > _SLACK * np.abs(inner)]]))
    n = ends.size - 1
    counts = np.full(n, parts) if isinstance(parts, int) else parts[done : done + n]
    whole = np.repeat(np.arange(n), counts)
    within = np.concatenate([np.arange(c) for c in counts]) if n else np.zeros(0)
    times = np.append(ends[whole] + within / counts[whole] * (ends[whole + 1] - ends[whole]), ends[-1])
    # A break that counts as one with a save time may lie a rounding error after it.
    pieces = np.searchsorted(breaks, times[:-1] + _SLACK * np.abs(times[:-1]), side="right") - 1
    pieces = np.clip(pieces, 0, breaks.size - 2)
    return _Row(times, np.searchsorted(times, ts).astype(np.int64), pieces.astype(np.int64), whole + done)


def _joined(
    rows: list[_Row], anchors: list[Float64Array], coefficients: list[Float64Array], n_save: int, nu: int
) -> Grid:
    """All trajectories as one grid."""
    sizes = np.array([row.times.size for row in rows], np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if rows else np.zeros(0, np.int64)
    saves = np.full((len(rows), n_save), -1, np.int64)
    for b, row in enumerate(rows):
        saves[b, : row.saves.size] = first[b] + row.saves
    left = np.concatenate([np.zeros(0, np.int64), *(f + np.arange(n - 1) for f, n in zip(first, sizes))])
    powers = max((c.shape[2] for c in coefficients), default=1)
    padded = [np.pad(c, ((0, 0), (0, 0), (0, powers - c.shape[2]))) for c in coefficients]
    return Grid(
        times=np.concatenate([np.zeros(0), *(row.times for row in rows)]),
        trajectory=np.repeat(np.arange(len(rows)), sizes).astype(np.int64),
        first=first,
        saves=saves,
        left=left,
        right=left + 1,
        anchors=np.concatenate([np.zeros(0), *anchors]),
        coefficients=np.concatenate([np.zeros((0, nu, powers)), *padded]).astype(np.float64),
        whole=np.concatenate([np.zeros(0, np.int64), *(row.whole for row in rows)]),
    )
