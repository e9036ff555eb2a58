"""The time that all solves of one call may take together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .monitor import Iteration
from .solvers import Result, plugin_options
from .status import SolveStatus

Watch = Callable[[Iteration], Any]

#: Options of IPOPT that limit the time of one solve, in seconds.
_LIMITS = ("max_wall_time", "max_cpu_time")


class TimeLimit:
    """What is left of a limit of time that the user gave as an option of the solver.

    The solver itself keeps to its limit in the first solve of a call. The solves after it get what is left.

    Parameters
    ----------
    solver, options
        Name of the solver and the user's options; without a limit of IPOPT's there is none.
    """

    def __init__(self, solver: str = "", options: Mapping[str, Any] | None = None) -> None:
        given = plugin_options(solver, options).get("ipopt", {}) if solver == "ipopt" else {}
        self._limit = min((float(given[name]) for name in _LIMITS if name in given), default=np.inf)
        self._used = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self._used >= self._limit

    def run(self, solve: Callable[[Watch | None], Result], watch: Watch | None) -> Result:
        """One solve with an iteration callback; its status tells a limit from a user who stopped it."""
        rest, began, late = self._limit - self._used, time.perf_counter(), False

        def timed(iteration: Iteration) -> bool:
            nonlocal late
            stop = watch is not None and bool(watch(iteration))
            late = not stop and time.perf_counter() - began > rest
            return stop or late

        result = solve(timed if self._used > 0.0 and np.isfinite(rest) else watch)
        self._used += float(result.stats["seconds"])
        if late and result.status is SolveStatus.INTERRUPTED:
            return replace(result, status=SolveStatus.TIME_LIMIT, message="the time limit of all solves was reached")
        return result
