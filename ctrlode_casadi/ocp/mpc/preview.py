"""Parameters that change along the horizon: references and known disturbances ahead.

A block of parameters becomes a table of its values at the breaks of the horizon, joined by straight lines, or held from
each break to the next. The tables are parameters of the NLP, so new values never change the program.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ...base.arrays import Float64Array
from ..definition import Definition, end_symbols, point_symbols
from ..groups import IntArray


@dataclass(frozen=True, eq=False)
class Preview:
    """Which parameters have tables.

    Attributes
    ----------
    entries
        Indices of these parameters, (n,).
    fractions
        Breaks of the horizon as fractions, (N + 1,).
    is_held
        Whether the values are held from break to break, (n,); lines else.
    """

    entries: IntArray
    fractions: Float64Array
    is_held: NDArray[np.bool_]

    def extend(self, p: Float64Array, t0: float, duration: float, table: Float64Array) -> Float64Array:
        """All parameters of the extended problem; `table` is (N + 1, n)."""
        if not self.entries.size:
            return p
        return np.concatenate([p, [t0, duration], table.reshape(-1)])


def with_preview(d: Definition, preview: Preview, ends_belong: bool) -> Definition:
    """The problem whose functions look parameters up in tables by their time.

    Parameters
    ----------
    d
        The problem.
    preview
        Which parameters have tables.
    ends_belong
        Whether a point at a break belongs to the interval that ends there, as in collocation; it says which of two held
        values is meant where nothing else does.
    """
    entries, n = preview.entries, preview.entries.size
    if n == 0:
        return d
    values = ca.MX.sym("p", d.np + 2 + preview.fractions.size * n)
    base, t0, duration = values[: d.np], values[d.np], values[d.np + 1]
    table = ca.reshape(values[d.np + 2 :], n, preview.fractions.size)

    def looked_up(now: ca.MX) -> ca.MX:
        place = {int(entry): k for k, entry in enumerate(entries)}
        return ca.vertcat(*(now[place[i]] if i in place else base[i] for i in range(d.np)))

    t, x, u, _ = point_symbols(d)
    x0, xf, tf, _ = end_symbols(d)
    now = _row(table, (t - t0) / duration, _rounding(t, duration, preview) * (-1.0 if ends_belong else 1.0), preview)
    here, last = looked_up(now), looked_up(table[:, -1])

    def along(f: ca.Function) -> ca.Function:
        if not _uses_any(f, entries):
            return ca.Function(f.name(), [t, x, u, values], [f(t, x, u, base)], ["t", "x", "u", "p"], ["out"])
        return ca.Function(f.name(), [t, x, u, values], [f(t, x, u, here)], ["t", "x", "u", "p"], ["out"])

    def ends(f: ca.Function) -> ca.Function:
        return ca.Function(f.name(), [x0, xf, tf, values], [f(x0, xf, tf, last)], ["x0", "xf", "tf", "p"], ["out"])

    names = (f"{d.parameter_names[int(i)]} at break {k}" for k in range(preview.fractions.size) for i in entries)
    return replace(
        d,
        rhs=along(d.rhs),
        algebraic=None if d.algebraic is None else along(d.algebraic),
        lagrange=None if d.lagrange is None else along(d.lagrange),
        mayer=None if d.mayer is None else ends(d.mayer),
        path=tuple(replace(c, function=along(c.function)) for c in d.path),
        boundary=tuple(replace(c, function=ends(c.function)) for c in d.boundary),
        integrals=tuple(replace(c, function=along(c.function)) for c in d.integrals),
        parameter_names=(*d.parameter_names, "start of the horizon", "length of the horizon", *names),
        p=preview.extend(d.p, d.t0, d.tf - d.t0, np.tile(d.p[entries], (preview.fractions.size, 1))),
        held=_held(t, values, table, now, preview) if preview.is_held.any() else None,
    )


def _rounding(t: ca.MX, duration: ca.MX, preview: Preview) -> ca.MX:
    """Distance from a break, as a fraction of the horizon, within which a time is that of the break."""
    return 1e-9 * float(np.diff(preview.fractions).min()) + 1e-15 * ca.fabs(t) / duration


def _row(table: ca.MX, fraction: ca.MX, shift: ca.MX, preview: Preview) -> ca.MX:
    """Values (n,) at a fraction of the horizon; for those that are held, `shift` is added to it."""
    held, joined = (np.flatnonzero(which).tolist() for which in (preview.is_held, ~preview.is_held))
    found = [ca.MX(0, 1), ca.MX(0, 1)]
    if held:
        found[0] = ca.mtimes(table[held, :], _step_functions(fraction + shift, preview.fractions))
    if joined:
        found[1] = ca.mtimes(table[joined, :], _hat_functions(fraction, preview.fractions))
    return ca.vertcat(*found)[np.argsort(held + joined).tolist()]


def _held(t: ca.MX, values: ca.MX, table: ca.MX, now: ca.MX, preview: Preview) -> ca.Function:
    """(t, p) -> p whose tables have the same row everywhere, as far as they are held."""
    rows = [
        ca.repmat(now[k], 1, preview.fractions.size) if held else table[k, :] for k, held in enumerate(preview.is_held)
    ]
    same = ca.vec(ca.vertcat(*rows))
    return ca.Function("held", [t, values], [ca.vertcat(values[: -same.numel()], same)], ["t", "p"], ["out"])


def _hat_functions(fraction: ca.MX, breaks: Float64Array) -> ca.MX:
    """Weights (N + 1,) of linear interpolation between the breaks; the end values hold outside."""
    place = (fraction - ca.DM(breaks[:-1])) / ca.DM(np.diff(breaks))
    passed = ca.fmin(ca.fmax(place, 0.0), 1.0)
    return ca.vertcat(1.0, passed) - ca.vertcat(passed, 0.0)


def _step_functions(fraction: ca.MX, breaks: Float64Array) -> ca.MX:
    """Weights (N + 1,) of the value at the break before."""
    passed = fraction >= ca.DM(breaks[1:])
    return ca.vertcat(1.0, passed) - ca.vertcat(passed, 0.0)


def _uses_any(f: ca.Function, entries: IntArray) -> bool:
    used = set(f.jac_sparsity(0, 3).get_col())
    return any(int(i) in used for i in entries)
