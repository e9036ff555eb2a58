"""Why an objective could not be evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..base.status import Status
from ..integrate.batch import Batch
from ..integrate.results import Sweep


@dataclass(frozen=True)
class Failure:
    """A trajectory without a finite cost.

    Attributes
    ----------
    trajectory
        Index of the first one that failed; -1 when the penalty on the parameters is not finite.
    n_failed
        How many trajectories failed.
    time
        Last save time that was reached.
    status
        Why it ended there; SUCCESS when only the cost is not finite.
    message
        All of this as a sentence, with the usual remedy.
    """

    trajectory: int
    n_failed: int
    time: float
    status: Status
    message: str

    def __str__(self) -> str:
        return self.message


def describe(batch: Batch, sweep: Sweep, loss: NDArray[np.float64] | None = None) -> Failure:
    """The failure of a sweep, or of a cost that is not finite."""
    failed = ~sweep.success
    if not failed.any() and loss is not None:
        failed = ~np.isfinite(loss)
    if not failed.any():
        text = "The penalty on the parameters (regularization) is not finite."
        return Failure(-1, 0, float("nan"), Status.SUCCESS, text)
    b = int(np.flatnonzero(failed)[0])
    status = Status(int(sweep.status[b]))
    row = batch.ts[b if batch.ts.shape[0] > 1 else 0]
    time = float(row[max(int(sweep.reached[b]) - 1, 0)])
    why = status.message
    if status == Status.SUCCESS:
        why = "The trajectory is finite, but its cost is not: check the loss, weights and data."
    more = f" ({int(failed.sum())} of {batch.size} trajectories failed)" if batch.size > 1 else ""
    text = f"Trajectory {b} has no cost, valid up to t = {time:g}{more}. {status.name}: {why}"
    return Failure(b, int(failed.sum()), time, status, text)
