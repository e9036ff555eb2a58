"""Why derivatives of a function along a direction differ: reasons are tried, and named only if they explain the gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...base.arrays import Float64Array
from .targets import Target

#: Levels of Richardson's extrapolation, each with half the step.
LEVELS = 10
#: How often a step at which a trajectory fails is made smaller, and how much.
FAILURES, SHRINK = 12, 8.0
#: Levels after which the extrapolation ends where it becomes worse, and how much worse.
LEAST, WORSE = 4, 4.0
#: Difference from the gradient, in tolerances of the solver, that the choice of adaptive steps may explain.
TOLERANCES = 1e4
#: Largest part of the gradient that it may explain, whatever the tolerance.
LARGEST = 0.02
#: How the reason for a difference within the tolerance begins.
ADAPTIVE = "adaptive steps"
#: How the reason begins where all numbers agree.
AGREE = "agree"


def richardson(target: Target, z: Float64Array, v: Float64Array, first: float, noise: float) -> tuple[float, float]:
    """Derivative along v by Ridders' extrapolation of central differences, and its estimated error.

    C. J. F. Ridders, Adv. Eng. Software 4 (1982) 75. Where a trajectory fails, steps shrink until none does.
    `noise` is the error of the function itself, from the choice of steps: it counts ``noise / step``, so that large
    steps are preferred, and ends the extrapolation where smaller ones cannot be better.
    """
    best, error = float("nan"), float("inf")
    previous: list[float] = []
    step, levels, failures = first, 0, 0
    while levels < LEVELS and failures <= FAILURES and noise / step < error:
        row = [(target.value(z + step * v) - target.value(z - step * v)) / (2 * step)]
        if not np.isfinite(row[0]):
            previous, failures, step = [], failures + 1, step / SHRINK
            continue
        blur, levels, step = noise / step, levels + 1, step / 2
        for j, coarse in enumerate(previous):
            row.append(row[j] + (row[j] - coarse) / (4.0 ** (j + 1) - 1))
            guess = max(abs(row[j + 1] - row[j]), abs(row[j + 1] - coarse)) + blur
            if guess < error:
                best, error = row[j + 1], guess
        if len(row) > LEAST and abs(row[-1] - previous[-1]) >= WORSE * error:
            break
        previous = row
    return best, error


@dataclass(frozen=True)
class Steps:
    """How far differences may go.

    Attributes
    ----------
    first
        Largest step of the differences.
    change
        What happens otherwise with a larger step; empty if nothing does.
    smooth
        Whether the same happens with the step.
    """

    first: float
    change: str = ""
    smooth: bool = True


def steps_of(target: Target, z: Float64Array, v: Float64Array) -> Steps:
    """The largest step along v within which the same events happen in the same order."""
    step, change = first_step(target, z, v), ""
    course = target.course(z)
    if course is None:
        return Steps(step)
    for _ in range(FAILURES):
        found = [course.change(target.course(z + sign * step * v)) for sign in (1.0, -1.0)]
        if not any(found):
            return Steps(step, change)
        change, step = next(filter(None, found)), step / SHRINK
    return Steps(step, change, False)


@dataclass(frozen=True)
class Slopes:
    """Derivatives along one direction.

    Attributes
    ----------
    adjoint, tangent, difference, uncertainty
        From the gradient, a forward sweep and extrapolated differences, and the estimated error of these.
    scale
        Length of the gradient.
    steps
        Steps of the differences.
    """

    adjoint: float
    tangent: float
    difference: float
    uncertainty: float
    scale: float
    steps: Steps

    @property
    def size(self) -> float:
        """What differences are relative to."""
        return max(abs(self.adjoint), abs(self.tangent), 1e-6 * self.scale, 1e-300)

    @property
    def gap(self) -> float:
        """Distance of adjoint and finite difference."""
        return abs(self.adjoint - self.difference)


def first_step(target: Target, z: Float64Array, v: Float64Array) -> float:
    """Largest step of the differences."""
    return (0.1 if target.single or target.tolerance > 0 else 1e-2) * max(1.0, float(np.abs(z * v).max()))


def slopes(target: Target, z: Float64Array, v: Float64Array, gradient: Float64Array) -> Slopes:
    """All derivatives along v."""
    scale = float(np.linalg.norm(gradient))
    with np.errstate(invalid="ignore"):
        along = float(gradient @ v)
    steps = steps_of(target, z, v)
    difference = richardson(target, z, v, steps.first, target.tolerance * scale)
    return Slopes(along, target.along(z, v), *difference, scale, steps)


def reason(target: Target, z: Float64Array, v: Float64Array, gradient: Float64Array, s: Slopes) -> str:
    """Whether all agree, else why they do not."""
    apart, exact = abs(s.adjoint - s.tangent), 1e-3 if target.single else 1e-8
    if target.continuous:
        exact = max(exact, min(TOLERANCES * target.tolerance, 0.1))
    if not np.isfinite([s.adjoint, s.tangent]).all():
        return "the derivative is infinite or NaN here, as that of sqrt(x) at 0; move p, or write the model without it"
    if not apart <= exact * s.size:
        return _sweeps_differ(target, z, v, s, apart / s.size)
    if s.steps.change:
        found = _events(target, s)
        if found:
            return found
    if not np.isfinite(s.difference):
        return f"no finite difference, trajectories fail nearby: {target.failure}"
    if s.gap / s.size <= (1e-2 if target.single else 1e-7):
        return AGREE if target.tolerance > 0 else _kink_between(target, z, v, s) or AGREE
    if target.tolerance > 0:
        found = _adaptive(target, z, v, s)
        if found:
            return found
    return _scale(target, z, v, gradient, s) or _kink(target, z, v, s) or _unknown(s)


def _sweeps_differ(target: Target, z: Float64Array, v: Float64Array, s: Slopes, relative: float) -> str:
    """Adjoint and tangent sweep are both exact derivatives of the steps taken, except where an integrator's are not."""
    text = f"adjoint and tangent sweep differ by {relative:.1e}"
    kinds = target.uncontrolled()
    if kinds:
        return (
            f"{text}: quadrature not under error control: the adjoint of {kinds} integrates the gradient with respect "
            f"to parameters without choosing steps for it; set quad_err_con=True (cvodes), make the parameters "
            f"states with zero derivative, or use forward sensitivities or another integrator"
        )
    tight = target.tighter()
    if tight is not None:
        other = abs(float(tight.pair(z)[1] @ v) - tight.along(z, v))
        if other <= 0.1 * relative * s.size:
            return f"{text}: tolerance too loose, with a thousandth of it they differ by {other / s.size:.1e}"
    return f"{text}: please report this"


def _events(target: Target, s: Slopes) -> str:
    """Whether differences agree with steps within which the same events happen; empty if they do not."""
    if not s.steps.smooth:
        return f"p lies where events change: {s.steps.change}; the value has a kink or a jump there"
    limit = max(1e-2 if target.single else 1e-7, min(TOLERANCES * target.tolerance, LARGEST))
    if s.gap <= max(limit * max(s.size, s.scale), 10 * s.uncertainty):
        return f"{AGREE} with steps up to {s.steps.first:.0e}; with larger ones {s.steps.change}"
    return ""


def _adaptive(target: Target, z: Float64Array, v: Float64Array, s: Slopes) -> str:
    """Whether the choice of steps explains the gap."""
    explained = f"{ADAPTIVE} change with p{_counts(target, z, v)}, see below"
    if s.gap <= min(TOLERANCES * target.tolerance, LARGEST) * s.scale:
        return explained
    tight = target.tighter()
    better = s.adjoint if tight is None else float(tight.pair(z)[1] @ v)
    if abs(better - s.adjoint) > max(0.1 * s.gap, LARGEST * s.size):
        return (
            f"tolerance too loose: with a thousandth of it the derivative is {better:.3e}, not {s.adjoint:.3e}"
            f"{_counts(target, z, v)}"
        )
    return explained if s.gap <= 10 * s.uncertainty else ""


def _counts(target: Target, z: Float64Array, v: Float64Array) -> str:
    """How the number of steps changes along the direction, in words; empty if it does not."""
    h = first_step(target, z, v)
    counts = [target.steps(z + sign * h * v) for sign in (-1.0, 0.0, 1.0)]
    if None in counts or len(set(counts)) == 1:
        return ""
    return f" (step sequence changed: {counts[0]}, {counts[1]}, {counts[2]} steps at -{h:.0e}, 0, {h:.0e})"


def _scale(target: Target, z: Float64Array, v: Float64Array, gradient: Float64Array, s: Slopes) -> str:
    """Whether differences agree with steps of the size of each entry of z."""
    sizes = np.abs(z)
    touched = (v != 0) & (sizes > 0)
    if not touched.any():
        return ""
    own = np.where(touched, v * sizes, 0.0)
    length, usual = float(np.abs(own).max()), first_step(target, z, v)
    adjoint = float(gradient @ own) / length
    difference, _ = richardson(target, z, own / length, 1e-2 * length, target.tolerance * s.scale)
    limit = (1e-2 if target.single else 1e-7) * max(abs(adjoint), 1e-300)
    if not abs(adjoint - difference) <= limit or 1e-2 * length > 0.1 * usual:
        return ""
    worst = int(np.argmin(np.where(touched, sizes, np.inf)))
    return (
        f"{AGREE} with steps of the parameters' own size (bad parameter scale: {target.names()[worst]} is "
        f"{z[worst]:.1e}, steps of {usual:.0e} are too large); write it as {sizes[worst]:.0e} times a parameter near 1"
    )


def _kink(target: Target, z: Float64Array, v: Float64Array, s: Slopes) -> str:
    """Whether the function has kinks near z, and which branch changes."""
    step, nearest = _nearest(target, z, v, s.adjoint)
    near = nearest <= 0.1 * s.gap
    jump = 0.0 if near else _jump(target, z, v)
    if not near and not jump > 0.1 * s.gap:
        step = _step(target, z, v)
        return f"p lies on a jump: values ahead and behind differ by {step:.1e}{_branch(target, z, v)}" if step else ""
    where = _branch(target, z, v)
    if near:
        return (
            f"kinks of the model or cost near p: plain differences come within {nearest / s.size:.1e} at step "
            f"{step:.0e}, extrapolation does not help{where}"
        )
    return _on_kink(jump, where)


def _kink_between(target: Target, z: Float64Array, v: Float64Array, s: Slopes) -> str:
    """Whether z lies on a kink whose slopes to both sides have the adjoint as their mean, as |x| at zero."""
    jump = _jump(target, z, v)
    return _on_kink(jump, _branch(target, z, v)) if jump > 1e-3 * max(s.size, s.scale) else ""


def _on_kink(jump: float, where: str) -> str:
    return f"p lies on a kink: slopes ahead and behind differ by {jump:.1e}, and the adjoint takes one value{where}"


def _branch(target: Target, z: Float64Array, v: Float64Array) -> str:
    """The branch that changes around z, nearest first, as the end of a sentence."""
    width = max(1e-5, float(np.sqrt(target.tolerance)))
    widths = (width, 10 * width, first_step(target, z, v))
    where = next(filter(None, (target.switch(z - h * v, z + h * v) for h in widths)), "")
    return f"; {where}" if where else ""


def _step(target: Target, z: Float64Array, v: Float64Array) -> float:
    """How far values on both sides of z stay apart as the distance shrinks; zero for a function without a jump."""
    least = max(1e-5, float(np.sqrt(target.tolerance)))
    wide, close = (abs(target.value(z + h * v) - target.value(z - h * v)) for h in (10 * least, least))
    noise = 100 * max(target.tolerance, 1e-12) * abs(target.value(z))
    return close if max(0.5 * wide, noise) < close < 2 * wide else 0.0


def _unknown(s: Slopes) -> str:
    if s.gap <= 10 * s.uncertainty:
        return "rounding: the finite difference itself is no better than this"
    return f"differ by {s.gap / s.size:.1e} without a known reason: check for jumps of the model in p"


def _nearest(target: Target, z: Float64Array, v: Float64Array, adjoint: float) -> tuple[float, float]:
    """Step at which a plain central difference comes nearest to the adjoint, and how near."""
    gaps = {}
    steps = np.array([1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
    for step in np.unique(np.maximum(steps, np.sqrt(target.tolerance))):
        slope = (target.value(z + step * v) - target.value(z - step * v)) / (2 * step)
        gaps[step] = abs(slope - adjoint) if np.isfinite(slope) else float("inf")
    best = min(gaps, key=lambda h: gaps[h])
    return best, gaps[best]


def _jump(target: Target, z: Float64Array, v: Float64Array) -> float:
    """How far one-sided differences stay apart as the step shrinks; zero for a smooth function.

    They shrink with the step where the function is smooth, and grow where there is only noise.
    """
    value = target.value(z)
    least = max(1e-5, float(np.sqrt(target.tolerance)))
    gaps = []
    for h in (10 * least, least):
        gaps.append(abs(target.value(z + h * v) - 2 * value + target.value(z - h * v)) / h)
    return gaps[1] if 0.5 * gaps[0] < gaps[1] < 2 * gaps[0] else 0.0
