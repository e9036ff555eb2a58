"""Consistent initial values of DAEs, and their derivatives.

Of M y' = F(t, y, u, p) with a singular M, let the columns of V span the null space of M and those of N that of M^T. A
state is consistent if G(y) = N^T F(t, y, u, p) = 0. From a guess, Newton's method changes y along V only. With
A = N^T F_y V, regular for index 1, the implicit function theorem gives dy* = dy + V dc, A dc = -N^T dF, and for the
adjoint lambda of y*: w = A^-T V^T lambda, ybar = lambda - F_y^T N w, and -F_u^T N w, -F_p^T N w for u and p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ...base.arrays import to_dm
from ...base.status import Status
from ...lowering.batched import CompiledFunction
from ..batch import Batch, ControlBars
from ..regularity import nudge, singular, solve_all
from .jacobian import Structure, null_projections

Array = NDArray[np.float64]

_ITERATIONS = 50
_SHORTEST = 1.0 / 1024.0


@dataclass(frozen=True, eq=False)
class Start:
    """Consistent states of a batch and what their derivative needs.

    Attributes
    ----------
    y
        (B, n) consistent states, the guess where none was found.
    codes
        (B,) `Status` of the search.
    u
        (B, nu) controls at the initial times.
    """

    y: NDArray[Any]
    codes: NDArray[np.int64]
    u: NDArray[Any]

    @property
    def good(self) -> NDArray[np.bool_]:
        """(B,) whether the state is consistent."""
        return self.codes == Status.SUCCESS


class ConsistentStates:
    """The search for one system.

    Parameters
    ----------
    function
        F, (t, y, u, p).
    structure
        Its blocks and the mass matrix of a block, which is singular.
    dtype
        Type of the states.
    n_threads
        Number of threads.
    """

    def __init__(self, function: ca.Function, structure: Structure, dtype: np.dtype[Any], n_threads: int) -> None:
        blocks = structure.of_size(function.numel_in(1))
        left, right = null_projections(np.asarray(structure.mass))
        free = left.shape[1]
        n, self._m = function.numel_in(1), free * len(blocks)
        v, self._n = np.zeros((n, self._m)), np.zeros((n, self._m))
        for r, block in enumerate(blocks):
            v[block, r * free : (r + 1) * free] = right
            self._n[block, r * free : (r + 1) * free] = left
        self._v = v
        symbols = [ca.MX.sym(name, function.numel_in(i)) for i, name in enumerate(("t", "y", "u", "p"))]
        names = ["t", "y", "u", "p"]
        c = ca.MX.sym("c", self._m)
        t, y, u, p = symbols
        moved = ca.mtimes(ca.sparsify(to_dm(self._n.T)), function(t, y + ca.mtimes(ca.sparsify(to_dm(v)), c), u, p))
        pair = ca.Function("pair", [*symbols, c], [moved, ca.jacobian(moved, c)])
        residual, slope = pair(*symbols, ca.DM.zeros(self._m))
        rows = ca.vec(ca.densify(slope).T)
        self._regular = ca.sprank(slope) == self._m
        both = ca.Function("newton", symbols, [ca.densify(residual), rows], names, ["residual", "slope"])
        self._newton = CompiledFunction(both, dtype=dtype.name, threads=n_threads)
        alone = ca.Function("residual", symbols, [ca.densify(residual)], names, ["residual"])
        self._residual = CompiledFunction(alone, dtype=dtype.name, threads=n_threads)
        self._dtype = dtype

    # --- the search ----------------------------------------------------------------------------------------------

    def find(self, batch: Batch, guess: NDArray[Any], p: NDArray[Any]) -> Start:
        """Consistent states from a guess (B, n)."""
        u = initial_controls(batch)
        y, size = guess.astype(np.float64), guess.shape[0]
        codes = np.zeros(size, np.int64)
        if not self._regular:
            codes[:] = int(Status.SINGULAR)
            return Start(guess, codes, u)
        inputs = batch, u, p
        with np.errstate(all="ignore"):
            found = self._newton_iterations(y, inputs)
            codes[~found] = int(Status.INCONSISTENT)
            if not found.all():
                start = guess.astype(np.float64)
                other = start + nudge(start @ self._v) @ self._v.T
                always = singular(self._evaluate(start, inputs)[1]) & singular(self._evaluate(other, inputs)[1])
                codes[~found & always] = int(Status.SINGULAR)
        y[codes != 0] = guess[codes != 0]
        return Start(np.ascontiguousarray(y, self._dtype), codes, u)

    def _evaluate(self, y: Array, inputs: tuple[Batch, NDArray[Any], NDArray[Any]]) -> tuple[Array, Array]:
        """G (B, m) and A (B, m, m)."""
        batch, u, p = inputs
        values = self._newton(_times(batch, self._dtype), np.ascontiguousarray(y, self._dtype), u, p)
        residual, slope = (np.asarray(v, np.float64) for v in values)
        return residual, slope.reshape(-1, self._m, self._m)

    def _newton_iterations(self, y: Array, inputs: tuple[Any, ...]) -> NDArray[np.bool_]:
        """Newton's method with the natural monotonicity test (Deuflhard 2004, section 3.3); changes y in place."""
        eps = float(np.finfo(self._dtype).eps)
        done = np.zeros(y.shape[0], bool)
        residual, slope = self._evaluate(y, inputs)
        last = np.full(y.shape[0], np.inf)
        for _ in range(_ITERATIONS):
            step = -solve_all(slope, residual)
            length = np.abs(step @ self._v.T).max(axis=1)
            scale = np.abs(y).max(axis=1)
            stalled = (length >= 0.5 * last) & (length <= np.sqrt(eps) * scale + 1e4 * eps)
            done |= (length <= 4.0 * eps * scale) | stalled
            if done.all():
                break
            factor = np.where(done | ~np.isfinite(length), 0.0, 1.0)
            while True:
                tried = y + factor[:, None] * (step @ self._v.T)
                new_residual, new_slope = self._evaluate(tried, inputs)
                natural = np.abs(solve_all(slope, new_residual) @ self._v.T).max(axis=1)
                bad = (factor > 0.0) & ~((natural <= length) | (length <= np.sqrt(eps) * scale))
                if not bad.any():
                    break
                factor = np.where(bad, np.where(factor > _SHORTEST, 0.5 * factor, 0.0), factor)
            y[...], residual, slope = tried, new_residual, new_slope
            last = np.where(factor == 1.0, length, np.inf)
            if not (factor > 0.0).any():
                break
        return done

    # --- its adjoint ---------------------------------------------------------------------------------------------

    def pull_back(
        self, batch: Batch, start: Start, p: NDArray[Any], y_bar: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Adjoints of the guess (B, n), of p (np,) and of the initial controls (B, nu) for that of the states."""
        _, slope = self._evaluate(start.y.astype(np.float64), (batch, start.u, p))
        good = start.good
        slope = np.where(good[:, None, None], slope, np.eye(self._m))
        right = np.where(good[:, None], y_bar @ self._v, 0.0)
        w = np.linalg.solve(slope.transpose(0, 2, 1), right[..., None])[..., 0]
        seeds = np.ascontiguousarray(-w, self._dtype)
        _, by_y, by_u, by_p = self._residual.vjp(_times(batch, self._dtype), start.y, start.u, p, seeds=seeds)
        return y_bar + by_y, by_p, by_u


def _times(batch: Batch, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Initial times (B, 1)."""
    return np.ascontiguousarray(np.broadcast_to(batch.ts[:, :1], (batch.size, 1)), dtype)


# --- controls at the initial time ----------------------------------------------------------------------------------


def _places(batch: Batch, first: int, last: int) -> tuple[Any, NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Pieces of a chunk; row, piece and local time of each trajectory's initial time."""
    pieces = batch.pieces(first, last)
    t0 = np.broadcast_to(batch.ts[:, 0], (batch.size,))[first:last]
    rows = np.arange(last - first) if pieces.breaks.shape[0] > 1 else np.zeros(last - first, np.int64)
    found = (pieces.breaks[rows] <= t0[:, None]).sum(axis=1) - 1
    q = np.clip(found, 0, pieces.anchors.shape[1] - 1)
    return pieces, rows, q, t0 - pieces.anchors[rows, q]


def initial_controls(batch: Batch) -> NDArray[Any]:
    """Controls (B, nu) of the pieces that the trajectories start on."""
    out = np.zeros((batch.size, batch.nu), batch.dtype)
    for first, last in batch.chunks():
        pieces, _, q, local = _places(batch, first, last)
        own = np.arange(last - first) if pieces.coefficients.shape[0] > 1 else np.zeros(last - first, np.int64)
        coefficients = pieces.coefficients[own, q]
        powers = local[:, None] ** np.arange(coefficients.shape[2])
        out[first:last] = np.einsum("buj,bj->bu", coefficients, powers)
    return out


def add_initial_controls(batch: Batch, bars: list[ControlBars], u_bar: NDArray[Any]) -> None:
    """Add the adjoint of `initial_controls` to that of the coefficients."""
    for bar, (first, last) in zip(bars, batch.chunks(), strict=True):
        _, _, q, local = _places(batch, first, last)
        powers = local[:, None] ** np.arange(bar.coefficients.shape[3])
        rows = np.arange(last - first) if bar.coefficients.shape[0] > 1 else np.zeros(last - first, np.int64)
        np.add.at(bar.coefficients, (rows, q), u_bar[first:last, :, None] * powers[:, None, :])
