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
        times of the steps (six numbers per step and lane) are always kept.
    """

    checkpoints: int | None = None

    def __post_init__(self) -> None:
        if self.checkpoints is not None:
            _count("Adjoint", "checkpoints", self.checkpoints)


@dataclass(frozen=True)
class Forward:
    """Forward sensitivities: one integration of the tangent system per direction; for few parameters.

    Parameters
    ----------
    chunk
        Directions integrated together: 1, which None means too. More are refused with `SolverError`.
    """

    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.chunk is None:
            return
        _count("Forward", "chunk", self.chunk)
        if self.chunk != 1:
            raise SolverError(
                f"Forward: chunk: directions are integrated one at a time, got chunk={self.chunk}; leave it out, or "
                f"use Objective.jac, which integrates all directions together"
            )


@dataclass(frozen=True)
class ContinuousAdjoint:
    """Adjoint differential equation, solved backwards by SUNDIALS; Runge-Kutta solvers refuse it."""


Sensitivity: TypeAlias = Adjoint | Forward | ContinuousAdjoint


def sensitivity_of(value: str | Sensitivity) -> Sensitivity:
    """The sensitivity for a name or an object; "auto" is the discrete adjoint."""
    if isinstance(value, Adjoint | Forward | ContinuousAdjoint):
        return value
    known: dict[str, Sensitivity] = {"auto": Adjoint(), "adjoint": Adjoint(), "forward": Forward()}
    if not isinstance(value, str) or value not in known:
        raise SolverError(unknown_name("sensitivity", value, known))
    return known[value]
