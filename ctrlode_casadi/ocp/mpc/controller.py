"""Model predictive control: an optimal control problem solved again at every sampling time."""

from __future__ import annotations

import math
import numbers
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...base.arrays import Float64Array, floats
from ...base.errors import DataError, UnsupportedOperation
from ...integrate.solvers import RK4
from ...model.ode import ControlledODE
from ..drive import plan_of
from ..guess import make_guess
from ..problem import OptimalControlProblem
from ..solution import OptimalControlSolution
from .parameters import Parameters
from .preview import with_preview
from .relaxed import violated_bounds
from .search import Attempts, Found, Search
from .stats import ControllerWarning, StepRecord, StepStats

#: Error of the first plan's states, relative to their size, above which shooting's steps are called too long.
_COARSE = 1e-2


class MPC:
    """A controller that solves an optimal control problem from every measured state and applies the first control.

    The program, its functions and the solver are made once. The measured state, the time, the parameters and their
    previews are numbers that change from step to step. Each solve starts from the solution before, moved by one
    interval, variables and multipliers.

    Parameters
    ----------
    ocp
        The problem over one horizon, with a fixed final time. Its length divided by `intervals` is the sampling time
        `dt`; its t0 is the time of the first step; its initial state, if any, is replaced by the measured one.
    intervals
        Number of intervals N of the horizon.
    method, control, solver, options, degree, scheme, integrator, scaling, backend
        As in `OptimalControlProblem.solve`; the default integrator is ``RK4(steps_per_interval=2)``, and the
        default control is constant on each interval. The control applied is held over one interval: where the plan's
        control varies inside the first interval, its value in the middle.
    guess
        Dict with x, u for solves that cannot start from an earlier one, as in `OptimalControlProblem.solve`.
    preview
        Names of parameter blocks whose values change along the horizon (references, known disturbances), or a mapping
        from names to values. A value is an array (n,), held; (N + 1, n), one row per break; or a function of time or a
        control, which is read at the breaks of each horizon.
    preview_hold
        How the rows of a preview are joined: "foh" (first-order hold), by straight lines, or "zoh" (zero-order hold),
        each held until the next break; or a mapping from names of blocks to these. With "zoh" the last row belongs
        to the end of the horizon only, to terminal cost and boundary constraints; without it, (N, n), it is the row
        before.
    warm_start
        Whether a solve starts from the one before; else every solve starts from `guess`.
    soften
        Weight of the l1 penalty on violations of state bounds, path, boundary and terminal constraints in the relaxed
        problem that is solved where the hard one has no solution. It should be larger than the multipliers of these
        constraints. None: no relaxed problem.
    history
        Number of step records that are kept.

    Attributes
    ----------
    dt
        Sampling time.
    stats
        `StepStats`: time, iterations, status and source of each step.

    Raises
    ------
    DataError, SolverError, UnsupportedOperation
        For settings that do not fit, or a free final time.

    Notes
    -----
    An MPC may be used by several threads; they wait for each other. Different MPCs do not share anything. The problem
    is read once: later changes of `ocp` have no effect.

    Examples
    --------
    >>> import ctrlode_casadi as co
    >>> cart = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1)
    >>> ocp = co.OptimalControlProblem(cart, tf=4.0)
    >>> ocp.minimize(lagrange=lambda t, x, u, p: x[0] ** 2 + x[1] ** 2 + u[0] ** 2)
    >>> ocp.bounds(u=(-1.0, 1.0))
    >>> mpc = co.MPC(ocp, intervals=20)
    >>> mpc.step([2.0, 0.0]).round(3)
    array([-1.])
    """

    def __init__(
        self,
        ocp: OptimalControlProblem,
        intervals: int = 20,
        method: str = "multiple-shooting",
        control: str = "constant",
        solver: str = "ipopt",
        options: Mapping[str, Any] | None = None,
        *,
        degree: int = 2,
        scheme: str = "radau",
        integrator: Any = None,
        scaling: bool | Mapping[str, Any] = True,
        backend: str = "auto",
        guess: Mapping[str, Any] | None = None,
        preview: Sequence[str] | Mapping[str, Any] = (),
        preview_hold: str | Mapping[str, str] = "foh",
        warm_start: bool = True,
        soften: float | None = 1e4,
        history: int = 10_000,
    ) -> None:
        if not isinstance(ocp, OptimalControlProblem):
            raise DataError(f"ocp: expected an OptimalControlProblem, got {type(ocp).__name__}")
        _check_numbers(soften, history)
        d = ocp.definition()
        if d.free_tf:
            raise UnsupportedOperation("ocp: a receding horizon has a fixed length; give tf= as a number")
        if d.nu == 0:
            raise DataError("ocp: the model has no control (nu=0), there is nothing to compute")
        plan = plan_of(
            d, method, intervals, control, degree, scheme, integrator or RK4(steps_per_interval=2), None, scaling
        )
        self._model, self._method = ocp.model, plan.method
        self._parameters = Parameters(ocp.model.layout, d.p, preview, plan.mesh.breaks, preview_hold)
        first = make_guess(d, guess)
        d = replace(d, x_start=np.where(np.isfinite(d.x_start), d.x_start, first.x(np.zeros(1))[0]))
        d = with_preview(d, self._parameters.preview, plan.method == "collocation")
        self._definition, self._duration = d, d.tf - d.t0
        self.dt = self._duration / plan.mesh.size
        self._search = Search(d, plan, self.dt, guess, (solver, options, backend), warm_start, soften)
        self._first_u = np.clip(first.u(np.zeros(1))[0], d.u_lb, d.u_ub)
        self._history, self._lock = history, threading.RLock()
        self._last_u, self._next = self._first_u, d.t0
        self._warned = self._checked = False
        self.stats = StepStats(history)

    # --- what users call -------------------------------------------------------------------------------------------

    def step(self, x_measured: Any, p: Any = None, t: float | None = None) -> Float64Array:
        """The control to apply from now on until the next step.

        Parameters
        ----------
        x_measured
            Measured or estimated state (nx,).
        p
            New parameters: all of them (np,), or a mapping from names of blocks to values; see `preview`. None keeps
            what the steps before gave.
        t
            Time; by default one sampling time after the step before, the problem's t0 at first.

        Returns
        -------
        ndarray
            (nu,), within the bounds of the controls.

        Raises
        ------
        DataError
            For a state that is not finite (the message names it), or values that do not fit. A solver that fails
            raises nothing: see `StepRecord.source`.
        """
        with self._lock:
            began = time.perf_counter()
            x = self._checked_state(x_measured)
            now = self._next if t is None else float(floats("t", t))
            self._parameters.update(p)
            values = self._parameters.at(now, self._duration)
            q = np.concatenate([[now, now + self._duration], values])
            found, source, tried = self._search.find(q, x, now)
            u, record = self._decide(found, source, tried, x, now)
            self._last_u, self._next = u, now + self.dt
            self.stats.add(replace(record, seconds=time.perf_counter() - began))
            self._report(record)
            return u.copy()

    def reset(self) -> None:
        """Forget plans, statistics and parameter updates; the clock goes back to the problem's t0."""
        with self._lock:
            self.stats = StepStats(self._history)
            self._parameters.reset()
            self._search.reset()
            self._last_u, self._next = self._first_u, self._definition.t0
            self._warned = self._checked = False

    @property
    def plan(self) -> OptimalControlSolution | None:
        """The last plan that was found: times, states and controls over its horizon; None before the first.

        Parameters that have a preview are followed in ``plan.p`` by the start and length of the horizon and the table.
        """
        good = self._search.good
        if good is None:
            return None
        t = good.program.transcription
        t = replace(t, definition=replace(t.definition, x_start=good.x))
        return OptimalControlSolution(self._model, t, good.nlp, good.program.oracle, good.result)

    @property
    def model(self) -> ControlledODE:
        """The model."""
        return self._model

    @property
    def t(self) -> float:
        """Time of the next step."""
        return self._next

    @property
    def p(self) -> Float64Array:
        """The model's parameters (np,) of the last step."""
        return self._parameters.p.copy()

    @property
    def backend(self) -> str:
        """Who evaluates the functions of the program: "compiled" or "casadi"."""
        return self._search.program.backend

    def __repr__(self) -> str:
        n = round(self._duration / self.dt)
        return f"MPC({self._method}, intervals={n}, dt={self.dt:.6g}, backend={self.backend!r}; {self.stats})"

    # --- parts -----------------------------------------------------------------------------------------------------

    def _checked_state(self, x: Any) -> Float64Array:
        m = self._model
        state = np.asarray(floats("x_measured", x, finite=False), dtype=np.float64)
        if state.shape in ((m.nx, 1), (1, m.nx)) or (state.ndim == 0 and m.nx == 1):
            state = state.reshape(m.nx)
        if state.shape != (m.nx,):
            raise DataError(f"x_measured: expected shape (nx={m.nx},), got {state.shape}")
        bad = np.flatnonzero(~np.isfinite(state))
        if bad.size:
            names = ", ".join(f"{m.state_names[i]} = {state[i]}" for i in bad)
            raise DataError(
                f"x_measured: not finite: {names}; pass the last good value, or an estimate (MHE bridges missing "
                "measurements)"
            )
        return state

    def _decide(
        self, found: Found | None, source: str, tried: Attempts, x: Float64Array, now: float
    ) -> tuple[Float64Array, StepRecord]:
        """The control of a plan, or what is done without one, and the record of the step."""
        texts = list(tried.texts)
        outside = violated_bounds(self._definition, x)
        if found is not None:
            self._check_steps()
            u, objective = found.control(now + 0.5 * self.dt), found.result.objective
        else:
            (u, source), objective = self._fallback(now), float("nan")
        if outside and source != "solve":
            texts.insert(0, f"measured state: {outside}")
        message = "; ".join(texts) if source != "solve" else ""
        return u, StepRecord(
            now, tried.status, source, 0.0, tried.seconds, tried.iterations, tried.count, objective, message
        )

    def _fallback(self, now: float) -> tuple[Float64Array, str]:
        """The control of the last plan, as long as it reaches; then the one that was applied last."""
        good = self._search.good
        if good is not None and 0.0 <= now - good.t0 < self._duration - 0.25 * self.dt:
            return good.control(now + 0.5 * self.dt), "shifted"
        return self._last_u, "held"

    def _check_steps(self) -> None:
        """Warn once where shooting's steps are too long for the model."""
        if self._checked or self._method == "collocation":
            return
        self._checked = True
        plan = self.plan
        error = 0.0 if plan is None else plan.integration_error()
        if error > _COARSE:
            warnings.warn(
                f"MPC: the integration error over one horizon is {error:.1e} of the states' size; use more steps, "
                "integrator=RK4(steps_per_interval=4), or method='collocation' for a stiff model",
                ControllerWarning,
                stacklevel=4,
            )

    def _report(self, record: StepRecord) -> None:
        if record.success or self._warned:
            return
        self._warned = True
        what = {
            "suboptimal": "a limit of the solver was reached, its feasible point is used",
            "relaxed": "the constraints cannot be met from the measured state, they are softened",
            "shifted": "the solve failed, the last plan is followed",
            "held": "the solve failed and there is no plan, the control is held",
        }[record.source]
        warnings.warn(
            f"MPC: at t = {record.t:.6g} {what} ({record.message}). mpc.stats records every step; this warning comes "
            "once",
            ControllerWarning,
            stacklevel=3,
        )


def _check_numbers(soften: Any, history: Any) -> None:
    if soften is not None and (
        not isinstance(soften, numbers.Real) or isinstance(soften, bool) or not 0.0 < float(soften) < math.inf
    ):
        raise DataError(f"soften: expected a positive weight or None, got {soften!r}")
    if not isinstance(history, numbers.Integral) or isinstance(history, bool) or int(history) < 1:
        raise DataError(f"history: expected an integer of at least 1, got {history!r}")
