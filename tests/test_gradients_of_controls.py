"""`Simulator.vjp` against differences of `Simulator.__call__`, for every kind of control and around the lane width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.lowering.jit import host

W = host().vector_bytes // 8
KNOTS = np.array([0.0, 0.4, 0.9, 1.1, 1.7, 2.0])
TS = np.array([0.0, 0.3, 0.9, 1.4, 2.0])

Kind = Callable[[Any, Any], Any]
KINDS: dict[str, Kind] = {
    "constant": lambda knots, values: co.Constant(values[:, 0]),
    "left": lambda knots, values: co.PiecewiseConstant(knots, values),
    "right": lambda knots, values: co.PiecewiseConstant(knots, values, side="right"),
    "linear": lambda knots, values: co.PiecewiseLinear(knots, values),
    "periodic": lambda knots, values: co.PiecewiseLinear(0.3 * knots, values, extrapolation="periodic"),
    "spline": lambda knots, values: co.CubicSpline(knots, values),
    "natural": lambda knots, values: co.CubicSpline(0.8 * knots, values, bc_type="natural", extrapolation="linear"),
    "clamped": lambda knots, values: co.CubicSpline(knots, values, bc_type="clamped"),
    "hermite": lambda knots, values: co.CubicHermite(knots, values, np.ones_like(values)),
    "pchip": lambda knots, values: co.Pchip(0.8 * knots, values, extrapolation="hold"),
    "akima": lambda knots, values: co.Akima(knots, values),
    "own knots": lambda knots, values: co.Akima(knots * np.linspace(1.0, 1.3, len(values))[:, None], values),
}


def pendulum() -> co.ControlledODE:
    """Two inputs, everything nonlinear."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        return [x[1], -p[0] * ca.sin(x[0]) - p[1] * x[1] + ca.tanh(u[0]) + 0.1 * u[1] * x[0] * ca.cos(t)]

    return co.ControlledODE(rhs, nx=2, nu=2, params=2)


SIM = co.Simulator(pendulum(), solver=co.RK4(steps_per_interval=2))


def slope(f: Callable[[float], float], h: float = 2e-4) -> float:
    """f'(0) by central differences, extrapolated three times; h is below the distance to kinks of pchip and akima."""
    rows = [[(f(h / 2**k) - f(-h / 2**k)) / (h / 2 ** (k - 1))] for k in range(4)]
    for k in range(1, 4):
        for j in range(k):
            rows[k].append(rows[k][j] + (rows[k][j] - rows[k - 1][j]) / (4 ** (j + 1) - 1))
    return rows[-1][-1]


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
@pytest.mark.parametrize("kind", KINDS)
def test_vjp_equals_differences(kind: str, size: int, rng: np.random.Generator) -> None:
    control = KINDS[kind](KNOTS, rng.standard_normal((size, KNOTS.size, 2)))
    where = [np.array([1.3, 0.2]), rng.standard_normal((size, 2)), control.values]
    seeds = rng.standard_normal((size, TS.size, 2))
    found = SIM.vjp(where[1], control, where[0], TS, seeds)
    for i, bar in enumerate(found):
        direction = rng.standard_normal(where[i].shape)

        def moved(h: float, i: int = i, direction: np.ndarray = direction) -> float:
            p, x0, values = (v + h * direction if j == i else v for j, v in enumerate(where))
            return float(np.sum(seeds * SIM(x0, control.with_values(values), p, TS).x))

        scale = float(np.sum(np.abs(bar * direction)))
        assert np.sum(bar * direction) == pytest.approx(slope(moved), abs=1e-9 * scale)
