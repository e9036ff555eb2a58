"""The gradient of an objective by forward sensitivities: state, its derivatives, and derivatives of the costs."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..integrate.engine import Engine
from ..integrate.forward import (
    Columns,
    chunks_of,
    default_chunk,
    initial_sensitivities,
    sensitivity_blocks,
    sensitivity_system,
    slopes_of,
)
from ..integrate.results import CallWork, Sweep
from ..integrate.solvers import OneStep
from .expressions import Functions
from .initial import GivenStates
from .machine import AnyEngine
from .posed import Posed


def with_slopes(f: Functions, columns: Columns) -> Functions:
    """The functions with sensitivities along some directions; costs return their derivatives after the cost."""
    costs = [None if cost is None else slopes_of(cost, columns) for cost in (f.cost, f.terminal)]
    blocks, nx = sensitivity_blocks(f.nx, columns.n), f.nx * (1 + columns.n)
    (cost, terminal), rhs = costs, sensitivity_system(f.rhs, columns)
    return Functions(rhs, cost, terminal, nx, f.nu, f.n_params, f.nd, f.nw, blocks, f.mass)


class ForwardGradient:
    """Gradients of a problem by forward sensitivities; engines are made when first used.

    Parameters
    ----------
    problem
        The problem.
    chunk
        Directions integrated together, None for the default.
    """

    def __init__(self, problem: Posed, chunk: int | None = None) -> None:
        self._problem = problem
        nx, machine = problem.functions.nx, problem.machine
        states = 0 if isinstance(problem.start, GivenStates) else problem.model.nx
        total = problem.n_params + states
        if chunk is None:
            lanes = 1 if machine.size < 3 else 16
            stages = machine.solver.tableau.stages if isinstance(machine.solver, OneStep) else 1
            chunk = default_chunk(total, nx, problem.times.n, stages, lanes, problem.dtype.itemsize)
        self.columns = chunks_of(problem.n_params, states, 0, chunk)
        self._engines: dict[Columns, AnyEngine] = {}
        self._lock = threading.Lock()

    @property
    def n_directions(self) -> int:
        """Parameters, and initial states where they depend on the parameter vector."""
        return sum(c.n for c in self.columns)

    @property
    def work(self) -> CallWork | None:
        """What the last chunk took; None before, and on the CasADi path."""
        engine = self._engines.get(self.columns[-1])
        return engine.work if isinstance(engine, Engine) else None

    def _engine(self, columns: Columns) -> AnyEngine:
        with self._lock:
            found = self._engines.get(columns)
            if found is None:
                problem = self._problem
                functions = with_slopes(problem.functions, columns)
                found = self._engines[columns] = problem.machine.engine(functions, problem.n_err, columns.n)
            return found

    def gradient(self, typed: NDArray[Any]) -> tuple[Float64Array, Float64Array, NDArray[Any], Sweep]:
        """Costs (B,), gradient with respect to theta, adjoint of the initial states (B, nx), report of a sweep.

        `typed` is theta in the precision of the sweeps; regularization is not included.
        """
        problem = self._problem
        x0, p = problem.initial(typed), typed[: problem.n_params]
        slopes: list[Float64Array] = []
        for columns in self.columns:
            z0 = initial_sensitivities(x0, columns)
            loss, part, sweep = self._engine(columns).slopes(problem.batch, z0, p, problem.d, problem.w)
            slopes.append(part)
        whole = np.concatenate(slopes, axis=1) * problem.scale[:, None]
        theta_bar = np.zeros(problem.n_total)
        theta_bar[: problem.n_params] = whole[:, : problem.n_params].sum(axis=0)
        x0_bar = np.ascontiguousarray(whole[:, problem.n_params :], problem.dtype)
        if x0_bar.shape[1]:
            problem.start.pullback(typed, x0_bar, theta_bar)
        return loss, theta_bar, x0_bar, sweep
