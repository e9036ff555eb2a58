"""Simulation of a controlled model, and its derivatives."""

from __future__ import annotations

import threading
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.errors import DataError, ModelError, SolverError, unknown_name
from ..base.processors import available_threads
from ..base.status import Status
from ..model.ode import ControlledODE
from . import problem
from .batch import Batch
from .derivatives import Derivatives
from .paths import Paths
from .results import Sweep
from .sensitivity import ContinuousAdjoint, Sensitivity, sensitivity_of
from .solvers import RungeKutta, Tsit5
from .trajectories import Trajectories

_BACKENDS = ("auto", "compiled", "casadi")


class Simulator:
    """Integrates many trajectories of a model at once.

    Parameters
    ----------
    model
        `ControlledODE` without algebraic variables.
    solver
        Explicit Runge-Kutta solver; ``Tsit5()`` by default. Each trajectory has its own steps when it is adaptive.
    sensitivity
        How `vjp` computes: "auto" and "adjoint" (the discrete adjoint), "forward", or ``Adjoint(checkpoints=k)``,
        ``Forward(chunk=m)``.
    backend
        "compiled": machine code on lanes of trajectories. "casadi": CasADi's virtual machine, one trajectory at a
        time. "auto" (default): compiled, or CasADi with a warning when the model contains an operation that has no
        compiled form.
    threads
        Number of threads, all processors by default. Results have the same bits for any number.
    dtype
        "float64" (default) or "float32"; all arrays must have it. Times are always float64.

    Raises
    ------
    SolverError, ModelError
        When a part is of the wrong kind or an option is unknown.

    Notes
    -----
    A simulator may be used by several Python threads at the same time.

    Examples
    --------
    >>> import ctrlode_casadi as co
    >>> model = co.ControlledODE(lambda t, x, u, p: -p * x + u, nx=1, nu=1, params=1)
    >>> sim = co.Simulator(model, solver=co.RK4())
    >>> sol = sim([1.0], co.PiecewiseConstant([0.0, 1.0], [0.0, 0.0]), [1.0], [0.0, 0.5, 1.0])
    >>> sol.x.shape
    (1, 3, 1)
    """

    def __init__(
        self,
        model: ControlledODE,
        solver: RungeKutta | None = None,
        sensitivity: str | Sensitivity = "auto",
        backend: str = "auto",
        threads: int | None = None,
        dtype: str = "float64",
    ) -> None:
        if not isinstance(model, ControlledODE):
            raise ModelError(f"model: expected a ControlledODE, got {type(model).__name__}")
        if model.nz:
            raise ModelError(
                f"model: explicit Runge-Kutta solvers cannot integrate a DAE (nz={model.nz}); eliminate the algebraic "
                f"states, or use model.to_dae() with casadi.integrator(..., 'idas', ...)"
            )
        solver = Tsit5() if solver is None else solver
        if not isinstance(solver, RungeKutta):
            hint = ", such as Tsit5() or RK4()"
            raise SolverError(f"solver: expected an explicit Runge-Kutta solver{hint}, got {solver!r}")
        if backend not in _BACKENDS:
            raise SolverError(unknown_name("backend", backend, _BACKENDS))
        if dtype not in ("float64", "float32"):
            raise SolverError(unknown_name("dtype", dtype, ("float64", "float32")))
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise SolverError(f"threads: expected an integer of at least 1 or None, got {threads!r}")
        atol = getattr(solver, "atol", 0.0)
        if isinstance(atol, tuple) and len(atol) != model.nx:
            raise SolverError(f"solver: atol must have nx={model.nx} entries, one per state, it has {len(atol)}")
        self._model, self._solver, self._dtype = model, solver, np.dtype(dtype)
        self._sensitivity = sensitivity_of(sensitivity)
        if isinstance(self._sensitivity, ContinuousAdjoint):
            raise SolverError(
                f"sensitivity: ContinuousAdjoint belongs to SUNDIALS, not to Runge-Kutta solvers; use Adjoint() "
                f"with {type(solver).__name__}"
            )
        self._threads = threads
        self._paths = Paths(model, solver, backend, self._dtype, threads)
        self._derivatives = Derivatives(model, self._paths, self._sensitivity)
        self._recent: list[tuple[Any, NDArray[np.float64], int, Batch]] = []
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its settings; the copy compiles, or finds its code in the cache, when first used."""
        settings = self._model, self._solver, self._sensitivity, self.requested_backend, self._threads, self.dtype
        return Simulator, settings

    # --- properties ----------------------------------------------------------------------------------------------

    @property
    def model(self) -> ControlledODE:
        """The model."""
        return self._model

    @property
    def solver(self) -> RungeKutta:
        """The solver."""
        return self._solver

    @property
    def sensitivity(self) -> Sensitivity:
        """How `vjp` computes."""
        return self._sensitivity

    @property
    def dtype(self) -> str:
        """Type of states, parameters and controls."""
        return self._dtype.name

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self._threads or available_threads()

    @property
    def requested_backend(self) -> str:
        """The path that was asked for: "auto", "compiled" or "casadi"."""
        return self._paths.wanted

    @property
    def backend(self) -> str:
        """The path that runs: "compiled" or "casadi"; compiles the model if that is not known yet."""
        return self._paths.backend

    # --- simulation ----------------------------------------------------------------------------------------------

    def __call__(self, x0: Any, controls: Any, p: Any, ts: Any) -> Trajectories:
        """Integrate.

        Parameters
        ----------
        x0
            Initial states (B, nx), or (nx,) shared by all trajectories.
        controls
            Control with B trajectories, or one shared by all; a list of B controls with knots of different number;
            None when nu == 0.
        p
            Parameters (np,); None when there are none.
        ts
            Save times (T,), strictly increasing; ts[0] is the initial time. A list of B arrays for trajectories of
            different length.

        Returns
        -------
        Trajectories
            A trajectory that fails has its own status, and NaN from the first save time it did not reach.

        Raises
        ------
        DataError, ControlError
            For shapes, types or times that do not fit.
        """
        p = problem.check_parameters(self._model, p, self._dtype)
        x0, batch = self._batch(x0, controls, ts)
        if batch.size == 0:
            x, sweep = np.zeros((0, batch.n_save, self._model.nx), self._dtype), _empty_sweep()
        else:
            x, sweep = self._paths.engine(batch.size).simulate(batch, x0, p)
        times = batch.ts[0].copy() if batch.ts.shape[0] == 1 else np.where(
            np.arange(batch.n_save) < batch.counts[:, None], batch.ts, np.nan
        )  # fmt: skip
        stats = {"n_steps": sweep.n_steps, "n_rejected": sweep.n_rejected, "n_rhs": sweep.n_rhs}
        status = [Status(int(code)) for code in sweep.status]
        for b in range(batch.size if batch.ts.shape[0] > 1 else 0):
            x[b, batch.counts[b] :] = np.nan
        return Trajectories(times, x, status, stats, self._model, batch.controls, p)

    def vjp(self, x0: Any, controls: Any, p: Any, ts: Any, xbar: Any) -> tuple[NDArray[Any], NDArray[Any], Any]:
        """Gradient of ``sum(xbar * x)`` with respect to parameters, initial states and control values.

        Parameters
        ----------
        x0, controls, p, ts
            As in the simulation.
        xbar
            Seeds (B, T, nx); (T, nx) for one trajectory.

        Returns
        -------
        p_bar : ndarray
            (np,).
        x0_bar : ndarray
            (B, nx), or (nx,) when x0 was given as (nx,), summed over the trajectories that share it.
        u_bar : ndarray, list of ndarray, or None
            Shaped like ``controls.values``; a list for a list of controls; None without controls.

        Warns
        -----
        IntegrationWarning
            When a trajectory fails; it contributes nothing. When the gradient is not finite all the same.
        """
        p = problem.check_parameters(self._model, p, self._dtype)
        shape = np.shape(x0)
        x0, batch = self._batch(x0, controls, ts)
        seeds = problem.check_seeds("xbar", xbar, batch, self._model.nx, self._dtype)
        if batch.size == 0:
            listed = isinstance(controls, list | tuple)
            bars = [np.zeros_like(c.values[0]) for c in controls] if listed else None
            u_bar = bars if listed or controls is None else np.zeros_like(controls.values)
            return np.zeros(self._model.np, self._dtype), np.zeros(shape, self._dtype), u_bar
        p_bar, x0_bar, u_bar = self._derivatives.vjp(x0, batch, p, seeds)
        if isinstance(controls, list | tuple) and u_bar is not None and not isinstance(u_bar, list):
            u_bar = [u_bar[0]]  # one control for all trajectories
        if int(np.prod(shape)) != x0_bar.size:
            x0_bar = x0_bar.sum(axis=0)
        return p_bar, x0_bar.reshape(shape), u_bar

    def jvp(
        self, x0: Any, controls: Any, p: Any, ts: Any, dp: Any = None, dx0: Any = None, du: Any = None
    ) -> NDArray[Any]:
        """Derivative of the states along a direction: integrates ``(x, dx)`` together, with the error norm of x.

        Parameters
        ----------
        x0, controls, p, ts
            As in the simulation.
        dp, dx0, du
            Change of the parameters (np,), initial states (B, nx) or (nx,), and control values (shaped like
            ``controls.values``); zero by default.

        Returns
        -------
        ndarray
            (B, T, nx); NaN where a trajectory failed.
        """
        p = problem.check_parameters(self._model, p, self._dtype)
        x0, batch = self._batch(x0, controls, ts)
        dp = np.zeros_like(p) if dp is None else problem.check_parameters(self._model, dp, self._dtype, "dp")
        nx = self._model.nx
        if dx0 is None:
            dx0 = np.zeros((1, nx), self._dtype)
        else:
            dx0 = problem.check_states("dx0", dx0, nx, self._dtype)
            if dx0.shape[0] not in (1, batch.size):
                raise DataError(f"dx0: axis 0 must have B={batch.size} entries or 1, it has {dx0.shape[0]}")
        du = problem.check_change(batch, du, self._dtype)
        return self._derivatives.along(x0, batch, p, dp, np.broadcast_to(dx0, (batch.size, nx)), du)

    def to_casadi(self, ts: Any, controls: Any = None, form: str = "auto") -> ca.Function:
        """The simulation of one trajectory as a `casadi.Function` (x0, U, p) -> X (nx, T).

        Parameters
        ----------
        ts
            Save times (T,).
        controls
            Control of one trajectory; the input U (nu, K) replaces its values. None when nu == 0.
        form
            "expression" (fixed steps, derivatives of any order), "callback" (compiled), or "auto" (default): an
            expression with fixed steps, a callback with adaptive ones.
        """
        from .callback import casadi_simulation

        return casadi_simulation(self, ts, controls, form)

    def __repr__(self) -> str:
        m = self._model
        return (
            f"Simulator(nx={m.nx}, nu={m.nu}, np={m.np}, {self._solver!r}, backend={self.requested_backend!r}, "
            f"dtype={self._dtype.name!r})"
        )

    def explain(self) -> str:
        """What runs: path, method, lanes, threads, code size and compile time, as text."""
        reason = f" ({self._paths.reason})" if self._paths.reason else ""
        kind = "adaptive" if self._solver.adaptive else "fixed"
        return "\n".join(
            [
                f"backend: {self.backend}{reason}",
                f"solver: {self._solver!r}, order {self._solver.order}, {kind} steps",
                f"sensitivity: {self._sensitivity!r}",
                f"threads: {self.threads}, dtype: {self.dtype}",
                *self._paths.compiled_parts(),
            ]
        )

    # --- parts ---------------------------------------------------------------------------------------------------

    def _batch(self, x0: Any, controls: Any, ts: Any) -> tuple[NDArray[Any], Batch]:
        """Checked initial states and batch; the prepared data of recent batches are used again."""
        shared = not problem.is_ragged(ts) and not isinstance(controls, list | tuple)
        if shared and isinstance(ts, np.ndarray) and ts.dtype == np.float64 and ts.ndim == 1:
            size = self._size_of(x0, controls)
            with self._lock:
                for control, times, count, batch in self._recent:
                    if control is controls and count == size and np.array_equal(times, ts):
                        states = problem.check_states("x0", x0, self._model.nx, self._dtype)
                        return np.ascontiguousarray(np.broadcast_to(states, (count, self._model.nx))), batch
            states, batch = problem.make_batch(self._model, x0, controls, ts, self._dtype)
            with self._lock:
                self._recent = [(controls, ts.copy(), batch.size, batch), *self._recent[:3]]
            return states, batch
        return problem.make_batch(self._model, x0, controls, ts, self._dtype)

    def _size_of(self, x0: Any, controls: Any) -> int:
        """Number of trajectories, -1 where the inputs do not agree."""
        states = problem.check_states("x0", x0, self._model.nx, self._dtype).shape[0]
        others = problem.check_controls(controls, self._model.nu, self._dtype)
        return states if others == 1 else others if states in (1, others) else -1


def _empty_sweep() -> Sweep:
    return Sweep(*np.zeros((5, 0), np.int64))
