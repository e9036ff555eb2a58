"""Parameters that change along the horizon: references and known disturbances ahead.

A block of parameters becomes a table of its values at the breaks of the horizon, joined by straight lines. The tables
are parameters of the NLP, so new values never change the program.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import casadi as ca
import numpy as np

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
    """

    entries: IntArray
    fractions: Float64Array

    def extend(self, p: Float64Array, t0: float, duration: float, table: Float64Array) -> Float64Array:
        """All parameters of the extended problem; `table` is (N + 1, n)."""
        if not self.entries.size:
            return p
        return np.concatenate([p, [t0, duration], table.reshape(-1)])


def with_preview(d: Definition, preview: Preview) -> Definition:
    """The problem whose functions look parameters up in tables by their time."""
    entries, n = preview.entries, preview.entries.size
    if n == 0:
        return d
    values = ca.MX.sym("p", d.np + 2 + preview.fractions.size * n)
    base, t0, duration = values[: d.np], values[d.np], values[d.np + 1]
    table = ca.reshape(values[d.np + 2 :], n, preview.fractions.size)

    def looked_up(fraction: ca.MX) -> ca.MX:
        now = ca.mtimes(table, _hat_functions(fraction, preview.fractions))
        place = {int(entry): k for k, entry in enumerate(entries)}
        return ca.vertcat(*(now[place[i]] if i in place else base[i] for i in range(d.np)))

    t, x, u, _ = point_symbols(d)
    x0, xf, tf, _ = end_symbols(d)
    here = looked_up((t - t0) / duration)
    last = looked_up(ca.MX(1.0))

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
        lagrange=None if d.lagrange is None else along(d.lagrange),
        mayer=None if d.mayer is None else ends(d.mayer),
        path=tuple(replace(c, function=along(c.function)) for c in d.path),
        boundary=tuple(replace(c, function=ends(c.function)) for c in d.boundary),
        integrals=tuple(replace(c, function=along(c.function)) for c in d.integrals),
        parameter_names=(*d.parameter_names, "start of the horizon", "length of the horizon", *names),
        p=preview.extend(d.p, d.t0, d.tf - d.t0, np.tile(d.p[entries], (preview.fractions.size, 1))),
    )


def _hat_functions(fraction: ca.MX, breaks: Float64Array) -> ca.MX:
    """Weights (N + 1,) of linear interpolation between the breaks; the end values hold outside."""
    place = (fraction - ca.DM(breaks[:-1])) / ca.DM(np.diff(breaks))
    passed = ca.fmin(ca.fmax(place, 0.0), 1.0)
    return ca.vertcat(1.0, passed) - ca.vertcat(passed, 0.0)


def _uses_any(f: ca.Function, entries: IntArray) -> bool:
    used = set(f.jac_sparsity(0, 3).get_col())
    return any(int(i) in used for i in entries)
