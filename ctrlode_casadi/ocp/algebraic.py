"""Algebraic variables of a collocation: their places, their values at the ends, and consistent values in between.

The algebraic equations hold at the collocation points; nothing ties the variables of one point to those of another, so
they jump where the control does (Biegler, Nonlinear Programming, 2010, sec. 10.2).
"""

from __future__ import annotations

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, call_rows
from .controls import control_grid
from .definition import Definition, along_rows
from .elements import Element, join
from .groups import IntArray
from .guess import Guess
from .mesh import Mesh
from .points import Horizon, Points, control_at, depends_on_control, extra_breaks, free_at_point

_ITERATIONS = 12


def add_variables(h: Horizon, guess: Guess, fractions: Float64Array, stages: Float64Array, last: bool) -> IntArray:
    """Places (n, nz) of algebraic variables at points; `last` says whether the last one is the end of the horizon."""
    d = h.problem
    lb, ub = np.tile(d.z_lb, (fractions.size, 1)), np.tile(d.z_ub, (fractions.size, 1))
    if last and d.with_ends:
        known = np.isfinite(d.z_end)
        lb[-1, known] = ub[-1, known] = d.z_end[known]
    return h.build.variables(
        (fractions.size, d.nz),
        lambda i, j: f"algebraic variable {d.algebraic_names[j]} at {h.when(fractions[i])}",
        stage=stages[:, None],
        lb=lb,
        ub=ub,
        guess=guess.z(fractions),
        scale=h.scales.z,
    )


def equation_rows(h: Horizon, fractions: Float64Array, stages: Float64Array) -> IntArray:
    """Rows (n, nz) of the algebraic equations at points."""
    return h.build.rows(
        (fractions.size, h.problem.nz),
        lambda i, j: f"algebraic equation {j} at {h.when(fractions[i])}",
        stage=stages[:, None],
        scale=1.0 / h.scales.algebraic,
    )


def at_breaks(h: Horizon, guess: Guess, breaks: Points, covered: NDArray[np.bool_]) -> IntArray:
    """Places (N + 1, nz) of algebraic variables at the breaks, for the interval that begins there; -1 where none.

    They exist, with equations of their own, where a constraint or bound holds at the break besides the collocation
    points, and at the ends where a function of the ends needs them.

    Parameters
    ----------
    breaks
        The breaks as points.
    covered
        (N + 1,) breaks that are collocation points.
    """
    d = h.problem
    wanted = np.zeros(covered.size, dtype=bool)
    if np.isfinite(d.z_lb).any() or np.isfinite(d.z_ub).any():
        wanted |= extra_breaks(h, covered, d.nu > 0)
    for c in d.path:
        if c.uses_algebraic and c.soft is None:
            wanted |= extra_breaks(h, covered, depends_on_control(d, c))
    needed = _needed_at_ends(d)
    wanted[0] |= needed[0]
    wanted[-1] |= not covered[-1] and (needed[1] or (d.with_ends and bool(np.isfinite(d.z_end).any())))
    places = np.full((covered.size, d.nz), -1, dtype=np.int64)
    if not wanted.any():
        return places
    some = breaks.select(wanted)
    places[wanted] = add_variables(h, guess, some.fractions, some.stages, bool(wanted[-1]))
    rows = equation_rows(h, some.fractions, some.stages)
    controls, mix, classes = control_at(h, some)
    for which in classes:
        parts = h.control.parts(int(some.intervals[which[0]])).size if controls.shape[1] > 1 else controls.shape[1]
        extra = parts if parts > 1 else 0
        sizes = {"x": d.nx, "u": parts * d.nu, "z": d.nz}
        element = Element(d, sizes, {"tau": 1, "middle": 1, "mix": extra})
        free = free_at_point(element, d, parts)
        t = element.time(element.constants["tau"])
        p = element.parameters_in(element.constants["middle"])
        value = _equations(d)(ca.vertcat(t, element.variables["x"], free), p)
        flat = controls[which][:, :parts].reshape(which.size, -1)
        variables = join([some.states[which], flat, places[wanted][which]], h.shared)
        mesh, k = h.control.mesh, some.intervals[which]
        middles = mesh.breaks[k] + 0.5 * mesh.lengths[k]
        constants = np.column_stack([some.fractions[which], middles, mix[which][:, :extra]])
        h.build.group("break", element.function("at_breaks", [value]), variables, constants, rows[which])
    return places


def at_ends(d: Definition, breaks: Points, points: Points) -> tuple[IntArray, IntArray]:
    """Places of the states at both ends, followed by those of the algebraic variables where a function needs them."""
    start, end = breaks.states[0], breaks.states[-1]
    needed = _needed_at_ends(d)
    if needed[0]:
        start = np.append(start, breaks.algebraic[0])
    if needed[1]:
        end = np.append(end, breaks.algebraic[-1] if breaks.algebraic[-1, 0] >= 0 else points.algebraic[-1])
    return start, end


def _needed_at_ends(d: Definition) -> list[bool]:
    """Whether functions of the ends depend on algebraic variables at the start and at the end."""
    functions = [c.function for c in d.boundary] + ([] if d.mayer is None else [d.mayer])
    if not d.with_ends:
        return [False, False]
    return [any(i >= d.nx for f in functions for i in f.jac_sparsity(0, side).get_col()) for side in (0, 1)]


def _equations(d: Definition) -> ca.Function:
    """The algebraic equations as a function (row, p) of rows (t, x, v)."""
    f = d.algebraic
    return along_rows(d, lambda *v: [] if f is None else [f(*v)])


# --- between the points ---------------------------------------------------------------------------------------------


def between(mesh: Mesh, scheme: str, values: Float64Array, fractions: Float64Array) -> Float64Array:
    """The polynomials through the values (n, nz) at the collocation points of each interval, at fractions (m,)."""
    return control_grid("collocation", mesh, scheme, True).evaluate(values, fractions)


def consistent(d: Definition, rows: Float64Array, z: Float64Array, p: Float64Array) -> Float64Array:
    """Algebraic variables (m, nz) that solve their equations, by Newton's method from z.

    Parameters
    ----------
    d
        The problem.
    rows
        (m, 1 + nx + nu) times, states and controls.
    z
        (m, nz) where to start; rows for which the method fails stay as they are.
    p
        Parameters.
    """
    return solved(_equations(d), rows, z, p)


def solved(equations: ca.Function, rows: Float64Array, z: Float64Array, p: Float64Array) -> Float64Array:
    """z (m, n) with ``equations((row, z), p) = 0`` (n,) for each row, by Newton's method; see `consistent`."""
    n, known = z.shape[1], rows.shape[1]
    symbol, q = ca.MX.sym("row", known + n), ca.MX.sym("p", p.size)
    residual = equations(symbol, q)
    slope = ca.densify(ca.jacobian(residual, symbol)[:, known:])
    both = ca.Function("newton", [symbol, q], [ca.vertcat(residual, ca.vec(slope))])
    found, done = z.copy(), np.zeros(z.shape[0], dtype=bool)
    for _ in range(_ITERATIONS):
        values = call_rows(both, np.hstack([rows, found]), p)
        slopes = values[:, n:].reshape(-1, n, n).transpose(0, 2, 1)
        good: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))
        good[good] = np.linalg.matrix_rank(slopes[good]) == n
        move = np.zeros_like(found)
        move[good] = np.linalg.solve(slopes[good], -values[good, :n, None])[..., 0]
        found += move
        length = np.abs(move).max(axis=1, initial=0.0)
        done = good & (length <= 1e-10 * np.maximum(1e-3, np.abs(found).max(axis=1, initial=0.0)))
        if done.all():
            break
    found[~done] = z[~done]
    return found


def derivative_through(d: Definition, row: Float64Array, p: Float64Array, by_z: Float64Array) -> Float64Array:
    """Derivative by the states of a function of z, by its derivative (nz,) and the equations at a row (t, x, v)."""
    own = _equations(d)
    symbol, q = ca.MX.sym("row", row.size), ca.MX.sym("p", d.np)
    slopes = ca.Function("slopes", [symbol, q], [ca.densify(ca.jacobian(own(symbol, q), symbol))])(row, p).full()
    by_x, regular = slopes[:, 1 : 1 + d.nx], slopes[:, 1 + d.nx + d.nu :]
    return np.asarray(-by_x.T @ np.linalg.lstsq(regular.T, by_z, rcond=None)[0])
