"""The solution of one step as the start of the next: variables and multipliers moved by one interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..groups import OBJECTIVE, Group, IntArray
from ..solvers import Start
from ..transcription import Transcription


@dataclass(frozen=True, eq=False)
class Shift:
    """Where the value of each variable and multiplier is found, one interval later.

    Attributes
    ----------
    w, g
        (n_w,) and (n_g,): entry i of the shifted vector is entry ``w[i]`` of the old one. The last interval, final
        time and free parameters stay what they are.
    """

    w: IntArray
    g: IntArray

    def __call__(self, start: Start) -> Start:
        """A shifted start."""
        lam_g = None if start.lam_g is None else start.lam_g[self.g]
        lam_w = None if start.lam_w is None else start.lam_w[self.w]
        return Start(start.w[self.w], lam_g, lam_w)


def make_shift(program: Transcription) -> Shift:
    """The shift by one interval of a program with equal intervals.

    It follows from the groups: their elements are ordered in time, with the same number in every interval, so an
    element's variables and rows have their successors in the element one interval later. The controls of single
    shooting belong to one element; they are shifted by their grid.
    """
    nlp, intervals = program.nlp, program.plan.mesh.size
    w, g = np.arange(nlp.n_w), np.arange(nlp.n_g)
    values = program.u.shape[0]
    if intervals > 1:
        _follow(w, program.u, 1 if values <= intervals + 1 else values // intervals)
    for group in nlp.groups:
        stride = _elements_per_interval(group, intervals)
        if stride is None:
            continue
        _follow(w, group.variables, stride)
        if group.rows is not None:
            _follow(g, group.rows, stride)
    return Shift(w, g)


def _elements_per_interval(group: Group, intervals: int) -> int | None:
    """How many elements belong to one interval; None for a group that does not repeat along the horizon."""
    if group.size in (intervals - 1, intervals, intervals + 1) and group.size > 1:
        return 1
    return group.size // intervals if group.size and group.size % intervals == 0 else None


def _follow(successor: IntArray, places: IntArray, stride: int) -> None:
    before, after = places[:-stride].reshape(-1), places[stride:].reshape(-1)
    moved = (before != after) & (before != OBJECTIVE) & (after != OBJECTIVE)
    successor[before[moved]] = after[moved]
