"""From save times and a control's pieces to the calls of an integrator, one for each control interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...base.arrays import Float64Array

#: A trajectory with more different output grids than this ends a call at every save time instead.
MOST_GRIDS = 8


@dataclass(frozen=True)
class Call:
    """One call of an integrator.

    Attributes
    ----------
    start, length
        Its interval of time.
    piece
        Index of the control's polynomial.
    first, last
        Save times ``first <= m < last`` lie in it, the start excluded.
    grid
        Its output times as fractions of the length, the last is 1; there is one more than save times where the
        interval does not end with one.
    """

    start: float
    length: float
    piece: int
    first: int
    last: int
    grid: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Track:
    """One trajectory, seen by an integrator.

    Attributes
    ----------
    calls
        The calls, n.
    theta
        Parameters of each call [p; C; a; L], (n, np + nu powers + 2).
    maps
        From a control's coefficients to those of each call, (n, powers, powers).
    change
        Changes of the coefficients in theta, (n, nu powers); only where controls came with a change.
    times, saved
        Save times (T,), and for a DAE the controls reported there, (T, nu), with their changes behind, (T, 2 nu).
    p
        Parameters (np,).
    """

    calls: list[Call]
    theta: Float64Array
    maps: Float64Array
    change: Float64Array
    times: Float64Array
    saved: Float64Array
    p: Float64Array

    @property
    def powers(self) -> int:
        """Coefficients of a control on an interval."""
        return int(self.maps.shape[1])

    def control(self, k: int, fraction: float, nu: int) -> Float64Array:
        """u at a fraction of call k."""
        n = self.theta.shape[1] - 2 - nu * self.powers
        made: Float64Array = fraction ** np.arange(self.powers) @ self.theta[k, n:-2].reshape(self.powers, nu)
        return made


def plan_calls(ts: Float64Array, breaks: Float64Array, split: bool) -> list[Call]:
    """The calls for the save times (T,) of one trajectory.

    Parameters
    ----------
    ts
        Save times, increasing.
    breaks
        Ends of the control's pieces, increasing; those beyond the save times are ignored.
    split
        Whether every save time ends a call. Without, an interval's save times are outputs of one call, unless the
        trajectory then needs too many different output grids, each an integrator of its own, or two of its times
        are too close for a grid.
    """
    calls = _calls(ts, breaks, split)
    grids = {call.grid for call in calls}
    close = any(np.any(np.diff(grid, prepend=0.0) <= 0.0) for grid in grids)
    if not split and (close or len(grids) > MOST_GRIDS):
        calls = _calls(ts, breaks, True)
    return calls


def _calls(ts: Float64Array, breaks: Float64Array, split: bool) -> list[Call]:
    calls: list[Call] = []
    t, end, m, last = float(ts[0]), float(ts[-1]), 1, breaks.size - 2
    q = int(np.clip(np.searchsorted(breaks, t, side="right") - 1, 0, last))
    while m < ts.size:
        while q < last and breaks[q + 1] <= t + _slack(t):
            q += 1
        stop = end if q == last else min(float(breaks[q + 1]), end)
        if end - stop <= _slack(end):
            stop = end
        if split and ts[m] <= stop + _slack(stop):
            stop = float(ts[m])
        due = m + int(np.searchsorted(ts[m:], stop + _slack(stop), side="right"))
        length = stop - t
        digits = int(np.clip(-math.log10(4e-16 * max(abs(t), abs(stop)) / length + 1e-300) - 1, 6, 14))
        inner = [round((float(v) - t) / length, digits) for v in ts[m:due]]
        if inner and inner[-1] >= 1.0 - 10.0**-digits:
            inner[-1] = 1.0
        else:
            inner.append(1.0)
        calls.append(Call(t, length, q, m, due, tuple(inner)))
        t, m = stop, due
    return calls


def _slack(t: float) -> float:
    """Distance below which two times are one and the same, as in the compiled sweeps."""
    return 1.8e-15 * abs(t)


def local_powers(calls: list[Call], anchors: Float64Array, powers: int) -> Float64Array:
    """Matrices M (calls, powers, powers): coefficients c of ``t - anchor`` are ``c @ M`` in the fraction s of a call.

    (a - anchor + L s)^j = sum_k binom(j, k) (a - anchor)^(j - k) L^k s^k.
    """
    shift = np.array([call.start - anchors[call.piece] for call in calls])
    length = np.array([call.length for call in calls])
    out = np.zeros((len(calls), powers, powers))
    for j in range(powers):
        for k in range(j + 1):
            out[:, j, k] = math.comb(j, k) * shift ** (j - k) * length**k
    return out
