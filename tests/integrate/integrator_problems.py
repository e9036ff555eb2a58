"""Problems for CasADi's integrators, and truth by tight explicit integration."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np

import ctrlode_casadi as co

#: Tolerances at which SUNDIALS' values and gradients are right to 1e-8, and exact methods by far.
TIGHT = {"rtol": 1e-11, "atol": 1e-12, "max_steps": 100_000}
SOLVERS: dict[str, Any] = {
    "bdf": co.CVODES(**TIGHT),
    "adams": co.CVODES(method="adams", **TIGHT),
    "idas": co.IDAS(**TIGHT),
    "erk": co.ERK(**TIGHT),
    "rosenbrock": co.Rosenbrock(**TIGHT),
    "collocation": co.Collocation(degree=6, steps_per_interval=6),
    "legendre": co.Collocation(degree=5, scheme="legendre", steps_per_interval=8),
    "erk fixed": co.ERK(steps_per_interval=40),
    "rosenbrock fixed": co.Rosenbrock(steps_per_interval=40),
}
#: One solver of every adjoint.
FAMILIES = ("bdf", "idas", "erk", "rosenbrock", "collocation")
TRUTH = co.DOP853(rtol=1e-13, atol=1e-13)


def pendulum() -> co.ControlledODE:
    """Two inputs, explicit time, everything nonlinear."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        drive = ca.tanh(u[0]) + 0.1 * u[1] * x[0] * ca.cos(t)
        return [x[1], -p[0] * ca.sin(x[0]) - p[1] * x[1] + drive]

    return co.ControlledODE(rhs, nx=2, nu=2, params=2)


def worst(found: Any, truth: Any) -> float:
    """Largest difference of two equally shaped nests of arrays, relative to the largest entry of each array."""
    pairs = zip(found, truth, strict=True) if isinstance(found, tuple | list) else [(found, truth)]
    return max(float(np.abs(np.subtract(a, b)).max() / max(np.abs(b).max(), 1e-300)) for a, b in pairs)
