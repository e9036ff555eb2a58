"""Optimal control problems with a known answer, typed from the publications, in the terms of the package.

Each function returns a `Case`. `exact` is a closed form or a value that several codes agree on to the digits given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

import ctrlode_casadi as co


@dataclass(frozen=True, eq=False)
class Case:
    """A problem, its guess, the optimal cost (of what is minimised) and the relative tolerance that it deserves."""

    ocp: co.OptimalControlProblem
    guess: dict[str, Any]
    exact: float
    rtol: float
    held: dict[int, float]  # optimal cost for a control held constant on that many intervals


def line(*rows: list[float]) -> np.ndarray:
    """States on a line between two rows."""
    return np.array(rows, dtype=float)


def van_der_pol() -> Case:
    """Damp an oscillator; smooth. Bocop's example, cost 1.0478069."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], (1 - x[0] ** 2) * x[1] - x[0] + u[0]], nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, tf=2.0)
    ocp.minimize(lagrange=lambda t, x, u, p: 0.5 * (ca.sumsqr(x) + u[0] ** 2))
    ocp.initial([1.0, 0.0])
    return Case(ocp, {"x": [1.0, 0.0], "u": [0.0]}, 1.04780690722, 1e-9, {10: 1.050146692, 20: 1.048392752})


def bryson_denham() -> Case:
    """Least effort with a wall in the way: Bryson & Ho 1975, sec. 3.11; 4 / (9 l) with the wall at l = 1/9."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1, state_names=("y", "v"))
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: 0.5 * u[0] ** 2)
    ocp.bounds(x=([None, None], [1 / 9, None]))
    ocp.initial([0.0, 1.0])
    ocp.terminal([0.0, -1.0])
    return Case(ocp, {"x": line([0.05, 1.0], [0.05, -1.0])}, 4.0, 1e-5, {})


def brachistochrone() -> Case:
    """Fastest slide from (0, 0) to (2, 2): the cycloid."""
    g = 9.8
    model = co.ControlledODE(
        lambda t, x, u, p: [x[2] * ca.sin(u[0]), x[2] * ca.cos(u[0]), g * ca.cos(u[0])], nx=3, nu=1
    )
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.0, 0.1, 10.0))
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf)
    ocp.bounds(x=(0.0, 20.0), u=(0.0, 2 * np.pi))
    ocp.initial([0.0, 0.0, 0.0])
    ocp.terminal([2.0, 2.0, None])
    low, high = 1e-9, 2 * math.pi - 1e-9  # the angle at the end: theta - sin theta = 1 - cos theta
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if middle - math.sin(middle) > 1 - math.cos(middle) else (middle, high)
    exact = low * math.sqrt(2.0 / (1 - math.cos(low)) / g)
    guess = {"x": line([0.0, 0.0, 0.0], [2.0, 2.0, 6.0]), "u": np.linspace(0.1, 1.3, 11)}
    return Case(ocp, guess, exact, 1e-7, {20: 0.8248842046})


def goddard() -> Case:
    """Highest flight of a rocket, with a singular arc and a free final time: COPS 3.0, problem 10."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        height, speed, mass = x[0], x[1], x[2]
        drag = 310.0 * speed**2 * ca.exp(-500.0 * (height - 1.0))
        return [speed, (u[0] - drag) / mass - 1.0 / height**2, -2.0 * u[0]]

    model = co.ControlledODE(rhs, nx=3, nu=1, state_names=("h", "v", "m"), control_names=("thrust",))
    ocp = co.OptimalControlProblem(model, tf=co.Free(0.2, 0.05, 1.0))
    ocp.minimize(mayer=lambda x0, xf, tf, p: -xf[0])
    ocp.bounds(x=([1.0, 0.0, 0.6], [None, None, 1.0]), u=(0.0, 3.5))
    ocp.initial([1.0, 0.0, 1.0])
    ocp.terminal([None, None, 0.6])
    s = np.linspace(0.0, 1.0, 21)
    guess = {"x": np.stack([1 + 0.01 * s, 0.4 * s * (1 - s) + 0.01, 1 - 0.4 * s], axis=1), "u": [1.75], "tf": 0.2}
    return Case(ocp, guess, -1.01283585, 2e-5, {20: -1.012829073})


def hanging_chain() -> Case:
    """A chain of length 4 hangs with least potential energy: the catenary. The length is an integral constraint."""
    a, b, length = 1.0, 3.0, 4.0
    model = co.ControlledODE(lambda t, x, u, p: u[0], nx=1, nu=1, state_names=("y",))
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: x[0] * ca.sqrt(1 + u[0] ** 2))
    ocp.integral(lambda t, x, u, p: ca.sqrt(1 + u[0] ** 2), length, length, name="length")
    ocp.initial([a])
    ocp.terminal([b])
    low, high = 1e-2, 1e2  # 2 k sinh(1 / 2k) = sqrt(L^2 - (b - a)^2)
    for _ in range(200):
        k = 0.5 * (low + high)
        low, high = (k, high) if 2 * k * math.sinh(0.5 / k) > math.sqrt(length**2 - (b - a) ** 2) else (low, k)
    c = 0.5 - k * math.atanh((b - a) / length)
    d = a - k * math.cosh(-c / k)

    def energy(s: float) -> float:
        z = (s - c) / k
        return k * k * (0.25 * math.sinh(2 * z) + 0.5 * z) + d * k * math.sinh(z)

    return Case(ocp, {"x": line([1.0], [3.0]), "u": [2.0]}, energy(1.0) - energy(0.0), 1e-6, {20: 5.069116055})


def fastest_oscillator() -> Case:
    """A van der Pol oscillator to rest in the least time, bang-bang: JModelica's test, 2.28118 (own runs 2.281183)."""
    model = co.ControlledODE(lambda t, x, u, p: [(1 - x[1] ** 2) * x[0] - x[1] + u[0], x[0]], nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, tf=co.Free(2.0, 0.2, 10.0))
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf)
    ocp.bounds(u=(-1.0, 1.0))
    ocp.initial([0.0, 1.0])
    ocp.terminal([0.0, 0.0])
    return Case(ocp, {"x": line([0.0, 1.0], [0.0, 0.0])}, 2.281184, 1e-4, {20: 2.2867025})


def catalyst() -> Case:
    """Mix two catalysts along a reactor, singular arc: COPS 3.0, problem 14."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        exchange = u[0] * (10 * x[1] - x[0])
        return [exchange, -exchange - (1 - u[0]) * x[1]]

    ocp = co.OptimalControlProblem(co.ControlledODE(rhs, nx=2, nu=1), tf=1.0)
    ocp.minimize(mayer=lambda x0, xf, tf, p: xf[0] + xf[1] - 1)
    ocp.bounds(u=(0.0, 1.0))
    ocp.initial([1.0, 0.0])
    return Case(ocp, {"x": line([1.0, 0.0], [0.9, 0.05]), "u": [0.5]}, -0.04805568, 1e-4, {20: -0.04804969117})


def particle_steering() -> Case:
    """Steer a particle of constant thrust to a height and speed in the least time: Bryson & Ho 1975; Betts."""
    model = co.ControlledODE(lambda t, x, u, p: [x[2], x[3], 100 * ca.cos(u[0]), 100 * ca.sin(u[0])], nx=4, nu=1)
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.0, 0.05, 5.0))
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf)
    ocp.bounds(u=(-np.pi / 2, np.pi / 2))
    ocp.initial([0.0] * 4)
    ocp.terminal([None, 5.0, 45.0, 0.0])
    s = np.linspace(0.0, 1.0, 21)
    guess = {
        "x": np.stack([12 * s**2, 5 * s, 45 * s, 20 * s * (1 - s)], axis=1),
        "u": 0.8 - 1.6 * np.linspace(0.0, 1.0, 21),
    }
    return Case(ocp, guess, 0.554570878, 1e-8, {20: 0.5547246964})


CASES = [
    van_der_pol, bryson_denham, brachistochrone, goddard,
    hanging_chain, fastest_oscillator, catalyst, particle_steering,
]  # fmt: skip


def cart() -> co.OptimalControlProblem:
    """Unit mass, one metre in one second, rest to rest, least force squared: u = 6 - 12 t, cost 12."""
    model = co.ControlledODE(
        lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1, state_names=("s", "v"), control_names=("force",)
    )
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2)
    ocp.initial([0.0, 0.0])
    ocp.terminal([1.0, 0.0])
    return ocp
