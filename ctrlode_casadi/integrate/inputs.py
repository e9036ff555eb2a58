"""Checked inputs of a simulation; what was prepared for recent batches is used again."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import DataError
from ..model.ode import ControlledODE
from . import problem
from .batch import Batch
from .settings import check_step_count


class Inputs:
    """Reads the arguments of a simulator's calls; safe for several threads.

    Parameters
    ----------
    model
        The user's model.
    system
        What is integrated: the model, or (x, z) as the states of one system.
    solver
        What integrates.
    dtype
        Type of all arrays.
    """

    def __init__(self, model: ControlledODE, system: ControlledODE, solver: object, dtype: np.dtype[Any]) -> None:
        self._model, self._system, self._solver, self._dtype = model, system, solver, dtype
        self._recent: list[tuple[Any, NDArray[np.float64], int, Batch]] = []
        self._lock = threading.RLock()

    def batch(self, x0: Any, controls: Any, ts: Any) -> tuple[NDArray[Any], Batch]:
        """Checked initial states (B, nx) and the batch of save times and controls."""
        shared = not problem.is_ragged(ts) and not isinstance(controls, list | tuple)
        if shared and isinstance(ts, np.ndarray) and ts.dtype == np.float64 and ts.ndim == 1:
            size = self._size_of(x0, controls)
            with self._lock:
                for control, times, count, batch in self._recent:
                    if control is controls and count == size and np.array_equal(times, ts):
                        states = problem.check_states("x0", x0, self._model.nx, self._dtype)
                        return np.ascontiguousarray(np.broadcast_to(states, (count, self._model.nx))), batch
            states, batch = self._made(x0, controls, ts)
            with self._lock:
                self._recent = [(controls, ts.copy(), batch.size, batch), *self._recent[:3]]
            return states, batch
        return self._made(x0, controls, ts)

    def _made(self, x0: Any, controls: Any, ts: Any) -> tuple[NDArray[Any], Batch]:
        states, batch = problem.make_batch(self._model, x0, controls, ts, self._dtype)
        check_step_count(self._solver, batch)
        return states, batch

    def with_guess(self, x0: NDArray[Any], z0: Any) -> NDArray[Any]:
        """Initial states (B, nx) followed by a guess of the algebraic variables, where the solver integrates those."""
        nz = self._model.nz
        if z0 is not None and not nz:
            raise DataError("z0: the model has no algebraic variables (nz=0), leave it out")
        if self._system.nx + self._system.nz == self._model.nx:
            return x0
        guess = self._model.z0.astype(self._dtype)[None] if z0 is None else problem.check_guess(z0, nz, self._dtype)
        if guess.shape[0] not in (1, x0.shape[0]):
            raise DataError(f"z0: axis 0 must have B={x0.shape[0]} entries or 1, it has {guess.shape[0]}")
        return np.concatenate([x0, np.broadcast_to(guess, (x0.shape[0], nz))], axis=1)

    def _size_of(self, x0: Any, controls: Any) -> int:
        """Number of trajectories, -1 where the inputs do not agree."""
        states = problem.check_states("x0", x0, self._model.nx, self._dtype).shape[0]
        others = problem.check_controls(controls, self._model.nu, self._dtype)
        return states if others == 1 else others if states in (1, others) else -1
