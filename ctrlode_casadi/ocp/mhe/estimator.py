"""Moving-horizon estimation: states and parameters from the latest measurements, by the transcriptions of control."""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...base.arrays import Float64Array, floats
from ...base.errors import DataError, ModelError, UnsupportedOperation, unknown_name
from ...integrate.solvers import RK4
from ...model.ode import ControlledODE
from .. import checks
from ..mesh import make_mesh
from ..mpc.program import Program
from ..mpc.search import Attempts
from ..mpc.stats import ControllerWarning, StepRecord, StepStats
from ..simulation import check_integrator
from ..solvers import Result, Start
from ..status import SolveStatus
from ..transcription import Plan
from . import settings as settings
from .filter import ExtendedKalmanFilter, Gaussian, whitening
from .problem import Estimation, break_places, interval_map, make_transcription, output_map

METHODS = ("multiple-shooting", "collocation")
ARRIVALS = ("filter", "fixed")


@dataclass(frozen=True, eq=False)
class _Sample:
    """What is known at one sampling time: control before it, measurement, and the prediction from before it."""

    t: float
    u: Float64Array
    y: Float64Array
    weight: Float64Array
    prior: Gaussian


class MHE:
    """An estimator of states, and of parameters if wanted, from a window of measurements.

    At every sampling time it minimises the squares of measurement errors and process noise over the window, each
    divided by its covariance, plus the arrival cost: the squared distance of the window's first state from what was
    predicted for it, divided by the covariance of that prediction. Bounds of states and parameters are respected.

    Parameters
    ----------
    model
        `ControlledODE`; its output is what is measured.
    dt
        Sampling time.
    window
        Number of intervals N of the window; it holds the latest N + 1 measurements.
    measurement_noise
        Standard deviations (a number or (ny,)), or the covariance (ny, ny).
    process_noise
        The same of what is added to the state over one sampling interval, spread evenly over it; 0 for a state
        without noise.
    x0, x0_noise
        Guess of the state at the first measurement, and its standard deviations or covariance.
    p
        Parameters (np,), flat or as a mapping; of those that are estimated the guess.
    estimate
        Names of blocks of parameters that are estimated, all with "all".
    p_noise
        Standard deviations of their guess, a number or one per estimated parameter.
    p_drift
        Standard deviation of their change per sampling interval, which keeps the estimator from becoming too sure.
        0 (default) for parameters that do not change.
    x_bounds, p_bounds
        Pairs (lb, ub) of the states and of the estimated parameters; None where there is no bound.
    arrival
        How the arrival cost is updated. "filter": mean and covariance of the prediction by an extended Kalman filter
        that is linearised at the estimates; for a linear model without active bounds the estimates are then those of
        the Kalman filter for any window. "fixed": the covariance stays that of x0_noise and p_noise.
    method, solver, options, degree, scheme, integrator, backend
        As in `MPC`; method is "multiple-shooting" or "collocation".
    t0
        Time of the first measurement.
    history
        Number of step records that are kept.

    Attributes
    ----------
    stats
        `StepStats`: time, iterations, status and source of each step.

    Raises
    ------
    DataError, ModelError, SolverError, UnsupportedOperation
        For settings that do not fit.

    Notes
    -----
    While the window fills, intervals without data are switched off, so all steps solve the same program. The
    estimates are those of Rao, Rawlings & Mayne, IEEE Transactions on Automatic Control 48 (2003), 246-258, with
    the filtering update of the arrival cost.

    Examples
    --------
    >>> import ctrlode_casadi as co
    >>> model = co.ControlledODE(lambda t, x, u, p: [x[1], -x[0]], nx=2, output=lambda t, x, u, p: x[0])
    >>> mhe = co.MHE(model, dt=0.1, window=10, measurement_noise=0.1, process_noise=0.01, x0=[0, 0], x0_noise=1.0)
    >>> mhe.step([0.5]).shape
    (2,)
    """

    def __init__(
        self,
        model: ControlledODE,
        dt: float,
        window: int = 20,
        *,
        measurement_noise: Any,
        process_noise: Any,
        x0: Any,
        x0_noise: Any,
        p: Any = None,
        estimate: Sequence[str] | str = (),
        p_noise: Any = None,
        p_drift: Any = 0.0,
        x_bounds: Any = (None, None),
        p_bounds: Any = (None, None),
        arrival: str = "filter",
        method: str = "multiple-shooting",
        solver: str = "ipopt",
        options: Mapping[str, Any] | None = None,
        degree: int = 2,
        scheme: str = "radau",
        integrator: Any = None,
        backend: str = "auto",
        t0: float = 0.0,
        history: int = 10_000,
    ) -> None:
        if not isinstance(model, ControlledODE):
            raise ModelError(f"model: expected a ControlledODE, got {type(model).__name__}")
        if model.nz:
            raise UnsupportedOperation(f"model: estimation of a DAE (nz={model.nz}) is not supported")
        for name, value, known in (("method", method, METHODS), ("arrival", arrival, ARRIVALS)):
            if value not in known:
                raise DataError(unknown_name(name, value, known))
        self._model, self._arrival, self._t0 = model, arrival, checks.number("t0", t0)
        self._dt = checks.number("dt", dt)
        if self._dt <= 0:
            raise DataError(f"dt: the sampling time must be positive, got {dt!r}")
        mesh = make_mesh(window, None, degree)
        start = np.atleast_1d(np.asarray(floats("x0", x0), dtype=np.float64))
        if start.shape != (model.nx,):
            raise DataError(f"x0: expected shape (nx={model.nx},), got {start.shape}")
        values = settings.parameters(model, p)
        free = settings.estimated(model, estimate)
        process = settings.covariance("process_noise", process_noise, model.nx, semi=True)
        p_lb, p_ub = settings.bound_pair("p_bounds", p_bounds, [model.layout.names()[i] for i in free])
        x_lb, x_ub = settings.bound_pair("x_bounds", x_bounds, list(model.state_names))
        self._estimation = Estimation(
            model, self._dt, mesh.size, settings.spread(process), values, free, p_lb, p_ub, x_lb, x_ub
        )
        self._noise = settings.covariance("measurement_noise", measurement_noise, model.ny)
        self._first = settings.prior(start, values[free], x0_noise, p_noise)
        drift = np.zeros_like(self._first.covariance)
        if free.size:
            drift[model.nx :, model.nx :] = settings.covariance("p_drift", p_drift, free.size, semi=True)
        steps = check_integrator(integrator or RK4(steps_per_interval=2), self._dt)
        plan = Plan(method, mesh, "constant", scheme, steps, True)
        self._program = Program(make_transcription(self._estimation, plan, start), solver, options, backend)
        self._filter = ExtendedKalmanFilter(
            interval_map(self._estimation, plan), output_map(self._estimation), drift
        )  # fmt: skip
        self._history, self._lock = history, threading.RLock()
        self._result: Result | None = None
        self._warned, self._next = False, self._t0
        self.reset()

    # --- what users call -------------------------------------------------------------------------------------------

    def step(self, y: Any, u_previous: Any = None, p: Any = None, t: float | None = None) -> Float64Array:
        """The estimate of the state at the time of a new measurement.

        Parameters
        ----------
        y
            Measurement (ny,); NaN where it is missing.
        u_previous
            Control (nu,) that was applied since the measurement before; in the first step it matters only if the
            output depends on the control. Zero by default.
        p
            New values (np,) of the parameters that are not estimated.
        t
            Time of the measurement; by default one sampling time after the one before.

        Returns
        -------
        ndarray
            (nx,).

        Raises
        ------
        DataError
            For wrong shapes or infinite values. A solver that fails raises nothing: the prediction, updated by the
            extended Kalman filter, is returned then, and the record's source is "predicted".
        """
        with self._lock:
            began = time.perf_counter()
            sample = self._sample(y, u_previous, p, t)
            posterior = self._filter.update(sample.t, sample.prior, sample.y, self._noise, sample.u, self._values)
            tried = Attempts(status=SolveStatus.NON_FINITE)
            self._result = self._solve_window(sample, tried)
            if self._result is not None:
                z, source = self._last_state(self._result), "solve"
                objective, message = self._result.objective, ""
            else:
                z, source = posterior.mean, "predicted"
                objective, message = float("nan"), "; ".join(tried.texts) or "the prediction is not finite"
            self._accept(sample, z, posterior)
            seconds = time.perf_counter() - began
            self.stats.add(
                StepRecord(
                    sample.t, tried.status, source, seconds, tried.seconds, tried.iterations, tried.count, objective,
                    message,
                )
            )  # fmt: skip
            if source != "solve" and not self._warned:
                self._warned = True
                warnings.warn(
                    f"MHE: at t = {sample.t:.6g} the solve failed ({message}), the extended Kalman filter's estimate "
                    "is used. mhe.stats records every step; this warning comes once",
                    ControllerWarning,
                    stacklevel=2,
                )
            return self._z.mean[: self._model.nx].copy()

    def reset(self) -> None:
        """Forget all measurements; the clock goes back to t0."""
        with self._lock:
            self.stats = StepStats(self._history)
            self._samples: deque[_Sample] = deque(maxlen=self._estimation.window + 1)
            self._values = self._estimation.p.copy()
            self._z = self._first
            self._result = None
            self._warned, self._next = False, self._t0

    @property
    def x(self) -> Float64Array:
        """The latest estimate of the state (nx,)."""
        return self._z.mean[: self._model.nx].copy()

    @property
    def p(self) -> Float64Array:
        """The model's parameters (np,), with the latest estimates."""
        return self._values.copy()

    @property
    def covariance(self) -> Float64Array:
        """The extended Kalman filter's covariance of the states and the estimated parameters."""
        return self._z.covariance.copy()

    @property
    def window(self) -> tuple[Float64Array, Float64Array]:
        """Times (n,) of the measurements in the window and smoothed states (n, nx) there; empty without a solution."""
        n = len(self._samples)
        if self._result is None:
            return np.zeros(0), np.zeros((0, self._model.nx))
        states = self._result.w[break_places(self._program.transcription)][:n]
        return np.array([s.t for s in self._samples]), states

    @property
    def dt(self) -> float:
        """Sampling time."""
        return self._dt

    @property
    def t(self) -> float:
        """Time of the next measurement."""
        return self._next

    @property
    def backend(self) -> str:
        """Who evaluates the functions of the program: "compiled" or "casadi"."""
        return self._program.backend

    def __repr__(self) -> str:
        e = self._estimation
        return f"MHE(window={e.window}, dt={self._dt:.6g}, arrival={self._arrival!r}; {self.stats})"

    # --- parts -----------------------------------------------------------------------------------------------------

    def _sample(self, y: Any, u: Any, p: Any, t: float | None) -> _Sample:
        """A new measurement, checked, with the prediction for its time."""
        m = self._model
        measured = np.atleast_1d(np.asarray(floats("y", y, finite="nan"), dtype=np.float64))
        if measured.shape != (m.ny,):
            raise DataError(f"y: expected shape (ny={m.ny},), got {measured.shape}")
        control = np.zeros(m.nu) if u is None else np.atleast_1d(np.asarray(floats("u_previous", u), dtype=np.float64))
        if control.shape != (m.nu,):
            raise DataError(f"u_previous: expected shape (nu={m.nu},), got {control.shape}")
        if p is not None:
            kept = self._values[self._estimation.free]
            self._values = settings.parameters(m, p)
            self._values[self._estimation.free] = kept
        now = self._next if t is None else checks.number("t", t)
        if not self._samples:
            prior = self._first
        else:
            prior = self._filter.predict(self._samples[-1].t, self._z, control, self._values)
            if self._arrival == "fixed":
                prior = Gaussian(prior.mean, self._first.covariance)
        seen = np.isfinite(measured)
        weight = np.zeros((m.ny, m.ny))
        if seen.any():
            weight[np.ix_(seen, seen)] = whitening(self._noise[np.ix_(seen, seen)])
        return _Sample(now, control, measured, weight, prior)

    def _solve_window(self, sample: _Sample, tried: Attempts) -> Result | None:
        """The optimal window that ends with a sample; None without a solution, or from a prediction that is not finite.

        A start with the multipliers of the window before that fails is followed by one without.
        """
        e, t = self._estimation, self._program.transcription
        samples = [*self._samples, sample][-(e.window + 1) :]
        arrival = samples[0].prior
        if not np.isfinite(sample.prior.mean).all() or not np.isfinite(arrival.covariance).all():
            return None
        n, m = len(samples), self._model
        y, u, weight = np.zeros((m.ny, e.window + 1)), np.zeros((m.nu, e.window + 1)), np.zeros((m.ny**2, e.window + 1))
        for k, s in enumerate(samples):
            y[:, k], u[:, k], weight[:, k] = np.nan_to_num(s.y), s.u, s.weight.reshape(-1, order="F")
        data = e.data(y=y, weight=weight, u=u, mean=arrival.mean, arrival=arrival.whitening())
        begin = samples[0].t
        q = np.concatenate([[begin, begin + e.window * self._dt], self._values, data])
        switch = (np.arange(e.window) < n - 1).astype(np.float64)
        known = np.column_stack([u[:, 1:].T, switch])
        places = np.column_stack([t.u[:, : m.nu], t.u[:, -1:]])
        nlp = self._program.with_numbers(q, places.reshape(-1), known.reshape(-1), self._bounds(n))
        start = self._start(sample, n)
        for kind, first in (("shifted", start), ("cold", Start(start.w)))[0 if start.warm else 1 :]:
            result = self._program.solve(nlp, first)
            if tried.note(kind, result):
                return result
        return None

    def _bounds(self, n: int) -> tuple[Float64Array, Float64Array]:
        """Bounds of all variables: states beyond the latest of n measurements have none.

        These states equal the latest one; bounds of theirs would say the same again, which solvers do not like.
        """
        t = self._program.transcription
        lbw, ubw = t.nlp.lbw.copy(), t.nlp.ubw.copy()
        beyond = t.states.fractions > t.plan.mesh.breaks[n - 1] + 1e-9
        later = t.states.places[beyond].reshape(-1)
        lbw[later], ubw[later] = -np.inf, np.inf
        return lbw, ubw

    def _start(self, sample: _Sample, n: int) -> Start:
        """The window before, moved by one interval if it was full, with the prediction for the new state.

        Without a solution of the window before, all states are the prediction.
        """
        t, m = self._program.transcription, self._model
        if self._result is None:
            w = t.nlp.w0.copy()
            w[t.states.places] = sample.prior.mean[: m.nx]
            w[t.p] = sample.prior.mean[m.nx :]
            return Start(w)
        start = Start(self._result.w.copy(), self._result.lam_g, self._result.lam_w)
        if len(self._samples) == self._estimation.window + 1:
            start = self._program.shift(start)
        later = t.states.fractions > t.plan.mesh.breaks[n - 2] + 1e-9
        start.w[t.states.places[later]] = sample.prior.mean[: m.nx]
        return start

    def _last_state(self, result: Result) -> Float64Array:
        """Estimates of state and parameters at the latest measurement."""
        t, n = self._program.transcription, min(len(self._samples) + 1, self._estimation.window + 1)
        return np.concatenate([result.w[break_places(t)[n - 1]], result.w[t.p]])

    def _accept(self, sample: _Sample, z: Float64Array, posterior: Gaussian) -> None:
        if not np.isfinite(z).all():
            z = self._z.mean
        covariance = posterior.covariance if np.isfinite(posterior.covariance).all() else self._first.covariance
        self._z = Gaussian(z, covariance)
        self._values[self._estimation.free] = z[self._model.nx :]
        self._samples.append(sample)
        self._next = sample.t + self._dt
