"""Values and derivatives of an objective, from sweeps over blocks of trajectories."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..base.processors import available_threads
from ..integrate.auto.engine import stiffness_found
from ..integrate.batch import Batch
from ..integrate.cost_model import Choice, Selection
from ..integrate.engine import Engine
from ..integrate.integrators.solvers import CasadiIntegrator
from ..integrate.results import Sweep
from ..integrate.sensitivity import Adjoint, Automatic, Forward as ForwardSensitivity
from ..integrate.solvers import RungeKutta
from ..model.ode import ControlledODE
from .data_terms import DataTerms
from .expressions import Functions, build, in_direction
from .failures import Failure, describe
from .forward import ForwardGradient
from .hessian import MOST_ENTRIES, PackedHessian
from .initial import Start
from .machine import AnyEngine, Machine, wide
from .records import Times
from .regularization import Regularization


@dataclass(frozen=True)
class Result:
    """One evaluation: value, gradient (empty if not asked for), and the failure, if any."""

    value: float
    gradient: Float64Array
    failure: Failure | None


@dataclass(eq=False)
class Problem:
    """Everything about an objective but the parameters. Not changed after construction; engines are made on demand.

    The total parameter vector is theta = (p, z): the model's parameters and the free initial states. With the cost
    l_b of trajectory b, the objective is ``sum_b l_b / B + regularization(p)``.
    """

    model: ControlledODE
    machine: Machine
    start: Start
    times: Times
    batch: Batch
    data_terms: DataTerms
    regularization: Regularization

    def __post_init__(self) -> None:
        self.n_params = self.model.np
        self.n_total = self.n_params + self.start.n_free
        self.dtype = np.dtype(self.machine.dtype)
        self.d, self.w = self.data_terms.arrays(self.times, self.batch.size, self.dtype)
        self.scale = np.full(self.batch.size, 1.0 / max(self.batch.size, 1))
        self.functions: Functions = build(self.model, self.data_terms.terms)
        self._forward: dict[int | None, ForwardGradient] = {}
        self._lock = threading.Lock()

    @cached_property
    def n_err(self) -> int:
        """States in the error norm: all, and the integral of a running cost unless atol is given state by state."""
        one_each = isinstance(getattr(self.machine.solver, "atol", None), tuple)
        return self.model.nx if one_each else self.functions.nx

    @cached_property
    def engine(self) -> AnyEngine:
        """Sweeps of value and gradient."""
        return self.machine.engine(self.functions, self.n_err)

    @cached_property
    def _directional(self) -> tuple[Functions, AnyEngine]:
        """The same along a direction of theta; its steps are those of the trajectories themselves."""
        functions = in_direction(self.functions)
        return functions, self.machine.engine(functions, self.n_err)

    def forward(self, chunk: int | None) -> ForwardGradient:
        """Gradients by forward sensitivities with so many directions at a time."""
        with self._lock:
            found = self._forward.get(chunk)
            if found is None:
                found = self._forward[chunk] = ForwardGradient(self, chunk)
            return found

    @cached_property
    def choice(self) -> Choice:
        """What computes the gradient, and why."""
        wanted = self.machine.sensitivity
        if isinstance(self.machine.solver, CasadiIntegrator):
            return Choice(Adjoint(), "the engine differentiates an integrator of CasADi as asked for")
        if not isinstance(wanted, Automatic):
            how = wanted if isinstance(wanted, ForwardSensitivity | Adjoint) else Adjoint()
            return Choice(how, "asked for")
        if not isinstance(self.engine, Engine):
            return Choice(Adjoint(), "the model runs on the CasADi path")
        forward, machine = self.forward(None), self.machine
        threads = machine.threads or available_threads()
        selection = Selection(self.functions.rhs, machine.solver, machine.dtype, threads)
        return selection.choose(forward.n_directions, len(forward.columns), self.batch)

    def explain(self) -> list[str]:
        """Lines on the method of the gradient, and on what the last one took."""
        choice = self.choice
        lines = [f"gradient: {choice.sensitivity!r}, {choice.reason}"]
        if isinstance(choice.sensitivity, ForwardSensitivity):
            work = self.forward(choice.sensitivity.chunk).work
        else:
            work = self.engine.work if isinstance(self.engine, Engine) else None
            lines += stiffness_found([self.engine])
        return lines if work is None else [*lines, f"last call: {work}"]

    @property
    def plan(self) -> Adjoint | ForwardSensitivity:
        """How the gradient is computed."""
        return self.choice.sensitivity

    def typed(self, theta: Float64Array) -> NDArray[Any]:
        """Theta in the precision of the sweeps."""
        return theta if theta.dtype == self.dtype else theta.astype(self.dtype)

    def initial(self, theta: NDArray[Any]) -> NDArray[Any]:
        """Initial states of the sweeps, (B, nx) and the integral's zeros."""
        return wide(self.start.states(theta), self.functions.nx)

    def value(self, theta: Float64Array) -> Result:
        """The value alone, from a forward sweep."""
        typed = self.typed(theta)
        p = typed[: self.n_params]
        loss, sweep = self.engine.losses(self.batch, self.initial(typed), p, self.d, self.w)
        return self._result(theta, loss, sweep, np.zeros(0), None)

    def gradient(self, theta: Float64Array) -> Result:
        """Value and gradient."""
        typed = self.typed(theta)
        p = typed[: self.n_params]
        plan = self.plan
        if isinstance(plan, ForwardSensitivity):
            several = not self.machine.events.events
            found = self.forward(plan.chunk).gradient(typed) if several else self._by_directions(theta)
            loss, theta_bar, x0_bar, sweep = found
            theta_bar[: self.n_params] += self.regularization.grad(theta[: self.n_params])
            return self._result(theta, loss, sweep, theta_bar, x0_bar)
        x0, keep = self.initial(typed), plan.checkpoints
        made = self.engine.gradient(self.batch, x0, p, self.d, self.w, self.scale, checkpoints=keep)
        theta_bar = np.zeros(self.n_total)
        theta_bar[: self.n_params] = made.p_bar
        self.start.pullback(typed, made.x0_bar[:, : self.model.nx], theta_bar)
        theta_bar[: self.n_params] += self.regularization.grad(theta[: self.n_params])
        return self._result(theta, made.loss, made.sweep, theta_bar, made.x0_bar)

    def _by_directions(self, theta: Float64Array) -> tuple[Float64Array, Float64Array, NDArray[Any], Sweep]:
        """As `ForwardGradient.gradient`, one direction at a time, through the events of a model that has some."""
        typed = self.typed(theta)
        loss, sweep = self.engine.losses(self.batch, self.initial(typed), typed[: self.n_params], self.d, self.w)
        theta_bar = np.zeros(self.n_total)
        for j, v in enumerate(np.eye(self.n_total)):
            change, along = self.losses_along(theta, v)
            theta_bar[j] = np.where(along.success, change, 0.0) @ self.scale
        return loss, theta_bar, np.zeros((self.batch.size, 0)), sweep

    def _result(
        self,
        theta: Float64Array,
        loss: NDArray[np.float64],
        sweep: Sweep,
        gradient: Float64Array,
        bars: NDArray[Any] | None,
    ) -> Result:
        p = theta[: self.n_params]
        value = float(loss @ self.scale) + self.regularization.value(p)
        if np.isfinite(value) and np.isfinite(gradient).all():
            return Result(value, gradient, None)
        if np.isfinite(value):
            penalty = not np.isfinite(self.regularization.grad(p)).all()
            failure = describe(self.batch, sweep, loss, what="gradient", bars=bars, penalty=penalty)
        else:
            failure = describe(self.batch, sweep, loss, penalty=True)
        return Result(float("inf"), np.zeros_like(gradient), failure)

    def _along(self, theta: Float64Array, v: Float64Array) -> tuple[NDArray[Any], ...]:
        """Typed theta and v, initial states (x, q, dx, dq) and parameters (p, v) of the directional sweeps."""
        a, b = self.typed(theta), self.typed(v)
        nx, total = self.model.nx, self.functions.nx
        x0 = np.zeros((self.batch.size, 2 * total), self.dtype)
        x0[:, :nx] = self.start.states(a)
        x0[:, total : total + nx] = self.start.tangent(a, b)
        return a, b, x0, np.concatenate([a[: self.n_params], b[: self.n_params]])

    def simulate_along(self, theta: Float64Array, v: Float64Array) -> tuple[NDArray[Any], Sweep]:
        """States and their change along v, (B, T, 2 nx)."""
        _, engine = self._directional
        _, _, x0, q = self._along(theta, v)
        return engine.simulate(self.batch, x0, q)

    def losses_along(self, theta: Float64Array, v: Float64Array) -> tuple[NDArray[np.float64], Sweep]:
        """Change of each trajectory's cost (B,) along v, by a tangent sweep."""
        _, engine = self._directional
        _, _, x0, q = self._along(theta, v)
        return engine.losses(self.batch, x0, q, self.d, self.w)

    def directional(self, theta: Float64Array, v: Float64Array) -> Result:
        """Derivative along v from a forward sweep."""
        loss, sweep = self.losses_along(theta, v)
        n = self.n_params
        slope = float(self.regularization.grad(theta[:n]) @ v[:n])
        value = float(loss @ self.scale) + slope
        if np.isfinite(value) and sweep.success.all():
            return Result(value, np.zeros(0), None)
        penalty = not np.isfinite(slope)
        return Result(value, np.zeros(0), describe(self.batch, sweep, loss, what="derivative", penalty=penalty))

    def hessp(self, theta: Float64Array, v: Float64Array) -> Result:
        """Product of the Hessian with v: the gradient of the directional derivative, in place of a gradient."""
        _, engine = self._directional
        a, b, x0, q = self._along(theta, v)
        keep = self.machine.checkpoints
        made = engine.gradient(self.batch, x0, q, self.d, self.w, self.scale, checkpoints=keep)
        nx, total, n = self.model.nx, self.functions.nx, self.n_params
        product = np.zeros(self.n_total)
        product[:n] = made.p_bar[:n]
        x0_bar = np.ascontiguousarray(made.x0_bar[:, :nx])
        dx0_bar = np.ascontiguousarray(made.x0_bar[:, total : total + nx])
        self.start.pullback(a, x0_bar, product)
        self.start.pullback_tangent(a, b, dx0_bar, product)
        added = self.regularization.hessp(theta[:n], v[:n])
        product[:n] += added
        if made.sweep.success.all() and np.isfinite(product).all():
            return Result(0.0, product, None)
        bad, bars = not np.isfinite(added).all(), np.hstack([x0_bar, dx0_bar])
        failure = describe(self.batch, made.sweep, made.loss, what="Hessian product", bars=bars, penalty=bad)
        return Result(float("inf"), np.zeros(self.n_total), failure)

    def hessian(self, theta: Float64Array) -> tuple[Float64Array, Failure | None]:
        """Hessian (np_total, np_total), symmetric; zero where a trajectory fails."""
        columns = np.zeros((self.n_total, self.n_total))
        for first in range(0, self.n_total, self._packed.chunk if self.packs else 1):
            if not self.packs:
                made = self.hessp(theta, np.eye(1, self.n_total, first)[0])
                if made.failure is not None:
                    return np.zeros_like(columns), made.failure
                columns[first] = made.gradient
                continue
            directions = np.eye(self.n_total)[first : first + self._packed.chunk]
            products, failure = self._packed_products(theta, directions)
            if failure is not None:
                return np.zeros_like(columns), failure
            columns[first : first + len(directions)] = products
        return 0.5 * (columns + columns.T), None

    @cached_property
    def packs(self) -> bool:
        """Whether the Hessian takes many directions at once: small problem, explicit steps, compiled."""
        few = self.n_params * self.batch.size <= MOST_ENTRIES and isinstance(self.machine.solver, RungeKutta)
        return few and isinstance(self.engine, Engine)

    @cached_property
    def _packed(self) -> PackedHessian:
        return PackedHessian(self)

    def _packed_products(self, theta: Float64Array, directions: Float64Array) -> tuple[Float64Array, Failure | None]:
        """Products with several directions at once; the failure of the first trajectory that has one."""
        n, size = self.n_params, self.batch.size
        products, sweep, loss = self._packed.products(theta, directions)
        for j, v in enumerate(directions):
            products[j, :n] += self.regularization.hessp(theta[:n], v[:n])
        if sweep.success.all() and np.isfinite(products).all():
            return products, None
        first = int(np.argmin(sweep.success)) // size if size else 0
        rows = slice(first * size, (first + 1) * size)
        part = Sweep(*(getattr(sweep, f.name)[rows] for f in fields(sweep)))
        return products, describe(self.batch, part, loss[rows], what="Hessian product", penalty=True)
