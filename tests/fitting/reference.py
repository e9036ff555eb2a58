"""The same objective in plain NumPy, also for complex parameters: the truth for values and complex-step gradients.

Model: a driven pendulum with a nonlinear coupling, x = (angle, speed), five parameters and one for the output.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import casadi as ca
import numpy as np

import ctrlode_casadi as co

P = np.array([1.3, 0.4, 0.8, 0.5, 0.9, 0.3])
NP = P.size


def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
    return [x[1], -p[0] * ca.sin(x[0]) - p[1] * x[1] + p[2] * u[0] + p[3] * ca.tanh(p[4] * x[0] * x[1])]


def output(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
    return [x[0] + p[5] * x[1] ** 2, ca.exp(-p[5] * t) * x[1] + 0.1 * u[0]]


def model(with_output: bool = True) -> co.ControlledODE:
    return co.ControlledODE(rhs, nx=2, nu=1, params=NP, output=output if with_output else None)


def plain_rhs(t: float, x: Any, u: Any, p: Any) -> Any:
    return np.array([x[1], -p[0] * np.sin(x[0]) - p[1] * x[1] + p[2] * u + p[3] * np.tanh(p[4] * x[0] * x[1])])


def plain_output(t: float, x: Any, u: Any, p: Any) -> Any:
    return np.array([x[0] + p[5] * x[1] ** 2, np.exp(-p[5] * t) * x[1] + 0.1 * u])


def plain_rk4(
    ts: np.ndarray, x0: np.ndarray, values: np.ndarray, p: np.ndarray, running: Callable[..., Any] | None = None
) -> np.ndarray:
    """States at the save times, which are the knots too; the last column is the integral of `running`."""

    def f(t: float, z: Any) -> Any:
        u = np.interp(t, ts, values)
        q = running(t, z[:2], u, p) if running else 0.0
        return np.append(plain_rhs(t, z[:2], u, p), q)

    z = np.append(x0, 0.0).astype(np.result_type(x0, p))
    out = [z]
    for a, b in pairwise(ts):
        h = b - a
        k1 = f(a, z)
        k2 = f(a + h / 2, z + h / 2 * k1)
        k3 = f(a + h / 2, z + h / 2 * k2)
        k4 = f(b, z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        out.append(z)
    return np.array(out)


def complex_step(f: Callable[[np.ndarray], Any], p: np.ndarray) -> np.ndarray:
    """Jacobian of a complex-analytic NumPy function, the last axis belongs to p."""
    h = 1e-30
    return np.stack([np.imag(f(p + 1j * h * e)) / h for e in np.eye(p.size)], axis=-1)


class Experiment:
    """Inputs and data of B trajectories, and the simulator of the model."""

    def __init__(self, size: int, seed: int = 0, steps: int = 12, threads: int = 1, dtype: str = "float64") -> None:
        rng = np.random.default_rng(seed)
        kind = np.dtype(dtype)
        self.ts = np.linspace(0.0, 3.0, steps + 1)
        self.values = rng.standard_normal((size, steps + 1))
        self.x0 = rng.standard_normal((size, 2))
        self.data = rng.standard_normal((size, steps + 1, 2))
        self.size, self.rng, self.dtype = size, rng, kind
        self.controls = co.PiecewiseLinear(self.ts, self.values.astype(kind), dtype=dtype)
        self.model = model()
        self.sim = co.Simulator(self.model, solver=co.RK4(steps_per_interval=1), threads=threads, dtype=dtype)

    def objective(self, x0: Any = None, **options: Any) -> co.Objective:
        if "data" not in options:
            options["data"] = self.data.astype(self.dtype)
        start = self.x0.astype(self.dtype) if x0 is None else x0
        return co.Objective(self.sim, start, self.controls, self.ts, **options)

    def states(self, p: np.ndarray, x0: np.ndarray, running: Callable[..., Any] | None = None) -> np.ndarray:
        """(B, T, 3)."""
        return np.array([plain_rk4(self.ts, x0[b], self.values[b], p, running) for b in range(self.size)])

    def outputs(self, p: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(B, T, 2)."""
        rows = range(self.ts.size)
        return np.array(
            [[plain_output(self.ts[k], x[b, k], self.values[b, k], p) for k in rows] for b in range(self.size)]
        )

    def residuals(self, p: np.ndarray, x0: np.ndarray | None = None) -> np.ndarray:
        """y - data, (B, T, 2)."""
        return self.outputs(p, self.states(p, self.x0 if x0 is None else x0)) - self.data
