"""Numbering of variables and constraints while a transcription is written down.

Blocks of variables and rows are announced one after another, each entry with a *stage* (a place along the horizon).
`Assembler.build` sorts them by stage, so that neighbours in time are neighbours in the NLP: factorisations stay
banded, and solvers that want stage-wise problems find one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .groups import NLP, Group, IntArray

#: Stage of what belongs to the whole horizon: final time, free parameters.
GLOBAL = -1.0

#: Text for the entry at an index of a block.
Describe = Callable[..., str]


class _Table:
    """Blocks of entries that are numbered in the order of their announcement."""

    def __init__(self) -> None:
        self.n = 0
        self._starts: list[int] = []
        self._shapes: list[tuple[int, ...]] = []
        self._texts: list[Describe] = []
        self._columns: dict[str, list[Float64Array]] = {}

    def add(self, shape: tuple[int, ...], text: Describe, **columns: Any) -> IntArray:
        """Numbers of a new block's entries; each column is broadcast to the shape."""
        self._starts.append(self.n)
        self._shapes.append(shape)
        self._texts.append(text)
        size = int(np.prod(shape))
        for name, values in columns.items():
            full = np.broadcast_to(np.asarray(values, dtype=np.float64), shape)
            self._columns.setdefault(name, []).append(full.reshape(-1))
        self.n += size
        return np.arange(self.n - size, self.n, dtype=np.int64).reshape(shape)

    def column(self, name: str, order: IntArray) -> Float64Array:
        return np.concatenate([np.zeros(0), *self._columns.get(name, [])])[order]

    def order(self) -> IntArray:
        """Old numbers in their new order."""
        stages = np.concatenate([np.zeros(0), *self._columns.get("stage", [])])
        return np.asarray(np.argsort(stages, kind="stable"), dtype=np.int64)

    def describe(self, number: int) -> str:
        block = int(np.searchsorted(self._starts, number, side="right")) - 1
        index = np.unravel_index(number - self._starts[block], self._shapes[block])
        return self._texts[block](*(int(i) for i in index))


class Assembler:
    """Collects variables, rows and groups, and makes an `NLP` of them."""

    def __init__(self) -> None:
        self._w, self._g = _Table(), _Table()
        self._groups: list[tuple[str, ca.Function, IntArray, Float64Array, IntArray]] = []

    def variables(
        self, shape: tuple[int, ...], text: Describe, *, stage: Any, lb: Any, ub: Any, guess: Any, scale: Any
    ) -> IntArray:
        """Places of new variables; bounds, guess and scale are broadcast to the shape."""
        return self._w.add(shape, text, stage=stage, lb=lb, ub=ub, guess=guess, scale=scale)

    def rows(
        self, shape: tuple[int, ...], text: Describe, *, stage: Any, lb: Any = 0.0, ub: Any = 0.0, scale: Any = 1.0
    ) -> IntArray:
        """Places of new constraints; equations by default."""
        return self._g.add(shape, text, stage=stage, lb=lb, ub=ub, scale=scale)

    def group(
        self, name: str, function: ca.Function, variables: IntArray, constants: Float64Array, rows: IntArray
    ) -> None:
        """Announce a group by the places that `variables` and `rows` gave; groups without elements are left out."""
        if variables.shape[0] and function.numel_out(0):
            self._groups.append((name, function, variables, constants, rows))

    def build(self, q: Float64Array, scale_f: float) -> tuple[NLP, IntArray, IntArray]:
        """The program, and the new places of variables and rows by their old ones."""
        orders = [self._w.order(), self._g.order()]
        places = [np.empty_like(order) for order in orders]
        for place, order in zip(places, orders):
            place[order] = np.arange(order.size)
        w_place, g_place = places
        g_place = np.append(g_place, -1)  # the objective, -1, stays -1
        groups = tuple(
            Group(name, function, w_place[variables], np.ascontiguousarray(constants), g_place[rows])
            for name, function, variables, constants, rows in self._groups
        )
        w, g = orders
        nlp = NLP(
            n_w=self._w.n,
            n_g=self._g.n,
            n_q=q.size,
            groups=groups,
            lbw=self._w.column("lb", w),
            ubw=self._w.column("ub", w),
            lbg=self._g.column("lb", g),
            ubg=self._g.column("ub", g),
            w0=self._w.column("guess", w),
            q=q,
            scale_w=self._w.column("scale", w),
            scale_g=self._g.column("scale", g),
            scale_f=scale_f,
            describe_variable=lambda i: self._w.describe(int(w[i])),
            describe_row=lambda i: self._g.describe(int(g[i])),
        )
        return nlp, w_place, g_place
