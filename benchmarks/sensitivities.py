"""Adjoint against forward sensitivities over a grid of problems, and what `sensitivity="auto"` makes of it.

Two families of models: "chain", a nonlinear reaction-diffusion chain of nx states whose np parameters multiply sines
of neighbouring states, and "network", a tanh network with one hidden layer. Each cell is the value and gradient of a
sum of squares over 51 save times (RK4 with one step between them, RK4 with ten: "fine", Tsit5: "adaptive") by both
methods, and the ratio of the time of the method that "auto" chose to the better one. Times are minima over the repeats
of processor time on one thread; the difference is the largest distance of the two gradients, relative to the largest
entry.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import casadi as ca
import numpy as np

import ctrlode_casadi as co
from common import parser, print_machine, print_table, progress, save_json

LIMIT = 1.3
STATES, PARAMETERS, BATCHES = (1, 2, 5, 10, 20), (1, 3, 10, 30, 100, 300), (1, 8, 100)
SOLVERS = ("fixed", "fine", "adaptive")
TS = np.linspace(0.0, 2.0, 51)
#: Largest augmented system nx np that the grid builds; beyond it the adjoint is ahead by an order of magnitude.
LARGEST = 1000


@dataclass(frozen=True)
class Cell:
    family: str
    nx: int
    n_params: int
    batch: int
    solver: str

    def model(self) -> co.ControlledODE:
        return (chain if self.family == "chain" else network)(self.nx, self.n_params)

    def method(self) -> Any:
        if self.solver == "adaptive":
            return co.Tsit5(rtol=1e-5, atol=1e-7)
        return co.RK4(steps_per_interval=10 if self.solver == "fine" else 1)


def chain(nx: int, n_params: int) -> co.ControlledODE:
    """x_i' = x_(i-1) - 2 x_i + x_(i+1) + sum of parameters times sines, dealt out to the states in turn."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        rows = [(x[i - 1] if i else 0) - 2 * x[i] + (x[i + 1] if i + 1 < nx else 0) for i in range(nx)]
        for k in range(n_params):
            i = k % nx
            rows[i] = rows[i] + p[k] * ca.sin(x[(i + k // nx) % nx] + 0.1 * k)
        return rows

    return co.ControlledODE(rhs, nx=nx, params=n_params)


def network(nx: int, n_params: int) -> co.ControlledODE:
    """A tanh network nx - h - nx with about n_params parameters."""
    hidden = max(round((n_params - nx) / (2 * nx + 1)), 1)
    return co.ControlledODE(co.Chain(co.Dense(nx, hidden, "tanh"), co.Dense(hidden, nx)), nx=nx, nu=0)


def grid(quick: bool) -> list[Cell]:
    cells = []
    for family in ("chain", "network"):
        for nx in STATES[1:4:2] if quick else STATES:
            for n_params in PARAMETERS[1:4:2] if quick else PARAMETERS:
                if nx * n_params > LARGEST or (family == "network" and n_params < 3 * nx + 1):
                    continue
                if family == "chain" and n_params > 100:
                    continue
                for batch in BATCHES[:2] if quick else BATCHES:
                    cells += [Cell(family, nx, n_params, batch, solver) for solver in SOLVERS]
    return cells


def fastest(call: Callable[[], Any], repeats: int) -> float:
    """Least processor time of a call; short calls are repeated within a measurement."""
    call()
    start = time.process_time()
    call()
    inner = max(int(2e-3 / max(time.process_time() - start, 1e-6)), 1)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(inner):
            call()
        times.append((time.process_time() - start) / inner)
    return min(times)


def measure(cell: Cell, repeats: int) -> dict[str, Any]:
    model, rng = cell.model(), np.random.default_rng(0)
    p = 0.3 * rng.standard_normal(model.np)
    x0 = rng.standard_normal((cell.batch, cell.nx))
    data = 0.1 * rng.standard_normal((cell.batch, TS.size, cell.nx))
    objectives = {}
    for name in ("adjoint", "forward", "auto"):
        sim = co.Simulator(model, cell.method(), sensitivity=name, threads=1)
        objectives[name] = co.Objective(sim, x0, None, TS, data=data)
    gradients = {name: objectives[name](p)[1] for name in ("adjoint", "forward")}
    chosen = "forward" if isinstance(objectives["auto"].problem.plan, co.Forward) else "adjoint"
    times = {name: fastest(lambda o=objectives[name]: o(p), repeats) for name in ("adjoint", "forward")}
    if max(times.values()) < 2 * min(times.values()):  # close: once more, in turn
        for name in ("forward", "adjoint"):
            times[name] = min(times[name], fastest(lambda o=objectives[name]: o(p), repeats))
    size = max(float(np.abs(gradients["adjoint"]).max()), 1e-300)
    error = float(np.abs(gradients["adjoint"] - gradients["forward"]).max()) / size
    return {
        **asdict(cell), "np": model.np, **times, "auto": chosen, "error": error,
        "ratio": times[chosen] / min(times["adjoint"], times["forward"]),
    }  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--family", choices=("chain", "network"), help="one family only")
    arguments = options.parse_args()
    print_machine()
    print(f"ctrlode_casadi {co.__version__}, casadi {ca.__version__}, one thread, float64\n")
    rows, raw = [], []
    for cell in grid(arguments.quick):
        if arguments.family not in (None, cell.family):
            continue
        progress(str(cell))
        found = measure(cell, arguments.rounds)
        raw.append(found)
        rows.append(
            [
                cell.family, str(cell.nx), str(found["np"]), str(cell.batch), cell.solver,
                f"{1e6 * found['adjoint']:.0f}", f"{1e6 * found['forward']:.0f}", found["auto"],
                f"{found['ratio']:.2f}", f"{found['error']:.0e}",
            ]
        )  # fmt: skip
    head = ("model", "nx", "np", "B", "steps", "adjoint [us]", "forward [us]", "auto", "auto / best", "difference")
    print_table(head, rows)
    worst = max(r["ratio"] for r in raw)
    wins = sum(r["forward"] < r["adjoint"] for r in raw)
    above, apart = sum(r["ratio"] > LIMIT for r in raw), max(r["error"] for r in raw)
    print(f"{len(raw)} cells, forward faster in {wins}; auto over best: largest {worst:.2f}, above {LIMIT}: {above}")
    print(f"largest difference of the gradients {apart:.0e}")
    print(f"raw numbers: {save_json('_'.join(filter(None, ('sensitivities', arguments.family))), raw)}")


if __name__ == "__main__":
    main()
