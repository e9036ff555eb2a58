"""The forward part of a simulation with events: rounds of search, phase and jump, for one chunk of trajectories."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.status import Status
from ..batch import Batch
from ..results import Sweep
from .batch import ControlRows, PhaseBatch, phase_batch
from .events import EventLog
from .grid import PARTS, Points, make_grid
from .parts import Firing, HybridParts, Report, Round
from .search import Bracket, Crossings, find_roots, first_crossings

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Events that follow each other without any time between them, before a trajectory is given up.
STUCK = 20
#: Part of the time span below which the time between events counts as ever shorter when steps become too small.
FAST = 1e-8
#: Corrections of the time of an event on the phase's own steps.
CORRECTIONS = 5


@dataclass(eq=False)
class _Found:
    """The next event of some trajectories: index into the round, time, point before, events that happen then."""

    index: IntArray
    t: Array
    point: IntArray
    piece: IntArray
    moves: Array
    fired: NDArray[np.bool_]
    first: IntArray


class Rounds:
    """Simulates trajectories start..stop-1 of a batch."""

    def __init__(self, parts: HybridParts, batch: Batch, start: int, stop: int, p: NDArray[Any]) -> None:
        self._parts, self._parent, self.start, self.stop, self._p = parts, batch, start, stop, p
        self.source = batch.pieces(start, stop)
        self.controls = ControlRows(self.source)
        self._functions, self._inner = parts.functions, parts.inner
        self._directions = np.array([event.direction for event in parts.settings.events])
        self._grid = make_grid(batch, self.source, start, stop, parts.solver, parts.settings.spacing)
        n, n_events = stop - start, self._directions.size
        self._t, self._phase_start = self._grid.start.copy(), self._grid.start.copy()
        self._spacing = np.full(n, np.inf)
        self._before, self._slope = np.zeros((n, n_events)), np.zeros((n, n_events))
        self._on_surface = np.zeros((n, n_events), bool)
        self._count, self._stuck = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._log: list[Firing] = []

    def batch(self, rows: IntArray, points: Points) -> PhaseBatch:
        """The batch that integrates `points`."""
        return phase_batch(self._parent, self.source, rows, points)

    def logs(self) -> list[EventLog]:
        """Events of each trajectory."""
        rows = np.concatenate([f.rows for f in self._log] or [np.zeros(0, np.int64)])
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(self.stop - self.start + 1))
        dtype, nx = self._parent.dtype, self._functions.nx
        t = np.concatenate([f.t for f in self._log] or [np.zeros(0)])[order]
        index = np.concatenate([np.full(f.rows.size, f.event) for f in self._log] or [np.zeros(0, np.int64)])[order]
        before = np.concatenate([f.before for f in self._log] or [np.zeros((0, nx))])[order].astype(dtype)
        after = np.concatenate([f.after for f in self._log] or [np.zeros((0, nx))])[order].astype(dtype)
        parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        return [EventLog(t[s], index[s].astype(np.int64), before[s], after[s]) for s in parts]

    def go(self, x0: NDArray[Any], out: NDArray[Any], sweep: Sweep) -> list[Round]:
        """Integrate; fills `out` (n, T, nx) and the chunk's part of `sweep`."""
        sweep_of = Report(sweep, self.start)
        x, passed = x0.copy(), []
        out[:, 0] = x0
        every = np.arange(self.stop - self.start)
        sweep_of.reached[every] = 1
        self._look_at_start(every, x)
        moves = self._grid.end > self._grid.start
        active = every[moves]
        sweep_of.status[every] = np.where(moves, int(Status.INTERRUPTED), int(Status.SUCCESS))
        while active.size:
            one, ends = self._round(active, x[active], out, sweep_of)
            x[active] = ends
            passed.append(one)
            active = active[sweep_of.status[active] == Status.INTERRUPTED]
        return passed

    # --- one round -----------------------------------------------------------------------------------------------

    def _round(self, rows: IntArray, x: NDArray[Any], out: NDArray[Any], report: Report) -> tuple[Round, NDArray[Any]]:
        """Search, phases and jumps of some trajectories; the states from which they go on."""
        points = self._grid.window(rows, self._t[rows], self._spacing[rows])
        states, sweep = self._inner.simulate(self.batch(rows, points), x, self._p)
        found, right = self._next_events(rows, points, states, sweep.reached)
        quiet = np.ones(rows.size, bool)
        quiet[found.index] = False
        ends = np.array(states[np.arange(rows.size), points.last])
        phase_end = points.ts[np.arange(rows.size), points.last].copy()
        report.add(rows, sweep, quiet)
        self._save(rows, points, states, sweep.reached, quiet, out, report)
        failed = quiet & ~sweep.success
        report.status[rows[failed]] = self._why(rows[failed], sweep.status[failed])
        firings: list[Firing] = []
        if found.index.size:
            before, ok = self._finish_phase(rows, x, points, found, out, report)
            ends[found.index] = before
            phase_end[found.index] = found.t
            firings = self._fire(rows, found, ends, ok, report)
        self._go_on(rows, quiet & ~failed, points, right, report)
        phases = self._grid.phase(rows, points.ts[:, 0], phase_end)
        self._log.extend(firings)
        return Round(rows, phases, x, firings), ends

    def _next_events(
        self, rows: IntArray, points: Points, states: NDArray[Any], reached: IntArray
    ) -> tuple[_Found, Array]:
        """The first events in the windows, and the conditions (m, C - 1, E) at the ends of the intervals."""
        left, right = self._conditions(rows, points, states)
        seen = left.copy()
        if left.shape[1]:
            seen[:, 0] = np.where(self._on_surface[rows], self._slope[rows], left[:, 0])
        crossings = first_crossings(
            seen, right, self._before[rows], np.minimum(reached, points.counts), self._directions
        )
        times, pieces = self._locate(rows, points, states, crossings, right, left)
        return self._earliest(rows, points, crossings, times, pieces), right

    def _conditions(self, rows: IntArray, points: Points, states: NDArray[Any]) -> tuple[Array, Array]:
        """Conditions at the start and at the end of each interval, with the control of that interval."""
        m, n_points = points.ts.shape
        n_events, nx = self._directions.size, states.shape[2]
        if n_points < 2:
            none = np.zeros((m, 0, n_events))
            return none, none
        middle = 0.5 * (points.ts[:, :-1] + points.ts[:, 1:])
        q = self.controls.find(rows, middle)
        which = np.repeat(rows, n_points - 1)

        def at(columns: slice) -> Array:
            t = points.ts[:, columns].ravel()
            u = self.controls.value(which, q.ravel(), t)
            x = states[:, columns].reshape(-1, nx)
            return self._functions.values(t, x, u, self._p).reshape(m, n_points - 1, n_events)

        left = at(slice(0, n_points - 1))
        if self.source.jumps:
            return left, at(slice(1, n_points))
        t = points.ts[:, -1]
        last = self._functions.values(t, states[:, -1], self.controls.value(rows, q[:, -1], t), self._p)
        return left, np.concatenate([left[:, 1:], last[:, None]], axis=1)

    def _locate(
        self, rows: IntArray, points: Points, states: NDArray[Any], c: Crossings, right: Array, left: Array
    ) -> tuple[Array, IntArray]:
        """Times of the crossings (k,), and the pieces of the control just before."""
        point = np.maximum(c.interval, 0)
        low, high = points.ts[c.row, point], points.ts[c.row, np.minimum(c.interval + 1, points.ts.shape[1] - 1)]
        times = np.where(c.interval < 0, low, high)
        middle = np.where(c.interval < 0, low, 0.5 * (low + high))
        pieces = self.controls.find(rows[c.row], middle[:, None])[:, 0]
        inner = np.flatnonzero(~c.fixed)
        if inner.size == 0:
            return times, pieces
        row, event, at = c.row[inner], c.event[inner], point[inner]
        which, x, piece = rows[row], states[row, at], pieces[inner]
        start = low[inner]
        surface = (at == 0) & self._on_surface[which, event]
        begins = np.where(surface, self._slope[which, event], left[row, at, event])
        room = self._grid.slack(which, start)
        if self._parent.dtype == np.float32:
            room = np.maximum(room, 1e-7 * (high[inner] - start))
        bracket = Bracket(start, start, high[inner], begins, right[row, at, event], surface, room)

        def probe(k: IntArray, t: Array) -> tuple[Array, Array]:
            ts = np.stack([start[k], t], axis=1)
            short = Points(ts, np.full(k.size, 2), np.full(ts.shape, -1))
            found, _ = self._inner.simulate(self.batch(which[k], short), np.ascontiguousarray(x[k]), self._p)
            g, rate = self._probe(which[k], piece[k], t, found[:, 1])
            return g[np.arange(k.size), event[k]], rate[np.arange(k.size), event[k]]

        times[inner] = find_roots(bracket, probe)
        return times, pieces

    def _probe(self, rows: IntArray, piece: IntArray, t: Array, x: NDArray[Any]) -> tuple[Array, Array]:
        """Conditions and their time derivatives (m, E)."""
        u, slope = self.controls.value(rows, piece, t), self.controls.slope(rows, piece, t)
        return self._functions.probe(t, x, u, slope, self._p)

    def _earliest(self, rows: IntArray, points: Points, c: Crossings, times: Array, pieces: IntArray) -> _Found:
        """The earliest of the events of each trajectory, with those that happen at the same time."""
        index, place = np.unique(c.row, return_inverse=True)
        t = np.full(index.size, np.inf)
        np.minimum.at(t, place, times)
        tie = 4 * self._grid.slack(rows[index], t)
        together = times <= t[place] + tie[place]
        fired = np.zeros((index.size, self._directions.size), bool)
        fired[place[together], c.event[together]] = True
        first = np.full(index.size, times.size)
        np.minimum.at(first, place, np.where(times == t[place], np.arange(times.size), times.size))
        moves = np.where(c.fixed[first], 0.0, 1.0)
        t = np.where(moves > 0, self._grid.snapped(rows[index], t), t)
        return _Found(index, t, np.maximum(c.interval[first], 0), pieces[first], moves, fired, c.event[first])

    # --- phases and jumps ----------------------------------------------------------------------------------------

    def _finish_phase(
        self, rows: IntArray, x: NDArray[Any], points: Points, found: _Found, out: NDArray[Any], report: Report
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Integrate the phases up to their events with their own save times; corrects the times of the events.

        With adaptive steps, the steps of a phase that ends at the event are not those of the search. Newton's
        method on the phase itself makes the condition zero for the numbers that are used.
        """
        which, begin = rows[found.index], points.ts[found.index, 0]
        start = np.ascontiguousarray(x[found.index])
        everyone = np.arange(which.size)
        for again in range(CORRECTIONS):
            phase = self._grid.phase(which, begin, found.t)
            states, sweep = self._inner.simulate(self.batch(which, phase), start, self._p)
            before = states[everyone, phase.last]
            if again == CORRECTIONS - 1 or self._grid.fixed:
                break
            g, rate = self._probe(which, found.piece, found.t, before)
            with np.errstate(all="ignore"):
                step = -g[everyone, found.first] / rate[everyone, found.first]
            limit = 1e-3 * (found.t - begin)
            moved = (found.moves > 0) & np.isfinite(step) & (np.abs(step) <= limit)
            moved &= np.abs(step) > 0.5 * self._grid.slack(which, found.t)
            new = self._grid.snapped(which, np.minimum(found.t + step, self._grid.end[which]))
            moved &= new != found.t
            if not moved.any():
                break
            found.t = np.where(moved, new, found.t)
        every = np.ones(which.size, bool)
        report.add(which, sweep, every)
        self._save(which, phase, states, sweep.reached, every, out, report)
        ok = sweep.success
        report.status[which[~ok]] = self._why(which[~ok], sweep.status[~ok])
        return before, ok

    def _why(self, rows: IntArray, status: IntArray) -> IntArray:
        """Status of trajectories that failed: steps too small between ever faster events are too many events."""
        span = self._grid.end[rows] - self._grid.start[rows]
        fast = (self._count[rows] > 1) & (PARTS * self._spacing[rows] <= FAST * span)
        return np.where(fast & (status == Status.STEP_TOO_SMALL), int(Status.TOO_MANY_EVENTS), status)

    def _save(
        self,
        rows: IntArray,
        points: Points,
        states: NDArray[Any],
        reached: IntArray,
        wanted: NDArray[np.bool_],
        out: NDArray[Any],
        report: Report,
    ) -> None:
        """Copy the states at save times to the result."""
        known = np.arange(points.ts.shape[1]) < reached[:, None]
        i, k = np.nonzero(known & (points.saves >= 0) & wanted[:, None])
        b, save = rows[i], points.saves[i, k]
        out[b, save] = states[i, k]
        np.maximum.at(report.reached, b, save + 1)

    def _fire(
        self, rows: IntArray, found: _Found, ends: NDArray[Any], ok: NDArray[np.bool_], report: Report
    ) -> list[Firing]:
        """Apply the jumps; decides which trajectories end here."""
        which, events = rows[found.index], self._parts.settings.events
        self._count[which] += found.fired.sum(axis=1)
        short = found.t - self._phase_start[which] <= self._grid.slack(which, found.t)
        self._stuck[which] = np.where(short, self._stuck[which] + 1, 0)
        # A jump that has just happened again, with no time in between: time has no room for what follows.
        jumps = np.array([event.jump is not None for event in events])
        accumulated = short & (found.moves > 0) & self._on_surface[which, found.first] & jumps[found.first]
        many = ok & (
            (self._count[which] > self._parts.settings.max_events) | (self._stuck[which] > STUCK) | accumulated
        )
        report.status[which[many]] = int(Status.TOO_MANY_EVENTS)
        ok = ok & ~many
        firings, surface = [], np.zeros(found.fired.shape, bool)
        residual, _ = self._probe(which, found.piece, found.t, ends[found.index])
        after = self.controls.find(which, found.t[:, None] + self._grid.slack(which, found.t)[:, None])[:, 0]
        for e in range(len(events)):
            k = np.flatnonzero(found.fired[:, e] & ok)
            if k.size:
                firings.append(self._jump(e, k, which, found, after, ends))
                surface[k, e] = True
        final = ok & (found.fired[:, [event.terminal for event in events]]).any(axis=1)
        final |= ok & (found.t >= self._grid.end[which] - self._grid.slack(which, found.t))
        report.status[which[final]] = int(Status.SUCCESS)
        self._start_phase(which, found, ends[found.index], after, surface, residual)
        return firings

    def _jump(self, e: int, k: IntArray, which: IntArray, found: _Found, after: IntArray, ends: NDArray[Any]) -> Firing:
        """Apply event e to the trajectories `k` of the found ones."""
        rows, t, at = which[k], found.t[k], found.index[k]
        u, slope = self.controls.value(rows, found.piece[k], t), self.controls.slope(rows, found.piece[k], t)
        u_after = self.controls.value(rows, after[k], t)
        before = ends[at].astype(np.float64)
        new = self._functions.after(e, t, before, u, u_after, slope, found.moves[k], self._p)
        ends[at] = new
        return Firing(e, rows, t, before, new, found.piece[k], after[k], found.moves[k])

    def _start_phase(
        self, which: IntArray, found: _Found, x: NDArray[Any], piece: IntArray, fired: Any, residual: Array
    ) -> None:
        """Begin the phases after events: which conditions are zero there, and how far to look."""
        g, rate = self._probe(which, piece, found.t, x)
        room = self._grid.slack(which, found.t)[:, None]
        near = np.abs(g) <= 10 * np.abs(residual) + 4 * room * np.abs(rate)
        if self._parent.dtype == np.float32:
            near |= np.abs(g) <= 1e-5 * np.abs(x).max(axis=1, initial=0.0)[:, None]
        self._on_surface[which], self._slope[which] = fired & near, rate
        self._before[which] = 0.0
        length = found.t - self._phase_start[which]
        smallest = 64 * room[:, 0]
        self._spacing[which] = np.clip(length / PARTS, smallest, np.maximum(self._grid.widest[which], smallest))
        self._t[which] = self._phase_start[which] = found.t

    def _look_at_start(self, rows: IntArray, x: NDArray[Any]) -> None:
        """Conditions that are zero at the initial time have the sign of their time derivative."""
        t = self._t[rows]
        g, rate = self._probe(rows, self.controls.find(rows, t[:, None])[:, 0], t, x)
        room = self._grid.slack(rows, t)[:, None]
        self._on_surface[rows], self._slope[rows] = np.abs(g) <= 4 * room * np.abs(rate), rate

    def _go_on(self, rows: IntArray, quiet: NDArray[np.bool_], points: Points, right: Array, report: Report) -> None:
        """Trajectories without an event go on from the end of their window, and look further each time."""
        k = np.flatnonzero(quiet)
        which, last = rows[k], points.last[k]
        end = points.ts[k, last]
        done = end >= self._grid.end[which] - self._grid.slack(which, end)
        report.status[which[done]] = int(Status.SUCCESS)
        self._t[which], self._on_surface[which] = end, False
        self._before[which] = np.sign(np.nan_to_num(right[k, np.maximum(last - 1, 0)]))
        self._spacing[which] = np.minimum(4 * self._spacing[which], self._grid.widest[which])
