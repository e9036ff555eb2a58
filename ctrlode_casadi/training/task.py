"""What a fit is given, checked, and the variables that optimisers see: free parameters in units of their size."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError
from ..fitting.objective import Objective
from ..model.init import zeros
from ..model.layout import Leaf, ParameterLayout
from ..model.tree import ParameterTree
from .bounds import read_bounds

#: A gradient promises much if it predicts a larger change than this part of the value, and of the typical one.
PROMISING, NEGLIGIBLE = 1e-2, 1e-6
#: Parameters whose size at the start lies between these are not scaled.
ORDER_ONE = (1e-2, 1e2)
#: Numbers of one block whose sizes differ by more than this factor have a unit each.
APART = 1e3
#: A longer block with entries of order one is taken for weights, of which a few are always small.
MOST_APART = 32


@dataclass(frozen=True, eq=False)
class Task:
    """A fit, checked.

    Optimisers work on z: the parameters with room between their bounds, divided by `scale`.

    Attributes
    ----------
    objective
        What is minimised.
    method
        Name of the method, as in the table.
    p0
        Start (n,) with n = np_total.
    lb, ub
        Bounds (n,), infinite where there is none.
    scale
        Unit of each parameter (n,), positive.
    maxiter
        Limit on iterations.
    options
        The method's own settings.
    """

    objective: Objective
    method: str
    p0: Float64Array
    lb: Float64Array
    ub: Float64Array
    scale: Float64Array
    maxiter: int
    options: dict[str, Any]

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Parameters with room between their bounds, (n,)."""
        return self.lb < self.ub

    @property
    def bounded(self) -> bool:
        """Whether any free parameter has a bound."""
        return bool((np.isfinite(self.lb) | np.isfinite(self.ub))[self.free].any())

    @cached_property
    def size(self) -> float:
        """Typical size of the objective, a power of two: its value for outputs that are zero; one for any loss."""
        problem = self.objective.problem
        if not problem.data_terms.squares:
            return 1.0
        power = float(np.sum(problem.w * problem.d**2, dtype=np.float64)) * float(problem.scale[0])
        return float(2.0 ** round(np.log2(power))) if power > 0 else 1.0

    @property
    def gain(self) -> float:
        """Factor of the objective for IPOPT, which would call a small one optimal too early; large ones are its own."""
        return 1.0 / min(self.size, 1.0)

    @property
    def z0(self) -> Float64Array:
        """Start of the optimiser."""
        return self.shrink(self.p0)

    @property
    def z_bounds(self) -> tuple[Float64Array, Float64Array]:
        """Bounds on z."""
        return self.shrink(self.lb), self.shrink(self.ub)

    def shrink(self, p: Float64Array) -> Float64Array:
        """From parameters to z."""
        return p[self.free] / self.scale[self.free]

    def expand(self, z: Float64Array) -> Float64Array:
        """From z to parameters, inside the bounds in spite of rounding."""
        p = self.p0.copy()
        p[self.free] = z * self.scale[self.free]
        return np.clip(p, self.lb, self.ub)

    def gradient(self, g: Float64Array) -> Float64Array:
        """Derivatives with respect to z from those with respect to parameters, along the last axis."""
        return g[..., self.free] * self.scale[self.free]

    def descent(self, p: Float64Array, jac: Float64Array) -> Float64Array:
        """The negative gradient at p with respect to z, zero where it leads out of the bounds."""
        z, down = self.shrink(p), -self.gradient(jac)
        lower, upper = self.z_bounds
        return np.where(((z <= lower) & (down < 0)) | ((z >= upper) & (down > 0)), 0.0, down)

    def unfinished(self, p: Float64Array, fun: float, jac: Float64Array) -> bool:
        """Whether the gradient at p promises much: changing one parameter by its own size would change the value."""
        z = np.abs(self.shrink(p))
        promised = np.abs(self.descent(p, jac)) * (z if z.any() else 1.0)
        return bool(promised.max(initial=0.0) > PROMISING * abs(fun) + NEGLIGIBLE * self.size)

    def direction(self, v: Float64Array) -> Float64Array:
        """A change of z as a change of parameters."""
        dp = np.zeros(self.p0.size)
        dp[self.free] = v * self.scale[self.free]
        return dp


def make_task(
    obj: Objective, p0: Any, method: str, maxiter: Any, bounds: Any, seed: Any, options: Mapping[str, Any]
) -> Task:
    """Check the arguments of a fit."""
    start = _start(obj, p0, seed)
    names = obj.names()
    lb, ub = read_bounds(bounds, names)
    outside = np.flatnonzero((start < lb) | (start > ub))
    if outside.size:
        i = int(outside[0])
        raise DataError(
            f"p0: must lie within the bounds, got {start[i]:g} outside [{lb[i]:g}, {ub[i]:g}] for parameter {i} "
            f"({names[i]}); {outside.size} of {start.size} lie outside. np.clip(p0, lb, ub) moves them inside"
        )
    if not (lb < ub).any():
        raise DataError(f"bounds: nothing is left to fit, lower and upper bounds are equal for all {start.size}")
    if not isinstance(maxiter, numbers.Integral) or isinstance(maxiter, bool) or int(maxiter) < 1:
        raise DataError(f"maxiter: expected an integer of at least 1, got {maxiter!r}")
    given = dict(options)
    scale = _scale(obj, start, given.pop("p_scale", "auto"))
    return Task(obj, method, start, lb, ub, scale, int(maxiter), given)


def _start(obj: Objective, p0: Any, seed: Any) -> Float64Array:
    """The start (n,)."""
    if p0 is None:
        if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
            raise DataError(f"seed: expected an integer, got {seed!r}")
        return obj.append_free(obj.sim.model.init(int(seed)))
    value = p0.flat if isinstance(p0, ParameterTree) else p0
    single = isinstance(value, np.ndarray) and value.dtype == np.float32
    start = floats("p0", value, finite=False, dtype=np.float32 if single else np.float64).astype(np.float64)
    n, model = obj.np_total, obj.sim.model
    if start.shape != (n,):
        free = n - model.np
        more = f" = np {model.np} + {free} free initial states (obj.append_free(p) adds their guess)" if free else ""
        raise DataError(f"p0: expected a vector of {n} entries{more}, got shape {start.shape}")
    if n == 0:
        raise DataError("p0: the model has no parameters and no free initial states, there is nothing to fit")
    wrong = np.flatnonzero(~np.isfinite(start))
    if wrong.size:
        i = int(wrong[0])
        raise DataError(
            f"p0: all entries must be finite, got {start[i]} for parameter {i} ({obj.names()[i]}); "
            f"{wrong.size} of {n} are not"
        )
    return start


def _scale(obj: Objective, start: Float64Array, scale: Any) -> Float64Array:
    """Units (n,): given, all one, or by block."""
    if scale is None:
        return np.ones(start.size)
    if isinstance(scale, str) and scale == "auto":
        return automatic_scale(obj.sim.model.layout, start)
    if isinstance(scale, str):
        raise DataError(f"p_scale: expected 'auto', None, a positive number or one per parameter, got {scale!r}")
    if isinstance(scale, numbers.Real) and not isinstance(scale, bool):
        scale = np.full(start.size, float(scale))
    given = floats("p_scale", scale, (("np_total", start.size),)).astype(np.float64)
    if (given <= 0).any():
        raise DataError(f"p_scale: must be positive, got {given.min():g}")
    return given


def automatic_scale(layout: ParameterLayout, start: Float64Array) -> Float64Array:
    """A power of two for each block of parameters far from order one, one for all others.

    A block is an array of the layout: a weight matrix, a bias, a named constant; all free initial states together are
    one more. Its size is that of its largest entry at the start. Numbers of very different size that share a block,
    such as the rate constants of `params=3`, have a unit each; the arrays of a network do not, since some of their
    entries are small by chance.
    """
    scale = np.ones(start.size)
    for part, drawn in [*_blocks(layout), (slice(layout.n, start.size), True)]:
        sizes = np.abs(start[part])
        scale[part] = [_unit(s) for s in sizes] if not drawn and _apart(sizes) else _unit(sizes.max(initial=0.0))
    return scale


def _unit(size: float) -> float:
    """The power of two next to a size far from order one, else one."""
    near = size == 0 or ORDER_ONE[0] <= size <= ORDER_ONE[1]
    return 1.0 if near else float(2.0 ** np.round(np.log2(size)))


def _apart(sizes: Float64Array) -> bool:
    """Whether numbers of a block are of so different size that one unit cannot serve them all."""
    known = sizes[sizes > 0]
    spread = bool(known.size) and float(known.max()) > APART * float(known.min())
    return spread and (sizes.size <= MOST_APART or float(known.max()) > ORDER_ONE[1])


def _blocks(layout: ParameterLayout, first: int = 0) -> Iterator[tuple[slice, bool]]:
    """The place of every array of a layout, and whether it belongs to a network, which draws its initial values."""
    blocks = {name: layout.block(name) for name in layout}
    drawn = any(isinstance(block, Leaf) and block.init is not zeros for block in blocks.values())
    for name, block in blocks.items():
        place = layout.slice(name)
        if isinstance(block, ParameterLayout):
            yield from _blocks(block, first + place.start)
        else:
            yield slice(first + place.start, first + place.stop), drawn
