"""A controller and a plant in a loop, with noise, disturbances, an observer and changing parameters."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import Float64Array, floats
from ...base.errors import DataError
from ...base.status import Status
from ...controls.constant import Constant
from ...controls.kinds import PiecewiseConstant
from ...integrate.trajectories import Trajectories
from ..status import SolveStatus
from .controller import MPC
from .plants import Plant, make_plant
from .stats import StepRecord


@runtime_checkable
class Observer(Protocol):
    """An estimator, such as `MHE`."""

    def step(self, y: Any, u_previous: Any = None) -> Float64Array:
        """The estimate of the state from a new measurement and the control applied before it."""


@dataclass(frozen=True, eq=False, repr=False)
class ClosedLoop(Trajectories):
    """The trajectory of a plant under a controller, one trajectory with T - 1 steps.

    Attributes
    ----------
    measured
        (T - 1, ny) measurements, with noise.
    estimated
        (T - 1, nx) states that the controller got.
    records
        `StepRecord` of every step of the controller.
    """

    measured: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    estimated: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    records: tuple[StepRecord, ...] = ()

    @property
    def statuses(self) -> list[SolveStatus]:
        """How the solve of each step ended."""
        return [record.status for record in self.records]


def closed_loop(
    mpc: MPC,
    plant: Any,
    x0: Any,
    steps: int,
    *,
    p: Any = None,
    solver: Any = None,
    noise: Any = None,
    disturbance: Any = None,
    updates: Any = None,
    observer: Observer | Callable[..., Any] | None = None,
    measurement: Callable[..., Any] | None = None,
    seed: int | np.random.Generator | None = 0,
    callback: Callable[..., Any] | None = None,
) -> ClosedLoop:
    """Run a controller on a plant.

    Parameters
    ----------
    mpc
        The controller. It begins at its own time `mpc.t`; call ``mpc.reset()`` before to start anew.
    plant
        A `ControlledODE`, simulated by a tight adaptive solver; a `Simulator`; a function
        ``plant(x, u, t, dt) -> x_next``; or a `casadi.Function` that makes a step of length ``mpc.dt``, such as
        ``model.step(solver, mpc.dt)`` with inputs (t, x, u, p), or any with inputs named x (or x0), u, and t, p, dt if
        it needs them.
    x0
        True initial state of the plant.
    steps
        Number of steps, each of length ``mpc.dt``. The control is held in between.
    p
        Parameters of a plant that is a model, or a `casadi.Function` with an input p: values, or a function
        ``p(t, rng)``.
    solver
        Solver for a plant that is a `ControlledODE`; ``Tsit5(rtol=1e-9, atol=1e-11)`` by default.
    noise
        Standard deviations of the measurement noise (a number or (ny,)), or a function ``noise(t, y, rng)`` that
        returns the measurement.
    disturbance
        Standard deviations of what is added to the state after every step, or a function
        ``disturbance(t, x, u, rng)`` that returns what is added.
    updates
        Parameters for ``mpc.step(p=...)``: values for all steps, or a function ``updates(t, x_hat, rng)``.
    observer
        An estimator with ``step(y, u_previous)`` such as `MHE`, or a function ``observer(t, y, u_previous)``; without
        one, the measurement is taken for the state. u_previous is zero in the first step. An `MHE` has a clock of its
        own: reset it when you reset the controller.
    measurement
        What is measured, a function ``measurement(t, x, u)`` of the true state. By default the state, or with an
        observer the output of the plant.
    seed
        Seed or generator for all random numbers.
    callback
        Called as ``callback(t, x, u)`` after every step; the loop ends when it returns True.

    Returns
    -------
    ClosedLoop
        `Trajectories` with t (T,), x (1, T, nx), u (1, T, nu), where T is one more than the number of steps done; the
        control in a row is the one applied from that time on, and the last one twice. `status` is INTERRUPTED after
        Ctrl-C or a callback that ended the loop, or what stopped the plant.

    Raises
    ------
    DataError
        For parts that do not fit.
    """
    if not isinstance(mpc, MPC):
        raise DataError(f"mpc: expected an MPC, got {type(mpc).__name__}")
    if not isinstance(steps, numbers.Integral) or isinstance(steps, bool) or steps < 1:
        raise DataError(f"steps: expected an integer of at least 1, got {steps!r}")
    rng = np.random.default_rng(seed)
    body = make_plant(plant, x0, mpc.model, mpc.p, p, solver, rng)
    start = np.atleast_1d(np.asarray(floats("x0", x0), dtype=np.float64))
    if start.shape != (body.model.nx,):
        raise DataError(f"x0: expected shape (nx={body.model.nx},), got {start.shape}")
    sensor = _Sensor(body, noise, measurement, observer, rng)
    loop = _Loop(mpc, body, sensor, disturbance, updates, rng, start)
    status = loop.run(int(steps), callback)
    return loop.result(status)


class _Sensor:
    """From the true state to what the controller gets."""

    def __init__(self, plant: Plant, noise: Any, measurement: Any, observer: Any, rng: np.random.Generator) -> None:
        for name, value in (("measurement", measurement), ("observer", observer)):
            if value is not None and not callable(value) and not isinstance(value, Observer):
                raise DataError(f"{name}: expected a function{' or an estimator' * (name == 'observer')}")
        self._plant, self._measurement, self._observer, self._rng = plant, measurement, observer, rng
        self._noise = noise if callable(noise) or noise is None else _deviations("noise", noise)

    def measure(self, t: float, x: Float64Array, u: Float64Array) -> Float64Array:
        """The measurement."""
        if self._measurement is not None:
            y = np.atleast_1d(np.asarray(self._measurement(t, x.copy(), u.copy()), dtype=np.float64))
        else:
            y = self._plant.output(t, x, u) if self._observer is not None else x
        if self._noise is None:
            return y.copy()
        if callable(self._noise):
            return np.atleast_1d(np.asarray(self._noise(t, y.copy(), self._rng), dtype=np.float64))
        return y + _draw("noise", self._noise, y.size, self._rng)

    def estimate(self, t: float, y: Float64Array, u: Float64Array) -> Float64Array:
        """The state for the controller."""
        if self._observer is None:
            return y
        if isinstance(self._observer, Observer):
            return self._observer.step(y, u)
        return np.atleast_1d(np.asarray(self._observer(t, y, u), dtype=np.float64))


class _Loop:
    """The loop and what it has done so far."""

    def __init__(
        self, mpc: MPC, plant: Plant, sensor: _Sensor, disturbance: Any, updates: Any, rng: np.random.Generator,
        x0: Float64Array,
    ) -> None:  # fmt: skip
        self._mpc, self._plant, self._sensor, self._rng = mpc, plant, sensor, rng
        self._disturbance = (
            disturbance if callable(disturbance) or disturbance is None else _deviations("disturbance", disturbance)
        )
        self._updates, self._t0 = updates, mpc.t
        self._x, self._u = [x0], [np.zeros(mpc.model.nu)]
        self._measured: list[Float64Array] = []
        self._estimated: list[Float64Array] = []
        self._records: list[StepRecord] = []

    def run(self, steps: int, callback: Callable[..., Any] | None) -> Status:
        """Do the steps; Ctrl-C ends them."""
        try:
            for _ in range(steps):
                status = self._step()
                if status is not Status.SUCCESS:
                    return status
                if callback is not None and callback(self._time(len(self._records)), self._x[-1].copy(), self._u[-1]):
                    return Status.INTERRUPTED
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        return Status.SUCCESS

    def _time(self, k: int) -> float:
        return self._t0 + k * self._mpc.dt

    def _step(self) -> Status:
        """One step; lists grow only when all of it is done."""
        mpc, x, before = self._mpc, self._x[-1], self._u[-1]
        t = self._time(len(self._records))
        y = self._sensor.measure(t, x, before)
        estimate = self._sensor.estimate(t, y, before)
        updates = self._updates(t, estimate.copy(), self._rng) if callable(self._updates) else self._updates
        u = mpc.step(estimate, updates, t)
        after, status = self._plant.advance(t, x, u, mpc.dt)
        if status is Status.SUCCESS:
            after = self._disturbed(t, after, u)
            self._x.append(after)
            self._u.append(u)
            self._measured.append(y)
            self._estimated.append(estimate)
            self._records.append(mpc.stats[-1])
        return status

    def _disturbed(self, t: float, x: Float64Array, u: Float64Array) -> Float64Array:
        if self._disturbance is None:
            return x
        if callable(self._disturbance):
            return x + np.asarray(self._disturbance(t, x.copy(), u.copy(), self._rng), dtype=np.float64)
        return x + _draw("disturbance", self._disturbance, x.size, self._rng)

    def result(self, status: Status) -> ClosedLoop:
        """What was done."""
        done, model = len(self._records), self._plant.model
        t = np.array([self._time(k) for k in range(done + 1)])
        u = np.array(self._u[1 : done + 1] + self._u[done : done + 1])
        held = PiecewiseConstant(t, u[None], extrapolation="hold", nu=u.shape[1]) if done else Constant(u[None])
        return ClosedLoop(
            t,
            np.array(self._x[: done + 1])[None],
            [status],
            {name: np.array([count], dtype=np.int64) for name, count in self._plant.counts.items()},
            model,
            held,
            self._plant.p,
            measured=np.array(self._measured[:done]),
            estimated=np.array(self._estimated[:done]),
            records=tuple(self._records),
        )


def _deviations(name: str, value: Any) -> Float64Array:
    deviations = np.asarray(floats(name, value), dtype=np.float64)
    if deviations.ndim > 1 or np.any(deviations < 0):
        raise DataError(f"{name}: expected non-negative standard deviations, one or one per entry, got {value!r}")
    return deviations


def _draw(name: str, deviations: Float64Array, n: int, rng: np.random.Generator) -> Float64Array:
    if deviations.ndim == 1 and deviations.size != n:
        raise DataError(f"{name}: expected {n} standard deviations, got {deviations.size}")
    return deviations * rng.standard_normal(n)
