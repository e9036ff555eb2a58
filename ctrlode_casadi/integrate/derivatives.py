"""Derivatives of a simulation: products with its Jacobian and with the transpose, by the chosen method."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import IntegrationWarning
from ..base.status import Status
from ..model.ode import ControlledODE
from .batch import Batch
from .forward_vjp import forward_vjp
from .paths import Paths
from .results import Gradient, Sweep
from .sensitivity import Adjoint, Forward, Sensitivity
from .tangent import TangentControl


class Derivatives:
    """Differentiates the simulations of one model on checked inputs.

    Parameters
    ----------
    model
        The model.
    paths
        Its engines.
    sensitivity
        How `vjp` computes.
    """

    def __init__(self, model: ControlledODE, paths: Paths, sensitivity: Sensitivity) -> None:
        self._model, self._paths, self._sensitivity = model, paths, sensitivity

    def vjp(
        self, x0: NDArray[Any], batch: Batch, p: NDArray[Any], seeds: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], Any]:
        """Adjoints of p (np,), x0 (B, nx) and the control values for seeds (B, T, nx)."""
        if isinstance(self._sensitivity, Forward):
            tangent = partial(self.along, x0, batch, p)
            return forward_vjp(tangent, x0, batch, self._model.np, seeds)
        found = self._adjoint(x0, batch, p, seeds)
        u_bar = batch.values_adjoint(found.control_bars) if found.control_bars else None
        return found.p_bar, found.x0_bar, u_bar

    def along(
        self, x0: NDArray[Any], batch: Batch, p: NDArray[Any], dp: NDArray[Any], dx0: NDArray[Any], du: Any
    ) -> NDArray[Any]:
        """dx (B, T, nx) along one direction."""
        nx = self._model.nx
        if batch.size == 0:
            return np.zeros((0, batch.n_save, nx), batch.dtype)
        controls: Any = None
        if batch.controls is None:
            pass
        elif isinstance(batch.controls, list):
            changes = du if du is not None else [None] * len(batch.controls)
            controls = [TangentControl(c, d) for c, d in zip(batch.controls, changes, strict=True)]
        else:
            controls = TangentControl(batch.controls, du)
        pair = Batch(batch.ts, batch.counts, controls, batch.size, 2 * self._model.nu, np.dtype(batch.dtype))
        start = np.concatenate([x0, dx0], axis=1)
        x, _ = self._paths.engine(batch.size, tangent=True).simulate(pair, start, np.concatenate([p, dp]))
        return np.ascontiguousarray(x[:, :, nx:])

    def _adjoint(self, x0: NDArray[Any], batch: Batch, p: NDArray[Any], seeds: NDArray[Any]) -> Gradient:
        plan = self._sensitivity
        checkpoints = plan.checkpoints if isinstance(plan, Adjoint) else None
        engine = self._paths.engine(batch.size)
        found = engine.vjp(batch, x0, p, seeds, want_u=self._model.nu > 0, checkpoints=checkpoints)
        _warn(found.sweep, batch)
        if not (np.isfinite(found.p_bar).all() and np.isfinite(found.x0_bar).all()):
            warnings.warn(
                "the gradient is not finite although the trajectories are: a derivative of the model is infinite or "
                "NaN on the way, as that of sqrt(x) at x = 0; rewrite the model, for example as sqrt(x + 1e-12)",
                IntegrationWarning,
                stacklevel=4,
            )
        return found


def _warn(sweep: Sweep, batch: Batch) -> None:
    """One warning that names the first failed trajectory."""
    failed = np.flatnonzero(~sweep.success)
    if failed.size:
        b = int(failed[0])
        row = batch.ts[b if batch.ts.shape[0] > 1 else 0]
        warnings.warn(
            f"{failed.size} of {batch.size} trajectories failed and contribute nothing to the gradient; trajectory "
            f"{b} after t={row[max(int(sweep.reached[b]) - 1, 0)]:g}: {Status(int(sweep.status[b])).message}",
            IntegrationWarning,
            stacklevel=5,
        )
