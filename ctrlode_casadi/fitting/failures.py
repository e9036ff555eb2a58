"""Why an objective could not be evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.status import Status
from ..integrate.batch import Batch
from ..integrate.results import Sweep

#: Why a derivative is not finite where the value is.
_NO_SLOPE = (
    "the {} is not: the model, output or cost has no finite derivative at a point that is passed (such as sqrt, norm "
    "or log at 0); shift the argument, as in sqrt(x + 1e-12), or start elsewhere."
)


@dataclass(frozen=True)
class Failure:
    """A trajectory without a finite cost.

    Attributes
    ----------
    trajectory
        Index of the first one that failed; -1 when the penalty on the parameters is not finite, or when only the
        sum of the derivatives is known not to be.
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


def describe(
    batch: Batch,
    sweep: Sweep,
    loss: NDArray[np.float64] | None = None,
    *,
    what: str = "cost",
    bars: NDArray[Any] | None = None,
    penalty: bool = False,
) -> Failure:
    """The failure of a sweep, or of a cost or derivative that is not finite.

    Parameters
    ----------
    batch, sweep
        What was integrated, and how it went.
    loss
        What each trajectory adds to the sum, (B,).
    what
        Name of the sum: "cost", or the derivative that was asked for.
    bars
        Adjoint of the initial states (B, n), for a gradient.
    penalty
        Whether it is the penalty on the parameters that is not finite.
    """
    failed, derivative = ~sweep.success, what != "cost"
    if not failed.any() and loss is not None:
        failed = ~np.isfinite(loss)
    if not failed.any() and penalty:
        text = f"The {what} of the penalty on the parameters (regularization) is not finite."
        if not derivative:
            text = "The penalty on the parameters (regularization) is not finite."
        return Failure(-1, 0, float("nan"), Status.SUCCESS, text)
    if not failed.any() and bars is not None:
        failed = ~np.isfinite(bars).all(axis=1)
    if not failed.any():
        return Failure(-1, 0, float("nan"), Status.SUCCESS, f"The cost is finite, but {_NO_SLOPE.format(what)}")
    b = int(np.flatnonzero(failed)[0])
    status = Status(int(sweep.status[b]))
    row = batch.ts[b if batch.ts.shape[0] > 1 else 0]
    time = float(row[max(int(sweep.reached[b]) - 1, 0)])
    why = status.message
    if status == Status.SUCCESS:
        why = "The trajectory is finite, but its cost is not: check the loss, weights and data."
        if derivative:
            why = f"The trajectory is finite, but {_NO_SLOPE.format(what)}"
    more = f" ({int(failed.sum())} of {batch.size} trajectories failed)" if batch.size > 1 else ""
    text = f"Trajectory {b} has no {what}, valid up to t = {time:g}{more}. {status.name}: {why}"
    return Failure(b, int(failed.sum()), time, status, text)
