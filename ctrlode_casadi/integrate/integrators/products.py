"""Products with the Jacobian of a simulation and its transpose by the forward mode of CasADi's integrators."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.errors import UnsupportedOperation
from ..batch import Batch
from ..forward import control_bars
from ..forward_vjp import unit_changes
from ..results import Gradient, Sweep
from ..tangent import with_change
from .engine import IntegratorEngine

#: Directions integrated together unless asked for otherwise.
CHUNK = 16


def forward_products(
    engine: IntegratorEngine,
    x0: NDArray[Any],
    batch: Batch,
    p: NDArray[Any],
    seeds: NDArray[Any],
    chunk: int | None,
    controls: bool = True,
) -> tuple[NDArray[Any], NDArray[Any], Any, Sweep]:
    """Adjoints of p (np,), x0 (B, nx) and the control values for seeds (B, T, nx), and the report of the sweep.

    np + nx + K nu directions, `chunk` at a time, each for all trajectories at once. Failed trajectories contribute
    nothing. Without `controls` their adjoint is left out and None.
    """
    _, sweep = engine.simulate(batch, x0, p)
    unchanged, nx = with_change(batch, None), engine.nx

    def directions() -> Iterator[tuple[Batch, NDArray[Any], NDArray[Any]]]:
        zero_p, zero_x = np.zeros(p.size), np.zeros_like(x0)
        for dp in np.eye(p.size):
            yield unchanged, dp, zero_x
        for c in range(nx):
            dx0 = zero_x.copy()
            dx0[:, c] = 1.0
            yield unchanged, zero_p, dx0
        for du in unit_changes(batch) if controls else []:
            yield with_change(batch, du), zero_p, zero_x

    slopes, source = [], directions()
    while part := list(islice(source, chunk or CHUNK)):
        pairs, dp, dx0 = zip(*part, strict=True)
        dx = engine.tangents(pairs, x0, p, np.stack(dp), np.stack(dx0))
        slopes.append(np.where(np.isnan(dx), 0.0, dx * seeds).sum(axis=(2, 3)))
    whole = np.concatenate(slopes).T
    whole[~sweep.success] = 0.0
    p_bar = whole[:, : p.size].sum(axis=0).astype(batch.dtype)
    x0_bar = np.zeros_like(x0)
    x0_bar[:, :nx] = whole[:, p.size : p.size + nx]
    u_bar = control_bars(batch, whole[:, p.size + nx :].astype(batch.dtype)) if controls else None
    return p_bar, x0_bar, u_bar, sweep


class ForwardIntegrator:
    """An integrator engine whose `vjp` goes by forward sensitivities, for objectives.

    Parameters
    ----------
    inner
        The engine.
    chunk
        Directions integrated together, None for the default.
    """

    def __init__(self, inner: IntegratorEngine, chunk: int | None) -> None:
        self._inner, self._chunk = inner, chunk

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, nx) and the sweep's report."""
        return self._inner.simulate(batch, x0, p)

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
        """Adjoints of p and x0; those of controls go through `forward_products`."""
        if want_u:
            raise UnsupportedOperation("adjoints of controls by forward sensitivities come from Simulator.vjp")
        if x is not None:
            x[...] = self._inner.simulate(batch, x0, p)[0]
        uncontrolled = forward_products(self._inner, x0, batch, p, seeds, self._chunk, controls=False)
        return Gradient(uncontrolled[0], uncontrolled[1], None, uncontrolled[3])
