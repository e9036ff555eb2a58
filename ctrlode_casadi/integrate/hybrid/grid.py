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
#: Samples after an event, as parts of the time since the event before, unless those of the whole span are closer.
PARTS = 8
#: Least number of samples of one search: a search does not go on to the end where events follow each other quickly.
WINDOW = 64


#: Distance of two times, as a part of them, below which they are one and the same: a few units of rounding.
ROUNDING = 4e-15


def slack(t: Any, span: Any) -> Any:
    """Distance below which two times of a trajectory with this time span are one and the same."""
    return ROUNDING * np.maximum(np.abs(t), 1e-3 * span)


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
class Ladder:
    """Increasing times of every trajectory.

    Attributes
    ----------
    times, saves
        (n or 1, G) times, padded with infinity, and the index of their save time or -1.
    """

    times: Array
    saves: IntArray

    def upto(self, rows: IntArray, t: Array) -> IntArray:
        """Number of times at or before t (m,)."""
        if self.times.shape[0] == 1:
            return np.searchsorted(self.times[0], t, side="right")
        made: IntArray = (self.times[rows] <= t[:, None]).sum(axis=1)
        return made

    def at(self, rows: IntArray, index: IntArray) -> tuple[Array, IntArray]:
        """Times and save times (m, k) at positions (m, k), those outside moved to the nearest one."""
        index = np.minimum(np.maximum(index, 0), self.times.shape[1] - 1)
        if self.times.shape[0] == 1:
            return self.times[0][index], self.saves[0][index]
        return self.times[rows[:, None], index], self.saves[rows[:, None], index]


@dataclass(frozen=True, eq=False)
class Grid:
    """Base points of the trajectories of a chunk.

    Attributes
    ----------
    base
        Base points after the start.
    stops
        Those at which a phase has a time: with fixed steps all, else the save times.
    start, end, widest
        (n,) first and last time, and the largest distance of samples.
    least
        (n,) rounding of times near zero.
    fixed
        Whether the base points are the ends of fixed steps, to which nothing may be added.
    """

    base: Ladder
    stops: Ladder
    start: Array
    end: Array
    widest: Array
    least: Array
    fixed: bool

    def slack(self, rows: IntArray, t: Array) -> Array:
        """Rounding of times t (m,) of some trajectories."""
        made: Array = np.maximum(ROUNDING * np.abs(t), self.least[rows])
        return made

    def window(self, rows: IntArray, begin: Array, spacing: Array, reach: Array) -> Points:
        """Where to look for events after `begin` (m,), up to `reach` later.

        With adaptive steps, samples at a distance of `spacing` are added to the base points where that is less than
        theirs, so that events which follow each other ever faster are told apart. With fixed steps at least `WINDOW`
        base points are searched.
        """
        room = self.slack(rows, begin)
        end = np.minimum(begin + reach, self.end[rows])
        if self.fixed:
            far = np.where(
                np.isfinite(reach), self.base.upto(rows, begin + room) + WINDOW - 1, self.base.times.shape[1]
            )
            least = self.base.at(rows, far[:, None])[0][:, 0]
            end = np.minimum(np.maximum(end, least), self.end[rows])
            last = self.base.upto(rows, end + room) - 1
            return self._between(self.base, rows, begin, self.base.at(rows, last[:, None])[0][:, 0])
        fine = spacing < (1.0 - 1e-9) * self.widest[rows]
        if not fine.any():
            return self._between(self.base, rows, begin, end)
        near = self._between(self.base, rows, begin, end)
        apart = np.where(fine, spacing, np.inf)[:, None]
        own = begin[:, None] + apart * np.arange(1, WINDOW + 1)
        own[own >= end[:, None] - 0.5 * spacing[:, None]] = np.inf
        return _merged(near, own, np.maximum(1e-6 * spacing, room)[:, None])

    def phase(self, rows: IntArray, begin: Array, end: Array) -> Points:
        """Times of a phase from `begin` to `end` (m,): the save times in between, with fixed steps all base points."""
        return self._between(self.stops, rows, begin, end)

    def _between(self, ladder: Ladder, rows: IntArray, begin: Array, end: Array) -> Points:
        """The points `begin`, what lies between, and `end` (m,); `begin` alone where both are the same time."""
        room, start = self.slack(rows, end), begin + self.slack(rows, begin)
        first = ladder.upto(rows, start)
        last = np.maximum(ladder.upto(rows, np.nextafter(end - room, -np.inf)), first)
        moves = end > start
        inner = np.where(moves, last - first, 0)
        place = np.arange(int(inner.max()) + 2)
        found, saves = ladder.at(rows, first[:, None] + place - 1)
        behind = place > inner[:, None]
        final = np.where(moves, end, begin)
        # The time after those between may be the end itself.
        ending = (place == inner[:, None] + 1) & moves[:, None] & (np.abs(found - end[:, None]) <= room[:, None])
        ts = np.where(behind, final[:, None], found)
        saves = np.where(behind & ~ending, -1, saves)
        ts[:, 0], saves[:, 0] = begin, -1
        return Points(ts, inner + 1 + moves, saves)

    def snapped(self, rows: IntArray, t: Array) -> Array:
        """Times t (m,), moved to the base point that is the same time."""
        place = self.base.upto(rows, t)[:, None] + np.array([-1, 0])
        times, _ = self.base.at(rows, place)
        near = np.abs(times - t[:, None])
        best = near.argmin(axis=1)
        every = np.arange(t.size)
        return np.where(near[every, best] <= self.slack(rows, t), times[every, best], t)


def _merged(points: Points, extra: Array, room: Array) -> Points:
    """Points with extra samples (m, k) in between; infinite ones, and those near a point, are left out."""
    width = points.ts.shape[1]
    base = np.where(np.arange(width) < points.counts[:, None], points.ts, np.inf)
    every = np.concatenate([base, extra], axis=1)
    tags = np.concatenate([points.saves, np.full(extra.shape, -2)], axis=1)
    order = np.argsort(every, axis=1, kind="stable")
    at = np.arange(every.shape[0])[:, None]
    every, tags = every[at, order], tags[at, order]
    with np.errstate(invalid="ignore"):
        close = np.diff(every, axis=1) <= room
    beside = np.zeros(every.shape, bool)
    beside[:, 1:] |= close
    beside[:, :-1] |= close
    keep = np.isfinite(every) & ~(beside & (tags == -2))
    counts = keep.sum(axis=1)
    row, column = np.nonzero(keep)
    place = np.cumsum(keep, axis=1)[row, column] - 1
    ts = np.repeat(points.ts[:, -1:], int(counts.max()), axis=1)
    saves = np.full(ts.shape, -1, np.int64)
    ts[row, place], saves[row, place] = every[row, column], np.maximum(tags[row, column], -1)
    return Points(ts, counts, saves)


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
    base = Ladder(times, saves)
    least = slack(0.0, end - begin)
    return Grid(base, base if fixed else _saved(base), begin, end, widest, least, fixed)


def _saved(base: Ladder) -> Ladder:
    """The save times among base points."""
    row, column = np.nonzero(base.saves >= 0)
    place = base.saves[row, column] - 1  # the first save time is the start
    shape = base.times.shape[0], max(int(place.max(initial=0)) + 1, 1)
    times, saves = np.full(shape, np.inf), np.full(shape, -1)
    times[row, place], saves[row, place] = base.times[row, column], place + 1
    return Ladder(times, saves)


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
