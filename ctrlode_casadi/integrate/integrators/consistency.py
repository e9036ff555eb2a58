"""Algebraic variables that satisfy their equations, and their derivatives (implicit function theorem)."""

from __future__ import annotations

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array, call
from ...base.status import Status
from ..regularity import nudge, singular

_ITERATIONS = 50
#: Relative length of a Newton step below which it is taken whole: the residual may be rounding then.
_NEAR = 1e-7
_SHORTEST = 1e-6


class Consistency:
    """Solves ``algebraic(t, x, u, p, z) = 0`` for z at given (t, x, u, p); index 1."""

    def __init__(self, algebraic: ca.Function) -> None:
        names = ("t", "x", "u", "p", "z")
        inputs = [ca.MX.sym(name, algebraic.sparsity_in(i)) for i, name in enumerate(names)]
        residual = algebraic(*inputs)
        by = [ca.densify(ca.jacobian(residual, v)) for v in inputs[1:]]
        self._value = ca.Function("algebraic", inputs, [ca.densify(residual), by[3]])
        self._jacobians = ca.Function("jacobians", inputs, by)
        self.nz = algebraic.numel_in(4)

    def solve(
        self, t: float, x: Float64Array, u: Float64Array, p: Float64Array, guess: Float64Array
    ) -> tuple[Float64Array, Status]:
        """z (nz,) by Newton's method with halved steps; the guess and the reason where it does not converge."""
        z, last = guess, np.inf
        residual, jacobian = self._at(t, x, u, p, z)
        for _ in range(_ITERATIONS):
            try:
                step = -np.linalg.solve(jacobian, residual)
            except np.linalg.LinAlgError:
                break
            length = float(np.max(np.abs(step) / (1.0 + np.abs(z))))
            if not np.isfinite(length):
                break
            scale, size, near = 1.0, np.linalg.norm(residual), length <= _NEAR
            while True:
                trial = z + scale * step
                residual, jacobian = self._at(t, x, u, p, trial)
                if near or np.linalg.norm(residual) <= size or scale < _SHORTEST:
                    break
                scale *= 0.5
            if scale < _SHORTEST:
                break
            z = trial
            if length <= 1e-12 or (near and length >= 0.5 * last):
                return z, Status.SUCCESS
            last = length
        return guess, Status.INCONSISTENT

    def start(
        self, t: float, x: Float64Array, u: Float64Array, p: Float64Array, guess: Float64Array
    ) -> tuple[Float64Array, Status]:
        """The same at the initial time, where a Jacobian that is singular everywhere is another reason."""
        at_guess, beside = (singular(self._at(t, x, u, p, z)[1][None])[0] for z in (guess, guess + nudge(guess)))
        if at_guess:
            return guess, Status.SINGULAR if beside else Status.INCONSISTENT
        return self.solve(t, x, u, p, guess)

    def _at(self, *arguments: float | Float64Array) -> tuple[Float64Array, Float64Array]:
        residual, jacobian = call(self._value, *arguments)
        return residual.reshape(-1), jacobian.reshape(self.nz, self.nz)

    def _blocks(self, *arguments: float | Float64Array) -> list[Float64Array]:
        """Jacobians with respect to x, u, p and z, (nz, n) each."""
        return [v.reshape(self.nz, -1) for v in call(self._jacobians, *arguments)]

    def adjoint(
        self, t: float, x: Float64Array, u: Float64Array, p: Float64Array, z: Float64Array, z_bar: Float64Array
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Adjoints of x, u and p for a seed of z."""
        by_x, by_u, by_p, by_z = self._blocks(t, x, u, p, z)
        mu = -np.linalg.solve(by_z.T, z_bar)
        return by_x.T @ mu, by_u.T @ mu, by_p.T @ mu

    def tangent(
        self,
        point: tuple[float, Float64Array, Float64Array, Float64Array, Float64Array],
        dx: Float64Array,
        du: Float64Array,
        dp: Float64Array,
    ) -> Float64Array:
        """dz (n, nz) at a point (t, x, u, p, z) for n directions dx (n, nx), du (n, nu), dp (n, np)."""
        by_x, by_u, by_p, by_z = self._blocks(*point)
        return np.asarray(-np.linalg.solve(by_z, by_x @ dx.T + by_u @ du.T + by_p @ dp.T).T, np.float64)
