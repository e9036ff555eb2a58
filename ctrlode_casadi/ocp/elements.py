"""Functions of one element: symbols by name, time and parameters put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import casadi as ca
import numpy as np

from .definition import Definition
from .groups import IntArray


class Element:
    """The symbols of one element of a `Group`, for writing its function.

    Parameters
    ----------
    d
        The problem.
    variables
        Names and sizes of the element's own variables; the final time and the free parameters follow by themselves.
    constants
        Names and sizes of its constants.

    Attributes
    ----------
    variables, constants
        Symbols by name.
    t0, tf, duration, p
        Initial time, final time, their difference, and the whole parameter vector.
    """

    def __init__(self, d: Definition, variables: Mapping[str, int], constants: Mapping[str, int]) -> None:
        own = sum(variables.values())
        self._held = d.held
        self._v = ca.MX.sym("v", own + int(d.free_tf) + d.free.size)
        self._s = ca.MX.sym("s", sum(constants.values()))
        self._q = ca.MX.sym("q", 2 + d.np)
        self.variables = _split(self._v, variables)
        self.constants = _split(self._s, constants)
        self.t0 = self._q[0]
        self.tf = self._v[own] if d.free_tf else self._q[1]
        self.duration = self.tf - self.t0
        self.p = _parameters(d, self._v, own + int(d.free_tf), self._q)

    def time(self, fraction: Any) -> ca.MX:
        """Time at a fraction of the horizon."""
        return self.t0 + fraction * self.duration

    def parameters_in(self, middle: Any) -> ca.MX:
        """The parameter vector in the interval around a fraction of the horizon; see `Definition.held`."""
        return self.p if self._held is None else self._held(self.time(middle), self.p)

    def function(self, name: str, results: list[ca.MX], moves: ca.MX | None = None) -> ca.Function:
        """The element's function ``(v, s, q) -> r`` from its contributions, one after another.

        With `moves`, a symbol in the contributions, it is a fourth input.
        """
        r = ca.densify(ca.vertcat(*results)) if results else ca.MX(0, 1)
        more = {} if moves is None else {"moves": moves}
        symbols = {"v": self._v, "s": self._s, "q": self._q} | more
        return ca.Function(name, list(symbols.values()), [r], list(symbols), ["r"])


def join(parts: list[IntArray], shared: IntArray) -> IntArray:
    """Variables (N, n_local) of N elements: their own, side by side, then those that all of them share."""
    n = parts[0].shape[0] if parts else 1
    flat = [part.reshape(n, -1) for part in parts]
    return np.hstack([*flat, np.broadcast_to(shared, (n, shared.size))])


def _split(symbol: ca.MX, sizes: Mapping[str, int]) -> dict[str, ca.MX]:
    parts, start = {}, 0
    for name, n in sizes.items():
        parts[name] = symbol[start : start + n]
        start += n
    return parts


def _parameters(d: Definition, v: ca.MX, start: int, q: ca.MX) -> ca.MX:
    """The parameter vector: free entries from v, the others from q, in runs of neighbours."""
    if d.free.size == 0:
        return q[2:]
    is_free = np.zeros(d.np, dtype=bool)
    is_free[d.free] = True
    edges = np.flatnonzero(np.diff(is_free)) + 1
    pieces, place = [], start
    for left, right in zip([0, *edges], [*edges, d.np]):
        n = int(right - left)
        if is_free[left]:
            pieces.append(v[place : place + n])
            place += n
        else:
            pieces.append(q[2 + int(left) : 2 + int(right)])
    return ca.vertcat(*pieces)
