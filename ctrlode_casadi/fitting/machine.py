"""From the functions of an objective to an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ..base.errors import UnsupportedOperation
from ..integrate.auto.solver import Auto
from ..integrate.build import compiled_only, make_engine
from ..integrate.casadi_path import CasadiEngine
from ..integrate.engine import Engine
from ..integrate.hybrid.auto import hybrid_engine
from ..integrate.hybrid.events import EventSettings
from ..integrate.hybrid.paths import phase_solver
from ..integrate.integrators.engine import IntegratorEngine
from ..integrate.integrators.objects import Dynamics
from ..integrate.integrators.products import ForwardIntegrator
from ..integrate.integrators.semi_explicit import Reordered, separated
from ..integrate.integrators.solvers import CasadiIntegrator
from ..integrate.results import SweepEngine
from ..integrate.rosenbrock.jacobian import Structure
from ..integrate.rosenbrock.solvers import RosenbrockMethod
from ..integrate.sensitivity import Adjoint, Forward, Sensitivity
from ..integrate.solvers import OneStep
from .expressions import Functions
from .fallback import CasadiCostEngine

AnyEngine: TypeAlias = Engine | CasadiCostEngine


@dataclass(frozen=True)
class Machine:
    """How to integrate, the same for all derivatives.

    Attributes
    ----------
    solver, dtype, threads, sensitivity
        As in the simulator.
    size
        Number of trajectories.
    backend
        The simulator's path; asked when something has no compiled form, so that the simulator warns, or refuses where
        the compiled path was asked for.
    compiled
        False where the CasADi path was asked for.
    events
        The simulator's events.
    """

    solver: OneStep | CasadiIntegrator
    dtype: str
    threads: int | None
    size: int
    sensitivity: Sensitivity
    backend: Callable[[], str]
    compiled: bool
    events: EventSettings

    def __post_init__(self) -> None:
        ending = [event.name for event in self.events.events if event.terminal]
        if ending:
            raise UnsupportedOperation(
                f"sim: an objective needs the state at every save time, and the terminal event {ending[0]!r} ends "
                f"trajectories earlier; keep them going instead, with a state that the event's jump sets and that "
                f"switches the right-hand side off"
            )

    @property
    def checkpoints(self) -> int | None:
        """Limit on the stored states of adjoint sweeps."""
        return self.sensitivity.checkpoints if isinstance(self.sensitivity, Adjoint) else None

    def of_size(self, size: int) -> Machine:
        """The same for another number of trajectories."""
        return replace(self, size=size)

    def engine(self, functions: Functions, n_err: int, n_slopes: int | None = None) -> AnyEngine:
        """The engine for some functions; the error norm uses the first `n_err` states.

        With `n_slopes` the engine integrates sensitivities and cannot be differentiated; the costs then return so many
        numbers after the cost, for `Engine.slopes`.
        """
        if self.events.events:
            return self._with_events(functions, n_err)
        if isinstance(self.solver, CasadiIntegrator):
            return CasadiCostEngine(functions, self._integrator(functions))
        if self.compiled:
            try:
                return self._compile(functions, n_err, n_slopes)
            except UnsupportedOperation as exc:
                if isinstance(self.solver, RosenbrockMethod | Auto):
                    raise compiled_only(self.solver, exc) from exc
                if self.backend() == "compiled":
                    raise
        return CasadiCostEngine(functions, CasadiEngine(functions.rhs, self.solver, n_err))

    def _integrator(self, functions: Functions) -> SweepEngine:
        """An integrator of CasADi; the states of a DAE in the order that it wants."""
        dynamics, order, how = Dynamics(functions.rhs), None, self.sensitivity
        if functions.mass is not None:
            dynamics, order = separated(functions.rhs, functions.mass, functions.blocks)
        inner = IntegratorEngine(dynamics, cast(CasadiIntegrator, self.solver), self.threads)
        engine: SweepEngine = ForwardIntegrator(inner, how.chunk) if isinstance(how, Forward) else inner
        return engine if order is None else Reordered(engine, order)

    def _with_events(self, functions: Functions, n_err: int) -> CasadiCostEngine:
        """Phases on the engine without events, events and costs around it."""
        tangent = functions.blocks is not None  # a state and its change along one direction
        plain = replace(self, solver=phase_solver(self.solver), events=replace(self.events, events=()))
        inner = plain.engine(replace(functions, cost=None, terminal=None), n_err)
        hybrid = hybrid_engine(inner, self.solver, functions.rhs, self.events, tangent)
        return CasadiCostEngine(functions, hybrid)

    def _compile(self, functions: Functions, n_err: int, n_slopes: int | None) -> Engine:
        from ..lowering.forward_kernels import forward_kernels
        from ..lowering.kernels import lane_kernels

        make = lane_kernels if n_slopes is None else forward_kernels
        model = make(functions.rhs, "p", dtype=self.dtype, batch=max(self.size, 1))
        return make_engine(
            model, functions.rhs, cast(OneStep, self.solver), n_err=n_err, n_threads=self.threads,
            structure=Structure(functions.blocks, functions.mass), cost=functions.cost, terminal=functions.terminal,
            nd=functions.nd, nw=functions.nw, n_slopes=n_slopes or 0,
        )  # fmt: skip


def wide(states: NDArray[Any], n: int) -> NDArray[Any]:
    """States (B, nx) with zeros appended up to n entries, contiguous."""
    if states.shape[1] == n:
        return np.ascontiguousarray(states)
    out = np.zeros((states.shape[0], n), states.dtype)
    out[:, : states.shape[1]] = states
    return out
