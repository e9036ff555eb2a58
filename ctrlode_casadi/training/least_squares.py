"""Sums of squares: `scipy.optimize.least_squares` on the residuals of an objective."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import DataError, UnsupportedOperation
from .result import Outcome
from .task import Task
from .watch import Watch

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

#: Above this many parameters "trf" works with products of the Jacobian instead of the Jacobian itself.
DENSE_JACOBIAN = 1000

#: Algorithms of `scipy.optimize.least_squares`.
ALGORITHMS = ("trf", "dogbox", "lm")

#: Arguments of `scipy.optimize.least_squares` that the objective supplies.
_OWN = {
    "fun", "x0", "jac", "bounds", "method", "loss", "f_scale", "diff_step", "jac_sparsity", "args", "kwargs",
    "callback",
}  # fmt: skip


@dataclass(frozen=True)
class LeastSquares:
    """An algorithm of `scipy.optimize.least_squares`.

    Parameters
    ----------
    algorithm
        "trf", "dogbox" or "lm"; None for "trf", or the fit's option `algorithm`.
    unbounded
        The one to take instead where there are no bounds and at least as many residuals as parameters.
    """

    algorithm: str | None = None
    unbounded: str | None = None

    def check(self, task: Task) -> None:
        """Refuse objectives that are no sums of squares, bounds with "lm", and unknown options."""
        from scipy.optimize import least_squares

        check_squares(task)
        algorithm = self._algorithm(task)
        if algorithm == "lm" and task.bounded:
            raise DataError("bounds: the method 'lm' cannot keep bounds; use 'trf' or 'dogbox'")
        n_rows, n = task.objective.n_residuals, int(task.free.sum())
        if algorithm == "lm" and n_rows < n:
            raise DataError(
                f"method: 'lm' needs at least as many residuals as parameters, got {n_rows} and {n}; use 'trf', or a "
                f"regularization, whose penalties are residuals too"
            )
        known = [name for name in inspect.signature(least_squares).parameters if name not in _OWN]
        for name in task.options:
            if name not in known and not (name == "algorithm" and self.algorithm is None) and name != "jacobian":
                raise DataError(f"options: least_squares has no option {name!r} here; it has {', '.join(known)}")
        if task.options.get("jacobian", "auto") not in ("auto", "dense", "operator"):
            raise DataError(f"jacobian: expected 'auto', 'dense' or 'operator', got {task.options['jacobian']!r}")

    def _algorithm(self, task: Task) -> str:
        name = self.algorithm or task.options.get("algorithm", "trf")
        if name not in ALGORITHMS:
            raise DataError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {name!r}")
        if self.unbounded and not task.bounded and task.objective.n_residuals >= int(task.free.sum()):
            return self.unbounded
        return str(name)

    def run(self, task: Task, watch: Watch) -> Outcome:
        """Minimise."""
        from scipy.optimize import least_squares

        algorithm = self._algorithm(task)
        options = {k: v for k, v in task.options.items() if k not in ("algorithm", "jacobian")}
        options.setdefault("max_nfev", 100 * task.maxiter)
        work = _Residuals(task, watch, algorithm)
        work.residuals(task.z0)
        watch.start(work.value)
        if work.by_products:
            options.setdefault("tr_solver", "lsmr")
        r = least_squares(work.residuals, task.z0, jac=work.jacobian, bounds=task.z_bounds, method=algorithm, **options)
        return Outcome(task.expand(r.x), bool(r.success), int(r.status), str(r.message))


def check_squares(task: Task) -> None:
    """Refuse an objective that is no sum of squares."""
    try:
        task.objective.n_residuals  # noqa: B018  says why it has no residuals
    except UnsupportedOperation as exc:
        raise UnsupportedOperation(
            f"method: {task.method!r} needs a sum of squares; {str(exc).removeprefix('residuals: ')}. Methods for any "
            f"loss: 'L-BFGS-B', 'trust-ncg', 'ipopt'"
        ) from exc


def is_squares(task: Task) -> bool:
    """Whether the objective is a sum of squares, penalties included."""
    try:
        check_squares(task)
    except UnsupportedOperation:
        return False
    return True


class _Residuals:
    """Residuals and Jacobian in the optimiser's variables; every Jacobian is an iteration."""

    def __init__(self, task: Task, watch: Watch, algorithm: str) -> None:
        wanted = task.options.get("jacobian", "auto")
        large = task.p0.size > DENSE_JACOBIAN and algorithm == "trf"
        self.by_products = wanted == "operator" or (wanted == "auto" and large)
        self._task, self._watch = task, watch
        self.last: tuple[Float64Array, Float64Array] = (np.zeros(0), np.zeros(0))
        self.value = float("nan")

    def residuals(self, z: Float64Array) -> Float64Array:
        """Residuals (m,), infinite at a failure: all three algorithms then shorten their step."""
        p = self._task.expand(z)
        rows = self._task.objective.residuals(p)
        self._watch.nfev += 1
        fun = float(rows @ rows) if np.isfinite(rows).all() else float("inf")
        self._watch.note(p, fun)
        self.value = fun
        self.last = (z.copy(), rows)
        return rows

    def jacobian(self, z: Float64Array, *_: Any) -> Float64Array | LinearOperator:
        """Jacobian (m, n) with respect to z."""
        task, watch = self._task, self._watch
        p = task.expand(z)
        rows = self.last[1] if np.array_equal(self.last[0], z) else task.objective.residuals(p)
        watch.njev += 1
        if self.by_products:
            from scipy.sparse import eye_array
            from scipy.sparse.linalg import aslinearoperator

            full = task.objective.jac_operator(p)
            columns = eye_array(p.size, format="csc")[:, task.free] * task.scale[task.free]
            jac = full @ aslinearoperator(columns)
            slope = 2.0 * full.rmatvec(rows)
        else:
            dense = task.objective.jac(p)
            jac, slope = task.gradient(dense), 2.0 * (rows @ dense)
        fun = float(rows @ rows)
        watch.note(p, fun, slope)
        watch.iterate(p, fun, slope)
        return jac
