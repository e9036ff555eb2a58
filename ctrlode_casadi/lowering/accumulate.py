"""Where the entries of an accumulated output come from.

The gradient with respect to the parameters is summed over lanes, stages, steps and trajectories. CasADi writes it as a
chain of ``scatter`` and ``concat`` of pieces into a zero vector; here the chain is followed backwards to the pieces,
so that each is added straight to its destination and no full-length vector is ever formed. A product of two varying
vectors (the gradient of a weight matrix) stays a pair of factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .program import Program


@dataclass(frozen=True)
class Leaf:
    """``output[destination[i]] += sum over lanes of value[i]``; destination -1 is dropped."""

    value: int
    destination: np.ndarray


@dataclass(frozen=True)
class Outer:
    """``output[destination[i, j]] += sum over lanes of left[i] * right[j]``.

    ``left`` and ``right`` are (value, index array): the entries of the value that form the factor.
    """

    left: tuple[int, np.ndarray]
    right: tuple[int, np.ndarray]
    destination: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return self.left[1].size, self.right[1].size


def find_pieces(program: Program, output: int, varying: frozenset[int]) -> list[Leaf | Outer]:
    """Pieces of an accumulated output of a program."""
    pieces: list[Leaf | Outer] = []
    _follow(program, output, np.arange(program.sizes[output]), varying, pieces)
    return pieces


def _follow(
    program: Program, v: int, destination: np.ndarray, varying: frozenset[int], pieces: list[Leaf | Outer]
) -> None:
    made = program.producer.get(v)
    if v not in varying or not np.any(destination >= 0):
        return  # a constant zero (a bar that depends on no seed is zero)
    if made is None:
        pieces.append(Leaf(v, destination))
        return
    if made.op == "add" and all(program.sizes[i] == program.sizes[v] for i in made.inputs):
        for i in made.inputs:
            _follow(program, i, destination, varying, pieces)
    elif made.op == "scatter":
        index, add = made.attr
        base = destination if add else _dropped(destination, index)
        _follow(program, made.inputs[0], base, varying, pieces)
        _follow(program, made.inputs[1], destination[index], varying, pieces)
    elif made.op == "concat":
        start = 0
        for i in made.inputs:
            _follow(program, i, destination[start : start + program.sizes[i]], varying, pieces)
            start += program.sizes[i]
    elif made.op == "gather" and _distinct(made.attr):
        back = np.full(program.sizes[made.inputs[0]], -1, dtype=np.int64)
        used = made.attr >= 0
        back[made.attr[used]] = destination[used]
        _follow(program, made.inputs[0], back, varying, pieces)
    elif made.op == "mtimes" and _is_outer(program, v, destination, varying):
        _outer(program, v, destination, varying, pieces)
    else:
        pieces.append(Leaf(v, destination))


def _dropped(destination: np.ndarray, index: np.ndarray) -> np.ndarray:
    out = destination.copy()
    out[index] = -1
    return out


def _distinct(index: np.ndarray) -> bool:
    used = index[index >= 0]
    return np.unique(used).size == used.size


def _is_outer(program: Program, v: int, destination: np.ndarray, varying: frozenset[int]) -> bool:
    made = program.producer[v]
    _, k, _ = made.attr
    both = made.inputs[1] in varying and made.inputs[2] in varying
    return both and k <= 4 and bool(np.all(destination >= 0))


def _outer(
    program: Program, v: int, destination: np.ndarray, varying: frozenset[int], pieces: list[Leaf | Outer]
) -> None:
    made = program.producer[v]
    acc, a, b = made.inputs
    r, k, c = made.attr
    _follow(program, acc, destination, varying, pieces)
    for q in range(k):
        left = (a, np.arange(r) + r * q)
        right = (b, q + k * np.arange(c))
        pieces.append(Outer(left, right, destination.reshape(c, r).T))
