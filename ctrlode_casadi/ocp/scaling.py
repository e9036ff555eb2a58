"""Scales of variables, constraints and objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError, unknown_name
from .definition import Definition
from .guess import Guess

_KEYS = ("x", "u", "p", "tf", "objective")


@dataclass(frozen=True, eq=False)
class Scales:
    """Typical sizes: x (nx,), u (nu,), free parameters (n,), tf, and of the objective."""

    x: Float64Array
    u: Float64Array
    p: Float64Array
    tf: float
    objective: float


def make_scales(d: Definition, guess: Guess, scaling: bool | Mapping[str, Any]) -> Scales:
    """Typical sizes from bounds and guess, with those that the user gives.

    The size of a quantity is its largest magnitude in the guess, but at most the width of its bounds and at least a
    sixteenth of it; the width where the guess is zero, one without bounds. Sizes are rounded to powers of two, so
    that scaling changes no digit.
    """
    if scaling is False:
        return Scales(np.ones(d.nx), np.ones(d.nu), np.ones(d.free.size), 1.0, 1.0)
    given = {} if scaling is True else _checked(scaling, d)
    fractions = np.linspace(0.0, 1.0, 101)
    x = _sizes(d.x_lb, d.x_ub, guess.x(fractions), np.stack([d.x_start, d.x_end]))
    u = _sizes(d.u_lb, d.u_ub, guess.u(fractions))
    p = _sizes(d.p_lb, d.p_ub, guess.p[d.free][None, :])
    tf = float(_sizes(np.array([-np.inf]), np.array([np.inf]), np.array([[abs(guess.tf - d.t0)]]))[0])
    return Scales(
        np.asarray(given.get("x", x)),
        np.asarray(given.get("u", u)),
        np.asarray(given.get("p", p)),
        float(given.get("tf", tf)),
        float(given.get("objective", 1.0)),
    )


def _sizes(lb: Float64Array, ub: Float64Array, *samples: Float64Array) -> Float64Array:
    magnitude = np.zeros(lb.size)
    for sample in samples:
        magnitude = np.maximum(magnitude, np.nan_to_num(np.abs(sample)).max(axis=0, initial=0.0))
    width = ub - lb
    known = np.isfinite(width) & (width > 0)
    safe = np.where(known, width, 1.0)
    size = np.where(known & (magnitude > 0), np.clip(magnitude, safe / 16.0, safe), np.where(known, width, magnitude))
    size = np.where(size > 0, size, 1.0)
    return np.asarray(2.0 ** np.round(np.log2(size)))


def _checked(scaling: Mapping[str, Any], d: Definition) -> dict[str, Any]:
    sizes = {"x": d.nx, "u": d.nu, "p": d.free.size, "tf": 1, "objective": 1}
    result: dict[str, Any] = {}
    for key, value in scaling.items():
        if key not in _KEYS:
            raise DataError(unknown_name("scaling", key, _KEYS))
        array = np.asarray(floats(f"scaling[{key!r}]", value), dtype=np.float64)
        if array.ndim > 1 or (array.ndim == 1 and array.size != sizes[key]):
            raise DataError(f"scaling[{key!r}]: expected a number or {sizes[key]} of them, got shape {array.shape}")
        if np.any(array <= 0):
            raise DataError(f"scaling[{key!r}]: typical sizes must be positive, got {value!r}")
        result[key] = np.broadcast_to(array, (sizes[key],)) if key in ("x", "u", "p") else float(array.reshape(-1)[0])
    return result
