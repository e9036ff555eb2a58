"""The result of a fit, the same for all methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.arrays import Float64Array
from .task import Task
from .watch import Watch

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult


#: A value that lies above the best one by no more than this, relatively, is the same.
ROUND_OFF = 1e-10
#: What methods reach, relative to the value and to its typical size: IPOPT's barrier, for one, leaves that much.
ACCURACY, NEGLIGIBLE = 1e-6, 1e-9


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method says when it ends.

    Attributes
    ----------
    p
        Where it ended (n,); None to take the best point seen.
    success, status, message
        As in `scipy.optimize.OptimizeResult`.
    extra
        Further attributes of the result.
    keep
        Whether p is the result even where a better value was seen, as for a method that keeps constraints.
    """

    p: Float64Array | None
    success: bool
    status: int
    message: str
    extra: dict[str, Any] = field(default_factory=dict)
    keep: bool = False


def make_result(task: Task, watch: Watch, outcome: Outcome) -> OptimizeResult:
    """The result: value and gradient of the objective at the point where the fit ended, or at the best one seen."""
    from scipy.optimize import OptimizeResult

    p, message, best = outcome.p, outcome.message, watch.best
    if p is None:
        p = task.p0 if best is None else best.p
    fun, jac = watch.evaluate(p)
    success = outcome.success
    if best is not None and not outcome.keep and not fun <= best.fun + ROUND_OFF * abs(best.fun):
        if outcome.p is not None and not fun <= best.fun + max(ACCURACY * abs(best.fun), NEGLIGIBLE * task.size):
            success = False
            message += f"; it ended at the value {fun:.6g}, the best point seen is returned"
        p = best.p
        fun, jac = watch.evaluate(p)
    if success and not outcome.keep and np.array_equal(p, task.p0) and task.unfinished(p, fun, jac):
        success = False
        message += (
            "; but nothing better than p0 was found, though the gradient there is not small: give p_scale, the size of "
            "each parameter's likely change, or start elsewhere"
        )
    model = task.objective.sim.model
    fields: dict[str, Any] = {
        "x": p.copy(),
        "fun": fun,
        "jac": jac,
        "nit": max(watch.nit, 0),
        "nfev": watch.nfev,
        "njev": watch.njev,
        "nhev": watch.nhev,
        "success": success,
        "status": outcome.status,
        "message": message[:1].upper() + message[1:] + ("" if message.endswith(".") else "."),
        "method": task.method,
        "history": {name: np.asarray(values) for name, values in watch.history.items()},
        "elapsed": watch.elapsed,
        "p": model.layout.unflatten(p[: model.np].copy()),
    }
    return OptimizeResult(**fields, **outcome.extra)
