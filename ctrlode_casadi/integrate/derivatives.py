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
from .cost_model import Choice, Selection
from .engine import Engine
from .forward_vjp import ForwardProducts, vjp_by_directions
from .integrators.products import forward_products
from .paths import Paths
from .results import CallWork, Gradient, Sweep
from .sensitivity import Adjoint, Automatic, Forward, Sensitivity
from .tangent import with_change


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
    forward
        Forward sensitivities in chunks; None where the paths offer single directions only.
    selection
        Chooses between adjoint and forward.

    Attributes
    ----------
    choice
        What "auto" chose in the last call; None before, and with another sensitivity.
    work
        Memory and recomputation of the last product on the compiled path.
    """

    def __init__(
        self,
        model: ControlledODE,
        paths: Paths,
        sensitivity: Sensitivity,
        forward: ForwardProducts | None,
        selection: Selection,
    ) -> None:
        self._model, self._paths, self._sensitivity = model, paths, sensitivity
        self._forward, self._selection = forward, selection
        self.choice: Choice | None = None
        self.work: CallWork | None = None

    def explain(self) -> list[str]:
        """Lines on the method, the reason for it, and what the last product took."""
        lines = [f"sensitivity: {self._sensitivity!r}"]
        if isinstance(self._sensitivity, Automatic):
            lines = ["sensitivity: 'auto', decided with the first product (sim.vjp)"]
            if self.choice is not None:
                lines = [f"sensitivity: 'auto', {self.choice.sensitivity!r} for {self.choice.reason}"]
        if self.work is not None:
            lines.append(f"last product: {self.work}")
        return lines

    def plan(self, batch: Batch) -> Adjoint | Forward:
        """The method for a batch."""
        wanted = self._sensitivity
        if not isinstance(wanted, Automatic):
            return wanted if isinstance(wanted, Forward | Adjoint) else Adjoint()
        if self._forward is None or self._paths.backend != "compiled":
            self.choice = Choice(Adjoint(), "forward sensitivities of this simulator go one direction at a time")
        else:
            found: Choice | None = batch.prepared.get(self._selection)
            if found is None:
                sizes = [c.n for c in self._forward.columns(batch, None)]
                found = batch.prepared[self._selection] = self._selection.choose(sum(sizes), len(sizes), batch)
            self.choice = found
        return self.choice.sensitivity

    def vjp(
        self, x0: NDArray[Any], batch: Batch, p: NDArray[Any], seeds: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], Any]:
        """Adjoints of p (np,), x0 (B, nx) and the control values for seeds (B, T, nx)."""
        plan, integrator = self.plan(batch), self._paths.integrator
        if isinstance(plan, Forward):
            if integrator is not None:
                p_bar, x0_bar, u_bar, sweep = forward_products(integrator, x0, batch, p, seeds, plan.chunk)
                _warn(sweep, batch)
                return p_bar, x0_bar, u_bar
            if self._forward is None:
                return vjp_by_directions(partial(self.along, x0, batch, p), x0, batch, self._model.np, seeds)
            compiled = self._paths.backend == "compiled"
            p_bar, x0_bar, u_bar, sweep = self._forward.vjp(compiled, x0, batch, p, seeds, plan.chunk)
            self.work = self._forward.work
            _warn(sweep, batch)
            _warn_infinite(p_bar, x0_bar)
            return p_bar, x0_bar, u_bar
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
        integrator = self._paths.integrator
        if integrator is not None:
            return integrator.tangents([with_change(batch, du)], x0, p, dp[None], dx0[None])[0]
        pair = with_change(batch, du)
        start = np.concatenate([x0, dx0], axis=1)
        x, _ = self._paths.engine(batch.size, tangent=True).simulate(pair, start, np.concatenate([p, dp]))
        return np.ascontiguousarray(x[:, :, nx:])

    def _adjoint(self, x0: NDArray[Any], batch: Batch, p: NDArray[Any], seeds: NDArray[Any]) -> Gradient:
        plan = self._sensitivity
        checkpoints = plan.checkpoints if isinstance(plan, Adjoint) else None
        engine = self._paths.engine(batch.size)
        found = engine.vjp(batch, x0, p, seeds, want_u=self._model.nu > 0, checkpoints=checkpoints)
        self.work = engine.work if isinstance(engine, Engine) else None
        _warn(found.sweep, batch)
        _warn_infinite(found.p_bar, found.x0_bar)
        return found


def _warn_infinite(p_bar: NDArray[Any], x0_bar: NDArray[Any]) -> None:
    """One warning where a gradient is not finite."""
    if not (np.isfinite(p_bar).all() and np.isfinite(x0_bar).all()):
        warnings.warn(
            "the gradient is not finite although the trajectories are: a derivative of the model is infinite or "
            "NaN on the way, as that of sqrt(x) at x = 0; rewrite the model, for example as sqrt(x + 1e-12)",
            IntegrationWarning,
            stacklevel=5,
        )


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
