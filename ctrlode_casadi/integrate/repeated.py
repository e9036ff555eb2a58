"""Short calls of a compiled engine that follow each other: the arrays stay where they are, only the numbers change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import address
from ..base.status import Status
from . import threads
from .engine import Engine
from .results import Call
from .sweeps import slots as s


class RepeatedCall:
    """A call that is set up once and made many times, in one thread; a third of the time of a short call is set-up.

    Parameters
    ----------
    engine
        The engine.
    call
        Its arrays are read and written by every run. The batch keeps its arrays, too, and fits in one chunk.
    unis
        Of ``engine.prologues``.
    """

    def __init__(self, engine: Engine, call: Call, unis: Sequence[NDArray[Any] | None]) -> None:
        self.call, self._engine, self._unis = call, engine, unis
        self._ready = ready = engine.prepared(call, 0, call.batch.size)
        self._p_bars = np.zeros((ready.groups if call.backward else 1, engine.n_params), engine.dtype)
        self._bars = np.zeros(ready.bar_shape, engine.dtype) if call.want_u else None
        self._flags, self._done = np.zeros(2, np.int64), np.zeros((ready.groups, 3), np.int64)
        self._table = engine.complete(call, 0, ready, unis, self._flags, self._p_bars, self._bars)
        self._table[s.WORK_AT] = address(self._done)
        self._space = engine.idle.take(ready.sizes)
        self._space.prepare(self._table, ready.own_rows)

    def run(self) -> None:
        """Make the call."""
        self._start()
        began = time.perf_counter()
        if not threads.run_workers(self._work, 1, self._flags, self._ready.seconds):
            self._start()
            threads.run_workers(self._work, 1, self._flags, None)
        self._ready.seconds = time.perf_counter() - began
        if self._flags[0]:
            self.call.stop_at_limit(0, self.call.batch.size)
            self._clear()

    def release(self) -> None:
        """Return the work arrays; no run follows."""
        self._engine.idle.give(self._space)

    @property
    def p_bar(self) -> NDArray[Any]:
        """Adjoint of the parameters."""
        total: NDArray[Any] = self._p_bars.sum(axis=0)
        return total

    @property
    def bars(self) -> NDArray[Any] | None:
        """Adjoint of the coefficients of the controls, (1 or b, Nb, nu, d + 1), None unless asked for."""
        if self._bars is None:
            return None
        return self._bars.sum(axis=0, keepdims=True) if self.call.batch.shared_controls else self._bars.copy()

    def _start(self) -> None:
        self._flags[:] = 0
        self.call.sweep.status[:] = int(Status.INTERRUPTED)
        self.call.sweep.reached[:] = 0
        self._clear()

    def _clear(self) -> None:
        for array in (self._p_bars, self._bars, self.call.x0_bar):
            if array is not None:
                array[...] = 0

    def _work(self) -> None:
        group = -1
        while True:
            group = self._engine.sweeps.run_groups(self._space.table_address, group)
            if group < 0:
                return
            self._space = self._engine.larger(self._space)
            self._space.prepare(self._table, self._ready.own_rows)
