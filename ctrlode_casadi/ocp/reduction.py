"""A problem in the form that transcriptions write down: semi-explicit, and without pure cost states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .definition import Definition, end_symbols, point_symbols
from .groups import IntArray
from .semi_explicit import without_mass


@dataclass(frozen=True, eq=False)
class Reduction:
    """A problem as its transcriptions see it, and how to come back.

    Attributes
    ----------
    problem
        The smaller problem.
    kept, removed
        Indices of the states that stay, and of those that became quadratures.
    slope
        Coefficients of the latter in the Mayer term.
    algebraic
        Indices of the states without derivative: with a singular mass matrix they are the first algebraic variables.
    coordinates
        C, if the states of the problem are C x; None where they are the states that stay.
    """

    problem: Definition
    kept: IntArray
    removed: IntArray
    slope: Float64Array
    algebraic: IntArray
    coordinates: Float64Array | None = None

    @property
    def nx(self) -> int:
        """Number of all states."""
        return self.kept.size + self.removed.size + self.algebraic.size

    def states(self, x: Float64Array) -> Float64Array:
        """States of the problem from all states, along the last axis."""
        return x[..., self.kept] if self.coordinates is None else x @ self.coordinates.T

    def merge(self, states: Float64Array, removed: Float64Array | None, z: Float64Array) -> Float64Array:
        """All states (m, nx) from those of the problem, the cost states (None without any) and algebraic variables."""
        if removed is None and self.algebraic.size == 0:
            return states
        x = np.empty((states.shape[0], self.nx))
        if self.coordinates is None:
            x[:, self.kept] = states
        if removed is not None:
            x[:, self.removed] = removed
        x[:, self.algebraic] = z[:, : self.algebraic.size]
        return x

    def gradients(self, by_states: Float64Array) -> Float64Array:
        """Derivatives by all states (m, nx) from those by the states of the problem."""
        if self.coordinates is not None:
            return by_states @ self.coordinates
        out = np.zeros((by_states.shape[0], self.nx))
        out[:, self.kept], out[:, self.removed] = by_states, self.slope
        return out


def reduce(d: Definition) -> Reduction:
    """Make the problem semi-explicit, and take out states that nothing depends on but a linear Mayer term.

    Such a state only accumulates a cost: as a state it makes the NLP larger, and IPOPT up to fourteen times slower; as
    a quadrature it costs nothing. Its rate, times its coefficient in the Mayer term, joins the running cost, and its
    values are computed after the solve.
    """
    none: IntArray = np.zeros(0, np.int64)
    if d.mass is None:
        return _without_cost_states(Reduction(d, np.arange(d.nx), none, np.zeros(0), none))
    explicit = without_mass(d)
    found = Reduction(explicit.problem, explicit.kept, none, np.zeros(0), explicit.algebraic, explicit.coordinates)
    return found if explicit.coordinates is not None else _without_cost_states(found)


def _without_cost_states(whole: Reduction) -> Reduction:
    d = whole.problem
    removed = [i for i in range(d.nx) if d.nx > 1 and _is_cost_state(d, i)]
    kept = [i for i in range(d.nx) if i not in removed]
    if not removed or not kept:
        return whole
    t, _, u, p = point_symbols(d)
    small = ca.MX.sym("x", len(kept))
    full = _embed(small, kept, d.nx)
    rates = d.rhs(t, full, u, p)
    slope = _mayer_slope(d)
    cost = ca.dot(slope[removed], rates[removed])
    if d.lagrange is not None:
        cost += d.lagrange(t, full, u, p)

    def along(name: str, result: ca.MX) -> ca.Function:
        return ca.Function(name, [t, small, u, p], [ca.densify(result)], ["t", "x", "u", "p"], ["out"])

    problem = replace(
        d,
        rhs=along("rhs", rates[kept]),
        hidden=along("hidden", rates[removed]),
        algebraic=None if d.algebraic is None else along("algebraic", d.algebraic(t, full, u, p)),
        state_names=tuple(d.state_names[i] for i in kept),
        x_lb=d.x_lb[kept],
        x_ub=d.x_ub[kept],
        x_start=d.x_start[kept],
        x_end=d.x_end[kept],
        lagrange=along("lagrange", cost),
        mayer=None if d.mayer is None else _ends_without(d, d.mayer, kept),
        path=tuple(replace(c, function=along("path", c.function(t, full, u, p))) for c in d.path),
        boundary=tuple(replace(c, function=_ends_without(d, c.function, kept)) for c in d.boundary),
        integrals=tuple(replace(c, function=along("integral", c.function(t, full, u, p))) for c in d.integrals),
    )
    coefficients = slope.full()[removed, 0]
    return Reduction(problem, whole.kept[kept], whole.kept[removed], coefficients, whole.algebraic)


def _ends_without(d: Definition, f: ca.Function, kept: list[int]) -> ca.Function:
    """A function of the ends with the states that are kept."""
    x0, _, tf, p = end_symbols(d)
    more = x0.numel() - d.nx
    ends = [ca.MX.sym(name, len(kept) + more) for name in ("x0", "xf")]
    full = [_embed(end, kept, d.nx, d.x_start) for end in ends]
    if more:
        full = [ca.vertcat(x, end[len(kept) :]) for x, end in zip(full, ends)]
    return ca.Function(f.name(), [*ends, tf, p], [ca.densify(f(*full, tf, p))], ["x0", "xf", "tf", "p"], ["out"])


def _embed(small: ca.MX, kept: list[int], nx: int, others: Float64Array | None = None) -> ca.MX:
    """All states from those that are kept; the others are zero, or have the given values."""
    entries: list[ca.MX] = [ca.MX(0.0 if others is None else float(others[i])) for i in range(nx)]
    for place, i in enumerate(kept):
        entries[i] = small[place]
    return ca.vertcat(*entries)


def _mayer_slope(d: Definition) -> ca.DM:
    """Gradient of the Mayer term with respect to xf; right for the states that enter it linearly."""
    if d.mayer is None:
        return ca.DM.zeros(d.nx, 1)
    symbols = end_symbols(d)
    gradient = ca.Function("slope", symbols, [ca.densify(ca.gradient(d.mayer(*symbols), symbols[1]))])
    return gradient(0, 0, 0, 0)


def _is_cost_state(d: Definition, i: int) -> bool:
    """Does nothing but the Mayer term depend on state i, linearly and on its terminal value only?"""
    if np.isfinite(d.x_lb[i]) or np.isfinite(d.x_ub[i]) or np.isfinite(d.x_end[i]) or np.isnan(d.x_start[i]):
        return False
    along = [d.rhs, *(c.function for c in d.path), *(c.function for c in d.integrals)]
    along += [f for f in (d.lagrange, d.algebraic) if f is not None]
    if any(_depends(f, 1, i) for f in along):
        return False
    if any(_depends(c.function, side, i) for c in d.boundary for side in (0, 1)):
        return False
    return d.mayer is None or (not _depends(d.mayer, 0, i) and _slope_is_constant(d, i))


def _depends(f: ca.Function, argument: int, i: int) -> bool:
    """Does the function depend on entry i of an argument?"""
    return i in f.jac_sparsity(0, argument).get_col()


def _slope_is_constant(d: Definition, i: int) -> bool:
    """Is the derivative of the Mayer term with respect to entry i of xf the same number everywhere?"""
    if d.mayer is None:
        return True
    symbols = end_symbols(d)
    slope = ca.Function("slope", symbols, [ca.jacobian(d.mayer(*symbols), symbols[1])[0, i]])
    return all(slope.jac_sparsity(0, k).nnz() == 0 for k in range(4))
