"""Second derivatives: a Hessian-vector product in gradients, and the full Hessian against products one by one.

The origin problem and small chains and networks (see sensitivities.py), RK4, one thread. Times are minima of processor
time. The error of the full Hessian is its largest difference from single products, relative to the largest entry.
"""

from __future__ import annotations

import casadi as ca
import numpy as np

import ctrlode_casadi as co
from common import milliseconds, parser, print_machine, print_table, progress
from ctrlode_casadi.cli.origin_problem import make_objective, make_problem, make_simulator
from sensitivities import TS, chain, fastest, network

LIMIT = 4.0


def small(model: co.ControlledODE, batch: int) -> tuple[co.Objective, np.ndarray]:
    rng = np.random.default_rng(0)
    x0, data = rng.standard_normal((batch, model.nx)), 0.1 * rng.standard_normal((batch, TS.size, model.nx))
    sim = co.Simulator(model, co.RK4(), sensitivity="adjoint", threads=1)
    return co.Objective(sim, x0, None, TS, data=data), 0.3 * rng.standard_normal(model.np)


def row(label: str, objective: co.Objective, p: np.ndarray, repeats: int, full: bool) -> list[str]:
    progress(label)
    v = np.random.default_rng(1).standard_normal(p.size)
    value = fastest(lambda: objective.value(p), repeats)
    gradient = fastest(lambda: objective(p), repeats)
    product = fastest(lambda: objective.hessp(p, v), repeats)
    cells = [label, *(milliseconds(t) for t in (value, gradient, product)), f"{product / gradient:.2f}"]
    if not full:
        return [*cells, "", "", ""]

    def singly() -> np.ndarray:
        return np.array([objective.hessp(p, e) for e in np.eye(p.size)])

    wanted, found = singly(), objective.hess(p)
    times = fastest(singly, repeats), fastest(lambda: objective.hess(p), repeats)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    return [*cells, milliseconds(times[1]), f"{times[0] / times[1]:.2f}", f"{error:.0e}"]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    print_machine()
    print(f"ctrlode_casadi {co.__version__}, casadi {ca.__version__}, one thread, float64\n")
    models = {
        "chain 2 states, 3 parameters": chain(2, 3),
        "chain 5 states, 10 parameters": chain(5, 10),
        "network 2-8-2": network(2, 42),
    }
    repeats, table = arguments.rounds, []
    for label, model in models.items():
        for batch in (1, 4, 100):
            objective, p = small(model, batch)
            table.append(row(f"{label}, B = {batch}", objective, p, repeats, full=True))
    problem = make_problem()
    objective = make_objective(problem, make_simulator(co.RK4(), threads=1))
    table.append(row("origin problem, B = 100", objective, problem.p, repeats, full=False))
    head = ("problem", "value [ms]", "gradient [ms]", "product [ms]", "product / gradient", "Hessian [ms]",
            "products one by one / Hessian", "difference")  # fmt: skip
    print_table(head, table)
    print(f"products cost at most {max(float(r[4]) for r in table):.2f} gradients (limit {LIMIT:g})")


if __name__ == "__main__":
    main()
