"""A CasADi function on many rows: machine code on lanes where there is one, CasADi's virtual machine elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ...base.arrays import Float64Array, call
from ...base.errors import UnsupportedOperation

#: Rows up to which inputs and outputs lie in arrays that are used again.
SMALL = 512


class RowFunction:
    """Evaluates a function for many rows; several threads may do so at once.

    Parameters
    ----------
    f
        Its last input is the same for all rows; every input and output is a dense column.
    compiled
        Whether machine code is wanted. What has no compiled form runs in CasADi's virtual machine.
    """

    def __init__(self, f: ca.Function, compiled: bool) -> None:
        self._f, self._compiled = f, compiled
        self._own = threading.local()
        self._maps: dict[int, ca.Function] = {}

    def __call__(self, p: NDArray[Any], *columns: NDArray[Any]) -> list[Float64Array]:
        """Outputs (m, k) for columns (m,) or (m, n) and the shared p, an array that is not changed between calls."""
        m = columns[0].shape[0]
        if m == 0:
            return [np.zeros((0, self._f.numel_out(i))) for i in range(self._f.n_out())]
        if self._compiled:
            try:
                return self._on_lanes(m, p, columns)
            except UnsupportedOperation:
                self._compiled = False
        return self._mapped(m, p, columns)

    def _on_lanes(self, m: int, p: NDArray[Any], columns: Sequence[NDArray[Any]]) -> list[Float64Array]:
        kept: dict[Any, _Lanes] = vars(self._own)
        size = 1 if m == 1 else SMALL
        lanes = kept.get(size)
        if lanes is None:
            lanes = kept[size] = _Lanes(self._f, size)
        lanes.prepare(p)
        return lanes.small(m, columns) if m <= size else lanes.large(m, columns)

    def _mapped(self, m: int, p: NDArray[Any], columns: Sequence[NDArray[Any]]) -> list[Float64Array]:
        # Maps are kept: there are eight sizes to an octave, and the last row fills up.
        unit = 1 << max(m.bit_length() - 4, 0)
        size = -(-m // unit) * unit
        inputs = [np.asarray(v, np.float64).reshape(m, -1) for v in columns]
        wide = [np.concatenate([v, np.repeat(v[-1:], size - m, axis=0)]).T for v in inputs]
        mapped = self._maps.get(size)
        if mapped is None:
            mapped = self._maps[size] = self._f.map(size, [False] * len(columns) + [True])
        found = call(mapped, *wide, np.asarray(p, np.float64))
        outputs = enumerate(found)
        return [np.ascontiguousarray(v.reshape(self._f.numel_out(i), size)[:, :m].T) for i, v in outputs]


class _Lanes:
    """Kernels of a function for one thread, with the arrays of a small call."""

    def __init__(self, f: ca.Function, size: int) -> None:
        from ...lowering.blocks import Move, aligned, prepared
        from ...lowering.value_kernels import value_kernels

        last = f.n_in() - 1
        self._kernels = k = value_kernels(f, last, size)
        n = f.numel_in(last)
        memory, self._uni = aligned(n, k.dtype), aligned(k.n_uni, k.dtype)
        self._p = memory[:n]
        self._given: NDArray[Any] | None = None
        self._prologue = prepared([], [(k.prologue, [memory], [self._uni])], [], k)
        self._rows = [np.zeros((size, f.numel_in(i))) for i in range(last)]
        self._outputs = [np.zeros((size, f.numel_out(i))) for i in range(f.n_out())]
        self._ins, self._outs = (
            [aligned(v.shape[1] * k.lanes, k.dtype) for v in side] for side in (self._rows, self._outputs)
        )
        self._move = Move
        self._run = self._prepared(self._rows, self._outputs)

    def _prepared(self, rows: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> Any:
        from ...lowering.blocks import prepared

        packs = [self._move(*pair) for pair in zip(rows, self._ins, strict=True)]
        unpacks = [self._move(*pair) for pair in zip(outputs, self._outs, strict=True)]
        return prepared(packs, [(self._kernels.value, [*self._ins, self._uni], self._outs)], unpacks, self._kernels)

    def prepare(self, p: NDArray[Any]) -> None:
        """Compute what depends on p only, unless it is the array of the call before."""
        if p is not self._given:
            self._given, self._p[...] = p, p
            self._prologue(slice(0, 1))

    def small(self, m: int, columns: Sequence[NDArray[Any]]) -> list[Float64Array]:
        """A call of few rows, in the arrays that are kept."""
        for row, column in zip(self._rows, columns, strict=True):
            row[:m] = column if column.ndim == 2 else column[:, None]
        self._run(slice(0, m))
        return [v[:m].copy() for v in self._outputs]

    def large(self, m: int, columns: Sequence[NDArray[Any]]) -> list[Float64Array]:
        """A call of many rows, read where they are."""
        rows = [np.ascontiguousarray(v, np.float64).reshape(m, -1) for v in columns]
        outputs = [np.empty((m, v.shape[1])) for v in self._outputs]
        self._prepared(rows, outputs)(slice(0, m))
        return outputs
