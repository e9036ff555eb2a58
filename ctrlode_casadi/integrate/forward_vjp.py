"""The gradient from forward sensitivities: one tangent integration for each direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import UnsupportedOperation
from .batch import Batch

#: (dp, dx0, du) -> dx (B, T, nx)
Tangent = Callable[[NDArray[Any], NDArray[Any], Any], NDArray[Any]]


def forward_vjp(
    tangent: Tangent, x0: NDArray[Any], batch: Batch, n_params: int, seeds: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], Any]:
    """Adjoints of parameters, initial states and control values; failed trajectories contribute nothing.

    np + nx + K nu integrations of the tangent system: a control value of every trajectory is changed at once.
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
    if batch.controls is None:
        return p_bar, x0_bar, None
    if isinstance(batch.controls, list):
        raise UnsupportedOperation("sensitivity='forward' with a list of controls is not there; use the adjoint")
    values = batch.controls.values
    u_bar = np.zeros_like(values)
    for k in range(values.shape[1]):
        for c in range(values.shape[2]):
            change = np.zeros_like(values)
            change[:, k, c] = 1.0
            slope = along(zero_p, zero_x, change)
            u_bar[:, k, c] = slope if values.shape[0] > 1 else slope.sum()
    return p_bar, x0_bar, u_bar
