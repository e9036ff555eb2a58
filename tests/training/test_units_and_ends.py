"""Parameters of very different size, starts that lead astray, and what is returned where a method ends no better."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.training.ipopt import start_options
from ctrlode_casadi.training.result import Outcome, make_result
from ctrlode_casadi.training.task import automatic_scale, make_task
from ctrlode_casadi.training.watch import Watch
from training.cases import PUBLISHED, blow_up, falling, run

FIVE = ["ipopt", "multiple-shooting", "collocation", "L-BFGS-B", "least_squares"]

#: A rate of order one and a huge number beside it, in one unnamed block.
TRUTH, START = np.array([0.3, 2e7]), np.array([0.25, 1.5e7])


@pytest.fixture(scope="module")
def mixed() -> co.Objective:
    """x' = -p0 x + (p1 - 1e7) / 1e9 with exact data."""
    model = co.ControlledODE(lambda t, x, u, p: -p[0] * x[0] + 1e-2 * (p[1] * 1e-7 - 1), nx=1, params=2)
    ts = np.linspace(0.0, 10.0, 21)
    sim = co.Simulator(model, solver=co.Tsit5(rtol=1e-8, atol=1e-10))
    rate, gain = TRUTH[0], 1e-2 * (TRUTH[1] * 1e-7 - 1)
    data = np.exp(-rate * ts) + gain / rate * (1.0 - np.exp(-rate * ts))
    return co.Objective(sim, 1.0, None, ts, data=data, loss="sse")


@pytest.mark.parametrize("method", FIVE)
def test_parameters_of_different_size(mixed: co.Objective, method: str) -> None:
    """Wide bounds, given in the units of the huge number, do not move the other one."""
    found = run(mixed, START, method, bounds=(1e-3, 1e9))
    assert found.success, found.message
    far = 1e-2 if method == "L-BFGS-B" else 1e-4  # it stops at an absolute change of the value
    np.testing.assert_allclose(found.x, TRUTH, rtol=far)


@pytest.mark.filterwarnings("ignore::ctrlode_casadi.IntegrationWarning")
@pytest.mark.parametrize("method", FIVE)
@pytest.mark.parametrize("maxiter", [1, 3, 500])
def test_nothing_worse_than_the_start_is_returned(mixed: co.Objective, method: str, maxiter: int) -> None:
    """In units of 2**24 the rate starts at its bound, and interior methods push it far away."""
    pushed = {} if method in ("L-BFGS-B", "least_squares") else {"bound_push": 1e-2}
    found = run(mixed, START, method, bounds=(1e-3, 1e9), p_scale=2.0**24, maxiter=maxiter, **pushed)
    assert found.fun <= mixed.value(START)
    assert found.fun == pytest.approx(mixed.value(found.x), rel=1e-12)
    if np.array_equal(found.x, START):
        assert not found.success


def test_a_transcription_that_fails_says_what_it_ended_with(mixed: co.Objective) -> None:
    found = run(mixed, START, "multiple-shooting", bounds=(1e-3, 1e9), p_scale=2.0**24, bound_push=1e-2)
    assert not found.success and "p0 is returned, nlp_x is the last iterate" in found.message
    np.testing.assert_array_equal(found.x, START)
    assert mixed.value(found.nlp_x) > mixed.value(START)
    fine = run(mixed, START, "multiple-shooting", bounds=(1e-3, 1e9))
    np.testing.assert_array_equal(fine.nlp_x, fine.x)


def test_a_start_that_cannot_be_improved_is_kept_with_success() -> None:
    obj = falling()
    best = run(obj, [-1.0], "least_squares", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    for method in ("multiple-shooting", "collocation", "ipopt"):
        found = run(obj, best.x, method)
        assert found.success and found.fun <= best.fun


def test_constraints_on_states_count_more_than_values() -> None:
    """The start has the best value, and violates a constraint: it is not returned."""
    found = run(falling(), [-1.5], "multiple-shooting", state_bounds=([None, 0.0], None))
    assert found.success and found.x[0] == pytest.approx(-1.0, abs=1e-6)


def test_units_of_numbers_that_share_a_block() -> None:
    layout = co.ParameterLayout(rates=4, near=3, gains=(1, 2), net=co.Dense(1, 2), many=40)
    many = np.full(40, 0.3)
    many[7] = 1e-5
    start = np.array([0.25, 0.0, 1.5e7, 3e-4, 2e-3, 1e-4, 5e-3, 1e-6, 2.0, 0.5, 1e-5, 0.3, 1e-6, *many])
    scale = automatic_scale(layout, start)
    assert scale[:4].tolist() == [1.0, 1.0, 2.0**24, 2.0**-12]
    assert scale[4:7].tolist() == [2.0**-8] * 3  # a factor of 50 apart: one unit
    assert scale[7:9].tolist() == [2.0**-20, 1.0]
    assert (scale[9:] == 1.0).all()  # weights, and a long vector that may be some
    start[20] = 1e4
    assert automatic_scale(layout, start)[[13, 20]].tolist() == [1.0, 2.0**13]


def test_one_unit_for_all(mixed: co.Objective) -> None:
    one, each = (run(falling(), [-1.0], "L-BFGS-B", p_scale=s) for s in (0.125, [0.125]))
    assert one.nfev == each.nfev and one.x[0] == each.x[0]
    for wrong in (0.0, -1.0, True, np.nan):
        with pytest.raises(co.DataError, match="p_scale"):
            run(mixed, START, "L-BFGS-B", p_scale=wrong)


@pytest.mark.parametrize("side", [0, 1])
def test_a_start_beside_a_bound_is_not_moved(side: int) -> None:
    """IPOPT would push it by a hundredth; the first row of the history is the start."""
    obj, start = falling(), np.array([-1.2 - 1e-4])
    bounds = [(-3.0, -1.2), (-1.2 - 2e-4, 0.0)][side]
    seen = run(obj, start, "ipopt", bounds=[bounds])
    assert seen.history["fun"][0] == pytest.approx(obj.value(start), rel=1e-9)
    assert seen.success
    task = make_task(obj, start, "ipopt", 10, [bounds], 0, {})
    assert start_options(task)["bound_push"] == pytest.approx(1e-4 / 1.2, rel=0.2)
    assert start_options(make_task(obj, start, "ipopt", 10, None, 0, {})) == {"bound_push": 1e-2}
    assert start_options(make_task(obj, start, "ipopt", 10, (start, None), 0, {})) == {"bound_push": 1e-2}


@pytest.mark.parametrize(("ahead", "success"), [(0.0, True), (1e-8, True), (1e-3, False)])
def test_success_is_lost_only_for_a_difference_that_matters(ahead: float, success: bool) -> None:
    """A method ends above the best point that it has seen; that one is returned."""
    obj = falling()
    task = make_task(obj, [-1.0], "ipopt", 10, None, 0, {})
    watch = Watch(obj, "ipopt", 10, False, None)
    end = np.array([-1.2])
    best = end - ahead
    fun = watch.evaluate(best)[0]
    result = make_result(task, watch, Outcome(end, True, 0, "Done"))
    assert result.success is success and ("best point seen" in result.message) is not success
    assert result.x[0] == best[0] and result.fun == fun


@pytest.mark.parametrize("factor", [5.0, 3.0])
def test_a_first_step_into_the_corner_of_the_bounds(factor: float) -> None:
    """Pinene from far: the gradient at p0, as a step, ends where the line search finds no answer. Units are shrunk."""
    case = PUBLISHED["pinene"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", co.IntegrationWarning)
        found = run(case.objective(), factor * case.guess, "L-BFGS-B", bounds=(case.lb, case.ub))
    assert found.success and found.fun == pytest.approx(case.value, rel=case.rtol)
    assert found.history["fun"][0] > 100 * case.value
    assert ("smaller units" in found.message) == (factor == 5.0)


def test_a_method_that_does_not_move_has_no_success() -> None:
    obj = falling()
    task = make_task(obj, [-1.0], "L-BFGS-B", 10, None, 0, {})
    watch = Watch(obj, "L-BFGS-B", 10, False, None)
    result = make_result(task, watch, Outcome(task.p0, True, 0, "Converged"))
    assert not result.success and "p_scale" in result.message
    bounded = make_task(obj, [-1.0], "L-BFGS-B", 10, (-1.0, None), 0, {})
    assert make_result(bounded, watch, Outcome(task.p0, True, 0, "Converged")).success  # the optimum is this bound
    best = make_task(obj, [-1.5], "L-BFGS-B", 10, None, 0, {})
    assert make_result(best, Watch(obj, "BFGS", 10, False, None), Outcome(best.p0, True, 0, "Converged")).success


def test_steps_grow_where_multiple_shooting_strays() -> None:
    """Rates start at 0.3, where few explicit steps will do, and end near 30, where these would be unstable."""

    def rates(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        change = p[0] * x[0] - p[1] * x[1]
        return [-change, change - p[2] * x[1]]

    model = co.ControlledODE(rates, nx=2, params=3)
    ts = np.linspace(0.0, 4.0, 9)
    stiff = co.Simulator(model, co.Rodas5P(rtol=1e-9, atol=1e-11))
    data = stiff([1.0, 0.0], None, np.array([50.0, 50.0, 1.0]), ts).x[0]
    data += 1e-3 * np.random.default_rng(0).standard_normal(data.shape)
    sim = co.Simulator(model, co.Tsit5(rtol=1e-8, atol=1e-10))
    obj = co.Objective(sim, np.array([1.0, 0.0]), None, ts, data=data, loss="sse")
    found = run(obj, np.full(3, 0.3), "multiple-shooting", bounds=(0.0, 200.0))
    best = run(obj, np.array([30.0, 30.0, 1.0]), "least_squares", bounds=(0.0, 200.0))
    assert found.success and found.nit < 100, found.message
    assert found.fun == pytest.approx(best.fun, rel=1e-4)
    assert found.history["nit"].tolist() == list(range(found.nit + 1))


def test_later_rounds_begin_near_the_optimum() -> None:
    """A large barrier, IPOPT's own, leads away from it."""
    case = PUBLISHED["gasoil"]()
    small, large = (
        run(case.objective(), case.guess, "collocation", bounds=(0.0, 50.0), **o) for o in ({}, {"mu_init": 0.1})
    )
    assert small.rounds == large.rounds == 3 and small.nit < large.nit - 5
    assert small.nlp_fun == pytest.approx(large.nlp_fun, rel=1e-6)


def test_a_failed_start_does_not_replace_what_was_found() -> None:
    with pytest.warns(co.IntegrationWarning):
        assert blow_up().value(np.array([1.5])) == np.inf
    found = run(blow_up(), [1.5], "multiple-shooting")
    assert found.success and found.x[0] == pytest.approx(0.9, abs=1e-5)
