"""From the explicit to the stiff method: which trajectories of a call go over, and how results are put together.

A trajectory that the explicit engine gives up counts as failed there, so it has no share in any sum. The stiff engine
integrates and differentiates these trajectories from their start, and the results are put together in the order of the
batch. One that reached the step limit is tried with the stiff method, too; if that does not arrive either, the explicit
result stands. Other failures (infinite states, steps below the spacing of times) are those of the solution, not of the
method, and stand as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...base.errors import UnsupportedOperation
from ...base.status import Status
from ..batch import Batch, ControlBars
from ..results import Gradient, Sweep
from .batch import SelectedBatch, selected

IntArray = NDArray[np.int64]
AnyEngine = TypeVar("AnyEngine")


@dataclass(frozen=True, eq=False)
class AutoSweep(Sweep):
    """A report that says which trajectories the stiff method integrated.

    Attributes
    ----------
    stiff
        (B,).
    """

    stiff: NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """How many of the trajectories of a call were stiff, and when it ended (seconds of `time.perf_counter`)."""

    stiff: int
    size: int
    when: float

    def __str__(self) -> str:
        return f"{self.stiff} of {self.size} trajectories were stiff in the last call"


@dataclass(frozen=True, eq=False)
class Part:
    """Trajectories of a chunk for the stiff method: the chunk's number, their batch, their numbers in the whole one."""

    chunk: int
    batch: SelectedBatch
    rows: IntArray

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Their rows of an array with the batch first."""
        return np.ascontiguousarray(array[self.rows])

    def shared(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same for an array that all trajectories may share."""
        return array if array.shape[0] == 1 else self.of(array)

    def add_bars(self, bars: list[ControlBars] | None, found: list[ControlBars] | None) -> None:
        """Add the adjoint of the controls to that of the chunk."""
        if bars is None or found is None:
            return
        own, part = bars[self.chunk], found[0]
        each = slice(None) if self.batch.shared_controls else self.batch.rows
        own.coefficients[each] += part.coefficients
        if own.saves is not None and part.saves is not None:
            own.saves[self.batch.rows] += part.saves


class Handover(Generic[AnyEngine]):
    """The engine of stiff trajectories, and what the last call found.

    Parameters
    ----------
    make
        Makes the engine, when first needed.

    Attributes
    ----------
    stiff
        The engine, None as long as no trajectory was stiff.
    found
        What the last call found, None before the first.
    """

    def __init__(self, make: Callable[[], AnyEngine]) -> None:
        self._make, self._lock = make, threading.Lock()
        self.stiff: AnyEngine | None = None
        self.found: Found | None = None

    def engine(self) -> AnyEngine:
        """The engine of stiff trajectories."""
        with self._lock:
            if self.stiff is None:
                try:
                    self.stiff = self._make()
                except UnsupportedOperation as exc:
                    raise UnsupportedOperation(
                        f"solver: a trajectory is stiff, and the stiff method of Auto has no compiled form for this "
                        f"model; use CVODES(): {exc}"
                    ) from exc
            return self.stiff

    def parts(self, batch: Batch, sweep: Sweep) -> Iterator[tuple[Part, AnyEngine]]:
        """Chunk by chunk, the trajectories that the explicit method gave up."""
        given_up = (sweep.status == Status.STIFF) | (sweep.status == Status.MAX_STEPS)
        for chunk, (start, stop) in enumerate(batch.chunks() if given_up.any() else []):
            rows = np.flatnonzero(given_up[start:stop])
            if rows.size:
                yield Part(chunk, selected(batch, start, stop, rows), start + rows), self.engine()

    def begin(self, sweep: Sweep) -> AutoSweep:
        """A report of the explicit sweep, to be changed where the stiff method takes over."""
        copies = {name: v.copy() for name, v in vars(sweep).items()}
        return AutoSweep(**copies, stiff=np.zeros(sweep.status.size, np.bool_))

    def end(self, sweep: AutoSweep) -> AutoSweep:
        """Note what was found."""
        self.found = Found(int(sweep.stiff.sum()), sweep.stiff.size, time.perf_counter())
        return sweep


def take(
    sweep: AutoSweep, part: Part, report: Sweep, results: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> NDArray[np.bool_]:
    """Use what the stiff method found, except where it did not get on where the explicit one used up its steps.

    Returns which of the part's trajectories are the stiff method's now.
    """
    used = (sweep.status[part.rows] == Status.STIFF) | report.success
    rows = part.rows[used]
    for whole, found in results:
        whole[rows] = found[used]
    sweep.n_rhs[part.rows] += report.n_rhs
    sweep.stiff[rows] = True
    sweep.status[rows], sweep.reached[rows] = report.status[used], report.reached[used]
    sweep.n_steps[rows], sweep.n_rejected[rows] = report.n_steps[used], report.n_rejected[used]
    return used


def add_gradient(made: Gradient, part: Part, found: Gradient) -> None:
    """Add the adjoints of a part; failed trajectories have none."""
    made.p_bar[:] += found.p_bar
    made.x0_bar[part.rows] += found.x0_bar
    part.add_bars(made.control_bars, found.control_bars)


def last_found(handovers: Iterable[Handover[Any]]) -> list[str]:
    """One line on what the last call found, none before the first."""
    found = [one.found for one in handovers if one.found is not None]
    return [str(max(found, key=lambda one: one.when))] if found else []
