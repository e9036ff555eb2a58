"""Where events are: conditions that defeat interpolation, several at once, against SciPy; calls that share arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import casadi as ca
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import ctrlode_casadi as co
from integrate.hybrid_models import G, W, ball, bounce, bouncing, clock, starts

TIGHT = co.Tsit5(rtol=1e-11, atol=1e-12)

CONDITIONS: dict[str, Any] = {
    "steep": lambda t, x, p: ca.tanh(1e5 * (x - p)),
    "a step": lambda t, x, p: ca.if_else(x > p, 1.0, -1.0),
    "a kink": lambda t, x, p: ca.fmax(x - p, 100 * (x - p)),
    "flat": lambda t, x, p: (x - p) ** 3,
    "a root": lambda t, x, p: ca.sign(x - p) * ca.sqrt(ca.fabs(x - p)),
    "a pole": lambda t, x, p: (x - p) / (x - p + 1e-3) ** 2,
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_that_no_cubic_follows(name: str) -> None:
    # x = t: the event is at p, wherever Newton's method would go.
    event = co.Event(lambda t, x, u, p: CONDITIONS[name](t, x[0], p[0]), lambda t, x, u, p: x + 2, direction=1)
    for solver in (co.Tsit5(), co.RK4()):
        sol = co.Simulator(clock(), solver, events=event)([0.0], None, [0.501234], [0.0, 0.2, 1.0])
        log = sol.events[0]
        assert log.t[:1] == pytest.approx([0.501234], abs=1e-7 if name == "flat" else 1e-13)
        assert sol.x[0, 2, 0] == pytest.approx(3.0, abs=1e-12)


def pendulum() -> tuple[co.ControlledODE, list[co.Event]]:
    """A pendulum that is hit when it passes its lowest point, and sheds speed where it turns."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0] * ca.sin(x[0]) - 0.1 * x[1]], nx=2, params=2)
    low = co.Event(lambda t, x, u, p: x[0], lambda t, x, u, p: [x[0], p[1] * x[1]], name="low")
    turn = co.Event(lambda t, x, u, p: x[1], lambda t, x, u, p: [0.9 * x[0], x[1]], name="turn")
    return model, [low, turn]


def by_scipy(x0: np.ndarray, p: np.ndarray, end: float) -> tuple[list[float], np.ndarray]:
    """Times of the pendulum's events and its state at the end, phase by phase."""
    t, x, times = 0.0, x0.copy(), []

    def rhs(t: float, x: np.ndarray) -> list[float]:
        return [x[1], -p[0] * np.sin(x[0]) - 0.1 * x[1]]

    skip = -1
    while True:
        conditions = [lambda t, x, k=k: x[k] for k in (0, 1)]
        for k, g in enumerate(conditions):
            g.terminal = k != skip  # type: ignore[attr-defined]
        sol = solve_ivp(rhs, (t, end), x, method="DOP853", rtol=1e-12, atol=1e-13, events=conditions)
        if sol.status == 0:
            return times, sol.y[:, -1]
        k = 1 - skip if skip >= 0 else int(sol.t_events[1].size > 0)
        t, x = float(sol.t[-1]), sol.y[:, -1]
        times.append(t)
        x = np.array([x[0], p[1] * x[1]]) if k == 0 else np.array([0.9 * x[0], x[1]])
        skip = k


@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_alternating_events_of_a_pendulum_equal_scipys(size: int) -> None:
    model, events = pendulum()
    x0, p = np.stack([np.linspace(0.5, 1.2, size), np.zeros(size)], axis=1), np.array([9.0, 1.02])
    x0[:, 1] = 0.3
    sol = co.Simulator(model, TIGHT, events=events)(x0, None, p, [0.0, 1.7, 3.0])
    for b in {0, size - 1}:
        times, end = by_scipy(x0[b], p, 3.0)
        np.testing.assert_allclose(sol.events[b].t, times, rtol=1e-9)
        np.testing.assert_allclose(sol.x[b, 2], end, atol=1e-9)


def test_a_condition_without_compiled_form() -> None:
    table = ca.interpolant("table", "linear", [np.linspace(-1.0, 3.0, 5)], np.linspace(-1.0, 3.0, 5) - 0.5)
    event = co.Event(lambda t, x, u, p: table(x[0]), lambda t, x, u, p: x - 2, direction=1)
    sim = co.Simulator(clock(), events=event)
    x0 = np.array([[0.0], [0.2], [0.9]])
    sol = sim(x0, None, [0.0], [0.0, 1.0])
    assert sim.backend == "compiled"
    np.testing.assert_allclose(sol.x[:, 1, 0], [-1.0, -0.8, 1.9], atol=1e-12)
    np.testing.assert_allclose(np.concatenate([log.t for log in sol.events]), [0.5, 0.3], atol=1e-13)


def test_parameters_that_are_changed_in_place() -> None:
    sim, p = co.Simulator(ball(), TIGHT, events=bounce()), np.array([G, 0.8])
    ts = np.linspace(0.0, 0.9, 4)
    for restitution in (0.8, 0.6, 0.8):
        p[1] = restitution
        want = [bouncing(t, 1.0, 0.0, G, restitution) for t in ts]
        np.testing.assert_allclose(sim([1.0, 0.0], None, p, ts).x[0], want, atol=1e-10)


def test_threads_that_share_a_simulator() -> None:
    sim, ts = co.Simulator(ball(), TIGHT, events=bounce()), np.linspace(0.0, 1.5, 16)
    cases = [(starts(n), np.array([G, e])) for n in (1, W, 3) for e in (0.65, 0.7, 0.8)]

    def work(case: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        x0, p = case
        return sim(x0, None, p, ts).x, sim.vjp(x0, None, p, ts, np.ones((len(x0), 16, 2)))[0]

    alone = [work(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, cases * 3))
    for k, found in enumerate(together):
        np.testing.assert_array_equal(found[0], alone[k % len(cases)][0])
        np.testing.assert_array_equal(found[1], alone[k % len(cases)][1])
