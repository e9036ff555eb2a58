"""CasADi as backend: an `NLP` as expressions, and its derivatives, group by group.

Each group's function is mapped over its elements. Derivatives are taken of one element and mapped too: CasADi would
otherwise find the Hessian of the whole program by colouring, which costs one sweep over all elements per colour, and
a shared variable such as the final time needs a colour for every variable that it meets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .groups import NLP, OBJECTIVE, Group, IntArray
from .oracle import Oracle

#: Element functions with more MX instructions than this are evaluated as they are, not as scalar expressions.
_EXPAND_LIMIT = 4000


def expressions(nlp: NLP, scaled: bool = False) -> dict[str, ca.MX]:
    """The program as expressions ``{"x", "p", "f", "g"}`` for `casadi.nlpsol` and others.

    Parameters
    ----------
    nlp
        The program.
    scaled
        Whether x, f and g are the scaled ones; the problem's own by default.
    """
    x, q = ca.MX.sym("x", nlp.n_w), ca.MX.sym("p", nlp.n_q)
    w = x * ca.DM(nlp.scale_w) if scaled else x
    f, g = ca.MX(1, 1), ca.MX(nlp.n_g, 1)
    for group in nlp.groups:
        r = ca.vec(_mapped(expanded(group.function), group, w, q))
        targets = group.targets.reshape(-1)
        f += ca.mtimes(_collect(targets == OBJECTIVE, np.zeros(targets.size, np.int64), 1), r)
        g += ca.mtimes(_collect(targets != OBJECTIVE, targets, nlp.n_g), r)
    f, g = ca.densify(f), ca.densify(g)
    if scaled:
        f, g = nlp.scale_f * f, ca.DM(nlp.scale_g) * g
    return {"x": x, "p": q, "f": f, "g": g}


def oracle(nlp: NLP, plugin: str = "ipopt") -> Oracle:
    """The scaled program with derivative functions for a plugin of `casadi.nlpsol`."""
    problem = expressions(nlp, scaled=True)
    x, q, f, g = problem["x"], problem["p"], problem["f"], problem["g"]
    lam_f, lam_g = ca.MX.sym("lam_f"), ca.MX.sym("lam_g", nlp.n_g)
    w = x * ca.DM(nlp.scale_w)
    locals_ = [_Derivatives(group) for group in nlp.groups]
    grad, jac = _first_derivatives(nlp, locals_, w, q)
    hess = _hessian(nlp, locals_, w, q, nlp.scale_f * lam_f, ca.DM(nlp.scale_g) * lam_g)
    gradient = ca.Function("nlp_grad_f", [x, q], [f, grad], ["x", "p"], ["f", "grad_f_x"])
    jacobian = ca.Function("nlp_jac_g", [x, q], [g, jac], ["x", "p"], ["g", "jac_g_x"])
    hessian = ca.Function(
        "nlp_hess_l", [x, q, lam_f, lam_g], [hess], ["x", "p", "lam_f", "lam_g"], ["triu_hess_gamma_x_x"]
    )
    return Oracle(
        problem,
        {"grad_f": gradient, "jac_g": jacobian, "hess_lag": hessian} if plugin == "ipopt" else {},
        ca.Function("nlp_f", [x, q], [f], ["x", "p"], ["f"]),
        ca.Function("nlp_g", [x, q], [g], ["x", "p"], ["g"]),
        gradient,
        jacobian,
        hessian,
    )


def expanded(function: ca.Function) -> ca.Function:
    """The function as scalar expressions, which CasADi evaluates faster, where it is small and has such a form."""
    if function.is_a("SXFunction") or function.n_instructions() > _EXPAND_LIMIT:
        return function
    try:
        small = function.expand()
    except RuntimeError:  # a callback, an interpolant or a solver inside
        return function
    return small if small.n_instructions() <= 20 * _EXPAND_LIMIT else function


def operations(nlp: NLP) -> float:
    """Scalar operations of one evaluation of f and g; infinite where a function is too large to be expanded."""
    total = 0.0
    for group in nlp.groups:
        f = expanded(group.function)
        total += f.n_instructions() * group.size if f.is_a("SXFunction") else np.inf
    return total


class _Derivatives:
    """Jacobian and Hessian of one element, with the places of their nonzeros."""

    def __init__(self, group: Group) -> None:
        f = expanded(group.function)
        kind: Any = ca.SX if f.is_a("SXFunction") else ca.MX
        v, s, q = (kind.sym(name, f.numel_in(i)) for i, name in enumerate("vsq"))
        lam = kind.sym("lam", f.numel_out(0))
        r = f(v, s, q)
        jac: Any = ca.jacobian(r, v)
        hess: Any = ca.triu(ca.hessian(ca.dot(lam, r), v)[0])
        self.group = group
        self.jacobian = ca.Function("local_jacobian", [v, s, q], [_nonzeros(jac)], ["v", "s", "q"], ["jac"])
        self.hessian = ca.Function("local_hessian", [v, s, q, lam], [_nonzeros(hess)], ["v", "s", "q", "lam"], ["hess"])
        self.jac_row, self.jac_col = (np.array(a, dtype=np.int64) for a in jac.sparsity().get_triplet())
        self.hess_row, self.hess_col = (np.array(a, dtype=np.int64) for a in hess.sparsity().get_triplet())


def _nonzeros(m: Any) -> Any:
    """The nonzeros of a matrix as a dense column."""
    return ca.densify(ca.vec(m.nz[:]))


@dataclass(frozen=True, eq=False)
class _Pattern:
    """A sparse matrix whose nonzeros are sums of elements' values."""

    sparsity: ca.Sparsity
    row: IntArray
    col: IntArray

    def place(self, row: IntArray, col: IntArray) -> IntArray:
        """Index among the nonzeros of each (row, column)."""
        n = self.sparsity.size1()
        return np.asarray(np.searchsorted(self.col * n + self.row, col * n + row), dtype=np.int64)


def _pattern(n_rows: int, n_cols: int, row: IntArray, col: IntArray) -> _Pattern:
    keys = np.unique(col * max(n_rows, 1) + row)
    col, row = np.divmod(keys, max(n_rows, 1))
    sparsity = ca.Sparsity.triplet(n_rows, n_cols, row.tolist(), col.tolist())
    return _Pattern(sparsity, row, col)


def _first_derivatives(nlp: NLP, parts: list[_Derivatives], w: ca.MX, q: ca.MX) -> tuple[ca.MX, ca.MX]:
    """Gradient of the scaled f and Jacobian of the scaled g with respect to the scaled variables."""
    places = [(d.group.targets[:, d.jac_row], d.group.variables[:, d.jac_col]) for d in parts]
    in_g = [(row[row != OBJECTIVE], col[row != OBJECTIVE]) for row, col in places]
    empty = np.zeros(0, np.int64)
    rows = np.concatenate([empty, *(row for row, _ in in_g)])
    cols = np.concatenate([empty, *(col for _, col in in_g)])
    pattern = _pattern(nlp.n_g, nlp.n_w, rows, cols)
    grad, values = ca.MX(nlp.n_w, 1), ca.MX(pattern.sparsity.nnz(), 1)
    for d, (row, col) in zip(parts, places):
        if d.jac_row.size == 0:
            continue
        local = ca.vec(_mapped(d.jacobian, d.group, w, q))
        row, col = row.reshape(-1), col.reshape(-1)
        objective = row == OBJECTIVE
        if objective.any():
            grad += ca.mtimes(_collect(objective, col, nlp.n_w), local)
        if not objective.all():
            target = pattern.place(np.where(objective, 0, row), col)
            values += ca.mtimes(_collect(~objective, target, pattern.sparsity.nnz()), local)
    grad = ca.densify(grad) * ca.DM(nlp.scale_f * nlp.scale_w)
    values = ca.densify(values) * ca.DM(nlp.scale_g[pattern.row] * nlp.scale_w[pattern.col])
    return grad, ca.MX(pattern.sparsity, values)


def _hessian(nlp: NLP, parts: list[_Derivatives], w: ca.MX, q: ca.MX, lam_f: ca.MX, lam_g: ca.MX) -> ca.MX:
    """Upper triangle of the Hessian of the Lagrangian with respect to the scaled variables."""
    places = []
    for d in parts:
        a, b = d.group.variables[:, d.hess_row], d.group.variables[:, d.hess_col]
        places.append((np.minimum(a, b), np.maximum(a, b)))
    empty = np.zeros(0, np.int64)
    rows = np.concatenate([empty, *(row.reshape(-1) for row, _ in places)])
    cols = np.concatenate([empty, *(col.reshape(-1) for _, col in places)])
    pattern = _pattern(nlp.n_w, nlp.n_w, rows, cols)
    lam = ca.vertcat(lam_g, lam_f)
    values = ca.MX(pattern.sparsity.nnz(), 1)
    for d, (row, col) in zip(parts, places):
        if d.hess_row.size == 0:
            continue
        targets = np.where(d.group.targets == OBJECTIVE, nlp.n_g, d.group.targets)
        weights = ca.reshape(lam[targets.reshape(-1).tolist()], targets.shape[1], targets.shape[0])
        local = ca.vec(_mapped(d.hessian, d.group, w, q, weights))
        target = pattern.place(row.reshape(-1), col.reshape(-1))
        everything = np.ones(target.size, dtype=bool)
        values += ca.mtimes(_collect(everything, target, pattern.sparsity.nnz()), local)
    values = ca.densify(values) * ca.DM(nlp.scale_w[pattern.row] * nlp.scale_w[pattern.col])
    return ca.MX(pattern.sparsity, values)


def _mapped(f: ca.Function, group: Group, w: ca.MX, q: ca.MX, *more: ca.MX) -> ca.MX:
    """A function of all elements, one column per element."""
    v = ca.reshape(w[group.variables.reshape(-1).tolist()], group.variables.shape[1], group.size)
    s = ca.DM(group.constants.T)
    mapped = f.map(group.size, [False, False, True] + [False] * len(more))
    return mapped(v, s, q, *more)


def _collect(use: np.ndarray, target: IntArray, n: int) -> ca.DM:
    """Sparse matrix of ones that adds entry i of a vector to place target[i], where `use` says so."""
    (source,) = np.nonzero(use)
    sparsity = ca.Sparsity.triplet(n, use.size, target[source].tolist(), source.tolist())
    return ca.DM(sparsity, np.ones(source.size))


def values(nlp: NLP, w: Float64Array) -> list[Float64Array]:
    """Contributions of every group at w, each (N, m); for messages and reports."""
    result = []
    for group in nlp.groups:
        mapped = expanded(group.function).map(group.size, [False, False, True])
        r = mapped(w[group.variables].T, group.constants.T, nlp.q).full()
        result.append(np.ascontiguousarray(r.T))
    return result
