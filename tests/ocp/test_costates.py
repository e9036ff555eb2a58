"""Costates against Riccati's equation, against derivatives of the optimal cost, and between the methods."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest
import scipy.linalg

import ctrlode_casadi as co
from ocp.problems import brachistochrone, bryson_denham, cart, fastest_oscillator, van_der_pol

TIGHT = {"backend": "casadi", "options": {"tol": 1e-11}}
A, B = np.array([[0.0, 1.0], [-0.5, 0.2]]), np.array([[0.0], [1.0]])
Q, R, P = np.diag([2.0, 0.5]), np.array([[0.3]]), np.diag([4.0, 1.0])


def riccati(dt: float, n: int, x: np.ndarray) -> np.ndarray:
    """Costates (n + 1, nx) of the linear regulator with a held control, its cost discretised exactly (Van Loan)."""
    f = np.block([[A, B], [np.zeros((1, 3))]])
    big = scipy.linalg.expm(np.block([[-f.T, scipy.linalg.block_diag(Q, R)], [np.zeros_like(f), f]]) * dt)
    phi = big[3:, 3:]
    cost = phi.T @ big[:3, 3:]
    ad, bd, values = phi[:2, :2], phi[:2, 2:], [P]
    q, s, r = cost[:2, :2], cost[:2, 2:], cost[2:, 2:]
    gains = []
    for _ in range(n):
        v = values[0]
        gain = np.linalg.solve(r + bd.T @ v @ bd, s.T + bd.T @ v @ ad)
        gains.insert(0, gain)
        values.insert(0, q + ad.T @ v @ ad - (s + ad.T @ v @ bd) @ gain)
    rows = []
    for k in range(n + 1):
        rows.append(2 * values[k] @ x)
        x = (ad - bd @ gains[k]) @ x if k < n else x
    return np.array(rows)


@pytest.mark.parametrize("method", ["single-shooting", "multiple-shooting"])
@pytest.mark.parametrize("as_state", [False, True])
def test_costates_of_a_linear_regulator_are_those_of_riccati(method: str, as_state: bool) -> None:
    """With the cost as an integral, and as a state, whose own costate is one."""

    def running(x: Any, u: Any) -> Any:
        return ca.bilin(Q, x[:2]) + ca.bilin(R, u)

    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        linear = ca.mtimes(A, x[:2]) + ca.mtimes(B, u)
        return ca.vertcat(linear, running(x, u)) if as_state else linear

    ocp = co.OptimalControlProblem(co.ControlledODE(rhs, nx=2 + as_state, nu=1), tf=2.0)
    if as_state:
        ocp.minimize(mayer=lambda x0, xf, tf, p: ca.bilin(P, xf[:2]) + xf[2])
    else:
        ocp.minimize(lagrange=lambda t, x, u, p: running(x, u), mayer=lambda x0, xf, tf, p: ca.bilin(P, xf))
    ocp.initial([1.0, -0.5] + [0.0] * as_state)
    sol = ocp.solve(method=method, intervals=10, integrator=co.DOP853(steps_per_interval=2), **TIGHT)
    found = sol.multipliers.costates
    np.testing.assert_allclose(found[:, :2], riccati(0.2, 10, np.array([1.0, -0.5])), rtol=1e-8)
    if as_state:
        np.testing.assert_array_equal(found[:, 2], 1.0)


def constrained(**soft: float) -> co.OptimalControlProblem:
    """A cart with everything: bounds, path, boundary and integral constraints, free final time, a free parameter."""
    model = co.ControlledODE(
        lambda t, x, u, p: [x[1], p.gain * u[0] - 0.3 * x[1] * x[0]], nx=2, nu=1, params=co.ParameterLayout(gain=1)
    )
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.5, 0.5, 5.0), p=[1.0])
    ocp.minimize(
        lagrange=lambda t, x, u, p: u[0] ** 2 + x[0] * x[1] + p.gain, mayer=lambda x0, xf, tf, p: tf**2 + xf[1] ** 2
    )
    ocp.free_parameters(0.5, 1.2)
    ocp.bounds(u=(-8.0, 8.0), x=([None, -0.1], [None, 1.0]), inside=1)
    ocp.initial([0.0, None])
    ocp.terminal([1.0, None])
    ocp.path(lambda t, x, u, p: x[0] - 0.9 * x[1], -0.6, None, inside=1, **soft)
    ocp.boundary(lambda x0, xf, tf, p: xf[1] - x0[1], 0.1, 0.1)
    ocp.integral(lambda t, x, u, p: x[0] ** 2, None, 0.36)
    return ocp


@pytest.mark.parametrize("control", ["constant", "linear"])
@pytest.mark.parametrize("soft", [{}, {"soft": 5.0}])
def test_single_and_multiple_shooting_have_the_same_costates(control: str, soft: dict[str, float]) -> None:
    ocp = constrained(**soft)
    settings = {"intervals": 7, "control": control, "integrator": co.RK4(steps_per_interval=3)} | TIGHT
    many = ocp.solve(method="multiple-shooting", **settings)
    one = ocp.solve(method="single-shooting", guess=many, **settings)
    assert one.success and many.success and one.objective == pytest.approx(many.objective, rel=1e-9)
    rows = np.flatnonzero((many.nlp.lbg < many.nlp.ubg) & (np.abs(many.multipliers.constraints) > 1e-2))
    assert {many.nlp.describe_row(i)[:5] for i in rows} >= {"path "} | ({"integ"} if not soft else set())  # active
    assert np.ptp(many.multipliers.costates, axis=0).min() > 1e-2
    np.testing.assert_allclose(one.multipliers.costates, many.multipliers.costates, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [van_der_pol, brachistochrone, bryson_denham, fastest_oscillator])
def test_published_problems_have_the_same_costates_in_both(make: Any) -> None:
    case = make()
    settings = {"intervals": 12, "integrator": co.RK4(steps_per_interval=4)} | TIGHT
    many = case.ocp.solve(method="multiple-shooting", guess=case.guess, **settings)
    one = case.ocp.solve(method="single-shooting", guess=many, **settings)
    assert one.objective == pytest.approx(many.objective, rel=1e-7)
    scale = np.abs(many.multipliers.costates).max()
    np.testing.assert_allclose(one.multipliers.costates, many.multipliers.costates, atol=1e-5 * scale)


@pytest.mark.parametrize("method", ["single-shooting", "multiple-shooting", "collocation"])
def test_the_first_costate_is_the_derivative_of_the_cost_by_the_initial_state(method: str) -> None:
    def cost(x0: list[float]) -> Any:
        ocp = cart()
        ocp.bounds(u=(-7.0, 7.0), x=([None, None], [None, 1.35]))
        ocp.path(lambda t, x, u, p: x[0] + 0.2 * x[1], None, 1.07)
        ocp.initial(x0)
        return ocp.solve(method=method, intervals=9, **TIGHT)

    step = 1e-5
    found = cost([0.05, 0.1]).multipliers.costates[0]
    for i in range(2):
        ends = [cost([0.05 + s * (i == 0), 0.1 + s * (i == 1)]).objective for s in (-step, step)]
        assert found[i] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-5)
