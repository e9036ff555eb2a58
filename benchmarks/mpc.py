"""Time per step of model predictive control, against do-mpc with the same model, horizon and transcription.

Both sides run the same closed loop: radau collocation of degree 2 on N = 20 intervals, a control constant on each,
IPOPT with MUMPS to the same tolerance, both with its own way of starting from the step before. The plant is the model,
integrated by RK4, with noise from the same seed and a push every 25 steps. Each side lives in a process of its own;
they take turns, a whole loop at a time. do-mpc is measured twice: as it comes, and with the IPOPT options that our warm
starts use. So are we: with IPOPT, which the target is about, and with CasADi's sqpmethod, since IPOPT itself takes most
of the time of a small problem. `--starts` counts our iterations with other ways of starting IPOPT instead.

do-mpc (pip install do-mpc) is imported in its own process only; without it our side is reported alone. do-mpc sums the
running cost at the nodes, we integrate it; so controls differ slightly, and the table says by how much.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np

HORIZON = 20
TOLERANCE = 1e-8
DT = 0.1
TARGET = 4.0
WARM = {
    "ipopt.warm_start_init_point": "yes",
    "ipopt.warm_start_bound_push": 1e-9,
    "ipopt.warm_start_bound_frac": 1e-9,
    "ipopt.warm_start_slack_bound_push": 1e-9,
    "ipopt.warm_start_slack_bound_frac": 1e-9,
    "ipopt.warm_start_mult_bound_push": 1e-9,
    "ipopt.mu_strategy": "adaptive",
    "ipopt.mu_init": 1e-4,
}
SIDES = ("ours", "ours, sqpmethod", "do-mpc", "do-mpc, warm options")


@dataclass(frozen=True)
class Case:
    """A control problem: model, running cost ``sum weights * x^2 + 0.01 * u^2``, bounds, start, noise."""

    name: str
    nx: int
    weights: tuple[float, ...]
    u_max: float
    x_max: float
    x0: tuple[float, ...]
    noise: float

    def model(self) -> tuple[Any, np.ndarray]:
        """The model of the package and its parameters."""
        import ctrlode_casadi as co

        if self.name == "cart-pole":
            return co.ControlledODE(cart_pole, nx=4, nu=1), np.zeros(0)
        net = co.Chain(co.Dense(4, 32, "tanh"), co.Dense(32, 32, "tanh"), co.Dense(32, 3))
        return co.ControlledODE(net, nx=3, nu=1), net.init(seed=3)

    def cost(self, x: Any, u: Any) -> Any:
        return sum(w * x[i] ** 2 for i, w in enumerate(self.weights)) + 0.01 * u[0] ** 2


CASES = (
    Case("network 4-32-32-3", 3, (1.0, 1.0, 1.0), 1.0, 3.0, (1.0, -1.0, 0.5), 0.002),
    Case("cart-pole", 4, (2.0, 0.1, 10.0, 0.1), 15.0, 4.0, (0.5, 0.0, 0.4, 0.0), 0.002),
)


def cart_pole(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
    """Cart of 1 kg with a pole of 0.2 kg and 0.5 m half length; position, speed, angle from upright, its rate."""
    mass, total, length, gravity = 0.2, 1.2, 0.5, 9.81
    sine, cosine = ca.sin(x[2]), ca.cos(x[2])
    push = (u[0] + mass * length * x[3] ** 2 * sine) / total
    turn = (gravity * sine - cosine * push) / (length * (4 / 3 - mass * cosine**2 / total))
    return [x[1], push - mass * length * turn * cosine / total, x[3], turn]


def rk4(
    rhs: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, u: np.ndarray, steps: int = 4
) -> np.ndarray:
    h = DT / steps
    for _ in range(steps):
        a = rhs(x, u)
        b = rhs(x + 0.5 * h * a, u)
        c = rhs(x + 0.5 * h * b, u)
        x = x + h / 6 * (a + 2 * b + 2 * c + rhs(x + h * c, u))
    return x


class Ours:
    """Our side of a case."""

    def __init__(self, case: Case, solver: str, options: dict[str, Any], warm_start: bool = True) -> None:
        import ctrlode_casadi as co

        model, p = case.model()
        ocp = co.OptimalControlProblem(model, tf=HORIZON * DT, p=p)
        ocp.minimize(lagrange=lambda t, x, u, p: case.cost(x, u))
        ocp.bounds(x=(-case.x_max, case.x_max), u=(-case.u_max, case.u_max))
        self._mpc = co.MPC(
            ocp, HORIZON, method="collocation", degree=2, solver=solver, options=options, warm_start=warm_start
        )

    def reset(self, x0: np.ndarray) -> None:
        self._mpc.reset()

    def step(self, x: np.ndarray) -> np.ndarray:
        return self._mpc.step(x)

    def iterations(self) -> int:
        return int(self._mpc.stats[-1].iterations)


class DoMPC:
    """do-mpc's side of a case, with its defaults or with more options of IPOPT."""

    def __init__(self, case: Case, options: dict[str, Any]) -> None:
        import do_mpc

        ours, p = case.model()
        model = do_mpc.model.Model("continuous")
        x = model.set_variable("_x", "x", shape=(case.nx, 1))
        u = model.set_variable("_u", "u", shape=(1, 1))
        model.set_rhs("x", ours.rhs(0, x, u, p))
        model.setup()
        mpc = do_mpc.controller.MPC(model)
        mpc.settings.n_horizon, mpc.settings.t_step, mpc.settings.n_robust = HORIZON, DT, 0
        mpc.settings.state_discretization, mpc.settings.store_full_solution = "collocation", False
        mpc.settings.collocation_type, mpc.settings.collocation_deg, mpc.settings.collocation_ni = "radau", 2, 1
        mpc.settings.nlpsol_opts = {"ipopt.tol": TOLERANCE, **options}
        mpc.settings.supress_ipopt_output()
        mpc.set_objective(mterm=ca.SX(0), lterm=DT * case.cost(x, u))
        for name, bound in (("_x", case.x_max), ("_u", case.u_max)):
            mpc.bounds["lower", name, name[1:]] = -bound
            mpc.bounds["upper", name, name[1:]] = bound
        mpc.setup()
        self._mpc = mpc

    def reset(self, x0: np.ndarray) -> None:
        self._mpc.reset_history()
        self._mpc.x0 = x0
        self._mpc.set_initial_guess()

    def step(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self._mpc.make_step(x[:, None]))[:, 0]

    def iterations(self) -> int:
        return int(self._mpc.solver_stats["iter_count"])


def make_side(side: str, case: Case) -> Any:
    if side == "ours":
        return Ours(case, "ipopt", {"tol": TOLERANCE})
    if side.startswith("ours"):
        return Ours(case, "sqpmethod", {"tol_pr": TOLERANCE, "tol_du": TOLERANCE})
    return DoMPC(case, WARM if side.endswith("warm options") else {})


def closed_loop(side: Any, case: Case, steps: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """One loop: seconds and iterations of each step, and the controls."""
    model, p = case.model()
    f = ca.Function("f", list(model.rhs.mx_in()[1:3]), [model.rhs(0, *model.rhs.mx_in()[1:3], p)])
    rng = np.random.default_rng(1)
    x = np.array(case.x0)
    side.reset(x)
    seconds, iterations, controls = [], [], []
    for _ in range(steps):
        measured = x + case.noise * rng.standard_normal(case.nx)
        start = clock()
        u = side.step(measured)
        seconds.append(clock() - start)
        iterations.append(side.iterations())
        controls.append(u.tolist())
        x = rk4(lambda x, u: f(x, u).full()[:, 0], x, u)
        if len(seconds) % 25 == 0:
            x = x + 0.5 * np.array(case.x0)
    return {"seconds": seconds, "iterations": iterations, "u": controls}


@dataclass
class Worker:
    """A side in a process of its own."""

    side: str
    case: int
    seconds: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    controls: np.ndarray = field(default_factory=lambda: np.empty(0))

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--serve", self.side, str(self.case)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, steps: int, count: bool) -> None:
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.side!r} ended early; see its messages above")
        answer = json.loads(line)
        if count:  # the first step of a loop starts cold
            self.seconds += answer["seconds"][1:]
            self.iterations += answer["iterations"][1:]
            self.controls = np.array(answer["u"])

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def serve(side: str, number: int) -> None:
    """The worker process: a loop for every line, of as many steps as it says."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not get into the answers
    case = CASES[number]
    built = make_side(side, case)
    for line in sys.stdin:
        channel.write(json.dumps(closed_loop(built, case, int(line))) + "\n")


def measure(number: int, sides: tuple[str, ...], rounds: int, steps: int) -> list[Worker]:
    workers = [Worker(side, number) for side in sides]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.ask(3, count=False)
    for _ in range(rounds):
        for worker in workers:
            worker.ask(steps, count=True)
    for worker in workers:
        worker.stop()
    return workers


def count_iterations(steps: int) -> None:
    """Table of mean iterations per step by the way IPOPT starts."""
    from common import print_table

    starts: dict[str, dict[str, Any] | None] = {"cold": None}
    starts |= {f"monotone from {mu:g}": {"mu_strategy": "monotone", "mu_init": mu} for mu in (1e-2, 1e-4, 1e-6, 1e-8)}
    starts |= {f"adaptive from {mu:g}": {"mu_strategy": "adaptive", "mu_init": mu} for mu in (1e-2, 1e-4, 1e-6)}
    rows = []
    for name, options in starts.items():
        row = [name]
        for case in CASES:
            side = Ours(case, "ipopt", {"tol": TOLERANCE} | (options or {}), warm_start=options is not None)
            row.append(f"{np.mean(closed_loop(side, case, steps)['iterations'][1:]):.2f}")
        rows.append(row)
    print_table(["start", *(case.name for case in CASES)], rows)


def main() -> None:
    from common import parser, print_machine, print_table, progress, save_json

    options = parser(__doc__)
    options.add_argument("--starts", action="store_true", help="count iterations by the way IPOPT starts")
    arguments = options.parse_args()
    if arguments.starts:
        count_iterations(20 if arguments.quick else 100)
        return
    rounds, steps = (1, 20) if arguments.quick else (arguments.rounds, 100)
    present = importlib.util.find_spec("do_mpc") is not None
    sides = SIDES if present else SIDES[:2]
    print_machine()
    if not present:
        print("do-mpc is not installed (pip install do-mpc): our side alone\n")
    rows, raw = [], []
    for number, case in enumerate(CASES):
        progress(case.name)
        workers = measure(number, sides, rounds, steps)
        ours = statistics.median(workers[0].seconds)
        for worker in workers:
            median = statistics.median(worker.seconds)
            apart = float(np.max(np.abs(worker.controls - workers[0].controls))) / case.u_max
            rows.append(
                [
                    case.name, worker.side, f"{1e3 * median:.2f}", f"{1e3 * np.percentile(worker.seconds, 95):.2f}",
                    f"{np.mean(worker.iterations):.1f}", f"{median / ours:.2f}", f"{apart:.1e}",
                ]
            )  # fmt: skip
            raw.append({"case": case.name, "side": worker.side, "seconds": worker.seconds})
    header = (
        "problem",
        "side",
        "median [ms]",
        "95 % [ms]",
        "iterations",
        "times ours",
        "controls differ by (of u_max)",
    )
    print_table(header, rows)
    print(f"target: do-mpc at least {TARGET:g} times ours")
    if not arguments.quick:
        save_json("mpc", raw)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
