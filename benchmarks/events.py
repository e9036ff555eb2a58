"""State events: simulation and gradient of a thermostat that switches, and of balls that bounce.

Tsit5, rtol 1e-8, one thread. Times are minima of processor time; per event they are divided by the events of the batch.
"""

from __future__ import annotations

import casadi as ca
import numpy as np

import ctrlode_casadi as co
from common import milliseconds, parser, print_machine, print_table, progress
from sensitivities import fastest

SOLVER = co.Tsit5(rtol=1e-8, atol=1e-10)


def thermostat() -> tuple[co.Simulator, np.ndarray, np.ndarray]:
    model = co.ControlledODE(lambda t, x, u, p: [-p[0] * x[0] + p[1] * x[1], ca.MX(0)], nx=2, params=2)
    off = co.Event(lambda t, x, u, p: x[0] - 2.0, lambda t, x, u, p: [x[0], 0.0], direction=1)
    on = co.Event(lambda t, x, u, p: x[0] - 1.0, lambda t, x, u, p: [x[0], 1.0], direction=-1)
    return co.Simulator(model, SOLVER, threads=1, events=[off, on]), np.array([0.7, 3.0]), np.linspace(0.0, 15.0, 101)


def ball() -> tuple[co.Simulator, np.ndarray, np.ndarray]:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], -p[0]], nx=2, params=2)
    bounce = co.Event(lambda t, x, u, p: x[0], lambda t, x, u, p: [x[0], -p[1] * x[1]], direction=-1)
    return co.Simulator(model, SOLVER, threads=1, events=bounce), np.array([9.81, 0.7]), np.linspace(0.0, 1.5, 16)


def starts(label: str, batch: int) -> np.ndarray:
    spread = np.linspace(0.0, 1.0, batch) if batch > 1 else np.zeros(1)
    first = 0.9 * spread if label == "thermostat" else 0.6 + 11.4 * spread
    return np.stack([first, np.ones(batch) if label == "thermostat" else 0.0 * first], axis=1)


def main() -> None:
    arguments = parser(__doc__).parse_args()
    print_machine()
    print(f"ctrlode_casadi {co.__version__}, casadi {ca.__version__}, one thread, float64\n")
    table = []
    for label, (sim, p, ts) in {"thermostat": thermostat(), "bouncing ball": ball()}.items():
        for batch in (1, 16, 256):
            progress(f"{label}, B = {batch}")
            x0 = starts(label, batch)
            seeds = np.ones((batch, ts.size, 2))
            events = sum(len(log) for log in sim(x0, None, p, ts).events or [])
            value = fastest(lambda s=sim, x=x0, p=p, t=ts: s(x, None, p, t), arguments.rounds)
            gradient = fastest(lambda s=sim, x=x0, p=p, t=ts, b=seeds: s.vjp(x, None, p, t, b), arguments.rounds)
            cells = milliseconds(value), milliseconds(gradient), milliseconds(gradient / events)
            table.append([f"{label}, B = {batch}", str(events), *cells])
    print_table(["case", "events", "simulation", "gradient", "gradient per event"], table)


if __name__ == "__main__":
    main()
