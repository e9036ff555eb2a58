"""The gradient from forward sensitivities: chunks of directions, each integrated once together with the state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.ode import ControlledODE
from .batch import CHUNK, Batch
from .build import make_engine
from .casadi_path import CasadiEngine
from .engine import Engine
from .forward import (
    Columns,
    chunks_of,
    control_bars,
    control_count,
    default_chunk,
    extended_batch,
    initial_sensitivities,
    product_with_seeds,
    sensitivity_blocks,
    sensitivity_system,
)
from .results import CallWork, Sweep
from .rosenbrock.jacobian import Structure
from .solvers import OneStep

#: (dp, dx0, du) -> dx (B, T, nx)
Tangent = Callable[[NDArray[Any], NDArray[Any], Any], NDArray[Any]]


class ForwardProducts:
    """Products with the transposed Jacobian of a simulation by forward sensitivities; safe for several threads.

    Parameters
    ----------
    model, solver, dtype, n_threads
        As in the simulator.
    """

    def __init__(self, model: ControlledODE, solver: OneStep, dtype: np.dtype[Any], n_threads: int | None) -> None:
        self._model, self._solver, self._dtype, self._threads = model, solver, dtype, n_threads
        self._engines: dict[tuple[Columns, int], Engine | CasadiEngine] = {}
        self._lock = threading.RLock()
        #: What the last chunk took, None before the first and on the CasADi path.
        self.work: CallWork | None = None

    def columns(self, batch: Batch, chunk: int | None) -> list[Columns]:
        """The chunks of directions of a batch, which depend on the batch only through its size and knots."""
        model, n_controls = self._model, control_count(batch)
        if chunk is None:
            total = model.np + model.nx + n_controls
            lanes = 1 if batch.size < 3 else 16
            chunk = default_chunk(
                total, model.nx, batch.n_save, self._solver.tableau.stages, lanes, self._dtype.itemsize
            )
        return chunks_of(model.np, model.nx, n_controls, chunk)

    def vjp(
        self, compiled: bool, x0: NDArray[Any], batch: Batch, p: NDArray[Any], seeds: NDArray[Any], chunk: int | None
    ) -> tuple[NDArray[Any], NDArray[Any], Any, Sweep]:
        """Adjoints of p (np,), x0 (B, nx) and control values for seeds (B, T, nx), and the report of the last sweep.

        Failed trajectories contribute nothing.
        """
        slopes, weights = [], np.zeros((1, batch.n_save, 0), self._dtype)
        for columns in self.columns(batch, chunk):
            engine = self._engine(columns, batch.size, compiled)
            z0, extended = initial_sensitivities(x0, columns), _extended(batch, columns)
            if isinstance(engine, Engine):
                _, part, sweep = engine.slopes(extended, z0, p, seeds, weights)
                self.work = engine.work
            else:
                z, sweep = engine.simulate(extended, z0, p)
                part = _slopes_of(z, seeds, columns.n, sweep)
            slopes.append(part)
        whole = np.concatenate(slopes, axis=1)
        n_params, nx = self._model.np, self._model.nx
        p_bar = whole[:, :n_params].sum(axis=0).astype(self._dtype)
        x0_bar = np.ascontiguousarray(whole[:, n_params : n_params + nx], self._dtype)
        return p_bar, x0_bar, control_bars(batch, whole[:, n_params + nx :].astype(self._dtype)), sweep

    def _engine(self, columns: Columns, size: int, compiled: bool) -> Engine | CasadiEngine:
        """The engine of some directions; it depends on the parameters among them and on the numbers of the others."""
        counts = columns.counts
        key = Columns(columns.params, (0, counts[1]), (0, counts[2])), size if compiled else -1
        with self._lock:
            found = self._engines.get(key)
            if found is None:
                found = self._engines[key] = self._make(key[0], size, compiled)
            return found

    def _make(self, columns: Columns, size: int, compiled: bool) -> Engine | CasadiEngine:
        model = self._model
        function = sensitivity_system(model.rhs, columns)
        if not compiled:
            return CasadiEngine(function, self._solver, model.nx)
        from ..lowering.forward_kernels import forward_kernels

        kernels = forward_kernels(function, "p", None, self._dtype.name, size)
        for (of, _), engine in self._engines.items():
            if of == columns and isinstance(engine, Engine) and engine.kernels is kernels:
                return engine
        cost = product_with_seeds(model.nx, model.nu, model.np, columns)
        return make_engine(
            kernels, function, self._solver, n_err=model.nx, n_threads=self._threads, cost=cost, nd=model.nx,
            structure=Structure(sensitivity_blocks(model.nx, columns.n), model.system_mass), n_slopes=columns.n,
        )  # fmt: skip


def _extended(batch: Batch, columns: Columns) -> Batch:
    """`extended_batch`, made once for each batch that is kept."""
    key = "forward", columns.controls
    found: Batch | None = batch.prepared.get(key)
    if found is None:
        found = extended_batch(batch, columns)
        if found is not batch and batch.size <= CHUNK:
            batch.prepared[key] = found
    return found


def _slopes_of(z: NDArray[Any], seeds: NDArray[Any], m: int, sweep: Sweep) -> NDArray[Any]:
    """Sums over time of ``seeds . S``, (B, m), from states and sensitivities at the save times."""
    nx = seeds.shape[2]
    rows = z[..., nx:].reshape(*seeds.shape, m)
    kept = np.where(sweep.success[:, None, None, None], rows, 0.0)
    return np.asarray(np.einsum("bti,btim->bm", seeds, np.nan_to_num(kept)))


def vjp_by_directions(
    tangent: Tangent, x0: NDArray[Any], batch: Batch, n_params: int, seeds: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], Any]:
    """The same for a solver that only offers products with one direction at a time, `tangent`.

    np + nx + K nu integrations: a control value of every trajectory is changed at once.
    """
    zero_p, zero_x = np.zeros(n_params, x0.dtype), np.zeros_like(x0)

    def along(dp: NDArray[Any], dx0: NDArray[Any], du: Any) -> NDArray[Any]:
        """Derivative of each trajectory's functional, (B,)."""
        dx = tangent(dp, dx0, du)
        return np.where(np.isnan(dx), 0.0, dx * seeds).sum(axis=(1, 2))

    p_bar = np.array([along(row, zero_x, None).sum() for row in np.eye(n_params, dtype=x0.dtype)], x0.dtype)
    x0_bar = np.zeros_like(x0)
    for c in range(x0.shape[1]):
        change = np.zeros_like(x0)
        change[:, c] = 1.0
        x0_bar[:, c] = along(zero_p, change, None)
    slopes = [along(zero_p, zero_x, change) for change in unit_changes(batch)]
    return p_bar, x0_bar, control_bars(batch, np.stack(slopes, axis=1) if slopes else np.zeros((batch.size, 0)))


def unit_changes(batch: Batch) -> list[Any]:
    """A change of each control value, of all trajectories at once; shorter controls of a list get zeros."""
    controls: Any = batch.controls
    changes: list[Any] = []
    for q in range(control_count(batch)):
        listed = controls if isinstance(controls, list) else [controls]
        units = [np.zeros_like(c.values) for c in listed]
        for unit in units:
            k, c = divmod(q, unit.shape[2])
            if k < unit.shape[1]:
                unit[:, k, c] = 1.0
        changes.append(units if isinstance(controls, list) else units[0])
    return changes
