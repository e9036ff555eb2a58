"""The engine of `Auto`: the explicit engine with a stiffness test, and a stiff one for the trajectories it gives up.

The explicit sweep stops a trajectory as soon as it is found stiff; `handover` says what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..engine import Engine
from ..results import CallWork, Gradient, Sweep
from .handover import Handover, Part, add_gradient, last_found, take


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
        self._arguments, self._options = args, options
        #: The engine of stiff trajectories, and what the last call found.
        self.handover = Handover(stiff)

    @cached_property
    def explicit(self) -> Engine:
        """The explicit engine alone, which gives stiff trajectories up."""
        return Engine(*self._arguments, **self._options, stop_when_stiff=True)

    @property
    def stiff(self) -> Engine | None:
        """The engine of stiff trajectories, None as long as none was met."""
        return self.handover.stiff

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """As in `Engine`."""
        x, sweep = super().simulate(batch, x0, p)
        merged = self.handover.begin(sweep)
        for part, engine in self.handover.parts(batch, sweep):
            states, report = engine.simulate(part.batch, part.of(x0), p)
            take(merged, part, report, [(x, states)])
        return x, self.handover.end(merged)

    def losses(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], Sweep]:
        """As in `Engine`."""
        loss, sweep = super().losses(batch, x0, p, d, w)
        merged = self.handover.begin(sweep)
        for part, engine in self.handover.parts(batch, sweep):
            found, report = engine.losses(part.batch, part.of(x0), p, part.shared(d), part.shared(w))
            take(merged, part, report, [(loss, found)])
        return loss, self.handover.end(merged)

    def slopes(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Sweep]:
        """As in `Engine`."""
        loss, sums, sweep = super().slopes(batch, x0, p, d, w)
        merged = self.handover.begin(sweep)
        for part, engine in self.handover.parts(batch, sweep):
            found, slopes, report = engine.slopes(part.batch, part.of(x0), p, part.shared(d), part.shared(w))
            take(merged, part, report, [(loss, found), (sums, slopes)])
        return loss, sums, self.handover.end(merged)

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
        merged = self.handover.begin(made.sweep)
        for part, engine in self.handover.parts(batch, made.sweep):
            states = None if x is None else part.of(x)
            found = engine.vjp(
                part.batch, part.of(x0), p, part.of(seeds), want_u=want_u, checkpoints=checkpoints, x=states
            )
            take(merged, part, found.sweep, [] if x is None or states is None else [(x, states)])
            self._add(made, part, found, engine.work)
        return replace(made, sweep=self.handover.end(merged))

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
        merged = self.handover.begin(made.sweep)
        for part, engine in self.handover.parts(batch, made.sweep):
            arguments = part.of(x0), p, part.shared(d), part.shared(w), part.of(scale)
            found = engine.gradient(part.batch, *arguments, want_u=want_u, checkpoints=checkpoints)
            take(merged, part, found.sweep, [(made.loss, found.loss)])
            self._add(made, part, found, engine.work)
        return replace(made, sweep=self.handover.end(merged))

    def _add(self, made: Gradient, part: Part, found: Gradient, work: CallWork | None) -> None:
        add_gradient(made, part, found)
        if self.work is not None and work is not None:
            self.work = _joined(self.work, work)


def _joined(one: CallWork, two: CallWork) -> CallWork:
    """Work of two calls after each other."""
    return CallWork(max(one.threads, two.threads), one.chunks + two.chunks)


def stiffness_found(engines: Iterable[Any]) -> list[str]:
    """One line on what the last call found, none before and for other engines."""
    return last_found(e.handover for e in engines if isinstance(e, AutoEngine))
