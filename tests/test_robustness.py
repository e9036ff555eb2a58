"""Things that go wrong around a computation: blow-ups, threads, Ctrl-C, forks, copies, folders that cannot be used."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.integrate import threads
from ctrlode_casadi.lowering import cache
from ctrlode_casadi.lowering.jit import host

W = host().vector_bytes // 8
TS = np.linspace(0.0, 2.0, 9)
SOLVERS = [co.RK4(steps_per_interval=4), co.Tsit5(rtol=1e-6)]
P = np.array([1.0])


def explosive() -> co.ControlledODE:
    """x' = p x**2 + u: infinite at t = 1 / (p x0) without control."""
    return co.ControlledODE(lambda t, x, u, p: p * x**2 + u, nx=1, nu=1, params=1)


def records(size: int) -> tuple[np.ndarray, co.PiecewiseLinear, np.ndarray]:
    """Initial states, controls and seeds of harmless trajectories."""
    rng = np.random.default_rng(1)
    x0, seeds = -rng.uniform(0.1, 1.0, (size, 1)), rng.standard_normal((size, TS.size, 1))
    return x0, co.PiecewiseLinear(TS, 0.1 * rng.standard_normal((size, TS.size, 1))), seeds


# --- a trajectory that blows up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [0, 2, W, 2 * W])
def test_the_others_do_not_notice_a_blow_up(solver: Any, bad: int) -> None:
    sim = co.Simulator(explosive(), solver=solver)
    x0, controls, seeds = records(2 * W + 1)
    others = np.arange(x0.size) != bad
    x0[bad] = 30.0
    sol = sim(x0, controls, P, TS)
    assert sol.status[bad] != co.Status.SUCCESS and sol.status[bad].message
    assert np.array_equal(sol.success, others)
    assert np.isfinite(sol.x[bad, 0]).all() and np.isnan(sol.x[bad, -1]).all()
    alone = sim(x0[others], controls[others], P, TS)
    assert np.array_equal(sol.x[others], alone.x)
    with pytest.warns(co.IntegrationWarning, match=f"1 of {x0.size} trajectories failed.*trajectory {bad} "):
        p_bar, x0_bar, u_bar = sim.vjp(x0, controls, P, TS, seeds)
    wanted = sim.vjp(x0[others], controls[others], P, TS, seeds[others])
    assert np.array_equal(x0_bar[others], wanted[1]) and np.array_equal(u_bar[others], wanted[2])
    assert not x0_bar[bad].any() and not u_bar[bad].any()
    np.testing.assert_allclose(p_bar, wanted[0], rtol=1e-13)


# --- threads and interrupts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_two_python_threads_use_one_simulator(solver: Any) -> None:
    sim = co.Simulator(explosive(), solver=solver, threads=2)
    x0, controls, seeds = records(40)
    parts = [
        (x0[:n], controls[:n], P * s, TS, seeds[:n]) for n, s in ((40, 1.0), (W - 1, 0.9), (W + 1, 1.1), (40, 0.8))
    ]
    wanted = [(sim(*part[:4]).x, *sim.vjp(*part)) for part in parts]
    wrong: list[int] = []

    def work(shift: int) -> None:
        for k in range(24):
            i = (k + shift) % len(parts)
            found = (sim(*parts[i][:4]).x, *sim.vjp(*parts[i]))
            wrong.extend(i for a, b in zip(found, wanted[i], strict=True) if not np.array_equal(a, b))

    workers = [threading.Thread(target=work, args=(s,)) for s in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
import ctrlode_casadi as co

net = co.Chain(co.Dense(3, 24, "tanh"), co.Dense(24, 2))
model, p, ts = co.ControlledODE(net, nx=2, nu=1), net.init(seed=0), np.linspace(0.0, 10.0, 51)
controls = co.PiecewiseLinear(ts, np.random.default_rng(0).standard_normal((400, 51, 1)))

def gradient(solver):
    sim = co.Simulator(model, solver=solver, threads=int(sys.argv[2]))
    if sys.argv[1] == "vjp":
        return lambda: sim.vjp(np.zeros(2), controls, p, ts, np.ones((400, 51, 2)))[0]
    objective = co.Objective(sim, np.zeros(2), controls, ts, data=np.zeros((400, 51, 2)))
    return lambda: objective(p)[1]

quick, endless = gradient(co.RK4()), gradient(co.RK4(steps_per_interval=5000))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background starts with it ignored
wanted = quick()
sent = [0.0]

def interrupt():
    sent[0] = time.perf_counter()
    os.kill(os.getpid(), signal.SIGINT)

for delay in (0.8, 0.2):
    threading.Timer(delay, interrupt).start()
    try:
        endless()
        print("not interrupted")
    except KeyboardInterrupt:
        print("stopped", time.perf_counter() - sent[0] < 1.0, np.array_equal(quick(), wanted))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to the own process alone")
@pytest.mark.parametrize("kind", ["vjp", "objective"])
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_stops_a_long_gradient(kind: str, threads: int) -> None:
    command = [sys.executable, "-c", INTERRUPTED, kind, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["stopped True True"] * 2, done.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_a_short_call_that_takes_long_is_stopped(count: int) -> None:
    """Short calls use the calling thread; one that turns out long must leave it, so that Ctrl-C is seen."""
    cancel = np.zeros(1, dtype=np.int64)

    def work() -> None:
        deadline = time.monotonic() + 60.0
        while not cancel[0] and time.monotonic() < deadline:
            time.sleep(0.001)

    assert not threads.run_workers(work, count, cancel, 0.0)
    assert cancel[0]


@pytest.mark.parametrize("count", [1, 2])
def test_a_stopped_short_call_starts_again(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt is a long call with the result of an undisturbed one."""
    model = co.ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    x0, seeds, decay = np.ones((W + 1, 1)), np.ones((W + 1, TS.size, 1)), np.array([2.0])
    wanted = co.Simulator(model, threads=count).vjp(x0, None, decay, TS, seeds)
    attempts: list[float | None] = []
    original = threads.run_workers

    def stopped(work: Callable[[], None], count: int, cancel: Any, seconds: float | None) -> bool:
        attempts.append(seconds)
        if len(attempts) == 1:
            cancel[0] = 1  # what the watcher does when the call takes long
            return original(work, count, cancel, 0.0)
        return original(work, count, cancel, seconds)

    monkeypatch.setattr(threads, "run_workers", stopped)
    found = co.Simulator(model, threads=count).vjp(x0, None, decay, TS, seeds)
    assert len(attempts) == 2 and attempts[1] is None
    assert all(np.array_equal(a, b) for a, b in zip(found[:2], wanted[:2], strict=True))


def test_a_gradient_that_is_not_finite_is_not_silent() -> None:
    sim = co.Simulator(co.ControlledODE(lambda t, x, u, p: -p * ca.sqrt(x), nx=1, params=1), solver=co.RK4())
    assert sim(0.0, None, P, TS).success.all()
    with pytest.warns(co.IntegrationWarning, match="gradient is not finite"):
        sim.vjp(0.0, None, P, TS, np.ones((TS.size, 1)))


# --- processes and copies --------------------------------------------------------------------------------------------


def gradient_in_a_child(sim: co.Simulator) -> Any:
    x0, controls, seeds = records(3 * W)
    return sim.vjp(x0, controls, P, TS, seeds)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_children_of_a_process_that_used_its_threads(method: str) -> None:
    sim = co.Simulator(explosive(), solver=co.RK4(), threads=2)
    wanted = gradient_in_a_child(sim)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for found in pool.map_async(gradient_in_a_child, [sim, sim, sim]).get(timeout=60):
            assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies_compute_the_same(copied: Callable[[Any], Any]) -> None:
    x0, controls, _ = records(3)
    sim = co.Simulator(explosive(), solver=co.Tsit5(rtol=1e-4), sensitivity=co.Adjoint(checkpoints=3), threads=1)
    sol = sim(x0, controls, P, TS)
    again = copied(sol)
    for name in ("t", "x", "y", "u", "success"):
        assert np.array_equal(getattr(again, name), getattr(sol, name))
    assert again.status == sol.status
    other = copied(sim)
    assert (other.solver, other.sensitivity, other.threads) == (sim.solver, sim.sensitivity, 1)
    assert np.array_equal(other(x0, copied(controls), P, TS).x, sol.x)
    model = copied(sim.model)
    assert np.array_equal(co.Simulator(model, solver=sim.solver)(x0, controls, P, TS).x, sol.x)
    compiled = co.compile(sim.model.rhs)
    x = np.linspace(-1.0, 1.0, 5)[:, None]
    assert np.array_equal(copied(compiled)(0.0, x, 0.5, P), compiled(0.0, x, 0.5, P))


# --- folders ---------------------------------------------------------------------------------------------------------

SMALL_JOB = """
import sys
if sys.argv[1:] == ["no-home"]:
    import pwd
    def unknown(uid):
        raise KeyError(uid)
    pwd.getpwuid = unknown
import numpy as np
import ctrlode_casadi as co
from ctrlode_casadi.controls import kernels
from ctrlode_casadi.lowering.cache import cache_directory, clear_cache
model = co.ControlledODE(lambda t, x, u, p: u - p * x, nx=1, nu=1, params=1)
sol = co.Simulator(model, solver=co.RK4())(np.ones(1), co.Constant([[0.0]]), [1.0], [0.0, 1.0])
print(sol.success.all(), clear_cache())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="home folders are found in another way")
def test_a_user_without_a_home() -> None:
    hidden = ("HOME", "XDG_CACHE_HOME", "CTRLODE_CACHE_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", SMALL_JOB, "no-home"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_numba_without_a_folder_for_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    from ctrlode_casadi.controls import kernels

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert kernels._jit(lambda x: x + 1.0)(2.0) == 3.0


def test_sizes_in_the_cache_are_covered_by_the_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTRLODE_CACHE_DIR", str(tmp_path))
    cache.store("key", {"n_tape": 13}, b"code")
    assert cache.load("key") == ({"n_tape": 13}, b"code")
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes().replace(b'"n_tape": 13', b'"n_tape": 12'))
    assert cache.load("key") is None


# --- sizes at the edge -----------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "constant": (lambda t, x, u, p: [1.0, 2.0], 0, 0),
    "zero": (lambda t, x, u, p: ca.MX(2, 1), 1, 2),
    "time only": (lambda t, x, u, p: [t, t**2], 0, 0),
    "no state": (lambda t, x, u, p: [u[0], t * p[0]], 1, 1),
    "no parameters": (lambda t, x, u, p: [-x[0], x[0] * u[0]], 1, 0),
    "unused parameters": (lambda t, x, u, p: -x, 1, 3),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_lack_a_dependence(name: str, solver: Any, rng: np.random.Generator) -> None:
    rhs, nu, n_params = FIELDS[name]
    sim = co.Simulator(co.ControlledODE(rhs, nx=2, nu=nu, params=n_params), solver=solver)
    controls = co.PiecewiseLinear(TS, rng.standard_normal(TS.size)) if nu else None
    for size in (1, W - 1, W, W + 1):
        x0, p, seeds = rng.standard_normal((size, 2)), np.full(n_params, 0.7), rng.standard_normal((size, TS.size, 2))
        dx0, dp = rng.standard_normal((size, 2)), rng.standard_normal(n_params)
        p_bar, x0_bar, _ = sim.vjp(x0, controls, p, TS, seeds)
        moved = np.sum(seeds * sim.jvp(x0, controls, p, TS, dp=dp, dx0=dx0))
        assert p_bar @ dp + np.sum(x0_bar * dx0) == pytest.approx(moved, rel=1e-11)
    ends = sim(np.ones(2), controls, p, TS).x[0, -1]
    if name == "constant":
        np.testing.assert_allclose(ends, [3.0, 5.0], rtol=1e-12)
    elif name == "time only":
        np.testing.assert_allclose(ends, [3.0, 1.0 + 8.0 / 3.0], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_save_times_one_bit_apart(solver: Any) -> None:
    near = np.nextafter(TS[4], 3.0)
    ts = np.array([0.0, np.nextafter(TS[4], 0.0), TS[4], near, np.nextafter(near, 3.0), 2.0])
    x0, controls, seeds = records(3)
    sim = co.Simulator(explosive(), solver=solver)
    sol = sim(x0, controls, P, ts)
    assert sol.success.all()
    np.testing.assert_allclose(sol.x[:, 1:5], sol.x[:, 2:3].repeat(4, axis=1), rtol=1e-6)
    assert np.isfinite(sim.vjp(x0, controls, P, ts, seeds[:, : ts.size])[0]).all()


def test_a_hundred_states_without_a_network(rng: np.random.Generator) -> None:
    from scipy.linalg import expm

    n = 100
    a = rng.standard_normal((n, n)) / 10 - np.eye(n)
    model = co.ControlledODE(lambda t, x, u, p: ca.mtimes(ca.DM(a), x) + p * x, nx=n, params=n)
    x0 = rng.standard_normal((W + 1, n))
    sol = co.Simulator(model, solver=co.RK4(dt=0.02))(x0, None, np.zeros(n), [0.0, 1.0])
    np.testing.assert_allclose(sol.x[:, 1], x0 @ expm(a).T, atol=1e-5)


def test_a_record_of_a_hundred_thousand_samples(rng: np.random.Generator) -> None:
    ts = np.linspace(0.0, 100.0, 100_001)
    controls = co.PiecewiseConstant(ts, rng.standard_normal(ts.size))
    model = co.ControlledODE(lambda t, x, u, p: p * x + u, nx=1, nu=1, params=1)
    obj = co.Objective(co.Simulator(model, solver=co.RK4()), 0.0, controls, ts, data=np.zeros((1, ts.size)))
    _, gradient = obj(-P)
    assert gradient[0] == pytest.approx(obj.derivative_along(-P, P), rel=1e-10)
