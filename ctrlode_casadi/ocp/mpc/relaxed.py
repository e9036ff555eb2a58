"""The problem with softened constraints, for states from which the hard ones cannot be met."""

from __future__ import annotations

from dataclasses import replace

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array
from ..definition import Definition, EndConstraint, PointConstraint, Soft, end_symbols, point_symbols
from ..shooting import bounded_states


def relaxed(d: Definition, weight: float) -> Definition:
    """Bounds of x and z, path, boundary and terminal constraints at the price of an exact l1 penalty.

    Bounds of the controls and integral constraints stay hard; constraints that are soft already keep their price.
    """
    soft = Soft(weight)
    path = [replace(c, soft=c.soft or soft) for c in d.path]
    function, lb, ub = bounded_states(d)
    if lb.size:
        path.append(PointConstraint(function, lb, ub, d.inside, soft, "state bounds", False))
    (which,) = np.nonzero(np.isfinite(d.z_lb) | np.isfinite(d.z_ub))
    if which.size:
        t, x, v, p = point_symbols(d)
        bounded = ca.Function("bounds", [t, x, v, p], [v[(d.nu + which).tolist()]], ["t", "x", "u", "p"], ["out"])
        limits = d.z_lb[which], d.z_ub[which]
        path.append(PointConstraint(bounded, *limits, d.inside, soft, "algebraic bounds", False, uses_algebraic=True))
    boundary = [replace(c, soft=c.soft or soft) for c in d.boundary]
    (fixed,) = np.nonzero(np.isfinite(d.x_end))
    if fixed.size:
        x0, xf, tf, p = end_symbols(d)
        end = ca.Function("terminal", [x0, xf, tf, p], [xf[fixed.tolist()]], ["x0", "xf", "tf", "p"], ["out"])
        boundary.append(EndConstraint(end, d.x_end[fixed], d.x_end[fixed], soft, "terminal state"))
    free: Float64Array = np.full(d.nx, np.nan)
    return replace(
        d,
        x_lb=np.full(d.nx, -np.inf),
        x_ub=np.full(d.nx, np.inf),
        z_lb=np.full(d.nz, -np.inf),
        z_ub=np.full(d.nz, np.inf),
        x_end=free,
        path=tuple(path),
        boundary=tuple(boundary),
    )


def can_relax(d: Definition) -> bool:
    """Whether there is anything to soften."""
    hard = [c.soft is None for c in d.path] + [c.soft is None for c in d.boundary]
    limits = (d.x_lb, d.x_ub, d.x_end, d.z_lb, d.z_ub)
    bounded = any(np.isfinite(values).any() for values in limits)
    return bool(bounded or any(hard))


def violated_bounds(d: Definition, x: Float64Array, tolerance: float = 1e-9) -> str:
    """Which hard bounds a state violates, as text; empty for none."""
    texts = []
    for i, name in enumerate(d.state_names):
        slack = tolerance * max(1.0, abs(float(x[i])))
        if x[i] < d.x_lb[i] - slack:
            texts.append(f"{name} = {x[i]:.6g} is below its lower bound {d.x_lb[i]:.6g}")
        elif x[i] > d.x_ub[i] + slack:
            texts.append(f"{name} = {x[i]:.6g} is above its upper bound {d.x_ub[i]:.6g}")
    return "; ".join(texts)
