"""How a solve ended."""

from __future__ import annotations

from enum import Enum


class SolveStatus(Enum):
    """Outcome of a nonlinear program, the same for all solvers; `message` says what to do."""

    SUCCESS = "success"
    ACCEPTABLE = "acceptable"
    INFEASIBLE = "infeasible"
    RESTORATION_FAILED = "restoration failed"
    MAX_ITERATIONS = "iteration limit"
    TIME_LIMIT = "time limit"
    STALLED = "stalled"
    DIVERGED = "diverged"
    NON_FINITE = "non-finite"
    TOO_FEW_VARIABLES = "too few variables"
    INTERRUPTED = "interrupted"
    SOLVER_FAILURE = "solver failure"

    @property
    def success(self) -> bool:
        """Whether the point meets the solver's tolerances, the acceptable ones included."""
        return self in (SolveStatus.SUCCESS, SolveStatus.ACCEPTABLE)

    @property
    def message(self) -> str:
        """One sentence that says what happened and, for a failure, the usual remedy."""
        return _MESSAGES[self]


_MESSAGES = {
    SolveStatus.SUCCESS: "An optimal point was found.",
    SolveStatus.ACCEPTABLE: "A point was found that meets the solver's acceptable tolerances, but not the tight ones.",
    SolveStatus.INFEASIBLE: (
        "The solver converged to a point where the constraints are violated as little as possible nearby: check that "
        "the problem has a solution, relax constraints (soft=), or start from another guess."
    ),
    SolveStatus.RESTORATION_FAILED: (
        "The solver could not return to the constraints: start from a better guess, check scales, or relax bounds."
    ),
    SolveStatus.MAX_ITERATIONS: (
        "The iteration limit was reached: continue with guess=sol, raise options={'max_iter': ...}, or start closer."
    ),
    SolveStatus.TIME_LIMIT: "The time limit was reached: continue with guess=sol, or raise the limit.",
    SolveStatus.STALLED: (
        "Steps became too small to make progress: the problem is badly scaled or not smooth near this point, or this "
        "point is as good as round-off allows."
    ),
    SolveStatus.DIVERGED: "The iterates grew without limit: add bounds, or check the sign of the cost.",
    SolveStatus.NON_FINITE: (
        "A function or derivative became infinite or NaN on the way: add bounds that keep states and controls where "
        "the model is defined."
    ),
    SolveStatus.TOO_FEW_VARIABLES: "There are more equations than variables: remove constraints or free something.",
    SolveStatus.INTERRUPTED: "The solve was interrupted; the solution holds the last iterate.",
    SolveStatus.SOLVER_FAILURE: "The solver gave up; its own message says why.",
}

#: What CasADi's plugins return as return_status, in lower case with spaces for underscores.
_TEXTS = {
    "solve succeeded": SolveStatus.SUCCESS,
    "success": SolveStatus.SUCCESS,
    "solved": SolveStatus.SUCCESS,
    "converged": SolveStatus.SUCCESS,
    "feasible point found": SolveStatus.SUCCESS,
    "solved to acceptable level": SolveStatus.ACCEPTABLE,
    "infeasible problem detected": SolveStatus.INFEASIBLE,
    "restoration failed": SolveStatus.RESTORATION_FAILED,
    "maximum iterations exceeded": SolveStatus.MAX_ITERATIONS,
    "maximum number of iterations reached": SolveStatus.MAX_ITERATIONS,
    "maximum cputime exceeded": SolveStatus.TIME_LIMIT,
    "maximum walltime exceeded": SolveStatus.TIME_LIMIT,
    "search direction becomes too small": SolveStatus.STALLED,
    "search direction too small": SolveStatus.STALLED,
    "diverging iterates": SolveStatus.DIVERGED,
    "invalid number detected": SolveStatus.NON_FINITE,
    "not enough degrees of freedom": SolveStatus.TOO_FEW_VARIABLES,
    "user requested stop": SolveStatus.INTERRUPTED,
    "maximum iterations": SolveStatus.MAX_ITERATIONS,
    "search direction becomes too small.": SolveStatus.STALLED,
}

_UNIFIED = {
    "SOLVER_RET_SUCCESS": SolveStatus.SUCCESS,
    "SOLVER_RET_LIMITED": SolveStatus.MAX_ITERATIONS,
    "SOLVER_RET_NAN": SolveStatus.NON_FINITE,
    "SOLVER_RET_INFEASIBLE": SolveStatus.INFEASIBLE,
}


def status_of(text: str, success: bool, unified: str = "") -> SolveStatus:
    """The outcome that a solver's own text stands for."""
    known = _TEXTS.get(text.lower().replace("_", " ").strip())
    if known is not None:
        return known
    if success:
        return SolveStatus.SUCCESS
    return _UNIFIED.get(unified, SolveStatus.SOLVER_FAILURE)
