"""Gradient checks where events appear, disappear, change their order or pass a save time near the point."""

from __future__ import annotations

import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.base.arrays import Float64Array
from ctrlode_casadi.fitting.check.report import check_target
from ctrlode_casadi.fitting.check.targets import SimulatorTarget

TIGHT = co.Tsit5(rtol=1e-10, atol=1e-12)


def ball() -> co.Simulator:
    """A bouncing ball; p is gravity and restitution."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0]], nx=2, params=2)
    bounce = co.Event(lambda t, x, u, p: x[0], lambda t, x, u, p: [x[0], -p[1] * x[1]], direction=-1, name="bounce")
    return co.Simulator(model, solver=TIGHT, events=bounce)


def two_jumps() -> co.Simulator:
    """x' = 1; x doubles at t = p0 and grows by one at t = p1."""
    model = co.ControlledODE(lambda t, x, u, p: 1.0 + 0 * x, nx=1, params=2)
    double = co.Event(lambda t, x, u, p: t - p[0], lambda t, x, u, p: 2 * x, name="double")
    add = co.Event(lambda t, x, u, p: t - p[1], lambda t, x, u, p: x + 1, name="add")
    return co.Simulator(model, solver=co.RK4(steps_per_interval=50), events=[double, add])


def test_an_event_that_disappears_is_named() -> None:
    # The second impact is at 3 sqrt(2 h / g) for a restitution of one: 0.1 % before the last save time.
    g, h = 9.81, 1.0
    last = 1.001 * 3 * np.sqrt(2 * h / g)
    report = co.check_gradient(ball(), [h, 0.0], None, [g, 1.0], [0.0, last])
    assert report.agrees, report
    assert "'bounce' disappears from trajectory 0 at t = 1.35" in str(report)
    assert "(1 events instead of 2)" in str(report) and "scale" not in str(report)
    assert report.difference_error < 1e-4


def test_an_event_that_appears_is_named() -> None:
    last = 0.999 * 3 * np.sqrt(2 / 9.81)
    report = co.check_gradient(ball(), [1.0, 0.0], None, [9.81, 1.0], [0.0, last])
    assert report.agrees and "'bounce' appears in trajectory 0" in str(report), report


def test_an_event_that_passes_a_save_time_is_named() -> None:
    report = co.check_gradient(ball(), [1.0, 0.0], None, [9.81, 0.7], [0.0, 1.001 * np.sqrt(2 / 9.81), 0.8])
    assert report.agrees and "'bounce' of trajectory 0 passes the save time t = 0.451" in str(report), report


def test_events_that_change_their_order_are_named() -> None:
    # x(1) = 2 (x0 + p0) + 1 + (1 - p0) in this order, 2 (x0 + p1 + 1 + p0 - p1) + (1 - p0) in the other one.
    report = co.check_gradient(two_jumps(), [0.3], None, [0.5, 0.503], [0.0, 1.0], directions=4)
    assert report.agrees and "the order of events changes in trajectory 0 at t = 0.5" in str(report), report
    assert report.difference_error < 1e-8


def test_a_point_at_which_events_change_is_named() -> None:
    report = co.check_gradient(two_jumps(), [0.3], None, [0.5, 0.5], [0.0, 1.0], coordinates=0)
    assert not report.agrees
    assert all(check.reason.startswith("p lies where events change: ") for check in report.checks), report


def test_an_objective_says_the_same() -> None:
    sim = ball()
    x0 = np.array([[1.0, 0.0], [0.98, 0.0]])
    ts = np.array([0.0, 0.2, 1.001 * 3 * np.sqrt(2 / 9.81)])
    obj = co.Objective(sim, x0, None, ts, data=np.zeros((2, 3, 2)))
    report = obj.check_gradient([9.81, 1.0])
    assert report.agrees and "'bounce' disappears from trajectory 0" in str(report), report


@pytest.mark.parametrize("last", [0.9, 1.001 * 3 * np.sqrt(2 / 9.81)])
def test_a_wrong_gradient_is_not_explained_by_events(last: float) -> None:
    class Wrong(SimulatorTarget):
        def pair(self, z: Float64Array) -> tuple[float, Float64Array]:
            value, gradient = super().pair(z)
            return value, gradient * 1.01

        def along(self, z: Float64Array, v: Float64Array) -> float:
            return 1.01 * super().along(z, v)

    target = Wrong(ball(), [1.0, 0.0], None, [9.81, 1.0], [0.0, last], 0)
    report = check_target(target, target.start, 3, 0, 0)
    assert not any(check.agrees for check in report.checks), report


def test_the_number_of_simulations_is_small() -> None:
    calls = 0

    class Counted(SimulatorTarget):
        def value(self, z: Float64Array) -> float:
            nonlocal calls
            calls += 1
            return super().value(z)

    target = Counted(ball(), [1.0, 0.0], None, [9.81, 0.7], [0.0, 0.3, 1.4], 0)
    report = check_target(target, target.start, 3, 0, 0)
    assert report.agrees and calls <= 3 * 12, calls
