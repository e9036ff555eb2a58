"""The nonlinear programs that transcriptions write and backends evaluate: groups of equal elements.

A transcription repeats one function over all intervals, nodes or trajectories. A `Group` is that function with the
places of each element's variables and results; an `NLP` is a few groups with bounds, guess and scales::

    minimize f(w, q)  subject to  lbw <= w <= ubw,  lbg <= g(w, q) <= ubg

where f and g are sums of the groups' contributions. Backends (`symbolic`, `compiled`) need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array

IntArray = NDArray[np.int64]

#: The "row" of a contribution to the objective. It is -1 so that ``append(lam_g, lam_f)[targets]`` gives multipliers.
OBJECTIVE = -1


@dataclass(frozen=True, eq=False)
class Group:
    """N elements that evaluate one function on their own variables.

    Attributes
    ----------
    name
        What the elements are, such as ``"interval"``; for messages.
    function
        ``(v, s, q) -> r``, all dense columns: v (n_local,) the element's variables, s (n_s,) its constants, q (n_q,)
        the parameters of the whole problem, r (m,) its contributions.
    variables
        (N, n_local) places of v in w. An index may occur in many elements (a shared final time, a node that two
        intervals share), but only once within one element.
    constants
        (N, n_s) numbers that are known before the solve.
    rows
        (N, m) row of g that each contribution is added to, `OBJECTIVE` (-1) where it is added to the objective; an
        element may mix both. A row may occur several times. None: all contributions belong to the objective.
    """

    name: str
    function: ca.Function
    variables: IntArray
    constants: Float64Array
    rows: IntArray | None

    @property
    def size(self) -> int:
        """Number of elements N."""
        return int(self.variables.shape[0])

    @property
    def targets(self) -> IntArray:
        """`rows` as an array (N, m), also where it is None."""
        if self.rows is not None:
            return self.rows
        return np.full((self.size, self.function.numel_out(0)), OBJECTIVE, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class NLP:
    """A nonlinear program as a sum of groups.

    Attributes
    ----------
    n_w, n_g, n_q
        Numbers of variables, constraints and parameters.
    groups
        What f and g are the sums of.
    lbw, ubw, lbg, ubg
        Bounds, not scaled, (n_w,) and (n_g,); infinite where there is none, equal for equations and fixed variables.
    w0
        Guess (n_w,), not scaled.
    q
        Values of the parameters (n_q,).
    scale_w, scale_g, scale_f
        The solver works on ``w / scale_w``, ``scale_g * g`` and ``scale_f * f``; all positive, but `scale_g` may be
        negative for equations.
    describe_variable, describe_row
        Text for messages, such as ``"state h at t = 0.4 (interval 3)"``, from an index of w or g.
    """

    n_w: int
    n_g: int
    n_q: int
    groups: tuple[Group, ...]
    lbw: Float64Array
    ubw: Float64Array
    lbg: Float64Array
    ubg: Float64Array
    w0: Float64Array
    q: Float64Array
    scale_w: Float64Array
    scale_g: Float64Array
    scale_f: float
    describe_variable: Callable[[int], str]
    describe_row: Callable[[int], str]
