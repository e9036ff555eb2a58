"""Problems with a singular mass matrix in semi-explicit form: x' = f(t, x, u, z, p), 0 = g(t, x, u, z, p).

Where the nonzero rows and columns of M are a regular block, the states of these columns stay states, and the others are
algebraic variables. Any other M has r independent rows C: the states are then s = C x with s' = f of these rows, all x
are algebraic variables, and 0 = C x - s joins the equations N^T f = 0, where the columns of N span the null space of
M^T.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, to_dm
from ..base.errors import DataError
from ..model.dae import is_singular, rank_of
from .definition import Definition, PointConstraint, end_symbols, point_symbols
from .groups import IntArray


@dataclass(frozen=True, eq=False)
class SemiExplicit:
    """A problem without mass matrix; the fields are those of `reduction.Reduction`."""

    problem: Definition
    kept: IntArray
    algebraic: IntArray
    coordinates: Float64Array | None


@dataclass(frozen=True, eq=False)
class Form:
    """What a singular mass matrix M is turned into.

    Attributes
    ----------
    solved
        (r, nx): times M x' it gives the derivatives of the states.
    null
        (nx - r, nx): times M x' it gives zero.
    kept, algebraic, coordinates
        As in `reduction.Reduction`.
    """

    solved: Float64Array
    null: Float64Array
    kept: IntArray
    algebraic: IntArray
    coordinates: Float64Array | None


def form_of(mass: Float64Array) -> Form:
    """The form of a singular mass matrix."""
    nx = mass.shape[0]
    rows, columns = np.flatnonzero(mass.any(axis=1)), np.flatnonzero(mass.any(axis=0))
    block, identity = mass[np.ix_(rows, columns)], np.eye(nx)
    if rows.size == columns.size and not is_singular(block):
        solved = np.zeros((rows.size, nx))
        solved[:, rows] = np.linalg.inv(block)
        return Form(solved, np.delete(identity, rows, axis=0), columns, np.setdiff1d(np.arange(nx), columns), None)
    chosen: list[int] = []
    for row in rows.tolist():
        if rank_of(mass[[*chosen, row]]) > len(chosen):
            chosen.append(row)
    size = np.abs(mass).max(axis=1, keepdims=True)
    size[size == 0.0] = 1.0
    left = np.linalg.svd(mass / size)[0]
    null = left[:, len(chosen) :].T / size.T
    null /= np.linalg.norm(null, axis=1, keepdims=True)
    return Form(identity[chosen], null, np.zeros(0, np.int64), np.arange(nx), mass[chosen])


def _at_points(c: PointConstraint, function: ca.Function, nu: int) -> PointConstraint:
    """A path constraint with its function of the new form, whose controls are followed by the algebraic variables."""
    used = function.jac_sparsity(0, 2).get_col()
    return replace(c, function=function, uses_algebraic=any(i >= nu for i in used))


def without_mass(d: Definition) -> SemiExplicit:
    """The problem in semi-explicit form; see the head of this file.

    Functions of the ends get the algebraic variables there behind the states, ``with_ends``.

    Raises
    ------
    DataError
        Where the fixed entries of the initial state do not give the initial states of this form.
    """
    form = form_of(np.asarray(d.mass))
    n_states, n_algebraic = form.solved.shape[0], form.algebraic.size
    t, _, _, p = point_symbols(d)
    s = ca.MX.sym("x", n_states)
    v = ca.MX.sym("u", d.nu + n_algebraic + d.nz)

    def state(states: ca.MX, z: ca.MX) -> ca.MX:
        """x from the states and the algebraic variables of the new form."""
        place = {int(i): states[k] for k, i in enumerate(form.kept)}
        place |= {int(i): z[k] for k, i in enumerate(form.algebraic)}
        return ca.vertcat(*(place[i] for i in range(d.nx)))

    x = state(s, v[d.nu :])
    own = [t, x, ca.vertcat(v[: d.nu], v[d.nu + n_algebraic :]), p]
    value = d.rhs(*own)
    equations = [ca.mtimes(_sparse(form.null), value)]
    if form.coordinates is not None:
        equations.append(ca.mtimes(_sparse(form.coordinates), x) - s)
    if d.algebraic is not None:
        equations.append(d.algebraic(*own))

    def along(name: str, result: ca.MX) -> ca.Function:
        return ca.Function(name, [t, s, v, p], [ca.densify(result)], ["t", "x", "u", "p"], ["out"])

    free = [ca.MX.sym(name, n_states + n_algebraic + d.nz) for name in ("x0", "xf")]
    tf, p_end = end_symbols(d)[2:]

    def ends(f: ca.Function) -> ca.Function:
        out = f(*(state(e, e[n_states:]) for e in free), tf, p_end)
        return ca.Function(f.name(), [*free, tf, p_end], [ca.densify(out)], ["x0", "xf", "tf", "p"], ["out"])

    of_states = form.coordinates is None
    unbounded = np.full(n_states, np.inf)
    problem = replace(
        d,
        rhs=along("rhs", ca.mtimes(_sparse(form.solved), value)),
        algebraic=along("algebraic", ca.vertcat(*equations)),
        mass=None,
        state_names=tuple(d.state_names[i] for i in form.kept) or tuple(f"s{i}" for i in range(n_states)),
        algebraic_names=(*(d.state_names[i] for i in form.algebraic), *d.algebraic_names),
        x_lb=d.x_lb[form.kept] if of_states else -unbounded,
        x_ub=d.x_ub[form.kept] if of_states else unbounded,
        z_lb=np.append(d.x_lb[form.algebraic], d.z_lb),
        z_ub=np.append(d.x_ub[form.algebraic], d.z_ub),
        x_start=_start(d, form),
        x_end=d.x_end[form.kept] if of_states else np.full(n_states, np.nan),
        z_end=np.append(d.x_end[form.algebraic], np.full(d.nz, np.nan)),
        with_ends=True,
        lagrange=None if d.lagrange is None else along("lagrange", d.lagrange(*own)),
        mayer=None if d.mayer is None else ends(d.mayer),
        path=tuple(_at_points(c, along("path", c.function(*own)), d.nu) for c in d.path),
        boundary=tuple(replace(c, function=ends(c.function)) for c in d.boundary),
        integrals=tuple(replace(c, function=along("integral", c.function(*own))) for c in d.integrals),
    )
    return SemiExplicit(problem, form.kept, form.algebraic, form.coordinates)


def _start(d: Definition, form: Form) -> Float64Array:
    """Initial states of the new form, NaN where free."""
    if form.coordinates is None:
        return d.x_start[form.kept]
    out = np.full(form.coordinates.shape[0], np.nan)
    for i, row in enumerate(form.coordinates):
        (needed,) = np.nonzero(row)
        known = np.isfinite(d.x_start[needed])
        if known.all():
            out[i] = row[needed] @ d.x_start[needed]
        elif known.any():
            names = [d.state_names[j] for j in needed]
            raise DataError(
                f"initial: the mass matrix has the derivatives of {', '.join(names)} in one equation, so that only a "
                "combination of them has an initial value: fix all of these states, or none"
            )
    return out


def _sparse(matrix: Float64Array) -> ca.DM:
    return ca.sparsify(to_dm(matrix), 1e-14)
