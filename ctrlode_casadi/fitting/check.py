"""Adjoint, tangent sweep and finite differences of an objective side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.arrays import Float64Array
from .protocol import Differentiable

#: Levels of Richardson's extrapolation, each with half the step.
LEVELS = 10
#: Difference from the gradient, in tolerances of the solver, that the choice of adaptive steps may explain.
TOLERANCES = 1e4
#: How the reason for a difference within the tolerance begins.
ADAPTIVE = "adaptive steps"
#: Most entries of p that the scan for the worst ones looks at.
SCAN = 64


@dataclass(frozen=True)
class DirectionCheck:
    """Derivatives along one direction.

    Attributes
    ----------
    label
        "random 1" or the name of an entry of p.
    adjoint, tangent, difference
        From the gradient, from a forward sweep, and from extrapolated central differences.
    uncertainty
        Estimated error of the difference.
    reason
        "agree", or why the numbers differ.
    """

    label: str
    adjoint: float
    tangent: float
    difference: float
    uncertainty: float
    reason: str

    @property
    def agrees(self) -> bool:
        """Whether all three agree, the difference within what the solver's tolerance explains."""
        return self.reason == "agree" or self.reason.startswith(ADAPTIVE)


@dataclass(frozen=True)
class GradientReport:
    """Result of `Objective.check_gradient`; print it.

    Attributes
    ----------
    value
        Objective where the derivatives were compared.
    checks
        One entry per direction.
    note
        A remark on the whole comparison; empty if there is none.
    """

    value: float
    checks: tuple[DirectionCheck, ...]
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Whether all numbers agree."""
        return bool(self.checks) and all(c.agrees for c in self.checks)

    @property
    def exact_error(self) -> float:
        """Largest relative distance between adjoint and tangent sweep; both are exact up to rounding."""
        return max((_apart(c.adjoint, c.tangent) for c in self.checks), default=float("nan"))

    @property
    def difference_error(self) -> float:
        """Largest relative distance between adjoint and finite difference."""
        return max((_apart(c.adjoint, c.difference) for c in self.checks), default=float("nan"))

    def __str__(self) -> str:
        width = max([len(c.label) for c in self.checks] + [9])
        lines = [f"objective {self.value:.10g}"]
        if self.checks:
            lines.append(
                f"independent check, adjoint against tangent sweep: largest relative difference {self.exact_error:.1e}"
            )
        head = f"{'direction':<{width}} {'adjoint':>18} {'tangent':>18} {'finite difference':>18} {'+-':>8}"
        lines += [head + "  reason"] if self.checks else []
        lines += [
            f"{c.label:<{width}} {c.adjoint:>18.10e} {c.tangent:>18.10e} {c.difference:>18.10e} "
            f"{c.uncertainty:>8.1e}  {c.reason}"
            for c in self.checks
        ]
        return "\n".join(lines + ([self.note] if self.note else []))


def _apart(a: float, b: float) -> float:
    """Distance of two numbers relative to the larger one."""
    size = max(abs(a), abs(b))
    return abs(a - b) / size if size > 0 else 0.0


def check_gradient(
    objective: Differentiable, p: Float64Array, directions: int, coordinates: int, seed: int
) -> GradientReport:
    """Compare derivatives at p; see `Objective.check_gradient`."""
    value, gradient = objective(p)
    if not np.isfinite(value):
        return GradientReport(value, (), f"no derivative here: {objective.last_failure}")
    rng = np.random.default_rng(seed)
    names = objective.names()
    chosen: list[tuple[str, Float64Array]] = []
    for k in range(directions if p.size else 0):
        v = rng.standard_normal(p.size)
        chosen.append((f"random {k + 1}", v / np.linalg.norm(v)))
    for i in _worst(objective, p, gradient, coordinates, rng):
        chosen.append((names[i], np.eye(1, p.size, i)[0]))
    scale = float(np.linalg.norm(gradient))
    checks = tuple(_check(objective, p, float(gradient @ v), label, v, scale) for label, v in chosen)
    notes = ["single precision: expect four digits"] if objective.sim.dtype == "float32" else []
    if any(c.reason.startswith(ADAPTIVE) for c in checks):
        notes.append(
            "adaptive steps: the gradient is exact for the numbers computed, with the steps held fixed; finite "
            "differences see the steps change with p. The difference is bounded by the tolerance: tighten rtol and "
            "atol to see it shrink; where it does not, the model has a kink near p"
        )
    return GradientReport(value, checks, "\n".join(notes))


def _tolerance(objective: Differentiable) -> float:
    """Tolerance of the adaptive steps; zero for fixed steps."""
    solver = objective.sim.solver
    if not solver.adaptive:
        return 0.0
    tolerance = max(float(getattr(solver, "rtol", 0.0)), float(np.max(getattr(solver, "atol", 0.0))))
    least = 6e-6 if objective.sim.dtype == "float32" else 1e-14
    return min(max(tolerance, least), 1e-2)


def _worst(
    objective: Differentiable, p: Float64Array, gradient: Float64Array, count: int, rng: np.random.Generator
) -> list[int]:
    """Entries of p with the largest disagreement from a plain central difference, among at most SCAN of them."""
    scan = rng.permutation(p.size)[:SCAN]
    gaps = []
    for i in scan:
        h = np.zeros(p.size)
        h[i] = max(1e-5, float(np.cbrt(_tolerance(objective)))) * max(1.0, abs(p[i]))
        gaps.append(abs((objective.value(p + h) - objective.value(p - h)) / (2 * h[i]) - gradient[i]))
    order = np.argsort(np.nan_to_num(np.array(gaps), nan=np.inf, posinf=np.inf))[::-1]
    return [int(i) for i in scan[order][:count]]


def richardson(
    objective: Differentiable, p: Float64Array, v: Float64Array, first: float, noise: float
) -> tuple[float, float]:
    """Derivative along v by Ridders' extrapolation of central differences, and its estimated error.

    C. J. F. Ridders, Adv. Eng. Software 4 (1982) 75. Steps at which a trajectory fails are skipped. `noise` is the
    error of the objective itself, from the choice of steps: it counts ``noise / step``, so that large steps are
    preferred.
    """
    best, error = float("nan"), float("inf")
    previous: list[float] = []
    step = first
    for _ in range(LEVELS):
        row = [(objective.value(p + step * v) - objective.value(p - step * v)) / (2 * step)]
        blur = noise / step
        step /= 2
        if not np.isfinite(row[0]):
            previous = []
            continue
        for j, coarse in enumerate(previous):
            row.append(row[j] + (row[j] - coarse) / (4.0 ** (j + 1) - 1))
            guess = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - coarse)) + blur
            if guess < error:
                best, error = row[j + 1], guess
        previous = row
    return best, error


def _check(
    objective: Differentiable, p: Float64Array, adjoint: float, label: str, v: Float64Array, scale: float
) -> DirectionCheck:
    """All derivatives along v, and why they differ."""
    single = objective.sim.dtype == "float32"
    tangent = objective.derivative_along(p, v)
    tolerance = _tolerance(objective)
    first = (0.1 if single or tolerance > 0 else 1e-2) * max(1.0, float(np.abs(p * v).max()))
    difference, uncertainty = richardson(objective, p, v, first, tolerance * scale)
    exact = 1e-3 if single else 1e-8
    size = max(abs(adjoint), abs(tangent), 1e-6 * scale, 1e-300)
    if not abs(adjoint - tangent) <= exact * size:
        reason = f"adjoint and tangent sweep differ by {abs(adjoint - tangent) / size:.1e}: please report this"
    elif not np.isfinite(difference):
        reason = f"no finite difference, trajectories fail nearby: {objective.last_failure}"
    else:
        reason = _reason(objective, p, v, adjoint, size, difference, uncertainty, scale)
    return DirectionCheck(label, adjoint, tangent, difference, uncertainty, reason)


def _reason(
    objective: Differentiable,
    p: Float64Array,
    v: Float64Array,
    adjoint: float,
    size: float,
    difference: float,
    uncertainty: float,
    scale: float,
) -> str:
    """Why a finite difference is away from the adjoint."""
    gap, tolerance = abs(adjoint - difference), _tolerance(objective)
    relative = gap / size
    if relative <= (1e-2 if objective.sim.dtype == "float32" else 1e-7):
        return "agree"
    if tolerance > 0 and gap <= max(min(TOLERANCES * tolerance, 0.1) * scale, 10 * uncertainty):
        return f"{ADAPTIVE} change with p, see below"
    step, nearest = _nearest(objective, p, v, adjoint, tolerance)
    if nearest <= 0.1 * gap:
        return (
            f"kinks of the model or cost near p: plain differences come within {nearest / size:.1e} at step "
            f"{step:.0e}, extrapolation does not help"
        )
    jump = _jump(objective, p, v, tolerance)
    if jump > 0.1 * gap:
        return f"p lies on a kink: slopes ahead and behind differ by {jump:.1e}, and the adjoint takes one of them"
    if gap <= 10 * uncertainty:
        return "rounding: the finite difference itself is no better than this"
    return f"differ by {relative:.1e} without a known reason: check for jumps of the model in p"


def _nearest(
    objective: Differentiable, p: Float64Array, v: Float64Array, adjoint: float, tolerance: float
) -> tuple[float, float]:
    """Step at which a plain central difference comes nearest to the adjoint, and how near."""
    gaps = {}
    steps = np.array([1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
    for step in np.unique(np.maximum(steps, np.sqrt(tolerance))):
        slope = (objective.value(p + step * v) - objective.value(p - step * v)) / (2 * step)
        gaps[step] = abs(slope - adjoint) if np.isfinite(slope) else float("inf")
    best = min(gaps, key=lambda h: gaps[h])
    return best, gaps[best]


def _jump(objective: Differentiable, p: Float64Array, v: Float64Array, tolerance: float) -> float:
    """How far one-sided differences stay apart as the step shrinks; zero for a smooth function.

    They shrink with the step where the function is smooth, and grow where there is only noise.
    """
    value = objective.value(p)
    least = max(1e-5, float(np.sqrt(tolerance)))
    gaps = []
    for h in (10 * least, least):
        gaps.append(abs(objective.value(p + h * v) - 2 * value + objective.value(p - h * v)) / h)
    return gaps[1] if 0.5 * gaps[0] < gaps[1] < 2 * gaps[0] else 0.0
