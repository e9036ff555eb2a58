"""Seconds from the end of `import ctrlode_casadi` to the first gradient of the origin problem.

Each figure is taken in a fresh process: with empty caches (the first time ever on a machine), with a
network that was never seen (the time loops are cached, the model is not), and with the same network again.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import parser, print_machine, print_table

LIMITS = {"first ever on the machine": 8.0, "new model": 1.2, "same model again": 0.5}

CHILD = """
import json, sys, time
start = time.perf_counter()
import ctrlode_casadi as co
imported = time.perf_counter()
import numpy as np
from ctrlode_casadi.cli.origin_problem import make_problem, sum_of_squares
width = int(sys.argv[1])
problem = make_problem()
hidden = [co.Dense(n_in, n_out, "selu") for n_in, n_out in ((3, width), (width, 10), (10, 10))]
net = co.Chain(*hidden, co.Dense(10, 2))
simulator = co.Simulator(co.ControlledODE(net, nx=2, nu=1), solver=co.RK4(steps_per_interval=1))
controls = co.PiecewiseLinear(problem.knots, problem.values)
objective = co.Objective(simulator, np.zeros(2), controls, problem.knots, data=None, loss=sum_of_squares)
objective(0.1 * net.init(seed=1))
print(json.dumps({"import": imported - start, "gradient": time.perf_counter() - imported}))
"""


def fresh_process(cache: Path, width: int) -> dict[str, float]:
    """Time one process whose caches lie in `cache`."""
    environment = os.environ | {
        "CTRLODE_CACHE_DIR": str(cache / "ctrlode"),
        "NUMBA_CACHE_DIR": str(cache / "numba"),
    }
    done = subprocess.run([sys.executable, "-c", CHILD, str(width)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(repeats: int = 3) -> dict[str, dict[str, float]]:
    """Medians over `repeats` empty cache folders: seconds of import and of the first gradient by case."""
    taken: dict[str, list[dict[str, float]]] = {case: [] for case in LIMITS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for case, width in zip(LIMITS, (10, 11, 10)):
                taken[case].append(fresh_process(Path(folder), width))
    return {
        case: {key: statistics.median(run[key] for run in runs) for key in ("import", "gradient")}
        for case, runs in taken.items()
    }


def rows(repeats: int = 3) -> list[list[str]]:
    """Rows for the table of benchmarks/origin.py."""
    return [
        [
            f"first gradient after import: {case}",
            f"< {LIMITS[case]:g} s",
            f"{times['gradient']:.2f} s",
            "met" if times["gradient"] < LIMITS[case] else "MISSED",
            "",
            f"import {times['import']:.2f} s",
            "",
        ]
        for case, times in measure(repeats).items()
    ]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    print_machine()
    table = [[row[0], row[1], row[2], row[3], row[5]] for row in rows(1 if arguments.quick else 3)]
    print_table(("case", "limit", "measured", "", "import"), table)


if __name__ == "__main__":
    main()
