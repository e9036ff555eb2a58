"""The parameter estimations of COPS and PSOPT, by every kind of method, from their own guesses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import ctrlode_casadi as co
from training.cases import PUBLISHED, run

METHODS = [
    "L-BFGS-B", "TNC", "trust-constr", "least_squares", "dogbox", "gauss-newton", "levenberg-marquardt", "ipopt",
    "multiple-shooting", "collocation",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_optimum(name: str, method: str) -> None:
    case = PUBLISHED[name]()
    obj = case.objective()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", co.IntegrationWarning)  # a line search may try anything
        found = run(obj, case.guess, method, bounds=(case.lb, case.ub))
    assert found.success, found.message
    assert found.fun == pytest.approx(case.value, rel=case.rtol)
    assert found.fun == pytest.approx(obj.value(found.x), rel=1e-12)
    size = np.abs(obj.grad(case.guess)).max()
    np.testing.assert_allclose(found.jac, obj.grad(found.x), rtol=1e-6, atol=1e-10 * size)
    assert ((found.x >= case.lb) & (found.x <= case.ub)).all()
    assert found.nit <= 60 and found.history["fun"].size == found.nit + 1


@pytest.mark.parametrize(
    "method", ["CG", "BFGS", "Newton-CG", "SLSQP", "trust-ncg", "trust-krylov", "trust-exact", "lm"]
)
def test_methods_without_bounds(method: str) -> None:
    case = PUBLISHED["gasoil"]()
    found = run(case.objective(), case.guess, method)
    assert found.success, found.message
    assert found.fun == pytest.approx(case.value, rel=case.rtol)


def test_second_derivatives_are_used() -> None:
    """A trust region method with exact Hessian products converges quadratically: few evaluations, and products."""
    case = PUBLISHED["predator"]()
    found = run(case.objective(), case.guess, "trust-ncg", gtol=1e-8)
    assert found.nhev > 10 and found.nfev < 25
    assert np.abs(found.jac).max() < 1e-8


def test_dogleg_near_the_optimum() -> None:
    """It needs a positive definite Hessian."""
    case = PUBLISHED["pinene"]()
    found = run(case.objective(), case.guess, "dogleg")
    assert found.success and found.fun == pytest.approx(case.value, rel=case.rtol)


@pytest.mark.parametrize("hessian", ["exact", "gauss-newton", "limited-memory"])
@pytest.mark.parametrize("method", ["ipopt", "multiple-shooting", "collocation"])
def test_hessians_of_ipopt(method: str, hessian: str) -> None:
    case = PUBLISHED["gasoil"]()
    found = run(case.objective(), case.guess, method, bounds=(0.0, 50.0), hessian=hessian)
    assert found.success, found.message
    assert found.fun == pytest.approx(case.value, rel=case.rtol)


@pytest.mark.parametrize("method", ["multiple-shooting", "collocation"])
def test_the_program_says_how_accurate_it_is(method: str) -> None:
    """Adaptive steps become fixed ones, chosen so that the program's value is the simulation's."""
    case = PUBLISHED["pinene"]()
    obj = case.objective()
    fine = run(obj, case.guess, method)
    coarse = run(obj, case.guess, method, accuracy=None)
    assert fine.defect < 1e-8 and fine.discretisation_error <= 1e-5
    assert fine.nlp_fun == pytest.approx(fine.fun, rel=1e-5)
    assert abs(coarse.nlp_fun - coarse.fun) > 10 * abs(fine.nlp_fun - fine.fun)
    states = obj.sim(np.array(case.x0), None, fine.x, case.times).x
    np.testing.assert_allclose(fine.states, states, atol=1e-3)


@pytest.mark.parametrize("degree", [2, 5])
@pytest.mark.parametrize("scheme", ["radau", "legendre"])
def test_collocation_schemes(scheme: str, degree: int) -> None:
    case = PUBLISHED["predator"]()
    found = run(case.objective(), case.guess, "collocation", scheme=scheme, degree=degree, bounds=(-1.0, 5.0))
    assert found.success and found.fun == pytest.approx(case.value, rel=case.rtol)
    assert found.nlp_fun == pytest.approx(found.fun, rel=1e-4)


def test_products_of_the_jacobian_do_for_least_squares() -> None:
    case = PUBLISHED["pinene"]()
    obj = case.objective()
    bounds = ([0.0] * 4 + [5e-5], [1e-2] * 4 + [5e-5])
    dense, products = (run(obj, case.guess, "trf", bounds=bounds, jacobian=j) for j in ("dense", "operator"))
    assert products.success and products.x[4] == 5e-5
    np.testing.assert_allclose(products.x, dense.x, rtol=1e-4)
