"""Fits of DAEs by collocation: exact parameters from exact data, the optimum of a fit by simulation from noisy data."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co

RATES = np.array([0.04, 1e4, 3e7])
ROBERTSON_TIMES = np.array([0.0, 0.01, 0.1, 0.4, 1.0, 4.0, 10.0, 40.0, 100.0])


def robertson(kind: str) -> tuple[co.ControlledODE, list[float]]:
    """Robertson's reactions with the balance as equation, and initial states, the last of them only a guess."""
    if kind == "z":
        model = co.ControlledODE(
            lambda t, x, u, p, z: [
                -p[0] * x[0] + p[1] * x[1] * z[0],
                p[0] * x[0] - p[1] * x[1] * z[0] - p[2] * x[1] ** 2,
            ],
            nx=2,
            params=3,
            nz=1,
            algebraic=lambda t, x, u, p, z: x[0] + x[1] + z[0] - 1.0,
            output=lambda t, x, u, p, z: [x[0], 1e4 * x[1], z[0]],
        )
        return model, [1.0, 0.0]

    def rates(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        flow = p[0] * x[0] - p[1] * x[1] * x[2]
        return [-flow, flow - p[2] * x[1] ** 2, x[0] + x[1] + x[2] - 1.0]

    mass = np.diag([1.0, 1.0, 0.0])
    model = co.ControlledODE(rates, nx=3, params=3, mass=mass, output=lambda t, x, u, p: [x[0], 1e4 * x[1], x[2]])
    return model, [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("kind", "options"), [("z", {}), ("mass", {"scheme": "legendre"}), ("z", {"backend": "compiled"})]
)
def test_parameters_of_robertsons_dae(kind: str, options: dict[str, Any]) -> None:
    model, x0 = robertson(kind)
    sim = co.Simulator(model, solver=co.Rodas5P(rtol=1e-9, atol=1e-14))
    data = sim(x0, None, RATES, ROBERTSON_TIMES).y
    obj = co.Objective(sim, x0, None, ROBERTSON_TIMES, data=data)
    start = RATES * [1.5, 0.6, 1.4]
    found = co.fit(obj, start, "collocation", progress=False, degree=5, accuracy=1e-6, **options)
    assert found.success, found.message
    np.testing.assert_allclose(found.x, RATES, rtol=1e-6)
    assert found.states.shape == (1, ROBERTSON_TIMES.size, model.nx) and found.discretisation_error < 1e-6
    if kind == "z":
        np.testing.assert_allclose(found.z[..., 0], 1.0 - found.states.sum(axis=2), atol=1e-9)


# --- a valve with jumps of its input --------------------------------------------------------------------------------

TURN, MIX = np.array([[1.0, 0.4], [0.2, 1.0]]), np.array([[1.0, 0.5], [0.3, 2.0]])
BACK = np.linalg.inv(TURN)
VALVE = co.PiecewiseConstant([0.0, 1.0, 2.0], [0.0, 1.0, 1.0])
TIMES = np.linspace(0.0, 1.9, 20)
START = np.array([0.65, 1.56])


def flow(x: Any, z: Any, u: Any, p: Any) -> tuple[Any, Any]:
    """Slope of the level, and the equation of the flow z."""
    return -p[0] * x * z, z**3 + p[1] * z - x - u


def valve() -> co.ControlledODE:
    """Level x and flow z, semi-explicit."""
    return co.ControlledODE(
        lambda t, x, u, p, z: flow(x, z, u, p)[0],
        nx=1,
        nu=1,
        params=2,
        nz=1,
        algebraic=lambda t, x, u, p, z: flow(x, z, u, p)[1],
        z0=[0.5],
        output=lambda t, x, u, p, z: [x, z],
    )


def turned() -> co.ControlledODE:
    """The same with a mass matrix of rank one without zeros: its states are y = TURN (x, z)."""

    def dynamics(t: Any, y: Any, u: Any, p: Any) -> Any:
        x = ca.mtimes(ca.DM(BACK), y)
        return ca.mtimes(ca.DM(MIX), ca.vertcat(*flow(x[0], x[1], u, p)))

    mass = MIX @ np.diag([1.0, 0.0]) @ BACK
    return co.ControlledODE(
        dynamics, nx=2, nu=1, params=2, mass=mass, output=lambda t, y, u, p: ca.mtimes(ca.DM(BACK), y)
    )


def objective(model: co.ControlledODE, x0: Any, **more: Any) -> co.Objective:
    """Noisy measurements of level and flow."""
    sim = co.Simulator(valve(), solver=co.Rodas5P(rtol=1e-9, atol=1e-11))
    data = sim([2.0], VALVE, [0.5, 1.2], TIMES).y
    data = data + 0.02 * np.random.default_rng(1).normal(size=data.shape)
    own = co.Simulator(model, solver=co.Rodas5P(rtol=1e-9, atol=1e-11))
    return co.Objective(own, x0, VALVE, TIMES, data=data, **more)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "radau": (lambda: objective(valve(), [2.0]), {}),
    "legendre": (lambda: objective(valve(), [2.0]), {"scheme": "legendre", "degree": 2}),
    "free start": (lambda: objective(valve(), co.Free([1.8])), {}),
    "computed start": (lambda: objective(valve(), co.InitialState(lambda d, p: 2.0 * p[0] + 1.0)), {}),
    "running cost": (lambda: objective(valve(), [2.0], running=lambda t, x, u, y, p: 0.01 * y[1] ** 2), {}),
    "mass matrix": (lambda: objective(turned(), TURN @ [2.0, 0.7]), {"scheme": "legendre"}),
    "mass matrix, computed start": (
        lambda: objective(turned(), co.InitialState(lambda d, p: ca.DM(TURN) @ ca.vertcat(2.0 * p[0] + 1.0, 0.5))),
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_optimum_is_that_of_a_fit_by_simulation(name: str) -> None:
    make, options = CASES[name]
    obj = make()
    start = obj.append_free(START)
    by_simulation = co.fit(obj, start, "L-BFGS-B", progress=False, ftol=1e-15, gtol=1e-10)
    found = co.fit(obj, start, "collocation", progress=False, accuracy=1e-8, **options)
    assert found.success and found.discretisation_error < 1e-8
    np.testing.assert_allclose(found.x, by_simulation.x, rtol=1e-6)
    assert found.nlp_fun == pytest.approx(found.fun, rel=1e-7)


def test_constraints_may_depend_on_algebraic_variables() -> None:
    obj = objective(valve(), [2.0])
    limit = (lambda t, x, u, p, z: z, None, 0.98)
    found = co.fit(obj, START, "collocation", progress=False, path=limit)
    free = co.fit(obj, START, "collocation", progress=False, state_bounds=(0.0, 3.0))
    assert found.success and free.success and free.nlp_fun < found.nlp_fun
    assert found.z.max() < 0.98 < 1.0 < free.z.max()


def test_constraints_on_given_states_are_left_out() -> None:
    """At the first time the level is given, and z not; a constraint on the level there cannot be met."""
    obj = objective(valve(), [2.0])
    path = (lambda t, x, u, p: x[0] - ca.if_else(t <= 0.0, 1.0, 5.0), None, 0.0)
    found = co.fit(obj, START, "collocation", progress=False, path=path)
    assert found.success and found.x == pytest.approx(co.fit(obj, START, "collocation", progress=False).x, rel=1e-4)


def test_states_of_the_user_are_a_guess() -> None:
    obj = objective(valve(), [2.0])
    found = co.fit(obj, START, "collocation", progress=False, states=np.linspace(2.0, 1.0, 20)[:, None])
    free = co.fit(obj, START, "collocation", progress=False)
    np.testing.assert_allclose(found.x, free.x, rtol=1e-6)


def test_misuse_is_refused() -> None:
    with pytest.raises(co.UnsupportedOperation, match="combinations of derivatives"):
        co.fit(objective(turned(), co.Free(TURN @ [2.0, 0.7])), None, "collocation", progress=False)
    with pytest.raises(co.DataError, match=r"states: expected shape \(B, T, nx\)=\(1, 20, 1\)"):
        co.fit(objective(valve(), [2.0]), START, "collocation", progress=False, states=np.zeros((20, 2)))
