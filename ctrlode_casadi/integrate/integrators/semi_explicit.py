"""A DAE written as one system M y' = F(t, y, u, p), for CasADi's integrators, which want (x, z) apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..results import Gradient, Sweep, SweepEngine
from .objects import Dynamics


def separated(
    rhs: ca.Function, mass: NDArray[np.float64], blocks: NDArray[np.int64] | None
) -> tuple[Dynamics, NDArray[np.int64]]:
    """The system as x' = f, 0 = g, and the states y in the order (x, z).

    Parameters
    ----------
    rhs
        F, (t, y, u, p).
    mass
        M of a block: the identity with zeros for rows without derivative.
    blocks
        (q, n): the states of each block; None for one block.
    """
    n = rhs.numel_in(1)
    derived = np.ones(n, bool)
    for block in np.arange(n)[None] if blocks is None else blocks:
        derived[block] = np.diagonal(mass) != 0.0
    order = np.concatenate([np.flatnonzero(derived), np.flatnonzero(~derived)])
    nx = int(derived.sum())
    t, u, p = ca.MX.sym("t"), ca.MX.sym("u", rhs.numel_in(2)), ca.MX.sym("p", rhs.numel_in(3))
    x, z = ca.MX.sym("x", nx), ca.MX.sym("z", n - nx)
    value = rhs(t, ca.vertcat(x, z)[[int(i) for i in np.argsort(order)]], u, p)
    parts = [value[[int(i) for i in rows]] for rows in (order[:nx], order[nx:])]
    names = ["t", "x", "u", "p", "z"]
    made = [
        ca.Function(name, [t, x, u, p, z], [ca.densify(part)], names, ["value"])
        for name, part in zip(("rhs", "algebraic"), parts, strict=True)
    ]
    return Dynamics(*made), order


class Reordered:
    """An engine of (x, z) as one of y.

    Parameters
    ----------
    inner
        The engine of `separated`.
    order
        Which y each of its states is.
    """

    def __init__(self, inner: SweepEngine, order: NDArray[np.int64]) -> None:
        self._inner, self._order, self._back = inner, order, np.argsort(order)

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, n) and the sweep's report."""
        x, sweep = self._inner.simulate(batch, x0[:, self._order], p)
        return np.ascontiguousarray(x[..., self._back]), sweep

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
        """Adjoint for seeds (B, T, n)."""
        states = None if x is None else np.empty_like(x)
        wanted = np.ascontiguousarray(seeds[..., self._order])
        start = x0[:, self._order]
        found = self._inner.vjp(batch, start, p, wanted, want_u=want_u, checkpoints=checkpoints, x=states)
        if x is not None and states is not None:
            x[...] = states[..., self._back]
        return replace(found, x0_bar=np.ascontiguousarray(found.x0_bar[:, self._back]))
