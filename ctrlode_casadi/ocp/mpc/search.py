"""The search for a plan: from the shifted solution, from the guess, with softened constraints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...base.arrays import Float64Array
from ..definition import Definition
from ..groups import NLP
from ..guess import make_guess
from ..solvers import Result, Start
from ..status import SolveStatus
from ..transcription import Plan, transcribe
from .program import Program
from .relaxed import can_relax, relaxed, violated_bounds

_LIMITS = (SolveStatus.MAX_ITERATIONS, SolveStatus.TIME_LIMIT)
#: Largest scaled violation at which a point counts as feasible.
_FEASIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class Found:
    """A plan that can be followed: the time and state where it begins, and the program and point it came from."""

    t0: float
    x: Float64Array
    program: Program
    nlp: NLP
    result: Result

    def control(self, t: float) -> Float64Array:
        """The plan's control at a time, within its bounds."""
        p = self.program.transcription
        fraction = np.array([(t - self.t0) / (self.nlp.q[1] - self.nlp.q[0])])
        u = p.control.evaluate(self.result.w[p.u].reshape(p.u.shape), fraction)[0]
        return np.asarray(np.clip(u, p.definition.u_lb, p.definition.u_ub))


@dataclass
class Attempts:
    """Solves of one step so far."""

    count: int = 0
    iterations: int = 0
    seconds: float = 0.0
    status: SolveStatus = SolveStatus.SOLVER_FAILURE
    suboptimal: bool = False
    texts: list[str] = field(default_factory=list)

    def note(self, kind: str, result: Result) -> bool:
        """Count a solve; whether it succeeded."""
        self.count += 1
        self.iterations += int(result.stats["iterations"])
        self.seconds += float(result.stats["seconds"])
        self.status = result.status
        if not result.status.success:
            self.texts.append(f"{kind} start: {result.message or result.status.value}")
        return result.status.success


class Search:
    """Plans of a receding horizon, one after another.

    1. The problem is solved from the last plan, moved by as many intervals as time has passed, with its multipliers.
    2. If that fails, from the guess.
    3. If that fails too, the relaxed problem is solved, likewise.
    4. A solve that reaches its limit of iterations or time at a point that satisfies the constraints ends the search.
    5. After a relaxed step from outside the bounds, step 3 comes first as long as the state stays outside.

    Parameters
    ----------
    definition
        The problem, with an initial state.
    settings
        How it is transcribed.
    dt
        Sampling time.
    guess
        The user's guess for cold starts.
    solver
        Name, options and backend.
    warm_start
        Whether there is a step 1.
    soften
        Price of violations in the relaxed problem; None for no relaxed problem.

    Attributes
    ----------
    good
        The last plan, None before the first.
    """

    def __init__(
        self,
        definition: Definition,
        settings: Plan,
        dt: float,
        guess: Mapping[str, Any] | None,
        solver: tuple[str, Mapping[str, Any] | None, str],
        warm_start: bool,
        soften: float | None,
    ) -> None:
        self.definition, self._settings, self._dt, self._guess = definition, settings, dt, guess
        self._solver, self._warm_start = solver, warm_start
        self._soften = soften if can_relax(definition) else None
        self.program = self._make_program(definition)
        self._relaxed: Program | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the last plan."""
        self.good: Found | None = None
        self._was_relaxed = False

    def find(self, q: Float64Array, x: Float64Array, now: float) -> tuple[Found | None, str, Attempts]:
        """The best plan from a state x, where it comes from ("solve", "suboptimal" or "relaxed"), and what it took.

        `good` is the plan afterwards, unless there is none.
        """
        tried = Attempts()
        straight = self._was_relaxed and bool(violated_bounds(self.definition, x))
        found, source = None, "solve"
        if not straight:
            found = self._attempt(self.program, q, x, now, tried)
        if found is None and self._soften is not None:
            if self._relaxed is None:
                self._relaxed = self._make_program(relaxed(self.definition, self._soften))
            found, source = self._attempt(self._relaxed, q, x, now, tried), "relaxed"
        self._was_relaxed = found is not None and source == "relaxed"
        self.good = found or self.good
        return found, "suboptimal" if source == "solve" and tried.suboptimal else source, tried

    def _make_program(self, d: Definition) -> Program:
        return Program(transcribe(d, self._settings, make_guess(d, self._guess)), *self._solver)

    def _attempt(self, program: Program, q: Float64Array, x: Float64Array, now: float, tried: Attempts) -> Found | None:
        """Solve from the shifted solution, and if that fails from the guess."""
        t = program.transcription
        nlp = program.with_numbers(q, program.first_state, t.reduction.states(x))
        start = self._shifted(program, now)
        if start is not None:
            result = program.solve(nlp, start)
            if tried.note("shifted", result) or self._usable(program, nlp, result, tried):
                return Found(now, x, program, nlp, result)
        guess = make_guess(replace(t.definition, x_start=x), self._guess)
        result = program.solve(nlp, Start(t.pack(guess)))
        usable = tried.note("cold", result) or self._usable(program, nlp, result, tried)
        return Found(now, x, program, nlp, result) if usable else None

    def _usable(self, program: Program, nlp: NLP, result: Result, tried: Attempts) -> bool:
        """Whether a solve that ran into a limit stopped at a point that satisfies the constraints."""
        if result.status not in _LIMITS or not program.violation(nlp, result.w) <= _FEASIBLE:
            return False
        tried.suboptimal = True
        return True

    def _shifted(self, program: Program, now: float) -> Start | None:
        """The last plan of a program, moved to a later time."""
        good = self.good
        if good is None or good.program is not program or not self._warm_start:
            return None
        start = Start(good.result.w, good.result.lam_g, good.result.lam_w)
        for _ in range(min(max(0, round((now - good.t0) / self._dt)), self._settings.mesh.size)):
            start = program.shift(start)
        return start
