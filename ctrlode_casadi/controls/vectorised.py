"""The functions of `kernels` in NumPy, with the same bits, and the choice between the two.

Numba takes half a second to load, which is longer than any small job takes here.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import formulas

Array = NDArray[Any]

#: Numbers in the result up to which NumPy is used as long as the jitted kernels are not loaded.
SMALL = 100_000


def implementation(size: int) -> Any:
    """The module that computes a result of `size` numbers: this one, or `kernels`."""
    if size <= SMALL and f"{__package__}.kernels" not in sys.modules:
        return sys.modules[__name__]
    from . import kernels

    return kernels


def _locate(
    t: Array, knots: Array, degree: int, side_right: bool, left: int, right: int
) -> tuple[Array, Array, Array, Array]:
    """Intervals, their lengths, local times and modes, (1 or B, m)."""
    first, last = knots[:, :1], knots[:, -1:]
    before, after, wrapped = formulas.outside(t, first, last, degree, side_right, left, right)
    if wrapped.any():
        t = np.where(wrapped, formulas.in_first_period(t, first, last, side_right), t)
    t = np.broadcast_to(t, before.shape)
    side: Any = "left" if side_right else "right"
    if knots.shape[0] == 1:
        found = np.searchsorted(knots[0], t, side)
    else:
        found = np.stack([np.searchsorted(row, times, side) for row, times in zip(knots, t)])
    intervals = np.clip(found - 1, 0, knots.shape[1] - 2)
    rows = np.arange(knots.shape[0])[:, None]
    start = knots[rows, intervals]
    modes = np.where(before, -1, np.where(after, 1, 0))
    return intervals, knots[rows, intervals + 1] - start, t - np.where(after, last, start), modes


def _weights(
    t: Array, knots: Array, degree: int, side_right: bool, left: int, right: int, order: int
) -> tuple[Array, Array]:
    """Intervals (1 or B, m) and the four weights (4, 1 or B, m)."""
    intervals, h, s, modes = _locate(t, knots, degree, side_right, left, right)
    out = np.empty((4, *s.shape))
    for mode in (-1, 0, 1):
        which = modes == mode
        if which.any():
            ends = formulas.ends(mode, degree, side_right, left, right)
            parts = formulas.weights(s[which], h[which], mode, degree, *ends, order)
            for row, part in zip(out, parts):
                row[which] = part
    return intervals, out


def evaluate(
    t: Array,
    knots: Array,
    values: Array,
    slopes: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    order: int,
    out: Array,
) -> None:
    """Fill out (B, m, nu) at times t (1 or B, m)."""
    if out.size == 0:
        return
    with np.errstate(all="ignore"):
        i, weights = _weights(t, knots, degree, side_right, left, right, order)
        w0, w1, z0, z1 = weights[..., None]

        def at(array: Array, index: Array) -> Array:
            if index.shape[0] == 1:
                return array.take(index[0], axis=1)
            return array[np.arange(array.shape[0])[:, None], index]

        u = w0 * at(values, i) + w1 * at(values, i + 1)
        if degree == 3:
            u += z0 * at(slopes, i) + z1 * at(slopes, i + 1)
        out[...] = u


def evaluate_adjoint(
    t: Array,
    knots: Array,
    u_bar: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    values_bar: Array,
    slopes_bar: Array,
) -> None:
    """Transpose of `evaluate` at order 0: adds to values_bar and slopes_bar (Bv, K, nu), Bv = 1 or B."""
    if u_bar.size == 0:
        return
    with np.errstate(all="ignore"):
        i, weights = _weights(t, knots, degree, side_right, left, right, 0)
        w0, w1, z0, z1 = weights[..., None]
        _scatter(values_bar, (i, w0 * u_bar), (i + 1, w1 * u_bar))
        if degree == 3:
            _scatter(slopes_bar, (i, z0 * u_bar), (i + 1, z1 * u_bar))


def _groups(
    intervals: Array, modes: Array, degree: int, side_right: bool, left: int, right: int
) -> list[tuple[slice, Any, Any, tuple[int, int, bool, bool]]]:
    """Pieces of the same mode: which ones, the knots at their left and right, and the flags of the formulas."""
    bounds = [0, *np.searchsorted(modes, (0, 1)).tolist(), modes.size]
    out: list[tuple[slice, Any, Any, tuple[int, int, bool, bool]]] = []
    for mode, start, stop in zip((-1, 0, 1), bounds, bounds[1:]):
        if stop > start:
            flags = (mode, degree, *formulas.ends(mode, degree, side_right, left, right))
            knots = intervals[start:stop]
            low, high = int(knots[0]), int(knots[-1]) + 1
            if high - low == stop - start:
                out.append((slice(start, stop), slice(low, high), slice(low + 1, high + 1), flags))
            else:
                out.append((slice(start, stop), knots, knots + 1, flags))
    return out


def coefficients(
    knots: Array,
    values: Array,
    slopes: Array,
    intervals: Array,
    modes: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    out: Array,
) -> None:
    """Fill out (b, Nb, nu, degree + 1), ascending powers of t - anchor; modes ascend, as those of a span do."""
    values = values.astype(np.float64, copy=False)
    slopes = slopes.astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        for which, i, k, flags in _groups(intervals, modes, degree, side_right, left, right):
            h = (knots[:, k] - knots[:, i])[..., None]
            d0, d1 = (slopes[:, i], slopes[:, k]) if degree == 3 else (0.0, 0.0)
            parts = formulas.powers(values[:, i], values[:, k], d0, d1, h, *flags)
            for j in range(degree + 1):
                out[:, which, :, j] = parts[j]


def coefficients_adjoint(
    knots: Array,
    coef_bar: Array,
    intervals: Array,
    modes: Array,
    degree: int,
    side_right: bool,
    left: int,
    right: int,
    values_bar: Array,
    slopes_bar: Array,
) -> None:
    """Transpose of `coefficients`: adds to values_bar (b, K, nu) and slopes_bar (b, K, nu)."""
    with np.errstate(all="ignore"):
        for which, i, k, flags in _groups(intervals, modes, degree, side_right, left, right):
            h = (knots[:, k] - knots[:, i])[..., None]
            c1, c2, c3 = (coef_bar[:, which, :, j] if j <= degree else 0.0 for j in (1, 2, 3))
            rise, d0, d1 = formulas.powers_adjoint(c1, c2, c3, h, *flags)
            origin = coef_bar[:, which, :, 0]
            at_left, at_right = (0.0, origin) if flags[3] else (origin, 0.0)
            _add_ends(values_bar, i, k, (at_left, -rise), (at_right, rise), origin.shape)
            if degree == 3:
                _add_ends(slopes_bar, i, k, (d0,), (d1,), origin.shape)


def _add_ends(bar: Array, i: Any, k: Any, lefts: Any, rights: Any, shape: tuple[int, ...]) -> None:
    """Add (b, n, nu) at the left knots i and the right knots k of pieces; a number stands for an array of it."""
    if isinstance(i, slice):
        for part in rights:
            bar[:, k] += part
        for part in lefts:
            bar[:, i] += part
    else:
        terms = [(index[None], np.broadcast_to(p, shape)) for index, parts in ((i, lefts), (k, rights)) for p in parts]
        _scatter(bar, *terms)


def _scatter(bar: Array, *terms: tuple[Array, Array]) -> None:
    """Add terms (B, n, nu) at knots (1 or B, n) to bar (1 or B, K, nu), in the order in which loops do it."""
    knots = np.stack(np.broadcast_arrays(*(k for k, _ in terms)), axis=-1)
    amounts = np.stack([a for _, a in terms], axis=2)
    rows, components = np.arange(bar.shape[0]), np.arange(bar.shape[2])
    flat = (rows[:, None, None] * bar.shape[1] + knots)[..., None] * bar.shape[2] + components
    flat = np.broadcast_to(flat, amounts.shape)
    where = np.concatenate([np.arange(bar.size), flat.ravel()])
    bar[...] = np.bincount(where, np.concatenate([bar.ravel(), amounts.ravel()]), bar.size).reshape(bar.shape)
