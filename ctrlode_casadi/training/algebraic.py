"""Algebraic equations in a fit by collocation: a DAE as M y' = F(t, y, u, p) with y = (x, z) and a singular M.

All of y are polynomials on an interval; C y' = S F are the equations with derivatives, N^T F = 0 those without. Nothing
depends on how the components of y in the null space of M begin on an interval, so they may jump there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call_rows, to_dm
from ..base.errors import UnsupportedOperation
from ..fitting.initial import FreeStates, Start, WithAlgebraic
from ..fitting.problem import Problem
from ..ocp.algebraic import solved
from ..ocp.semi_explicit import Form, form_of


@dataclass(frozen=True, eq=False)
class Equations:
    """The equations of a model in two parts.

    Parameters
    ----------
    problem
        The objective's problem; its model is M y' = F.
    form
        What M is turned into.
    """

    problem: Problem
    form: Form

    @property
    def n_states(self) -> int:
        """Number of equations with derivatives."""
        return self.form.solved.shape[0]

    @property
    def n_algebraic(self) -> int:
        """Number of equations without."""
        return self.form.null.shape[0]

    @cached_property
    def coordinates(self) -> Float64Array:
        """C (n_states, n)."""
        if self.form.coordinates is not None:
            return self.form.coordinates
        return np.eye(self.form.solved.shape[1])[self.form.kept]

    @cached_property
    def fixed(self) -> np.ndarray:
        """Components (n,) of y that initial values fix; none where these fix combinations only."""
        which = np.zeros(self.coordinates.shape[1], dtype=bool)
        which[self.form.kept] = True
        return which

    @cached_property
    def kernel(self) -> Float64Array:
        """Basis (n, n_algebraic) of the null space of M."""
        return np.linalg.svd(self.coordinates)[2][self.n_states :].T

    def moving(self, y: ca.MX) -> ca.MX:
        """C y; y may have several columns."""
        return ca.mtimes(_sparse(self.coordinates), y)

    def slopes(self, value: ca.MX) -> ca.MX:
        """Derivatives of C y from F."""
        return ca.mtimes(_sparse(self.form.solved), value)

    def residual(self, value: ca.MX) -> ca.MX:
        """N^T F."""
        return ca.mtimes(_sparse(self.form.null), value)

    def along_rows(self, result: Callable[[ca.MX], ca.MX], moves: bool = False) -> ca.Function:
        """``result(F)`` for rows (t, y, u), or with `moves` (t, y, u, c) at y + V c, and p."""
        functions, n = self.problem.functions, self.problem.model.nx
        sizes = [1, n, functions.nu, self.n_algebraic if moves else 0]
        row, p = ca.MX.sym("row", sum(sizes)), ca.MX.sym("p", functions.n_params)
        t, y, u, c = ca.vertsplit(row, np.cumsum([0, *sizes]).tolist())
        if moves:
            y = y + ca.mtimes(_sparse(self.kernel), c)
        value = functions.rhs(t, ca.vertcat(y, ca.MX(functions.nx - n, 1)), u, p)[:n]
        return ca.Function("rows", [row, p], [ca.densify(result(value))])

    def consistent(self, rows: Float64Array, p: Float64Array) -> Float64Array:
        """States y (m, n) of rows (t, y, u), changed along the null space of M so that N^T F = 0."""
        y = rows[:, 1 : 1 + self.coordinates.shape[1]]
        moves = solved(self.along_rows(self.residual, moves=True), rows, np.zeros((y.shape[0], self.n_algebraic)), p)
        return y + moves @ self.kernel.T

    def sizes(self, rows: Float64Array, p: Float64Array, y_scale: Float64Array) -> Float64Array:
        """Sizes (n_algebraic,) of N^T F: its largest changes when a component of y changes by its own size."""
        own, n = self.along_rows(self.residual), y_scale.size
        row, q = ca.MX.sym("row", rows.shape[1]), ca.MX.sym("p", p.size)
        by_y = ca.jacobian(own(row, q), row)[:, 1 : 1 + n]
        changes = ca.Function("changes", [row, q], [ca.vec(ca.densify(ca.fabs(by_y @ ca.diag(ca.DM(y_scale)))))])
        found = call_rows(changes, rows, p)
        largest = np.where(np.isfinite(found), found, 0.0).max(axis=0).reshape(n, -1).max(axis=0)
        return np.asarray(2.0 ** np.round(np.log2(np.where(largest > 0.0, largest, 1.0))))


def equations_of(problem: Problem) -> Equations | None:
    """The equations of a DAE in two parts; None for an ODE.

    Raises
    ------
    UnsupportedOperation
        For free initial states where the mass matrix has combinations of derivatives only.
    """
    mass = problem.model.system_mass
    if mass is None:
        return None
    form = form_of(mass)
    if form.coordinates is not None and isinstance(start_of(problem), FreeStates):
        raise UnsupportedOperation(
            "x0: the mass matrix has combinations of derivatives in its equations, so single initial states cannot be "
            "free in a fit by collocation; combine the equations, or fit by simulation with 'L-BFGS-B'"
        )
    return Equations(problem, form)


def start_of(problem: Problem) -> Start:
    """The initial states as the user gave them."""
    return problem.start.inner if isinstance(problem.start, WithAlgebraic) else problem.start


def _sparse(matrix: Float64Array) -> ca.DM:
    return ca.sparsify(to_dm(matrix), 1e-14)
