"""Solvers x sensitivities x (p, x0, u) x (value, gradient, Hessian-vector) against an independent truth.

The truth is a plain integration in complex arithmetic: derivatives by complex steps, Hessian products by extrapolated
differences of these. Fixed steps are compared with the same method and steps, everything else with the solution of the
differential equation, to a multiple of the tolerance. A new solver joins by a line in `CASES`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from integrate.problems import P, oscillator, oscillator_rhs

KNOTS = np.array([0.0, 0.7, 1.1, 2.0])
TS = np.array([0.0, 0.5, 1.1, 2.0])
U = np.array([0.3, -0.8, 0.5, 0.9])
X0 = np.array([0.4, -0.6])
DATA = np.array([[0.1, 0.2], [0.0, -0.3], [0.4, 0.1], [-0.2, 0.5]])
N = P.size, X0.size, U.size


@dataclass(frozen=True)
class Case:
    """A solver and how near its derivatives come to the truth; `steps` per interval for fixed ones."""

    solver: Any
    tolerance: float = 1e-9
    steps: int | None = None
    discrete: bool = True

    def __str__(self) -> str:
        return type(self.solver).__name__ + ("" if self.steps is None else " fixed")


def _cases() -> list[Case]:
    """Every solver of the package; `optional` ones where they exist."""
    fixed = [co.Euler, co.Midpoint, co.Heun, co.RK4, co.BS3, co.Dopri5, co.Tsit5, co.DOP853]
    cases = [Case(method(steps_per_interval=2), steps=2) for method in fixed]
    cases += [Case(method(rtol=1e-11, atol=1e-12), 1e-8) for method in (co.Dopri5, co.Tsit5, co.DOP853)]
    cases.append(Case(co.BS3(rtol=1e-8, atol=1e-9), 1e-5))
    optional = {
        "Rodas4": ({"rtol": 1e-9, "atol": 1e-10}, 1e-6, True),
        "Rodas5P": ({"rtol": 1e-10, "atol": 1e-11}, 1e-7, True),
        "CVODES": ({"rtol": 1e-10, "atol": 1e-11}, 1e-6, False),
        "IDAS": ({"rtol": 1e-10, "atol": 1e-11}, 1e-5, False),
        "Collocation": ({"degree": 5, "steps_per_interval": 10}, 1e-7, False),
        "ERK": ({"steps_per_interval": 20}, 1e-6, False),
        "Rosenbrock": ({"steps_per_interval": 20}, 1e-4, False),
    }
    for name, (options, tolerance, discrete) in optional.items():
        if name in co.__all__:
            cases.append(Case(getattr(co, name)(**options), tolerance, discrete=discrete))
    return cases


CASES = _cases()
SENSITIVITIES = {
    "auto": "auto",
    "adjoint": "adjoint",
    "checkpoints": co.Adjoint(checkpoints=2),
    "forward": "forward",
    "chunks of 1": co.Forward(chunk=1),
    "chunks of 4": co.Forward(chunk=4),
}


def plain(tab: Any, n: int, p: Any, x0: Any, u: Any) -> list[Any]:
    """States at the save times by n equal steps of an explicit method between neighbouring points."""
    points = np.unique(np.concatenate([TS, KNOTS]))
    x, out = x0 + 0 * p[0] + 0 * u[0], []
    out.append(x)
    for left, right in itertools.pairwise(points):
        j = int(np.searchsorted(KNOTS, 0.5 * (left + right))) - 1
        slope, h = (u[j + 1] - u[j]) / (KNOTS[j + 1] - KNOTS[j]), (right - left) / n
        for i in range(n):
            t, k = left + i * h, []
            for c, row in zip(tab.c, tab.A, strict=True):
                state = x + h * sum((a * v for a, v in zip(row, k, strict=False) if a), start=0 * x)
                k.append(oscillator_rhs(t + c * h, state, u[j] + slope * (t + c * h - KNOTS[j]), p))
            x = x + h * sum(b * v for b, v in zip(tab.b, k, strict=True))
        if right in TS:
            out.append(x)
    return out


def functional(tab: Any, n: int) -> Callable[[Any], Any]:
    """Sum of squares as a function of (p, x0, u) in one vector."""

    def value(theta: Any) -> Any:
        p, x0, u = np.split(theta, np.cumsum(N)[:2])
        return sum(np.sum((x - d) ** 2) for x, d in zip(plain(tab, n, p, x0, u), DATA, strict=True))

    return value


def complex_gradient(f: Callable[[Any], Any], theta: Any) -> Any:
    """Gradient by complex steps."""
    return np.array([f(theta + 1e-30j * e).imag / 1e-30 for e in np.eye(theta.size)])


THETA = np.concatenate([P, X0, U])
V = np.array([0.3, -0.2, 0.5, 0.4, -0.1, 0.2, 0.6, -0.3, 0.1])


@cache
def truth(name: str, steps: int | None) -> tuple[float, Any, Any]:
    """Value, gradient, and Hessian times V, of the method with fixed steps or (None) of the differential equation."""
    tab = getattr(co, name)().tableau if steps is not None else co.DOP853().tableau
    f = functional(tab, 12 if steps is None else steps)

    def central(h: float) -> Any:
        return (complex_gradient(f, THETA + h * V) - complex_gradient(f, THETA - h * V)) / (2 * h)

    rows = [central(0.02 / 2**k) for k in range(4)]
    for level in range(1, 4):
        rows = [b + (b - a) / (4**level - 1) for a, b in itertools.pairwise(rows)]
    return float(f(THETA)), complex_gradient(f, THETA), rows[0]


def truth_of(case: Case) -> tuple[float, Any, Any]:
    return truth(type(case.solver).__name__ if case.steps else "", case.steps)


def near(found: Any, wanted: Any, tolerance: float) -> None:
    """Agreement relative to the largest entry."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


# Chunks and checkpoints are settings of the package's own methods.
PAIRS = [(c, how) for c in CASES for how in SENSITIVITIES if c.discrete or how in ("auto", "forward", "adjoint")]


@pytest.mark.parametrize(("case", "how"), PAIRS, ids=str)
def test_value_and_gradient(case: Case, how: str) -> None:
    sim = co.Simulator(oscillator(), case.solver, sensitivity=SENSITIVITIES[how])
    control = co.PiecewiseLinear(KNOTS, U)
    value, gradient, _ = truth_of(case)
    x = sim(X0, control, P, TS).x
    near(np.sum((x[0] - DATA) ** 2), value, case.tolerance)
    found = sim.vjp(X0, control, P, TS, 2 * (x[0] - DATA))
    near(np.concatenate([np.ravel(v) for v in found]), gradient, case.tolerance)


@pytest.mark.parametrize("how", SENSITIVITIES)
@pytest.mark.parametrize("case", [c for c in CASES if c.discrete], ids=str)
def test_objective(case: Case, how: str) -> None:
    value, gradient, _ = truth_of(case)
    sim = co.Simulator(oscillator(), case.solver, sensitivity=SENSITIVITIES[how])
    obj = co.Objective(sim, co.Free(X0), co.PiecewiseLinear(KNOTS, U), TS, data=DATA, loss="sse")
    found = obj(obj.append_free(P))
    near(found[0], value, case.tolerance)
    near(found[1], gradient[:5], case.tolerance)


@pytest.mark.parametrize("case", [c for c in CASES if c.discrete], ids=str)
def test_hessian_vector(case: Case) -> None:
    sim = co.Simulator(oscillator(), case.solver)
    obj = co.Objective(sim, co.Free(X0), co.PiecewiseLinear(KNOTS, U), TS, data=DATA, loss="sse")
    theta, hessian = obj.append_free(P), _hessian(case)
    tolerance = 20 * case.tolerance
    near(obj.hessp(theta, V[:5]), hessian[:5, :5] @ V[:5], tolerance)
    near(obj.hess(theta), hessian[:5, :5], tolerance)
    if case.steps is not None:
        # Controls too, through the simulation as a CasADi expression.
        f = sim.to_casadi(TS, co.PiecewiseLinear(KNOTS, U))
        s = ca.MX.sym("s", 9)
        x = f(s[3:5], s[5:].T, s[:3])
        product = ca.Function("product", [s], [ca.jtimes(ca.gradient(ca.sumsqr(x - DATA.T), s), s, ca.DM(V))])
        near(product(THETA).full().ravel(), truth_of(case)[2], tolerance)


@cache
def _hessian_of(name: str, steps: int | None) -> Any:
    """Hessian with respect to (p, x0, u) by extrapolated differences of complex-step gradients."""
    tab = getattr(co, name)().tableau if steps is not None else co.DOP853().tableau
    f = functional(tab, 12 if steps is None else steps)
    columns = []
    for e in np.eye(THETA.size)[:5]:
        rows = [
            (complex_gradient(f, THETA + h * e) - complex_gradient(f, THETA - h * e)) / (2 * h)
            for h in (0.02, 0.01, 0.005, 0.0025)
        ]
        for level in range(1, 4):
            rows = [b + (b - a) / (4**level - 1) for a, b in itertools.pairwise(rows)]
        columns.append(rows[0])
    return np.array(columns)


def _hessian(case: Case) -> Any:
    return _hessian_of(type(case.solver).__name__ if case.steps else "", case.steps)


# --- traps that were measured with other software -----------------------------------------------------------------


def _tight() -> list[Any]:
    """Every solver of order four or more with an error below 1e-8 in the problems that follow."""
    fixed = [method(steps_per_interval=100) for method in (co.RK4, co.Dopri5, co.Tsit5, co.DOP853)]
    solvers = fixed + [method(rtol=1e-11, atol=1e-12) for method in (co.Dopri5, co.Tsit5, co.DOP853)]
    optional = {
        "Rodas4": {"rtol": 1e-11, "atol": 1e-12},
        "Rodas5P": {"rtol": 1e-11, "atol": 1e-12},
        "CVODES": {"rtol": 1e-11, "atol": 1e-13},
        "IDAS": {"rtol": 1e-11, "atol": 1e-13},
        "Collocation": {"degree": 5, "steps_per_interval": 20},
        "ERK": {"steps_per_interval": 100},
        "Rosenbrock": {"rtol": 1e-11, "atol": 1e-13},
    }
    return solvers + [getattr(co, name)(**options) for name, options in optional.items() if name in co.__all__]


TRAP_SOLVERS = _tight()


def trap_name(solver: Any) -> str:
    """Name of a solver, and whether its steps are fixed."""
    return type(solver).__name__ + ("" if getattr(solver, "steps_per_interval", None) is None else " fixed")


@pytest.mark.parametrize("how", ["adjoint", "forward", "auto"])
@pytest.mark.parametrize("solver", TRAP_SOLVERS, ids=trap_name)
def test_rhs_independent_of_the_state(solver: Any, how: str) -> None:
    """xdot = p0 + p1 t + p2 t^2: quadratures outside the error control may be half wrong here."""
    model = co.ControlledODE(lambda t, x, u, p: p[0] + p[1] * t + p[2] * t**2, nx=1, params=3)
    sim = co.Simulator(model, solver, sensitivity=how)
    found = sim.vjp([0.5], None, [1.0, -2.0, 3.0], [0.0, 0.7, 2.0], [[0.0], [0.0], [1.0]])
    near(found[0], np.array([2.0, 2.0, 8.0 / 3.0]), 1e-8)
    assert found[1] == pytest.approx(1.0)


@pytest.mark.parametrize("how", ["adjoint", "forward", "auto"])
@pytest.mark.parametrize("solver", TRAP_SOLVERS, ids=trap_name)
def test_cost_of_one_state_only(solver: Any, how: str) -> None:
    """A chain x1 -> x2 -> x3 with a cost of x1: the gradient has no share of the others."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        return [-p[0] * x[0], p[0] * x[0] - p[1] * x[1], p[1] * x[1]]

    sim = co.Simulator(co.ControlledODE(rhs, nx=3, params=2), solver, sensitivity=how)
    ts, seeds = np.linspace(0.0, 1.0, 21), np.zeros((21, 3))
    seeds[-1, 0] = 1.0
    p_bar, x0_bar, _ = sim.vjp([2.0, 0.0, 0.0], None, [0.8, 0.3], ts, seeds)
    near(p_bar, np.array([-2.0 * np.exp(-0.8), 0.0]), 1e-8)
    near(x0_bar, np.array([np.exp(-0.8), 0.0, 0.0]), 1e-8)


@pytest.mark.parametrize("how", ["adjoint", "forward", "auto"])
@pytest.mark.parametrize("solver", TRAP_SOLVERS, ids=trap_name)
def test_control_changing_within_the_output_grid(solver: Any, how: str) -> None:
    """x' = -p x + u with u piecewise constant, knots at 0.3 and 0.6, outputs at 0 and 1 only."""
    model = co.ControlledODE(lambda t, x, u, p: -p * x + u, nx=1, nu=1, params=1)
    knots, u, p = np.array([0.0, 0.3, 0.6, 1.0]), np.array([1.0, -2.0, 0.5, 0.0]), 1.7
    sim = co.Simulator(model, solver, sensitivity=how)
    found = sim.vjp([0.4], co.PiecewiseConstant(knots, u), [p], [0.0, 1.0], [[0.0], [1.0]])

    def end(p: Any) -> tuple[Any, Any]:
        shares = (np.exp(-p * (1 - knots[1:])) - np.exp(-p * (1 - knots[:-1]))) / p
        return 0.4 * np.exp(-p) + shares @ u[:3], shares

    near(np.ravel(found[2])[:3], end(p)[1], 1e-8)
    assert np.ravel(found[2])[3] == 0.0
    near(found[0], np.array([end(p + 1e-30j)[0].imag / 1e-30]), 1e-8)
