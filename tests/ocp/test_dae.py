"""Optimal control of DAEs: equal to the ODE that they hide, to published values, and consistent in themselves."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.ocp.compiled.nlp import CompiledNLP
from ocp.problems import brachistochrone
from ocp.test_compiled import agree

SETTINGS: list[dict[str, Any]] = [
    {},
    {"scheme": "legendre", "degree": 2},
    {"control": "linear"},
    {"control": "constant", "scheme": "legendre"},
    {"control": "constant", "degree": [3, 2, 4, 3, 2, 3, 4, 3, 3, 3]},
]
TIGHT = {"options": {"tol": 1e-12}}


def force(x: Any, u: Any) -> Any:
    """Van der Pol's oscillator: its acceleration, the quantity that the DAEs have as a variable."""
    return (1 - x[0] ** 2) * x[1] - x[0] + u[0]


ODE = co.ControlledODE(lambda t, x, u, p: [x[1], force(x, u)], nx=2, nu=1)
DAE = co.ControlledODE(
    lambda t, x, u, p, z: [x[1], z[0]], nx=2, nu=1, nz=1, algebraic=lambda t, x, u, p, z: 3.0 * (z - force(x, u))
)
MASS = co.ControlledODE(
    lambda t, x, u, p: [2.0 * x[1] + x[2], x[2] - force(x, u), x[1] + 3.0 * x[2]],
    nx=3,
    nu=1,
    mass=[[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 3.0, 0.0]],
)
TURN = np.array([[1.0, 0.5, 0.2], [0.0, 1.0, 0.3], [0.4, 0.0, 1.0]])
BACK = np.linalg.inv(TURN)
MIX = np.array([[1.0, 0.2, 0.1], [0.3, 1.0, 0.5], [0.2, 0.4, 1.0]])


def back(y: Any) -> Any:
    """The states (x, force) of `MASS` from those of `TURNED`."""
    return ca.mtimes(ca.DM(BACK), y)


TURNED = co.ControlledODE(
    lambda t, y, u, p: ca.mtimes(ca.DM(MIX), ca.vertcat(back(y)[1:], back(y)[2] - force(back(y), u))),
    nx=3,
    nu=1,
    mass=MIX @ np.diag([1.0, 1.0, 0.0]) @ BACK,
)


def posed(model: co.ControlledODE, limit: float | None = -0.9) -> co.OptimalControlProblem:
    """Least energy, with limits of control and force."""
    ocp = co.OptimalControlProblem(model, tf=2.0)
    ocp.bounds(u=(-0.8, 0.8))
    if model is TURNED:
        ocp.minimize(
            lagrange=lambda t, y, u, p: 0.5 * (ca.sumsqr(back(y)[:2]) + u[0] ** 2) + 0.1 * back(y)[2] ** 2,
            mayer=lambda x0, xf, tf, p: 3.0 * back(xf)[0] ** 2,
        )
        ocp.initial(TURN @ [1.0, 0.0, 0.3])
        ocp.path(lambda t, y, u, p: back(y)[2], limit)
        return ocp
    cost = {
        ODE: lambda t, x, u, p: 0.5 * (ca.sumsqr(x) + u[0] ** 2) + 0.1 * force(x, u) ** 2,
        DAE: lambda t, x, u, p, z: 0.5 * (ca.sumsqr(x) + u[0] ** 2) + 0.1 * z[0] ** 2,
        MASS: lambda t, x, u, p: 0.5 * (ca.sumsqr(x[:2]) + u[0] ** 2) + 0.1 * x[2] ** 2,
    }[model]
    ocp.minimize(lagrange=cost, mayer=lambda x0, xf, tf, p: 3.0 * xf[0] ** 2)
    ocp.initial([1.0, 0.0] if model.nx == 2 else [1.0, 0.0, 0.3])
    if model is ODE:
        ocp.path(lambda t, x, u, p: force(x, u), limit)
    elif model is DAE:
        ocp.bounds(u=(-0.8, 0.8), z=(limit, None))
    else:
        ocp.bounds(u=(-0.8, 0.8), x=([None, None, limit], None))
    return ocp


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("model", [DAE, MASS, TURNED])
def test_the_optimum_is_that_of_the_ode(model: co.ControlledODE, settings: dict[str, Any]) -> None:
    settings = {"method": "collocation", "intervals": 10} | TIGHT | settings
    ode, dae = posed(ODE).solve(**settings), posed(model).solve(**settings)
    assert ode.success and dae.success
    assert dae.objective == pytest.approx(ode.objective, rel=1e-8)
    turn = BACK if model is TURNED else np.eye(model.nx)
    np.testing.assert_allclose((dae.x @ turn.T)[:, :2], ode.x, atol=1e-6)
    np.testing.assert_allclose(dae.u, ode.u, atol=1e-4)
    costates = dae.multipliers.costates @ np.linalg.inv(turn)
    np.testing.assert_allclose(costates[:, :2], ode.multipliers.costates, atol=1e-6)
    assert dae.mesh_errors().max() == pytest.approx(ode.mesh_errors().max(), rel=0.3)
    at = np.linspace(0.0, 2.0, 23)
    (x, u), (y, v) = ode.resample(at), dae.resample(at)
    inner = y @ turn.T
    np.testing.assert_allclose(np.hstack([inner[:, :2], v]), np.hstack([x, u]), atol=1e-4)
    found = dae.resample_z(at)[:, 0] if model is DAE else inner[:, 2]
    np.testing.assert_allclose(found, np.asarray(force(inner.T, v.T)), atol=1e-10)


@pytest.mark.parametrize("scheme", ["radau", "legendre"])
def test_ends_may_depend_on_states_without_derivatives(scheme: str) -> None:
    """The force at both ends in cost and boundary constraints; with a linear control its values there are variables."""

    def solved(model: co.ControlledODE) -> co.OptimalControlSolution:
        ocp = posed(model, -5.0)
        inner = back if model is TURNED else (lambda y: y)
        ocp.minimize(
            lagrange=lambda t, y, u, p: 0.5 * (ca.sumsqr(inner(y)[:2]) + u[0] ** 2),
            mayer=lambda x0, xf, tf, p: inner(xf)[2] ** 2 + 0.2 * inner(x0)[2] ** 2,
        )
        ocp.boundary(lambda x0, xf, tf, p: inner(xf)[2] + inner(x0)[2], -0.4, -0.4)
        return ocp.solve(method="collocation", intervals=8, control="linear", scheme=scheme, **TIGHT)

    plain, turned = solved(MASS), solved(TURNED)
    assert plain.success and turned.success
    assert plain.objective == pytest.approx(turned.objective, rel=1e-9)
    assert plain.x[0, 2] + plain.x[-1, 2] == pytest.approx(-0.4)
    ends = [float(force(plain.x[i], plain.u[i])) for i in (0, -1)]
    np.testing.assert_allclose(plain.x[[0, -1], 2], ends, atol=1e-7)
    np.testing.assert_allclose(plain.multipliers.costates @ BACK, turned.multipliers.costates, atol=1e-7)


@pytest.mark.parametrize("scheme", ["radau", "legendre"])
def test_a_terminal_value_of_a_state_without_derivative(scheme: str) -> None:
    def solved(model: co.ControlledODE, how: Any) -> co.OptimalControlSolution:
        ocp = posed(model, None if model is MASS else -5.0)
        how(ocp)
        return ocp.solve(method="collocation", intervals=8, control="linear", scheme=scheme, **TIGHT)

    fixed = solved(MASS, lambda ocp: ocp.terminal([None, None, 0.25]))
    bound = solved(TURNED, lambda ocp: ocp.boundary(lambda x0, xf, tf, p: back(xf)[2], 0.25, 0.25))
    assert fixed.x[-1, 2] == pytest.approx(0.25) and bound.objective == pytest.approx(fixed.objective, rel=1e-9)


def test_brachistochrone_with_the_velocity_as_algebraic_variables() -> None:
    """A DAE with free final time; the exact time is the cycloid's."""
    case, g = brachistochrone(), 9.8
    model = co.ControlledODE(
        lambda t, x, u, p, z: [z[0], z[1], g * ca.cos(u[0])],
        nx=3,
        nu=1,
        nz=2,
        algebraic=lambda t, x, u, p, z: [z[0] - x[2] * ca.sin(u[0]), z[1] - x[2] * ca.cos(u[0])],
    )
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.0, 0.1, 10.0))
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf)
    ocp.bounds(x=(0.0, 20.0), u=(0.0, 2 * np.pi))
    ocp.initial([0.0, 0.0, 0.0])
    ocp.terminal([2.0, 2.0, None])
    sol = ocp.solve(method="collocation", intervals=20, degree=4, guess=case.guess)
    assert sol.success and sol.tf == pytest.approx(case.exact, rel=1e-7)


def reactor() -> co.OptimalControlProblem:
    """Two reactions in a batch reactor, the rate constants as algebraic variables; most of the middle product.

    Renfro, Morshedi & Asbjornsen, Computers & Chemical Engineering 11 (1987) 503-517; optimum 0.610775 there and
    0.61079938 in the manual of PROPT.
    """
    model = co.ControlledODE(
        lambda t, x, u, p, z: [-z[0] * x[0] ** 2, z[0] * x[0] ** 2 - z[1] * x[1]],
        nx=2,
        nu=1,
        nz=2,
        algebraic=lambda t, x, u, p, z: [
            ca.log(z[0] / 4e3) + 2.5e3 / u[0],
            ca.log(z[1] / 6.2e5) + 5e3 / u[0],
        ],
        z0=[2.0, 0.2],
    )
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.minimize(mayer=lambda x0, xf, tf, p: -xf[1])
    ocp.bounds(u=(298.0, 398.0), x=(0.0, 1.0), z=(1e-3, None))
    ocp.initial([1.0, 0.0])
    return ocp


def test_published_batch_reactor() -> None:
    sol = reactor().solve(method="collocation", intervals=40, degree=4)
    assert sol.success and -sol.objective == pytest.approx(0.6108029, rel=5e-6)
    assert -sol.objective == pytest.approx(0.61079938, rel=1e-5)


def kinetics(t: Any, y: Any, u: Any, p: Any, z: Any) -> list[Any]:
    """Rates of six concentrations at a temperature u; z is pH and three anions."""
    k1, k2 = 1.3708e12 * ca.exp(-9.2984e3 / u), 5.2282e12 * ca.exp(-9.5999e3 / u)
    back1 = 1.6215e20 * ca.exp(-1.3108e4 / u)
    r1, r2 = k1 * y[1] * y[5] - back1 * z[3], k2 * y[1] * z[1]
    r3 = k1 * y[3] * y[5] - 0.5 * back1 * z[2]
    return [-r2, -r1 - r2, r2 + r3, -r3, r1, -r1 - r3]


def acids(t: Any, y: Any, u: Any, p: Any, z: Any) -> list[Any]:
    """Electroneutrality and three equilibria, between 1e-16 and 10."""
    h, pairs = 10 ** -z[0], ((4.876e-14, y[0]), (1.7884e-16, y[2]), (2.575e-16, y[4]))
    return [p - y[5] + h - z[1] - z[2] - z[3], *(z[1 + i] - k * c / (k + h) for i, (k, c) in enumerate(pairs))]


def test_published_kinetic_batch_reactor() -> None:
    """Fastest batch with little catalyst p; product is limited at first, up to a quarter of the time.

    Betts, Practical Methods for Optimal Control, 2010, ex. 6.15, there in three phases; cost 3.16466910, final time
    1.7468208.
    """
    model = co.ControlledODE(kinetics, nx=6, nu=1, nz=4, params=1, algebraic=acids)
    ocp = co.OptimalControlProblem(model, tf=co.Free(1.75, 1.5, 2.0), p=[0.014])
    ocp.free_parameters(0.0, 0.0262)
    ocp.minimize(mayer=lambda x0, xf, tf, p: tf + 100.0 * p)
    ocp.bounds(
        x=([0.0, 5.0, 0.0, 0.0, 0.0, 0.0], [2.0, 10.0, 2.0, 2.0, 2.0, 0.1]),
        u=(293.15, 393.15),
        z=(0.0, [15.0, 0.02, 5e-5, 5e-5]),
    )
    ocp.initial([1.5776, 8.32, 0.0, 0.0, 0.0, None])
    ocp.boundary(lambda x0, xf, tf, p: x0[5] - p)
    ocp.boundary(lambda x0, xf, tf, p: xf[3], 1.0, None)
    ocp.path(lambda t, x, u, p: x[3] - ca.if_else(t < 1.7468 / 4, 2.0 * t**2, 5.0), None, 0.0)
    guess = {
        "t": np.array([0.0, 0.027, 0.109, 0.246, 0.437, 0.682, 0.983, 1.337, 1.747]),
        "x": np.array([
            [1.58, 1.49, 1.23, 0.89, 0.53, 0.28, 0.16, 0.08, 0.04],
            [8.32, 8.21, 7.94, 7.50, 6.89, 6.31, 6.02, 5.87, 5.79],
            [0.0, 0.09, 0.32, 0.57, 0.67, 0.59, 0.55, 0.53, 0.53],
            [0.0, 0.0015, 0.024, 0.12, 0.38, 0.71, 0.88, 0.96, 1.0],
            [0.0, 0.015, 0.035, 0.13, 0.38, 0.71, 0.88, 0.96, 1.0],
            [0.014, 0.001, 0.0034, 0.0078, 0.012, 0.0134, 0.0138, 0.014, 0.014],
        ]).T,
        "z": np.array([
            [6.56, 11.3, 11.3, 11.2, 10.9, 10.7, 10.7, 10.6, 10.6],
            [0.0, 1.3e-2, 1.1e-2, 6.4e-3, 2.1e-3, 7.4e-4, 3.6e-4, 1.8e-4, 9.2e-5],
            [0.0, 2.9e-6, 1.0e-5, 1.5e-5, 9.7e-6, 5.7e-6, 4.6e-6, 4.2e-6, 4.1e-6],
            [0.0, 6.9e-7, 1.6e-6, 4.8e-6, 8.1e-6, 1.0e-5, 1.1e-5, 1.1e-5, 1.1e-5],
        ]).T,
        "u": np.array([393.0, 371.0, 373.0, 377.0, 393.0, 393.0, 393.0, 393.0, 393.0]),
    }  # fmt: skip
    sol = ocp.solve(method="collocation", mesh=np.linspace(0.0, 1.0, 31) ** 2, guess=guess)
    assert sol.success, sol.message
    assert sol.objective == pytest.approx(3.16466910, rel=3e-5) and sol.tf == pytest.approx(1.7468208, rel=1e-4)


def test_refinement_and_verification_see_the_coarse_mesh() -> None:
    coarse = posed(DAE).solve(method="collocation", intervals=3, degree=2, control="linear")
    fine = posed(DAE).solve(method="collocation", intervals=3, degree=2, control="linear", refine=1e-6)
    assert coarse.mesh_errors().max() > 1e-4 and fine.stats["mesh_error"] < 1e-6 and fine.stats["refinements"] > 0
    report = fine.verify()
    assert report.success and report.max_defect < 1e-7 and report.objective_error < 1e-6
    assert report.violation["algebraic bounds"] < 1e-4 and coarse.verify().max_defect > 1e3 * report.max_defect


def test_algebraic_equations_hold_at_all_times_of_the_solution() -> None:
    sol = posed(DAE).solve(method="collocation", intervals=6, scheme="legendre")
    residual = np.asarray(sol.z[:, 0] - force(sol.x.T, sol.u.T))
    assert np.abs(residual).max() < 1e-7 and sol.z.shape == (sol.t.size, 1)
    np.testing.assert_allclose(sol.resample_z(sol.t), sol.z, atol=1e-7)


def test_jumps_of_the_control_are_jumps_of_z() -> None:
    """At a break z belongs to the interval that ends there, or with `resample_z` to the one that begins there."""
    sol = posed(DAE, None).solve(method="collocation", intervals=5, control="constant")
    breaks = np.flatnonzero(np.isin(sol.t, np.linspace(0.0, 2.0, 6)))[1:-1]
    assert breaks.size == 4
    for i in breaks:
        left, right = sol.u[i - 1], sol.u[i]
        assert sol.z[i, 0] == pytest.approx(float(force(sol.x[i], left)), abs=1e-7)
        assert sol.resample_z(sol.t[i])[0, 0] == pytest.approx(float(force(sol.x[i], right)), abs=1e-7)


def test_bounds_of_z_hold_where_a_held_control_begins() -> None:
    """The force jumps with the control, to its limit at the begin of several intervals."""
    sol = posed(DAE, -0.3).solve(method="collocation", intervals=5, control="constant")
    begins = sol.resample_z(np.linspace(0.0, 2.0, 6)[:-1])[:, 0]
    np.testing.assert_allclose(begins, -0.3, atol=1e-6)


def test_warm_starts_from_solutions_and_guesses_of_z() -> None:
    ocp, settings = reactor(), {"method": "collocation", "control": "linear", "intervals": 12}
    first = ocp.solve(**settings)
    again = ocp.solve(guess=first, **settings)
    assert again.stats["iterations"] <= 2 and again.objective == pytest.approx(first.objective, rel=1e-8)
    other = ocp.solve(guess=first, **(settings | {"intervals": 15}))
    assert other.success
    plain = {"t": first.t, "x": first.x, "u": first.u, "z": first.z}
    near = ocp.solve(guess=plain, **settings)
    assert near.success and near.objective == pytest.approx(first.objective, rel=1e-7)
    begin = near.transcription.pack(near.transcription.make_guess(plain))
    places = near.transcription.states.algebraic  # type: ignore[union-attr]
    np.testing.assert_allclose(begin[places][: first.t.size - 1], first.z[1:], rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "settings"),
    [(DAE, {"control": "linear", "scheme": "legendre"}), (TURNED, {"control": "constant"})],
)
def test_backends_have_the_same_functions_and_iterates(model: co.ControlledODE, settings: dict[str, Any]) -> None:
    common: dict[str, Any] = {"method": "collocation", "intervals": 9} | settings
    made = agree(posed(model).solve(backend="casadi", **common).nlp)
    assert isinstance(made, CompiledNLP)
    steps: list[list[np.ndarray]] = [[], []]
    for backend, seen in zip(("casadi", "compiled"), steps):
        posed(model).solve(backend=backend, callback=lambda it, seen=seen: seen.append(it.w), **common)
    assert len(steps[0]) == len(steps[1]) > 3
    for a, b in zip(*steps):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_expressions_go_to_any_solver() -> None:
    nlp, arguments = posed(MASS).nlp(method="collocation", intervals=9)
    solver = ca.nlpsol("s", "ipopt", nlp, {"ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes"})
    expected = posed(DAE).solve(method="collocation", intervals=9).objective
    assert float(solver(**arguments)["f"]) == pytest.approx(expected, rel=1e-6)


def test_costates_are_derivatives_by_the_initial_state() -> None:
    def cost(x0: list[float]) -> Any:
        ocp = reactor()
        ocp.initial(x0)
        return ocp.solve(method="collocation", intervals=10, control="linear", **TIGHT)

    step, found = 1e-4, cost([0.9, 0.1]).multipliers.costates[0]
    for i in range(2):
        ends = [cost([0.9 + s * (i == 0), 0.1 + s * (i == 1)]).objective for s in (-step, step)]
        assert found[i] == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-5)


def test_free_parameters_of_the_equations() -> None:
    """0 = z - p x, x' = -z: the decay that hits a target; p = log 4 exactly."""
    model = co.ControlledODE(lambda t, x, u, p, z: -z, nx=1, nz=1, params=1, algebraic=lambda t, x, u, p, z: z - p * x)
    ocp = co.OptimalControlProblem(model, tf=1.0)
    ocp.free_parameters(0.1, 10.0)
    ocp.minimize(lagrange=lambda t, x, u, p: 0.0 * x + 1.0)
    ocp.initial([1.0])
    ocp.terminal([0.25])
    ocp.integral(lambda t, x, u, p, z: z, None, 1.0)
    sol = ocp.solve(
        method="collocation", intervals=8, degree=5, guess={"z": np.linspace(1.0, 0.2, 9), "p": [1.0]}, **TIGHT
    )
    assert sol.success and sol.p[0] == pytest.approx(np.log(4.0), rel=1e-9)
    assert sol.verify().violation["integral constraint 0"] < 1e-9


def test_predictive_control_is_that_of_the_ode() -> None:
    records = []
    for model in (ODE, DAE, MASS):
        mpc = co.MPC(posed(model, -1.0), intervals=8, method="collocation")
        x, plant = np.array([1.2, 0.0]), co.Simulator(ODE)
        applied = []
        for _ in range(4):
            u = mpc.step(np.append(x, np.zeros(model.nx - 2)))
            applied.append(u)
            x = plant(x, co.Constant(u), None, [0.0, mpc.dt]).x[0, -1]
        records.append(applied)
        assert mpc.plan is not None and mpc.plan.z.shape[1] == model.nz
    np.testing.assert_allclose(records[1:], [records[0]] * 2, atol=1e-6)


def test_relaxed_predictive_control_softens_bounds_of_z() -> None:
    ocp = co.OptimalControlProblem(DAE, tf=2.0)
    ocp.minimize(lagrange=lambda t, x, u, p: ca.sumsqr(x))
    ocp.bounds(u=(-0.5, 0.5), z=(-0.9, 0.9))
    mpc = co.MPC(ocp, intervals=8, method="collocation")
    with pytest.warns(co.ControllerWarning, match="softened"):
        u = mpc.step([1.6, 0.0])  # the force is -1.6 + u
    assert u[0] == pytest.approx(0.5, abs=1e-6)


MISUSE: dict[str, tuple[Any, type[Exception], str]] = {
    "shooting": (lambda: posed(DAE).solve(), co.UnsupportedOperation, "nz=1.*use method='collocation'"),
    "single shooting": (
        lambda: posed(MASS).solve(method="single-shooting"),
        co.UnsupportedOperation,
        "singular mass matrix.*use method='collocation'",
    ),
    "MPC": (lambda: co.MPC(posed(DAE)), co.UnsupportedOperation, "use method='collocation'"),
    "bounds without z": (lambda: posed(ODE).bounds(z=(0.0, 1.0)), co.DataError, r"nz=0\), leave z out"),
    "crossed z": (lambda: posed(DAE).bounds(z=(1.0, 0.0)), co.DataError, "crossed for z0"),
    "guess shape": (
        lambda: posed(DAE).solve(method="collocation", guess={"z": np.zeros((3, 2))}),
        co.DataError,
        r"guess\['z'\].*nz=1",
    ),
    "guess without z": (
        lambda: posed(ODE).solve(method="collocation", guess={"z": [0.0]}),
        co.DataError,
        r"nz=0\), leave it out",
    ),
    "other solution": (
        lambda: posed(DAE).solve(method="collocation", guess=posed(ODE).solve(method="collocation", intervals=5)),
        co.DataError,
        "nz=0.*nz=1",
    ),
    "signature": (
        lambda: posed(DAE).path(lambda t, x, u: x[0], 0.0),
        co.DataError,
        r"must take the 5 arguments \(t, x, u, p, z\)",
    ),
    "combined initial states": (
        lambda: (ocp := posed(TURNED), ocp.initial([1.0, None, None]), ocp.solve(method="collocation")),
        co.DataError,
        "fix all of these states, or none",
    ),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_refused(name: str) -> None:
    call, error, message = MISUSE[name]
    with pytest.raises(error, match=message):
        call()


def test_sizes_of_z_are_settings() -> None:
    sol = posed(DAE).solve(method="collocation", intervals=5, scaling={"z": 4.0, "x": [1.0, 2.0]})
    places = sol.transcription.states.algebraic  # type: ignore[union-attr]
    assert sol.success and (sol.nlp.scale_w[places] == 4.0).all()
    assert "algebraic variable z0 at t = " in sol.nlp.describe_variable(int(places[0, 0]))
    mass = posed(MASS).solve(method="collocation", intervals=5, scaling={"x": [1.0, 2.0, 8.0]})
    assert (mass.nlp.scale_w[mass.transcription.states.algebraic] == 8.0).all()  # type: ignore[union-attr]
