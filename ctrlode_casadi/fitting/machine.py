"""From the functions of an objective to an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.errors import UnsupportedOperation
from ..integrate.engine import Engine
from ..integrate.solvers import RungeKutta
from .expressions import Functions
from .fallback import CasadiCostEngine

AnyEngine: TypeAlias = Engine | CasadiCostEngine


@dataclass(frozen=True)
class Machine:
    """How to integrate, the same for all derivatives.

    Attributes
    ----------
    solver, dtype, threads, checkpoints
        As in the simulator.
    size
        Number of trajectories.
    backend
        The simulator's path; asked when something has no compiled form, so that the simulator warns, or refuses where
        the compiled path was asked for.
    compiled
        False where the CasADi path was asked for.
    """

    solver: RungeKutta
    dtype: str
    threads: int | None
    size: int
    checkpoints: int | None
    backend: Callable[[], str]
    compiled: bool

    def engine(self, functions: Functions, n_err: int) -> AnyEngine:
        """The engine for some functions; the error norm uses the first `n_err` states."""
        if self.compiled:
            try:
                return self._compile(functions, n_err)
            except UnsupportedOperation:
                if self.backend() == "compiled":
                    raise
        return CasadiCostEngine(functions, self.solver, n_err)

    def _compile(self, functions: Functions, n_err: int) -> Engine:
        from ..lowering.kernels import lane_kernels

        model = lane_kernels(functions.rhs, "p", dtype=self.dtype, batch=max(self.size, 1))

        def costs(f: ca.Function | None) -> Any:
            return None if f is None else lane_kernels(f, "p", lanes=model.lanes, dtype=self.dtype)

        return Engine(
            model,
            functions.nx,
            functions.nu,
            functions.n_params,
            self.solver,
            n_err=n_err,
            cost=costs(functions.cost),
            terminal=costs(functions.terminal),
            nd=functions.nd,
            nw=functions.nw,
            n_threads=self.threads,
        )


def wide(states: NDArray[Any], n: int) -> NDArray[Any]:
    """States (B, nx) with zeros appended up to n entries, contiguous."""
    if states.shape[1] == n:
        return np.ascontiguousarray(states)
    out = np.zeros((states.shape[0], n), states.dtype)
    out[:, : states.shape[1]] = states
    return out
