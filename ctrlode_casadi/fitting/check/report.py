"""Gradient checks of a target: adjoint, tangent sweep and finite differences side by side, and why they differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...base.arrays import Float64Array
from .reasons import ADAPTIVE, AGREE, reason, slopes
from .targets import Target

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
        return self.reason.startswith((AGREE, ADAPTIVE))


@dataclass(frozen=True)
class GradientReport:
    """Result of `check_gradient`; print it.

    Attributes
    ----------
    value
        The function where the derivatives were compared.
    checks
        One entry per direction.
    note
        A remark on the whole comparison; empty if there is none.
    what
        What the value is.
    """

    value: float
    checks: tuple[DirectionCheck, ...]
    note: str = ""
    what: str = "objective"

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
        lines = [f"{self.what} {self.value:.10g}"]
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


def check_target(target: Target, z: Float64Array, directions: int, coordinates: int, seed: int) -> GradientReport:
    """Compare derivatives at z."""
    value, gradient = target.pair(z)
    if not np.isfinite(value):
        return GradientReport(value, (), f"no derivative here: {target.failure}", target.what)
    rng = np.random.default_rng(seed)
    names = target.names()
    chosen: list[tuple[str, Float64Array]] = []
    for k in range(directions if z.size else 0):
        v = rng.standard_normal(z.size)
        chosen.append((f"random {k + 1}", v / np.linalg.norm(v)))
    for i in _worst(target, z, gradient, coordinates, rng):
        chosen.append((names[i], np.eye(1, z.size, i)[0]))
    checks = tuple(_check(target, z, gradient, label, v) for label, v in chosen)
    notes = ["single precision: expect four digits"] if target.single else []
    if any(c.reason.startswith(ADAPTIVE) for c in checks):
        notes.append(
            "adaptive steps: the gradient is exact for the numbers computed, with the steps held fixed; finite "
            "differences see the steps change with p. The difference is bounded by the tolerance: tighten rtol and "
            "atol to see it shrink; where it does not, the model has a kink near p"
        )
    return GradientReport(value, checks, "\n".join(notes), target.what)


def _check(target: Target, z: Float64Array, gradient: Float64Array, label: str, v: Float64Array) -> DirectionCheck:
    """All derivatives along v, and why they differ."""
    s = slopes(target, z, v, gradient)
    return DirectionCheck(label, s.adjoint, s.tangent, s.difference, s.uncertainty, reason(target, z, v, gradient, s))


def _worst(target: Target, z: Float64Array, gradient: Float64Array, count: int, rng: np.random.Generator) -> list[int]:
    """Entries of z with the largest disagreement from a plain central difference, among at most SCAN of them."""
    scan = rng.permutation(z.size)[:SCAN]
    gaps = []
    for i in scan:
        h = np.zeros(z.size)
        h[i] = max(1e-5, float(np.cbrt(target.tolerance))) * max(1.0, abs(z[i]))
        gaps.append(abs((target.value(z + h) - target.value(z - h)) / (2 * h[i]) - gradient[i]))
    order = np.argsort(np.nan_to_num(np.array(gaps), nan=np.inf, posinf=np.inf))[::-1]
    return [int(i) for i in scan[order][:count]]
