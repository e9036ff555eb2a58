"""Costs and their gradient around any engine that simulates and pulls back, evaluated by CasADi's virtual machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, call
from ..integrate.batch import Batch
from ..integrate.hybrid.engine import HybridEngine
from ..integrate.results import Gradient, Sweep, SweepEngine
from .expressions import Functions

#: Which inputs (t, x, u, p, d, w) of a cost are the same for all rows.
_SHARED = [False, False, False, True, False, False]


class CasadiCostEngine:
    """Offers what an objective uses of the compiled engine.

    Parameters
    ----------
    functions
        Costs, and the sizes of their inputs.
    inner
        Integrates ``functions.rhs``.
    """

    def __init__(self, functions: Functions, inner: SweepEngine) -> None:
        self.inner, self.nx, self.n_params = inner, functions.nx, functions.n_params
        self._costs = [(f, last) for f, last in ((functions.cost, False), (functions.terminal, True)) if f is not None]

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, nx) and the sweep's report."""
        return self.inner.simulate(batch, x0, p)

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
        """Adjoints for seeds (B, T, nx)."""
        return self.inner.vjp(batch, x0, p, seeds, want_u=want_u, checkpoints=checkpoints, x=x)

    def losses(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[Float64Array, Sweep]:
        """Cost of each trajectory (B,), infinite where it failed."""
        x, sweep = self.simulate(batch, x0, p)
        return self._total(batch, x, p, d, w, sweep)[:, 0], sweep

    def slopes(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[Float64Array, Float64Array, Sweep]:
        """Costs (B,) and the sums (B, n) of what the cost functions return after the cost; zero for failed ones."""
        x, sweep = self.simulate(batch, x0, p)
        total = self._total(batch, x, p, d, w, sweep)
        return total[:, 0], total[:, 1:], sweep

    def gradient(
        self,
        batch: Batch,
        x0: NDArray[Any],
        p: NDArray[Any],
        d: NDArray[Any],
        w: NDArray[Any],
        scale: Float64Array,
        *,
        checkpoints: int | None = None,
    ) -> Gradient:
        """Costs, and the gradient of ``sum(scale * loss)`` over the trajectories that succeed."""
        x, sweep, pull = self._forward(batch, x0, p)
        loss = self._total(batch, x, p, d, w, sweep)[:, 0]
        seeds, p_bar = np.zeros(x.shape), np.zeros(self.n_params)
        for function, last in self._costs:
            b, k, inputs = self._rows(batch, x, p, d, w, sweep, last)
            if b.size:
                reverse = self._reverse_of(function).map(b.size, [*_SHARED, False])
                x_bars, p_bars = call(reverse, *inputs, scale[b][None, :])
                np.add.at(seeds, (b, k), x_bars.reshape(self.nx, b.size).T)
                p_bar += p_bars.reshape(self.n_params, b.size).sum(axis=1)
        made = pull(seeds.astype(batch.dtype))
        loss[~made.sweep.success] = np.inf
        return Gradient(made.p_bar + p_bar.astype(batch.dtype), made.x0_bar, None, made.sweep, loss)

    def _forward(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]
    ) -> tuple[NDArray[Any], Sweep, Callable[[NDArray[Any]], Gradient]]:
        """States, the report, and the adjoint as a function of seeds; a simulation with events is made once."""
        if isinstance(self.inner, HybridEngine):
            made = self.inner.run(batch, x0, p)
            return made.x, made.sweep, partial(self.inner.pull, batch, made, p)
        return *self.simulate(batch, x0, p), partial(self.vjp, batch, x0, p)

    def _total(
        self, batch: Batch, x: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any], sweep: Sweep
    ) -> Float64Array:
        """Sums over the save times of all that the cost functions return, (B, 1 + n); infinite cost for a failure."""
        total = np.zeros((batch.size, max((f.numel_out(0) for f, _ in self._costs), default=1)))
        for function, last in self._costs:
            b, inputs = self._rows(batch, x, p, d, w, sweep, last)[::2]
            if b.size:
                values = call(function.map(b.size, _SHARED), *inputs)[0]
                np.add.at(total, b, values.reshape(-1, b.size).T)
        total[~sweep.success, 0] = np.inf
        return total

    def _reverse_of(self, function: ca.Function) -> ca.Function:
        """(t, x, u, p, d, w, seed) -> adjoints of x and p."""
        inputs = [ca.MX.sym(function.name_in(i), function.sparsity_in(i)) for i in range(6)]
        seed = ca.MX.sym("seed")
        bars = ca.reverse([function(*inputs)], [inputs[1], inputs[3]], [[seed]])[0]
        return ca.Function("reverse", [*inputs, seed], [ca.densify(v) for v in bars])

    def _rows(
        self,
        batch: Batch,
        x: NDArray[Any],
        p: NDArray[Any],
        d: NDArray[Any],
        w: NDArray[Any],
        sweep: Sweep,
        last: bool,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[NDArray[Any]]]:
        """Trajectory and save time of every row that counts, and the cost's inputs with a row per column."""
        shape = (batch.size, batch.n_save)
        counts = np.broadcast_to(batch.counts[:, None], (batch.size, 1))
        grid = np.broadcast_to(np.arange(batch.n_save), shape)
        wanted = (grid == counts - 1) if last else (grid < counts)
        b, k = np.nonzero(wanted & sweep.success[:, None])
        u = batch.saved_controls(0, batch.size)
        parts = [batch.ts[..., None], x, u, p, d, w]
        full = [v if v is p else np.broadcast_to(v, (*shape, v.shape[-1]))[b, k].T for v in parts]
        return b, k, full
