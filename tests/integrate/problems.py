"""Models and reference integrations shared by the tests of this folder."""

from __future__ import annotations

import itertools

import casadi as ca
import numpy as np
from scipy.integrate import solve_ivp

from ctrlode_casadi.model.ode import ControlledODE


def oscillator() -> ControlledODE:
    """x1' = x2, x2' = -p0 sin(x1) - p1 x2 + p2 u + 0.1 cos(t)."""

    def rhs(t, x, u, p):
        return [x[1], -p[0] * ca.sin(x[0]) - p[1] * x[1] + p[2] * u[0] + 0.1 * ca.cos(t)]

    return ControlledODE(rhs, nx=2, nu=1, params=3)


def oscillator_rhs(t, x, u, p):
    """The same in NumPy, for real and complex numbers."""
    return np.array([x[1], -p[0] * np.sin(x[0]) - p[1] * x[1] + p[2] * u + 0.1 * np.cos(t)])


P = np.array([1.3, 0.2, 0.7])


def blow_up() -> ControlledODE:
    """x' = p x^2 + u: infinite at t = 1 / (p x0) for u = 0."""
    return ControlledODE(lambda t, x, u, p: p * x[0] ** 2 + u[0], nx=1, nu=1, params=1)


def arenstorf() -> tuple[ControlledODE, np.ndarray, float]:
    """Restricted three-body problem with a closed orbit (Hairer, Norsett & Wanner I, II.0): model, x0, period."""
    mu = 0.012277471
    m1 = 1 - mu

    def rhs(t, x, u, p):
        d1 = ((x[0] + mu) ** 2 + x[1] ** 2) ** 1.5
        d2 = ((x[0] - m1) ** 2 + x[1] ** 2) ** 1.5
        return [
            x[2],
            x[3],
            x[0] + 2 * x[3] - m1 * (x[0] + mu) / d1 - mu * (x[0] - m1) / d2,
            x[1] - 2 * x[2] - m1 * x[1] / d1 - mu * x[1] / d2,
        ]

    x0 = np.array([0.994, 0.0, 0.0, -2.00158510637908252240537862224])
    return ControlledODE(rhs, nx=4), x0, 17.0652165601579625588917206249


def lotka_volterra() -> ControlledODE:
    """The predator-prey model of the SUNDIALS adjoint example."""
    return ControlledODE(
        lambda t, x, u, p: [p[0] * x[0] - p[1] * x[0] * x[1], -p[2] * x[1] + p[3] * x[0] * x[1]], nx=2, params=4
    )


def reference(control, p, x0, ts, knots, b=0):
    """Oscillator of trajectory b by SciPy's DOP853, restarted at every knot with the piece's own control."""
    points = np.unique(np.concatenate([ts, knots[(knots > ts[0]) & (knots < ts[-1])]]))
    states, x = [np.asarray(x0, float)], np.asarray(x0, float)
    for left, right in itertools.pairwise(points):
        pieces = control.pieces(left, right)
        middle = 0.5 * (left + right)
        q = int(np.searchsorted(pieces.breaks, middle)) - 1
        coefficients = pieces.coefficients[b if pieces.coefficients.shape[0] > 1 else 0, q, 0]

        def u(t, c=coefficients, a=pieces.anchors[q]):
            return np.polynomial.polynomial.polyval(t - a, c)

        run = solve_ivp(lambda t, y: oscillator_rhs(t, y, u(t), p), (left, right), x, "DOP853", rtol=1e-12, atol=1e-13)
        x = run.y[:, -1]
        states.append(x)
    return np.array(states)[np.isin(points, ts)]
