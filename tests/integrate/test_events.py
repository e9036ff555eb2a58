"""Simulations with events against closed forms, at the places where events go wrong."""

from __future__ import annotations

import pickle
from typing import Any

import casadi as ca
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import ctrlode_casadi as co
from integrate.hybrid_models import G, W, ball, bounce, bouncing, clock, starts, thermostat, thermostat_times

SOLVERS = [
    co.Tsit5(rtol=1e-9, atol=1e-11),
    co.DOP853(rtol=1e-9, atol=1e-11),
    co.Rodas5P(rtol=1e-8, atol=1e-10),
    co.RK4(),
    co.RK4(dt=0.03),
    co.BS3(steps_per_interval=3),
]
TS = np.linspace(0.0, 1.5, 16)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_a_bouncing_ball(solver: Any) -> None:
    sim = co.Simulator(ball(), solver=solver, events=bounce())
    x0, p = np.array([[1.0, 0.0], [0.5, 2.0]]), np.array([G, 0.8])
    sol = sim(x0, None, p, TS)
    assert sol.success.all()
    for b in range(2):
        want = np.array([bouncing(t, *x0[b], *p) for t in TS])
        np.testing.assert_allclose(sol.x[b], want, atol=1e-9)
        impact, log = np.sqrt(x0[b, 1] ** 2 + 2 * G * x0[b, 0]), sol.events[b]
        flights = 2 * 0.8 ** np.arange(1, len(log)) * impact / G
        times = (x0[b, 1] + impact) / G + np.concatenate([[0.0], np.cumsum(flights)])
        np.testing.assert_allclose(log.t, times, rtol=1e-10)
        np.testing.assert_allclose(log.after[:, 1], -0.8 * log.before[:, 1], rtol=1e-14)
        assert times[-1] <= TS[-1] < times[-1] + 2 * 0.8 ** len(log) * impact / G
    assert [len(log) for log in sol.events] == [2, 2] and sol[1].events[0] is sol.events[1]


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_trajectories_with_different_numbers_of_events(size: int) -> None:
    sim = co.Simulator(ball(), solver=co.Tsit5(rtol=1e-10, atol=1e-12), events=bounce())
    x0, p = starts(size), np.array([G, 0.7])
    sol = sim(x0, None, p, TS)
    want = np.array([[bouncing(t, *row, *p) for t in TS] for row in x0])
    np.testing.assert_allclose(sol.x, want, atol=1e-10)
    if size > 1:
        assert len({len(log) for log in sol.events}) > 2
        alone = sim(x0[-1], None, p, TS)
        np.testing.assert_allclose(sol.x[-1], alone.x[0], atol=1e-11)


def test_a_thermostat_switches_at_the_exact_times() -> None:
    k, q, low, high = 0.7, 3.0, 1.0, 2.0
    model, events = thermostat(low, high)
    sim = co.Simulator(model, solver=co.Tsit5(rtol=1e-11, atol=1e-12), events=events)
    sol = sim([0.0, 1.0], None, [k, q], np.linspace(0.0, 10.0, 41))
    times = thermostat_times(k, q, low, high, 10.0)
    np.testing.assert_allclose(sol.events[0].t, times, rtol=1e-10)
    np.testing.assert_array_equal(sol.events[0].index, np.arange(times.size) % 2)
    assert np.nanmax(sol.x[0, :, 0]) <= high + 1e-9


def test_the_row_of_a_save_time_at_an_event_is_the_state_before_it() -> None:
    # x' = 1, and x falls by 2 when it reaches 0.5, which is a save time; both spacings hit it within rounding.
    sim = co.Simulator(clock(), events=co.Event(lambda t, x, u, p: x[0] - p[0], lambda t, x, u, p: x - 2))
    for ts in ([0.0, 0.25, 0.5, 1.0], [0.0, 0.1, 0.3, 0.5, 0.7]):
        sol = sim([0.0], None, [0.5], ts)
        want = np.array(ts) - 2.0 * (np.array(ts) > 0.5)
        np.testing.assert_allclose(sol.x[0, :, 0], want, atol=1e-13)
        assert sol.events[0].t == pytest.approx([0.5], abs=1e-14)


def test_an_event_at_the_last_save_time_is_listed() -> None:
    sim = co.Simulator(clock(), events=co.Event(lambda t, x, u, p: t - 1.0, lambda t, x, u, p: x + 5))
    sol = sim([0.0], None, [0.0], [0.0, 0.3, 1.0])
    assert sol.x[0, -1, 0] == pytest.approx(1.0) and len(sol.events[0]) == 1
    assert sol.events[0].after[0, 0] == pytest.approx(6.0)


def test_events_at_a_knot_and_by_a_jump_of_the_control() -> None:
    model = co.ControlledODE(lambda t, x, u, p: u, nx=1, nu=1)
    control = co.PiecewiseConstant([0.0, 0.5, 1.0], [1.0, 3.0, 3.0])
    at_knot = co.Event(lambda t, x, u, p: x[0] - 0.5, lambda t, x, u, p: x - 5)
    by_jump = co.Event(lambda t, x, u, p: u[0] - 2.0, lambda t, x, u, p: x - 5)
    for event in (at_knot, by_jump):
        for solver in (co.Tsit5(), co.RK4(), co.RK4(steps_per_interval=100)):
            sol = co.Simulator(model, solver=solver, events=event)([0.0], control, None, [0.0, 0.3, 1.0])
            np.testing.assert_allclose(sol.x[0, :, 0], [0.0, 0.3, -3.0], atol=1e-12)
            assert sol.events[0].t == pytest.approx([0.5], abs=1e-14)


def test_two_events_at_once_happen_in_the_order_of_the_list() -> None:
    double = co.Event(lambda t, x, u, p: t - 0.5, lambda t, x, u, p: 2 * x)
    add = co.Event(lambda t, x, u, p: x[0] - 0.5, lambda t, x, u, p: x + 1)
    for events, end in (([double, add], 2 * 0.5 + 1), ([add, double], 2 * (0.5 + 1))):
        sol = co.Simulator(clock(), events=events)([0.0], None, [0.0], [0.0, 1.0])
        assert sol.x[0, -1, 0] == pytest.approx(end + 0.5, abs=1e-12)
        np.testing.assert_array_equal(sol.events[0].index, [0, 1])


def test_a_condition_that_is_zero_at_the_start_is_no_event() -> None:
    sim = co.Simulator(ball(), events=bounce())
    sol = sim([0.0, 1.0], None, [G, 0.5], [0.0, 0.1, 0.25])
    assert sol.events[0].t == pytest.approx([2.0 / G], rel=1e-12)
    both = co.Event(lambda t, x, u, p: x[0], terminal=True)
    assert co.Simulator(ball(), events=both)([0.0, 1.0], None, [G, 0.5], [0.0, 0.1, 0.25]).events[0].t[0] > 0.2


def test_grazing_contact() -> None:
    # x = (t - 0.5)**2 + shift touches zero at 0.5, which is a sample; there rounding decides, and nothing hangs.
    model = co.ControlledODE(lambda t, x, u, p: 2 * (t - 0.5), nx=1)
    event = co.Event(lambda t, x, u, p: x[0])
    for shift, counts in ((0.0, {0, 1, 2}), (1e-9, {0}), (-1e-3, {2})):
        sim = co.Simulator(model, solver=co.Tsit5(rtol=1e-12, atol=1e-14), events=event)
        sol = sim([0.25 + shift], None, None, [0.0, 1.0])
        assert sol.success.all() and len(sol.events[0]) in counts


def test_directions() -> None:
    model = co.ControlledODE(lambda t, x, u, p: ca.cos(t), nx=1)
    for direction, times in ((1, [2, 4]), (-1, [1, 3]), (0, [1, 2, 3, 4])):
        event = co.Event(lambda t, x, u, p: x[0], direction=direction)
        sol = co.Simulator(model, solver=co.DOP853(rtol=1e-11), events=event)([0.0], None, None, [0.0, 13.0])
        np.testing.assert_allclose(sol.events[0].t, np.pi * np.array(times), rtol=1e-9)


def test_a_terminal_event_ends_with_success_as_in_scipy() -> None:
    sim = co.Simulator(ball(), events=co.Event(lambda t, x, u, p: x[0], direction=-1, terminal=True))
    ts = np.linspace(0.0, 1.0, 11)
    sol = sim([[1.0, 0.0], [9.0, 0.0]], None, [G, 0.0], ts)

    def ground(t: float, x: Any) -> float:
        return float(x[0])

    ground.terminal = True  # type: ignore[attr-defined]
    other = solve_ivp(lambda t, x: [x[1], -G], (0, 1), [1.0, 0.0], t_eval=ts, events=ground, rtol=1e-10, atol=1e-12)
    assert other.success and sol.status == [co.Status.SUCCESS] * 2
    assert sol.events[0].t == pytest.approx(other.t_events[0], rel=1e-8)
    reached = other.t.size
    np.testing.assert_allclose(sol.x[0, :reached], other.y.T, atol=1e-8)
    assert np.isnan(sol.x[0, reached:]).all() and np.isfinite(sol.x[1]).all() and not len(sol.events[1])


@pytest.mark.parametrize("restitution", [0.5, 0.1, 0.01])
def test_a_zeno_ball_ends_with_a_status(restitution: float) -> None:
    fall = np.sqrt(2 / G)
    rest = fall * (1 + restitution) / (1 - restitution)
    ts = np.array([0.0, 0.9 * fall, 0.5 * (fall + rest), 1.1 * rest, 5.0])
    for solver in (co.Tsit5(), co.RK4()):
        sol = co.Simulator(ball(), solver=solver, events=bounce())([1.0, 0.0], None, [G, restitution], ts)
        assert sol.status == [co.Status.TOO_MANY_EVENTS]
        assert sol.events[0].t[-1] == pytest.approx(rest, rel=1e-9)
        assert np.isfinite(sol.x[0, :3]).all() and np.isnan(sol.x[0, 3:]).all()


def test_the_limit_of_events() -> None:
    sol = co.Simulator(ball(), events=bounce(), max_events=3)([1.0, 0.0], None, [G, 0.9], np.linspace(0.0, 5.0, 51))
    assert sol.status == [co.Status.TOO_MANY_EVENTS] and len(sol.events[0]) == 3
    fourth = sol.events[0].t[-1] + 2 * 0.9**3 * np.sqrt(2 / G)
    np.testing.assert_array_equal(np.isfinite(sol.x[0, :, 0]), sol.t < fourth)
    assert "max_events" in sol.status[0].message


def test_the_spacing_of_the_search() -> None:
    pulse = co.Event(lambda t, x, u, p: ca.fabs(t - 0.5012) - 1e-4)
    counts = [
        len(co.Simulator(clock(), solver=s, events=pulse, event_spacing=d)([0.0], None, [0.0], [0.0, 1.0]).events[0])
        for s in (co.Tsit5(), co.RK4())
        for d in (None, 1e-4)
    ]
    assert counts == [0, 2, 0, 2]


def test_without_an_event_the_steps_are_those_of_a_plain_simulator() -> None:
    for solver in (co.Tsit5(), co.RK4(steps_per_interval=3), co.RK4(dt=0.07)):
        never = co.Event(lambda t, x, u, p: x[0] + 100.0)
        plain = co.Simulator(ball(), solver=solver)([1.0, 0.0], None, [G, 0.0], TS)
        sol = co.Simulator(ball(), solver=solver, events=never)([1.0, 0.0], None, [G, 0.0], TS)
        np.testing.assert_allclose(sol.x, plain.x, atol=1e-13)
        assert sol.stats["n_steps"] == plain.stats["n_steps"] and len(sol.events[0]) == 0


def test_lists_float32_the_casadi_path_and_copies() -> None:
    p = np.array([G, 0.8])
    ragged = [np.linspace(0.0, 1.0, 5), np.linspace(0.2, 1.3, 9), np.array([0.0])]
    x0 = np.array([[1.0, 0.0], [0.4, 1.0], [2.0, 0.0]])
    sim = co.Simulator(ball(), events=bounce(), solver=co.RK4(steps_per_interval=4))
    sol = pickle.loads(pickle.dumps(sim))(x0, None, p, ragged)
    for b, ts in enumerate(ragged):
        want = [bouncing(t - ts[0], *x0[b], *p) for t in ts]
        np.testing.assert_allclose(sol[b].x[0], want, atol=1e-11)
    slow = co.Simulator(ball(), events=bounce(), solver=co.RK4(steps_per_interval=4), backend="casadi")
    np.testing.assert_allclose(slow(x0, None, p, ragged).x, sol.x, atol=1e-11)
    single = co.Simulator(ball(), events=bounce(), dtype="float32")
    short = single(x0.astype(np.float32), None, p.astype(np.float32), TS)
    want = np.array([[bouncing(t, *row, *p) for t in TS] for row in x0])
    assert short.x.dtype == np.float32
    np.testing.assert_allclose(short.x, want, atol=2e-4)
    assert co.Simulator(ball(), events=bounce())(np.zeros((0, 2)), None, p, TS).events == []


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "kind": (lambda: co.Simulator(ball(), events=[3.0]), co.ModelError, r"events\[0\]: expected an Event"),
    "no list": (lambda: co.Simulator(ball(), events=3.0), co.ModelError, "events: expected an Event or a list of them"),
    "condition": (lambda: co.Event(3.0), co.ModelError, "condition: expected a callable"),
    "jump": (lambda: co.Event(lambda t, x, u, p: x[0], 1.0), co.ModelError, "jump: expected a callable"),
    "direction": (lambda: co.Event(lambda t, x, u, p: x[0], direction=2), co.ModelError, "direction: expected -1"),
    "terminal": (lambda: co.Event(lambda t, x, u, p: x[0], terminal=1), co.ModelError, "terminal: expected True"),
    "size": (
        lambda: co.Simulator(ball(), events=co.Event(lambda t, x, u, p: x)),
        co.ModelError,
        r"events\[0\].condition: .*one",
    ),
    "jump size": (
        lambda: co.Simulator(ball(), events=co.Event(lambda t, x, u, p: x[0], lambda t, x, u, p: x[0])),
        co.ModelError,
        r"events\[0\].jump: .*nx=2",
    ),
    "limit": (lambda: co.Simulator(ball(), events=bounce(), max_events=0), co.SolverError, "max_events"),
    "spacing": (lambda: co.Simulator(ball(), events=bounce(), event_spacing=-1.0), co.SolverError, "event_spacing"),
    "time limit": (lambda: co.Simulator(ball(), time_limit=0.0), co.SolverError, "time_limit"),
    "expression": (
        lambda: co.Simulator(ball(), solver=co.RK4(), events=bounce()).to_casadi(TS, form="expression"),
        co.UnsupportedOperation,
        "form='callback'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    action, error, message = BAD[name]
    with pytest.raises(error, match=f"(?s){message}"):
        action()
