"""The objective of a fit: a scalar function of the parameters with exact derivatives."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError, IntegrationWarning, ModelError
from ..integrate.problem import check_controls, common_size
from ..integrate.settings import check_step_count
from ..integrate.simulator import Simulator
from ..integrate.threads import limited
from ..model.ode import ControlledODE
from ..model.system import system_of
from ..model.tree import ParameterTree
from .copies import storable
from .data_terms import read_terms
from .failures import Failure
from .initial import ComputedStates, WithAlgebraic
from .machine import Machine
from .problem import Problem, Result
from .records import make_batch, read_times
from .regularization import RegularizationLike, make_regularization
from .residuals import Residuals
from .starts import read_start

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from .check.report import GradientReport


class Objective:
    """A scalar function J of the parameters, from simulated trajectories and data, with exact derivatives.

    Parameters
    ----------
    sim
        Simulator: model, solver, precision, threads, and with `sensitivity` how gradients are computed; see `explain`.
    x0
        Initial states (B, nx), or (nx,) for all trajectories; `Free` to estimate them, `InitialState` to compute them
        from data and parameters.
    controls
        Control of the model, a list with one per trajectory, or None where nu is 0.
    ts
        Save times (T,), strictly increasing, the first is the initial time; a list with one array per trajectory.
    data
        (B, T, ny), NaN where missing; a list with one (T, ny) array per trajectory where `ts` is a list. None with a
        loss that needs none.
    loss
        With residuals r = y - data and weights w, over all entries present:

        - ``"mse"`` (default): ``sum(w * r**2) / n`` with the number n of entries present;
        - ``"sse"``: ``sum(w * r**2)``;
        - ``"mae_smooth"``: ``sum(w * (sqrt(r**2 + e**2) - e)) / n``, e one hundredth of the standard deviation of
          that output's data;
        - a callable ``loss(t, x, u, y, d, p)`` that returns a scalar CasADi expression, summed over the save times
          and averaged over the trajectories. d has the columns of `data` (none without); a missing entry of d is
          replaced by the output, and a save time without any data does not count. Weights are one per save time;
        - None: no loss at the save times.
    weights
        Non-negative, broadcast against data.
    regularization
        A number lam or one per parameter, for ``sum(lam * p**2)``, or a callable of p that returns a scalar
        expression (p is as in the model's functions).
        Free initial states are not penalised.
    running
        ``running(t, x, u, y, p)``: its integral over time, averaged over the trajectories. The integral is one more
        state under the same error control (except where the solver's atol is given state by state).
    terminal
        ``terminal(t, x, u, y, p)`` at each trajectory's last save time, averaged over the trajectories.

    Attributes
    ----------
    np_total : int
        Length of the parameter vector: np of the model plus the free initial states, which come last.
    last_failure : Failure or None
        The most recent parameters at which a trajectory failed: which, when and why.

    Raises
    ------
    DataError, ControlError, ModelError
        For arguments that do not fit, before anything is compiled.

    Notes
    -----
    Calls take and return float64 whatever the precision of the simulator; x0, controls, data and weights must have
    the simulator's. Derivatives are those of the numbers computed, with the steps held constant.
    Where a trajectory fails, the value is infinite and derivatives are zero, so that line searches back off; an
    `IntegrationWarning` is issued once. Several threads may call one objective. It can be copied and pickled, lambdas
    included: a copy has the same arguments, and compiles, or finds its code in the cache, when first used.

    Examples
    --------
    >>> import numpy as np, ctrlode_casadi as co
    >>> model = co.ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    >>> ts = np.linspace(0.0, 1.0, 11)
    >>> obj = co.Objective(co.Simulator(model), 1.0, None, ts, data=np.exp(-2.0 * ts))
    >>> value, gradient = obj(np.array([2.0]))
    """

    def __init__(
        self,
        sim: Simulator,
        x0: Any,
        controls: Any,
        ts: Any,
        data: Any = None,
        loss: str | Callable[..., Any] | None = "mse",
        weights: Any = None,
        regularization: RegularizationLike = None,
        running: Callable[..., Any] | None = None,
        terminal: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(sim, Simulator):
            hint = "; write Simulator(model)" if isinstance(sim, ControlledODE) else ""
            raise ModelError(f"sim: expected a Simulator, got {type(sim).__name__}{hint}")
        model = sim.model
        dtype = np.dtype(sim.dtype)
        times = read_times(ts)
        n_controls = check_controls(controls, model.nu, dtype)
        terms = read_terms(model, times, data, loss, weights, terminal, running, dtype)
        start = read_start(x0, model, terms.data, dtype)
        size = common_size({"x0": start.size, "controls": n_controls, "ts": times.size, **terms.sizes})
        batch = make_batch(times, controls, model.nu, size, dtype)
        check_step_count(sim.solver, batch)
        penalty = make_regularization(model, regularization)
        machine = Machine(
            sim.solver,
            sim.dtype,
            sim.threads,
            size,
            sim.sensitivity,
            lambda: sim.backend,
            sim.requested_backend != "casadi",
            sim.event_settings,
        )
        self.sim = sim
        self._given = (sim, x0, controls, ts, data, loss, weights, regularization, running, terminal)
        self._start = start.make(model, machine)
        states = self._start
        if model.is_dae:
            states = WithAlgebraic(self._start, model.nx, model.z0)
        self._problem = Problem(system_of(model), machine, states, times, batch, terms, penalty)
        self._residuals = Residuals(self._problem)
        self.np_total: int = self._problem.n_total
        self.last_failure: Failure | None = None
        self._warned = False
        self._lock = threading.Lock()

    @property
    def time_limit(self) -> float | None:
        """Seconds that one evaluation may take, the simulator's."""
        return self.sim.time_limit

    # --- values and derivatives ----------------------------------------------------------------------------------

    @limited
    def __call__(self, p: Any) -> tuple[float, Float64Array]:
        """Value and gradient (np_total,) at p, for ``scipy.optimize.minimize(obj, p0, jac=True)``."""
        result = self._noted(self._problem.gradient(self._theta(p)))
        return result.value, result.gradient

    @limited
    def value(self, p: Any) -> float:
        """Value at p, without the reverse sweep."""
        return self._noted(self._problem.value(self._theta(p))).value

    def grad(self, p: Any) -> Float64Array:
        """Gradient (np_total,) at p."""
        return self(p)[1]

    @limited
    def hessp(self, p: Any, v: Any) -> Float64Array:
        """Product of the Hessian at p with v (np_total,), by forward over adjoint; about four gradients' cost."""
        return self._noted(self._problem.hessp(self._theta(p), self._theta(v, "v"))).gradient

    def hess(self, p: Any) -> Float64Array:
        """Hessian (np_total, np_total) at p, symmetric.

        Costs np_total products. With an explicit solver and at most 60 parameters times trajectories, many directions
        are taken at once, as trajectories of one batch.
        """
        full, failure = self._problem.hessian(self._theta(p))
        self._note(failure)
        return full

    @limited
    def derivative_along(self, p: Any, v: Any) -> float:
        """Derivative along v by a forward (tangent) sweep: an independent check of ``grad(p) @ v``."""
        return self._noted(self._problem.directional(self._theta(p), self._theta(v, "v"))).value

    # --- least squares -------------------------------------------------------------------------------------------

    @limited
    def residuals(self, p: Any) -> Float64Array:
        """Residuals (m,) with ``sum(residuals**2) == value``.

        One row per entry of data present, ordered by trajectory, time and component:
        ``sqrt(w / n) * (y - data)`` for "mse" with n entries present, ``sqrt(w) * (y - data)`` for "sse"; then
        ``sqrt(lam) * p`` where there is a regularization. Rows of a failed trajectory are infinite.

        Raises
        ------
        UnsupportedOperation
            If the objective is not a sum of squares.
        """
        rows, failure = self._residuals.values(self._theta(p))
        self._note(failure)
        return rows

    @limited
    def jac(self, p: Any) -> Float64Array:
        """Jacobian (m, np_total) of the residuals, by forward sensitivities; rows of a failed trajectory are zero."""
        rows, failure = self._residuals.jacobian(self._theta(p))
        self._note(failure)
        return rows

    @property
    def n_residuals(self) -> int:
        """Number m of residuals; `UnsupportedOperation` if the objective is not a sum of squares."""
        return self._residuals.n

    def jac_operator(self, p: Any) -> LinearOperator:
        """The Jacobian as a `scipy.sparse.linalg.LinearOperator`: a tangent sweep for J v, an adjoint one for J^T r."""
        return self._residuals.operator(self._theta(p))

    @property
    def problem(self) -> Problem:
        """Everything that was given, checked and padded, for transcriptions; not to be changed."""
        return self._problem

    def gauss_newton(self, p: Any) -> LinearOperator:
        """The Gauss-Newton approximation ``2 J^T J`` of the Hessian as a `scipy.sparse.linalg.LinearOperator`.

        J is the Jacobian of the residuals at p, so a product costs a tangent sweep and an adjoint one; the penalty is
        included. It is positive semidefinite, and equals the Hessian where the residuals are zero or linear in p. For
        ``scipy.optimize.minimize(obj, p0, jac=True, hess=obj.gauss_newton, method="trust-constr")``, or its
        ``matvec`` as the product of a Newton-CG method.

        Raises
        ------
        UnsupportedOperation
            If the objective is not a sum of squares.
        """
        return self._residuals.gauss_newton(self._theta(p))

    def explain(self) -> str:
        """How the gradient is computed and why, with memory and recomputation of the last one, as text."""
        return "\n".join([self.sim.explain().split("\nsensitivity")[0], *self._problem.explain()])

    # --- the parameter vector ------------------------------------------------------------------------------------

    def append_free(self, p: Any) -> Float64Array:
        """Model parameters p (np,) followed by the guess of the free initial states: a start for optimisers."""
        model_p = self._problem.model.layout.check(p)
        return np.concatenate([np.asarray(model_p, np.float64), self._problem.start.guess()])

    def initial_states(self, p: Any) -> Float64Array:
        """Initial states (B, nx) at the parameter vector p (np_total,)."""
        problem = self._problem
        states = self._start.states(problem.typed(self._theta(p)))
        return np.array(np.broadcast_to(states, (problem.batch.size, self.sim.model.nx)), dtype=np.float64)

    def names(self) -> list[str]:
        """A readable name for each entry of the parameter vector."""
        model = self._problem.model
        return model.layout.names() + self._problem.start.names(model.state_names)

    # --- checks and composition ----------------------------------------------------------------------------------

    def check_gradient(self, p: Any, directions: int = 3, coordinates: int = 3, seed: int = 0) -> GradientReport:
        """Compare adjoint, tangent sweep and finite differences.

        Parameters
        ----------
        p
            Where to compare.
        directions
            Number of random directions of unit length.
        coordinates
            How many single entries of p to add, those where the largest disagreement was found in a quick scan.
        seed
            For the random directions.

        Returns
        -------
        GradientReport
            Print it: adjoint against tangent sweep first, which is the independent check with any solver, then one
            line per direction, with the reason where the numbers differ.

        Notes
        -----
        Adaptive steps change with p, which finite differences see and the exact derivatives of the numbers computed do
        not. The steps in p are therefore large with an adaptive solver, and a difference within its tolerance is
        reported as such; a smaller rtol shrinks it.
        """
        from .check.report import check_target
        from .check.targets import ObjectiveTarget

        return check_target(ObjectiveTarget(self), self._theta(p), directions, coordinates, seed)

    def simulation(self, p: Any) -> tuple[Any, Any, Any, Any]:
        """Initial states, controls, model parameters and save times at p, as the simulator takes them."""
        problem = self._problem
        model_p = problem.typed(self._theta(p))[: problem.n_params]
        return self.initial_states(p).astype(problem.dtype), self._given[2], model_p, self._given[3]

    def with_simulator(self, sim: Simulator) -> Objective:
        """The same objective on another simulator."""
        return Objective(sim, *self._given[1:])

    def to_casadi(self, name: str = "objective") -> ca.Function:
        """The objective as a `casadi.Function` (p) -> J with exact gradient and Hessian, for nlpsol and Opti.

        One evaluation of the Hessian costs np_total products. The function cannot be pickled.
        """
        from .callback import make_function

        return make_function(self, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as its arguments; see `copies`."""
        problem = self._problem
        encoder = self._start.function if isinstance(self._start, ComputedStates) else None
        return Objective, storable(self._given, self.sim.model, problem.data_terms.terms.nd, encoder)

    def __repr__(self) -> str:
        problem = self._problem
        terms, free = problem.data_terms.terms, problem.start.n_free
        shortest, longest = int(problem.times.counts.min()), problem.times.n
        times = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
        count = f"{problem.n_params} parameters" + (f" + {free} free initial states" if free else "")
        extra = [name for name in ("running", "terminal") if getattr(terms, name) is not None]
        solver = problem.machine.solver
        default = type(solver)()
        options = ", ".join(
            f"{f.name}={getattr(solver, f.name)!r}"
            for f in fields(solver)
            if getattr(solver, f.name) != getattr(default, f.name)
        )
        return (
            f"Objective({problem.batch.size} trajectories, {times} save times, {count}, "
            f"loss={' + '.join([problem.data_terms.name, *extra])}, {type(solver).__name__}({options}))"
        )

    # --- helpers -------------------------------------------------------------------------------------------------

    def _theta(self, p: Any, name: str = "p") -> Float64Array:
        """A parameter vector as contiguous float64 (np_total,)."""
        if type(p) is not np.ndarray or p.dtype != np.float64:
            p = p.flat if isinstance(p, ParameterTree) else p
            single = isinstance(p, np.ndarray) and p.dtype == np.float32
            p = floats(name, p, finite=False, dtype=np.float32 if single else np.float64).astype(np.float64)
        if p.shape != (self.np_total,):
            free = self._problem.start.n_free
            more = f" = np {self._problem.n_params} + {free} free initial states (obj.append_free)" if free else ""
            raise DataError(
                f"{name}: expected a vector of {self.np_total} entries{more}, got shape {p.shape}; the layout is "
                f"{self._problem.model.layout!r}"
            )
        return np.ascontiguousarray(p)

    def _noted(self, result: Result) -> Result:
        if result.failure is not None:
            self._note(result.failure)
        return result

    def _note(self, failure: Failure | None) -> None:
        if failure is None:
            return
        with self._lock:
            self.last_failure = failure
            first, self._warned = not self._warned, True
        if first:
            warnings.warn(
                f"{failure} The value is infinite and derivatives are zero there; see obj.last_failure. Shown once.",
                IntegrationWarning,
                stacklevel=4,
            )
