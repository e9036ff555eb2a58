"""Entries of the task table that come from NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import address
from .batch import Batch, PieceArrays
from .sweeps import slots as s

#: Addresses that change from call to call, in the order in which the engine lists them.
CALL_SLOTS = np.array([
    s.CANCEL_AT, s.COUNTER_AT, s.P_BAR_AT, s.COEF_BAR_AT, s.X0_AT, s.X_AT, s.XBAR_AT, s.SCALE_AT, s.LOSS_AT,
    s.SLOPES_AT, s.X0_BAR_AT, s.STATUS_AT, s.REACHED_AT, s.STEPS_AT, s.REJECTED_AT, s.RHS_AT,
    s.MODEL + s.UNI_AT, s.COST + s.UNI_AT, s.TERMINAL + s.UNI_AT, s.JACOBIAN + s.UNI_AT,
])  # fmt: skip


def row_address(array: NDArray[Any] | None, row: int) -> int:
    """Address of a row of an array with the batch first."""
    return 0 if array is None else address(array) + row * array.strides[0]


def put_times(table: NDArray[np.int64], batch: Batch, pieces: PieceArrays) -> None:
    """Save times and controls."""
    table[[s.TS_AT, s.COUNT_AT, s.BREAKS_AT]] = address(batch.ts), address(batch.counts), address(pieces.breaks)
    table[[s.STOPS_AT, s.ANCHORS_AT]] = address(pieces.stops), address(pieces.anchors)
    table[s.COEF_AT] = address(pieces.coefficients)
    table[[s.NT, s.NB, s.POWERS]] = batch.n_save, pieces.anchors.shape[1], pieces.coefficients.shape[3]
    table[[s.OWN_TS, s.OWN_BREAKS]] = batch.ts.shape[0] > 1, pieces.breaks.shape[0] > 1
    table[[s.OWN_STOPS, s.OWN_COEF]] = pieces.stops.shape[0] > 1, pieces.coefficients.shape[0] > 1
    table[s.JUMPS] = pieces.jumps
