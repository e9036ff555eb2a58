"""From the arrays of a sweep to `Trajectories`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.status import Status
from ..model.ode import ControlledODE
from .auto.handover import AutoSweep
from .auto.solver import Auto
from .batch import Batch
from .hybrid.events import EventLog
from .results import Sweep
from .solvers import Solver
from .trajectories import Trajectories


def collected(
    model: ControlledODE,
    solver: Solver,
    batch: Batch,
    p: NDArray[Any],
    x: NDArray[Any],
    sweep: Sweep,
    events: list[EventLog] | None,
) -> Trajectories:
    """The result of a simulation from states (B, T, nx), or (B, T, nx + nz) with the algebraic variables behind."""
    ragged, nx = batch.ts.shape[0] > 1, model.nx
    times = batch.ts[0].copy()
    if ragged:
        times = np.where(np.arange(batch.n_save) < batch.counts[:, None], batch.ts, np.nan)
        for b in range(batch.size):
            x[b, batch.counts[b] :] = np.nan
    stats: dict[str, NDArray[Any]] = {name: getattr(sweep, name) for name in ("n_steps", "n_rejected", "n_rhs")}
    if isinstance(solver, Auto):
        stats["stiff"] = sweep.stiff if isinstance(sweep, AutoSweep) else np.ones(batch.size, np.bool_)
    status = [Status(int(code)) for code in sweep.status]
    z = np.ascontiguousarray(x[..., nx:]) if x.shape[2] > nx else None
    x = x if z is None else np.ascontiguousarray(x[..., :nx])
    return Trajectories(times, x, status, stats, model, batch.controls, p, events, z)
