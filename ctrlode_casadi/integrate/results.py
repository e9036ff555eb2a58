"""What a call of the engine takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.status import Status
from . import slots as s
from .batch import Batch, ControlBars


@dataclass(frozen=True, eq=False)
class Sweep:
    """What every call reports per trajectory.

    Attributes
    ----------
    status
        (B,) codes of `Status`.
    reached
        (B,) number of save times with a valid state.
    n_steps, n_rejected, n_rhs
        (B,) accepted steps, rejected trials and evaluations of the right-hand side of the forward sweep.
    """

    status: NDArray[np.int64]
    reached: NDArray[np.int64]
    n_steps: NDArray[np.int64]
    n_rejected: NDArray[np.int64]
    n_rhs: NDArray[np.int64]

    @property
    def success(self) -> NDArray[np.bool_]:
        """(B,) whether each trajectory reached its last save time."""
        return self.status == Status.SUCCESS


def new_sweep(size: int) -> Sweep:
    """A report of trajectories that were not integrated yet."""
    arrays = np.zeros((5, size), np.int64)
    arrays[0] = int(Status.INTERRUPTED)
    return Sweep(*arrays)


@dataclass(frozen=True, eq=False)
class Gradient:
    """Result of a reverse sweep.

    Attributes
    ----------
    p_bar
        (np,) adjoint of the parameters.
    x0_bar
        (B, nx) adjoint of the initial states; zero for a failed trajectory.
    control_bars
        Adjoint of the controls, one per chunk of trajectories, for `Batch.values_adjoint`; None
        unless asked for.
    sweep
        Status and counters.
    loss
        (B,) cost of each trajectory, infinite where it failed; empty when seeds were given.
    """

    p_bar: NDArray[Any]
    x0_bar: NDArray[Any]
    control_bars: list[ControlBars] | None
    sweep: Sweep
    loss: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class Call:
    """One call's arrays: inputs common to all chunks and outputs for the whole batch."""

    mode: int
    batch: Batch
    x0: NDArray[Any]
    sweep: Sweep
    want_u: bool = False
    checkpoints: int = 0
    x: NDArray[Any] | None = None
    seeds: NDArray[Any] | None = None
    d: NDArray[Any] | None = None
    w: NDArray[Any] | None = None
    scale: NDArray[np.float64] | None = None
    loss: NDArray[np.float64] | None = None
    x0_bar: NDArray[Any] | None = None

    @property
    def backward(self) -> bool:
        """Whether a reverse sweep follows."""
        return self.mode in (s.VJP, s.GRADIENT)
