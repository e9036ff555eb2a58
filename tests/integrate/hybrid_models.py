"""Models with events and their closed forms, for real and complex numbers."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np

import ctrlode_casadi as co
from ctrlode_casadi.lowering.jit import host

W = host().vector_bytes // 8
G = 9.81


def ball() -> co.ControlledODE:
    """Height and speed; p is gravity and restitution."""
    return co.ControlledODE(lambda t, x, u, p: [x[1], -p[0]], nx=2, params=2)


def bounce() -> co.Event:
    """The impact at height zero."""
    return co.Event(lambda t, x, u, p: x[0], lambda t, x, u, p: [x[0], -p[1] * x[1]], direction=-1, name="bounce")


def bouncing(t: float, h: Any, v: Any, g: Any, e: Any) -> list[Any]:
    """Height and speed of the ball; the comparison of times uses the real part."""
    impact = np.sqrt(v * v + 2 * g * h)
    when, after = (v + impact) / g, e * impact
    if t <= np.real(when):
        return [h + v * t - 0.5 * g * t * t, v - g * t]
    while t > np.real(when + 2 * after / g):
        when, after = when + 2 * after / g, e * after
    d = t - when
    return [after * d - 0.5 * g * d * d, after - g * d]


def starts(size: int) -> np.ndarray:
    """Initial states with different numbers of bounces."""
    heights = np.linspace(0.6, 12.0, size) if size > 1 else np.array([1.0])
    return np.stack([heights, 0.3 * np.sin(np.arange(size))], axis=1)


def clock() -> co.ControlledODE:
    """x' = 1."""
    return co.ControlledODE(lambda t, x, u, p: 1.0 + 0 * x, nx=1, params=1)


def thermostat(low: float, high: float) -> tuple[co.ControlledODE, list[co.Event]]:
    """T' = -p0 T + p1 m; the heating m goes off at `high` and on at `low`."""
    model = co.ControlledODE(lambda t, x, u, p: [-p[0] * x[0] + p[1] * x[1], ca.MX(0)], nx=2, params=2)
    off = co.Event(lambda t, x, u, p: x[0] - high, lambda t, x, u, p: [x[0], 0.0], direction=1)
    on = co.Event(lambda t, x, u, p: x[0] - low, lambda t, x, u, p: [x[0], 1.0], direction=-1)
    return model, [off, on]


def thermostat_times(k: Any, q: Any, low: float, high: float, end: float) -> np.ndarray:
    """Times of the switches of a thermostat that starts cold and heating."""
    rest, times = q / k, []
    t = -np.log((rest - high) / rest) / k
    while np.real(t) < end:
        times.append(t)
        heating = len(times) % 2 == 0
        t = t + (np.log((rest - low) / (rest - high)) if heating else np.log(high / low)) / k
    return np.array(times)


def thermostat_state(t: float, k: Any, q: Any, low: float, high: float) -> Any:
    """Temperature of that thermostat at time t."""
    times = thermostat_times(k, q, low, high, t)
    rest = q / k
    if times.size == 0:
        return rest * (1 - np.exp(-k * t))
    since = np.exp(-k * (t - times[-1]))
    return high * since if times.size % 2 else rest - (rest - low) * since
