"""Optimal control of reference cases: published cost, ours, iterations and seconds, as a table.

    python benchmarks/optimal_control.py --cases DIR [--intervals 100] [--degree 4] [--held] [--only NAME ...]

DIR holds a ``cases.py`` with the list OCP_CASES: functions that return a formulation with its published reference, a
guess and a tolerance. Every case is solved by collocation from its own guess with the same settings. With --held the
optima for controls held constant on N intervals are solved by multiple and single shooting too.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ctrlode_casadi as co


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    method: str
    reference: float
    ours: float
    error: float
    tolerance: float
    iterations: int
    seconds: float
    status: str

    @property
    def good(self) -> bool:
        """Whether the cost is within the tolerance."""
        return self.error <= self.tolerance and self.status in ("SUCCESS", "ACCEPTABLE")


def load_cases(folder: Path) -> list[dict[str, Any]]:
    """The optimal control problems of a folder."""
    spec = importlib.util.spec_from_file_location("reference_cases", folder / "cases.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{folder}: no cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [make() for make in module.OCP_CASES]


def problem(case: dict[str, Any]) -> tuple[co.OptimalControlProblem, dict[str, Any], float]:
    """A case as a problem, its guess, and the sign that turns our cost into the case's."""
    sign = -1.0 if case["sense"] == "max" else 1.0
    rhs, count = case["rhs"], case["np"]
    model = co.ControlledODE(lambda t, x, u, p: rhs(x, u, p, t), nx=case["nx"], nu=case["nu"], params=count or None)
    tf = co.Free(case["tf_guess"], *case["tf_bounds"]) if case["tf"] is None else case["tf"]
    ocp = co.OptimalControlProblem(model, t0=case["t0"], tf=tf)
    cost: dict[str, Callable[..., Any]] = {}
    if case["lagrange"] is not None:
        cost["lagrange"] = lambda t, x, u, p: sign * case["lagrange"](x, u, p, t)
    if case["mayer"] is not None:
        cost["mayer"] = lambda x0, xf, tf, p: sign * case["mayer"](x0, xf, p, tf)
    ocp.minimize(**cost)
    ocp.bounds(x=(case["lbx"], case["ubx"]), u=(case["lbu"], case["ubu"]))
    ocp.initial(case["x0"])
    ocp.terminal(case["xf"])
    for g, lb, ub in case["path"]:
        ocp.path(lambda t, x, u, p, g=g: g(x, u, p, t), lb, ub)
    for g, lb, ub in case["boundary"]:
        ocp.boundary(lambda x0, xf, tf, p, g=g: g(x0, xf, p, tf), lb, ub)
    if count:
        ocp.free_parameters(case["lbp"], case["ubp"])
    return ocp, guess(case), sign


def guess(case: dict[str, Any]) -> dict[str, Any]:
    """The case's guess as tables."""
    given, grid = case["guess"], np.linspace(0.0, 1.0, 41)
    x = np.array([given["x"](s) for s in grid], dtype=float)
    u = np.array([given["u"](s) if callable(given["u"]) else given["u"] for s in grid], dtype=float)
    result: dict[str, Any] = {"x": x, "u": u}
    if case["np"]:
        result["p"] = np.array(given["p"], dtype=float)
    if case["tf"] is None:
        result["tf"] = case["tf_guess"]
    return result


def measure(case: dict[str, Any], intervals: int = 100, degree: int = 4) -> Row:
    """A case by collocation, against the published cost."""
    return solve(case, "collocation", case["ref"]["J"], case["rtol"], intervals=intervals, degree=degree)


def solve(case: dict[str, Any], method: str, reference: float, tolerance: float, **settings: Any) -> Row:
    """One solve."""
    ocp, start, sign = problem(case)
    began = time.perf_counter()
    sol = ocp.solve(method=method, guess=start, **settings)
    seconds = time.perf_counter() - began
    ours = sign * sol.objective
    label = f"{method} {settings['intervals']}"
    return Row(
        case["name"], label, reference, ours, abs(ours / reference - 1.0), tolerance, sol.stats["iterations"],
        seconds, sol.status.name,
    )  # fmt: skip


def show(rows: list[Row]) -> None:
    """Print the table in Markdown."""
    print("| case | method | reference | ours | relative difference | tolerance | iterations | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        mark = "" if r.good else f" ({r.status})" if r.status != "SUCCESS" else " (missed)"
        print(
            f"| {r.name} | {r.method} | {r.reference:.9g} | {r.ours:.9g} | {r.error:.1e}{mark} | {r.tolerance:.0e} | "
            f"{r.iterations} | {r.seconds:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--intervals", type=int, default=100)
    parser.add_argument("--degree", type=int, default=4)
    parser.add_argument("--held", action="store_true")
    parser.add_argument("--only", nargs="*")
    chosen = parser.parse_args()
    cases = [c for c in load_cases(chosen.cases) if not chosen.only or c["name"] in chosen.only]
    rows = [measure(case, chosen.intervals, chosen.degree) for case in cases]
    if chosen.held:
        for case in cases:
            for count, cost in case["zoh"].items():
                for method in ("multiple-shooting", "single-shooting"):
                    rows.append(solve(case, method, cost, 1e-6, intervals=count))
    show(rows)
    print(f"\n{sum(r.good for r in rows)} of {len(rows)} within tolerance")


if __name__ == "__main__":
    main()
