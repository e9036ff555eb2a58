"""An objective as a sum of squares: residuals, their Jacobian by forward sensitivities, and products with it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..base.errors import UnsupportedOperation
from ..integrate.forward import Columns, sensitivity_blocks, sensitivity_system
from ..integrate.results import Sweep
from ..lowering.batched import CompiledFunction
from ..model.ode import ControlledODE
from .expressions import Functions
from .failures import Failure, describe
from .machine import AnyEngine
from .problem import Problem
from .records import part_of

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

#: Sensitivities of as many trajectories are integrated at a time as fit into this many bytes.
CHUNK_BYTES = 64 << 20


class Outputs:
    """The output map at selected save times, compiled, with its derivatives.

    Rows are given by a mask (B, T); all results have one row per True entry, in order.
    """

    def __init__(self, model: ControlledODE, dtype: str, threads: int | None) -> None:
        self._model, self._dtype, self._threads = model, dtype, threads

    @cached_property
    def _map(self) -> CompiledFunction:
        return CompiledFunction(self._model.output_function, dtype=self._dtype, threads=self._threads)

    @cached_property
    def _jacobians(self) -> CompiledFunction:
        m = self._model
        inputs = [ca.MX.sym(n, k) for n, k in (("t", 1), ("x", m.nx), ("u", m.nu), ("p", m.np))]
        y = m.output_function(*inputs)
        rows = [ca.vec(ca.densify(ca.jacobian(y, inputs[i])).T) for i in (1, 3)]
        f = ca.Function("output_jacobians", inputs, rows, ["t", "x", "u", "p"], ["by_x", "by_p"])
        return CompiledFunction(f, dtype=self._dtype, threads=self._threads)

    def values(self, rows: tuple[NDArray[Any], ...], p: NDArray[Any]) -> NDArray[Any]:
        """Outputs (N, ny) for rows (t, x, u)."""
        return rows[1] if not self._model.has_output else np.asarray(self._map(*rows, p))

    def along(
        self, rows: tuple[NDArray[Any], ...], p: NDArray[Any], dx: NDArray[Any], dp: NDArray[Any]
    ) -> NDArray[Any]:
        """Change of the outputs (N, ny)."""
        if not self._model.has_output:
            return dx
        return np.asarray(self._map.jvp(*rows, p, tangents=[None, dx, None, dp]))

    def adjoint(
        self, rows: tuple[NDArray[Any], ...], p: NDArray[Any], y_bar: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Adjoint of x, (N, nx), and of p, (np,)."""
        if not self._model.has_output:
            return y_bar, np.zeros_like(p)
        bars = self._map.vjp(*rows, p, seeds=y_bar)
        return bars[1], bars[3]

    def sensitivities(self, rows: tuple[NDArray[Any], ...], p: NDArray[Any], s: NDArray[Any]) -> NDArray[Any]:
        """(N, ny, n) from the sensitivities s (N, nx, n) of the states."""
        m = self._model
        if not m.has_output:
            return s
        by_x, by_p = self._jacobians(*rows, p)
        out = by_x.reshape(len(s), m.ny, m.nx) @ s
        out[:, :, : m.np] += by_p.reshape(len(s), m.ny, m.np)
        return out


class Residuals:
    """Least-squares form of a problem; everything is made when first used."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._outputs = Outputs(problem.model, problem.machine.dtype, problem.machine.threads)

    @cached_property
    def _roots(self) -> Float64Array:
        """Square roots of the weights (B, T, ny), NaN where no entry is present."""
        problem = self._problem
        terms = problem.data_terms
        if not terms.squares or terms.data is None:
            raise UnsupportedOperation(
                f"residuals: loss={terms.name} with terminal={terms.terms.terminal is not None}, "
                f"running={terms.terms.running is not None} is not a sum of squares; use loss='mse' or 'sse' without "
                f"terminal and running cost, or minimise obj itself"
            )
        problem.regularization.row_weights  # noqa: B018  refuses a penalty that is no sum of squares
        roots = np.sqrt(problem.w.astype(np.float64) * (1.0 / max(problem.batch.size, 1)))
        shape = (problem.batch.size, problem.times.n, problem.model.ny)
        return np.where(np.isnan(terms.data), np.nan, np.broadcast_to(roots, shape))

    @cached_property
    def _present(self) -> NDArray[np.bool_]:
        return ~np.isnan(self._roots)

    @cached_property
    def _sensitivity_engine(self) -> tuple[int, AnyEngine]:
        """Number of columns, and the engine of (x, S)."""
        problem = self._problem
        model, free = problem.model, problem.start.columns is not None
        columns = model.np + (model.nx if free else 0)
        rhs = sensitivity_system(model.rhs, Columns((0, model.np), (0, model.nx if free else 0)))
        blocks = sensitivity_blocks(model.nx, columns)
        n = model.nx * (1 + columns)
        functions = Functions(rhs, None, None, n, model.nu, model.np, 0, 0, blocks, model.system_mass)
        return columns, problem.machine.engine(functions, problem.n_err, 0)

    def _rows(self, x: NDArray[Any], mask: NDArray[np.bool_], first: int = 0) -> tuple[NDArray[Any], ...]:
        """t (N, 1), x (N, nx), u (N, nu) where the mask (b, T) is True; trajectory `first` is the mask's first row."""
        problem = self._problem
        span = slice(first, first + mask.shape[0])
        t = problem.batch.ts if problem.batch.ts.shape[0] == 1 else problem.batch.ts[span]
        u = problem.batch.saved_controls(span.start, span.stop)
        t, u = np.broadcast_to(t, mask.shape), np.broadcast_to(u, (*mask.shape, u.shape[2]))
        return t[mask][:, None].astype(problem.dtype), np.ascontiguousarray(x[mask]), u[mask]

    def _penalty_rows(self) -> Float64Array:
        return self._problem.regularization.row_weights

    @property
    def n(self) -> int:
        """Number of residuals: entries of data present, and penalties."""
        return int(self._present.sum()) + self._penalty_rows().size

    # --- values --------------------------------------------------------------------------------------------------

    def _states(self, theta: Float64Array) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Sweep]:
        """Parameters and initial states in the sweeps' precision, and the trajectories."""
        problem = self._problem
        typed = problem.typed(theta)
        p, x0 = typed[: problem.n_params], problem.initial(typed)
        x, sweep = problem.engine.simulate(problem.batch, x0, p)
        return p, x0, x, sweep

    def _failure(self, sweep: Sweep) -> Failure | None:
        return None if sweep.success.all() else describe(self._problem.batch, sweep)

    def values(self, theta: Float64Array) -> tuple[Float64Array, Failure | None]:
        """Residuals (m,); infinite for a failed trajectory."""
        roots, present = self._roots, self._present
        p, _, x, sweep = self._states(theta)
        mask = present.any(axis=2) & sweep.success[:, None]
        y = self._outputs.values(self._rows(x, mask), p)
        r = np.full(present.shape, np.inf)
        data = np.broadcast_to(self._problem.d, present.shape)
        r[mask] = roots[mask] * (y - data[mask])
        penalty = self._penalty_rows()
        rows = np.concatenate([r[present], penalty * theta[: penalty.size]])
        return rows, self._failure(sweep)

    # --- Jacobian ------------------------------------------------------------------------------------------------

    def jacobian(self, theta: Float64Array) -> tuple[Float64Array, Failure | None]:
        """Jacobian (m, np_total); zero for a failed trajectory."""
        problem, present = self._problem, self._present
        if problem.machine.events.events:
            return self._by_directions(theta)
        penalty = self._penalty_rows()
        m = int(present.sum())
        out = np.zeros((m + penalty.size, problem.n_total))
        out[np.arange(m, m + penalty.size), np.arange(penalty.size)] = penalty
        typed = problem.typed(theta)
        by_p = problem.start.parameter_jacobian(typed)
        columns, _ = self._sensitivity_engine
        row_bytes = problem.times.n * problem.model.nx * (1 + columns) * problem.dtype.itemsize
        step = max(CHUNK_BYTES // max(row_bytes, 1), 1)
        failure, at = None, 0
        for first in range(0, problem.batch.size, step):
            last = min(first + step, problem.batch.size)
            block, sweep = self._block(typed, first, last, by_p)
            out[at : at + len(block)] = block
            at += len(block)
            if failure is None and not sweep.success.all():
                failure = describe(part_of(problem.batch, first, last), sweep, what="Jacobian")
        return out, failure

    def _by_directions(self, theta: Float64Array) -> tuple[Float64Array, Failure | None]:
        """The Jacobian by one tangent sweep for each parameter, through the events of a model that has some."""
        _, _, x, sweep = self._states(theta)
        mask = self._present.any(axis=2) & sweep.success[:, None]
        rows, penalty = self._rows(x, mask), self._penalty_rows()
        columns = [self._forward(theta, v, rows, mask) for v in np.eye(self._problem.n_total)]
        m = int(self._present.sum())
        out = np.zeros((m + penalty.size, self._problem.n_total))
        out[:m] = np.stack(columns, axis=1) if columns else out[:m]
        out[np.arange(m, m + penalty.size), np.arange(penalty.size)] = penalty
        return out, self._failure(sweep)

    def _block(
        self, theta: NDArray[Any], first: int, last: int, by_p: NDArray[Any] | None
    ) -> tuple[Float64Array, Sweep]:
        """Rows of the Jacobian for some trajectories."""
        problem, present = self._problem, self._present[first:last]
        nx, np_, free = problem.model.nx, problem.n_params, problem.start.columns
        columns, engine = self._sensitivity_engine
        size = last - first
        x0 = np.zeros((size, nx * (1 + columns)), problem.dtype)
        x0[:, :nx] = problem.start.states(theta)[first:last]
        s0 = x0[:, nx:].reshape(size, nx, columns)
        if free is not None:
            s0[:, np.arange(nx), np_ + np.arange(nx)] = 1.0
        if by_p is not None:
            s0[:, :, :np_] = by_p[first:last]
        x, sweep = engine.simulate(part_of(problem.batch, first, last), x0, theta[:np_])
        mask = present.any(axis=2) & sweep.success[:, None]
        sensitivity = x[..., nx:][mask].reshape(int(mask.sum()), nx, columns)
        g = np.zeros((*present.shape, columns))
        change = self._outputs.sensitivities(self._rows(x[..., :nx], mask, first), theta[:np_], sensitivity)
        g[mask] = self._roots[first:last][mask][:, :, None] * change
        rows = g[present]
        out = np.zeros((len(rows), problem.n_total))
        out[:, :np_] = rows[:, :np_]
        if free is not None:
            own = free[first:last][np.nonzero(present)[0]]
            for i in range(nx):
                known = np.flatnonzero(own[:, i] >= 0)
                out[known, own[known, i]] = rows[known, np_ + i]
        return out, sweep

    # --- products ------------------------------------------------------------------------------------------------

    def operator(self, theta: Float64Array) -> LinearOperator:
        """The Jacobian as a linear operator."""
        from scipy.sparse.linalg import LinearOperator

        m = int(self._present.sum())
        penalty = self._penalty_rows()
        theta = theta.copy()
        p, x0, x, sweep = self._states(theta)
        mask = self._present.any(axis=2) & sweep.success[:, None]
        rows = self._rows(x, mask)

        def matvec(v: NDArray[Any]) -> Float64Array:
            v = np.asarray(v, np.float64).ravel()
            return np.concatenate([self._forward(theta, v, rows, mask), penalty * v[: penalty.size]])

        def rmatvec(r: NDArray[Any]) -> Float64Array:
            r = np.asarray(r, np.float64).ravel()
            out = self._reverse(theta, p, x0, rows, mask, r[:m])
            out[: penalty.size] += penalty * r[m:]
            return out

        shape = (m + penalty.size, self._problem.n_total)
        return LinearOperator(shape, matvec=matvec, rmatvec=rmatvec, dtype=np.float64)

    def gauss_newton(self, theta: Float64Array) -> LinearOperator:
        """The operator 2 J^T J."""
        from scipy.sparse.linalg import LinearOperator

        jacobian = self.operator(theta)

        def product(v: NDArray[Any]) -> Float64Array:
            return 2.0 * np.asarray(jacobian.rmatvec(jacobian.matvec(v)))

        n = self._problem.n_total
        return LinearOperator((n, n), matvec=product, rmatvec=product, dtype=np.float64)

    def _forward(
        self, theta: Float64Array, v: Float64Array, rows: tuple[NDArray[Any], ...], mask: NDArray[np.bool_]
    ) -> Float64Array:
        """Residuals' change along v, by a tangent sweep."""
        problem = self._problem
        x, sweep = problem.simulate_along(theta, v)
        ok = sweep.success[:, None] & mask
        dx = np.where(ok[..., None], x[..., problem.functions.nx :], 0.0)[mask]
        typed_v = problem.typed(v)[: problem.n_params]
        dy = self._outputs.along(rows, problem.typed(theta)[: problem.n_params], np.ascontiguousarray(dx), typed_v)
        out = np.zeros(self._present.shape)
        out[mask] = self._roots[mask] * dy
        return out[self._present]

    def _reverse(
        self,
        theta: Float64Array,
        p: NDArray[Any],
        x0: NDArray[Any],
        rows: tuple[NDArray[Any], ...],
        mask: NDArray[np.bool_],
        r: Float64Array,
    ) -> Float64Array:
        """Adjoint of the residuals for seeds r, by a reverse sweep."""
        problem = self._problem
        seeds = np.zeros(self._present.shape)
        seeds[self._present] = r
        y_bar = np.where(self._present, self._roots * seeds, 0.0)[mask].astype(problem.dtype)
        x_bar, p_bar = self._outputs.adjoint(rows, p, y_bar)
        full = np.zeros((*mask.shape, problem.model.nx), problem.dtype)
        full[mask] = x_bar
        made = problem.engine.vjp(problem.batch, x0, p, full, checkpoints=problem.machine.checkpoints)
        out = np.zeros(problem.n_total)
        out[: problem.n_params] = made.p_bar + p_bar
        problem.start.pullback(problem.typed(theta), made.x0_bar, out)
        return out
