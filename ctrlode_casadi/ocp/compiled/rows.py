"""One group on the lane compiler: value, Jacobian and Hessian of all its elements into parts of a pool."""

from __future__ import annotations

from collections.abc import Sequence

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array
from ...lowering.value_kernels import FixedRows
from .local import Compressed, Local


class Rows:
    """A local function of all elements, evaluated when asked for and only where something has changed.

    Parameters
    ----------
    function
        ``(uniform, own, s[, lam]) -> column``.
    inputs
        Rows (N, n) of the inputs after the first.
    seeds
        Directions to evaluate one after another, see `Compressed`; None for a single evaluation.
    pool
        Where the results go: (N, n_out), with seeds (colours, N, n_out).
    threads
        How many threads may be used.
    """

    def __init__(
        self,
        function: ca.Function,
        inputs: Sequence[Float64Array],
        seeds: Float64Array | None,
        pool: Float64Array,
        threads: int,
    ) -> None:
        self._seeds, self._pool = seeds, pool
        self._out = pool if seeds is None else np.empty(pool.shape[1:])
        self._kernel = FixedRows(function, 0, inputs, [self._out], threads)
        self._prepared = -1

    def run(self, uniform: Float64Array, version: int) -> None:
        """Fill the pool; ``version`` counts the changes of the uniform input."""
        kernel = self._kernel
        if version != self._prepared:
            kernel.p[: uniform.size] = uniform
            self._prepared = version
            if self._seeds is None:
                kernel.prepare()
        if self._seeds is None:
            kernel.run()
            return
        for seed, into in zip(self._seeds, self._pool, strict=True):
            kernel.p[uniform.size :] = seed
            kernel.prepare()
            kernel.run()
            into[:] = self._out


class GroupRows:
    """The elements of one group.

    Parameters
    ----------
    local
        The group's functions.
    offsets
        Where its results begin in the pools of values, first and second derivatives.
    threads
        How many threads may be used.

    Attributes
    ----------
    own, s, lam
        Rows of the inputs: variables that differ between elements, constants, multipliers.
    uniform
        q, then the variables that all elements share.
    version
        Counts the changes of `uniform`.
    """

    def __init__(self, local: Local, threads: int) -> None:
        group = local.group
        self.local, self._threads = local, threads
        self.variables = np.ascontiguousarray(group.variables[:, local.own])
        self.shared = group.variables[0, local.shared]
        self.own = np.empty(self.variables.shape)
        self.s = np.ascontiguousarray(group.constants, dtype=np.float64)
        self.lam = np.empty((group.size, local.m))
        self.n_q = group.function.numel_in(2)
        self.uniform = np.zeros(self.n_q + self.shared.size)
        self.version = 0

    def set_parameters(self, q: Float64Array) -> None:
        """New parameters of the problem."""
        self.uniform[: self.n_q] = q
        self.version += 1

    def set_variables(self, w: Float64Array) -> None:
        """New variables."""
        np.take(w, self.variables, out=self.own, mode="clip")
        if self.shared.size:
            self.uniform[self.n_q :] = w[self.shared]
            self.version += 1

    def values(self, pool: Float64Array) -> Rows:
        """The function itself; the pool is (N * m,)."""
        return Rows(self.local.value, [self.own, self.s], None, pool.reshape(self.lam.shape), self._threads)

    def jacobian(self, pool: Float64Array) -> Rows:
        """The local Jacobian."""
        return self._derivative(self.local.jacobian, [self.own, self.s], pool)

    def hessian(self, pool: Float64Array) -> Rows:
        """The local Hessian of the Lagrangian."""
        return self._derivative(self.local.hessian, [self.own, self.s, self.lam], pool)

    def _derivative(self, c: Compressed, inputs: Sequence[Float64Array], pool: Float64Array) -> Rows:
        n, width = self.lam.shape[0], c.function.numel_out(0)
        shape = (n, width) if c.seeds is None else (c.seeds.shape[0], n, width)
        return Rows(c.function, inputs, c.seeds, pool.reshape(shape), self._threads)

    def numbers(self, c: Compressed) -> int:
        """Length of the pool of a derivative."""
        colours = 1 if c.seeds is None else c.seeds.shape[0]
        return int(colours * self.lam.shape[0] * c.function.numel_out(0))

    def places(self, c: Compressed) -> np.ndarray:
        """Place in the pool of each nonzero of each element, (N, nonzeros)."""
        n, width = self.lam.shape[0], c.function.numel_out(0)
        colour, entry = np.divmod(c.places, width)
        return (colour * n + np.arange(n)[:, None]) * width + entry
