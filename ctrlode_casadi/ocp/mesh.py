"""The horizon cut into intervals, and the points of collocation."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.polynomial import legendre

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError, unknown_name
from .groups import IntArray

_SCHEMES = ("radau", "legendre")


@dataclass(frozen=True, eq=False)
class Mesh:
    """N intervals as fractions of the horizon.

    Attributes
    ----------
    breaks
        Fractions (N + 1,), from 0 to 1, strictly increasing.
    degrees
        Collocation points in each interval, (N,).
    """

    breaks: Float64Array
    degrees: IntArray

    @property
    def size(self) -> int:
        """Number of intervals N."""
        return self.breaks.size - 1

    @property
    def lengths(self) -> Float64Array:
        """Lengths of the intervals as fractions, (N,)."""
        return np.diff(self.breaks)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two meshes the same."""
        return tuple(self.breaks.tolist()), tuple(self.degrees.tolist())

    def locate(self, fractions: Float64Array, left: bool = False) -> tuple[IntArray, Float64Array]:
        """Interval of each fraction of the horizon, and the place inside it from 0 to 1.

        A fraction on a break belongs to the interval on its right, or on its left for ``left=True``.
        """
        found = np.searchsorted(self.breaks, fractions, side="left" if left else "right")
        k = np.clip(found - 1, 0, self.size - 1)
        return k.astype(np.int64), (fractions - self.breaks[k]) / self.lengths[k]


def make_mesh(intervals: object, mesh: Any, degree: object) -> Mesh:
    """Mesh of equal intervals, or of given fractions.

    Raises
    ------
    DataError
        For numbers that are not positive integers, or fractions that do not increase from 0 to 1.
    """
    if mesh is None:
        n = _count("intervals", intervals)
        breaks = np.linspace(0.0, 1.0, n + 1)
    else:
        breaks = np.asarray(floats("mesh", mesh, ("N+1",)), dtype=np.float64)
        if breaks.size < 2 or breaks[0] != 0.0 or breaks[-1] != 1.0 or np.any(np.diff(breaks) <= 0):
            raise DataError(
                "mesh: expected strictly increasing fractions of the horizon from 0.0 to 1.0, got "
                f"{np.array2string(breaks, threshold=8)}; divide times by (t - t0) / (tf - t0)"
            )
    n = breaks.size - 1
    if isinstance(degree, (list, tuple, np.ndarray)):
        degrees = np.array([_count("degree", value) for value in degree], dtype=np.int64)
        if degrees.size != n:
            raise DataError(f"degree: expected one number, or one for each of the {n} intervals, got {degrees.size}")
    else:
        degrees = np.full(n, _count("degree", degree), dtype=np.int64)
    return Mesh(breaks, degrees)


def _count(name: str, value: object) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < 1:
        raise DataError(f"{name}: expected an integer of at least 1, got {value!r}")
    return int(value)


@dataclass(frozen=True, eq=False)
class Rule:
    """Collocation of one degree d on [0, 1].

    Attributes
    ----------
    points
        Collocation points (d,), increasing; the last is 1 for Radau.
    slopes
        (d + 1, d): derivative at point j of the Lagrange polynomial that is one at node i, the nodes being 0 and the
        points.
    weights
        Quadrature weights (d,).
    end
        (d + 1,) values of the Lagrange polynomials at 1.
    sums
        (d, d): ``sums[l, j]`` integrates the Lagrange polynomial of point l (of the points alone) from 0 to point j.
    """

    points: Float64Array
    slopes: Float64Array
    weights: Float64Array
    end: Float64Array
    sums: Float64Array

    @property
    def degree(self) -> int:
        """Number of points d."""
        return self.points.size

    @property
    def ends_at_one(self) -> bool:
        """Whether the last point is the end of the interval."""
        return bool(self.points[-1] == 1.0)


@cache
def collocation_rule(scheme: str, degree: int) -> Rule:
    """The Radau or Legendre rule of a degree."""
    if scheme not in _SCHEMES:
        raise DataError(unknown_name("scheme", scheme, _SCHEMES))
    points = _points(scheme, degree)
    nodes = np.append(0.0, points)
    values = lagrange(nodes, np.append(points, 1.0))
    roots, weight = legendre.leggauss(degree + 1)
    theta, weight = 0.5 * (roots + 1.0), 0.5 * weight
    # integral from 0 to c of a polynomial of degree d - 1, exactly, by Gauss' rule on [0, c]
    sums = np.array([[c * weight @ lagrange(points, c * theta)[:, j] for c in points] for j in range(degree)])
    weights = np.array([weight @ lagrange(points, theta)[:, j] for j in range(degree)])
    return Rule(points, _slopes(nodes)[:, 1:], weights, values[-1], sums)


def _points(scheme: str, degree: int) -> Float64Array:
    """Collocation points on (0, 1]: roots of P_d (Legendre) or of P_d - P_{d-1} (Radau), on [-1, 1] before."""
    if scheme == "legendre":
        return np.asarray(0.5 * (legendre.leggauss(degree)[0] + 1.0))
    series = np.zeros(degree + 1)
    series[-2:] = -1.0, 1.0
    roots = np.sort(legendre.legroots(series).real)
    roots -= legendre.legval(roots, series) / legendre.legval(roots, legendre.legder(series))
    roots[-1] = 1.0
    return np.asarray(0.5 * (roots + 1.0))


def lagrange(nodes: Float64Array, at: Float64Array) -> Float64Array:
    """Values (m, n) of the n Lagrange polynomials of the nodes at m places."""
    differences = at[:, None] - nodes[None, :]
    result = np.ones((at.size, nodes.size))
    for i in range(nodes.size):
        others = np.arange(nodes.size) != i
        result[:, i] = np.prod(differences[:, others], axis=1) / np.prod(nodes[i] - nodes[others])
    return result


def _slopes(nodes: Float64Array) -> Float64Array:
    """Derivatives (n, n) of Lagrange polynomial i at node j (Berrut & Trefethen, SIAM Review 46 (2004), eq. 9.4)."""
    n = nodes.size
    difference = nodes[:, None] - nodes[None, :] + np.eye(n)
    weight = 1.0 / np.prod(difference, axis=1)
    d = (weight[:, None] / weight[None, :]) / -difference
    np.fill_diagonal(d, 0.0)
    np.fill_diagonal(d, -d.sum(axis=0))
    return d
