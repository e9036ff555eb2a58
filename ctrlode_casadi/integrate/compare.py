"""Every way to a gradient of one simulation side by side: time, memory, error, and why the fastest is the fastest."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..base.errors import CtrlodeError, DataError
from ..model.ode import ControlledODE
from .integrators.solvers import CVODES, CasadiIntegrator
from .results import CallWork
from .sensitivity import Adjoint, ContinuousAdjoint, Forward, Sensitivity
from .solvers import OneStep

#: States kept by the checkpointed adjoint of the comparison.
CHECKPOINTS = 10
#: Directions of the chunked forward method and, scaled up, of finite differences and single directions.
CHUNK = 8
#: Smallest step that finite differences take, relative.
STEP = 6e-6


class Comparable(Protocol):
    """What the comparison needs of a `Simulator`, which documents the members."""

    @property
    def model(self) -> ControlledODE:
        """The model."""

    @property
    def solver(self) -> OneStep | CasadiIntegrator:
        """The solver."""

    @property
    def dtype(self) -> str:
        """Type of states, parameters and controls."""

    @property
    def threads(self) -> int:
        """Number of threads."""

    @property
    def last_work(self) -> CallWork | None:
        """Memory and recomputation of the last product."""

    def __call__(self, x0: Any, controls: Any, p: Any, ts: Any) -> Any:
        """The trajectories."""

    def vjp(self, x0: Any, controls: Any, p: Any, ts: Any, xbar: Any) -> tuple[Any, Any, Any]:
        """Gradient for seeds."""

    def jvp(self, x0: Any, controls: Any, p: Any, ts: Any, dp: Any = None) -> Any:
        """Derivative along a direction."""

    def with_sensitivity(self, sensitivity: str | Sensitivity) -> Comparable:
        """The same with another sensitivity."""

    def with_solver(self, solver: OneStep | CasadiIntegrator, sensitivity: str | Sensitivity = "auto") -> Comparable:
        """The same with another solver."""


@dataclass(frozen=True)
class SensitivityRow:
    """One way to the gradient.

    Attributes
    ----------
    name
        What was done.
    seconds
        Least time of a gradient with respect to parameters, initial states and control values.
    memory
        Bytes of the work arrays of all threads, NaN where not known.
    error
        Largest difference from the discrete adjoint, relative to the largest entry; NaN for the adjoint itself.
    note
        How the figures came about, empty for a plain measurement.
    """

    name: str
    seconds: float
    memory: float
    error: float
    note: str = ""


@dataclass(frozen=True)
class SensitivityReport:
    """Result of `Simulator.compare_sensitivities`; print it.

    Attributes
    ----------
    rows
        One per method.
    problem
        The sizes, as text.
    reason
        One sentence: why the fastest method is the fastest.
    """

    rows: tuple[SensitivityRow, ...]
    problem: str
    reason: str

    @property
    def fastest(self) -> SensitivityRow:
        """The row with the least time, finite differences aside."""
        return _fastest(self.rows)

    def __str__(self) -> str:
        lines = [self.problem, f"{'method':<38} {'time [ms]':>10} {'memory [MB]':>12} {'error':>8}  note"]
        for row in self.rows:
            memory = "" if np.isnan(row.memory) else f"{row.memory / 1e6:.3g}"
            error = "-" if np.isnan(row.error) else f"{row.error:.0e}"
            lines.append(f"{row.name:<38} {1e3 * row.seconds:>10.4g} {memory:>12} {error:>8}  {row.note}".rstrip())
        return "\n".join([*lines, self.reason])


def compare(sim: Comparable, x0: Any, controls: Any, p: Any, ts: Any, xbar: Any, seconds: float) -> SensitivityReport:
    """See `Simulator.compare_sensitivities`."""
    size = _size(sim, x0, controls, p, ts)
    shape = (size, max(len(row) for row in ts) if np.ndim(ts[0]) else len(ts), sim.model.nx)
    dtype = np.dtype(sim.dtype)
    seeds = np.random.default_rng(0).standard_normal(shape).astype(dtype) if xbar is None else xbar
    exact = not isinstance(sim.solver, CasadiIntegrator) or sim.solver.exact_adjoint
    methods: dict[str, Adjoint | Forward] = {"discrete adjoint" if exact else "adjoint of the integrator": Adjoint()}
    if isinstance(sim.solver, OneStep):
        methods[f"adjoint, {CHECKPOINTS} checkpoints"] = Adjoint(CHECKPOINTS)
    n_controls = _control_values(controls)
    total = sim.model.np + sim.model.nx + n_controls
    methods["forward, all directions packed"] = Forward()
    if total > CHUNK:
        methods[f"forward, {CHUNK} directions at a time"] = Forward(CHUNK)
    rows: list[SensitivityRow] = []
    reference: NDArray[Any] = np.zeros(0)
    for name, sensitivity in methods.items():
        try:
            other = sim.with_sensitivity(sensitivity)
            found, taken = _timed(partial(other.vjp, x0, controls, p, ts, seeds), seconds)
        except CtrlodeError as exc:
            rows.append(SensitivityRow(name, float("inf"), float("nan"), float("nan"), f"not offered: {str(exc)[:80]}"))
            continue
        flat = _flat(found)
        reference = reference if reference.size else flat
        error = float("nan") if not rows else _apart(flat, reference)
        work = other.last_work
        memory = float("nan") if work is None else float(work.memory)
        rows.append(SensitivityRow(name, taken, memory, error))
    rows += _single_directions(sim, x0, controls, p, ts, seeds, total, seconds)
    rows += _continuous(sim, x0, controls, p, ts, seeds, reference, seconds)
    rows.append(_differences(sim, x0, controls, p, ts, seeds, reference, total, seconds))
    problem = (
        f"{size} trajectories, {shape[1]} save times, nx={sim.model.nx}, directions: {sim.model.np} parameters + "
        f"{sim.model.nx} initial states + {n_controls} control values; {sim.solver!r}, {sim.threads} threads"
    )
    return SensitivityReport(tuple(rows), problem, _reason(rows, total, sim.model.nx))


def _size(sim: Comparable, x0: Any, controls: Any, p: Any, ts: Any) -> int:
    """Number of trajectories; an error where none of them succeeds, since there is then nothing to compare."""
    sol = sim(x0, controls, p, ts)
    if len(sol.status) and not sol.success.any():
        raise DataError(f"compare_sensitivities: no trajectory succeeds at these inputs: {sol.status[0].message}")
    return len(sol.status)


def _control_values(controls: Any) -> int:
    """Values of the control of one trajectory, K nu."""
    if controls is None:
        return 0
    listed = controls if isinstance(controls, list | tuple) else [controls]
    return max(c.values.shape[1] * c.values.shape[2] for c in listed)


def _timed(call: Callable[[], Any], seconds: float, warm: bool = True) -> tuple[Any, float]:
    """The result and the least time of a call: one to warm up where that matters, then as many as fit, at most 50."""
    found, best, spent = call() if warm else None, float("inf"), 0.0
    for _ in range(50):
        start = time.perf_counter()
        found = call()
        taken = time.perf_counter() - start
        best, spent = min(best, taken), spent + taken
        if spent > seconds:
            break
    return found, best


def _flat(bars: tuple[Any, Any, Any]) -> NDArray[Any]:
    """All entries of a gradient in one vector."""
    p_bar, x0_bar, u_bar = bars
    parts = u_bar if isinstance(u_bar, list) else [] if u_bar is None else [u_bar]
    return np.concatenate([np.ravel(v) for v in (p_bar, x0_bar, *parts)]).astype(float)


def _apart(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference relative to the largest entry."""
    size = float(np.abs(b).max(initial=0.0))
    return float(np.abs(a - b).max(initial=0.0)) / (size if size > 0 else 1.0)


def _single_directions(
    sim: Comparable, x0: Any, controls: Any, p: Any, ts: Any, seeds: Any, total: int, seconds: float
) -> list[SensitivityRow]:
    """One tangent integration for each direction: what forward mode costs without packing."""
    if sim.model.np == 0:
        return []
    direction = np.zeros(sim.model.np, sim.dtype)
    direction[0] = 1.0
    _, taken = _timed(lambda: np.sum(seeds * sim.jvp(x0, controls, p, ts, dp=direction)), seconds)
    note = f"one direction measured, times {total}"
    return [SensitivityRow("forward, one direction at a time", taken * total, float("nan"), 0.0, note)]


def _continuous(
    sim: Comparable, x0: Any, controls: Any, p: Any, ts: Any, seeds: Any, reference: NDArray[Any], seconds: float
) -> list[SensitivityRow]:
    """The continuous adjoint of CVODES, at the tolerances of the solver or at 1e-8."""
    if sim.dtype != "float64" or isinstance(sim.solver, CVODES) or sim.model.is_dae:
        return []
    rtol = float(getattr(sim.solver, "rtol", 1e-8)) if sim.solver.adaptive else 1e-8
    name = "continuous adjoint, CVODES"
    try:
        other = sim.with_solver(CVODES(rtol=rtol, atol=1e-2 * rtol), ContinuousAdjoint())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, taken = _timed(lambda: other.vjp(x0, controls, p, ts, seeds), seconds, warm=False)
    except CtrlodeError as exc:
        return [SensitivityRow(name, float("inf"), float("nan"), float("nan"), f"not offered: {str(exc)[:80]}")]
    return [SensitivityRow(name, taken, float("nan"), _apart(_flat(found), reference), f"rtol {rtol:.0e}")]


def _differences(
    sim: Comparable,
    x0: Any,
    controls: Any,
    p: Any,
    ts: Any,
    seeds: Any,
    reference: NDArray[Any],
    total: int,
    seconds: float,
) -> SensitivityRow:
    """Central differences; the parameters only, at most CHUNK of them, scaled to all directions."""
    p = np.zeros(0, sim.dtype) if p is None else np.atleast_1d(np.asarray(p, sim.dtype))
    step, count = (STEP if sim.dtype == "float64" else 3e-3), min(p.size, CHUNK)

    def functional(k: int, sign: float) -> float:
        moved = p.copy()
        moved[k] += sign * step * max(abs(float(p[k])), 1.0)
        x = sim(x0, controls, moved if p.size else None, ts).x
        return float(np.sum(np.where(np.isnan(x), 0.0, x) * seeds))

    _, taken = _timed(lambda: sim(x0, controls, p if p.size else None, ts), seconds)
    slopes = [
        (functional(k, 1.0) - functional(k, -1.0)) / (2 * step * max(abs(float(p[k])), 1.0)) for k in range(count)
    ]
    scale = float(np.abs(reference[: p.size]).max(initial=0.0))
    error = float(np.abs(np.array(slopes) - reference[:count]).max(initial=0.0)) / scale if count and scale else 0.0
    note = f"two simulations measured, times {total}; error in {count} parameters"
    return SensitivityRow("central finite differences", 2 * taken * total, float("nan"), error, note)


def _fastest(rows: Sequence[SensitivityRow]) -> SensitivityRow:
    """The row with the least time; finite differences are a reference, not a method."""
    return min((row for row in rows if not row.name.startswith("central")), key=lambda row: row.seconds)


def _reason(rows: list[SensitivityRow], total: int, nx: int) -> str:
    """One sentence on the fastest row."""
    best = _fastest(rows)
    times = {row.name: row.seconds for row in rows}
    adjoint, packed = rows[0].seconds, times["forward, all directions packed"]
    single = times.get("forward, one direction at a time", packed)
    if best.name.startswith("forward"):
        return (
            f"{best.name} is the fastest ({adjoint / best.seconds:.1f} times the adjoint): the {total} directions "
            f"share one evaluation of the Jacobian per stage and need no reverse sweep; one at a time they would take "
            f"{single / best.seconds:.1f} times as long."
        )
    if best.name.startswith(("adjoint", "discrete")):
        return (
            f"{best.name} is the fastest ({packed / best.seconds:.1f} times the packed forward method): its cost does "
            f"not grow with the {total} directions, while forward sensitivities integrate {nx} x {total} more numbers; "
            f"one direction at a time they would take {single / best.seconds:.0f} times as long as the adjoint."
        )
    return f"{best.name} is the fastest, for this tolerance; its error is {best.error:.0e}."
