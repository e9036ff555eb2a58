"""What the simulation with events and its adjoint share: the engine of the phases, and records of phases and events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..results import Sweep, SweepEngine
from .batch import Pace
from .events import EventSettings
from .functions import EventFunctions

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HybridParts:
    """What a simulation with events is made of.

    Attributes
    ----------
    inner
        Integrates the phases. With fixed steps it takes one step between neighbouring save times.
    solver
        The solver as the user gave it.
    functions
        Conditions and jumps for the system that `inner` integrates.
    settings
        The events.
    pace
        How long calls of `inner` took.
    """

    inner: SweepEngine
    solver: Any
    functions: EventFunctions
    settings: EventSettings
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, eq=False)
class Firing:
    """One event at the end of some trajectories' phases.

    Attributes
    ----------
    event
        Which one.
    rows
        (m,) trajectories of the chunk.
    t, before, after
        (m,), (m, nx), (m, nx) time and states.
    piece, piece_after
        (m,) pieces of the control just before and just after.
    moves
        (m,) 1 where the time depends on the state, 0 where it is that of a jump of the control.
    """

    event: int
    rows: IntArray
    t: Array
    before: Array
    after: Array
    piece: IntArray
    piece_after: IntArray
    moves: Array

    def taken(self, keep: IntArray) -> Firing:
        """The same for some of the trajectories."""
        parts: list[Any] = [self.rows, self.t, self.before, self.after, self.piece, self.piece_after, self.moves]
        return Firing(self.event, *(v[keep] for v in parts))


@dataclass(frozen=True, eq=False)
class Round:
    """Phases that were integrated together, and the events after them.

    Attributes
    ----------
    rows
        (m,) trajectories of the chunk.
    begin, end
        (m,) times between which they were integrated.
    x
        (m, nx) states at their start.
    firings
        Events at their ends, in the order of the simulator's list.
    """

    rows: IntArray
    begin: Array
    end: Array
    x: NDArray[Any]
    firings: list[Firing] = field(default_factory=list)


class Report:
    """The part of a sweep's report that belongs to a chunk."""

    def __init__(self, sweep: Sweep, start: int) -> None:
        part = replace(sweep)
        self.status, self.reached = part.status[start:], part.reached[start:]
        self._counters = [v[start:] for v in (part.n_steps, part.n_rejected, part.n_rhs)]

    def add(self, rows: IntArray, sweep: Sweep, wanted: NDArray[np.bool_]) -> None:
        """Count the steps of phases that count, and the right-hand sides of all."""
        steps, rejected, calls = self._counters
        steps[rows[wanted]] += sweep.n_steps[wanted]
        rejected[rows[wanted]] += sweep.n_rejected[wanted]
        calls[rows] += sweep.n_rhs
