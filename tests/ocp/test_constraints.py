"""Every kind of constraint, with all three methods, against answers known in closed form."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ocp.problems import cart

METHODS = ("collocation", "multiple-shooting", "single-shooting")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def solve(ocp: co.OptimalControlProblem, method: str, **settings: Any) -> co.OptimalControlSolution:
    sol = ocp.solve(method=method, **({"intervals": 20, "control": "linear", "backend": "casadi"} | settings))
    assert sol.success, sol.message
    return sol


def speed_limited(limit: float) -> float:
    """Least effort of the cart under a speed limit: speed up along a parabola, cruise, slow down (Bryson & Ho)."""
    ramp = 3 * (1 - 1 / limit) / 2  # the distance is 1 = limit (1 - 2 ramp / 3)
    return 2 * (4 / 3) * limit**2 / ramp


def test_path_constraint(method: str) -> None:
    ocp = cart()
    ocp.path(lambda t, x, u, p: x[1], None, 1.2, inside=3, name="speed")
    sol = solve(ocp, method, intervals=40)
    assert sol.objective == pytest.approx(speed_limited(1.2), rel=2e-3)
    assert sol.verify().violation["speed"] < 1e-4


def test_equality_of_held_controls_stands_once_per_interval(method: str) -> None:
    """Bryson's maximum range with the direction of flight as two controls of length one: no row may stand twice."""
    flight = co.ControlledODE(lambda t, x, u, p: [x[2] * u[0], x[2] * u[1], 0.5 - u[1]], nx=3, nu=2)
    ocp = co.OptimalControlProblem(flight, tf=2.0)
    ocp.minimize(mayer=lambda x0, xf, tf, p: -xf[0])
    ocp.bounds(u=(-10.0, 10.0))
    ocp.initial([0.0, 0.0, 0.0])
    ocp.terminal([None, 0.1, None])
    ocp.path(lambda t, x, u, p: u[0] ** 2 + u[1] ** 2, 1.0, 1.0)
    guess = {"x": [[0.0, 0.0, 0.0], [1.0, 0.1, 1.0]], "u": [0.7, -0.7]}
    sol = solve(ocp, method, control="constant", guess=guess, degree=5)
    assert abs(sol.objective + 1.7108875225) < 1e-8
    nlp, _ = ocp.nlp(method=method, intervals=20, control="constant", guess=guess, degree=5)
    jacobian = ca.Function("jacobian", [nlp["x"], nlp["p"]], [ca.jacobian(nlp["g"], nlp["x"])])
    point = np.random.default_rng(0).uniform(0.2, 1.0, nlp["x"].numel())
    assert np.linalg.matrix_rank(np.array(jacobian(point, 0.0))) == nlp["g"].numel()


def test_bounds_of_a_block_have_its_shape() -> None:
    layout = co.ParameterLayout(gain=(1, 2))
    model = co.ControlledODE(lambda t, x, u, p: u[0] + p.gain[0, 0] - p.gain[0, 1], nx=1, nu=1, params=layout)
    ocp = co.OptimalControlProblem(model, p=[0.0, 0.0])
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2, mayer=lambda x0, xf, tf, p: xf[0])
    ocp.initial([0.0])
    ocp.free_parameters([[-1.0, -2.0]], [[1.0, 3.0]], block="gain")
    assert np.allclose(ocp.solve(method="collocation", intervals=2).p, [-1.0, 3.0], atol=1e-6)


def test_state_bounds_inside_intervals(method: str) -> None:
    """Bounds at the ends of five intervals alone leave the state free between; points inside see it."""
    violations = []
    for points in (None, 7):
        ocp = cart()
        ocp.bounds(x=([None, None], [None, 1.2]), inside=points)
        violations.append(solve(ocp, method, intervals=5).verify().violation["state bounds"])
    assert violations[1] < 5e-3
    if method != "collocation":
        assert violations[0] > 3 * violations[1]


def test_soft_path_constraint_is_exact_for_a_large_price(method: str) -> None:
    hard, soft, cheap = cart(), cart(), cart()
    hard.path(lambda t, x, u, p: x[1], None, 1.2)
    soft.path(lambda t, x, u, p: x[1], None, 1.2, soft=1e3)
    cheap.path(lambda t, x, u, p: x[1], None, 1.2, soft=co.Soft(10.0, "l2"))
    costs = [solve(ocp, method).objective for ocp in (hard, soft, cheap)]
    assert costs[1] == pytest.approx(costs[0], rel=1e-6)
    assert 12.0 < costs[2] < costs[0]


def test_soft_terminal_state(method: str) -> None:
    """Reaching s with the speed free costs 3 s^2, so under a price w (1 - s)^2 the best s is w / (w + 3)."""
    ocp = cart()
    ocp.terminal([1.0, None], soft=co.Soft(7.0, "l2"))
    sol = solve(ocp, method)
    assert sol.x[-1, 0] == pytest.approx(0.7, rel=1e-6)
    assert sol.objective == pytest.approx(3 * 0.49 + 7 * 0.09, rel=1e-7)
    ocp.terminal([1.0, None], soft=5.9)  # less than the multiplier 6 of the hard constraint
    assert solve(ocp, method).x[-1, 0] == pytest.approx(5.9 / 6.0, rel=1e-6)
    ocp.terminal([1.0, None], soft=6.1)
    assert solve(ocp, method).x[-1, 0] == pytest.approx(1.0, rel=1e-6)


def test_boundary_and_periodic(method: str) -> None:
    ocp = cart()
    ocp.initial([None, None])
    ocp.terminal([None, None])
    ocp.boundary(lambda x0, xf, tf, p: ca.vertcat(xf[0] - x0[0], x0[1]), [1.0, 0.0], [1.0, 0.0])
    ocp.periodic("v")
    ocp.path(lambda t, x, u, p: x[0], 0.0, None)
    sol = solve(ocp, method)
    assert sol.objective == pytest.approx(12.0, rel=1e-7)
    np.testing.assert_allclose(sol.x[0, 1], sol.x[-1, 1], atol=1e-9)


def test_integral_constraint(method: str) -> None:
    """Least effort with the mean position given: x = 30 t^2 (1 - t)^2, whose second derivative squared has area 720."""
    ocp = cart()
    ocp.terminal([0.0, 0.0])
    ocp.integral(lambda t, x, u, p: x[0], 1.0, 1.0, name="area")
    sol = solve(ocp, method, intervals=60)
    assert sol.objective == pytest.approx(720.0, rel=1e-4)
    assert sol.verify().violation["area"] < 1e-8


def test_free_parameters_and_time(method: str) -> None:
    """xdot = k with cost tf + k^2 and x(tf) = 1: k tf = 1, so the best k solves 2 k = 1 / k^2."""
    model = co.ControlledODE(lambda t, x, u, p: p.k + 0 * p.c, nx=1, params=co.ParameterLayout(c=1, k=1))
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.0, 0.1, 9.0), p=[5.0, 1.0])
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf + p.k**2)
    ocp.initial(0.0)
    ocp.terminal(1.0)
    ocp.free_parameters(0.1, 10.0, block="k")
    sol = ocp.solve(method=method, intervals=4, backend="casadi")
    assert sol.success
    np.testing.assert_allclose(sol.p, [5.0, 0.5 ** (1 / 3)], rtol=1e-6)
    assert sol.tf == pytest.approx(2.0 ** (1 / 3), rel=1e-6)
    assert sol.u.shape == (sol.t.size, 0) and sol.controls is None


def test_network_weights_as_variables(method: str) -> None:
    """A policy network inside the model: its weights are the only choice."""
    policy = co.Dense(2, 1)
    model = co.ControlledODE(
        lambda t, x, u, p: ca.vertcat(x[1], policy(x, p.policy)), nx=2, params=co.ParameterLayout(policy=policy)
    )
    ocp = co.OptimalControlProblem(model, tf=3.0, p=np.array([-0.5, -0.5, 0.0]))
    ocp.minimize(lagrange=lambda t, x, u, p: ca.sumsqr(x) + policy(x, p.policy) ** 2)
    ocp.initial([1.0, 0.0])
    ocp.free_parameters(-10.0, 10.0)
    sol = ocp.solve(method=method, intervals=30, backend="casadi")
    assert sol.success
    # the linear-quadratic regulator over an endless horizon costs sqrt(3); a constant feedback does nearly as well here
    assert sol.objective < np.sqrt(3.0) and sol.objective == pytest.approx(1.7, abs=0.05)


def test_non_uniform_mesh(method: str) -> None:
    mesh = np.linspace(0.0, 1.0, 13) ** 1.5
    sol = solve(cart(), method, mesh=mesh)
    assert sol.objective == pytest.approx(12.0, rel=1e-9)
    np.testing.assert_allclose(sol.multipliers.t, mesh)


@pytest.mark.parametrize("settings", [{"degree": [2, 3, 4, 5]}, {"scheme": "legendre", "degree": 1}])
def test_degrees(settings: dict[str, Any]) -> None:
    ocp = cart()
    ocp.path(lambda t, x, u, p: x[1] + 0 * u[0], None, 1.6)
    sol = ocp.solve(method="collocation", intervals=4, backend="casadi", **settings)
    assert sol.success and sol.objective == pytest.approx(12.0, rel=0.1)


def test_costates_are_the_sensitivity_of_the_cost() -> None:
    """For the cart's cost 12 s^2 - 12 s v1 + 4 v1^2 ... the costates at the start are (-24, -12)."""
    for method, settings in (("collocation", {}), ("collocation", {"scheme": "legendre"}), ("multiple-shooting", {})):
        sol = solve(cart(), method, **settings)
        np.testing.assert_allclose(sol.multipliers.costates[:, 0], -24.0, rtol=1e-6)
        t = sol.multipliers.t
        np.testing.assert_allclose(sol.multipliers.costates[:, 1], -12.0 + 24.0 * t, rtol=1e-5, atol=1e-5)


def test_nlp_is_for_any_solver(method: str) -> None:
    ocp = cart()
    ocp.bounds(x=(-5.0, 5.0))
    nlp, arguments = ocp.nlp(method=method, intervals=10, control="linear")
    solver = ca.nlpsol("plain", "ipopt", nlp, {"ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes"})
    assert float(solver(**arguments)["f"]) == pytest.approx(12.0, rel=1e-7)


def test_group_derivatives_are_those_of_casadi(method: str) -> None:
    """Gradient, Jacobian and Hessian assembled from elements against CasADi's of the whole expression."""
    from ctrlode_casadi.ocp.symbolic import expressions

    model = co.ControlledODE(lambda t, x, u, p: [x[1] * p[0], ca.sin(x[0]) + u[0] * p[1] + t], nx=2, nu=1, params=2)
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.5, 1.0, 2.0), p=[1.0, 0.7])
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2 * x[0] ** 2, mayer=lambda x0, xf, tf, p: xf[0] * tf * p[1])
    ocp.initial([0.1, None])
    ocp.free_parameters(0.0, 2.0)
    ocp.path(lambda t, x, u, p: x[0] * u[0], -3.0, 3.0, soft=co.Soft(2.0, "l2"))
    ocp.integral(lambda t, x, u, p: x[1] ** 2, None, 9.0)
    ocp.boundary(lambda x0, xf, tf, p: x0[1] * xf[0], -5.0, 5.0)
    sol = ocp.solve(method=method, intervals=3, backend="casadi", options={"max_iter": 2})
    z = expressions(sol.nlp, scaled=True)
    lam_f, lam_g = ca.MX.sym("lam_f"), ca.MX.sym("lam_g", sol.nlp.n_g)
    hessian = ca.triu(ca.hessian(lam_f * z["f"] + ca.dot(lam_g, z["g"]), z["x"])[0])
    plain = ca.Function(
        "plain", [z["x"], z["p"], lam_f, lam_g], [ca.gradient(z["f"], z["x"]), ca.jacobian(z["g"], z["x"]), hessian]
    )
    rng = np.random.default_rng(3)
    x = sol.w / sol.nlp.scale_w + 0.1 * rng.normal(size=sol.nlp.n_w)
    lam = rng.normal(size=sol.nlp.n_g)
    expected = [m.full() for m in plain(x, sol.nlp.q, 1.3, lam)]
    found = [
        sol.oracle.gradient(x, sol.nlp.q)[1].full(),
        sol.oracle.jacobian(x, sol.nlp.q)[1].full(),
        sol.oracle.hessian(x, sol.nlp.q, 1.3, lam).full(),
    ]
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
