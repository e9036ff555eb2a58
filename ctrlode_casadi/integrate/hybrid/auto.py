"""Events with the automatic choice of a method: stiff trajectories are simulated again, events and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..auto.engine import AutoEngine
from ..auto.handover import AutoSweep, Handover, Part, add_gradient, take
from ..batch import Batch
from ..results import Gradient, SweepEngine, whole_or_nothing
from .engine import HybridEngine, Journey
from .events import EventSettings


@dataclass(frozen=True, eq=False, kw_only=True)
class AutoJourney(Journey):
    """A simulation by two methods.

    Attributes
    ----------
    explicit
        That of the explicit method, in which stiff trajectories have failed.
    parts
        Those of the stiff method.
    """

    sweep: AutoSweep
    explicit: Journey
    parts: list[tuple[Part, Journey]] = field(default_factory=list)


class AutoHybridEngine(HybridEngine):
    """Events around the explicit engine of `Auto`, with those around the stiff one behind it.

    Parameters
    ----------
    args
        As for `HybridEngine`, with an explicit engine that gives stiff trajectories up.
    stiff
        Makes the events around the stiff engine, when first needed.
    """

    def __init__(self, *args: Any, stiff: Callable[[], HybridEngine]) -> None:
        super().__init__(*args)
        #: The engine of stiff trajectories, and what the last call found.
        self.handover = Handover(stiff)

    def run(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> Journey:
        """As in `HybridEngine`, each trajectory by the method that suits it."""
        explicit = super().run(batch, x0, p)
        made = AutoJourney(
            x=explicit.x, sweep=self.handover.begin(explicit.sweep), logs=explicit.logs, explicit=explicit
        )
        for part, engine in self.handover.parts(batch, explicit.sweep):
            found = engine.run(part.batch, part.of(x0), p)
            for k in np.flatnonzero(take(made.sweep, part, found.sweep, [(made.x, found.x)])):
                made.logs[part.rows[k]] = found.logs[k]
            made.parts.append((part, found))
        self.handover.end(made.sweep)
        return made

    def pull(
        self,
        batch: Batch,
        made: Journey,
        p: NDArray[Any],
        seeds: NDArray[Any],
        *,
        want_u: bool = False,
        checkpoints: int | None = None,
    ) -> Gradient:
        """As in `HybridEngine`: the adjoint of the method that each trajectory used."""
        if not isinstance(made, AutoJourney):
            return super().pull(batch, made, p, seeds, want_u=want_u, checkpoints=checkpoints)
        total = super().pull(batch, made.explicit, p, seeds, want_u=want_u, checkpoints=checkpoints)
        for part, found in made.parts:
            engine = self.handover.engine()
            add_gradient(
                total, part,
                engine.pull(part.batch, found, p, part.of(seeds), want_u=want_u, checkpoints=checkpoints),
            )  # fmt: skip
        return whole_or_nothing(replace(total, sweep=made.sweep))


def hybrid_engine(
    inner: SweepEngine, solver: Any, rhs: ca.Function, settings: EventSettings, tangent: bool = False
) -> HybridEngine:
    """Events around an engine; arguments as for `HybridEngine`."""
    if not isinstance(inner, AutoEngine):
        return HybridEngine(inner, solver, rhs, settings, tangent)

    def stiff() -> HybridEngine:
        return HybridEngine(inner.handover.engine(), solver, rhs, settings, tangent)

    return AutoHybridEngine(inner.explicit, solver, rhs, settings, tangent, stiff=stiff)
