"""Tangent systems: the state and one directional derivative of it, integrated together."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..controls.pieces import Pieces
from .batch import Batch


def tangent_function(rhs: ca.Function) -> ca.Function:
    """(t, [x; dx], [u; du], [p; dp]) -> [xdot; dxdot] for a right-hand side (t, x, u, p) -> xdot."""
    nx, nu, n_params = rhs.numel_in(1), rhs.numel_in(2), rhs.numel_in(3)
    t, x = ca.MX.sym("t"), ca.MX.sym("x", 2 * nx)
    u, p = ca.MX.sym("u", 2 * nu), ca.MX.sym("p", 2 * n_params)
    base = [ca.MX.sym("x_", nx), ca.MX.sym("u_", nu), ca.MX.sym("p_", n_params)]
    change = [ca.MX.sym("dx_", nx), ca.MX.sym("du_", nu), ca.MX.sym("dp_", n_params)]
    xdot = rhs(t, *base)
    dxdot = ca.jtimes(xdot, ca.vertcat(*base), ca.vertcat(*change))
    both = ca.Function("both", [t, *base, *change], [xdot, dxdot])
    parts = both(t, x[:nx], u[:nu], p[:n_params], x[nx:], u[nu:], p[n_params:])
    return ca.Function("tangent", [t, x, u, p], [ca.vertcat(*parts)], ["t", "x", "u", "p"], ["xdot"])


class TangentControl:
    """A control and a change of its values as one control with twice the components; offers what a batch needs."""

    def __init__(self, control: Any, dvalues: NDArray[Any] | None) -> None:
        self.control = control
        self.dvalues = dvalues

    @property
    def n_trajectories(self) -> int:
        """Number of trajectories, 1 when shared."""
        return int(self.control.n_trajectories)

    def __getitem__(self, index: slice) -> TangentControl:
        """Some of the trajectories."""
        return TangentControl(self.control[index], None if self.dvalues is None else self.dvalues[index])

    def __call__(self, t: Any) -> NDArray[Any]:
        """Values and their change at times t, (B, m, 2 nu)."""
        base = self.control(t)
        change = np.zeros_like(base) if self.dvalues is None else self.control.jvp(t, self.dvalues)
        return np.concatenate([base, change], axis=-1)

    def pieces(self, t0: float, t1: float, start: int = 0, stop: int | None = None) -> Pieces:
        """Pieces of the control with those of its change appended."""
        base: Pieces = self.control.pieces(t0, t1, start, stop)
        if self.dvalues is None:
            change = np.zeros_like(base.coefficients)
        else:
            rows = self.dvalues if self.n_trajectories == 1 else self.dvalues[start:stop]
            change = self.control.pieces_tangent(t0, t1, rows, start, stop)
        both = np.concatenate([base.coefficients, change], axis=2)
        return Pieces(base.breaks, base.anchors, both, base.stops)


def with_change(batch: Batch, du: Any) -> Batch:
    """The batch with controls (u, du)."""
    controls: Any = batch.controls
    if isinstance(controls, list):
        changes = du if du is not None else [None] * len(controls)
        controls = [TangentControl(c, d) for c, d in zip(controls, changes, strict=True)]
    elif controls is not None:
        controls = TangentControl(controls, du)
    return Batch(batch.ts, batch.counts, controls, batch.size, 2 * batch.nu, batch.dtype)
