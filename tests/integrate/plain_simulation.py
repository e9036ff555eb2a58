"""The textbook loop in NumPy, for real and complex numbers: the truth for expressions and compiled sweeps.

`PlainSimulator` has the calls of `Simulator` for one trajectory; its derivatives are complex steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import casadi as ca
import numpy as np

from ctrlode_casadi.model.ode import ControlledODE

STEP = 1e-30


def pendulum_rhs(t, x, u, p, lib=np):
    """A driven pendulum, smooth, nonlinear in everything; works with NumPy and CasADi."""
    push = p[2] * lib.tanh(u[0]) + u[1] * x[0] + 0.3 * u[0] * u[1]
    return [x[1] + 0.1 * u[1], -p[0] * lib.sin(x[0]) - p[1] * x[1] + push + 0.2 * lib.cos(t)]


def pendulum() -> ControlledODE:
    """The pendulum as a model: nx 2, nu 2, np 3."""
    return ControlledODE(lambda t, x, u, p: pendulum_rhs(t, x, u, p, ca), nx=2, nu=2, params=3)


def step(rhs, tableau, t, h, x, control, p):
    """One Runge-Kutta step; `control` gives u at a time."""
    slopes = []
    for i in range(tableau.stages):
        state = x + h * sum((tableau.A[i, j] * slopes[j] for j in range(i)), 0 * x)
        slopes.append(np.array(rhs(t + tableau.c[i] * h, state, control(t + tableau.c[i] * h), p)))
    return x + h * sum(b * k for b, k in zip(tableau.b, slopes))


def grid(ts, breaks):
    """Save times and breaks inside them, merged, with points a rounding apart counted once."""
    points = np.concatenate([ts, breaks[(breaks > ts[0]) & (breaks < ts[-1])]])
    points = np.unique(points)
    keep = np.concatenate([[True], np.diff(points) > 1e-13 * np.abs(points).max()])
    return points[keep]


def simulate(rhs, solver, ts, pieces, coefficients, x0, p, default_count=1):
    """States (T, nx) under the polynomials of `pieces` with the given coefficients (Nb, nu, d + 1)."""
    x, rows = x0, [x0]
    points = grid(ts, pieces.breaks)
    for left, right in pairwise(points):
        q = min(int(np.searchsorted(pieces.breaks, 0.5 * (left + right))) - 1, pieces.anchors.size - 1)

        def control(t, q=q):
            s = t - pieces.anchors[q]
            return sum(coefficients[q][:, j] * s**j for j in range(coefficients.shape[2]))

        count = solver.steps_per_interval or default_count
        if solver.dt is not None:
            count = max(1, int(np.ceil((right - left) / solver.dt - 1e-9)))
        h = (right - left) / count
        for i in range(count):
            x = step(rhs, solver.tableau, left + i * h, h, x, control, p)
        if np.min(np.abs(ts - right)) < 1e-13 * np.abs(ts).max():
            rows.append(x)
    return np.array(rows)


@dataclass(frozen=True)
class Solution:
    x: np.ndarray


@dataclass(frozen=True)
class PlainSimulator:
    """Simulation of one trajectory, slow and plain; adaptive solvers take four steps per interval."""

    model: ControlledODE
    solver: Any
    rhs: Any = pendulum_rhs
    dtype: str = "float64"

    def states(self, x0, controls, p, ts, dx0=0.0, dp=0.0, du=None):
        """States (T, nx) along a complex direction."""
        pieces = controls.pieces(ts[0], ts[-1])
        coefficients = pieces.coefficients[0]
        if du is not None:
            tangent = controls.pieces_tangent(ts[0], ts[-1], np.reshape(du, controls.values.shape))
            coefficients = coefficients + 1j * STEP * tangent[0]
        x0, p = np.reshape(x0, -1) + 1j * STEP * np.reshape(dx0, -1), np.reshape(p, -1) + 1j * STEP * np.reshape(dp, -1)
        return simulate(self.rhs, self.solver, ts, pieces, coefficients, x0, p, 4 if self.solver.adaptive else 1)

    def __call__(self, x0, controls, p, ts):
        return Solution(self.states(x0, controls, p, ts).real[None])

    def jvp(self, x0, controls, p, ts, dp=None, dx0=None, du=None):
        zero = 0.0
        dx = self.states(x0, controls, p, ts, zero if dx0 is None else dx0, zero if dp is None else dp, du)
        return dx.imag[None] / STEP

    def vjp(self, x0, controls, p, ts, xbar):
        def adjoint(name, shape):
            out = np.zeros(int(np.prod(shape)))
            for i, e in enumerate(np.eye(out.size)):
                out[i] = np.sum(xbar * self.jvp(x0, controls, p, ts, **{name: e.reshape(shape)}))
            return out.reshape(shape)

        return adjoint("dp", np.shape(p)), adjoint("dx0", np.shape(x0)), adjoint("du", controls.values.shape)
