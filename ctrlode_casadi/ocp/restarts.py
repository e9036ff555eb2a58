"""Other starts for problems whose first solve did not end well.

Where a solver ends depends on its path, and on a nonconvex problem small things change the path. Two other starts are
worth a solve:

- From controls that are linear on each interval. With one control value per collocation point a coarse mesh can have
  optima that only exploit the quadrature, with controls that jump within an interval; they show in the error of the
  mesh. Others wander about in such controls for a thousand iterations. A linear control cannot do that; the optimum
  with it is then the better start. It is taken where a collocation fails, has a large error, or is not done after
  `_PATIENCE` iterations.
- With the other automatic sizes (see `scaling`), from controls that are moved a little: at the guess itself the
  constraints may not depend on the controls to first order, as those with the square of a control do not at zero. This
  start is taken where a solve fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..base.arrays import Float64Array
from .definition import Definition
from .guess import Guess
from .scaling import WIDE, is_automatic
from .solution import OptimalControlSolution
from .status import SolveStatus
from .transcription import Plan

#: Error of an interval, relative to the states' size, from which on a collocation is tried from another start, also
#: divided by the length of the interval in parts of the horizon: controls that jump change states by that much.
_DOUBTFUL, _DOUBTFUL_RATE = 1e-2, 0.5
#: Iterations after which a collocation is tried from a linear control; that one may take twice as many.
_PATIENCE = 200
#: How far controls are moved, relative to the width of their bounds, or to their size and one where there are none.
_MOVE = 1.0 / 16.0


@dataclass(frozen=True)
class Way:
    """How a solve differs from the usual one.

    Attributes
    ----------
    moved
        Whether the controls of the guess are moved.
    other_times
        Whether fixed final times are tried where the constraints are lost; see `free_time`.
    iterations
        Most iterations of IPOPT; None for the user's limit.
    scale_f
        Scale of the objective that was good for another mesh.
    """

    moved: bool = False
    other_times: bool = True
    iterations: int | None = None
    scale_f: float = 0.0


USUAL = Way()


@dataclass(eq=False)
class Search:
    """The solves of one problem on one mesh.

    Attributes
    ----------
    once
        Solves by a plan from a guess.
    has_freedom
        Whether a plan leaves more variables than equations.
    plan, guess
        Of the usual solve.
    solver, options
        Its name, and the user's options: a limit that the user set and that was met is the end.
    equations
        Whether there are equations along the way, which may leave a linear control no freedom.
    tried
        All solutions so far.
    """

    once: Callable[[Plan, Any, Way], OptimalControlSolution]
    has_freedom: Callable[[Plan, Any], bool]
    plan: Plan
    guess: Any
    solver: str
    options: Mapping[str, Any]
    equations: bool
    tried: list[OptimalControlSolution] = field(default_factory=list)

    def solve(self) -> OptimalControlSolution:
        """The usual solve, and others where it did not end well."""
        by_points = self.plan.control == "collocation"
        patient = not by_points or self.equations or self.solver != "ipopt" or _limits(self.options, "iter", "time")
        solution = self._run(self.plan, self.guess, USUAL if patient else Way(iterations=_PATIENCE))
        stopped = not patient and solution.status is SolveStatus.MAX_ITERATIONS
        if stopped:
            solution = self._after_linear_control(solution, 2 * _PATIENCE)
            if not solution.success and not self._ended:
                solution = self._run(self.plan, self.guess)
        if self._has_failed(solution):
            solution = self._second_start(solution)
        if by_points and not stopped and self._is_doubtful(solution):
            solution = self._after_linear_control(solution)
        if not solution.success and self.tried[-1].status is SolveStatus.INTERRUPTED:
            solution = self.tried[-1]
        if len(self.tried) > 1:
            for key in ("attempts", "seconds"):
                solution.stats[key] = sum(s.stats[key] for s in self.tried)
        return solution

    @property
    def _ended(self) -> bool:
        """Whether the last solve was ended by the user, or by the user's limit of time."""
        return self.tried[-1].status in (SolveStatus.INTERRUPTED, SolveStatus.TIME_LIMIT)

    def _run(self, plan: Plan, guess: Any, way: Way = USUAL) -> OptimalControlSolution:
        self.tried.append(self.once(plan, guess, way))
        return self.tried[-1]

    def _after_linear_control(
        self, old: OptimalControlSolution, iterations: int | None = None
    ) -> OptimalControlSolution:
        """A solution, or one from the optimum for a control that is linear on each interval if that is better."""
        plan = replace(self.plan, control="linear")
        if not self.has_freedom(plan, self.guess):
            return old
        linear = self._run(plan, self.guess, Way(other_times=False, iterations=iterations))
        if not linear.success:
            return old
        new = self._run(self.plan, linear, Way(scale_f=linear.nlp.scale_f))
        if not new.success or (old.success and worst_error(new) > worst_error(old)):
            return old
        new.stats["restarted"] = "linear control"
        return new

    def _second_start(self, old: OptimalControlSolution) -> OptimalControlSolution:
        """A solution with other sizes from controls that are moved; the old one if there is none."""
        scaling = self.plan.scaling
        if is_automatic(scaling):
            scaling = True if scaling == WIDE else WIDE
        new = self._run(replace(self.plan, scaling=scaling), self.guess, Way(moved=True, other_times=False))
        if not new.success:
            return old
        new.stats["restarted"] = "second start"
        return new

    def _has_failed(self, solution: OptimalControlSolution) -> bool:
        """Whether another start may lead to a solution; not where the user ended the solve."""
        if solution.status is SolveStatus.MAX_ITERATIONS and _limits(self.options, "iter"):
            return False
        return not solution.success and not self._ended

    def _is_doubtful(self, solution: OptimalControlSolution) -> bool:
        """Whether a collocation has failed, or its solution does not follow the differential equation."""
        if not solution.success:
            return self._has_failed(solution)
        lengths = self.plan.mesh.lengths
        return bool(np.any(solution.mesh_errors() > np.minimum(_DOUBTFUL, _DOUBTFUL_RATE * lengths)))


def _limits(options: Mapping[str, Any], *kinds: str) -> bool:
    """Whether the options of a solver set a limit of some kind."""
    names = [str(key) for key in options]
    names += [str(key) for inner in options.values() if isinstance(inner, Mapping) for key in inner]
    return any("max" in name and kind in name for name in names for kind in kinds)


def moved(d: Definition, guess: Guess) -> Guess:
    """The guess with its controls moved a little, into their bounds."""
    width = d.u_ub - d.u_lb

    def controls(fractions: Float64Array) -> Float64Array:
        u = guess.u(fractions)
        step = _MOVE * np.where(np.isfinite(width), width, np.maximum(1.0, np.abs(u)))
        return np.where(u + step <= d.u_ub, u + step, np.maximum(u - step, d.u_lb))

    return replace(guess, u=controls, rows=None)


def worst_error(solution: OptimalControlSolution) -> float:
    """Largest error of an interval."""
    return float(solution.mesh_errors().max())
