"""Events with the automatic choice of a method: a thermostat with a sensor that is fast in some of the trajectories."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from integrate.hybrid_models import W

LOW, HIGH, EPS = 1.0, 2.0, 1e-30
TS = np.linspace(0.0, 4.0, 9)
P = np.array([0.7, 3.0])
AUTO = co.Auto(rtol=1e-9, atol=1e-10)


def sensed() -> co.ControlledODE:
    """T' = -p0 T + p1 m, s' = k (T - s); heating m and speed k of the sensor are states."""
    return co.ControlledODE(
        lambda t, x, u, p: [-p[0] * x[0] + p[1] * x[2], x[3] * (x[0] - x[1]), ca.MX(0), ca.MX(0)], nx=4, params=2
    )


def switches() -> list[co.Event]:
    """Heating off at HIGH and on at LOW; the sensor is set to zero when it goes off."""
    off = co.Event(lambda t, x, u, p: x[0] - HIGH, lambda t, x, u, p: [x[0], 0.0, 0.0, x[3]], direction=1)
    on = co.Event(lambda t, x, u, p: x[0] - LOW, lambda t, x, u, p: [x[0], x[1], 1.0, x[3]], direction=-1)
    return [off, on]


def exact(t: float, x0: Any, p: Any) -> list[Any]:
    """Temperature and sensor at time t from (T, s) with heating on."""
    T, s, m, k = x0
    while True:
        rest = m * p[1] / p[0]
        goal = HIGH if np.real(m) > 0.5 else LOW
        when = np.log((T - rest) / (goal - rest)) / p[0]
        lag = k * (T - rest) / (k - p[0])
        d = t if t <= np.real(when) else when
        decay, fast = np.exp(-p[0] * d), np.exp(-np.minimum(np.real(k * d), 600.0) - 1j * np.imag(k * d))
        T, s = rest + (T - rest) * decay, rest + lag * decay + (s - rest - lag) * fast
        if t <= np.real(when):
            return [T, s]
        t, s, m = t - when, (0.0 if np.real(m) > 0.5 else s), (0.0 if np.real(m) > 0.5 else 1.0)


def inputs(size: int) -> np.ndarray:
    """Initial states; every second sensor is fast."""
    k = np.where(np.arange(size) % 2 == 0, 3e4, 2.0)
    return np.stack([np.linspace(0.2, 0.9, size), np.zeros(size), np.ones(size), k], axis=1)


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_stiff_trajectories_are_repeated_with_events(size: int, rng: np.random.Generator) -> None:
    sim = co.Simulator(sensed(), AUTO, events=switches())
    x0 = inputs(size)
    sol = sim(x0, None, P, TS)
    np.testing.assert_array_equal(sol.stats["stiff"], x0[:, 3] > 1e3)
    assert sol.success.all() and f"{(x0[:, 3] > 1e3).sum()} of {size} trajectories were stiff" in sim.explain()
    want = np.array([[np.real(exact(t, row, P)) for t in TS] for row in x0])
    np.testing.assert_allclose(sol.x[:, :, :2], want, atol=2e-7)
    for b in range(size):
        first = np.log((P[1] / P[0] - x0[b, 0]) / (P[1] / P[0] - HIGH)) / P[0]
        period = np.array([np.log(HIGH / LOW), np.log((P[1] / P[0] - LOW) / (P[1] / P[0] - HIGH))]) / P[0]
        times = first + np.concatenate([[0.0], np.cumsum(np.tile(period, 9))])
        np.testing.assert_allclose(sol.events[b].t, times[times < TS[-1]], rtol=1e-7)
    seeds = np.zeros((size, TS.size, 4))
    seeds[:, :, :2] = rng.standard_normal((size, TS.size, 2))
    p_bar, x0_bar, _ = sim.vjp(x0, None, P, TS, seeds)
    want_p = np.zeros(2)
    for b in range(size):
        at = np.array([*x0[b], *P], complex)
        slopes = [
            sum(seeds[b, k, :2] @ np.imag(exact(t, z[:4], z[4:])) for k, t in enumerate(TS)) / EPS
            for z in at + 1j * EPS * np.eye(6)[[0, 1, 4, 5]]
        ]
        np.testing.assert_allclose(x0_bar[b, :2], slopes[:2], rtol=1e-5, atol=1e-5)
        want_p += slopes[2:]
    np.testing.assert_allclose(p_bar, want_p, rtol=1e-5, atol=1e-5)


def test_each_trajectory_has_the_gradient_of_its_method(rng: np.random.Generator) -> None:
    x0 = inputs(5)
    seeds = rng.standard_normal((5, TS.size, 4))
    stiff = x0[:, 3] > 1e3
    both = co.Simulator(sensed(), AUTO, events=switches()).vjp(x0, None, P, TS, seeds)
    parts = [
        co.Simulator(sensed(), solver, events=switches()).vjp(x0[rows], None, P, TS, seeds[rows])
        for solver, rows in ((AUTO.explicit_solver, ~stiff), (AUTO.stiff_solver, stiff))
    ]
    np.testing.assert_allclose(both[0], parts[0][0] + parts[1][0], rtol=1e-10)
    for part, rows in zip(parts, (~stiff, stiff), strict=True):
        np.testing.assert_allclose(both[1][rows], part[1], rtol=1e-10, atol=1e-12)


def test_an_objective_and_its_forward_sweep() -> None:
    model = co.ControlledODE(sensed().rhs, nx=4, params=2, output=lambda t, x, u, p: x[:2])
    sim = co.Simulator(model, AUTO, events=switches())
    x0 = inputs(3)
    obj = co.Objective(sim, x0, None, TS, data=np.ones((3, TS.size, 2)))
    value, gradient = obj(P)
    want = np.array([[np.real(exact(t, row, P)) for t in TS] for row in x0])
    assert value == pytest.approx(np.mean((want - 1.0) ** 2), rel=1e-6)
    for v in np.eye(2):
        # Forward sensitivities are outside the error estimate, so that both differ by the tolerance's size.
        assert obj.derivative_along(P, v) == pytest.approx(gradient @ v, rel=1e-6)


def test_controls_of_stiff_trajectories() -> None:
    # T' = -T + u, a sensor of speed k, and a jump of T from 1 to p: three trajectories, the second one stiff.
    model = co.ControlledODE(lambda t, x, u, p: [-x[0] + u[0], x[2] * (x[0] - x[1]), ca.MX(0)], nx=3, nu=1, params=1)
    event = co.Event(lambda t, x, u, p: x[0] - 1.0, lambda t, x, u, p: [p[0], x[1], x[2]], direction=1)
    x0 = np.array([[0.0, 0.0, 1.0], [0.1, 0.0, 1e5], [0.2, 0.0, 1.0]])
    values = np.array([2.0, 2.5, 3.0])[:, None, None] * np.ones((1, 3, 1))
    control = co.PiecewiseConstant([0.0, 1.5, 3.0], values)
    seeds = np.zeros((3, 2, 3))
    seeds[:, 1, 0] = 1.0
    sim = co.Simulator(model, AUTO, events=event)
    sol = sim(x0, control, [0.3], [0.0, 1.2])
    np.testing.assert_array_equal(sol.stats["stiff"], [False, True, False])
    p_bar, x0_bar, u_bar = sim.vjp(x0, control, [0.3], [0.0, 1.2], seeds)

    def end(u: Any, start: Any, p: Any) -> Any:
        t = 1.2
        while True:
            when = np.log((u - start) / (u - 1.0))
            if t <= np.real(when):
                return u + (start - u) * np.exp(-t)
            t, start = t - when, p

    total = 0.0
    for b in range(3):
        assert sol.x[b, 1, 0] == pytest.approx(end(values[b, 0, 0], x0[b, 0], 0.3), rel=1e-8)
        at = np.array([values[b, 0, 0], x0[b, 0], 0.3], complex)
        want = [np.imag(end(*(at + 1j * EPS * e))) / EPS for e in np.eye(3)]
        np.testing.assert_allclose([u_bar[b, 0, 0], x0_bar[b, 0]], want[:2], rtol=1e-6)
        total += want[2]
    assert p_bar[0] == pytest.approx(total, rel=1e-6)
