"""The outcome of one trajectory."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How the integration of one trajectory ended; 0 is success. `message` says what to do else."""

    SUCCESS = 0
    NON_FINITE = 1
    MAX_STEPS = 2
    STEP_TOO_SMALL = 3
    INTERRUPTED = 4
    SINGULAR = 5
    INCONSISTENT = 6
    TOO_MANY_EVENTS = 7
    SOLVER_FAILURE = 8
    TIME_LIMIT = 9
    STIFF = 10

    @property
    def message(self) -> str:
        """One sentence that says what happened and, for a failure, the usual remedy."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.SUCCESS: "The trajectory reached the last save time.",
    Status.NON_FINITE: (
        "The state or its derivative became infinite or NaN: use smaller or bounded parameters, smaller steps "
        "(steps_per_interval, rtol), Rodas5P() where the model is stiff, or check the model at this initial state and "
        "control."
    ),
    Status.MAX_STEPS: (
        "The step limit was reached before the last save time: raise max_steps, or loosen rtol and atol; where the "
        "steps are small without visible change of the state the model is stiff: use solver='auto', Rodas5P() or "
        "CVODES()."
    ),
    Status.STEP_TOO_SMALL: (
        "The step size fell below the spacing of floating-point numbers at this time: the solution has a singularity "
        "or a jump, or the tolerances are too tight; check the model there, or loosen rtol and atol."
    ),
    Status.INTERRUPTED: "The integration was interrupted before the last save time: call again to compute it anew.",
    Status.SINGULAR: (
        "The linear equations of an implicit step are singular: check that the Jacobian of the algebraic equations "
        "with respect to the algebraic variables is regular (index 1) and finite here, and that the mass matrix fits."
    ),
    Status.INCONSISTENT: (
        "No algebraic values that satisfy the algebraic equations were found, at the initial time, at a save time or "
        "after a jump of the control: give a guess z0 closer to the solution, or check the equations; constraints on "
        "differential states only (index 2) must be differentiated."
    ),
    Status.TOO_MANY_EVENTS: (
        "More events than max_events happened before the last save time, perhaps ever faster ones: end the simulation "
        "earlier, model the limit (a ball at rest) by a terminal event, or raise max_events."
    ),
    Status.SOLVER_FAILURE: (
        "CasADi's integrator gave up before the last save time: loosen or tighten its tolerances, raise its step "
        "limit, or check the model at this state."
    ),
    Status.TIME_LIMIT: (
        "The time limit was reached before the last save time: raise time_limit, loosen the tolerances, or choose a "
        "solver for stiff problems, Rodas5P() or CVODES()."
    ),
    Status.STIFF: (
        "The step limit was reached before the last save time, and stability, not the error, kept the steps small: the "
        "model is stiff here; use solver='auto', Rodas5P() or CVODES()."
    ),
}
