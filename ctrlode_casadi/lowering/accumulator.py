"""The accumulator of the parameter gradient: its layout, and its reduction at the end of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llvmlite import ir

from . import deferred, outer
from .accumulate import Leaf, Outer
from .body import PiecePlace
from .lanes import Context, Target
from .views import progression, strided


def layout(pieces: Sequence[Leaf | Outer], target: Target) -> tuple[list[PiecePlace], int]:
    """Places of the pieces and the size of the accumulator in numbers."""
    places, total = [], deferred.HEADER if target.row_width else 0
    for piece in pieces:
        slots = None
        partial, size = True, piece.destination.size * target.width
        if isinstance(piece, Outer):
            rows, columns = piece.shape
            partial = not target.row_width and outer.is_partial(target.width * target.itemsize, rows, columns)
            size = outer.storage(partial, rows, columns, target.width)
            if target.row_width and deferred.is_deferred(rows, columns):
                stride = outer.padded(columns, target.row_width)
                size = rows * stride
                slots = (total + size, total + size + deferred.SLOTS * rows)
                size += deferred.SLOTS * (rows + stride)
        places.append(PiecePlace(total, partial, slots))
        total += -(-size // 16) * 16
    return places, total


def reduce_pieces(
    c: Context,
    pieces: Sequence[Leaf | Outer],
    places: Sequence[PiecePlace],
    acc: ir.Value,
    target: ir.Value,
    row_width: int,
) -> None:
    """Reduce the accumulator over lanes and add it to the gradient."""
    width = c.target.width
    for piece, place in zip(pieces, places, strict=True):
        if isinstance(piece, Outer) and not place.partial:
            stride = outer.padded(piece.shape[1], row_width if place.slots else width)
            _add_matrix(c, acc, place.offset, stride, target, piece.destination)
            continue
        flat = piece.destination.T.ravel() if isinstance(piece, Outer) else piece.destination
        _add_entries(c, acc, place.offset, width, target, flat)


def _add_matrix(c: Context, acc: ir.Value, offset: int, stride: int, target: ir.Value, destination: np.ndarray) -> None:
    """``target[destination[i, j]] += acc[offset + i stride + j]``."""
    rows, columns = destination.shape
    steps = strided(destination.T.ravel(), rows, columns)
    if steps is None:
        for i, row in enumerate(destination):
            _add_entries(c, acc, offset + i * stride, 1, target, row)
        return
    start, down, across = steps
    with c.entries(rows) as i, c.entries(columns) as j:
        at = c.b.add(c.affine(i, stride, offset), c.affine(j, 1, 0))
        to = c.b.add(c.affine(i, down, start), c.affine(j, across, 0))
        c.store_scalar(c.b.fadd(c.load_scalar(target, to), c.load_scalar(acc, at)), target, to)


def _add_entries(c: Context, acc: ir.Value, offset: int, step: int, target: ir.Value, destination: np.ndarray) -> None:
    """``target[destination[i]] += sum of acc[offset + i step : ... + step]``."""

    def add(i: int | ir.Value, to: ir.Value) -> None:
        at = c.affine(i, step, offset)
        value = c.load_scalar(acc, at) if step == 1 else c.lane_sum(c.load_vector(acc, at))
        c.store_scalar(c.b.fadd(c.load_scalar(target, to), value), target, to)

    steps = progression(destination)
    if steps is not None and destination.size > 1:
        with c.loop(destination.size) as i:
            add(i, c.affine(i, steps[1], steps[0]))
        return
    for i, to in enumerate(destination):
        if to >= 0:
            add(i, c.index(to))
