"""Optimal control of learned dynamics with IPOPT: compiled NLP functions against CasADi's virtual machine.

Multiple shooting with a network 4-W-W-3 (three states, one control), 100 intervals, two RK4 steps in each, a quadratic
cost on the nodes and bounds on the control. Three sides solve the same program, with the same order of variables, the
same guess and the same options of IPOPT:

- ours: `ctrlode_casadi.ocp.compiled.nlp`;
- CasADi: what users write by hand, the interval as an MX function, `map`, and everything else left to `nlpsol`;
- CasADi SX: the same with the interval expanded to scalar expressions before `map`.

"functions" is the time that `nlpsol` reports for f, g and their derivatives. Making the functions (our compilation, or
CasADi's differentiation) is given on its own: ours the first time and from the cache. The scalar expressions of wide
networks are long; their side runs one round.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import casadi as ca
import numpy as np

import ctrlode_casadi as co
from common import milliseconds, parser, print_machine, print_table, progress, save_json
from ctrlode_casadi.ocp.compiled.nlp import oracle
from ctrlode_casadi.ocp.groups import NLP, OBJECTIVE, Group

NX, NU, STEPS, HORIZON = 3, 1, 2, 5.0
WEIGHT_U, LIMIT_U = 0.01, 2.0
START = np.array([0.5, -0.5, 0.0])
TARGET = np.array([1.0, 0.5, -0.5])
OPTIONS: dict[str, Any] = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes", "ipopt.tol": 1e-8}
HEADER = (
    "width",
    "side",
    "make [ms]",
    "solve [ms]",
    "functions [ms]",
    "iterations",
    "solve ratio",
    "functions ratio",
    "objective - ours",
)


class Program:
    """The interval's function, bounds and guess; variables are x0, u0, x1, u1, ..., xN."""

    def __init__(self, width: int, intervals: int) -> None:
        self.width, self.n = width, intervals
        net = co.Chain(co.Dense(NX + NU, width, "tanh"), co.Dense(width, width, "tanh"), co.Dense(width, NX))
        self.p = net.init(seed=3)
        step = co.RK4().step_function(co.ControlledODE(net, nx=NX, nu=NU), HORIZON / intervals / STEPS)
        x, u, p = ca.MX.sym("x", NX), ca.MX.sym("u", NU), ca.MX.sym("p", net.n_params)
        end = x
        for _ in range(STEPS):
            end = step(0.0, end, u, p)
        self.interval = ca.Function("interval", [x, u, p], [end], ["x", "u", "p"], ["xf"])
        self.n_w = (NX + NU) * intervals + NX
        self.lb, self.ub = np.full(self.n_w, -np.inf), np.full(self.n_w, np.inf)
        self.lb[NX :: NX + NU], self.ub[NX :: NX + NU] = -LIMIT_U, LIMIT_U
        self.lb[:NX] = self.ub[:NX] = START
        self.guess = np.zeros(self.n_w)
        self.guess[: (NX + NU) * intervals].reshape(intervals, -1)[:, :NX] = START
        self.guess[-NX:] = START

    def cost(self, x: Any, u: Any) -> Any:
        """Cost of one interval."""
        return HORIZON / self.n * (ca.sumsqr(x - TARGET) + WEIGHT_U * ca.sumsqr(u))

    def arguments(self) -> dict[str, Any]:
        """Arguments of the solver."""
        return {"x0": self.guess, "p": self.p, "lbx": self.lb, "ubx": self.ub, "lbg": 0, "ubg": 0}


def by_hand(program: Program, scalar: bool) -> ca.Function:
    """Multiple shooting as CasADi's users write it."""
    n = program.n
    w, p = ca.MX.sym("w", program.n_w), ca.MX.sym("p", program.p.size)
    columns = ca.reshape(w[: (NX + NU) * n], NX + NU, n)
    x, u = columns[:NX, :], columns[NX:, :]
    following = ca.horzcat(x[:, 1:], w[(NX + NU) * n :])
    interval = program.interval.expand() if scalar else program.interval
    ends = interval.map(n, [False, False, True])(x, u, p)  # repmat(p) in its place differentiates 15 times longer
    f = program.cost(x - (ca.repmat(ca.DM(TARGET), 1, n) - TARGET), u)
    nlp = {"x": w, "p": p, "f": f, "g": ca.vec(ends - following)}
    return ca.nlpsol("by_hand", "ipopt", nlp, OPTIONS)


def compiled(program: Program) -> tuple[ca.Function, Any]:
    """The same program with compiled functions, and what must be kept."""
    n, n_p = program.n, program.p.size
    v, s, q = ca.MX.sym("v", 2 * NX + NU), ca.MX.sym("s", 0), ca.MX.sym("q", n_p)
    x, u, following = v[:NX], v[NX : NX + NU], v[NX + NU :]
    r = ca.vertcat(program.interval(x, u, q) - following, program.cost(x, u))
    variables = (NX + NU) * np.arange(n)[:, None] + np.arange(2 * NX + NU)
    rows = np.hstack([NX * np.arange(n)[:, None] + np.arange(NX), np.full((n, 1), OBJECTIVE)])
    group = Group("interval", ca.Function("interval", [v, s, q], [r]), variables, np.zeros((n, 0)), rows)
    zero = np.zeros(NX * n)
    nlp = NLP(
        n_w=program.n_w,
        n_g=NX * n,
        n_q=n_p,
        groups=(group,),
        lbw=program.lb,
        ubw=program.ub,
        lbg=zero,
        ubg=zero,
        w0=program.guess,
        q=program.p,
        scale_w=np.ones(program.n_w),
        scale_g=np.ones(NX * n),
        scale_f=1.0,
        describe_variable=lambda i: f"w[{i}]",
        describe_row=lambda i: f"g[{i}]",
    )
    made = oracle(nlp)
    return ca.nlpsol("compiled", "ipopt", made.problem, made.options | OPTIONS), made


@dataclass
class Side:
    """One side with its solver and its figures."""

    name: str
    solver: ca.Function
    make_seconds: list[float]
    keep: Any = None
    most_rounds: int = 1 << 30
    solve: list[float] = field(default_factory=list)
    functions: list[float] = field(default_factory=list)
    iterations: int = 0
    objective: float = 0.0

    def run(self, program: Program) -> None:
        """Solve once."""
        began = time.perf_counter()
        result = self.solver(**program.arguments())
        self.solve.append(time.perf_counter() - began)
        stats = self.solver.stats()
        if not stats["success"]:
            raise SystemExit(f"{self.name}: {stats['return_status']}")
        self.functions.append(sum(t for key, t in stats.items() if key.startswith("t_wall_nlp_")))
        self.iterations, self.objective = stats["iter_count"], float(result["f"])


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds that it took."""
    began = time.perf_counter()
    made = make()
    return made, time.perf_counter() - began


def sides(program: Program) -> list[Side]:
    """All sides, set up."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CTRLODE_CACHE_DIR"] = folder
        (solver, keep), first = timed(lambda: compiled(program))
        _, again = timed(lambda: compiled(program))
    plain, plain_seconds = timed(lambda: by_hand(program, scalar=False))
    scalar, scalar_seconds = timed(lambda: by_hand(program, scalar=True))
    return [
        Side("ours", solver, [first, again], keep),
        Side("CasADi", plain, [plain_seconds]),
        Side("CasADi SX", scalar, [scalar_seconds], most_rounds=1),
    ]


def measure(width: int, intervals: int, rounds: int) -> list[dict[str, Any]]:
    """One program, all sides in turns."""
    program = Program(width, intervals)
    progress(f"4-{width}-{width}-3: setting up")
    made = sides(program)
    for k in range(rounds + 1):
        for side in made:
            if len(side.solve) < side.most_rounds + 1:
                progress(f"4-{width}-{width}-3: round {k}, {side.name}")
                side.run(program)
    found = []
    for side in made:
        warm = slice(1, None)  # the first solve reaches code and memory for the first time
        found.append(
            {
                "width": width,
                "side": side.name,
                "make": side.make_seconds,
                "solve": statistics.median(side.solve[warm]),
                "functions": statistics.median(side.functions[warm]),
                "iterations": side.iterations,
                "objective": side.objective,
            }
        )
    return found


def row(found: dict[str, Any], ours: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table."""
    return (
        f"{found['width']}",
        found["side"],
        " / ".join(milliseconds(t) for t in found["make"]),
        milliseconds(found["solve"]),
        milliseconds(found["functions"]),
        f"{found['iterations']}",
        f"{found['solve'] / ours['solve']:.1f}",
        f"{found['functions'] / ours['functions']:.1f}",
        f"{found['objective'] - ours['objective']:.1e}",
    )


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--intervals", type=int, default=100)
    options = arguments.parse_args()
    print_machine()
    print(f"versions   CasADi {ca.__version__}, NumPy {np.__version__}, ctrlode_casadi {co.__version__}\n")
    everything = []
    table = []
    for width in (32,) if options.quick else (32, 64):
        found = measure(width, options.intervals, 1 if options.quick else options.rounds)
        table += [row(f, found[0]) for f in found]
        everything += found
    print_table(HEADER, table)
    if not options.quick:
        save_json("nlp_functions", everything)


if __name__ == "__main__":
    main()
