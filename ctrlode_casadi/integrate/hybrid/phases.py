"""Integrates phases of the trajectories of a chunk: many short calls of an engine that differ in their times only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch, PieceArrays
from ..engine import Engine
from ..repeated import RepeatedCall
from ..results import Call, Sweep, SweepEngine, new_sweep
from ..sweeps import slots as s
from .batch import Pace, PhaseBatch
from .grid import Points

#: Seconds up to which a call is repeated in one thread, without set-up.
BRIEF = 5e-4

IntArray = NDArray[np.int64]


class Phases:
    """Integrates phases on an engine.

    Parameters
    ----------
    inner
        The engine.
    parent
        The batch of whole trajectories.
    source
        Controls of the chunk.
    p
        Parameters.
    pace
        How long earlier calls of the engine took.
    """

    def __init__(self, inner: SweepEngine, parent: Batch, source: PieceArrays, p: NDArray[Any], pace: Pace) -> None:
        self._inner, self._parent, self._source, self._p, self._pace = inner, parent, source, p, pace
        self._compiled = inner if isinstance(inner, Engine) else None
        self._kept: dict[tuple[int, int], PhaseBatch] = {}
        self._calls: dict[tuple[Any, ...], RepeatedCall] = {}
        self._unis: list[NDArray[Any] | None] | None = None

    def simulate(self, rows: IntArray, points: Points, x: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (m, C, nx) at the points of trajectories `rows` of the chunk, from x (m, nx), and the report."""
        batch, (m, n) = self._batch(rows, points), points.ts.shape
        with self._pace.measured(batch.size):
            repeated = self._repeated(batch, s.SIMULATE)
            if repeated is None:
                states, sweep = self._inner.simulate(batch, _filled(x, batch.size), self._p)
            else:
                call = repeated.call
                call.x0[:m], call.x0[m:] = x, x[0]
                repeated.run()
                states, sweep = np.array(call.x), call.sweep
        return states[:m, :n], Sweep(*(v[:m].copy() for v in vars(sweep).values()))

    def vjp(
        self,
        rows: IntArray,
        points: Points,
        x: NDArray[Any],
        seeds: NDArray[Any],
        want_u: bool,
        checkpoints: int | None,
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        """Adjoints of x (m, nx), of p, and of the coefficients of the controls, for seeds (m, C, nx)."""
        batch, (m, n) = self._batch(rows, points), points.ts.shape
        repeated = self._repeated(batch, s.VJP, want_u, checkpoints or 0)
        if repeated is not None and repeated.call.seeds is not None and repeated.call.x0_bar is not None:
            call, wide = repeated.call, repeated.call.seeds
            call.x0[:m], call.x0[m:] = x, x[0]
            wide[...] = 0.0
            wide[:m, :n] = seeds
            repeated.run()
            x0_bar, p_bar, bars = repeated.call.x0_bar[:m].copy(), repeated.p_bar, repeated.bars
        else:
            wide = np.zeros((batch.size, batch.n_save, seeds.shape[2]), x.dtype)
            wide[:m, :n] = seeds
            found = self._inner.vjp(
                batch, _filled(x, batch.size), self._p, wide, want_u=want_u, checkpoints=checkpoints
            )
            x0_bar, p_bar = found.x0_bar[:m], found.p_bar
            bars = found.control_bars[0].coefficients if found.control_bars else None
        return x0_bar, p_bar, bars if bars is None or bars.shape[0] == 1 else bars[:m]

    def release(self) -> None:
        """Return the work arrays of repeated calls."""
        for repeated in self._calls.values():
            repeated.release()
        self._calls.clear()

    def _batch(self, rows: IntArray, points: Points) -> PhaseBatch:
        """The batch of some phases; a compiled engine finds again what it has prepared for the size."""
        m, n = points.ts.shape
        again = self._compiled is not None
        size = (_roomy(m), _roomy(n)) if again else (m, n)
        found = self._kept.get(size) if again else None
        if found is None:
            parent, source = self._parent, self._source

            def room(v: NDArray[Any]) -> NDArray[Any]:
                return v if v.shape[0] == 1 else np.empty((size[0], *v.shape[1:]), v.dtype)

            own = PieceArrays(
                room(source.breaks), room(source.stops), room(source.anchors), room(source.coefficients), source.jumps
            )
            found = self._kept[size] = PhaseBatch(
                np.empty(size), np.empty(size[0], np.int64), parent.controls, size[0], parent.nu,
                np.dtype(parent.dtype), source=source, own=own, again=again, pace=self._pace,
            )  # fmt: skip
        found.fill(rows, points)
        return found

    def _repeated(
        self, batch: PhaseBatch, mode: int, want_u: bool = False, checkpoints: int = 0
    ) -> RepeatedCall | None:
        """The repeated call for a batch, None where it takes long enough for several threads."""
        engine, expected = self._compiled, batch.expected_seconds
        if engine is None or expected is None or expected > BRIEF or len(batch.chunks()) > 1:
            return None
        key = id(batch), mode, want_u, checkpoints
        found = self._calls.get(key)
        if found is None:
            if self._unis is None:
                self._unis = engine.prologues(self._p)
            x0, shape = np.zeros((batch.size, engine.nx), engine.dtype), (batch.size, batch.n_save, engine.nx)
            states, back = np.zeros(shape, engine.dtype), mode == s.VJP
            call = Call(
                mode, batch, x0, new_sweep(batch.size), want_u and engine.nu > 0, checkpoints,
                None if back else states, states if back else None, x0_bar=np.zeros_like(x0) if back else None,
            )  # fmt: skip
            found = self._calls[key] = RepeatedCall(engine, call, self._unis)
        return found


def _roomy(n: int) -> int:
    """The next number of at most four to an octave, so that few sizes serve all."""
    unit = 1 << max(n.bit_length() - 3, 0)
    return -(-n // unit) * unit


def _filled(x: NDArray[Any], size: int) -> NDArray[Any]:
    """States with the first one repeated up to `size` rows."""
    m = x.shape[0]
    if m == size:
        return np.ascontiguousarray(x)
    out = np.empty((size, x.shape[1]), x.dtype)
    out[:m], out[m:] = x, x[0]
    return out
