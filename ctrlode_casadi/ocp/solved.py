"""What mesh refinement and verification need to know of a solution."""

from __future__ import annotations

from typing import Any, Protocol

from ..base.arrays import Float64Array
from .groups import NLP
from .oracle import Oracle
from .transcription import Trajectory, Transcription


class Solved(Protocol):
    """A solution; the attributes are those of `OptimalControlSolution`."""

    t0: float
    tf: float
    t: Float64Array
    x: Float64Array
    p: Float64Array
    objective: float
    trajectory: Trajectory

    @property
    def transcription(self) -> Transcription:
        """How the problem was written down."""

    @property
    def nlp(self) -> NLP:
        """The nonlinear program."""

    @property
    def oracle(self) -> Oracle:
        """Functions of the scaled program."""

    @property
    def w(self) -> Float64Array:
        """Variables of the NLP."""

    @property
    def multipliers(self) -> Any:
        """Lagrange multipliers."""

    def resample_z(self, t: Any) -> Float64Array:
        """Algebraic variables at times t."""

    @property
    def controls(self) -> Any:
        """The control as an object."""
