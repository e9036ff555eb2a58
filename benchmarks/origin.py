"""Value and gradient against the peers, in one run, alternating: `python benchmarks/origin.py --all`.

Without --all only the origin problem itself is measured. Every line is a ratio of medians on this machine.
The last column says how well both sides agree: the relative distance of the gradients where the method is
the same; for adaptive methods (each chooses its own steps) the distance of each from a solution at rtol
1e-10.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import composition
import first_gradient
import memory
from common import milliseconds, parser, print_machine, print_table, progress, save_json
from fma_peak import fma_peak
from workers import Worker, alternate, relative_difference
from workloads import ORIGIN, ORIGIN_TSIT5, Workload, tanh_workload

WIDE = tanh_workload(64, batch=256, steps=100)
WIDER = tanh_workload(128, batch=256, steps=100)
ONE_RECORD = tanh_workload(64, batch=1, steps=1000)
ORIGIN_1000 = ORIGIN.but(batch=1000)
HEADER = (
    "work (value and gradient)",
    "target",
    "measured",
    "",
    "ours [ms]",
    "against [ms]",
    "gradient agrees to",
)


@dataclass(frozen=True)
class Comparison:
    """One row: our workload against others; the ratio is (fastest other x scale) / ours."""

    label: str
    target: float
    ours: Workload
    others: tuple[tuple[str, Workload], ...]
    scale: float = 1.0
    needs_all: bool = True


COMPARISONS = (
    Comparison(
        "origin, RK4 on the knots, float64, 2 threads",
        9.0,
        ORIGIN,
        (("jax scan", ORIGIN), ("torchdiffeq", ORIGIN)),
        needs_all=False,
    ),
    Comparison(
        "origin, Tsit5, rtol 1e-3, atol 1e-6",
        15.0,
        ORIGIN_TSIT5,
        (("diffrax", ORIGIN_TSIT5), ("torchdiffeq", ORIGIN_TSIT5)),
        needs_all=False,
    ),
    Comparison(
        "origin, one trajectory, Tsit5",
        6.0,
        ORIGIN_TSIT5.but(batch=1),
        (("diffrax", ORIGIN_TSIT5.but(batch=1)),),
        needs_all=False,
    ),
    Comparison("64-64 tanh, one trajectory, 1000 RK4 steps", 2.0, ONE_RECORD, (("jax scan", ONE_RECORD),)),
    Comparison("origin, 1000 trajectories", 12.0, ORIGIN_1000, (("jax scan", ORIGIN_1000),)),
    Comparison("time per trajectory at 1000 (against at 100)", 1.0, ORIGIN_1000, (("ours", ORIGIN),), scale=10.0),
    Comparison("64-64 tanh, 256 trajectories, 100 RK4 steps", 4.0, WIDE, (("jax scan", WIDE),)),
    Comparison("128-128 tanh, 256 trajectories, 100 RK4 steps", 3.0, WIDER, (("jax scan", WIDER),)),
    Comparison(
        "float32 against our float64, origin",
        1.6,
        ORIGIN.but(dtype="float32"),
        (("ours", ORIGIN),),
    ),
    Comparison(
        "float32 against our float64, 64-64, 256 trajectories",
        1.6,
        WIDE.but(dtype="float32"),
        (("ours", WIDE),),
    ),
    Comparison(
        "two threads against one, 1000 trajectories",
        1.8,
        ORIGIN_1000,
        (("ours", ORIGIN_1000.but(threads=1)),),
    ),
)


def agreement(ours: Worker, others: list[Worker]) -> str:
    """Relative distance of the gradients, per other side that does the same work."""
    if ours.workload.method == "rk4":
        return ", ".join(
            f"{other.side} {relative_difference(ours.gradient, other.gradient):.0e}"
            for other in others
            if other.gradient.size == ours.gradient.size and other.workload.batch == ours.workload.batch
        )
    with Worker("ours", ours.workload.but(rtol=1e-10, atol=1e-12)) as exact:
        return "from exact: " + ", ".join(
            f"{side.side} {relative_difference(side.gradient, exact.gradient):.0e}" for side in [ours, *others]
        )


def measure(comparison: Comparison, rounds: int) -> tuple[list[str], dict[str, object]]:
    """Run one comparison; returns its table row and its raw numbers."""
    progress(f"measuring: {comparison.label}")
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(side, workload))
            for side, workload in [("ours", comparison.ours), *comparison.others]
        ]
        alternate(workers, rounds)
    ours, *others = workers
    best = min(others, key=lambda other: other.median)
    ratio = best.median * comparison.scale / ours.median
    against = ", ".join(f"{other.side} {milliseconds(other.median)}" for other in others)
    agrees = agreement(ours, others)
    row = [
        comparison.label,
        f">= {comparison.target:g}",
        f"{ratio:.2f}",
        "met" if ratio >= comparison.target else "MISSED",
        milliseconds(ours.median),
        against,
        agrees,
    ]
    raw = {
        "label": comparison.label,
        "target": comparison.target,
        "ratio": ratio,
        "agreement": agrees,
        "sides": [
            {
                "side": worker.side,
                "workload": worker.workload.to_dict(),
                "median": worker.median,
                "minimum": min(worker.times),
                "calls": len(worker.times),
                "first": worker.first,
                "loss": worker.value,
                "versions": worker.versions,
            }
            for worker in workers
        ],
    }
    return row, raw


def share_of_peak(runs: list[dict[str, object]]) -> list[list[str]]:
    """The rows of the FMA peak, from the times already measured for the wide networks."""
    rows = []
    for run in runs:
        ours = run["sides"][0]
        workload = Workload.from_dict(ours["workload"])
        if workload not in (WIDE, WIDER):
            continue
        rate = workload.necessary_operations / ours["median"]
        peak = fma_peak(workload.threads, workload.dtype)
        note = f"{rate / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s"
        target, met = (">= 70 %", "met" if rate >= 0.7 * peak else "MISSED") if workload == WIDE else ("", "")
        label = f"{workload.hidden[0]}-{workload.hidden[1]}, share of the measured FMA peak"
        rows.append([label, target, f"{100 * rate / peak:.0f} %", met, milliseconds(ours["median"]), note, ""])
    return rows


def print_sides(runs: list[dict[str, object]]) -> None:
    """Compile time, medians, minima and losses of every process, and the versions."""
    rows = []
    versions: dict[str, str] = {}
    for run in runs:
        for side in run["sides"]:
            versions.update(side["versions"])
            workload = Workload.from_dict(side["workload"])
            rows.append(
                [
                    run["label"],
                    side["side"],
                    f"{workload.dtype}, {workload.threads}",
                    f"{side['first']:.2f}",
                    milliseconds(side["median"]),
                    milliseconds(side["minimum"]),
                    str(side["calls"]),
                    f"{side['loss']:.7e}",
                ]
            )
    print_table(("work", "side", "type, threads", "first call [s]", "median [ms]", "min [ms]", "calls", "loss"), rows)
    print("versions: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--all", action="store_true", help="every row of the target table")
    arguments = options.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds

    print_machine()
    chosen = [comparison for comparison in COMPARISONS if arguments.all or not comparison.needs_all]
    rows, runs = [], []
    for comparison in chosen:
        row, raw = measure(comparison, rounds)
        rows.append(row)
        runs.append(raw)
    rows += share_of_peak(runs)
    if arguments.all:
        rows += composition.rows(rounds)
        rows += first_gradient.rows(repeats=1 if arguments.quick else 3)
        rows += memory.rows(10_000 if arguments.quick else 100_000)
    print_table(HEADER, rows)
    print_sides(runs)
    progress(f"raw numbers: {save_json('origin', {'table': rows, 'runs': runs})}")


if __name__ == "__main__":
    main()
