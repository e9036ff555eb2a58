"""Sums of elements' results at places of a result, without a loop over elements."""

from __future__ import annotations

import numpy as np

from ...base.arrays import Float64Array
from ..groups import IntArray


class Sums:
    """``out[t] = scale[t] * sum of the numbers of a pool whose target is t``.

    Parameters
    ----------
    n
        Length of the result.
    target, source
        (K,) where a number belongs, and its place in the pool.
    scale
        (n,).
    zero
        A place of the pool that always holds zero.

    Notes
    -----
    The first number of every place comes by one indexed read; the others, where places get several, are summed in
    order by `numpy.add.reduceat`.
    """

    def __init__(self, n: int, target: IntArray, source: IntArray, scale: Float64Array, zero: int) -> None:
        order = np.argsort(target, kind="stable")
        target, source = target[order], source[order]
        first = np.ones(target.size, dtype=bool)
        first[1:] = target[1:] != target[:-1]
        self._first = np.full(n, zero, dtype=np.intp)
        self._first[target[first]] = source[first]
        later = target[~first]
        self._later = source[~first].astype(np.intp)
        self._places, self._starts = np.unique(later, return_index=True)
        self._scale = None if (scale == 1.0).all() else np.array(scale, dtype=np.float64)

    def __call__(self, pool: Float64Array, out: Float64Array) -> None:
        """Fill out (n,) from the pool."""
        np.take(pool, self._first, out=out, mode="clip")
        if self._later.size:
            out[self._places] += np.add.reduceat(pool[self._later], self._starts)
        if self._scale is not None:
            out *= self._scale
