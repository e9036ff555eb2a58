"""How a simulation is differentiated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ..base.errors import SolverError, unknown_name
from .solvers import _count


@dataclass(frozen=True)
class Adjoint:
    """Discrete adjoint: the exact gradient of the numbers computed, step sizes held constant.

    Parameters
    ----------
    checkpoints
        None (default): the state at the start of every step is kept, nx numbers per step and lane. An integer k: at
        most k states of the block are kept, and the others are recomputed by binomial checkpointing; the sizes and
        times of the steps (five numbers, shared by all trajectories where the steps are fixed, else per lane) are
        always kept.
    """

    checkpoints: int | None = None

    def __post_init__(self) -> None:
        if self.checkpoints is not None:
            _count("Adjoint", "checkpoints", self.checkpoints)


@dataclass(frozen=True)
class Forward:
    """Forward sensitivities: the state and its derivatives along many directions, integrated together.

    Directions are the parameters, the initial states and the control values; the error norm sees the state only.

    Parameters
    ----------
    chunk
        Most directions integrated together; every chunk integrates the state again. By default all of them where the
        work arrays of a block of trajectories stay below 16 MB, else equal parts that do. Results differ by rounding
        only.
    """

    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None:
            _count("Forward", "chunk", self.chunk)


@dataclass(frozen=True)
class ContinuousAdjoint:
    """Adjoint differential equation, solved backwards by SUNDIALS; Runge-Kutta solvers refuse it."""


@dataclass(frozen=True)
class Automatic:
    """What `sensitivity="auto"` stands for: adjoint or forward, by the cost model in `cost_model`."""


Sensitivity: TypeAlias = Adjoint | Forward | ContinuousAdjoint | Automatic


def sensitivity_of(value: str | Sensitivity) -> Sensitivity:
    """The sensitivity for a name or an object."""
    if isinstance(value, Adjoint | Forward | ContinuousAdjoint | Automatic):
        return value
    known: dict[str, Sensitivity] = {"auto": Automatic(), "adjoint": Adjoint(), "forward": Forward()}
    if not isinstance(value, str) or value not in known:
        raise SolverError(unknown_name("sensitivity", value, known))
    return known[value]
