"""Which pieces of a control cover a time span: knot intervals, extrapolating pieces, unrolled periods.

Pieces carry integer numbers. Number q in 0 ... K-2 is the interval between knots q and q+1. A rule other than
"periodic" adds one piece beyond that end, number -1 or K-1. "periodic" continues the numbers: q is interval
q mod (K-1), shifted by floor(q / (K-1)) periods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..base.errors import ControlError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Span:
    """Consecutive pieces: interval, mode (-1 before all knots, 0, 1 after), breaks and anchors per row."""

    intervals: IntArray
    modes: IntArray
    breaks: Float64Array
    anchors: Float64Array
    stops: NDArray[np.bool_]


def slack(first: NDArray[Any] | float, last: NDArray[Any] | float) -> Any:
    """How far beyond the knots a time still counts as inside: round-off of times computed another way."""
    return 8.0 * np.finfo(np.float64).eps * np.maximum(np.abs(first), np.abs(last))


def check_range(t_min: Any, t_max: Any, knots: Float64Array, rules: tuple[str, str], first_row: int = 0) -> None:
    """Refuse times outside the knots where the rule of that side is "error", row by row."""
    first, last = knots[:, 0], knots[:, -1]
    room = slack(first, last)
    early = (t_min < first - room) if rules[0] == "error" else np.zeros(1, bool)
    late = (t_max > last + room) if rules[1] == "error" else np.zeros(1, bool)
    for outside, times in ((early, t_min), (late, t_max)):
        if np.any(outside):
            b = int(np.argmax(outside))
            row = b if knots.shape[0] > 1 else 0
            which = f" of trajectory {first_row + b}" if np.size(outside) > 1 else ""
            t = float(np.broadcast_to(times, np.shape(outside))[b])
            raise ControlError(
                f"t: {t!r} lies outside the control's range [{first[row]!s}, {last[row]!s}]{which}, and "
                "extrapolation is 'error'; keep the times within the knots, or pass "
                "extrapolation='hold', 'linear' or 'periodic' (or a pair (left, right))"
            )


def _number(t: float, knots: Float64Array, rules: tuple[str, str], from_left: bool) -> int:
    """Number of the piece that holds t; at a break the piece to the right, or to the left if `from_left`."""
    n = knots.size - 1
    first, last = knots[0], knots[-1]
    below = t <= first if from_left else t < first
    above = t > last if from_left else t >= last
    cycle = 0
    if (below and rules[0] == "periodic") or (above and rules[1] == "periodic"):
        turns = (t - first) / (last - first)
        cycle = int(np.ceil(turns)) - 1 if from_left else int(np.floor(turns))
        t = t - cycle * (last - first)
    elif below:
        return 0 if rules[0] == "error" else -1
    elif above:
        return n - 1 if rules[1] == "error" else n
    inside = int(np.searchsorted(knots, t, side="left" if from_left else "right")) - 1
    return cycle * n + min(max(inside, 0), n - 1)


def _breaks(numbers: IntArray, knots: Float64Array, rules: tuple[str, str], t0: float, t1: float) -> Float64Array:
    """Left ends of the pieces `numbers` for each row of knots (b, K); the last number closes the sequence."""
    n = knots.shape[1] - 1
    period = knots[:, -1:] - knots[:, :1]
    cycles = np.floor_divide(numbers, n)
    out = knots[:, np.mod(numbers, n)] + cycles * period
    if rules[0] != "periodic":
        out[:, numbers == 0] = knots[:, :1]
        before = np.where(knots[:, :1] > t0, t0, knots[:, :1] - (knots[:, 1:2] - knots[:, :1]))
        out[:, numbers == -1] = before
    if rules[1] != "periodic":
        out[:, numbers == n] = knots[:, -1:]
        after = np.where(knots[:, -1:] < t1, t1, knots[:, -1:] + (knots[:, -1:] - knots[:, -2:-1]))
        out[:, numbers == n + 1] = after
    return out


def cover(
    knots: Float64Array, t0: float, t1: float, rules: tuple[str, str], stop_at_knots: bool, smooth_period: bool
) -> Span:
    """The pieces that cover [t0, t1] for every row of knots (b, K)."""
    n = knots.shape[1] - 1
    first = min((_number(t0, row, rules, False) for row in knots), default=0)
    last = max(first, max((_number(t1, row, rules, True) for row in knots), default=n - 1))
    low = None if rules[0] == "periodic" else (0 if rules[0] == "error" else -1)
    high = None if rules[1] == "periodic" else (n - 1 if rules[1] == "error" else n)
    breaks = _breaks(np.arange(first, last + 2), knots, rules, t0, t1)
    while (low is None or first > low) and np.any(breaks[:, 0] > t0):
        first -= 1
        breaks = _breaks(np.arange(first, last + 2), knots, rules, t0, t1)
    while (high is None or last < high) and np.any(breaks[:, -1] < t1):
        last += 1
        breaks = _breaks(np.arange(first, last + 2), knots, rules, t0, t1)
    numbers = np.arange(first, last + 1)
    modes = np.zeros(numbers.size, np.int64)
    if rules[0] != "periodic":
        modes[numbers < 0] = -1
    if rules[1] != "periodic":
        modes[numbers >= n] = 1
    intervals = np.where(modes == 0, np.mod(numbers, n), np.where(modes < 0, 0, n - 1))
    anchors = np.where(modes < 0, knots[:, :1], breaks[:, :-1])
    if low == first:
        breaks[:, 0] = np.minimum(breaks[:, 0], t0)
    if high == last:
        breaks[:, -1] = np.maximum(breaks[:, -1], t1)
    stops = _stops(np.arange(first, last + 2), n, rules, stop_at_knots, smooth_period)
    for array in (breaks, anchors, stops):
        array.flags.writeable = False
    return Span(intervals, modes, breaks, anchors, stops)


def _stops(numbers: IntArray, n: int, rules: tuple[str, str], every: bool, smooth: bool) -> NDArray[np.bool_]:
    """Breaks at which value, slope or curvature may jump: every one, or where extrapolation begins."""
    if every:
        return np.ones(numbers.size, bool)
    kink = {"error": False, "hold": True, "linear": True, "periodic": not smooth}
    left = (numbers == 0) if rules[0] != "periodic" else (numbers <= 0) & (numbers % n == 0)
    right = (numbers == n) if rules[1] != "periodic" else (numbers >= n) & (numbers % n == 0)
    return (left & kink[rules[0]]) | (right & kink[rules[1]])
