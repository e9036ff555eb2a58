"""The engine of `Auto`: the explicit engine with a stiffness test, and a stiff one for the trajectories it gives up.

The explicit sweep stops a trajectory as soon as it is found stiff; such a trajectory counts as failed there, so it has
no share in any sum. Then the stiff engine integrates and differentiates these trajectories from their start, and the
results are put together in the order of the batch. One that reached the step limit is tried with the stiff method,
too; if that does not arrive either, the explicit result stands. Other failures (infinite states, steps below the
spacing of times) are those of the solution, not of the method, and stand as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.errors import UnsupportedOperation
from ...base.status import Status
from ..batch import Batch, ControlBars
from ..engine import Engine
from ..results import CallWork, Gradient, Sweep
from .batch import SelectedBatch, selected

IntArray = NDArray[np.int64]


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
class _Part:
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


class AutoEngine(Engine):
    """The explicit engine of a system, with a stiff one behind it.

    Parameters
    ----------
    args, options
        As for `Engine`, with the explicit solver.
    stiff
        Makes the engine of the same system with the stiff solver, when first needed.
    """

    def __init__(self, *args: Any, stiff: Callable[[], Engine], **options: Any) -> None:
        super().__init__(*args, **options, stop_when_stiff=True)
        self._make_stiff, self._made = stiff, threading.Lock()
        #: The engine of stiff trajectories, None as long as none was met.
        self.stiff: Engine | None = None
        #: What the last call found, None before the first.
        self.found: Found | None = None

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """As in `Engine`."""
        x, sweep = super().simulate(batch, x0, p)
        merged = self._begin(sweep)
        for part, engine in self._parts(batch, sweep):
            states, report = engine.simulate(part.batch, part.of(x0), p)
            _take(merged, part, report, [(x, states)])
        return x, self._end(merged)

    def losses(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], Sweep]:
        """As in `Engine`."""
        loss, sweep = super().losses(batch, x0, p, d, w)
        merged = self._begin(sweep)
        for part, engine in self._parts(batch, sweep):
            found, report = engine.losses(part.batch, part.of(x0), p, part.shared(d), part.shared(w))
            _take(merged, part, report, [(loss, found)])
        return loss, self._end(merged)

    def slopes(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Sweep]:
        """As in `Engine`."""
        loss, sums, sweep = super().slopes(batch, x0, p, d, w)
        merged = self._begin(sweep)
        for part, engine in self._parts(batch, sweep):
            found, slopes, report = engine.slopes(part.batch, part.of(x0), p, part.shared(d), part.shared(w))
            _take(merged, part, report, [(loss, found), (sums, slopes)])
        return loss, sums, self._end(merged)

    def vjp(
        self,
        batch: Batch,
        x0: NDArray[Any],
        p: NDArray[Any],
        seeds: NDArray[Any],
        *,
        want_u: bool = False,
        checkpoints: int | None = None,
        x: NDArray[Any] | None = None,
    ) -> Gradient:
        """As in `Engine`: the adjoint of the method that each trajectory used."""
        made = super().vjp(batch, x0, p, seeds, want_u=want_u, checkpoints=checkpoints, x=x)
        merged = self._begin(made.sweep)
        for part, engine in self._parts(batch, made.sweep):
            states = None if x is None else part.of(x)
            found = engine.vjp(
                part.batch, part.of(x0), p, part.of(seeds), want_u=want_u, checkpoints=checkpoints, x=states
            )
            _take(merged, part, found.sweep, [] if x is None or states is None else [(x, states)])
            self._add(made, part, found, engine.work)
        return replace(made, sweep=self._end(merged))

    def gradient(
        self,
        batch: Batch,
        x0: NDArray[Any],
        p: NDArray[Any],
        d: NDArray[Any],
        w: NDArray[Any],
        scale: NDArray[np.float64],
        *,
        want_u: bool = False,
        checkpoints: int | None = None,
    ) -> Gradient:
        """As in `Engine`: the adjoint of the method that each trajectory used."""
        made = super().gradient(batch, x0, p, d, w, scale, want_u=want_u, checkpoints=checkpoints)
        merged = self._begin(made.sweep)
        for part, engine in self._parts(batch, made.sweep):
            arguments = part.of(x0), p, part.shared(d), part.shared(w), part.of(scale)
            found = engine.gradient(part.batch, *arguments, want_u=want_u, checkpoints=checkpoints)
            _take(merged, part, found.sweep, [(made.loss, found.loss)])
            self._add(made, part, found, engine.work)
        return replace(made, sweep=self._end(merged))

    # --- parts ---------------------------------------------------------------------------------------------------

    def _stiff_engine(self) -> Engine:
        with self._made:
            if self.stiff is None:
                try:
                    self.stiff = self._make_stiff()
                except UnsupportedOperation as exc:
                    raise UnsupportedOperation(
                        f"solver: a trajectory is stiff, and the stiff method of Auto has no compiled form for this "
                        f"model; use CVODES(): {exc}"
                    ) from exc
            return self.stiff

    def _parts(self, batch: Batch, sweep: Sweep) -> Iterator[tuple[_Part, Engine]]:
        """Chunk by chunk, the trajectories that the explicit method gave up."""
        given_up = (sweep.status == Status.STIFF) | (sweep.status == Status.MAX_STEPS)
        for chunk, (start, stop) in enumerate(batch.chunks() if given_up.any() else []):
            rows = np.flatnonzero(given_up[start:stop])
            if rows.size:
                yield _Part(chunk, selected(batch, start, stop, rows), start + rows), self._stiff_engine()

    def _begin(self, sweep: Sweep) -> AutoSweep:
        """A report of the explicit sweep, to be changed where the stiff method takes over."""
        copies = {name: v.copy() for name, v in vars(sweep).items()}
        return AutoSweep(**copies, stiff=np.zeros(sweep.status.size, np.bool_))

    def _end(self, sweep: AutoSweep) -> AutoSweep:
        self.found = Found(int(sweep.stiff.sum()), sweep.stiff.size, time.perf_counter())
        return sweep

    def _add(self, made: Gradient, part: _Part, found: Gradient, work: CallWork | None) -> None:
        """Add the adjoints of a part; failed trajectories have none."""
        made.p_bar[:] += found.p_bar
        made.x0_bar[part.rows] += found.x0_bar
        part.add_bars(made.control_bars, found.control_bars)
        if self.work is not None and work is not None:
            self.work = _joined(self.work, work)


def _take(sweep: AutoSweep, part: _Part, report: Sweep, results: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Use what the stiff method found, except where it did not get on where the explicit one used up its steps."""
    used = (sweep.status[part.rows] == Status.STIFF) | report.success
    rows = part.rows[used]
    for whole, found in results:
        whole[rows] = found[used]
    sweep.n_rhs[part.rows] += report.n_rhs
    sweep.stiff[rows] = True
    sweep.status[rows], sweep.reached[rows] = report.status[used], report.reached[used]
    sweep.n_steps[rows], sweep.n_rejected[rows] = report.n_steps[used], report.n_rejected[used]


def _joined(one: CallWork, two: CallWork) -> CallWork:
    """Work of two calls after each other."""
    return CallWork(max(one.threads, two.threads), one.chunks + two.chunks)


def stiffness_found(engines: Iterable[Any]) -> list[str]:
    """One line on what the last call found, none before and for other engines."""
    found = [e.found for e in engines if isinstance(e, AutoEngine) and e.found is not None]
    return [str(max(found, key=lambda one: one.when))] if found else []
