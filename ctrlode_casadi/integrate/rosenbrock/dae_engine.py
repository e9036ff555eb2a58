"""The engine of a DAE: consistent initial states first, then the sweeps; their adjoint after the reverse sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..engine import Engine
from ..results import Gradient, Sweep
from .consistent import ConsistentStates, Start, add_initial_controls


class DaeEngine(Engine):
    """An engine whose initial states are guesses along the null space of the mass matrix.

    A trajectory without consistent initial state has a status that says so, no valid save time, and no share in sums.
    """

    def __init__(self, *args: Any, consistent: ConsistentStates, **options: Any) -> None:
        super().__init__(*args, **options)
        self._consistent = consistent

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """As in `Engine`, from a guess."""
        start = self._consistent.find(batch, x0, p)
        x, sweep = super().simulate(batch, start.y, p)
        x[~start.good] = np.nan
        _report(sweep, start)
        return x, sweep

    def losses(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], Sweep]:
        """As in `Engine`, from a guess."""
        start = self._consistent.find(batch, x0, p)
        loss, sweep = super().losses(batch, start.y, p, d, w)
        loss[~start.good] = np.inf
        _report(sweep, start)
        return loss, sweep

    def slopes(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Sweep]:
        """As in `Engine`, from a guess."""
        start = self._consistent.find(batch, x0, p)
        loss, sums, sweep = super().slopes(batch, start.y, p, d, w)
        loss[~start.good], sums[~start.good] = np.inf, 0.0
        _report(sweep, start)
        return loss, sums, sweep

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
        """As in `Engine`, from a guess."""
        start = self._consistent.find(batch, x0, p)
        kept = seeds if start.good.all() else np.where(start.good[:, None, None], seeds, 0.0).astype(seeds.dtype)
        made = super().vjp(batch, start.y, p, kept, want_u=want_u, checkpoints=checkpoints, x=x)
        if x is not None:
            x[~start.good] = np.nan
        return self._pulled_back(batch, start, p, made)

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
        """As in `Engine`, from a guess."""
        start = self._consistent.find(batch, x0, p)
        kept = np.where(start.good, scale, 0.0)
        made = super().gradient(batch, start.y, p, d, w, kept, want_u=want_u, checkpoints=checkpoints)
        made.loss[~start.good] = np.inf
        return self._pulled_back(batch, start, p, made)

    def _pulled_back(self, batch: Batch, start: Start, p: NDArray[Any], made: Gradient) -> Gradient:
        """A gradient with respect to the guess, with the shares that p and the controls have in the initial states."""
        y_bar, by_p, by_u = self._consistent.pull_back(batch, start, p, made.x0_bar)
        if made.control_bars is not None:
            add_initial_controls(batch, made.control_bars, by_u)
        _report(made.sweep, start)
        y_bar[~start.good] = 0.0
        return replace(made, p_bar=made.p_bar + by_p, x0_bar=y_bar.astype(made.x0_bar.dtype))


def _report(sweep: Sweep, start: Start) -> None:
    """Status of the trajectories that never started."""
    sweep.status[~start.good] = start.codes[~start.good]
    for counter in (sweep.reached, sweep.n_steps, sweep.n_rejected, sweep.n_rhs):
        counter[~start.good] = 0
