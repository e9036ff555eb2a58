"""Fit the constants of `sensitivity="auto"` to the last runs of benchmarks/sensitivities.py.

Run that script with `--family chain` and `--family network` first, then this one, and put the constants that it prints
into ctrlode_casadi/integrate/cost_model.py. Non-negative least squares of relative errors; cells where one method is
far ahead count little, and cells that the model decides wrongly count more and more.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
from scipy.optimize import nnls

from common import RESULTS, print_table
from ctrlode_casadi.integrate.cost_model import Work, adjoint_terms, forward_terms, work_of
from ctrlode_casadi.lowering.kernels import lanes_for
from sensitivities import LIMIT, TS, Cell

ROUNDS = 60
#: Stages of one trajectory by kind of steps, as `Selection` estimates them.
STAGES = {"fixed": 4 * (TS.size - 1), "fine": 40 * (TS.size - 1), "adaptive": 6 * (TS.size - 1)}


@cache
def work(family: str, nx: int, n_params: int) -> Work:
    return work_of(Cell(family, nx, n_params, 1, "fixed").model().rhs)


def fit(many: bool, cells: list[dict]) -> None:
    """Fit and print the constants for blocks of lanes, or for single trajectories."""
    adjoint, forward = np.array([c["adjoint"] for c in cells]) * 1e6, np.array([c["forward"] for c in cells]) * 1e6
    terms: list[list] = [[], []]
    for c in cells:
        size, lanes = work(c["family"], c["nx"], c["n_params"]), lanes_for(c["batch"], c["np"], "float64")
        blocks = -(-c["batch"] // lanes)
        terms[0].append(adjoint_terms(size, lanes, blocks, STAGES[c["solver"]]))
        terms[1].append(forward_terms(size, lanes, blocks, STAGES[c["solver"]], c["np"]))
    a, f = np.array(terms[0], float) / adjoint[:, None], np.array(terms[1], float) / forward[:, None]
    weight, best = np.where(forward < 3 * adjoint, 1.0, 0.1), None
    for _ in range(ROUNDS):
        constants = nnls(a * weight[:, None], weight)[0], nnls(f * weight[:, None], weight)[0]
        chosen = forward * (f @ constants[1]) < adjoint * (a @ constants[0])
        ratio = np.where(chosen, forward, adjoint) / np.minimum(adjoint, forward)
        score = int((ratio > LIMIT - 0.05).sum()), float(ratio.max())
        if best is None or score < best[0]:
            best = score, constants, ratio
        weight = weight * np.where(ratio > 1.2, 1.15, 1.0)
    (_, worst), constants, ratio = best
    print("blocks of lanes" if many else "single trajectories")
    for name, values in zip(("ADJOINT", "FORWARD"), constants):
        print(f"  {name} {tuple(float(f'{v:.3g}') for v in values)}")
    print(f"  {len(cells)} cells, largest ratio {worst:.2f}, above {LIMIT}: {int((ratio > LIMIT).sum())}")
    wrong = [
        [c["family"], str(c["nx"]), str(c["np"]), str(c["batch"]), c["solver"], f"{r:.2f}"]
        for c, r in zip(cells, ratio)
        if r > 1.2
    ]
    print_table(("model", "nx", "np", "B", "steps", "auto / best"), wrong)


def main() -> None:
    runs = [json.loads((RESULTS / f"sensitivities_{f}.json").read_text())["run"] for f in ("chain", "network")]
    cells = [cell for run in runs for cell in run]
    for many in (False, True):
        fit(many, [c for c in cells if (lanes_for(c["batch"], c["np"], "float64") > 1) == many])


if __name__ == "__main__":
    main()
