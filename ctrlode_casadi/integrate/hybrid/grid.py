"""The points at which conditions of events are evaluated, and the save times of the phases between events.

Rows are trajectories, padded with infinity. Every row has its base points: save times, breaks of the control, and
equal parts between them. With fixed steps these are the ends of the steps, so that a simulation without events takes
the same steps as one without conditions; adaptive steps do not depend on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch, PieceArrays

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Samples of the whole time span of a trajectory, unless a spacing is given.
SAMPLES = 256
#: Samples after an event, as parts of the time since the event before: see `Grid.window`.
PARTS = 8
#: Samples of one search: a search does not go on to the end where events follow each other quickly.
WINDOW = 64


def slack(t: Any, span: Any) -> Any:
    """Distance below which two times are one and the same: a few units of rounding."""
    return 4e-15 * np.maximum(np.abs(t), 1e-3 * span)


@dataclass(frozen=True, eq=False)
class Points:
    """Times of some trajectories.

    Attributes
    ----------
    ts
        (m, C), strictly increasing; the last time is repeated in the padding.
    counts
        (m,) number of times.
    saves
        (m, C) index of the save time at this point, -1 for none; the first point is never one.
    """

    ts: Array
    counts: IntArray
    saves: IntArray

    @property
    def last(self) -> IntArray:
        """Index of the last time of each row."""
        return self.counts - 1


@dataclass(frozen=True, eq=False)
class Grid:
    """Base points of the trajectories of a chunk.

    Attributes
    ----------
    times, saves
        (n or 1, G) base points after the start, padded with infinity, and the index of their save time or -1.
    start, end, widest
        (n,) first and last time, and the largest distance of samples.
    fixed
        Whether the base points are the ends of fixed steps, to which nothing may be added.
    """

    times: Array
    saves: IntArray
    start: Array
    end: Array
    widest: Array
    fixed: bool

    def rows(self, rows: IntArray) -> tuple[Array, IntArray]:
        """Base points of some trajectories."""
        if self.times.shape[0] == 1:
            shape = (rows.size, self.times.shape[1])
            return np.broadcast_to(self.times, shape), np.broadcast_to(self.saves, shape)
        return self.times[rows], self.saves[rows]

    def slack(self, rows: IntArray, t: Array) -> Array:
        """Rounding of times t (m,) of some trajectories."""
        made: Array = slack(t, self.end[rows] - self.start[rows])
        return made

    def window(self, rows: IntArray, begin: Array, spacing: Array) -> Points:
        """Where to look for events after `begin` (m,).

        A spacing of infinity looks up to the end at the base points. Else, at most `WINDOW` distances of it are
        searched, and with adaptive steps samples at that distance are added, so that events which follow each other
        ever faster are told apart.
        """
        times, saves = self.rows(rows)
        room = self.slack(rows, begin)[:, None]
        later = times > begin[:, None] + room
        end = np.minimum(begin + WINDOW * spacing, self.end[rows])
        if self.fixed:
            some = np.isfinite(spacing)
            order = np.cumsum(later, axis=1)
            keep = later & np.isfinite(times) & (~some[:, None] | (order <= WINDOW))
            return _merged(begin, np.where(keep, times, np.inf), saves, np.zeros((rows.size, 0)), room)
        keep = later & (times <= end[:, None] + room)
        own = begin[:, None] + np.where(np.isfinite(spacing), spacing, 0.0)[:, None] * np.arange(1, WINDOW + 1)
        apart = np.minimum(spacing, self.widest[rows])[:, None]
        fine = np.isfinite(spacing)[:, None] & (own < end[:, None] - 0.5 * apart)
        extra = np.concatenate([np.where(fine, own, np.inf), end[:, None]], axis=1)
        return _merged(begin, np.where(keep, times, np.inf), saves, extra, np.maximum(1e-6 * apart, room))

    def phase(self, rows: IntArray, begin: Array, end: Array) -> Points:
        """Times of a phase from `begin` to `end` (m,): the save times in between, with fixed steps all base points."""
        times, saves = self.rows(rows)
        room = self.slack(rows, end)[:, None]
        inner = (times > begin[:, None] + self.slack(rows, begin)[:, None]) & (times < end[:, None] - room)
        inner &= np.isfinite(times) if self.fixed else saves >= 0
        moves = end > begin + self.slack(rows, begin)
        made = _merged(begin, np.where(inner, times, np.inf), saves, np.where(moves, end, np.inf)[:, None], 0.0 * room)
        at_end = (np.abs(times - end[:, None]) <= room) & (saves >= 0) & moves[:, None]
        index = np.where(at_end.any(axis=1), np.take_along_axis(saves, at_end.argmax(axis=1)[:, None], 1)[:, 0], -1)
        made.saves[np.arange(rows.size), made.last] = index
        return made

    def snapped(self, rows: IntArray, t: Array) -> Array:
        """Times t (m,), moved to the base point that is the same time."""
        times, _ = self.rows(rows)
        near = np.abs(times - t[:, None])
        best = near.argmin(axis=1)[:, None]
        close = np.take_along_axis(near, best, 1)[:, 0] <= self.slack(rows, t)
        return np.where(close, np.take_along_axis(times, best, 1)[:, 0], t)


def _merged(begin: Array, times: Array, saves: IntArray, extra: Array, room: Array) -> Points:
    """Sorted rows of begin, base points and extra samples; infinite ones, and extra ones near others, are left out."""
    every = np.concatenate([begin[:, None], times, extra], axis=1)
    first, none = np.full((begin.size, 1), -1), np.full(extra.shape, -2)
    tags = np.concatenate([first, saves, none], axis=1)
    used = np.isfinite(every).any(axis=0)
    every, tags = every[:, used], tags[:, used]
    order = np.argsort(every, axis=1, kind="stable")
    every, tags = np.take_along_axis(every, order, 1), np.take_along_axis(tags, order, 1)
    with np.errstate(invalid="ignore"):
        close = np.diff(every, axis=1) <= room
    beside = np.zeros(every.shape, bool)
    beside[:, 1:] |= close
    beside[:, :-1] |= close
    every[beside & (tags == -2)] = np.inf
    order = np.argsort(every, axis=1, kind="stable")
    every, tags = np.take_along_axis(every, order, 1), np.maximum(np.take_along_axis(tags, order, 1), -1)
    counts = np.isfinite(every).sum(axis=1)
    width = max(int(counts.max(initial=1)), 1)
    every, tags = every[:, :width], tags[:, :width]
    padding = np.arange(width) >= counts[:, None]
    last = np.take_along_axis(every, counts[:, None] - 1, 1)
    every = np.ascontiguousarray(np.where(padding, last, every))
    return Points(every, counts.astype(np.int64), np.ascontiguousarray(np.where(padding, -1, tags)))


def make_grid(batch: Batch, pieces: PieceArrays, start: int, stop: int, solver: Any, spacing: float | None) -> Grid:
    """Base points of trajectories start..stop-1 of a batch."""
    fixed, own_times = not solver.adaptive, batch.ts.shape[0] > 1
    several = own_times or pieces.breaks.shape[0] > 1
    rows, n = [], stop - start
    begin, end = np.zeros(n), np.zeros(n)
    for i in range(n if several else 1):
        b = start + i if own_times else 0
        ts = batch.ts[b, : batch.counts[b]]
        breaks = pieces.breaks[i if pieces.breaks.shape[0] > 1 else 0][1:-1]
        begin[i], end[i] = ts[0], ts[-1]
        rows.append(_base(ts, breaks, solver if fixed else None, spacing))
    if not several:
        begin[:], end[:] = begin[0], end[0]
    width = max(t.size for t, _ in rows)
    times = np.stack([np.append(t, np.full(width - t.size, np.inf)) for t, _ in rows])
    saves = np.stack([np.append(k, np.full(width - k.size, -1)) for _, k in rows]).astype(np.int64)
    widest = np.minimum((end - begin) / SAMPLES, np.inf if spacing is None else spacing)
    return Grid(times, saves, begin, end, widest, fixed)


def _base(ts: Array, breaks: Array, solver: Any, spacing: float | None) -> tuple[Array, IntArray]:
    """Base points after ts[0] of one trajectory, and the index of their save time or -1."""
    span = float(ts[-1] - ts[0])
    inner = breaks[np.isfinite(breaks) & (breaks > ts[0]) & (breaks < ts[-1])]
    near = np.abs(inner[:, None] - ts[None, :]).min(axis=1, initial=np.inf) if inner.size else inner
    inner = inner[near > slack(inner, span)]
    points = np.concatenate([ts, inner])
    tags = np.concatenate([np.arange(ts.size), np.full(inner.size, -1)])
    order = np.argsort(points, kind="stable")
    points, tags = points[order], tags[order]
    lengths = np.diff(points)
    counts = np.ones(lengths.size, np.int64)
    if solver is not None:
        counts = np.array([_steps(solver, v) for v in lengths], np.int64)
        spacing = np.inf if spacing is None else spacing
    else:
        spacing = span / SAMPLES if spacing is None else spacing
    counts = np.maximum(counts, np.ceil(lengths / spacing * (1.0 - 1e-12)).astype(np.int64)) if span > 0 else counts
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    parts = np.repeat(lengths / np.maximum(counts, 1), counts)
    times: Array = np.repeat(points[:-1], counts) + (within + 1) * parts
    saves = np.full(times.size, -1, np.int64)
    ends = np.cumsum(counts) - 1
    times[ends], saves[ends] = points[1:], tags[1:]
    return times, saves


def _steps(solver: Any, length: float) -> int:
    """Fixed steps over a length of time."""
    if solver.dt is None:
        return int(solver.steps_per_interval or 1)
    return max(1, math.ceil(length / solver.dt * (1.0 - 1e-12)))
