"""Slopes of a cubic spline at its knots: a linear operator on the secant slopes.

With h[i] the knot distances and m[i] the secant slopes, twice continuous differentiability at knot i reads

    h[i] d[i-1] + 2 (h[i-1] + h[i]) d[i] + h[i-1] d[i+1] = 3 (h[i] m[i-1] + h[i-1] m[i])

(de Boor, A Practical Guide to Splines, 1978, chapter IV). The first and last rows are the boundary
conditions, in the form that scipy.interpolate.CubicSpline uses. Values come from SciPy; this file has the
same operator for tangents, adjoints and expressions.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from ..base.arrays import Float64Array

BC_TYPES = ("not-a-knot", "natural", "clamped", "periodic")


class SplineOperator:
    """The map from secant slopes (K-1) to slopes at the knots (K), for one row of knots.

    Parameters
    ----------
    knots
        Increasing times, (K,).
    bc_type
        Pair of boundary conditions, as names of `BC_TYPES`.
    """

    def __init__(self, knots: Float64Array, bc_type: tuple[str, str]) -> None:
        self.knots = knots
        self.bc_type = bc_type

    def __reduce__(self) -> tuple[Any, ...]:
        return SplineOperator, (self.knots, self.bc_type)

    @cached_property
    def _system(self) -> tuple[Any, Any]:
        """LU factors of A and the sparse W of ``A d = W m``."""
        from scipy.sparse.linalg import splu

        h = np.diff(self.knots)
        K = self.knots.size
        inner = np.arange(1, K - 1)
        near, far = h[:-1], h[1:]
        ends = _periodic_rows(h) if self.bc_type[0] == "periodic" and K > 2 else _end_rows(h, self.bc_type)
        below, at, above = (np.stack([inner, inner + step], axis=1) for step in (-1, 0, 1))
        A = _sparse((K, K), [(below, far), (at, 2.0 * (near + far)), (above, near)], ends[0])
        W = _sparse((K, K - 1), [(below, 3.0 * far), (at, 3.0 * near)], ends[1])
        return splu(A), W

    def apply(self, m: Float64Array) -> Float64Array:
        """Slopes (K, n) from secant slopes (K-1, n)."""
        lu, W = self._system
        return lu.solve(W @ m)

    def transpose(self, slopes_bar: Float64Array) -> Float64Array:
        """Adjoint of `apply`: (K, n) to (K-1, n)."""
        lu, W = self._system
        return W.T @ lu.solve(slopes_bar, trans="T")

    @cached_property
    def matrix(self) -> Float64Array:
        """The operator as a matrix (K, K-1); entries below 1e-20 of their row's largest are zero.

        The entries decay by about 0.27 per knot, so a row keeps some 70 of them, however long the record.
        """
        _, W = self._system
        G = self.apply(np.eye(W.shape[1]))
        G[np.abs(G) < 1e-20 * np.abs(G).max(axis=1, keepdims=True)] = 0.0
        return G


Row: TypeAlias = tuple[int, int, float]


def _sparse(shape: tuple[int, int], inner: list[tuple[Any, Float64Array]], ends: list[Row]) -> Any:
    """Sparse matrix from (positions (n, 2), values (n,)) and single entries; entries at one place add up."""
    from scipy.sparse import coo_array

    single = np.array(ends, dtype=np.float64).reshape(-1, 3)
    positions = np.concatenate([place for place, _ in inner] + [single[:, :2].astype(np.int64)])
    values = np.concatenate([value for _, value in inner] + [single[:, 2]])
    return coo_array((values, (positions[:, 0], positions[:, 1])), shape=shape).tocsc()


def _periodic_rows(h: Float64Array) -> tuple[list[Row], list[Row]]:
    """First and last row of A and W: the same slope at both ends, twice smooth over the seam."""
    K = h.size + 1
    A = [(0, 0, 2.0 * (h[-1] + h[0])), (0, 1, h[-1]), (0, K - 2, h[0]), (K - 1, 0, -1.0), (K - 1, K - 1, 1.0)]
    return A, [(0, 0, 3.0 * h[-1]), (0, K - 2, 3.0 * h[0])]


def _end_rows(h: Float64Array, bc_type: tuple[str, str]) -> tuple[list[Row], list[Row]]:
    """First and last row of A and W as entries (row, column, value), from the boundary conditions."""
    K = h.size + 1
    A: list[Row] = []
    W: list[Row] = []
    for bc, row, step, near, far in ((bc_type[0], 0, 1, 0, 1), (bc_type[1], K - 1, -1, K - 2, K - 3)):
        if bc == "clamped":
            A += [(row, row, 1.0)]
        elif bc == "natural":
            A += [(row, row, 2.0), (row, row + step, 1.0)]
            W += [(row, near, 3.0)]
        elif K == 2:
            A += [(row, row, 1.0)]
            W += [(row, near, 1.0)]
        elif K == 3 and bc_type[0] == bc_type[1]:  # the parabola through three points
            A += [(row, row, 1.0), (row, row + step, 1.0)]
            W += [(row, near, 2.0)]
        else:
            d = h[near] + h[far]
            A += [(row, row, h[far]), (row, row + step, d)]
            W += [(row, near, (h[near] + 2.0 * d) * h[far] / d), (row, far, h[near] ** 2 / d)]
    return A, W
