"""`python -m ctrlode_casadi bench`: the origin problem on this machine, our side only."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.processors import available_threads
from . import info
from .origin_problem import OriginProblem, make_objective, make_problem, make_simulator

if TYPE_CHECKING:
    import ctrlode_casadi as co


@dataclass(frozen=True)
class Timing:
    """Seconds: the first call (compilation or cache included), then median and minimum of the repeats."""

    first: float
    median: float
    minimum: float


def time_calls(call: Callable[[], Any], repeats: int) -> Timing:
    """Time the first call of `call` and `repeats` further ones."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return Timing(first, statistics.median(times), min(times))


def directional_disagreement(simulator: co.Simulator, problem: OriginProblem) -> tuple[float, float]:
    """Compare three directional derivatives of the loss along one random direction of the parameters.

    Returns the relative distance of the adjoint's ``g @ v`` from the tangent sweep's and from Richardson's
    extrapolation of central differences. selu has a kink at zero, so the latter agree to about 1e-6 only.
    """
    import ctrlode_casadi as co

    objective = make_objective(problem, simulator)
    controls = co.PiecewiseLinear(problem.knots, problem.values)
    p, x0 = problem.p, np.zeros(2)
    direction = np.random.default_rng(7).standard_normal(p.size)
    direction /= np.linalg.norm(direction)
    adjoint = float(objective.grad(p) @ direction)

    x = simulator(x0, controls, p, problem.knots).x
    dx = simulator.jvp(x0, controls, p, problem.knots, dp=direction)
    tangent = float(2.0 * np.sum(x * dx) / x.shape[0])

    def central(step: float) -> float:
        above, below = objective.value(p + step * direction), objective.value(p - step * direction)
        return (above - below) / (2.0 * step)

    step = 1e-5
    difference = (4.0 * central(step / 2) - central(step)) / 3.0
    return abs(tangent / adjoint - 1.0), abs(difference / adjoint - 1.0)


def row(problem: OriginProblem, label: str, simulator: co.Simulator, threads: int, repeats: int) -> str:
    """Time one solver and return its line of the table."""
    objective, p = make_objective(problem, simulator), problem.p
    timing = time_calls(lambda: objective(p), repeats)
    value, gradient = objective(p)
    return (
        f"{label:<26} {threads:>7} {timing.first:>10.2f} {1e3 * timing.median:>12.2f}"
        f" {1e3 * timing.minimum:>9.2f} {value:>14.7e} {np.linalg.norm(gradient):>11.8f}"
    )


def report(trajectories: int, repeats: int, threads: int | None) -> str:
    """Run the origin problem with RK4 and Tsit5 and return a table as text."""
    import ctrlode_casadi as co

    problem = make_problem(trajectories)
    most = threads or available_threads()
    rk4, tsit5 = co.RK4(steps_per_interval=1), co.Tsit5(rtol=1e-3, atol=1e-6)
    name, _ = info.cpu()
    lines = [
        f"origin problem: {trajectories} trajectories, {problem.p.size} parameters; {name}",
        f"{'method':<26} {'threads':>7} {'first [s]':>10} {'median [ms]':>12} {'min [ms]':>9}"
        f" {'loss':>14} {'|gradient|':>11}",
    ]
    for label, solver, dtype in [
        ("RK4 on the knots, float64", rk4, "float64"),
        ("RK4 on the knots, float32", rk4, "float32"),
        ("Tsit5 1e-3 1e-6, float64", tsit5, "float64"),
    ]:
        for count in sorted({1, most}):
            simulator = make_simulator(solver, dtype=dtype, threads=count)
            lines.append(row(problem, label, simulator, count, repeats))
    tangent, difference = directional_disagreement(make_simulator(rk4, threads=most), problem)
    lines.append(f"adjoint against tangent sweep: {tangent:.1e}; against finite differences: {difference:.1e}")
    return "\n".join([*lines, "", sensitivities(problem, make_simulator(rk4, threads=most))])


def sensitivities(problem: OriginProblem, simulator: co.Simulator, trajectories: int = 8) -> str:
    """The table of all sensitivities for the first trajectories of the problem, RK4 on the knots."""
    import ctrlode_casadi as co

    controls = co.PiecewiseLinear(problem.knots, problem.values[:trajectories])
    return str(simulator.compare_sensitivities(np.zeros(2), controls, problem.p, problem.knots, seconds=0.3))
