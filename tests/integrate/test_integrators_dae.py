"""DAEs of index 1 with CasADi's integrators, against the same problem with the algebraic variable eliminated."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from integrate.integrator_problems import TIGHT, TRUTH, worst

KNOTS = np.array([0.0, 0.5, 1.2, 2.0])
TS = np.array([0.0, 0.2, 0.5, 0.9, 1.7, 2.0])
P, X0 = np.array([2.0, 0.7]), np.array([[1.0, 0.5], [0.7, -0.2]])
SOLVERS: dict[str, Any] = {
    "idas": co.IDAS(**TIGHT),
    "rosenbrock": co.Rosenbrock(**TIGHT),
    "collocation": co.Collocation(degree=5, steps_per_interval=4),
}


def load(t: Any, x: Any, u: Any, p: Any) -> Any:
    return p[0] * x[0] + p[1] * t + 0.3 * u[0]


def implicit() -> co.ControlledODE:
    """z + z^3 = load."""

    def rhs(t: Any, x: Any, u: Any, p: Any, z: Any) -> Any:
        return [-z[0] + u[0], x[0] - z[0]]

    def algebraic(t: Any, x: Any, u: Any, p: Any, z: Any) -> Any:
        return z[0] + z[0] ** 3 - load(t, x, u, p)

    return co.ControlledODE(rhs, nx=2, nu=1, params=2, nz=1, algebraic=algebraic)


def explicit() -> co.ControlledODE:
    """The same with z = 2 / sqrt(3) sinh(asinh(3 sqrt(3) / 2 load) / 3), the real root."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        z = 2 / np.sqrt(3) * ca.sinh(ca.asinh(1.5 * np.sqrt(3) * load(t, x, u, p)) / 3)
        return [-z + u[0], x[0] - z]

    return co.ControlledODE(rhs, nx=2, nu=1, params=2)


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("name", SOLVERS)
def test_values_and_derivatives_of_a_dae(name: str, sensitivity: str, rng: np.random.Generator) -> None:
    control = co.PiecewiseConstant(KNOTS, rng.standard_normal((2, 4, 1)))
    sim, truth = co.Simulator(implicit(), SOLVERS[name], sensitivity), co.Simulator(explicit(), TRUTH)
    sol = sim(X0, control, P, TS, z0=[3.0])
    assert worst(sol.x, truth(X0, control, P, TS).x) < 1e-8
    assert sol.z.shape == (2, 6, 1)
    # On knots, too, z fits the control that is reported there.
    loads = P[0] * sol.x[:, :, 0] + P[1] * TS + 0.3 * sol.u[:, :, 0]
    assert worst((sol.z + sol.z**3)[:, :, 0], loads) < 1e-13
    seeds = rng.standard_normal(sol.x.shape)
    assert worst(sim.vjp(X0, control, P, TS, seeds), truth.vjp(X0, control, P, TS, seeds)) < 1e-8
    along = {"dp": rng.standard_normal(2), "du": rng.standard_normal(control.values.shape)}
    assert worst(sim.jvp(X0, control, P, TS, **along), truth.jvp(X0, control, P, TS, **along)) < 1e-8


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SOLVERS)
def test_derivatives_of_algebraic_variables(name: str, side: str, rng: np.random.Generator) -> None:
    """Seeds of z at save times on knots and between, which the engine takes beside those of x, against differences."""
    from ctrlode_casadi.integrate import problem
    from ctrlode_casadi.integrate.integrators.engine import make_integrator_engine
    from ctrlode_casadi.integrate.tangent import with_change

    control = co.PiecewiseConstant(KNOTS, rng.standard_normal((2, 4, 1)), side=side)
    engine = make_integrator_engine(implicit(), SOLVERS[name], 2)
    for ts in (TS, TS[:1]):
        x0, batch = problem.make_batch(implicit(), X0, control, ts, np.dtype(np.float64))
        start, seeds = np.concatenate([x0, np.ones((2, 1))], axis=1), rng.standard_normal((2, ts.size, 3))
        made = engine.vjp(batch, start, P, seeds, want_u=True)
        bars = [made.p_bar, made.x0_bar[:, :2], batch.values_adjoint(made.control_bars)]
        point, zero = [P, X0, control.values], [np.zeros(2), np.zeros((2, 2)), np.zeros((2, 4, 1))]

        def value(p: Any, x: Any, v: Any, ts: Any = ts, seeds: Any = seeds) -> float:
            sol = co.Simulator(implicit(), SOLVERS[name])(x, control.with_values(v), p, ts)
            return float(np.sum(seeds * np.concatenate([sol.x, sol.z], axis=2)))

        for i, bar in enumerate(bars):
            d = list(zero)
            d[i] = rng.standard_normal(point[i].shape)
            moved = [value(*(v + h * e for v, e in zip(point, d, strict=True))) for h in (2e-3, 1e-3, -1e-3, -2e-3)]
            truth = (8 * (moved[1] - moved[2]) - (moved[0] - moved[3])) / 12e-3
            assert np.sum(bar * d[i]) == pytest.approx(truth, rel=1e-6, abs=1e-9)
            dy = engine.tangents([with_change(batch, d[2])], start, P, d[0][None], d[1][None])
            assert np.sum(seeds * dy[0]) == pytest.approx(truth, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("solver", [co.Rodas5P(), co.IDAS(), co.Rosenbrock(), co.Collocation()])
def test_reasons_without_initial_values(solver: Any) -> None:
    """The same on all paths: SINGULAR where the Jacobian is singular everywhere, whether or not there are solutions."""

    def status(*equations: Any) -> str:
        model = co.ControlledODE(
            lambda t, x, u, p, z: -z[0], nx=1, nz=len(equations), z0=[1.0] * len(equations),
            algebraic=lambda t, x, u, p, z: [equation(x, z) for equation in equations],
        )  # fmt: skip
        return str(co.Simulator(model, solver)([1.0], None, None, [0.0, 0.5]).status[0].name)

    def total(x: Any, z: Any) -> Any:
        return 0.1 * z[0] + 0.3 * z[1] - x[0]

    assert status(total, total) == "SINGULAR"
    assert status(total, lambda x, z: 3.0 * total(x, z)) == "SINGULAR"
    assert status(total, lambda x, z: total(x, z) + 1.0) == "SINGULAR"
    assert status(lambda x, z: z[0] * z[1] - x[0], lambda x, z: x[0] - z[0] * z[1]) == "SINGULAR"
    assert status(lambda x, z: z[0] ** 2 + x[0]) == "INCONSISTENT"
    assert status(lambda x, z: ca.sqrt(z[0] - 5.0) - x[0]) == "INCONSISTENT"  # not finite at the guess
    assert status(total, lambda x, z: z[0] - z[1]) == "SUCCESS"


def test_no_consistent_value_is_a_status() -> None:
    """z^2 = x has no real solution for x < 0."""

    def rhs(t: Any, x: Any, u: Any, p: Any, z: Any) -> Any:
        return -z

    model = co.ControlledODE(rhs, nx=1, nz=1, algebraic=lambda t, x, u, p, z: z[0] ** 2 - x[0], z0=[1.0])
    for solver in (co.IDAS(), co.Rosenbrock(), co.Collocation()):
        sol = co.Simulator(model, solver)([[4.0], [-1.0]], None, None, [0.0, 1.0])
        assert [s.name for s in sol.status] == ["SUCCESS", "INCONSISTENT"]
        assert sol.x[0, :, 0] == pytest.approx([4.0, 2.25], rel=1e-3)
        assert np.isnan(sol.x[1]).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_expression_of_a_dae(name: str, rng: np.random.Generator) -> None:
    control = co.PiecewiseConstant(KNOTS, rng.standard_normal((1, 4, 1)))
    f = co.Simulator(implicit(), SOLVERS[name]).to_casadi(TS, control)
    p, seeds = ca.MX.sym("p", 2), rng.standard_normal((2, TS.size))
    J = ca.sum1(ca.sum2(seeds * f(X0[0], control.values[0].T, p)))
    gradient = ca.Function("g", [p], [ca.gradient(J, p)])
    exact = co.Simulator(explicit(), TRUTH).vjp(X0[0], control, P, TS, seeds.T)[0]
    assert np.array(gradient(P)).ravel() == pytest.approx(exact, rel=1e-7)


def test_ode_solvers_refuse_a_dae() -> None:
    for solver in (co.CVODES(), co.ERK()):
        with pytest.raises(co.ModelError, match=r"nz=1.*IDAS"):
            co.Simulator(implicit(), solver)
    singular = co.ControlledODE(lambda t, x, u, p: [-x[0], x[1] - x[0]], nx=2, mass=[[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(co.ModelError, match=r"algebraic equations"):
        co.Simulator(singular, co.IDAS())


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("name", SOLVERS)
def test_trap_dae_whose_right_hand_side_depends_on_parameters_only(name: str, sensitivity: str) -> None:
    """IDAS leaves the adjoint of parameters outside its step control; as states without derivative they are in it."""

    def rhs(t: Any, x: Any, u: Any, p: Any, z: Any) -> Any:
        return p[0] * ca.sin(7 * t) + p[1] * ca.exp(-10 * t)

    model = co.ControlledODE(rhs, nx=1, params=2, nz=1, algebraic=lambda t, x, u, p, z: z - x)
    sim = co.Simulator(model, SOLVERS[name], sensitivity)
    ts, seeds = np.array([0.0, 0.35, 1.0]), np.array([0.0, -2.0, 0.5])
    p_bar, x0_bar, _ = sim.vjp([0.3], None, [1.0, 2.0], ts, seeds[:, None])
    exact = [seeds @ (1 - np.cos(7 * ts)) / 7, seeds @ (1 - np.exp(-10 * ts)) / 10]
    assert p_bar == pytest.approx(exact, rel=1e-8, abs=1e-9)
    assert x0_bar == pytest.approx(seeds.sum(), rel=1e-9)
