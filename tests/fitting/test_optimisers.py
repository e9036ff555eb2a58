"""SciPy and IPOPT find a known optimum through the objective, as the documentation writes the calls."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest
from scipy.optimize import least_squares, minimize

import ctrlode_casadi as co
from fitting.reference import NP, Experiment, P

GUESS = P + np.array([0.2, -0.1, 0.1, -0.2, 0.1, 0.1])
IPOPT = {"ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes", "ipopt.tol": 1e-10}


@pytest.fixture(scope="module")
def problem() -> co.Objective:
    """Data made by the model itself: the optimum is P with value zero."""
    e = Experiment(6, steps=20)
    e.data = e.outputs(P, e.states(P, e.x0))
    return e.objective()


def test_lbfgs(problem: co.Objective) -> None:
    found = minimize(problem, GUESS, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    assert found.success
    np.testing.assert_allclose(found.x, P, atol=1e-4)


def test_trust_ncg(problem: co.Objective) -> None:
    found = minimize(problem, GUESS, jac=True, hessp=problem.hessp, method="trust-ncg", options={"gtol": 1e-9})
    assert found.nit < 40
    np.testing.assert_allclose(found.x, P, atol=1e-5)


@pytest.mark.parametrize("method", ["trf", "lm"])
def test_least_squares(problem: co.Objective, method: str) -> None:
    found = least_squares(problem.residuals, GUESS, jac=problem.jac, method=method)
    assert found.nfev < 20
    np.testing.assert_allclose(found.x, P, atol=1e-7)


def test_least_squares_with_the_operator(problem: co.Objective) -> None:
    found = least_squares(problem.residuals, GUESS, jac=problem.jac_operator, tr_solver="lsmr")
    np.testing.assert_allclose(found.x, P, atol=1e-5)


@pytest.mark.parametrize("hessian", ["exact", "limited-memory"])
def test_ipopt(problem: co.Objective, hessian: str) -> None:
    f = problem.to_casadi()
    p = ca.MX.sym("p", NP)
    solver = ca.nlpsol("s", "ipopt", {"x": p, "f": f(p)}, {**IPOPT, "ipopt.hessian_approximation": hessian})
    found = solver(x0=GUESS)
    assert solver.stats()["success"]
    if hessian == "exact":
        assert solver.stats()["iter_count"] < 20
    np.testing.assert_allclose(found["x"].full()[:, 0], P, atol=1e-4)


def test_opti_with_a_constraint(problem: co.Objective) -> None:
    """A bound holds one parameter away from its optimum; the gradient in the others vanishes there."""
    opti = ca.Opti()
    p = opti.variable(NP)
    opti.minimize(problem.to_casadi()(p))
    opti.subject_to(p[0] >= 1.5)
    opti.set_initial(p, GUESS)
    opti.solver("ipopt", IPOPT)
    found = opti.solve().value(p)
    assert found[0] == pytest.approx(1.5, abs=1e-6)
    gradient = problem.grad(found)
    assert gradient[0] > 1e-4
    np.testing.assert_allclose(gradient[1:], 0.0, atol=1e-7)


def test_composition_with_other_expressions(problem: co.Objective) -> None:
    """Gradient and Hessian of exp(J(q(s))) by CasADi's chain rule."""
    f = problem.to_casadi("inner")
    s = ca.MX.sym("s", 2)
    q = ca.vertcat(GUESS[0] * s[0], ca.sin(s[1]), *GUESS[2:])
    expression = ca.exp(f(q))
    whole = ca.Function("whole", [s], [expression, ca.gradient(expression, s), ca.hessian(expression, s)[0]])
    at = np.array([1.1, 0.3])

    def plain(s: np.ndarray) -> tuple[float, np.ndarray]:
        point = np.concatenate([[GUESS[0] * s[0], np.sin(s[1])], GUESS[2:]])
        value, gradient = problem(point)
        return np.exp(value), np.exp(value) * gradient[:2] * [GUESS[0], np.cos(s[1])]

    value, gradient, hessian = (v.full() for v in whole(at))
    assert value[0, 0] == pytest.approx(plain(at)[0], rel=1e-14)
    np.testing.assert_allclose(gradient[:, 0], plain(at)[1], rtol=1e-12)
    h = 1e-4
    for i, e in enumerate(np.eye(2)):
        near, far = ((plain(at + k * e)[1] - plain(at - k * e)[1]) / (2 * k) for k in (h, 2 * h))
        np.testing.assert_allclose(hessian[:, i], (4 * near - far) / 3, rtol=1e-7)


def test_the_function_outlives_the_objective() -> None:
    f = Experiment(2).objective().to_casadi()
    assert f.name_in() == ["p"] and f.name_out() == ["J"]
    assert float(f(P)) == pytest.approx(Experiment(2).objective().value(P), rel=1e-14)
