"""The next event of each trajectory in a window of time: first change of sign on samples, then its time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batch import ControlRows
from .functions import EventFunctions
from .grid import Grid, Points
from .phases import Phases
from .search import Bracket, Crossings, cubic_roots, find_roots, first_crossings

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Part of the samples' distance by which the first correction of a rough time is believed.
ROUGH = 1e-3


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What is known of the conditions at the time from which trajectories go on, (m, E) each.

    Attributes
    ----------
    zero
        Whether a condition is zero there, to rounding: it then has the sign of `slope`.
    slope
        Time derivatives.
    before
        Signs just before; 0 plays no part.
    """

    zero: BoolArray
    slope: Array
    before: Array


@dataclass(eq=False)
class Search:
    """Changes of sign between two samples, (k,) each.

    Attributes
    ----------
    rows
        Trajectories of the chunk.
    event
        Which condition.
    piece
        Piece of the control.
    x
        (k, nx) states at the sample before.
    bracket
        Times of the samples and conditions there.
    """

    rows: IntArray
    event: IntArray
    piece: IntArray
    x: NDArray[Any]
    bracket: Bracket

    def taken(self, keep: IntArray) -> Search:
        """Some of them."""
        parts = {f.name: getattr(self.bracket, f.name)[keep] for f in fields(self.bracket)}
        return Search(self.rows[keep], self.event[keep], self.piece[keep], self.x[keep], Bracket(**parts))


@dataclass(eq=False)
class Found:
    """The next event of some trajectories.

    Attributes
    ----------
    index
        (k,) which trajectories of the window.
    t
        (k,) time.
    moves
        (k,) 1 where the time depends on the state, 0 where it is that of a jump of the control.
    fired
        (k, E) events that happen then.
    trust
        (k,) part of the samples' distance by which a correction of a rough time is believed, the time of a cubic
        through two samples; 0 for a time that was located by simulation.
    curvature
        (k,) second derivative of the condition, where the time is rough; else 0.
    search
        One of the events, and the samples around it.
    """

    index: IntArray
    t: Array
    moves: Array
    fired: BoolArray
    trust: Array
    curvature: Array
    search: Search

    @property
    def piece(self) -> IntArray:
        """Piece of the control just before, (k,)."""
        return self.search.piece


@dataclass(eq=False)
class _Times:
    """Times of crossings, (k,) each; see `Found`."""

    t: Array
    rough: BoolArray
    curvature: Array
    search: Search


class Locator:
    """Looks for events on the samples of simulated windows.

    Parameters
    ----------
    functions
        Conditions.
    phases
        Simulates from a sample to a time after it.
    controls
        Controls of the chunk.
    grid
        Its times.
    directions
        (E,) directions of the events.
    p
        Parameters.
    single
        Whether states have single precision.
    jumps
        Whether controls jump.
    """

    def __init__(
        self,
        functions: EventFunctions,
        phases: Phases,
        controls: ControlRows,
        grid: Grid,
        directions: IntArray,
        p: NDArray[Any],
        single: bool,
        jumps: bool,
    ) -> None:
        self._functions, self._phases, self._controls, self._grid = functions, phases, controls, grid
        self._directions, self._p, self._single, self._jumps = directions, p, single, jumps

    def probe(self, rows: IntArray, piece: IntArray, t: Array, x: NDArray[Any]) -> tuple[Array, Array, Array]:
        """Conditions and their time derivatives (m, E), and the right-hand side (m, nx)."""
        u, slope = self._controls.value(rows, piece, t), self._controls.slope(rows, piece, t)
        return self._functions.probe(t, x, u, slope, self._p)

    def find(
        self, rows: IntArray, points: Points, states: NDArray[Any], reached: IntArray, at: Surfaces
    ) -> tuple[Found | None, Array]:
        """The first events in the windows of some trajectories, and the conditions (m, E) at the windows' ends."""
        values = self._conditions(rows, points, states)
        last = np.maximum(2 * points.last - 1, 0) if self._jumps else points.last
        ends = values[np.arange(rows.size), last]
        values[:, 0] = np.where(at.zero, at.slope, values[:, 0])
        valid = np.minimum(reached, points.counts)
        crossings = first_crossings(values, at.before, valid, self._directions, self._jumps)
        if crossings.row.size == 0:
            return None, ends
        return self._earliest(rows, crossings, self._times(rows, points, states, crossings, values, at)), ends

    def search(self, s: Search) -> Array:
        """Times (k,) of changes of sign, by simulations from the samples before."""
        start, every = s.bracket.start, np.arange(s.rows.size)

        def probe(k: IntArray, t: Array) -> tuple[Array, Array]:
            ts = np.stack([start[k], t], axis=1)
            short = Points(ts, np.full(k.size, 2), np.full(ts.shape, -1))
            found, _ = self._phases.simulate(s.rows[k], short, s.x[k])
            g, rate, _ = self.probe(s.rows[k], s.piece[k], t, found[:, 1])
            return g[every[: k.size], s.event[k]], rate[every[: k.size], s.event[k]]

        return find_roots(s.bracket, probe)

    def _conditions(self, rows: IntArray, points: Points, states: NDArray[Any]) -> Array:
        """Conditions (m, S, E) as `first_crossings` takes them, with the control of the interval beside the point."""
        m, n_points = points.ts.shape
        nx, q = states.shape[2], self._controls.find(rows, 0.5 * (points.ts[:, :-1] + points.ts[:, 1:]))
        if not self._jumps:
            pieces, t = np.concatenate([q, q[:, -1:]], axis=1).ravel(), points.ts.ravel()
            u = self._controls.value(np.repeat(rows, n_points), pieces, t)
            return self._functions.values(t, states.reshape(-1, nx), u, self._p).reshape(m, n_points, -1)
        both = np.empty((m, n_points - 1, 2, self._directions.size))
        for side, columns in enumerate((slice(0, n_points - 1), slice(1, n_points))):
            t = points.ts[:, columns].ravel()
            u = self._controls.value(np.repeat(rows, n_points - 1), q.ravel(), t)
            found = self._functions.values(t, states[:, columns].reshape(-1, nx), u, self._p)
            both[:, :, side] = found.reshape(m, n_points - 1, -1)
        return both.reshape(m, 2 * (n_points - 1), -1)

    def _times(
        self, rows: IntArray, points: Points, states: NDArray[Any], c: Crossings, values: Array, at: Surfaces
    ) -> _Times:
        """Times of the crossings: those of cubics where nothing else happens near, else located by simulation."""
        point = np.maximum(c.interval, 0)
        behind = np.minimum(c.interval + 1, points.ts.shape[1] - 1)
        low, high = points.ts[c.row, point], points.ts[c.row, behind]
        t = np.where(c.interval < 0, low, high)
        middle = np.where(c.interval < 0, low, 0.5 * (low + high))
        which, x = rows[c.row], states[c.row, point]
        pieces = self._controls.find(which, middle[:, None])[:, 0]
        place = 2 * point if self._jumps else point
        left = values[c.row, place, c.event]
        right = values[c.row, np.minimum(place + 1, values.shape[1] - 1), c.event]
        surface = (point == 0) & at.zero[c.row, c.event]
        room = self._grid.slack(which, low)
        if self._single:
            room = np.maximum(room, 1e-7 * (high - low))
        s = Search(which, c.event, pieces, x, Bracket(low, low, high, left, right, surface, room))
        alone = np.bincount(c.row, minlength=rows.size)[c.row] == 1
        made = _Times(t, ~c.fixed & alone & ~surface, np.zeros(t.size), s)
        if self._grid.fixed or self._single:
            made.rough[:] = False
        exact = np.flatnonzero(~c.fixed & ~made.rough)
        if exact.size:
            made.t[exact] = self.search(s.taken(exact))
        k = np.flatnonzero(made.rough)
        if k.size:
            ends = states[c.row[k], behind[k]]
            made.t[k], made.curvature[k] = self._cubics(s if k.size == t.size else s.taken(k), ends)
        return made

    def _cubics(self, s: Search, ends: NDArray[Any]) -> tuple[Array, Array]:
        """Roots of the cubics through the conditions at both samples, and their curvature there."""
        b, k = s.bracket, np.arange(s.rows.size)
        t, x = np.concatenate([b.low, b.high]), np.concatenate([s.x, ends])
        rate = self.probe(np.concatenate([s.rows, s.rows]), np.concatenate([s.piece, s.piece]), t, x)[1]
        left, right = rate[k, s.event], rate[k.size + k, s.event]
        t, curvature = cubic_roots(b.high - b.low, b.at_low, b.at_high, left, right)
        return b.low + t, curvature

    def _earliest(self, rows: IntArray, c: Crossings, made: _Times) -> Found:
        """The earliest of the events of each trajectory, with those that happen at the same time."""
        moves = np.where(c.fixed, 0.0, 1.0)
        if c.row.size == 1 or (np.diff(c.row) > 0).all():
            fired = np.zeros((c.row.size, self._directions.size), bool)
            fired[np.arange(c.row.size), c.event] = True
            t = np.where(c.fixed, made.t, self._grid.snapped(rows[c.row], made.t))
            return Found(c.row, t, moves, fired, np.where(made.rough, ROUGH, 0.0), made.curvature, made.search)
        index, place = np.unique(c.row, return_inverse=True)
        t = np.full(index.size, np.inf)
        np.minimum.at(t, place, made.t)
        tie = 4 * self._grid.slack(rows[index], t)
        together = made.t <= t[place] + tie[place]
        fired = np.zeros((index.size, self._directions.size), bool)
        fired[place[together], c.event[together]] = True
        first = np.full(index.size, made.t.size)
        np.minimum.at(first, place, np.where(made.t == t[place], np.arange(made.t.size), made.t.size))
        moves = moves[first]
        t = np.where(moves > 0, self._grid.snapped(rows[index], t), t)
        trust = np.where(made.rough[first], ROUGH, 0.0)
        return Found(index, t, moves, fired, trust, made.curvature[first], made.search.taken(first))
