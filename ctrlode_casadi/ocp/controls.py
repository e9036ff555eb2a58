"""Controls on a mesh: which variables make the control at a point, and the control of a solution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import DataError, unknown_name
from .groups import IntArray
from .mesh import Mesh, collocation_rule, lagrange

KINDS = ("constant", "linear", "collocation")


@dataclass(frozen=True, eq=False)
class ControlGrid:
    """Where the values of a control stand, and how they make u(t).

    Attributes
    ----------
    kind
        "constant": one value per interval. "linear": one per break, joined by lines. "collocation": a polynomial
        through one value at each collocation point of an interval.
    mesh, scheme
        The mesh and the scheme of its collocation points.
    fractions
        (M,) where the values stand, as fractions of the horizon (the middle of the interval for "constant").
    stages
        (M,) interval or break that a value belongs to.
    """

    kind: str
    mesh: Mesh
    scheme: str
    fractions: Float64Array
    stages: Float64Array

    def parts(self, k: int) -> IntArray:
        """Values that interval k uses."""
        if self.kind == "constant":
            return np.array([k])
        if self.kind == "linear":
            return np.array([k, k + 1])
        return np.arange(self._starts[k], self._starts[k + 1])

    @cached_property
    def _starts(self) -> IntArray:
        """First value of each interval, for one value per collocation point."""
        return np.append(0, np.cumsum(self.mesh.degrees))

    def weights(self, k: int, theta: Float64Array) -> Float64Array:
        """(m, parts) weights of the values of interval k at places theta from 0 to 1 inside it."""
        if self.kind == "constant":
            return np.ones((theta.size, 1))
        if self.kind == "linear":
            return np.stack([1.0 - theta, theta], axis=1)
        return lagrange(collocation_rule(self.scheme, int(self.mesh.degrees[k])).points, theta)

    def evaluate(self, values: Float64Array, fractions: Float64Array, left: bool = False) -> Float64Array:
        """The control (m, nu) at fractions of the horizon, from its values (M, nu); `left` as in `Mesh.locate`."""
        intervals, theta = self.mesh.locate(fractions, left)
        out = np.empty((fractions.size, values.shape[1]))
        for k in np.unique(intervals):
            here = intervals == k
            out[here] = self.weights(int(k), theta[here]) @ values[self.parts(int(k))]
        return out


def control_grid(kind: str, mesh: Mesh, scheme: str, collocated: bool) -> ControlGrid:
    """The grid of a kind of control.

    Raises
    ------
    DataError
        For an unknown kind, or one that needs collocation points where there are none.
    """
    if kind not in KINDS:
        raise DataError(unknown_name("control", kind, KINDS))
    if kind == "collocation" and not collocated:
        raise DataError(
            "control: 'collocation' is one value per collocation point, but shooting has no such points; use "
            "control='constant' or 'linear', or method='collocation'"
        )
    n = mesh.size
    if kind == "constant":
        return ControlGrid(kind, mesh, scheme, mesh.breaks[:-1] + 0.5 * mesh.lengths, np.arange(n, dtype=np.float64))
    if kind == "linear":
        return ControlGrid(kind, mesh, scheme, mesh.breaks, np.arange(n + 1, dtype=np.float64))
    points = [collocation_rule(scheme, int(d)).points for d in mesh.degrees]
    fractions = np.concatenate([mesh.breaks[k] + mesh.lengths[k] * c for k, c in enumerate(points)])
    stages = np.concatenate([k + c for k, c in enumerate(points)])
    return ControlGrid(kind, mesh, scheme, fractions, stages)
