"""An optimal control problem as data: what `OptimalControlProblem` collects and the transcriptions read.

Functions of a point in time take ``(t, x, u, p)``, those of the ends ``(x0, xf, tf, p)``; p is always the flat vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .groups import IntArray


@dataclass(frozen=True)
class Soft:
    """A constraint that may be violated at a price.

    Parameters
    ----------
    weight
        Price of one unit of violation, positive; over time it is the price of the integral of the violation.
    norm
        "l1" (default): weight times the violation, which leaves the constraint exact where the weight is larger than
        its multiplier; "l2": weight times the violation squared.
    """

    weight: float
    norm: str = "l1"


@dataclass(frozen=True, eq=False)
class PointConstraint:
    """``lb <= function(t, x, u, p) <= ub`` along the horizon.

    Attributes
    ----------
    function
        (t, x, u, p) -> g (m,).
    lb, ub
        (m,).
    inside
        Points inside each interval where it is imposed too, None for the transcription's own choice.
    soft
        How a violation is paid for; None for a hard constraint.
    name
        For messages.
    uses_control
        Whether g depends on u.
    """

    function: ca.Function
    lb: Float64Array
    ub: Float64Array
    inside: int | None
    soft: Soft | None
    name: str
    uses_control: bool


@dataclass(frozen=True, eq=False)
class EndConstraint:
    """``lb <= function(x0, xf, tf, p) <= ub``; fields as in `PointConstraint`."""

    function: ca.Function
    lb: Float64Array
    ub: Float64Array
    soft: Soft | None
    name: str


@dataclass(frozen=True, eq=False)
class IntegralConstraint:
    """``lb <= integral of function(t, x, u, p) over the horizon <= ub``."""

    function: ca.Function
    lb: Float64Array
    ub: Float64Array
    name: str


@dataclass(frozen=True, eq=False)
class Definition:
    """A whole problem.

    Attributes
    ----------
    rhs
        (t, x, u, p) -> xdot (nx,).
    state_names, control_names, parameter_names
        Names for messages and plots.
    t0
        Initial time.
    tf, tf_lb, tf_ub
        Final time or its guess, and its bounds, equal when it is fixed.
    free_tf
        Whether the final time is a variable.
    p
        Values of the parameters (np,), of those that are free the guess.
    free
        Indices of the free parameters, increasing.
    p_lb, p_ub
        Their bounds, (free.size,).
    x_lb, x_ub, u_lb, u_ub
        Bounds along the horizon.
    inside
        Points inside each interval where state bounds hold too, None for the transcription's choice.
    x_start, x_end
        Initial and terminal states (nx,), NaN where free.
    lagrange, mayer
        (t, x, u, p) -> running cost, (x0, xf, tf, p) -> cost of the ends; None where there is none.
    hidden
        (t, x, u, p) -> rates of states that were taken out because nothing depends on them; None without any.
    """

    rhs: ca.Function
    state_names: tuple[str, ...]
    control_names: tuple[str, ...]
    parameter_names: tuple[str, ...]
    t0: float
    tf: float
    tf_lb: float
    tf_ub: float
    free_tf: bool
    p: Float64Array
    free: IntArray
    p_lb: Float64Array
    p_ub: Float64Array
    x_lb: Float64Array
    x_ub: Float64Array
    u_lb: Float64Array
    u_ub: Float64Array
    inside: int | None
    x_start: Float64Array
    x_end: Float64Array
    lagrange: ca.Function | None
    mayer: ca.Function | None
    path: tuple[PointConstraint, ...]
    boundary: tuple[EndConstraint, ...]
    integrals: tuple[IntegralConstraint, ...]
    hidden: ca.Function | None = None

    @property
    def nx(self) -> int:
        """Number of states."""
        return self.x_lb.size

    @property
    def nu(self) -> int:
        """Number of controls."""
        return self.u_lb.size

    @property
    def np(self) -> int:
        """Number of parameters."""
        return self.p.size

    def parameters(self) -> Float64Array:
        """Parameters q of the NLP: initial time, final time, p."""
        return np.concatenate([[self.t0, self.tf], self.p])


def point_symbols(d: Definition) -> list[ca.MX]:
    """Symbols t, x, u, p."""
    return [ca.MX.sym(name, n) for name, n in (("t", 1), ("x", d.nx), ("u", d.nu), ("p", d.np))]


def end_symbols(d: Definition) -> list[ca.MX]:
    """Symbols x0, xf, tf, p."""
    return [ca.MX.sym(name, n) for name, n in (("x0", d.nx), ("xf", d.nx), ("tf", 1), ("p", d.np))]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A problem without its pure cost states.

    Attributes
    ----------
    problem
        The smaller problem.
    kept, removed
        Indices of the states that stay, and of those that became quadratures.
    slope
        Coefficients of the latter in the Mayer term.
    """

    problem: Definition
    kept: IntArray
    removed: IntArray
    slope: Float64Array


def reduce(d: Definition) -> Reduction:
    """Take out states that nothing depends on, except that they enter the Mayer term linearly.

    Such a state only accumulates a cost: as a state it makes the NLP larger, and IPOPT up to fourteen times slower; as
    a quadrature it costs nothing. Its rate, times its coefficient in the Mayer term, joins the running cost, and its
    values are computed after the solve.
    """
    removed = [i for i in range(d.nx) if d.nx > 1 and _is_cost_state(d, i)]
    kept = [i for i in range(d.nx) if i not in removed]
    if not removed or not kept:
        return Reduction(d, np.arange(d.nx), np.zeros(0, np.int64), np.zeros(0))
    t, _, u, p = point_symbols(d)
    small = ca.MX.sym("x", len(kept))
    full = _embed(small, kept, d.nx)
    rates = d.rhs(t, full, u, p)
    slope = _mayer_slope(d)
    cost = ca.dot(slope[removed], rates[removed])
    if d.lagrange is not None:
        cost += d.lagrange(t, full, u, p)
    _, _, tf, p_end = end_symbols(d)
    small0, smallf = ca.MX.sym("x0", len(kept)), ca.MX.sym("xf", len(kept))

    def along(name: str, result: ca.MX) -> ca.Function:
        return ca.Function(name, [t, small, u, p], [ca.densify(result)], ["t", "x", "u", "p"], ["out"])

    def ends(f: ca.Function) -> ca.Function:
        out = f(_embed(small0, kept, d.nx, d.x_start), _embed(smallf, kept, d.nx, d.x_start), tf, p_end)
        return ca.Function(f.name(), [small0, smallf, tf, p_end], [ca.densify(out)], ["x0", "xf", "tf", "p"], ["out"])

    problem = replace(
        d,
        rhs=along("rhs", rates[kept]),
        hidden=along("hidden", rates[removed]),
        state_names=tuple(d.state_names[i] for i in kept),
        x_lb=d.x_lb[kept],
        x_ub=d.x_ub[kept],
        x_start=d.x_start[kept],
        x_end=d.x_end[kept],
        lagrange=along("lagrange", cost),
        mayer=None if d.mayer is None else ends(d.mayer),
        path=tuple(replace(c, function=along("path", c.function(t, full, u, p))) for c in d.path),
        boundary=tuple(replace(c, function=ends(c.function)) for c in d.boundary),
        integrals=tuple(replace(c, function=along("integral", c.function(t, full, u, p))) for c in d.integrals),
    )
    return Reduction(problem, np.array(kept), np.array(removed), slope.full()[removed, 0])


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
    along += [] if d.lagrange is None else [d.lagrange]
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
