"""Costates from the multipliers of an NLP."""

from __future__ import annotations

from dataclasses import replace

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .algebraic import derivative_through
from .collocation import CollocationStates
from .groups import NLP, Group
from .mesh import collocation_rule
from .transcription import Transcription


def costates(t: Transcription, nlp: NLP, w: Float64Array, lam: Float64Array) -> Float64Array:
    """Change of the cost of the rest of the horizon per change of each state at the breaks, (N + 1, nx).

    It is the gradient of the Lagrangian's part that belongs to the interval on the right, with respect to the state at
    the interval's left end. At the last break it is minus the gradient of the interval on the left. States that became
    quadratures have their coefficient in the cost, those without derivative in a DAE have zero. Single shooting has no
    state equations; its costates are found by an adjoint sweep through the simulation.
    """
    mesh, nx = t.plan.mesh, t.reduction.problem.nx
    out = np.full((mesh.size + 1, nx), np.nan)
    dynamics = [g for g in nlp.groups if g.name in ("interval", "polynomial", "collocation point")]
    if isinstance(t.states, CollocationStates):
        for k in range(mesh.size):
            rule = collocation_rule(t.plan.scheme, int(mesh.degrees[k]))
            out[k] = rule.slopes[0] @ lam[t.states.defects[k]]
            if not rule.ends_at_one:
                out[k] += rule.end[0] * lam[t.states.closings[k]]
    elif t.states.defects.size:
        (interval,) = dynamics
        out[:-1] = element_gradients(interval, nlp, w, lam)[:, :nx]
    elif t.states.adjoint is not None:
        return t.reduction.gradients(_swept(t.states.adjoint(), nlp, w, lam))
    end, total = t.states.places[-1], np.zeros(nlp.n_w)
    for group in dynamics:
        touched = np.isin(group.variables, end).any(axis=1)
        last = replace(group, variables=group.variables[touched], constants=group.constants[touched],
                       rows=group.targets[touched])  # fmt: skip
        if last.size:
            np.add.at(total, last.variables, element_gradients(last, nlp, w, lam))
    out[-1] = -total[end]
    if isinstance(t.states, CollocationStates) and t.states.algebraic.size and t.states.closings[-1, 0] < 0:
        found, problem = t.trajectory(w, nlp.q), t.reduction.problem
        by_z = -total[t.states.algebraic[found.at_points.shape[0] - 1]]
        row = np.concatenate([[found.tf], found.states[-1], found.u[-1], found.at_points[-1]])
        out[-1] += derivative_through(problem, row, found.p, by_z)
    return t.reduction.gradients(out)


def _swept(adjoint: ca.Function, nlp: NLP, w: Float64Array, lam: Float64Array) -> Float64Array:
    """Gradient of the Lagrangian with respect to a change of the state at each break, in single shooting."""
    (group,) = (g for g in nlp.groups if g.name == "simulation")
    multipliers = np.append(lam, 1.0)[group.targets[0]]
    found = adjoint(w[group.variables[0]], group.constants[0], nlp.q, multipliers)
    return np.asarray(found.full().T)


def element_gradients(group: Group, nlp: NLP, w: Float64Array, lam: Float64Array) -> Float64Array:
    """Gradient of each element's part of the Lagrangian with respect to its own variables, (N, n_local)."""
    f = group.function
    v, s, q, weights = (
        ca.MX.sym(name, n) for name, n in zip("vsqm", (*(f.numel_in(i) for i in range(3)), f.numel_out(0)))
    )
    gradient = ca.densify(ca.jtimes(f(v, s, q), v, weights, True))
    mapped = ca.Function("gradient", [v, s, q, weights], [gradient]).map(group.size, [False, False, True, False])
    multipliers = np.append(lam, 1.0)[group.targets]
    return np.asarray(mapped(w[group.variables].T, group.constants.T, nlp.q, multipliers.T).full().T)
