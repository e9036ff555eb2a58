"""A second attempt for problems with a free final time.

For a fixed final time a problem may be easy, even convex, and still be hard with the time as a variable: on the way the
cost pulls the time to values that are too short, and there the violation of the constraints can have a minimum that is
no solution. A double integrator that is to be brought to rest in the least time ends that way on many meshes. So the
problem is solved with the time fixed at its guess and at multiples of it; the first solution is a point that satisfies
all constraints, and from it the time is freed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import SolverError
from .groups import NLP
from .guess import Guess
from .solvers import Result, Start
from .status import SolveStatus
from .transcription import Transcription

#: Outcomes after which another start may help.
_LOST = (SolveStatus.INFEASIBLE, SolveStatus.RESTORATION_FAILED)
#: Multiples of the guess, in the order in which they are tried.
_MULTIPLES = (1.0, 2.0, 0.5, 4.0, 0.25, 8.0, 0.125)
#: Iterations, all attempts together, after which no more is tried.
_MOST_ITERATIONS = 1000


def may_help(t: Transcription, result: Result) -> bool:
    """Whether a solve lost the constraints and its final time is free."""
    return bool(t.tf.size) and result.status in _LOST


@dataclass
class _Attempts:
    """Solves after the first one."""

    solve: Callable[[NLP, Start], Result]
    count: int = 0
    iterations: int = 0
    seconds: float = 0.0

    def run(self, nlp: NLP, w: Float64Array) -> Result | None:
        """One solve; None where the solver could not even begin."""
        self.count += 1
        try:
            result = self.solve(nlp, Start(w))
        except SolverError:
            return None
        self.iterations += int(result.stats["iterations"])
        self.seconds += float(result.stats["seconds"])
        return result


def solve_with_fixed_times(
    t: Transcription, nlp: NLP, guess: Guess, first: Result, solve: Callable[[NLP, Start], Result]
) -> Result:
    """A solution that was reached over a fixed final time, or the first result if there is none.

    Parameters
    ----------
    t, nlp
        The problem, and its program with the numbers of this solve.
    guess
        States and controls over the fraction of the horizon.
    first
        The result that was no solution.
    solve
        Solves a program from a start without multipliers.
    """
    tried = _Attempts(solve)
    times = np.clip(np.multiply(_MULTIPLES, guess.tf - t.definition.t0) + t.definition.t0, nlp.lbw[t.tf], nlp.ubw[t.tf])
    for tf in dict.fromkeys(times.tolist()):
        if tried.iterations >= _MOST_ITERATIONS:
            break
        lbw, ubw = nlp.lbw.copy(), nlp.ubw.copy()
        lbw[t.tf] = ubw[t.tf] = tf
        held = tried.run(replace(nlp, lbw=lbw, ubw=ubw), t.pack(replace(guess, tf=tf)))
        found = held if held is None or not held.status.success else tried.run(nlp, held.w)
        if found is not None and (found.status.success or found.status is SolveStatus.INTERRUPTED):
            text = (
                f"{found.message}; the first attempt ended with {first.message}, this one began at a fixed tf={tf:.6g}"
            )
            return _told(found, first, tried, text)
    text = f"{first.message}; {tried.count} attempts with a fixed final time led to no solution either"
    return _told(first, first, tried, text)


def _told(result: Result, first: Result, tried: _Attempts, text: str) -> Result:
    """A result that says what it took."""
    seconds = float(first.stats["seconds"]) + tried.seconds
    return replace(result, message=text, stats={**result.stats, "seconds": seconds, "attempts": 1 + tried.count})
