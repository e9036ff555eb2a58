"""Kinks of a model on the trajectory where a solver gave up: a hint for its message.

Solvers with second derivatives do not settle on a kink, such as that of relu, selu or an absolute value. Branches in
the graph alone mean nothing: sigmoid and softplus are written with them, and are smooth. So the place on the trajectory
where a branch changes is found by bisection, and there is a kink where the Jacobian jumps.
"""

from __future__ import annotations

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call_rows
from ..fitting.check.kinks import Branches
from .definition import Definition, point_symbols
from .status import SolveStatus
from .transcription import Trajectory, Transcription

#: Outcomes that kinks lead to.
_SUSPECT = (SolveStatus.MAX_ITERATIONS, SolveStatus.STALLED, SolveStatus.RESTORATION_FAILED)
#: Places that are looked at, halvings of the distance between two points, and a jump relative to the largest value of
#: that derivative on the trajectory.
_PLACES, _HALVINGS, _JUMP = 3, 16, 1e-3
#: Characters of an operation from which on its operands are left out.
_LONG = 40


def hint(t: Transcription, status: SolveStatus, w: Float64Array, q: Float64Array) -> str:
    """A sentence that names a kink on the trajectory of a failed solve; empty where there is none."""
    if status not in _SUSPECT or not np.isfinite(w).all() or len(point_symbols(t.definition)) != 4:
        return ""
    found = _kink(t.definition, t.trajectory(w, q), float(q[0]))
    if found is None:
        return ""
    text, time = found
    if len(text) > _LONG:
        text = f"{text.split('(')[0]}(...)"
    return (
        f"the model has a kink on this trajectory, {text} at t = {time:.4g}: with a kink at the optimum the solver may "
        "not settle; smooth functions help, such as tanh or softplus instead of relu or selu"
    )


class _Sides:
    """Which branches are taken at points (t, x, v)."""

    def __init__(self, d: Definition, f: ca.Function, p: Float64Array) -> None:
        self._ends, self._branches, self._p = [1, 1 + d.nx], Branches(f), p

    def switch(self, a: Float64Array, b: Float64Array) -> str:
        """The first operation that takes another branch at b than at a, as text; empty for none."""
        one, other = ([part[:, None] for part in (*np.split(z, self._ends), self._p)] for z in (a, b))
        found = self._branches.switch(one, other)
        return "" if found is None else found.text


def _kink(d: Definition, trajectory: Trajectory, t0: float) -> tuple[str, float] | None:
    """The operation of the first kink that is found, and its time."""
    symbols = point_symbols(d)
    single = [f for f in (d.algebraic, d.lagrange) if f is not None]
    functions = [d.rhs, *single, *(c.function for c in d.path)]
    f = ca.Function(
        "model", symbols, [ca.vertcat(*(ca.vec(f(*symbols)) for f in functions))], ["t", "x", "u", "p"], ["f"]
    )
    z, p = ca.MX.sym("z", 1 + d.nx + d.nu + d.nz), symbols[3]
    jacobian = ca.jacobian(f(z[0], z[1 : 1 + d.nx], z[1 + d.nx :], p), z)
    derivatives = ca.Function("derivatives", [z, p], [ca.densify(ca.vec(jacobian[:, 1:]))])
    times = t0 + trajectory.fractions * (trajectory.tf - t0)
    rows = np.column_stack([times, trajectory.x, trajectory.u, trajectory.z])
    sides = _Sides(d, f, trajectory.p)
    places = [k for k in range(times.size - 1) if sides.switch(rows[k], rows[k + 1])]
    if not places:
        return None
    size = np.abs(call_rows(derivatives, rows, trajectory.p)).max(axis=0)
    for k in places[:_PLACES]:
        a, b = rows[k], rows[k + 1]
        for _ in range(_HALVINGS):
            middle = 0.5 * (a + b)
            a, b = (a, middle) if sides.switch(a, middle) else (middle, b)
        before, after = call_rows(derivatives, np.stack([a, b]), trajectory.p)
        if np.any(np.abs(after - before) > _JUMP * size):
            return sides.switch(a, b), float(b[0])
    return None
