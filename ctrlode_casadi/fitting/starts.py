"""The argument `x0` of an objective, read in two steps: sizes first, arrays once the batch is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import FloatArray
from ..base.errors import DataError
from ..integrate.problem import check_states
from ..model.ode import ControlledODE
from .initial import (
    ComputedStates,
    Free,
    FreeStates,
    GivenStates,
    InitialState,
    Start,
    encoder_function,
    encoder_inputs,
    free_guess,
)
from .machine import Machine


@dataclass(frozen=True, eq=False)
class StartSpec:
    """A checked `x0`.

    Attributes
    ----------
    size
        Number of trajectories that it is for; 1 for any number.
    make
        Builds the initial states for a model and a machine.
    """

    size: int
    make: Callable[[ControlledODE, Machine], Start]


def read_start(x0: Any, model: ControlledODE, data: FloatArray | None, dtype: Any) -> StartSpec:
    """Check the argument `x0`; `data` (1 or B, T, n) has the default inputs of an `InitialState`."""
    if isinstance(x0, type) or x0 is None:
        raise DataError(f"x0: expected initial states (B, nx={model.nx}), Free(guess) or InitialState(fn), got {x0!r}")
    if isinstance(x0, Free):
        guess, mask = free_guess(x0, model.nx, dtype)

        def free(model: ControlledODE, machine: Machine) -> Start:
            return FreeStates(guess, mask, machine.size, model.np, machine.dtype)

        return StartSpec(guess.shape[0], free)
    if isinstance(x0, InitialState):
        rows = encoder_inputs(x0, None if data is None else data[:, 0], dtype)
        f = encoder_function(x0, model, rows.shape[1])

        def computed(model: ControlledODE, machine: Machine) -> Start:
            return ComputedStates(f, _spread(rows, machine), model.np, machine.threads)

        return StartSpec(rows.shape[0], computed)
    states = check_states("x0", x0, model.nx, dtype)
    return StartSpec(states.shape[0], lambda model, machine: GivenStates(_spread(states, machine)))


def _spread(rows: FloatArray, machine: Machine) -> Any:
    return np.ascontiguousarray(np.broadcast_to(rows, (machine.size, rows.shape[1])), dtype=machine.dtype)
