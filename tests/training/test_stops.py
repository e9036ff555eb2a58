"""How fits end before they are done: limits, callbacks, Ctrl-C, failures of the simulation; and what they print."""

from __future__ import annotations

import signal
import warnings
from typing import Any

import numpy as np
import pytest

import ctrlode_casadi as co
from training.cases import PUBLISHED, blow_up, falling, run

ONE_OF_EACH = ["L-BFGS-B", "BFGS", "TNC", "SLSQP", "trust-ncg", "trust-constr", "trf", "dogbox", "lm", "ipopt"]
TRANSCRIBED = ["multiple-shooting", "collocation"]


@pytest.fixture(scope="module")
def case() -> tuple[co.Objective, np.ndarray]:
    problem = PUBLISHED["predator"]()
    return problem.objective(), problem.guess


@pytest.mark.filterwarnings("ignore::ctrlode_casadi.IntegrationWarning")
@pytest.mark.parametrize("method", [*ONE_OF_EACH, *TRANSCRIBED])
def test_limit_of_iterations(case: Any, method: str) -> None:
    obj, guess = case
    found = run(obj, guess, method, maxiter=2)
    assert (found.success, found.status, found.nit) == (False, 1, 2)
    assert "limit of 2 iterations" in found.message
    assert found.fun == pytest.approx(obj.value(found.x))
    assert found.history["nit"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.filterwarnings("ignore::ctrlode_casadi.IntegrationWarning")
@pytest.mark.parametrize("method", [*ONE_OF_EACH, *TRANSCRIBED])
def test_a_callback_stops(case: Any, method: str) -> None:
    obj, guess = case
    seen: list[Any] = []

    def callback(intermediate_result: Any) -> None:
        seen.append(intermediate_result)
        if intermediate_result.nit == 2:
            raise StopIteration("good enough")

    found = run(obj, guess, method, callback=callback)
    assert (found.success, found.status) == (False, 99) and "good enough" in found.message
    assert [r.nit for r in seen] == [1, 2]
    assert seen[-1].x.shape == guess.shape and seen[-1].elapsed > 0
    if method not in TRANSCRIBED:
        assert seen[-1].fun == pytest.approx(obj.value(seen[-1].x))
        assert found.fun == min(found.history["fun"]) or found.fun < min(found.history["fun"])


@pytest.mark.filterwarnings("ignore::ctrlode_casadi.IntegrationWarning")
@pytest.mark.parametrize("method", [*ONE_OF_EACH, *TRANSCRIBED])
def test_interrupt(case: Any, method: str) -> None:
    obj, guess = case

    def callback(intermediate_result: Any) -> None:
        if intermediate_result.nit == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    found = run(obj, guess, method, callback=callback)
    assert (found.success, found.status) == (False, 98)
    assert found.message.startswith("Interrupted") and found.nit <= 3
    assert signal.getsignal(signal.SIGINT) is before
    assert np.isfinite(found.fun) and found.fun <= obj.value(guess)


@pytest.mark.parametrize("method", ["L-BFGS-B", "TNC", "lm", "ipopt", "multiple-shooting"])
def test_errors_of_a_callback_come_through(case: Any, method: str) -> None:
    obj, guess = case

    def callback(intermediate_result: Any) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(obj, guess, method, callback=callback)


def test_a_callback_cannot_change_the_fit(case: Any) -> None:
    obj, guess = case

    def callback(intermediate_result: Any) -> None:
        intermediate_result.x[:] = np.nan
        intermediate_result.jac[:] = np.nan

    found = run(obj, guess, "BFGS", callback=callback)
    assert found.fun == run(obj, guess, "BFGS").fun


@pytest.mark.filterwarnings("ignore::ctrlode_casadi.IntegrationWarning")
@pytest.mark.parametrize("start", [-3.0, 0.5])
@pytest.mark.parametrize(
    "method", ["BFGS", "L-BFGS-B", "TNC", "Newton-CG", "trust-ncg", "trf", "dogbox", "lm", "ipopt"]
)
def test_failures_are_survived(method: str, start: float) -> None:
    """Steps lead beyond p = 1, where there is no solution; the optimum lies at 0.9."""
    obj = blow_up()
    found = run(obj, [start], method)
    assert found.success, found.message
    assert found.x[0] == pytest.approx(0.9, abs=1e-6)
    assert obj.last_failure is not None or start == 0.5 or method == "ipopt"


@pytest.mark.filterwarnings("ignore::ctrlode_casadi.IntegrationWarning")
def test_the_best_point_is_returned_where_a_method_ends_worse() -> None:
    """SLSQP steps to where there is no solution, finds no slope there, and calls it an optimum."""
    found = run(blow_up(), [0.5], "SLSQP")
    assert np.isfinite(found.fun) and found.fun <= min(found.history["fun"])
    assert not found.success and "best point seen" in found.message


@pytest.mark.filterwarnings("ignore::ctrlode_casadi.IntegrationWarning")
@pytest.mark.parametrize("method", ["L-BFGS-B", "trust-ncg", "trf", "lm", "ipopt"])
def test_a_start_without_a_solution(method: str) -> None:
    obj = blow_up()
    found = run(obj, [1.5], method)
    assert (found.success, found.status, found.fun, found.nit) == (False, 97, np.inf, 0)
    assert "not finite at p0: Trajectory 0" in found.message and "multiple-shooting" in found.message
    np.testing.assert_array_equal(found.x, [1.5])


@pytest.mark.parametrize("method", TRANSCRIBED)
def test_transcription_starts_where_there_is_no_solution(method: str) -> None:
    found = run(blow_up(), [1.5], method)
    assert found.success and found.x[0] == pytest.approx(0.9, abs=1e-5)


def test_progress_is_one_line_at_the_end_of_a_short_fit(capsys: pytest.CaptureFixture[str]) -> None:
    obj = falling()
    co.fit(obj, [-1.0], "BFGS")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert 1 <= len(lines) <= 2 and all(line.startswith("fit BFGS: iteration ") for line in lines)
    assert "Optimization terminated successfully." in lines[-1]
    run(obj, [-1.0], "BFGS")
    assert capsys.readouterr() == ("", "")


def test_warnings_about_the_simulation_at_the_solution(recwarn: pytest.WarningsRecorder) -> None:
    """A transcription tells it in its message instead: its parameters may be right and a simulation still fail."""
    warnings.simplefilter("always")
    obj = blow_up()
    found = run(obj, [1.5], "multiple-shooting", bounds=(1.2, 2.0), hessian="limited-memory", maxiter=30)
    assert found.x[0] >= 1.2 and found.fun == np.inf
    assert not found.success or "fails" in found.message
    assert not recwarn
