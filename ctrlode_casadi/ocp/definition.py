"""An optimal control problem as data: what `OptimalControlProblem` collects and the transcriptions read.

Functions of a point in time take ``(t, x, u, p)``, those of the ends ``(x0, xf, tf, p)``; p is always the flat vector.
With algebraic variables z, the third argument of the former is v = (u, z): what is free at a point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .groups import IntArray


def _nothing() -> Float64Array:
    return np.zeros(0)


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
    uses_control, uses_algebraic
        Whether g depends on u, and on z.
    """

    function: ca.Function
    lb: Float64Array
    ub: Float64Array
    inside: int | None
    soft: Soft | None
    name: str
    uses_control: bool
    uses_algebraic: bool = False


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
        (t, x, u, p) -> xdot (nx,); with a singular mass matrix M xdot.
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
    held
        (t, p) -> p for one interval, t a time inside it: the parameters that jump from interval to interval have their
        values there. Functions of a point find them by their own time, which does not say on which side of a break
        they are; None without such parameters.
    algebraic
        (t, x, v, p) -> (nz,), zero on a solution; None for an ODE.
    algebraic_names, z_lb, z_ub, z0
        Names, bounds along the horizon and guess of the algebraic variables, (nz,).
    mass
        M where it is singular, else None; see `semi_explicit.without_mass`.
    with_ends
        Whether x0 and xf of the functions of the ends have the algebraic variables at the ends as last entries.
    z_end
        Terminal values (nz,) of algebraic variables, NaN where free; only `with_ends`.
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
    held: ca.Function | None = None
    algebraic: ca.Function | None = None
    algebraic_names: tuple[str, ...] = ()
    z_lb: Float64Array = field(default_factory=_nothing)
    z_ub: Float64Array = field(default_factory=_nothing)
    z0: Float64Array = field(default_factory=_nothing)
    mass: Float64Array | None = None
    with_ends: bool = False
    z_end: Float64Array = field(default_factory=_nothing)

    @property
    def nx(self) -> int:
        """Number of states."""
        return self.x_lb.size

    @property
    def nu(self) -> int:
        """Number of controls."""
        return self.u_lb.size

    @property
    def nz(self) -> int:
        """Number of algebraic variables."""
        return self.z_lb.size

    @property
    def is_dae(self) -> bool:
        """Whether there are algebraic equations."""
        return self.nz > 0 or self.mass is not None

    @property
    def np(self) -> int:
        """Number of parameters."""
        return self.p.size

    def parameters(self) -> Float64Array:
        """Parameters q of the NLP: initial time, final time, p."""
        return np.concatenate([[self.t0, self.tf], self.p])


def point_symbols(d: Definition) -> list[ca.MX]:
    """Symbols t, x, v, p."""
    return [ca.MX.sym(name, n) for name, n in (("t", 1), ("x", d.nx), ("u", d.nu + d.nz), ("p", d.np))]


def end_symbols(d: Definition) -> list[ca.MX]:
    """Symbols x0, xf, tf, p."""
    n = d.nx + d.nz if d.with_ends else d.nx
    return [ca.MX.sym(name, size) for name, size in (("x0", n), ("xf", n), ("tf", 1), ("p", d.np))]


def along_rows(d: Definition, results: Callable[..., list[ca.MX]]) -> ca.Function:
    """``results(t, x, v, p)`` as a function (row, p) of rows (t, x, v), for `base.arrays.call_rows`."""
    row, p = ca.MX.sym("row", 1 + d.nx + d.nu + d.nz), ca.MX.sym("p", d.np)
    found = results(row[0], row[1 : 1 + d.nx], row[1 + d.nx :], p)
    return ca.Function("rows", [row, p], [ca.densify(ca.vertcat(*found))])
