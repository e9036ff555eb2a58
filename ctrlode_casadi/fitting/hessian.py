"""The full Hessian of an objective: many products at once, directions as trajectories.

A Hessian product is the gradient of a directional derivative. Here the parameters and the direction are states with
derivative zero, z = (x, dx, p, v), so that every trajectory has its own direction and the adjoint of the initial states
holds the product. A batch of n directions and B trajectories is a batch of n B trajectories: it fills the lanes where
the trajectories alone do not, and takes one call instead of n.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..integrate.batch import Batch
from ..integrate.results import Sweep
from .expressions import Functions, in_direction
from .machine import AnyEngine
from .posed import Posed

#: Packing pays up to this product of parameters and trajectories: beyond it the lanes are full anyway, and carrying the
#: parameters as states costs more than the calls saved. Measured with chains and networks of 2 to 5 states. One
#: trajectory of a network with 2 states: twice as fast as the products with 42 parameters, 1.3 times slower with 102,
#: four times with 282.
MOST_ENTRIES = 60
#: Most trajectories, directions included, of one call.
MOST_TRAJECTORIES = 1024


def with_own_parameters(f: Functions) -> Functions:
    """The functions of `in_direction` with their parameters (p, v) as further states, after (x, dx)."""
    along = in_direction(f)
    n = along.nx + along.n_params
    t, z, u, d, w = (ca.MX.sym(s, k) for s, k in (("t", 1), ("x", n), ("u", f.nu), ("d", f.nd), ("w", f.nw)))
    none = ca.MX.sym("p", 0)
    x, q = z[: along.nx], z[along.nx :]
    xdot = ca.vertcat(along.rhs(t, x, u, q), ca.MX.zeros(along.n_params))
    rhs = ca.Function("rhs", [t, z, u, none], [xdot], ["t", "x", "u", "p"], ["xdot"])
    names = ["t", "x", "u", "p", "d", "w"]
    costs = [
        None if g is None else ca.Function(g.name(), [t, z, u, none, d, w], [g(t, x, u, q, d, w)], names, ["ell"])
        for g in (along.cost, along.terminal)
    ]
    return Functions(rhs, costs[0], costs[1], n, f.nu, 0, f.nd, f.nw)


class PackedHessian:
    """Hessian products in many directions at once.

    Parameters
    ----------
    problem
        The problem, with an explicit solver.
    """

    def __init__(self, problem: Posed) -> None:
        self._problem = problem
        self._batches: dict[int, tuple[Batch, NDArray[Any], NDArray[Any]]] = {}

    @property
    def chunk(self) -> int:
        """Directions in one call."""
        return max(MOST_TRAJECTORIES // max(self._problem.batch.size, 1), 1)

    @cached_property
    def _engines(self) -> dict[int, AnyEngine]:
        return {}

    def _engine(self, size: int) -> AnyEngine:
        found = self._engines.get(size)
        if found is None:
            problem = self._problem
            functions = with_own_parameters(problem.functions)
            found = self._engines[size] = problem.machine.of_size(size).engine(functions, problem.n_err)
        return found

    def products(self, theta: Float64Array, directions: Float64Array) -> tuple[Float64Array, Sweep, Float64Array]:
        """Products (m, np_total) with directions (m, np_total), without regularization; the sweep and its losses."""
        problem, m = self._problem, len(directions)
        batch, d, w = self._repeated(m)
        typed = problem.typed(theta)
        nx, total, n, size = problem.model.nx, problem.functions.nx, problem.n_params, problem.batch.size
        z0 = np.zeros((m, size, 2 * total + 2 * n), problem.dtype)
        z0[:, :, :nx] = problem.start.states(typed)
        z0[:, :, 2 * total : 2 * total + n] = typed[:n]
        for j, v in enumerate(directions):
            b = problem.typed(v)
            z0[j, :, total : total + nx] = problem.start.tangent(typed, b)
            z0[j, :, 2 * total + n :] = b[:n]
        scale = np.tile(problem.scale, m)
        none = np.zeros(0, problem.dtype)
        keep = problem.machine.checkpoints
        engine = self._engine(batch.size)
        made = engine.gradient(batch, z0.reshape(m * size, -1), none, d, w, scale, checkpoints=keep)
        bars = made.x0_bar.reshape(m, size, -1)
        products = np.zeros((m, problem.n_total))
        products[:, :n] = bars[:, :, 2 * total : 2 * total + n].sum(axis=1)
        for j, v in enumerate(directions):
            b = problem.typed(v)
            problem.start.pullback(typed, np.ascontiguousarray(bars[j, :, :nx]), products[j])
            change = np.ascontiguousarray(bars[j, :, total : total + nx])
            problem.start.pullback_tangent(typed, b, change, products[j])
        return products, made.sweep, made.loss

    def _repeated(self, m: int) -> tuple[Batch, NDArray[Any], NDArray[Any]]:
        """The batch, data and weights m times over, direction by direction."""
        found = self._batches.get(m)
        if found is None:
            problem = self._problem
            batch, size = problem.batch, problem.batch.size
            index = np.tile(np.arange(size), m)
            own = batch.ts.shape[0] > 1
            controls = batch.controls
            if isinstance(controls, list):
                controls = [controls[b] for b in index]
            elif not batch.shared_controls:
                controls = controls[index]
            rows = index if own else np.zeros(1, np.int64)
            repeated = Batch(batch.ts[rows], batch.counts[rows], controls, m * size, batch.nu, np.dtype(batch.dtype))
            d, w = (v if v.shape[0] == 1 else np.ascontiguousarray(v[index]) for v in (problem.d, problem.w))
            found = self._batches[m] = repeated, d, w
        return found
