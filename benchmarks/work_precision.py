"""Work against precision of a forward simulation: ours, SciPy's solve_ivp, diffrax; saves a figure.

100 driven pendulums from random initial states over 10 s, 101 save times. The error is the largest over all
trajectories, save times and states against DOP853 at rtol 1e-13. SciPy integrates one trajectory after the
other; diffrax is vmapped and compiled, compilation not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from common import RESULTS, milliseconds, parser, print_machine, print_table, progress, save_json

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "_static" / "work_precision.png"
SAVE_TIMES = np.linspace(0.0, 10.0, 101)
PARAMETERS = np.array([0.3, 0.5, 2.0])  # damping [1/s], torque [1/s^2], its angular frequency [rad/s]
LABELS = ("ours Tsit5", "ours DOP853", "SciPy RK45", "SciPy DOP853", "diffrax Tsit5", "diffrax Dopri8")

Simulation = Callable[[], np.ndarray]  # returns x (B, T, 2)


def initial_states(batch: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1.0, 1.0, (batch, 2))


def pendulum(functions: ModuleType, t: Any, x: Any, p: Any) -> list[Any]:
    """Right-hand side with `sin` of NumPy, jax.numpy or CasADi."""
    return [x[1], p[1] * functions.sin(p[2] * t) - functions.sin(x[0]) - p[0] * x[1]]


def ours(method: str, rtol: float, x0: np.ndarray) -> Simulation:
    import casadi as ca

    import ctrlode_casadi as co

    layout = co.ParameterLayout(damping=1, torque=1, frequency=1)

    def rhs(t: ca.MX, x: ca.MX, u: ca.MX, p: Any) -> ca.MX:
        return ca.vertcat(*pendulum(ca, t, x, [p.damping, p.torque, p.frequency]))

    model = co.ControlledODE(rhs, nx=2, nu=0, params=layout)
    simulator = co.Simulator(model, solver=getattr(co, method)(rtol=rtol, atol=rtol, max_steps=100_000))
    return lambda: simulator(x0, None, PARAMETERS, SAVE_TIMES).x


def scipy_loop(method: str, rtol: float, x0: np.ndarray) -> Simulation:
    def run() -> np.ndarray:
        return np.array(
            [
                solve_ivp(
                    lambda t, x: pendulum(np, t, x, PARAMETERS),
                    (SAVE_TIMES[0], SAVE_TIMES[-1]),
                    start,
                    method=method,
                    t_eval=SAVE_TIMES,
                    rtol=rtol,
                    atol=rtol,
                ).y.T
                for start in x0
            ]
        )

    return run


def diffrax_vmap(method: str, rtol: float, x0: np.ndarray) -> Simulation:
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    ts = jnp.asarray(SAVE_TIMES)

    def one(start: jax.Array) -> jax.Array:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, p: jnp.stack(pendulum(jnp, t, x, p))),
            getattr(diffrax, method)(),
            t0=ts[0],
            t1=ts[-1],
            dt0=None,
            y0=start,
            args=jnp.asarray(PARAMETERS),
            saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
            max_steps=100_000,
        ).ys

    call = jax.jit(jax.vmap(one))
    start = jnp.asarray(x0)
    return lambda: np.asarray(jax.block_until_ready(call(start)))


SIDES: dict[str, Callable[[str, float, np.ndarray], Simulation]] = {
    "ours": ours,
    "SciPy": scipy_loop,
    "diffrax": diffrax_vmap,
}


def points(x0: np.ndarray, tolerances: list[float], repeats: int) -> Iterator[dict[str, Any]]:
    """Measure every method at every tolerance: its error and the median seconds of a call."""
    exact = scipy_loop("DOP853", 1e-13, x0)()
    for label in LABELS:
        side, method = label.split()
        for rtol in tolerances:
            progress(f"{label} at {rtol:g}")
            run = SIDES[side](method, rtol, x0)
            error = float(np.max(np.abs(run() - exact)))
            times = []
            for _ in range(repeats if side != "SciPy" else 1):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            yield {"label": label, "rtol": rtol, "error": error, "seconds": statistics.median(times)}


def draw(taken: list[dict[str, Any]], batch: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.0, 4.5), layout="constrained")
    for label in LABELS:
        own = [point for point in taken if point["label"] == label]
        style = {"ours": "-o", "SciPy": ":s", "diffrax": "--^"}[label.split()[0]]
        axes.loglog([p["error"] for p in own], [1e3 * p["seconds"] for p in own], style, label=label)
    axes.set_xlabel("largest error against DOP853 at 1e-13")
    axes.set_ylabel(f"milliseconds for {batch} trajectories")
    axes.grid(True, which="major", alpha=0.4)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=100, help="number of trajectories")
    arguments = options.parse_args()
    exponents = (3, 6, 9) if arguments.quick else range(3, 12)

    print_machine()
    x0 = initial_states(arguments.batch)
    taken = list(points(x0, [10.0**-e for e in exponents], 3 if arguments.quick else 9))
    rows = [[p["label"], f"{p['rtol']:.0e}", f"{p['error']:.1e}", milliseconds(p["seconds"])] for p in taken]
    print_table(("method", "rtol = atol", "error", "median [ms]"), rows)
    figure = RESULTS / FIGURE.name if arguments.quick else FIGURE
    draw(taken, arguments.batch, figure)
    progress(f"figure: {figure}\nraw numbers: {save_json('work_precision', taken)}")


if __name__ == "__main__":
    main()
