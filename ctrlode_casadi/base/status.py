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

    @property
    def message(self) -> str:
        """One sentence that says what happened and, for a failure, the usual remedy."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.SUCCESS: "The trajectory reached the last save time.",
    Status.NON_FINITE: (
        "The state or its derivative became infinite or NaN: use smaller or bounded parameters, smaller steps "
        "(steps_per_interval, rtol), or check the model at this initial state and control."
    ),
    Status.MAX_STEPS: (
        "The step limit was reached before the last save time: raise max_steps, or loosen rtol and atol; where the "
        "steps are small without visible change of the state the model is stiff: use model.to_dae() with "
        "casadi.integrator."
    ),
    Status.STEP_TOO_SMALL: (
        "The step size fell below the spacing of floating-point numbers at this time: the solution has a singularity "
        "or a jump, or the tolerances are too tight; check the model there, or loosen rtol and atol."
    ),
    Status.INTERRUPTED: "The integration was interrupted before the last save time: call again to compute it anew.",
}
