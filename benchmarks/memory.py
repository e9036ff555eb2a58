"""Memory of one gradient over many trajectories: what it takes beyond the data, by batch size and threads.

The data of B trajectories with 100 knots are the control values (B, 100, 1) and the measurements (B, 100,
2). In a fresh process everything is compiled with a small batch first; then the data are made, and the peak
of the resident memory is compared with the resident memory before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from common import milliseconds, parser, print_machine, print_table
from workers import peak_memory

KNOTS = 100
LIMIT_MB = 200.0


def resident_memory() -> int:
    """Resident memory of this process in bytes (Linux; elsewhere the peak so far)."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))
    except OSError:
        return peak_memory()


def child(batch: int, threads: int) -> dict[str, float]:
    """Measure here: `copies` is memory beyond the data before the gradient, `beyond` at the peak."""
    import ctrlode_casadi as co
    from ctrlode_casadi.cli.origin_problem import make_problem, make_simulator

    problem = make_problem()
    simulator = make_simulator(co.RK4(steps_per_interval=1), threads=threads)
    rng = np.random.default_rng(0)
    x0 = np.zeros(2)

    def objective(trajectories: int) -> co.Objective:
        controls = co.PiecewiseLinear(problem.knots, rng.standard_normal((trajectories, KNOTS, 1)))
        measured = rng.standard_normal((trajectories, KNOTS, 2))
        return co.Objective(simulator, x0, controls, problem.knots, data=measured, loss="mse")

    objective(256)(problem.p)
    before = resident_memory()
    large = objective(batch)
    with_data = resident_memory()
    start = time.perf_counter()
    large(problem.p)
    elapsed = time.perf_counter() - start
    data = 8 * batch * KNOTS * 3
    return {
        "data": data,
        "copies": with_data - before - data,
        "beyond": peak_memory() - before - data,
        "seconds": elapsed,
    }


def measure(batch: int, threads: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(batch), str(threads)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rows(batch: int = 100_000) -> list[list[str]]:
    """Row for the table of benchmarks/origin.py."""
    taken = measure(batch, 2)
    beyond = taken["beyond"] / 1e6
    return [
        [
            f"memory beyond the data, {batch} trajectories x {KNOTS} knots",
            f"<= {LIMIT_MB:g} MB",
            f"{beyond:.0f} MB",
            "met" if beyond <= LIMIT_MB else "MISSED",
            milliseconds(taken["seconds"]),
            f"data {taken['data'] / 1e6:.0f} MB",
            "",
        ]
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--child", nargs=2, type=int, metavar=("BATCH", "THREADS"), help="internal")
    arguments = options.parse_args()
    if arguments.child:
        print(json.dumps(child(*arguments.child)))
        return
    print_machine()
    batches = (1_000, 10_000) if arguments.quick else (1_000, 10_000, 100_000)
    table = []
    for batch in batches:
        for threads in (1, 2):
            taken = measure(batch, threads)
            table.append(
                [
                    str(batch),
                    str(threads),
                    f"{taken['data'] / 1e6:.0f}",
                    f"{taken['copies'] / 1e6:.0f}",
                    f"{taken['beyond'] / 1e6:.0f}",
                    f"{taken['seconds']:.2f}",
                ]
            )
    print_table(("trajectories", "threads", "data [MB]", "copies [MB]", "beyond the data [MB]", "gradient [s]"), table)


if __name__ == "__main__":
    main()
