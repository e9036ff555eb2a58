"""Stiff batches: value and gradient for 1,000 random parameter sets, ours beside diffrax and a loop over cvodes.

Robertson to t = 1e4 and HIRES to t = 321.8122. The rate constants are drawn log-uniformly around the published ones
and differ from trajectory to trajectory; the gradient is that of a weighted sum of the final states with respect to
every trajectory's own constants. Sides take turns in processes of their own. Ours is called twice per turn, once for
the states and once for the gradient, because `Simulator.vjp` returns no states. Errors are relative to a run of ours at
rtol 1e-11, itself compared with cvodes at rtol 1e-7, below which the adjoint of cvodes gives up on HIRES.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common import milliseconds, parser, print_machine, print_table, progress, save_json
from workers import metadata_version

Rhs = Callable[[Any, Any], list[Any]]


def robertson(x: Any, k: Any) -> list[Any]:
    """Robertson (1966), in the form of Hairer & Wanner II, IV.1."""
    a, b, c = k[0] * x[0], k[1] * x[1] * x[2], k[2] * x[1] ** 2
    return [-a + b, a - b - c, c]


def hires(x: Any, k: Any) -> list[Any]:
    """HIRES, Schaefer (1975); the test set for IVP solvers (Mazzia & Magherini), problem II.1."""
    r = k[9] * x[5] * x[7]
    return [
        -k[0] * x[0] + k[1] * x[1] + k[2] * x[2] + k[3],
        k[0] * x[0] - k[4] * x[1],
        -k[5] * x[2] + k[1] * x[3] + k[6] * x[4],
        k[2] * x[1] + k[0] * x[2] - k[7] * x[3],
        -k[8] * x[4] + k[1] * x[5] + k[1] * x[6],
        -r + k[10] * x[3] + k[0] * x[4] - k[1] * x[5] + k[10] * x[6],
        r - k[11] * x[6],
        -r + k[11] * x[6],
    ]


@dataclass(frozen=True)
class Problem:
    """A stiff system with rate constants k, its initial state, end time and weights of the final states."""

    rhs: Rhs
    x0: tuple[float, ...]
    k: tuple[float, ...]
    end: float
    weights: tuple[float, ...]
    spread: float

    def constants(self, batch: int) -> np.ndarray:
        """Random rate constants (B, nk)."""
        draws = np.random.default_rng(7).uniform(-1.0, 1.0, (batch, len(self.k)))
        return np.array(self.k) * self.spread**draws


PROBLEMS = {
    "robertson": Problem(robertson, (1.0, 0.0, 0.0), (0.04, 1e4, 3e7), 1e4, (1.0, 1e4, 0.5), 2.0),
    "hires": Problem(
        hires,
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        (1.71, 0.43, 8.32, 0.0007, 8.75, 10.03, 0.035, 1.12, 1.745, 280.0, 0.69, 1.81),
        321.8122,
        (1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        1.1,
    ),
}


class Ours:
    """Rodas5P in lanes; the constants are a control that does not change."""

    packages = ("ctrlode_casadi", "casadi", "llvmlite")

    def __init__(self, problem: Problem, batch: int, rtol: float, threads: int) -> None:
        import casadi as ca

        import ctrlode_casadi as co

        nx, nk = len(problem.x0), len(problem.k)
        model = co.ControlledODE(lambda t, x, u, p: ca.vertcat(*problem.rhs(x, u)), nx=nx, nu=nk)
        self.sim = co.Simulator(model, solver=co.Rodas5P(rtol=rtol, atol=1e-4 * rtol), threads=threads)
        self.controls = co.Constant(problem.constants(batch))
        self.x0, self.ts = np.array(problem.x0), np.array([0.0, problem.end])
        self.seeds = np.zeros((batch, 2, nx))
        self.seeds[:, 1] = problem.weights

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        states = self.sim(self.x0, self.controls, None, self.ts).x[:, 1]
        bars = self.sim.vjp(self.x0, self.controls, None, self.ts, self.seeds)[2]
        return states, bars[:, 0]

    def note(self) -> str:
        stats = self.sim(self.x0, self.controls, None, self.ts).stats
        return f"{stats['n_steps'].min()} to {stats['n_steps'].max()} steps"


class Diffrax:
    """Kvaerno5 under vmap and jit, gradient through RecursiveCheckpointAdjoint."""

    packages = ("diffrax", "jax")

    def __init__(self, problem: Problem, batch: int, rtol: float, threads: int) -> None:
        import diffrax
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        x0, weights = jnp.array(problem.x0), jnp.array(problem.weights)
        term = diffrax.ODETerm(lambda t, x, k: jnp.stack(problem.rhs(x, k)))

        def value(k: Any) -> tuple[Any, tuple[Any, Any]]:
            found = diffrax.diffeqsolve(
                term,
                diffrax.Kvaerno5(),
                0.0,
                problem.end,
                None,
                x0,
                k,
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-4 * rtol),
                max_steps=4096,
            )
            return jnp.dot(weights, found.ys[-1]), (found.ys[-1], found.stats["num_steps"])

        self._call = jax.jit(jax.vmap(jax.value_and_grad(value, has_aux=True)))
        self._k = jnp.array(problem.constants(batch))
        self._steps = np.zeros(1)

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        (_, (states, steps)), gradient = self._call(self._k)
        self._steps = np.asarray(steps)
        return np.asarray(states), np.asarray(gradient)

    def note(self) -> str:
        return f"{self._steps.min()} to {self._steps.max()} steps"


class CvodesLoop:
    """One cvodes object of CasADi, one trajectory after the other, gradient by its adjoint."""

    packages = ("casadi",)

    def __init__(self, problem: Problem, batch: int, rtol: float, threads: int) -> None:
        import casadi as ca

        nx, nk = len(problem.x0), len(problem.k)
        x, k = ca.SX.sym("x", nx), ca.SX.sym("k", nk)
        options = {
            "reltol": rtol, "abstol": 1e-4 * rtol, "max_num_steps": 10_000, "quad_err_con": True,
            "print_stats": False,
        }  # fmt: skip
        dae = {"x": x, "p": k, "ode": ca.vertcat(*problem.rhs(x, k))}
        solve = ca.integrator("solve", "cvodes", dae, 0.0, problem.end, options)
        start, constants = ca.MX.sym("x0", nx), ca.MX.sym("k", nk)
        final = solve(x0=start, p=constants)["xf"]
        slope = ca.gradient(ca.dot(ca.DM(problem.weights), final), constants)
        self._call = ca.Function("value_and_gradient", [start, constants], [final, slope])
        self._x0, self._k = ca.DM(problem.x0), problem.constants(batch)
        self._failed = 0

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        states = np.full((len(self._k), self._x0.numel()), np.nan)
        gradient = np.full(self._k.shape, np.nan)
        self._failed = 0
        for b, k in enumerate(self._k):
            try:
                final, slope = self._call(self._x0, k)
            except RuntimeError:  # the adjoint sometimes needs more steps than any limit allows
                self._failed += 1
                continue
            states[b], gradient[b] = np.array(final)[:, 0], np.array(slope)[:, 0]
        return states, gradient

    def note(self) -> str:
        return f"one trajectory at a time, {self._failed} failed"


SIDES = {"ours": Ours, "diffrax": Diffrax, "cvodes": CvodesLoop}


@dataclass
class Worker:
    """One side in a process of its own; a context manager."""

    side: str
    arguments: Sequence[str]
    times: list[float] = field(default_factory=list)

    def __enter__(self) -> Worker:
        command = [sys.executable, str(Path(__file__)), "--serve", self.side, *self.arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = self._read()
        self.first, self.note, self.versions = first["first"], first["note"], first["versions"]
        self.states, self.gradient = np.array(first["states"]), np.array(first["gradient"])
        return self

    def __exit__(self, *details: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=120)

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of side {self.side!r} ended early; see its messages above")
        return json.loads(line)

    def turn(self) -> None:
        """One timed call."""
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        self.times.append(self._read()["seconds"])


def serve(side: str, name: str, batch: int, rtol: float, threads: int) -> None:
    """The worker process: the first result, then one timed call per line read."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    if side == "cvodes":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # CasADi prints a page for each failure
    os.dup2(2, 1)  # what a library prints must not get into the answers
    made = SIDES[side](PROBLEMS[name], batch, rtol, threads)
    start = time.perf_counter()
    states, gradient = made.run()
    first = time.perf_counter() - start
    versions = {package: metadata_version(package) for package in made.packages}
    answer = {"first": first, "note": made.note(), "versions": versions}
    answer |= {"states": states.tolist(), "gradient": gradient.tolist()}
    channel.write(json.dumps(answer) + "\n")
    for _ in sys.stdin:
        start = time.perf_counter()
        made.run()
        channel.write(json.dumps({"seconds": time.perf_counter() - start}) + "\n")


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest deviation over finite trajectories and components, relative to each component's largest entry."""
    return float(np.nanmax(np.abs(found - exact) / np.nanmax(np.abs(exact), axis=0)))


def compare(name: str, batch: int, rtol: float, threads: int, rounds: int) -> list[list[str]]:
    """Rows of the table for one problem."""
    exact = Ours(PROBLEMS[name], batch, 1e-11, threads).run()
    few = min(batch, 20)
    check = CvodesLoop(PROBLEMS[name], few, 1e-7, 1).run()
    own = [error(np.asarray(a)[:few], b) for a, b in zip(exact, check)]
    print(f"{name}: reference against cvodes at rtol 1e-7: states {own[0]:.1e}, gradient {own[1]:.1e}")
    sides = [side for side in SIDES if side != "diffrax" or importlib.util.find_spec("diffrax")]
    workers: list[Worker] = []
    for side in sides:
        progress(f"{name}: {side}")
        workers.append(Worker(side, [name, str(batch), str(rtol), str(threads)]).__enter__())
    for _ in range(rounds):
        for worker in workers:
            worker.turn()
    for worker in workers:
        worker.__exit__()
    base = statistics.median(workers[0].times)
    rows = []
    for worker in workers:
        median = statistics.median(worker.times)
        rows.append(
            [
                name, worker.side, milliseconds(median), f"{median / base:.1f}", f"{worker.first:.1f}",
                f"{error(worker.states, exact[0]):.1e}", f"{error(worker.gradient, exact[1]):.1e}", worker.note,
                ", ".join(f"{k} {v}" for k, v in worker.versions.items()),
            ]
        )  # fmt: skip
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=1000, help="parameter sets")
    options.add_argument("--rtol", type=float, default=1e-6, help="relative tolerance; atol is 1e-4 of it")
    options.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of ours")
    given = options.parse_args()
    print_machine()
    print(f"{given.batch} parameter sets, rtol {given.rtol:g}, atol {1e-4 * given.rtol:g}, {given.threads} threads\n")
    rounds = 2 if given.quick else given.rounds
    rows = [row for name in PROBLEMS for row in compare(name, given.batch, given.rtol, given.threads, rounds)]
    header = ["problem", "side", "ms", "ratio", "first s", "error x", "error gradient", "steps", "versions"]
    print_table(header, rows)
    save_json("stiff", {"header": header, "rows": rows})


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
