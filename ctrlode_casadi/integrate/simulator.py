"""Simulation of a controlled model, and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.processors import available_threads
from ..model.ode import ControlledODE
from . import problem
from .batch import Batch
from .collect import collected
from .cost_model import Selection
from .derivatives import Derivatives
from .forward_vjp import ForwardProducts
from .hybrid.engine import HybridEngine
from .hybrid.events import Event, EventLog, EventSettings, event_settings
from .hybrid.paths import EventPaths
from .inputs import Inputs
from .integrators.checks import resolved
from .integrators.solvers import CasadiIntegrator
from .paths import Paths
from .results import CallWork, Sweep, new_sweep
from .sensitivity import Sensitivity, sensitivity_of
from .settings import check_settings, described
from .solvers import OneStep
from .threads import limited
from .trajectories import Trajectories

if TYPE_CHECKING:
    from .compare import SensitivityReport


class Simulator:
    """Integrates many trajectories of a model at once.

    Parameters
    ----------
    model
        `ControlledODE`; one with algebraic variables or a singular mass matrix is a DAE.
    solver
        Explicit Runge-Kutta solver, ``Tsit5()`` by default; `Rodas5P` for stiff models, the default for DAEs; "auto",
        or `Auto` with settings, to start with the first and go over to the second where a trajectory is stiff; an
        integrator of CasADi (`CVODES`, `IDAS`, `Collocation`, `ERK`, `Rosenbrock`). Each trajectory has its own steps
        when it is adaptive.
    sensitivity
        How `vjp` and objectives compute gradients: "adjoint" (discrete), "forward", "auto" (the faster of them, by a
        cost model), ``Adjoint(checkpoints=k)``, ``Forward(chunk=m)``; `ContinuousAdjoint` with CVODES and IDAS, where
        "auto" and "adjoint" mean that.
    backend
        "compiled": machine code on lanes of trajectories. "casadi": CasADi's virtual machine, one trajectory at a
        time. "auto" (default): compiled, or CasADi with a warning when the model contains an operation that has no
        compiled form.
    threads
        Number of threads, all processors by default. Results have the same bits for any number.
    dtype
        "float64" (default) or "float32"; all arrays must have it. Times are always float64.
    events
        One `Event` or several: conditions that make the state jump, end a trajectory, or are listed in ``sol.events``.
    max_events
        Most events of one trajectory; with more its status is TOO_MANY_EVENTS.
    event_spacing
        Largest distance of the points at which conditions are evaluated; two changes of sign between neighbours are
        not seen. By default 1/256 of a trajectory's time span, and less after events that follow each other quickly;
        with fixed steps the ends of the steps. Save times and knots are always among them.
    time_limit
        Seconds that one call may take, None (default) for no limit. Trajectories that are not finished then get the
        status TIME_LIMIT; a gradient that is not finished is zero. An integrator of CasADi ends its trajectory first.

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
        solver: OneStep | CasadiIntegrator | str | None = None,
        sensitivity: str | Sensitivity = "auto",
        backend: str = "auto",
        threads: int | None = None,
        dtype: str = "float64",
        events: Event | Sequence[Event] | None = None,
        max_events: int = 1000,
        event_spacing: float | None = None,
        time_limit: float | None = None,
    ) -> None:
        solver, system = check_settings(model, solver, backend, threads, dtype, bool(events), time_limit)
        self._model, self._solver, self._dtype = model, solver, np.dtype(dtype)
        self._sensitivity = resolved(solver, sensitivity_of(sensitivity))
        self._threads, self._time_limit = threads, time_limit
        self._events = event_settings(model, () if events is None else events, max_events, event_spacing)
        self._paths = (
            EventPaths(system, solver, backend, self._dtype, threads, self._events)
            if self._events.events
            else Paths(system, solver, backend, self._dtype, threads)
        )
        chunked = isinstance(solver, OneStep) and not self._events.events and not model.is_dae
        forward = ForwardProducts(system, cast(OneStep, solver), self._dtype, threads) if chunked else None
        selection = Selection(system.rhs, solver, self.dtype, self.threads)
        self._derivatives = Derivatives(system, self._paths, self._sensitivity, forward, selection)
        self._inputs = Inputs(model, system, solver, self._dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its settings; the copy compiles, or finds its code in the cache, when first used."""
        settings = self._model, self._solver, self._sensitivity, self.requested_backend, self._threads, self.dtype
        found = self._events
        return Simulator, (*settings, found.events, found.max_events, found.spacing, self._time_limit)

    # --- properties ----------------------------------------------------------------------------------------------

    @property
    def model(self) -> ControlledODE:
        """The model."""
        return self._model

    @property
    def solver(self) -> OneStep | CasadiIntegrator:
        """The solver."""
        return self._solver

    @property
    def sensitivity(self) -> Sensitivity:
        """How `vjp` computes."""
        return self._sensitivity

    @property
    def time_limit(self) -> float | None:
        """Seconds that one call may take."""
        return self._time_limit

    @property
    def events(self) -> tuple[Event, ...]:
        """The events, conditions and jumps as CasADi functions."""
        return self._events.events

    @property
    def event_settings(self) -> EventSettings:
        """The events, and how they are searched."""
        return self._events

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

    @limited
    def __call__(self, x0: Any, controls: Any, p: Any, ts: Any, z0: Any = None) -> Trajectories:
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
        z0
            For a DAE: guess of the algebraic variables at the initial time, (B, nz) or (nz,); the model's by default.
            They are changed so that the algebraic equations hold, with a singular mass matrix also the components of
            x0 in its null space.

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
        x0, batch = self._inputs.batch(x0, controls, ts)
        x, sweep, events = self._simulate(batch, self._inputs.with_guess(x0, z0), p)
        return collected(self._model, self._solver, batch, p, x, sweep, events)

    def _simulate(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]
    ) -> tuple[NDArray[Any], Sweep, list[EventLog] | None]:
        """States, the sweep's report, and the events of each trajectory, None for a simulator without."""
        if batch.size == 0:
            return np.zeros((0, batch.n_save, x0.shape[1]), self._dtype), new_sweep(0), [] if self.events else None
        engine = self._paths.engine(batch.size)
        if isinstance(engine, HybridEngine):
            made = engine.run(batch, x0, p)
            return made.x, made.sweep, made.logs
        return *engine.simulate(batch, x0, p), None

    @limited
    def vjp(
        self, x0: Any, controls: Any, p: Any, ts: Any, xbar: Any, z0: Any = None
    ) -> tuple[NDArray[Any], NDArray[Any], Any]:
        """Gradient of ``sum(xbar * x)`` with respect to parameters, initial states and control values.

        Parameters
        ----------
        x0, controls, p, ts
            As in the simulation.
        xbar
            Seeds (B, T, nx); (T, nx) for one trajectory.
        z0
            As in the simulation.

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
        x0, batch = self._inputs.batch(x0, controls, ts)
        seeds = problem.check_seeds("xbar", xbar, batch, self._model.nx, self._dtype)
        if batch.size == 0:
            listed = isinstance(controls, list | tuple)
            bars = [np.zeros_like(c.values[0]) for c in controls] if listed else None
            u_bar = bars if listed or controls is None else np.zeros_like(controls.values)
            return np.zeros(self._model.np, self._dtype), np.zeros(shape, self._dtype), u_bar
        nx, x0 = self._model.nx, self._inputs.with_guess(x0, z0)
        if x0.shape[1] > nx:
            seeds = np.concatenate([seeds, np.zeros((*seeds.shape[:2], x0.shape[1] - nx), self._dtype)], axis=2)
        p_bar, x0_bar, u_bar = self._derivatives.vjp(x0, batch, p, seeds)
        x0_bar = np.ascontiguousarray(x0_bar[:, :nx])
        if isinstance(controls, list | tuple) and u_bar is not None and not isinstance(u_bar, list):
            u_bar = [u_bar[0]]  # one control for all trajectories
        if int(np.prod(shape)) != x0_bar.size:
            x0_bar = x0_bar.sum(axis=0)
        return p_bar, x0_bar.reshape(shape), u_bar

    @limited
    def jvp(
        self, x0: Any, controls: Any, p: Any, ts: Any, dp: Any = None, dx0: Any = None, du: Any = None, z0: Any = None
    ) -> NDArray[Any]:
        """Derivative of the states along a direction: integrates ``(x, dx)`` together, with the error norm of x.

        Parameters
        ----------
        x0, controls, p, ts
            As in the simulation.
        dp, dx0, du
            Change of the parameters (np,), initial states (B, nx) or (nx,), and control values (shaped like
            ``controls.values``); zero by default.
        z0
            As in the simulation.

        Returns
        -------
        ndarray
            (B, T, nx); NaN where a trajectory failed.
        """
        p = problem.check_parameters(self._model, p, self._dtype)
        x0, batch = self._inputs.batch(x0, controls, ts)
        dp = np.zeros_like(p) if dp is None else problem.check_parameters(self._model, dp, self._dtype, "dp")
        nx = self._model.nx
        dx0 = problem.check_state_change(batch, dx0, nx, self._dtype)
        du = problem.check_change(batch, du, self._dtype)
        y0 = self._inputs.with_guess(x0, z0)
        dy0 = np.zeros_like(y0)
        dy0[:, :nx] = dx0
        return np.ascontiguousarray(self._derivatives.along(y0, batch, p, dp, dy0, du)[..., :nx])

    def to_casadi(self, ts: Any, controls: Any = None, form: str = "auto", *, knots: bool = False) -> ca.Function:
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
        knots
            True makes the knots an input, too: (x0, U, knots, p) -> X as an expression, for controls that switch at
            times to be decided (`PiecewiseConstant`, `PiecewiseLinear`; fixed steps). The order of knots and save
            times is kept: X is NaN where it is given otherwise.
        """
        if knots:
            from .switching import switching_simulation

            return switching_simulation(self, ts, controls, form)
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
        return "\n".join(
            [
                f"backend: {self.backend}{reason}",
                described(self._model, self._solver),
                *self._paths.stiffness(),
                *self._derivatives.explain(),
                f"threads: {self.threads}, dtype: {self.dtype}",
                *self._paths.compiled_parts(),
            ]
        )

    def with_solver(
        self, solver: OneStep | CasadiIntegrator | str, sensitivity: str | Sensitivity = "auto"
    ) -> Simulator:
        """The same simulator with another solver and sensitivity; `backend` is chosen anew."""
        found = self._events
        return Simulator(
            self._model, solver, sensitivity, "auto", self._threads, self.dtype, found.events or None,
            found.max_events, found.spacing, self._time_limit,
        )  # fmt: skip

    def with_sensitivity(self, sensitivity: str | Sensitivity) -> Simulator:
        """The same simulator with another sensitivity; what is compiled is used again."""
        settings = list(self.__reduce__()[1])
        settings[2] = sensitivity
        return Simulator(*settings)

    @property
    def last_work(self) -> CallWork | None:
        """Memory and recomputation of the last `vjp`; None before, and where other integrators did it."""
        return self._derivatives.work

    def compare_sensitivities(
        self, x0: Any, controls: Any, p: Any, ts: Any, xbar: Any = None, *, seconds: float = 2.0
    ) -> SensitivityReport:
        """Time, memory and error of every way to the gradient, for this model and these inputs.

        Parameters
        ----------
        x0, controls, p, ts
            As in the simulation.
        xbar
            Seeds (B, T, nx) of the gradient; random ones by default.
        seconds
            Time for the repeats of each method.

        Returns
        -------
        SensitivityReport
            Print it; `rows` has the numbers.
        """
        from .compare import compare

        return compare(self, x0, controls, p, ts, xbar, seconds)
