"""Mesh refinement for collocation: where is the error, and what makes it smaller.

The error of an interval is the largest difference between its polynomial and the integral of the right-hand side along
it, computed with a Gauss rule of twice the points (Betts 2010, sec. 4.7; Patterson, Hager & Rao 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..base.arrays import Float64Array, call_rows
from ..base.errors import DataError
from .checks import number
from .collocation import CollocationStates
from .definition import along_rows
from .groups import IntArray
from .mesh import Mesh, collocation_rule, lagrange
from .points import quadratures
from .solved import Solved

#: Scaled cost that solvers do not tell from zero.
_RESOLVED = 1e-8


@dataclass(frozen=True)
class Refinement:
    """How a mesh is refined.

    Parameters
    ----------
    tol
        Error of the states, relative to their size, that each interval may have.
    rounds
        Most solves after the first.
    max_degree
        Largest number of collocation points; an interval that needs more is split.
    """

    tol: float = 1e-6
    rounds: int = 8
    max_degree: int = 6

    def __post_init__(self) -> None:
        if not number("refine tol", self.tol) > 0:
            raise DataError(f"refine: the tolerance must be positive, got {self.tol!r}")
        if self.rounds < 0 or self.max_degree < 1:
            raise DataError("refine: rounds must be at least 0 and max_degree at least 1")

    def next_mesh(self, solution: Solved) -> Mesh | None:
        """A finer mesh, None where the tolerance is met."""
        mesh = solution.transcription.plan.mesh
        errors = interval_errors(solution)
        if errors.max() <= self.tol:
            return None
        breaks, degrees = [0.0], []
        smooth = _is_smooth(solution)
        for k in range(mesh.size):
            degree, excess = int(mesh.degrees[k]), errors[k] / self.tol
            pieces = 1
            if excess > 1.0:
                # one more point multiplies the error by about 1 / degree on a smooth solution
                more = degree + max(1, math.ceil(math.log(excess) / math.log(max(degree, 3) * 3)))
                if smooth[k] and more <= self.max_degree:
                    degree = more
                else:
                    pieces = int(np.clip(math.ceil(excess ** (1.0 / (degree + 1))), 2, 5))
            width = mesh.lengths[k] / pieces
            breaks += [mesh.breaks[k] + width * (i + 1) for i in range(pieces - 1)] + [mesh.breaks[k + 1]]
            degrees += [degree] * pieces
        return Mesh(np.array(breaks), np.array(degrees, dtype=np.int64))


def refinement_of(refine: float | Refinement | None) -> Refinement | None:
    """A refinement from a tolerance."""
    if refine is None or isinstance(refine, Refinement):
        return refine
    return Refinement(tol=number("refine", refine))


def interval_errors(solution: Solved) -> Float64Array:
    """Error of each interval (N,): the largest over its points and states, relative to the states' size.

    The error of the running cost and of integral constraints counts too, relative to the integral of their magnitude.
    That of a cost which is zero at the optimum, but for the solver's tolerance, is relative to that tolerance.
    """
    t = solution.transcription
    if not isinstance(t.states, CollocationStates):
        raise DataError("mesh_errors: the error of intervals is estimated for method='collocation'")
    nx, mesh = t.reduction.problem.nx, t.plan.mesh
    _, n_costs = quadratures(t.reduction.problem)
    x = solution.trajectory.states
    size = np.maximum(np.abs(x).max(axis=0), 1e-3 * (1.0 + np.abs(x).max()))
    rules = [collocation_rule(t.plan.scheme, int(n)) for n in mesh.degrees]
    fines = [collocation_rule("legendre", 2 * int(n)) for n in mesh.degrees]
    lengths = mesh.lengths * (solution.tf - solution.t0)
    rates = _rates(solution, t.states, [fine.points for fine in fines])
    coarse = _rates(solution, t.states, [rule.points for rule in rules])
    whole = sum(h * (fine.weights @ np.abs(r[:, nx:])) for h, fine, r in zip(lengths, fines, rates))
    whole = np.maximum(whole, np.where(np.arange(np.size(whole)) < n_costs, _RESOLVED / solution.nlp.scale_f, 1e-300))
    errors = np.empty(mesh.size)
    for k, (rule, fine, h) in enumerate(zip(rules, fines, lengths)):
        rows = x[np.append(t.states.breaks[k], t.states.points[k])]
        followed = lagrange(np.append(0.0, rule.points), np.append(fine.points, 1.0)) @ rows - rows[0]
        moved = h * np.vstack([fine.sums.T, fine.weights[None, :]]) @ rates[k][:, :nx]
        missed = h * (fine.weights @ rates[k][:, nx:] - rule.weights @ coarse[k][:, nx:])
        errors[k] = max(np.max(np.abs(followed - moved) / size), np.max(np.abs(missed) / whole, initial=0.0))
    return errors


def _rates(solution: Solved, states: CollocationStates, theta: list[Float64Array]) -> list[Float64Array]:
    """Right-hand sides and integrands (m, nx + n) of each interval at places theta (m,) inside it."""
    t = solution.transcription
    d, mesh = t.reduction.problem, t.plan.mesh
    x, values = solution.trajectory.states, solution.trajectory.values
    table, places = [], []
    for k in range(mesh.size):
        fractions = mesh.breaks[k] + mesh.lengths[k] * theta[k]
        rule = collocation_rule(t.plan.scheme, int(mesh.degrees[k]))
        rows = x[np.append(states.breaks[k], states.points[k])]
        along = lagrange(np.append(0.0, rule.points), theta[k]) @ rows
        controls = t.control.weights(k, theta[k]) @ values[t.control.parts(k)]
        times = solution.t0 + fractions * (solution.tf - solution.t0)
        table.append(np.column_stack([times, along, controls]))
        places.append(fractions)
    rows = np.concatenate(table)
    if d.nz:
        z = t.consistent(rows, solution.trajectory.at_points, np.concatenate(places), solution.p)
        rows = np.hstack([rows, z])
    integrands, _ = quadratures(d)
    f = along_rows(d, lambda *v: [d.rhs(*v)] + ([] if integrands is None else [integrands(*v)]))
    return np.split(call_rows(f, rows, solution.p), np.cumsum([part.shape[0] for part in table])[:-1])


def _is_smooth(solution: Solved) -> np.ndarray:
    """Where raising the degree is likely to help: the control does not jump in an interval."""
    t = solution.transcription
    values, mesh = solution.trajectory.values, t.plan.mesh
    width = np.maximum(np.ptp(values, axis=0), 1e-12) if values.size else np.ones(0)
    smooth: IntArray = np.ones(mesh.size, dtype=np.int64)
    for k in range(mesh.size):
        own = values[t.control.parts(k)]
        if own.size and np.any(np.ptp(own, axis=0) > 0.3 * width) and mesh.size > 3:
            smooth[k] = 0
    return smooth.astype(bool)
