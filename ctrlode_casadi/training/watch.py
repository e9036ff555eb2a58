"""What happens during a fit: evaluations, the best point, history, progress, callbacks and the wish to stop."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import Float64Array
from ..fitting.objective import Objective

#: Seconds between two lines of progress.
QUIET = 2.0
#: Evaluations that are remembered: more than any line search needs to report the point that it accepted.
KEEP = 16


#: Columns of the history.
HISTORY = ("nit", "fun", "grad_norm", "violation", "nfev", "elapsed")

#: Status of a result that the limit of iterations, a callback, Ctrl-C or a failure at the start ended. 99 is SciPy's.
MAXITER, CALLBACK, INTERRUPTED, NO_START = 1, 99, 98, 97


class Stop(Exception):
    """Ends a method from inside: `status` and `message` of the result."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True, eq=False)
class Point:
    """An evaluation: parameters, value, and the gradient where it is known."""

    p: Float64Array
    fun: float
    jac: Float64Array | None = None


class Watch:
    """Stands between an optimiser and the objective.

    1. Every evaluation goes through `evaluate` or `note`; the best finite one is kept.
    2. `iterate` is called once per iteration, and once for the start.
    3. To stop, `iterate` raises `Stop`; a user's StopIteration becomes one.
    """

    def __init__(
        self,
        objective: Objective,
        method: str,
        maxiter: int,
        progress: bool,
        callback: Callable[[Any], Any] | None,
    ) -> None:
        self.objective = objective
        self.best: Point | None = None
        self.nit = -1
        self.nfev = self.njev = self.nhev = 0
        self.history: dict[str, list[float]] = {k: [] for k in HISTORY}
        self._method, self._maxiter, self._callback = method, maxiter, callback
        self._progress = progress
        self._recent: deque[Point] = deque(maxlen=KEEP)
        self._worst = 0.0
        self._began = time.perf_counter()
        self._printed = self._began - QUIET

    @property
    def elapsed(self) -> float:
        """Seconds since the start, compilation included."""
        return time.perf_counter() - self._began

    # --- evaluations ---------------------------------------------------------------------------------------------

    def start(self, fun: float) -> None:
        """Refuse to begin where the value is not finite."""
        if not np.isfinite(fun):
            raise Stop(
                NO_START,
                f"the objective is not finite at p0: {self.objective.last_failure} Start elsewhere, or use the methods "
                f"'multiple-shooting' or 'collocation', which start from the data",
            )

    def evaluate(self, p: Float64Array) -> tuple[float, Float64Array]:
        """Value and gradient at p."""
        for point in self._recent:
            if point.jac is not None and np.array_equal(point.p, p):
                return point.fun, point.jac
        fun, jac = self.objective(p)
        self.nfev, self.njev = self.nfev + 1, self.njev + 1
        self.note(p, fun, jac)
        return fun, jac

    def note(self, p: Float64Array, fun: float, jac: Float64Array | None = None) -> None:
        """Remember an evaluation."""
        point = Point(p.copy(), fun, jac)
        self._recent.append(point)
        if np.isfinite(fun):
            self._worst = max(self._worst, abs(fun))
            if self.best is None or fun < self.best.fun:
                self.best = point

    def barrier(self, fun: float) -> float:
        """The value for SciPy's line searches: at a failure, twice the largest value seen.

        They interpolate, and an infinity would turn their next step into NaN. No method accepts such a point, since
        it lies above all others, and it is never reported.
        """
        return fun if np.isfinite(fun) else 2.0 * self._worst + 1.0

    # --- iterations ----------------------------------------------------------------------------------------------

    def iterate(
        self,
        p: Float64Array,
        fun: float | None = None,
        jac: Float64Array | None = None,
        violation: float = float("nan"),
    ) -> None:
        """An iteration has reached p; value and gradient are evaluated if they are not given.

        `violation` is that of the constraints, where there are any.
        """
        if fun is None:
            fun, jac = self.evaluate(p)
        self.nit += 1
        norm = float("nan") if jac is None else float(np.abs(jac).max(initial=0.0))
        row = dict(zip(HISTORY, (self.nit, fun, norm, violation, self.nfev, self.elapsed), strict=True))
        for key, value in row.items():
            self.history[key].append(value)
        if time.perf_counter() - self._printed > QUIET:
            self.report()
        if self._callback is not None and self.nit > 0:
            self._call(self._callback, p, row, jac)
        if self.nit >= self._maxiter:
            raise Stop(MAXITER, f"the limit of {self._maxiter} iterations was reached")

    def _call(
        self, callback: Callable[[Any], Any], p: Float64Array, row: dict[str, float], jac: Float64Array | None
    ) -> None:
        from scipy.optimize import OptimizeResult

        at = OptimizeResult(x=p.copy(), jac=None if jac is None else jac.copy(), **row)
        try:
            callback(at)
        except StopIteration as exc:
            why = f": {exc.value}" if exc.value else ""
            raise Stop(CALLBACK, f"the callback raised StopIteration{why}") from None

    def report(self, end: str = "") -> None:
        """A line of progress on stderr."""
        if not self._progress or not self.history["nit"]:
            return
        self._printed = time.perf_counter()
        fun, norm, violation = (self.history[k][-1] for k in ("fun", "grad_norm", "violation"))
        slope = "" if np.isnan(norm) else f", largest derivative {norm:.2e}"
        slope += "" if np.isnan(violation) else f", violation {violation:.2e}"
        print(
            f"fit {self._method}: iteration {self.nit}, value {fun:.6g}{slope}, {self.elapsed:.1f} s{end}",
            file=sys.stderr,
            flush=True,
        )
