"""The lane compiler as backend: an `NLP` whose functions are evaluated over all elements of a group at once.

Every group's function and its derivatives (CasADi's, of one element) become vector code, one element per lane. What the
elements give is put into pools, and sums over the pools are the objective, the constraints and the nonzeros of their
derivatives. The sparse structure follows from CasADi's sparsity of the local derivatives; no numbers are looked at.

IPOPT asks for f, g, the gradient and the Jacobian at one point in four calls: local results are computed once per
point.
"""

from __future__ import annotations

import threading

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array
from ...base.errors import SolverError, UnsupportedOperation, unknown_name
from ...base.processors import available_threads
from ..groups import NLP, OBJECTIVE, IntArray
from ..oracle import Oracle
from .callbacks import callbacks
from .local import Local
from .rows import GroupRows, Rows
from .sums import Sums

#: Plugins of `casadi.nlpsol` that take all their functions from outside.
PLUGINS = ("ipopt", "sqpmethod")
HESSIANS = ("auto", "exact", "limited-memory")
#: Second derivatives of all elements together (half a GB with their places) that are computed by default.
MOST_SECOND_DERIVATIVES = 1 << 23


def oracle(nlp: NLP, plugin: str = "ipopt", hessian: str = "auto", threads: int | None = None) -> Oracle:
    """The scaled program as compiled functions for `casadi.nlpsol`.

    Parameters
    ----------
    nlp
        The program.
    plugin
        The solver that the options are for, one of `PLUGINS`. The functions serve any solver.
    hessian
        "exact", or "limited-memory" for no second derivatives: the solver's own approximation is then switched on, and
        the oracle's Hessian is an error to evaluate. "auto" is exact up to `MOST_SECOND_DERIVATIVES`.
    threads
        How many threads a large program may use; all processors by default. Results do not depend on it.

    Raises
    ------
    UnsupportedOperation
        If the plugin derives its functions itself, if an instruction of a group's function has no lowering, or if the
        code would be too long.
    SolverError
        If `hessian` is none of these.

    Notes
    -----
    The functions are Callbacks, which CasADi refers to without owning them. Keep the Oracle as long as a solver that
    was made of it; nothing else keeps it, so both go together.
    """
    if plugin not in PLUGINS:
        raise UnsupportedOperation(
            f"solver: {plugin!r} derives the NLP's functions itself and cannot take compiled ones; use one of "
            f"{', '.join(PLUGINS)}, or backend='casadi'"
        )
    functions = CompiledNLP(nlp, hessian, threads)
    c = callbacks(functions)
    options: dict[str, object] = {"no_nlp_grad": True, "calc_lam_p": False}
    if plugin == "ipopt":
        options |= {"grad_f": c.gradient, "jac_g": c.jacobian}
        options |= {"hess_lag": c.hessian} if functions.second else {"ipopt.hessian_approximation": "limited-memory"}
    else:
        options |= {"jac_fg": c.both}
        options |= {"hess_lag": c.symmetric} if functions.second else {"hessian_approximation": "limited-memory"}
    return Oracle(c.problem, options, c.objective, c.constraints, c.gradient, c.jacobian, c.hessian, keep=(c,))


class CompiledNLP:
    """Objective, constraints and derivatives of the scaled program of an `NLP`, on NumPy arrays.

    All functions take the scaled variables w (n_w,) and the parameters q (n_q,).

    Parameters
    ----------
    nlp
        The program.
    hessian
        "exact", "limited-memory" for no second derivatives, "auto" for the first unless there would be too many.
    threads
        How many threads a large program may use; all processors by default.

    Attributes
    ----------
    n_w, n_g, n_q
        Numbers of variables, constraints and parameters.
    jacobian_sparsity
        Of the constraints, n_g x n_w.
    hessian_sparsity
        Upper triangle, n_w x n_w; a diagonal, which is an error to evaluate, without second derivatives.
    second
        Whether there are second derivatives.

    Notes
    -----
    Safe in several threads, one call at a time.
    """

    def __init__(self, nlp: NLP, hessian: str = "auto", threads: int | None = None) -> None:
        if hessian not in HESSIANS:
            raise SolverError(unknown_name("hessian", hessian, HESSIANS))
        self.n_w, self.n_g, self.n_q = nlp.n_w, nlp.n_g, nlp.n_q
        self._nlp = nlp
        self._lock = threading.RLock()
        workers = available_threads() if threads is None else max(1, threads)
        used = [g for g in nlp.groups if g.size and g.function.numel_out(0)]
        self._groups = [GroupRows(Local(g), workers) for g in used]
        self._targets = [np.where(g.targets == OBJECTIVE, nlp.n_g, g.targets) for g in used]
        self._scale_w = np.array(nlp.scale_w, dtype=np.float64)
        self._scale_lam = np.append(nlp.scale_g, nlp.scale_f)
        self._lam = np.empty(nlp.n_g + 1)
        self._w = np.empty(nlp.n_w)
        self._at: tuple[bytes, bytes] | None = None
        self._fresh: set[str] = set()
        self._first_order()
        self._first_derivatives()
        self.second = hessian == "exact" or (hessian == "auto" and self._few_second_derivatives())
        self.hessian_sparsity = ca.Sparsity.diag(nlp.n_w, nlp.n_w)
        if self.second:
            self._second_derivatives()

    # set-up ----------------------------------------------------------------------------------------------------
    def _first_order(self) -> None:
        """Values: kernels, pool and sums."""
        nlp = self._nlp
        sizes = [t.size for t in self._targets]
        self._values, self._value_rows = _pooled(self._groups, sizes, "values")
        target, source = _joined(self._targets), np.arange(sum(sizes))
        in_f = target == nlp.n_g
        zero = sum(sizes)
        self._f = Sums(1, np.zeros(int(in_f.sum()), np.int64), source[in_f], np.array([nlp.scale_f]), zero)
        self._g = Sums(nlp.n_g, target[~in_f], source[~in_f], nlp.scale_g, zero)

    def _first_derivatives(self) -> None:
        nlp = self._nlp
        parts = [g.local.jacobian for g in self._groups]
        sizes = [g.numbers(c) for g, c in zip(self._groups, parts, strict=True)]
        self._slopes, self._slope_rows = _pooled(self._groups, sizes, "jacobian")
        row = _joined([t[:, c.row] for t, c in zip(self._targets, parts, strict=True)])
        col = _joined([g.local.group.variables[:, c.col] for g, c in zip(self._groups, parts, strict=True)])
        source = _sources([g.places(c) for g, c in zip(self._groups, parts, strict=True)], sizes)
        in_f = row == nlp.n_g
        self._grad = Sums(nlp.n_w, col[in_f], source[in_f], nlp.scale_f * nlp.scale_w, sum(sizes))
        self.jacobian_sparsity, place = _pattern(nlp.n_g, nlp.n_w, row[~in_f], col[~in_f])
        rows, cols = (np.array(a, dtype=np.int64) for a in self.jacobian_sparsity.get_triplet())
        scale = nlp.scale_g[rows] * nlp.scale_w[cols]
        self._jac = Sums(rows.size, place, source[~in_f], scale, sum(sizes))

    def _few_second_derivatives(self) -> bool:
        n = sum(g.numbers(g.local.hessian) for g in self._groups)
        return n <= MOST_SECOND_DERIVATIVES

    def _second_derivatives(self) -> None:
        nlp, groups = self._nlp, self._groups
        parts = [g.local.hessian for g in groups]
        sizes = [g.numbers(c) for g, c in zip(groups, parts, strict=True)]
        self._curvatures, self._curvature_rows = _pooled(groups, sizes, "hessian")
        pairs = [
            (g.local.group.variables[:, c.row], g.local.group.variables[:, c.col])
            for g, c in zip(groups, parts, strict=True)
        ]
        a, b = _joined([row for row, _ in pairs]), _joined([col for _, col in pairs])
        source = _sources([g.places(c) for g, c in zip(groups, parts, strict=True)], sizes)
        # Two local variables that are one in the program: both halves of the local matrix add to its diagonal.
        local = [np.broadcast_to(c.row != c.col, r.shape) for (r, _), c in zip(pairs, parts, strict=True)]
        twice = (a == b) & _joined(local).astype(bool)
        a, b, source = (np.concatenate([x, x[twice]]) for x in (a, b, source))
        self.hessian_sparsity, place = _pattern(nlp.n_w, nlp.n_w, np.minimum(a, b), np.maximum(a, b))
        rows, cols = (np.array(x, dtype=np.int64) for x in self.hessian_sparsity.get_triplet())
        self._hess = Sums(rows.size, place, source, nlp.scale_w[rows] * nlp.scale_w[cols], sum(sizes))

    # evaluation ------------------------------------------------------------------------------------------------
    def objective(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """f, in out (1,)."""
        with self._lock:
            self._compute(w, q, "values", self._value_rows)
            self._f(self._values, out)

    def constraints(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """g, in out (n_g,)."""
        with self._lock:
            self._compute(w, q, "values", self._value_rows)
            self._g(self._values, out)

    def gradient(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """Gradient of f, in out (n_w,)."""
        with self._lock:
            self._compute(w, q, "slopes", self._slope_rows)
            self._grad(self._slopes, out)

    def jacobian(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """Nonzeros of the Jacobian of g, in the order of `jacobian_sparsity`."""
        with self._lock:
            self._compute(w, q, "slopes", self._slope_rows)
            self._jac(self._slopes, out)

    def hessian(self, w: Float64Array, q: Float64Array, lam_f: float, lam_g: Float64Array, out: Float64Array) -> None:
        """Nonzeros of the Hessian of ``lam_f f + lam_g' g``, in the order of `hessian_sparsity`."""
        if not self.second:
            raise SolverError("hessian: this program has no second derivatives; ask for it with hessian='exact'")
        with self._lock:
            self._move_to(w, q)
            self._lam[:-1], self._lam[-1] = lam_g, lam_f
            self._lam *= self._scale_lam
            for group, targets in zip(self._groups, self._targets, strict=True):
                np.take(self._lam, targets, out=group.lam, mode="clip")
            for group, rows in self._curvature_rows:
                rows.run(group.uniform, group.version)
            self._hess(self._curvatures, out)

    def _compute(self, w: Float64Array, q: Float64Array, what: str, rows: list[tuple[GroupRows, Rows]]) -> None:
        self._move_to(w, q)
        if what not in self._fresh:
            for group, part in rows:
                part.run(group.uniform, group.version)
            self._fresh.add(what)

    def _move_to(self, w: Float64Array, q: Float64Array) -> None:
        """Make w and q the point, if they are not."""
        at = (w.tobytes(), q.tobytes())
        old = self._at
        if old == at:
            return
        self._fresh.clear()
        self._at = at
        if old is None or old[1] != at[1]:
            for group in self._groups:
                group.set_parameters(q)
        if old is None or old[0] != at[0]:
            np.multiply(w, self._scale_w, out=self._w)
            for group in self._groups:
                group.set_variables(self._w)


def _pooled(groups: list[GroupRows], sizes: list[int], what: str) -> tuple[Float64Array, list[tuple[GroupRows, Rows]]]:
    """A pool that ends with a zero, and the kernels that fill its parts; groups without results have none."""
    pool = np.zeros(sum(sizes) + 1)
    bounds = np.cumsum([0, *sizes])
    made = [(g, getattr(g, what)(pool[bounds[k] : bounds[k + 1]])) for k, g in enumerate(groups) if sizes[k]]
    return pool, made


def _joined(parts: list[np.ndarray]) -> IntArray:
    return np.concatenate([np.zeros(0, np.int64), *(p.reshape(-1) for p in parts)])


def _sources(places: list[np.ndarray], sizes: list[int]) -> IntArray:
    """Places in the pool of all groups."""
    first = np.cumsum([0, *sizes])
    return _joined([p + first[k] for k, p in enumerate(places)])


def _pattern(n_rows: int, n_cols: int, row: IntArray, col: IntArray) -> tuple[ca.Sparsity, IntArray]:
    """Sparsity of some entries, and the nonzero that each of them is."""
    keys, place = np.unique(col * max(n_rows, 1) + row, return_inverse=True)
    cols, rows = np.divmod(keys, max(n_rows, 1))
    starts = np.searchsorted(cols, np.arange(n_cols + 1))
    return ca.Sparsity(n_rows, n_cols, starts.tolist(), rows.tolist()), place.reshape(-1)
