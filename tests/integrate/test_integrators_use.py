"""CasADi's integrators: settings, threads, and simulations as expressions."""

from __future__ import annotations

import threading
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from integrate.integrator_problems import FAMILIES, SOLVERS, TRUTH, pendulum, worst

KNOTS = np.array([0.0, 0.4, 0.9, 1.1, 1.7, 2.0])
TS = np.array([0.0, 0.3, 0.9, 1.4, 2.0])
P = np.array([1.3, 0.2])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: co.CVODES(rtol=0.0), r"CVODES\(rtol=...\): expected a positive"),
        (lambda: co.CVODES(atol=[1e-8, 1e-6]), r"one number for all states"),
        (lambda: co.IDAS(max_steps=0), r"IDAS\(max_steps=...\): expected an integer"),
        (lambda: co.IDAS(dt0=-1.0), r"IDAS\(dt0=...\)"),
        (lambda: co.CVODES(method="euler"), r"euler"),
        (lambda: co.CVODES(options=[1]), r"expected a dict"),
        (lambda: co.ERK(options={"nadj": 1}), r"'nadj' is set by the package"),
        (lambda: co.ERK(steps_per_interval=0), r"steps_per_interval"),
        (lambda: co.Collocation(degree=10), r"1 to 9"),
        (lambda: co.Collocation(scheme="gauss"), r"gauss"),
        (lambda: co.Simulator(pendulum(), co.ERK(), co.ContinuousAdjoint()), r"belongs to SUNDIALS"),
        (lambda: co.Simulator(pendulum(), co.RK4(), co.ContinuousAdjoint()), r"belongs to SUNDIALS"),
        (lambda: co.Simulator(pendulum(), co.CVODES(), co.Adjoint(checkpoints=3)), r"steps_per_checkpoint"),
        (lambda: co.Simulator(pendulum(), co.Collocation(), co.Adjoint(checkpoints=3)), r"leave it out"),
        (lambda: co.Simulator(pendulum(), co.CVODES(), backend="compiled"), r"integrator of CasADi"),
    ],
)
def test_misuse_is_named(make: Any, words: str) -> None:
    with pytest.raises(co.SolverError, match=words):
        make()


def test_options_that_casadi_refuses() -> None:
    sim = co.Simulator(pendulum(), co.CVODES(options={"no_such_option": 1}))
    with pytest.raises(co.SolverError, match=r"CasADi refuses CVODES"):
        sim([1.0, 0.0], co.Constant([0.0, 0.0]), P, TS)


def test_settings() -> None:
    assert co.CVODES().order == 5
    assert co.CVODES(method="adams").order == 12
    assert co.Collocation(degree=3).order == 5
    assert co.Collocation(3, "radau") == co.Collocation(degree=3)  # the order of API.md
    assert co.Collocation(degree=3, scheme="legendre").order == 6
    assert co.ERK().adaptive
    assert not co.ERK(steps_per_interval=2).adaptive
    assert isinstance(hash(co.CVODES(options={"max_step_size": 1.0})), int)
    for solver in (co.CVODES(), co.IDAS()):
        for how in ("auto", "adjoint", co.ContinuousAdjoint()):
            assert co.Simulator(pendulum(), solver, how).sensitivity == co.ContinuousAdjoint()
    assert co.Simulator(pendulum(), co.ERK()).sensitivity == co.Adjoint()


@pytest.mark.parametrize("name", FAMILIES)
def test_same_bits_for_any_number_of_threads(name: str, rng: np.random.Generator) -> None:
    control, x0 = co.PiecewiseLinear(KNOTS, rng.standard_normal((7, 6, 2))), rng.standard_normal((7, 2))
    seeds = rng.standard_normal((7, TS.size, 2))
    one, two = (co.Simulator(pendulum(), SOLVERS[name], threads=n) for n in (1, 2))
    assert np.array_equal(one(x0, control, P, TS).x, two(x0, control, P, TS).x)
    for a, b in zip(one.vjp(x0, control, P, TS, seeds), two.vjp(x0, control, P, TS, seeds), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_trap_one_simulator_in_two_threads_at_once(name: str, rng: np.random.Generator) -> None:
    """One CVODES object called from two threads corrupts memory; here each worker has its own."""
    sim, control = co.Simulator(pendulum(), SOLVERS[name], threads=2), co.PiecewiseLinear(KNOTS, np.ones((6, 2)))
    starts = rng.standard_normal((4, 3, 2))
    seeds = np.ones((3, TS.size, 2))
    alone = [sim.vjp(x0, control, P, TS, seeds) for x0 in starts]
    found: list[Any] = [None] * 4

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = sim.vjp(starts[i], control, P, TS, seeds)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, found, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_trajectory_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    values, x0 = rng.standard_normal((5, 6, 2)), rng.standard_normal((5, 2))
    for name in FAMILIES:
        sim = co.Simulator(pendulum(), SOLVERS[name])
        together = sim(x0, co.PiecewiseLinear(KNOTS, values), P, TS).x
        alone = sim(x0[3], co.PiecewiseLinear(KNOTS, values[3]), P, TS).x
        assert np.array_equal(together[3], alone[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_expression_with_first_and_second_derivatives(name: str, rng: np.random.Generator) -> None:
    """Against the expression of many fixed explicit steps."""
    control = co.PiecewiseLinear(KNOTS, rng.standard_normal((1, 6, 2)))
    x, U, p = ca.MX.sym("x", 2), ca.MX.sym("U", 2, 6), ca.MX.sym("p", 2)
    seeds, v = rng.standard_normal((2, TS.size)), ca.vertcat(x, ca.vec(U), p)
    direction = rng.standard_normal(v.numel())

    def derivatives(solver: Any) -> list[Any]:
        f = co.Simulator(pendulum(), solver).to_casadi(TS, control)
        J = ca.sum1(ca.sum2(seeds * ca.sin(f(x, U, p))))
        g = ca.gradient(J, v)
        all_of_them = ca.Function("all", [x, U, p], [J, g, ca.jtimes(g, v, direction)])
        return [np.array(r).ravel() for r in all_of_them([1.0, 0.3], control.values[0].T, P)]

    assert worst(derivatives(SOLVERS[name]), derivatives(co.DOP853(steps_per_interval=8))) < 1e-7


def test_step_and_callback() -> None:
    f = pendulum().step(co.CVODES(rtol=1e-11, atol=1e-12), 0.3)
    exact = pendulum().step(co.DOP853(steps_per_interval=10), 0.3)
    arguments = (0.1, [1.0, 0.3], [0.2, -0.4], P)
    assert worst(np.array(f(*arguments)), np.array(exact(*arguments))) < 1e-9
    with pytest.raises(co.SolverError, match=r"dt: expected a positive"):
        pendulum().step(co.ERK(), 0.0)
    sim, control = co.Simulator(pendulum(), SOLVERS["erk"]), co.PiecewiseLinear(KNOTS, np.ones((6, 2)))
    node = sim.to_casadi(TS, control, form="callback")
    X = np.array(node([1.0, 0.3], control.values[0].T, P))
    assert worst(X.T, co.Simulator(pendulum(), TRUTH)([1.0, 0.3], control, P, TS).x[0]) < 1e-8
