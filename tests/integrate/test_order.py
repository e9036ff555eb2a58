"""Measured order of convergence, with smooth, linear and piecewise constant controls."""

from __future__ import annotations

import numpy as np
import pytest

from ctrlode_casadi.controls import CubicSpline, PiecewiseConstant, PiecewiseLinear
from ctrlode_casadi.integrate import BS3, DOP853, RK4, Dopri5, Euler, Heun, Midpoint, Simulator, Tsit5
from integrate.problems import P, oscillator, reference

ORDERS = {Euler: 1, Midpoint: 2, Heun: 2, BS3: 3, RK4: 4, Dopri5: 5, Tsit5: 5, DOP853: 8}
STEPS = {1: (64, 128), 2: (32, 64), 3: (16, 32), 4: (16, 32), 5: (8, 16), 8: (2, 4)}
KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])
VALUES = np.array([0.3, -1.0, 1.5, 0.4, -0.7])
X0 = np.array([0.5, -0.2])


@pytest.mark.parametrize("kind", [PiecewiseConstant, PiecewiseLinear, CubicSpline])
@pytest.mark.parametrize("method", ORDERS)
def test_measured_order(method, kind):
    control = kind(KNOTS, VALUES)
    ts = np.array([0.0, 1.5, 3.0])
    exact = reference(control, P, X0, ts, KNOTS)[-1]
    errors = []
    for n in STEPS[ORDERS[method]]:
        sol = Simulator(oscillator(), method(steps_per_interval=n))(X0, control, P, ts)
        errors.append(np.abs(sol.x[0, -1] - exact).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[method], abs=0.7)


def test_dt_bounds_every_step():
    ts = np.array([0.0, 1.0, 1.05, 2.0])
    sol = Simulator(oscillator(), RK4(dt=0.1))(X0, PiecewiseLinear([0.0, 2.0], [0.0, 1.0]), P, ts)
    assert sol.stats["n_steps"][0] == 10 + 1 + 10
    assert sol.stats["n_rhs"][0] == 4 * 21


def test_knots_count_as_interval_ends():
    control = PiecewiseLinear(KNOTS, VALUES)
    sol = Simulator(oscillator(), RK4(steps_per_interval=2))(X0, control, P, np.array([0.0, 1.5, 3.0]))
    assert sol.stats["n_steps"][0] == 2 * 5
