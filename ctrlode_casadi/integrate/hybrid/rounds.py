"""The forward part of a simulation with events: rounds of search, phase and jump, for one chunk of trajectories."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.status import Status
from ..batch import Batch
from ..results import Sweep
from .batch import ControlRows
from .events import EventLog
from .grid import PARTS, WINDOW, Points, make_grid
from .locate import Found, Locator, Surfaces
from .parts import Firing, HybridParts, Report, Round
from .phases import Phases

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Events that follow each other without any time between them, before a trajectory is given up.
STUCK = 20
#: Part of the time span below which the time between events counts as ever shorter when steps become too small.
FAST = 1e-8
#: How far a search goes at least, in times since the event before.
AHEAD = 2
#: Part of a phase's length by which its end may move without another simulation: the third power is below rounding.
SERIES = 1e-6
#: Change of a state that counts as rounding.
NEGLIGIBLE = 1e-13
#: Part of the samples' distance below which the second correction of a rough time must be.
CONVERGED = 1e-9
#: Corrections of the time of an event on the phase's own steps.
CORRECTIONS = 5


class Rounds:
    """Simulates trajectories start..stop-1 of a batch."""

    def __init__(self, parts: HybridParts, batch: Batch, start: int, stop: int, p: NDArray[Any]) -> None:
        self._parts, self._parent, self.start, self.stop = parts, batch, start, stop
        self.p = p = np.array(p)  # an array of its own, so that what depends on it need not be computed again
        self.source = batch.pieces(start, stop)
        self.controls, self.phases = ControlRows(self.source), Phases(parts.inner, batch, self.source, p, parts.pace)
        self.grid = make_grid(batch, self.source, start, stop, parts.solver, parts.settings.spacing)
        directions = np.array([event.direction for event in parts.settings.events])
        self._single = self._parent.dtype == np.float32
        self._locator = Locator(
            parts.functions, self.phases, self.controls, self.grid, directions, p, self._single, self.source.jumps
        )
        n, n_events = stop - start, directions.size
        self._t, self._phase_start = self.grid.start.copy(), self.grid.start.copy()
        self._spacing, self._reach = np.full(n, np.inf), np.full(n, np.inf)
        self._before, self._slope = np.zeros((n, n_events)), np.zeros((n, n_events))
        self._on_surface = np.zeros((n, n_events), bool)
        self._count, self._stuck = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._log: list[Firing] = []

    def logs(self) -> list[EventLog]:
        """Events of each trajectory."""
        rows = np.concatenate([f.rows for f in self._log] or [np.zeros(0, np.int64)])
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(self.stop - self.start + 1))
        dtype, nx = self._parent.dtype, self._parts.functions.nx
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
        moves = self.grid.end > self.grid.start
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
        begin = self._t[rows]
        points = self.grid.window(rows, begin, self._spacing[rows], self._reach[rows])
        states, sweep = self.phases.simulate(rows, points, x)
        surfaces = Surfaces(self._on_surface[rows], self._slope[rows], self._before[rows])
        found, last_values = self._locator.find(rows, points, states, sweep.reached, surfaces)
        quiet = np.ones(rows.size, bool)
        if found is not None:
            quiet[found.index] = False
        every = np.arange(rows.size)
        ends, phase_end = np.array(states[every, points.last]), points.ts[every, points.last]
        report.add(rows, sweep, quiet)
        self._save(rows, points, states, sweep.reached, quiet, out, report)
        failed = quiet & ~sweep.success
        self._note(rows[failed], sweep.status[failed], report)
        firings: list[Firing] = []
        if found is not None:
            before, residual, ok = self._finish_phase(rows, x, begin, found, out, report)
            ends[found.index], phase_end[found.index] = before, found.t
            firings = self._fire(rows, found, ends, residual, ok, report)
        self._go_on(rows, quiet & ~failed, phase_end, last_values, report)
        self._log.extend(firings)
        return Round(rows, begin, phase_end, x, firings), ends

    # --- phases and jumps ----------------------------------------------------------------------------------------

    def _finish_phase(
        self, rows: IntArray, x: NDArray[Any], begin: Array, found: Found, out: NDArray[Any], report: Report
    ) -> tuple[NDArray[Any], Array, NDArray[np.bool_]]:
        """Integrate the phases up to their events with their own save times; corrects the times of the events.

        With adaptive steps, the steps of a phase that ends at the event are not those of the search. Newton's
        method on the phase itself makes the condition zero for the numbers that are used. Returns the states before
        the events, the conditions there, and which phases went well.
        """
        which, start = rows[found.index], np.ascontiguousarray(x[found.index])
        begin = begin[found.index]
        before, residual = np.empty_like(start), np.zeros(found.fired.shape)
        ok, todo = np.zeros(which.size, bool), np.arange(which.size)
        for again in range(CORRECTIONS):
            at, last = which[todo], again == CORRECTIONS - 1 or self.grid.fixed
            phase = self.grid.phase(at, begin[todo], found.t[todo])
            states, sweep = self.phases.simulate(at, phase, start[todo])
            end = np.arange(todo.size), phase.last
            g, rate, slope = self._locator.probe(at, found.piece[todo], found.t[todo], states[end])
            done = np.ones(todo.size, bool)
            if not last:
                states[end], g, done = self._correct(found, todo, begin[todo], states[end], g, rate, slope)
            k = todo[done]
            before[k], residual[k], ok[k] = states[end][done], g[done], sweep.success[done]
            report.add(at, sweep, done)
            self._save(at, phase, states, sweep.reached, done, out, report)
            failed = done & ~sweep.success
            self._note(at[failed], sweep.status[failed], report)
            todo = todo[~done]
            if todo.size == 0:
                break
        return before, residual, ok

    def _correct(
        self, found: Found, k: IntArray, begin: Array, x: NDArray[Any], g: Array, rate: Array, slope: Array
    ) -> tuple[NDArray[Any], Array, NDArray[np.bool_]]:
        """Correct the times of events `k`, at which the phases have states x: states, conditions, where all is done.

        Where the correction is so small that the next terms of the states' series are below rounding, the states
        move with it. Elsewhere the phase has to be simulated again.
        """
        t, which, first = found.t[k], found.search.rows[k], found.search.event[k]
        new = self._newton(found, k, begin, g, rate)
        found.t[k] = new
        dt = (new - t)[:, None]
        done = dt[:, 0] == 0.0
        move = np.flatnonzero(~done & (np.abs(dt[:, 0]) <= SERIES * (t - begin)))
        if move.size == 0:
            return x, g, done
        every, dt, piece = np.arange(move.size), dt[move], found.piece[k[move]]
        euler = x[move] + dt * slope[move]
        g_new, rate_new, slope_new = self._locator.probe(which[move], piece, new[move], euler)
        bend = np.abs(dt * (slope_new - slope[move]))
        with np.errstate(all="ignore"):
            rest = np.abs(g_new[every, first[move]] / rate_new[every, first[move]])
        good = (bend <= NEGLIGIBLE * (1.0 + np.abs(euler))).all(axis=1) & (rest <= self._room(which, begin, new)[move])
        keep = move[good]
        x, g = x.copy(), g.copy()
        x[keep] = (euler + 0.5 * dt * (slope_new - slope[move]))[good]
        g[keep], done[keep] = g_new[good], True
        return x, g, done

    def _room(self, rows: IntArray, begin: Array, t: Array) -> Array:
        """Corrections of times that are not worth while."""
        room = 0.5 * self.grid.slack(rows, t)
        return np.maximum(room, 1e-7 * (t - begin)) if self._single else room

    def _newton(self, found: Found, k: IntArray, begin: Array, g: Array, rate: Array) -> Array:
        """Times of events after one step of Newton's method, or Halley's with a known curvature; the same where done.

        A rough time is believed while its corrections shrink as they should. Else it is located by simulation.
        """
        t, which, width = found.t[k], found.search.rows[k], found.search.bracket.high[k] - found.search.bracket.low[k]
        every, first, trust, moves = np.arange(k.size), found.search.event[k], found.trust[k], found.moves[k] > 0
        with np.errstate(all="ignore"):
            step = -g[every, first] / rate[every, first]
            bend = 0.5 * found.curvature[k] * step / rate[every, first]
        near = (np.abs(step) <= np.where(trust > 0.0, trust * width, 1e-3 * (t - begin))) & (np.abs(bend) <= 0.1)
        step = np.where(near, step / (1.0 + np.where(near, bend, 0.0)), 0.0)
        moved = moves & (np.abs(step) > self._room(which, begin, t))
        new = np.where(moved, np.minimum(t + step, self.grid.end[which]), t)
        far = np.flatnonzero((trust > 0.0) & ~near & moves)
        found.trust[k], found.curvature[k] = np.where(near, np.minimum(trust, CONVERGED), 0.0), 0.0
        if far.size:
            new[far] = self._locator.search(found.search.taken(k[far]))
        if not moved.any() and far.size == 0:
            return t
        return np.where(new != t, self.grid.snapped(which, new), t)

    def _note(self, rows: IntArray, status: IntArray, report: Report) -> None:
        """Report trajectories that failed: steps too small between ever faster events are too many events."""
        if rows.size:
            span = self.grid.end[rows] - self.grid.start[rows]
            fast = (self._count[rows] > 1) & (PARTS * self._spacing[rows] <= FAST * span)
            many = fast & (status == Status.STEP_TOO_SMALL)
            report.status[rows] = np.where(many, int(Status.TOO_MANY_EVENTS), status)

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
        if not wanted.any():
            return
        known = np.arange(points.ts.shape[1]) < reached[:, None]
        i, k = np.nonzero(known & (points.saves >= 0) & wanted[:, None])
        b, save = rows[i], points.saves[i, k]
        out[b, save] = states[i, k]
        np.maximum.at(report.reached, b, save + 1)

    def _fire(
        self, rows: IntArray, found: Found, ends: NDArray[Any], residual: Array, ok: NDArray[np.bool_], report: Report
    ) -> list[Firing]:
        """Apply the jumps; decides which trajectories end here."""
        which, events = rows[found.index], self._parts.settings.events
        self._count[which] += found.fired.sum(axis=1)
        short = found.t - self._phase_start[which] <= self.grid.slack(which, found.t)
        self._stuck[which] = np.where(short, self._stuck[which] + 1, 0)
        # A jump that has just happened again, with no time in between: time has no room for what follows.
        jumps = np.array([event.jump is not None for event in events])
        first = found.search.event
        accumulated = short & (found.moves > 0) & self._on_surface[which, first] & jumps[first]
        many = ok & (
            (self._count[which] > self._parts.settings.max_events) | (self._stuck[which] > STUCK) | accumulated
        )
        report.status[which[many]] = int(Status.TOO_MANY_EVENTS)
        ok = ok & ~many
        firings, surface = [], np.zeros(found.fired.shape, bool)
        after = self.controls.find(which, found.t[:, None] + self.grid.slack(which, found.t)[:, None])[:, 0]
        for e in range(len(events)):
            k = np.flatnonzero(found.fired[:, e] & ok)
            if k.size:
                firings.append(self._jump(e, k, which, found, after, ends))
                surface[k, e] = True
        final = ok & (found.fired[:, [event.terminal for event in events]]).any(axis=1)
        final |= ok & (found.t >= self.grid.end[which] - self.grid.slack(which, found.t))
        report.status[which[final]] = int(Status.SUCCESS)
        self._start_phase(which, found, ends[found.index], after, surface, residual)
        return firings

    def _jump(self, e: int, k: IntArray, which: IntArray, found: Found, after: IntArray, ends: NDArray[Any]) -> Firing:
        """Apply event e to the trajectories `k` of the found ones."""
        rows, t, at = which[k], found.t[k], found.index[k]
        u, slope = self.controls.value(rows, found.piece[k], t), self.controls.slope(rows, found.piece[k], t)
        u_after = self.controls.value(rows, after[k], t)
        before = ends[at].astype(np.float64)
        new = self._parts.functions.after(e, t, before, u, u_after, slope, found.moves[k], self.p)
        ends[at] = new
        return Firing(e, rows, t, before, new, found.piece[k], after[k], found.moves[k])

    def _start_phase(
        self, which: IntArray, found: Found, x: NDArray[Any], piece: IntArray, fired: Any, residual: Array
    ) -> None:
        """Begin the phases after events: which conditions are zero there, and how far to look."""
        g, rate, _ = self._locator.probe(which, piece, found.t, x)
        room = self.grid.slack(which, found.t)[:, None]
        near = np.abs(g) <= 10 * np.abs(residual) + 4 * room * np.abs(rate)
        if self._single:
            near |= np.abs(g) <= 1e-5 * np.abs(x).max(axis=1, initial=0.0)[:, None]
        self._on_surface[which], self._slope[which] = fired & near, rate
        self._before[which] = 0.0
        length = found.t - self._phase_start[which]
        smallest, widest = 64 * room[:, 0], self.grid.widest[which]
        self._spacing[which] = np.clip(length / PARTS, smallest, np.maximum(widest, smallest))
        self._reach[which] = np.maximum(WINDOW * self._spacing[which], AHEAD * length)
        self._t[which] = self._phase_start[which] = found.t

    def _look_at_start(self, rows: IntArray, x: NDArray[Any]) -> None:
        """Conditions that are zero at the initial time have the sign of their time derivative."""
        t = self._t[rows]
        g, rate, _ = self._locator.probe(rows, self.controls.find(rows, t[:, None])[:, 0], t, x)
        room = self.grid.slack(rows, t)[:, None]
        self._on_surface[rows], self._slope[rows] = np.abs(g) <= 4 * room * np.abs(rate), rate

    def _go_on(self, rows: IntArray, quiet: NDArray[np.bool_], end: Array, values: Array, report: Report) -> None:
        """Trajectories without an event go on from the end of their window, and look further each time."""
        k = np.flatnonzero(quiet)
        if k.size == 0:
            return
        which, end = rows[k], end[k]
        done = end >= self.grid.end[which] - self.grid.slack(which, end)
        report.status[which[done]] = int(Status.SUCCESS)
        self._t[which], self._on_surface[which] = end, False
        self._before[which] = np.sign(np.nan_to_num(values[k]))
        self._spacing[which] = np.minimum(4 * self._spacing[which], self.grid.widest[which])
        self._reach[which] = np.maximum(4 * self._reach[which], WINDOW * self._spacing[which])
