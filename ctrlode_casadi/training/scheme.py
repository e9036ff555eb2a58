"""What a transcription method does beside the common parts of a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ..base.arrays import Float64Array
from .draft import Draft
from .grid import Grid, IntArray

#: Values of variables at a solution from their places in the draft.
Read: TypeAlias = Callable[[IntArray], Float64Array]


class Scheme(ABC):
    """Turns the differential equation into equations.

    1. `add` writes the dynamics, a running cost and the path constraints into a draft.
    2. `refine` looks at a solution. It returns None where the discretisation is accurate enough or cannot be refined,
       else the grid and the node states to go on with; the next `add` uses what was found.
    3. `strayed` looks at an iterate, and says whether the equations are so wrong there that going on is no use. The
       next `add` then writes better ones.
    4. `evaluations` is the number of right-hand sides in one pass over all intervals, after `add`.
    5. `error` is the largest error of an interval at the last solution, relative to the states; NaN if not estimated.
    """

    evaluations: int = 0
    error: float = float("nan")

    @abstractmethod
    def add(self, draft: Draft) -> None:
        """Write the dynamics."""

    @abstractmethod
    def refine(self, draft: Draft, read: Read, theta: Float64Array) -> tuple[Grid, Float64Array] | None:
        """Grid and states of the next round."""

    def strayed(self, draft: Draft, read: Read, theta: Float64Array) -> bool:
        """Whether an iterate has left the region where the equations are accurate; False where that cannot happen."""
        return False


def node_path(draft: Draft) -> None:
    """Path constraints at all nodes; a control that jumps counts with its value after the node."""
    grid = draft.grid
    last = ~np.isin(grid.right, grid.left)
    nodes = np.concatenate([grid.left, grid.right[last]])
    before, after = (grid.controls(t[:, None])[:, 0] for t in (grid.times[grid.right], grid.start))
    u = np.concatenate([after, before[last]])
    order = np.argsort(nodes)
    nodes = nodes[order]
    draft.add_path(draft.nodes[nodes], grid.trajectory[nodes], grid.times[nodes], u[order])
