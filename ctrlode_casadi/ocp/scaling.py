"""Scales of variables, constraints and objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call_rows, floats
from ..base.errors import DataError, unknown_name
from .definition import Definition, point_symbols
from .guess import Guess
from .reduction import Reduction

_KEYS = ("x", "u", "z", "p", "tf", "objective")

#: A setting besides True, False and sizes: as True, but sizes count fully, also those near one.
WIDE = "wide"
#: Factor by which a size may differ from one and still count as one; others are brought closer by it.
_NEAR_ONE = 16.0


@dataclass(frozen=True, eq=False)
class Scales:
    """Typical sizes: x (nx,), u (nu,), free parameters (n,), tf, of the objective, z (nz,) and algebraic equations."""

    x: Float64Array
    u: Float64Array
    p: Float64Array
    tf: float
    objective: float
    z: Float64Array
    algebraic: Float64Array


def is_automatic(scaling: bool | str | Mapping[str, Any]) -> bool:
    """Whether a setting leaves all sizes to the bounds and the guess."""
    return scaling is True or scaling == WIDE


def make_scales(r: Reduction, guess: Guess, scaling: bool | str | Mapping[str, Any]) -> Scales:
    """Typical sizes from bounds and guess, with those that the user gives.

    Parameters
    ----------
    r
        The problem.
    guess
        In its terms.
    scaling
        True, `WIDE`, False, or the user's sizes.

    Notes
    -----
    The size of a quantity is its largest magnitude in the guess, but at most the width of its bounds and at least a
    sixteenth of it; the width where the guess is zero, one without bounds. Such sizes are rough: bounds are often wide,
    and a guess is zero where nothing is known. So a size between 1/16 and 16 counts as one, and larger and smaller ones
    count a factor of 16 less, except with `WIDE`. Of published problems, collocation ends in fewer poor optima that
    way, and shooting with `WIDE`; these are what they take.

    Sizes are rounded to powers of two, so that scaling changes no digit. That of an equation is the largest change of
    its residual when a variable changes by its own size.
    """
    d = r.problem
    if scaling is False:
        return Scales(np.ones(d.nx), np.ones(d.nu), np.ones(d.free.size), 1.0, 1.0, np.ones(d.nz), np.ones(d.nz))
    given = _within(r, _checked(scaling, r)) if isinstance(scaling, Mapping) else {}
    near = 1.0 if scaling == WIDE else _NEAR_ONE
    fractions = np.linspace(0.0, 1.0, 101)
    x = _sizes(near, d.x_lb, d.x_ub, guess.x(fractions), np.stack([d.x_start, d.x_end]))
    u = _sizes(near, d.u_lb, d.u_ub, guess.u(fractions))
    z = _sizes(near, d.z_lb, d.z_ub, guess.z(fractions))
    p = _sizes(near, d.p_lb, d.p_ub, guess.p[d.free][None, :])
    tf = float(_sizes(near, np.array([-np.inf]), np.array([np.inf]), np.array([[abs(guess.tf - d.t0)]]))[0])
    x, u, p = (np.asarray(given.get(name, size)) for name, size in (("x", x), ("u", u), ("p", p)))
    if "z" in given:
        z = np.where(np.isnan(given["z"]), z, given["z"])
    return Scales(
        x,
        u,
        p,
        float(given.get("tf", tf)),
        float(given.get("objective", 1.0)),
        z,
        _equation_sizes(d, guess, np.concatenate([x, u, z])),
    )


def _equation_sizes(d: Definition, guess: Guess, sizes: Float64Array) -> Float64Array:
    """Sizes of the algebraic equations (nz,) at the guess, for variables (x, v) of some sizes."""
    if d.algebraic is None:
        return np.ones(0)
    at = np.linspace(0.0, 1.0, 11)
    t, x, v, p = point_symbols(d)
    changes = ca.jacobian(d.algebraic(t, x, v, p), ca.vertcat(x, v)) @ ca.diag(ca.DM(sizes))
    row, q = ca.MX.sym("row", 1 + sizes.size), ca.MX.sym("p", d.np)
    f = ca.Function("changes", [t, x, v, p], [ca.vec(ca.densify(ca.fabs(changes)))])
    flat = ca.Function("changes", [row, q], [f(row[0], row[1 : 1 + d.nx], row[1 + d.nx :], q)])
    rows = np.column_stack([d.t0 + at * (guess.tf - d.t0), guess.x(at), guess.u(at), guess.z(at)])
    found = call_rows(flat, rows, guess.p).reshape(at.size, sizes.size, d.nz)
    largest = np.where(np.isfinite(found), found, 0.0).max(axis=(0, 1))
    return np.asarray(2.0 ** np.round(np.log2(np.where(largest > 0.0, largest, 1.0))))


def _sizes(near: float, lb: Float64Array, ub: Float64Array, *samples: Float64Array) -> Float64Array:
    """Sizes of quantities from their bounds and values, by up to a factor `near` closer to one."""
    magnitude = np.zeros(lb.size)
    for sample in samples:
        magnitude = np.maximum(magnitude, np.nan_to_num(np.abs(sample)).max(axis=0, initial=0.0))
    width = ub - lb
    known = np.isfinite(width) & (width > 0)
    safe = np.where(known, width, 1.0)
    size = np.where(known & (magnitude > 0), np.clip(magnitude, safe / 16.0, safe), np.where(known, width, magnitude))
    power = np.round(np.log2(np.where(size > 0, size, 1.0)))
    return np.asarray(2.0 ** (np.sign(power) * np.maximum(np.abs(power) - np.log2(near), 0.0)))


def _within(r: Reduction, given: dict[str, Any]) -> dict[str, Any]:
    """The user's sizes in the terms of the smaller problem; NaN for what is left open of z."""
    inner, n = dict(given), r.algebraic.size
    if n or "z" in given:
        inner["z"] = np.full(r.problem.nz, np.nan)
        inner["z"][n:] = given.get("z", np.nan)
        inner["z"][:n] = given["x"][r.algebraic] if "x" in given else np.nan
    if "x" in given:
        inner["x"] = given["x"][r.kept] if r.coordinates is None else np.abs(r.coordinates) @ given["x"]
    return inner


def _checked(scaling: Mapping[str, Any], r: Reduction) -> dict[str, Any]:
    d = r.problem
    sizes = {"x": r.nx, "u": d.nu, "z": d.nz - r.algebraic.size, "p": d.free.size, "tf": 1, "objective": 1}
    result: dict[str, Any] = {}
    for key, value in scaling.items():
        if key not in _KEYS:
            raise DataError(unknown_name("scaling", key, _KEYS))
        array = np.asarray(floats(f"scaling[{key!r}]", value), dtype=np.float64)
        if array.ndim > 1 or (array.ndim == 1 and array.size != sizes[key]):
            raise DataError(f"scaling[{key!r}]: expected a number or {sizes[key]} of them, got shape {array.shape}")
        if np.any(array <= 0):
            raise DataError(f"scaling[{key!r}]: typical sizes must be positive, got {value!r}")
        result[key] = (
            np.broadcast_to(array, (sizes[key],)) if key in ("x", "u", "z", "p") else float(array.reshape(-1)[0])
        )
    return result
