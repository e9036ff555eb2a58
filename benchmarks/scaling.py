"""How our value and gradient scale: batch, width, steps, threads, precision: `python benchmarks/scaling.py`.

Each line is a process of its own. GFLOP/s counts necessary operations only (3 x 2 x multiply-adds of every
right-hand side evaluation), so whatever is computed twice or in padded lanes counts as time, not as work.
`peak` is the share of the machine's measured FMA peak for that many threads. Memory is the peak of the
whole process.
"""

from __future__ import annotations

from common import milliseconds, parser, print_machine, print_table, progress, save_json
from fma_peak import fma_peak
from workers import Worker, alternate
from workloads import ORIGIN, Workload, tanh_workload

HEADER = (
    "work",
    "type",
    "threads",
    "trajectories",
    "steps",
    "median [ms]",
    "us per trajectory",
    "GFLOP/s",
    "peak",
    "memory [MB]",
)


def sweeps(quick: bool) -> dict[str, list[Workload]]:
    """The workloads of every table."""
    batches = (1, 10, 100, 1000) if quick else (1, 2, 4, 8, 16, 32, 100, 316, 1000, 3162, 10_000)
    widths = (10, 32, 64) if quick else (10, 16, 32, 64, 100, 128, 256)
    steps = (10, 100) if quick else (10, 30, 100, 300, 1000)
    wide = tanh_workload(64, 256, 100)
    return {
        "batch, origin": [ORIGIN.but(batch=batch) for batch in batches],
        "batch, 64-64": [tanh_workload(64, batch, 100) for batch in batches if batch <= 1000],
        "width": [tanh_workload(width, 256, 100) for width in widths],
        "width, one trajectory": [tanh_workload(width, 1, 1000) for width in widths],
        "steps": [tanh_workload(64, 64, count) for count in steps],
        "threads and precision": [
            work.but(threads=threads, dtype=dtype)
            for work in (ORIGIN.but(batch=1000), wide)
            for dtype in ("float64", "float32")
            for threads in (1, 2)
        ],
    }


def measure(workload: Workload, side: str, rounds: int) -> dict[str, float]:
    with Worker(side, workload) as worker:
        alternate([worker], rounds)
        memory = worker.ask(1)["peak_memory"]
    rate = workload.necessary_operations / worker.median
    return {
        "median": worker.median,
        "rate": rate,
        "share": rate / fma_peak(workload.threads, workload.dtype),
        "memory": memory,
    }


def row(workload: Workload, taken: dict[str, float]) -> list[str]:
    return [
        "-".join(map(str, workload.sizes)) + " " + workload.activation,
        workload.dtype,
        str(workload.threads),
        str(workload.batch),
        str(workload.steps),
        milliseconds(taken["median"]),
        f"{1e6 * taken['median'] / workload.batch:.1f}",
        f"{taken['rate'] / 1e9:.1f}",
        f"{100 * taken['share']:.0f} %",
        f"{taken['memory'] / 1e6:.0f}",
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--side", default="ours", choices=["ours", "jax scan"], help="who is measured")
    options.add_argument("--only", default="", help="sweeps whose name contains this text")
    arguments = options.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds

    print_machine()
    raw = []
    for name, workloads in sweeps(arguments.quick).items():
        if arguments.only not in name:
            continue
        rows = []
        for workload in workloads:
            progress(f"{name}: {workload}")
            taken = measure(workload, arguments.side, rounds)
            rows.append(row(workload, taken))
            raw.append({"sweep": name, "workload": workload.to_dict(), **taken})
        print(f"{name}, {arguments.side}\n")
        print_table(HEADER, rows)
    progress(f"raw numbers: {save_json('scaling-' + arguments.side.replace(' ', '-'), raw)}")


if __name__ == "__main__":
    main()
