"""Views: which movements cost nothing because their consumer can address the entries in place.

A ``gather`` is a view when every consumer can read it as an arithmetic progression, or, for the operands of products,
as a strided matrix. All other gathers are copied by an instruction of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .accumulate import Leaf, Outer
from .program import Program


def progression(index: np.ndarray) -> tuple[int, int] | None:
    """(start, step) when the indices are an arithmetic progression without gaps (-1), else None."""
    if index.size == 0:
        return (0, 1)
    start = int(index[0])
    step = int(index[1]) - start if index.size > 1 else 1
    if start < 0 or not np.array_equal(index, start + step * np.arange(index.size)):
        return None
    return None if start + step * (index.size - 1) < 0 else (start, step)


def strided(index: np.ndarray, rows: int, columns: int) -> tuple[int, int, int] | None:
    """(start, row stride, column stride) of a column-major matrix of indices, None if it is not strided.

    An index of -1 (a zero that is not stored) is no place, even where it continues a descending progression.
    """
    grid = index.reshape(columns, rows)
    start = int(grid[0, 0])
    down = int(grid[0, 1]) - start if rows > 1 else 1
    across = int(grid[1, 0]) - start if columns > 1 else rows
    expected = start + down * np.arange(rows)[None, :] + across * np.arange(columns)[:, None]
    return (start, down, across) if index.min() >= 0 and np.array_equal(grid, expected) else None


@dataclass(frozen=True)
class Views:
    """Resolution of every value to the value that owns its memory.

    Parameters
    ----------
    owner : dict
        View -> (owning value, index array into it).
    """

    owner: dict[int, tuple[int, np.ndarray]]

    def resolve(self, v: int, n: int) -> tuple[int, np.ndarray]:
        """Owner of a value and the entries of the owner that it is (``n`` is its length)."""
        found = self.owner.get(v)
        return found if found is not None else (v, np.arange(n))


def find_views(program: Program, anchored: Iterable[int], pieces: Iterable[Leaf | Outer] = ()) -> Views:
    """Decide for each gather whether it is a view; values in ``anchored`` own their memory whatever they are."""
    fixed = set(anchored)
    as_vector, as_matrix = _consumers(program, pieces)
    owner: dict[int, tuple[int, np.ndarray]] = {}
    for ins in program.instructions:
        v = ins.output
        if ins.op != "gather" or v in fixed:
            continue
        source, index = ins.inputs[0], ins.attr
        if source in owner:
            base, inner = owner[source]
            index = np.where(index >= 0, inner[np.maximum(index, 0)], -1)
            source = base
        vector_ok = v not in as_vector or progression(index) is not None
        matrix_ok = all(strided(index, r, c) is not None for r, c in as_matrix.get(v, ()))
        used = v in as_vector or v in as_matrix
        if vector_ok and matrix_ok and (used or progression(index) is not None):
            owner[v] = (source, index)
    return Views(owner)


def _consumers(program: Program, pieces: Iterable[Leaf | Outer]) -> tuple[set[int], dict[int, list[tuple[int, int]]]]:
    as_vector: set[int] = set(program.outputs)
    as_matrix: dict[int, list[tuple[int, int]]] = {}
    for ins in program.instructions:
        if ins.op == "mtimes":
            r, k, c = ins.attr
            as_vector.add(ins.inputs[0])
            as_matrix.setdefault(ins.inputs[1], []).append((r, k))
            as_matrix.setdefault(ins.inputs[2], []).append((k, c))
        elif ins.op != "gather":
            as_vector.update(ins.inputs)
    for piece in pieces:
        if isinstance(piece, Leaf):
            as_vector.add(piece.value)
        else:
            as_vector.update((piece.left[0], piece.right[0]))
    return as_vector, as_matrix
