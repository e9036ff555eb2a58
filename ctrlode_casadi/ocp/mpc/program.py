"""One program of a controller or estimator: transcribed once, solved again and again with other numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...base.arrays import Float64Array, call
from ...base.errors import SolverError, unknown_name
from ..drive import BACKENDS, make_oracle, make_solver
from ..groups import NLP, IntArray
from ..solvers import Result, Start, check_solver
from ..stages import forward, solver_options
from ..status import SolveStatus
from ..transcription import Transcription
from .shift import make_shift

#: How a step starts from a shifted solution. `benchmarks/mpc.py --starts`, with a network in the model: 5.1 iterations,
#: 6.1 with the monotone strategy from 1e-6, 19 from a cold start.
WARM_OPTIONS: dict[str, dict[str, Any]] = {"ipopt": {"mu_strategy": "adaptive", "mu_init": 1e-4}}


class Program:
    """Functions and solvers of a transcription.

    Parameters
    ----------
    transcription
        The problem as an NLP.
    solver, options, backend
        As in `OptimalControlProblem.solve`.

    Attributes
    ----------
    transcription, oracle, backend
        The parts; `backend` is the one that evaluates the functions.
    shift
        Moves a start by one interval.
    """

    def __init__(
        self, transcription: Transcription, solver: str, options: Mapping[str, Any] | None, backend: str
    ) -> None:
        check_solver(solver)
        if backend not in BACKENDS:
            raise SolverError(unknown_name("backend", backend, BACKENDS))
        self.transcription = transcription = forward(transcription, solver)
        self.oracle, self.backend = make_oracle(transcription.nlp, backend, solver)
        self.shift = make_shift(transcription)
        nlp, given = transcription.nlp, solver_options(transcription, self.oracle, solver, options)
        self._cold = make_solver(self.oracle, nlp, solver, given, False, watched=False)
        extra = WARM_OPTIONS.get(solver)
        self._warm = make_solver(self.oracle, nlp, solver, extra | given, True, watched=False) if extra else self._cold

    @property
    def first_state(self) -> IntArray:
        """Places of the state at the start of the horizon."""
        return np.asarray(self.transcription.states.places[0])

    def with_numbers(
        self,
        q: Float64Array,
        fixed: IntArray,
        values: Float64Array,
        bounds: tuple[Float64Array, Float64Array] | None = None,
    ) -> NLP:
        """The program with parameters q, and some variables fixed; optionally with other bounds of all variables."""
        nlp = self.transcription.nlp
        lbw, ubw = (nlp.lbw, nlp.ubw) if bounds is None else bounds
        lbw, ubw = lbw.copy(), ubw.copy()
        lbw[fixed] = ubw[fixed] = values
        return replace(nlp, q=q, lbw=lbw, ubw=ubw)

    def solve(self, nlp: NLP, start: Start) -> Result:
        """Solve the program with new numbers; a failure of the solver is a status.

        Raises
        ------
        KeyboardInterrupt
            When the solve was interrupted.
        """
        begin = np.clip(start.w, nlp.lbw, nlp.ubw)
        solver = self._warm if start.warm else self._cold
        try:
            result: Result = solver.solve(nlp, replace(start, w=begin), None)
        except SolverError as exc:
            report = {"iterations": 0, "seconds": 0.0, "solver": "", "function_seconds": 0.0}
            return Result(
                begin, float("nan"), np.zeros(nlp.n_g), np.zeros(nlp.n_w), SolveStatus.SOLVER_FAILURE, str(exc), report
            )
        if result.status is SolveStatus.INTERRUPTED:
            raise KeyboardInterrupt
        if result.status.success and not np.isfinite(result.w).all():
            return replace(result, status=SolveStatus.NON_FINITE)
        return result

    def violation(self, nlp: NLP, w: Float64Array) -> float:
        """Largest violation of constraints and bounds at a point, scaled; NaN where the model is not finite."""
        g = call(self.oracle.constraints, w / nlp.scale_w, nlp.q)[0]
        parts = [
            nlp.lbg * nlp.scale_g - g,
            g - nlp.ubg * nlp.scale_g,
            (nlp.lbw - w) / nlp.scale_w,
            (w - nlp.ubw) / nlp.scale_w,
        ]
        return float(np.max(np.concatenate([np.zeros(1), *parts])))
