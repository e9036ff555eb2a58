"""The adjoint with k checkpoints over many steps: memory against the formula, recomputation against theory.

A damped pendulum with forcing, two states, one trajectory, RK4 with fixed steps, all steps between two save times. Each
row runs in a process of its own; the peak of its resident memory is compared with that after a short run. The formula
is that of docs/sensitivities.md: 40 bytes per step for times and sizes, and (k + 2) states of a block; without
checkpoints one state per step and the tapes. Binomial theory (Griewank & Walther, ACM TOMS 26, 2000): with k states the
least number of steps replayed to reverse N steps is N r - C(k + r, r - 1), where r is the smallest number with
C(k + r, r) >= N.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import casadi as ca
import numpy as np

import ctrlode_casadi as co
from common import parser, print_machine, print_table, progress
from memory import resident_memory
from workers import peak_memory

STEPS = 1_000_000


def pendulum() -> co.ControlledODE:
    def rhs(t, x, u, p):
        return [x[1], -p[0] * ca.sin(x[0]) - p[1] * x[1] + p[2] * ca.cos(t)]

    return co.ControlledODE(rhs, nx=2, params=3)


def least_replays(steps: int, k: int) -> int:
    """Steps that any schedule with k stored states, the initial one included, must replay."""
    repeats = 1
    while math.comb(k + repeats, repeats) < steps:
        repeats += 1
    return steps * repeats - math.comb(k + repeats, repeats - 1)


def child(steps: int, checkpoints: int) -> dict[str, float]:
    """One gradient here; 0 checkpoints stand for none."""
    how = co.Adjoint(checkpoints or None)
    ts, p, seeds = np.array([0.0, 20.0]), np.array([2.0, 0.1, 0.5]), np.array([[0.0, 0.0], [1.0, 0.5]])

    def run(count: int) -> tuple[co.Simulator, np.ndarray]:
        sim = co.Simulator(pendulum(), co.RK4(steps_per_interval=count), sensitivity=how, threads=1)
        return sim, sim.vjp(np.array([1.0, 0.0]), None, p, ts, seeds)[0]

    run(100)
    before = resident_memory()
    start = time.perf_counter()
    sim, gradient = run(steps)
    seconds = time.perf_counter() - start
    work = sim.last_work
    return {
        "seconds": seconds,
        "peak": peak_memory() - before,
        "formula": 40 * steps + (work.state_bytes if checkpoints else 64 * (steps + 1)) + work.other_bytes,
        "states": work.state_bytes,
        "replayed": work.replayed,
        "gradient": gradient.tolist(),
    }


def measure(steps: int, checkpoints: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(steps), str(checkpoints)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--child", nargs=2, type=int, metavar=("STEPS", "CHECKPOINTS"), help="internal")
    arguments = options.parse_args()
    if arguments.child:
        print(json.dumps(child(*arguments.child)))
        return
    print_machine()
    print(f"ctrlode_casadi {co.__version__}, casadi {ca.__version__}, one thread, float64\n")
    steps = 20_000 if arguments.quick else STEPS
    table, reference = [], None
    for k in (0, 10, 30, 100, 1000):
        progress(f"{steps} steps, {k} checkpoints")
        taken = measure(steps, k)
        gradient = np.array(taken["gradient"])
        reference = gradient if reference is None else reference
        least = least_replays(steps, k) if k else 0
        table.append(
            [
                str(steps), str(k) if k else "all", f"{taken['peak'] / 1e6:.1f}", f"{taken['formula'] / 1e6:.1f}",
                f"{taken['states'] / 1e3:.1f}", f"{taken['replayed'] / steps:.3f}", f"{least / steps:.3f}",
                f"{taken['seconds']:.2f}", f"{np.abs(gradient / reference - 1).max():.0e}",
            ]
        )  # fmt: skip
    head = (
        "steps", "checkpoints", "peak memory [MB]", "formula [MB]", "of it states [kB]", "replayed / step",
        "least possible", "gradient [s]", "difference",
    )  # fmt: skip
    print_table(head, table)


if __name__ == "__main__":
    main()
