"""Encoder -> initial state -> controlled ODE with a network -> decoder: the whole against its parts.

One flat parameter vector holds three networks. The gradient of the composite must cost at most 1.3 times the
sum of the gradients of its parts: the encoder and the decoder as compiled batch functions, the ODE as an
objective on its own. All four take turns in one process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import casadi as ca
import numpy as np

import ctrlode_casadi as co
from common import milliseconds, parser, print_machine, print_table, progress, save_json
from ctrlode_casadi.cli.origin_problem import sum_of_squares
from ctrlode_casadi.lowering.batched import CompiledFunction
from workers import relative_difference

LIMIT = 1.3
NX, NU, NY, WINDOW = 4, 1, 2, 20  # states, controls, outputs, entries of the record's window that the encoder sees
HEADER = (
    "trajectories",
    "knots",
    "threads",
    "composite [ms]",
    "encoder [ms]",
    "ODE [ms]",
    "decoder [ms]",
    "ratio",
    "agreement",
)


def networks() -> dict[str, co.Chain]:
    return {
        "encoder": co.Chain(co.Dense(WINDOW, 32, "tanh"), co.Dense(32, 16, "tanh"), co.Dense(16, NX)),
        "ode": co.Chain(co.Dense(NX + NU, 32, "tanh"), co.Dense(32, 32, "tanh"), co.Dense(32, NX)),
        "decoder": co.Chain(co.Dense(NX, 32, "tanh"), co.Dense(32, NY)),
    }


def as_batch_function(net: co.Chain, threads: int) -> CompiledFunction:
    """(z, p) -> net(z, p) for many rows z."""
    z, p = ca.MX.sym("z", net.n_in), ca.MX.sym("p", net.n_params)
    return co.compile(ca.Function("net", [z, p], [net(z, p)], ["z", "p"], ["y"]), threads=threads)


class Problem:
    """The composite, and its parts with the inputs and seeds that they have inside it."""

    def __init__(self, batch: int, knots: int, threads: int) -> None:
        nets, rng = networks(), np.random.default_rng(0)
        self.layout = co.ParameterLayout(**nets)
        self.p = self.layout.init(seed=1)
        self.part = self.layout.unflatten(self.p)
        self.ts = np.linspace(0.0, 5.0, knots)
        self.controls = co.PiecewiseLinear(self.ts, rng.standard_normal((batch, knots, NU)))
        self.windows, data = rng.standard_normal((batch, WINDOW)), rng.standard_normal((batch, knots, NY))
        solver = co.RK4(steps_per_interval=1)
        model = co.ControlledODE(
            lambda t, x, u, p: nets["ode"](ca.vertcat(x, u), p.ode),
            nx=NX,
            nu=NU,
            params=self.layout,
            output=lambda t, x, u, p: nets["decoder"](x, p.decoder),
        )
        start = co.InitialState(lambda d, p: nets["encoder"](d, p.encoder), inputs=self.windows)
        simulator = co.Simulator(model, solver=solver, threads=threads)
        self.whole = co.Objective(simulator, start, self.controls, self.ts, data=data)

        self.encoder, self.decoder = (as_batch_function(nets[name], threads) for name in ("encoder", "decoder"))
        self.simulator = co.Simulator(co.ControlledODE(nets["ode"], nx=NX, nu=NU), solver=solver, threads=threads)
        self.x0 = self.encoder(self.windows, self.part.encoder.flat)
        x = self.simulator(self.x0, self.controls, self.part.ode.flat, self.ts).x
        self.states = np.ascontiguousarray(x.reshape(-1, NX))
        outputs = self.decoder(self.states, self.part.decoder.flat)
        self.y_bar = 2.0 / data.size * (outputs - data.reshape(-1, NY))
        # The ODE's part: the cheapest cost there is, so that its time is that of the sweeps.
        self.middle = co.Objective(self.simulator, self.x0, self.controls, self.ts, loss=sum_of_squares)

    def by_hand(self) -> np.ndarray:
        """The composite's gradient by the chain rule through the parts."""
        states_bar, decoder_bar = self.decoder.vjp(self.states, self.part.decoder.flat, seeds=self.y_bar)
        x_bar = states_bar.reshape(-1, self.ts.size, NX)
        ode_bar, self.x0_bar, _ = self.simulator.vjp(self.x0, self.controls, self.part.ode.flat, self.ts, x_bar)
        _, encoder_bar = self.encoder.vjp(self.windows, self.part.encoder.flat, seeds=self.x0_bar)
        return np.concatenate([encoder_bar, ode_bar, decoder_bar])

    def calls(self) -> dict[str, Callable[[], object]]:
        """What is timed."""
        part = self.part
        return {
            "composite": lambda: self.whole(self.p),
            "encoder": lambda: self.encoder.vjp(self.windows, part.encoder.flat, seeds=self.x0_bar),
            "ode": lambda: self.middle(part.ode.flat),
            "decoder": lambda: self.decoder.vjp(self.states, part.decoder.flat, seeds=self.y_bar),
        }


def medians(calls: dict[str, Callable[[], object]], rounds: int, seconds_per_turn: float = 0.05) -> dict[str, float]:
    """Median seconds of each call; they take turns, and each turn starts with an untimed call."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            call()
            end = time.perf_counter() + seconds_per_turn
            while (start := time.perf_counter()) < end:
                call()
                if turn:
                    taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def measure(batch: int, knots: int, threads: int, rounds: int) -> dict[str, float]:
    """Medians, the ratio of the composite to the sum of its parts, and how well the gradients agree."""
    progress(f"composition: {batch} trajectories, {knots} knots, {threads} threads")
    problem = Problem(batch, knots, threads)
    agreement = relative_difference(problem.whole(problem.p)[1], problem.by_hand())
    taken = medians(problem.calls(), rounds)
    parts = taken["encoder"] + taken["ode"] + taken["decoder"]
    return {**taken, "ratio": taken["composite"] / parts, "agreement": agreement}


def rows(rounds: int = 7) -> list[list[str]]:
    """Row for the table of benchmarks/origin.py."""
    taken = measure(100, 100, 2, rounds)
    parts = ", ".join(f"{name} {milliseconds(taken[name])}" for name in ("encoder", "ode", "decoder"))
    return [
        [
            "encoder, ODE and decoder networks together, against the sum of the three",
            f"<= {LIMIT:g}",
            f"{taken['ratio']:.2f}",
            "met" if taken["ratio"] <= LIMIT else "MISSED",
            milliseconds(taken["composite"]),
            parts,
            f"parts {taken['agreement']:.0e}",
        ]
    ]


def main() -> None:
    arguments = parser(__doc__).parse_args()
    print_machine()
    sizes = [(100, 100)] if arguments.quick else [(1, 100), (100, 100), (1000, 100)]
    table, raw = [], []
    for batch, knots in sizes:
        for threads in (1, 2):
            taken = measure(batch, knots, threads, 2 if arguments.quick else arguments.rounds)
            raw.append({"batch": batch, "knots": knots, "threads": threads, **taken})
            times = [milliseconds(taken[name]) for name in ("composite", "encoder", "ode", "decoder")]
            table.append(
                [str(batch), str(knots), str(threads), *times, f"{taken['ratio']:.2f}", f"{taken['agreement']:.0e}"]
            )
    print_table(HEADER, table)
    print(f"target: ratio <= {LIMIT:g}")
    progress(f"raw numbers: {save_json('composition', raw)}")


if __name__ == "__main__":
    main()
