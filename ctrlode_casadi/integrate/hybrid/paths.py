"""The engines of a model with events: those of its paths, with the events around them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from ...model.ode import ControlledODE
from ..auto.handover import last_found
from ..paths import Paths
from ..tangent import tangent_function
from .auto import AutoHybridEngine, hybrid_engine
from .engine import HybridEngine
from .events import EventSettings


def phase_solver(solver: Any) -> Any:
    """The solver of the phases: with fixed steps, one step between neighbouring save times, the ends of the steps."""
    return solver if solver.adaptive else replace(solver, steps_per_interval=1, dt=None)


class EventPaths(Paths):
    """Paths of a model with events.

    Parameters
    ----------
    model, solver, wanted, dtype, n_threads
        As in `Paths`.
    settings
        The events.
    """

    def __init__(
        self, model: ControlledODE, solver: Any, wanted: str, dtype: Any, n_threads: int | None, settings: EventSettings
    ) -> None:
        super().__init__(model, phase_solver(solver), wanted, dtype, n_threads)
        self._given, self._settings = solver, settings
        self._hybrid: dict[tuple[int, bool], HybridEngine] = {}
        self._hybrid_lock = threading.Lock()

    def engine(self, size: int, *, tangent: bool = False) -> Any:
        """The engine with events for a batch of this size."""
        inner = super().engine(size, tangent=tangent)
        with self._hybrid_lock:
            key = (id(inner), tangent)
            found = self._hybrid.get(key)
            if found is None:
                rhs = self._settings.model.rhs
                rhs = tangent_function(rhs) if tangent else rhs
                found = self._hybrid[key] = hybrid_engine(inner, self._given, rhs, self._settings, tangent)
            return found

    def stiffness(self) -> list[str]:
        """One line on what the automatic choice found in the last call, none for other solvers."""
        return last_found(e.handover for e in self._hybrid.values() if isinstance(e, AutoHybridEngine))
