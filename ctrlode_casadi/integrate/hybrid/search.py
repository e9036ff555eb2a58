"""Where conditions of events change their sign: on sampled points first, then by simulating from the last one before.

A condition that is zero to rounding at the start of a phase, as that of an event which has just happened, has the sign
of what follows: of its time derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Iterations of one search; each but a few at least halves the bracket.
LIMIT = 120


@dataclass(frozen=True, eq=False)
class Crossings:
    """First changes of sign of some trajectories; one row per trajectory and event that may be the first.

    Attributes
    ----------
    row, event
        (k,) trajectory, and which event.
    interval
        (k,) index of the point before.
    fixed
        (k,) whether the condition jumps with the control at the point ``interval + 1``, not inside the interval.
    """

    row: IntArray
    event: IntArray
    interval: IntArray
    fixed: NDArray[np.bool_]


def first_crossings(values: Array, before: Array, valid: IntArray, directions: IntArray, jumps: bool) -> Crossings:
    """Find the first changes of sign.

    Parameters
    ----------
    values
        Conditions (m, S, E): at every point, or, with `jumps`, at the start and at the end of every interval in turn.
    before
        (m, E) sign just before the first point, 0 where it plays no part.
    valid
        (m,) number of points with a state.
    directions
        (E,) -1, 0 or 1.
    jumps
        Whether conditions may jump with the control at points.
    """
    m, n_values, n_events = values.shape
    if n_values < 2 or m == 0:
        none = np.zeros(0, np.int64)
        return Crossings(none, none, none, np.zeros(0, bool))
    signs = np.empty((m, 1 + n_values, n_events))
    np.sign(values, out=signs[:, 1:])
    signs[:, 0] = np.where(before == 0.0, signs[:, 1], before)
    known = np.where(valid > 1, 2 * (valid - 1) if jumps else valid, 0)
    place = np.arange(1 + n_values)
    within = place <= known[:, None]
    unclear = (within[:, :, None] & ~(np.abs(signs) > 0.0)).any(axis=(1, 2))
    if unclear.any():
        k = np.flatnonzero(unclear)
        upto = np.minimum(place, known[k, None])
        some = np.nan_to_num(np.concatenate([before[k, None], signs[k, 1:]], axis=1)).astype(np.int64)
        signs[k] = _filled(np.take_along_axis(some, upto[:, :, None], axis=1))
        within[k] = True
    change = (signs[:, :-1] * signs[:, 1:] < 0.0) & within[:, 1:, None]
    if directions.any():
        change &= (directions == 0) | (signs[:, 1:] * directions > 0.0)
    any_change = change.any(axis=1)
    first = np.where(any_change, change.argmax(axis=1), 1 + n_values)
    earliest = first.min(axis=1)
    row, event = np.nonzero(any_change & (first == earliest[:, None]))
    step = earliest[row]
    if not jumps:
        return Crossings(row, event, step - 1, step == 0)
    # Steps come in the order: onto point 0, across interval 0, onto point 1, across interval 1, ...
    fixed = step % 2 == 0
    return Crossings(row, event, np.where(fixed, step // 2 - 1, step // 2), fixed)


def _filled(signs: IntArray) -> IntArray:
    """Zeros get the sign that follows them; at the end, the opposite of the last one."""
    n = signs.shape[1]
    place = np.where(signs != 0, np.arange(n)[None, :, None], n)
    following = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
    known = np.where(signs != 0, np.arange(n)[None, :, None], -1)
    last = np.maximum.accumulate(known, axis=1)
    ahead = np.take_along_axis(signs, np.minimum(following, n - 1), axis=1)
    behind = -np.take_along_axis(signs, np.maximum(last, 0), axis=1)
    return np.where(following < n, ahead, np.where(last >= 0, behind, 0))


@dataclass(eq=False)
class Bracket:
    """Searches of k roots between `low` and `high` at once.

    Attributes
    ----------
    start
        (k,) where the simulations begin.
    low, high
        (k,) ends between which the sign changes.
    at_low, at_high
        (k,) conditions there.
    deflated
        (k,) whether the condition is zero at `start`, too: then that root is divided out, and `at_low` is the slope.
    room
        (k,) times closer than this are one and the same.
    """

    start: Array
    low: Array
    high: Array
    at_low: Array
    at_high: Array
    deflated: NDArray[np.bool_]
    room: Array


def find_roots(bracket: Bracket, probe: Callable[[IntArray, Array], tuple[Array, Array]]) -> Array:
    """Times of the roots (k,), by Newton's method inside a bracket that shrinks.

    Parameters
    ----------
    bracket
        Where to look.
    probe
        (indices, times) -> condition and its time derivative there, by simulation.
    """
    low, high, f_low, f_high = (v.copy() for v in (bracket.low, bracket.high, bracket.at_low, bracket.at_high))
    f_high = np.where(bracket.deflated, f_high / np.maximum(high - bracket.start, bracket.room), f_high)
    root = np.where(f_high == 0.0, high, _between(low, high, f_low, f_high))
    todo = np.flatnonzero((f_high != 0.0) & (high - low > bracket.room))
    width = high - low
    for sweep in range(LIMIT):
        if todo.size == 0:
            break
        t = np.clip(root[todo], bracket.start[todo] + bracket.room[todo], high[todo])
        g, rate = probe(todo, t)
        length = t - bracket.start[todo]
        flat = bracket.deflated[todo]
        f = np.where(flat, g / length, g)
        slope = np.where(flat, (rate - f) / length, rate)
        to_left = np.sign(f) == np.sign(f_low[todo])
        low[todo], f_low[todo] = np.where(to_left, t, low[todo]), np.where(to_left, f, f_low[todo])
        high[todo], f_high[todo] = np.where(to_left, high[todo], t), np.where(to_left, f_high[todo], f)
        with np.errstate(all="ignore"):
            new = t - f / slope
        inside = np.isfinite(new) & (new > low[todo]) & (new < high[todo])
        middle = _between(low[todo], high[todo], f_low[todo], f_high[todo])
        if sweep % 3 == 2:
            slow = high[todo] - low[todo] > 0.5 * width[todo]
            middle = np.where(slow, 0.5 * (low[todo] + high[todo]), middle)
            inside &= ~slow
            width[todo] = high[todo] - low[todo]
        close = np.abs(new - t) <= 0.25 * bracket.room[todo]
        done = (f == 0.0) | ~np.isfinite(f) | close | (high[todo] - low[todo] <= bracket.room[todo])
        root[todo] = np.where(f == 0.0, t, np.where(inside | close, new, middle))
        todo = todo[~done]
    return np.clip(root, bracket.start, bracket.high)


def cubic_roots(length: Array, left: Array, right: Array, left_rate: Array, right_rate: Array) -> tuple[Array, Array]:
    """Where the cubics with these values and slopes at 0 and `length` are zero (k,), and their curvature there.

    The values at both ends have different signs; where Newton's method leaves the interval, the root is that of the
    straight line.
    """
    a, b = length * left_rate, length * right_rate
    jump = right - left
    c2, c3 = 3.0 * jump - 2.0 * a - b, a + b - 2.0 * jump
    s = straight = -left / jump
    with np.errstate(all="ignore"):
        for _ in range(4):
            s = s - (left + s * (a + s * (c2 + s * c3))) / (a + s * (2.0 * c2 + s * 3.0 * c3))
    t = length * np.where((s > 0.0) & (s < 1.0), s, straight)
    curvature: Array = (2.0 * c2 + 6.0 * c3 * t / length) / length**2
    return t, curvature


def _between(low: Array, high: Array, f_low: Array, f_high: Array) -> Array:
    """Where the straight line through both ends is zero; the middle if that is not inside."""
    with np.errstate(all="ignore"):
        t = low - f_low * (high - low) / (f_high - f_low)
    good = np.isfinite(t) & (t > low) & (t < high)
    made: Array = np.where(good, t, 0.5 * (low + high))
    return made
