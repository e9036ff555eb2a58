"""The result of an optimal control problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError
from ..integrate.trajectories import optional_module
from ..model.ode import ControlledODE
from .collocation import CollocationStates, interpolate
from .costates import costates
from .groups import NLP
from .oracle import Oracle
from .playback import control_object, states_between, step_doubling_error
from .refinement import interval_errors
from .solvers import Result, Start
from .status import SolveStatus
from .transcription import Trajectory, Transcription
from .verify import Verification, verify


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Lagrange multipliers, in the units of the problem.

    Attributes
    ----------
    constraints, variables
        Of the rows of the NLP and of the bounds of its variables: the gradient of ``f + constraints' g +
        variables' w`` is zero, a multiplier is positive at an upper bound.
    costates
        (N + 1, nx) change of the cost per change of each state at the breaks of the mesh.
    t
        (N + 1,) the breaks.
    """

    constraints: Float64Array
    variables: Float64Array
    costates: Float64Array
    t: Float64Array


class OptimalControlSolution:
    """What `OptimalControlProblem.solve` found, or where it stopped.

    Attributes
    ----------
    t, x, u
        (T,) times: the breaks of the mesh, and the collocation points between them; (T, nx) states; (T, nu) controls.
        A piecewise constant control has at each time the value of the interval that begins there, and the last one
        twice. Between collocation points controls are polynomials; at breaks that are not collocation points `u` is
        the polynomial's value, clipped to the bounds.
    z
        (T, nz) algebraic variables. A break that is a collocation point has the value of the interval that ends there,
        at others they solve their equations for x and u.
    tf, p
        Final time, all parameters (np,).
    objective
        Cost.
    success, status, message
        Whether the point is optimal, a `SolveStatus`, and the solver's own text.
    stats
        ``iterations``, ``seconds`` in the solver, ``function_seconds``, ``setup_seconds``, ``backend``, ``solver``;
        ``attempts``, the number of solves, and ``restarted``, the start that led here if it was not the usual one; for
        IPOPT ``history``, the columns of its own table of iterations, of the scaled program.
    """

    def __init__(
        self, model: ControlledODE, transcription: Transcription, nlp: NLP, oracle: Oracle, result: Result
    ) -> None:
        self._model, self._transcription, self._nlp = model, transcription, nlp
        self._oracle, self._result = oracle, result
        self.trajectory: Trajectory = transcription.trajectory(result.w, nlp.q)
        self.tf, self.p = self.trajectory.tf, self.trajectory.p
        self.t0 = float(nlp.q[0])
        self.x, self.u, self.z = self.trajectory.x, self.trajectory.u, self.trajectory.z
        self.t = self.t0 + self.trajectory.fractions * (self.tf - self.t0)
        self.objective = result.objective
        self.status: SolveStatus = result.status
        self.success: bool = result.status.success
        self.message = f"{result.status.message} ({result.stats['solver']}: {result.message})"
        self.stats = result.stats

    def __repr__(self) -> str:
        return (
            f"OptimalControlSolution({self.status.name}, objective={self.objective:.10g}, tf={self.tf:.6g}, "
            f"T={self.t.size}, {self.stats['iterations']} iterations, {self.stats['seconds']:.2f} s)"
        )

    @property
    def model(self) -> ControlledODE:
        """The model."""
        return self._model

    @property
    def transcription(self) -> Transcription:
        """How the problem was written down."""
        return self._transcription

    @property
    def nlp(self) -> NLP:
        """The nonlinear program."""
        return self._nlp

    @property
    def oracle(self) -> Oracle:
        """Functions of the scaled program."""
        return self._oracle

    @property
    def w(self) -> Float64Array:
        """Variables of the NLP."""
        return self._result.w

    @cached_property
    def multipliers(self) -> Multipliers:
        """Lagrange multipliers and costates."""
        lam = self._result.lam_g
        values = costates(self._transcription, self._nlp, self.w, lam)
        breaks = self.t0 + self._transcription.plan.mesh.breaks * (self.tf - self.t0)
        return Multipliers(lam, self._result.lam_w, values, breaks)

    @cached_property
    def controls(self) -> Any:
        """The control as a control object of the package, for `Simulator`; None for a model without control."""
        return control_object(self._transcription, self.trajectory, self.t0)

    def resample(self, t: Any) -> tuple[Float64Array, Float64Array]:
        """States (m, nx) and controls (m, nu) at times t (m,) of the horizon, by the method's own polynomials.

        Controls are clipped to their bounds: a polynomial through the values at collocation points may leave them. The
        states belong to the polynomial itself.

        Raises
        ------
        DataError
            For times outside the horizon.
        """
        fractions = self._fractions(t)
        t_ = self._transcription
        u = self._control(fractions)
        if not isinstance(t_.states, CollocationStates):
            return states_between(t_, self.trajectory, self.t0, fractions), u
        x = interpolate(t_.plan.mesh, t_.plan.scheme, t_.states, self.x, fractions)
        algebraic = t_.reduction.algebraic
        if algebraic.size:
            x[:, algebraic] = self._algebraic(fractions)[:, : algebraic.size]
        return x, u

    def resample_z(self, t: Any) -> Float64Array:
        """Algebraic variables (m, nz) at times t (m,): they solve their equations for the states and controls there."""
        return self._algebraic(self._fractions(t))[:, self._transcription.reduction.algebraic.size :]

    def _fractions(self, t: Any) -> Float64Array:
        """Times as fractions of the horizon."""
        times = np.atleast_1d(np.asarray(floats("t", t), dtype=np.float64))
        slack = 1e-12 * max(abs(self.t0), abs(self.tf))
        if times.ndim != 1 or np.any(times < self.t0 - slack) or np.any(times > self.tf + slack):
            raise DataError(f"t: expected times (m,) between t0={self.t0:g} and tf={self.tf:g}")
        fractions = np.clip((times - self.t0) / (self.tf - self.t0), 0.0, 1.0)
        breaks = self._transcription.plan.mesh.breaks
        rounding = 4e-15 * max(abs(self.t0), abs(self.tf)) / (self.tf - self.t0)
        near = breaks[np.minimum(np.searchsorted(breaks, fractions - rounding), breaks.size - 1)]
        return np.where(np.abs(near - fractions) <= rounding, near, fractions)

    def _control(self, fractions: Float64Array) -> Float64Array:
        """The control (m, nu), clipped to its bounds, which a polynomial through collocation points leaves.

        A break that is a collocation point belongs to the interval that ends there, as in `u`.
        """
        t_, d = self._transcription, self._transcription.definition
        u = t_.control.evaluate(self.trajectory.values, fractions, left=self._breaks_are_points)
        return np.clip(u, d.u_lb, d.u_ub)

    @property
    def _breaks_are_points(self) -> bool:
        """Whether the control has a value of its own at the end of each interval, which jumps after it."""
        t_ = self._transcription
        return t_.control.kind == "collocation" and t_.plan.scheme == "radau"

    def _algebraic(self, fractions: Float64Array) -> Float64Array:
        """All algebraic variables of the reduced problem at fractions of the horizon."""
        t_, found = self._transcription, self.trajectory
        if not isinstance(t_.states, CollocationStates) or found.at_points.shape[1] == 0:
            return np.zeros((fractions.size, 0))
        states = interpolate(t_.plan.mesh, t_.plan.scheme, t_.states, found.states, fractions)
        u = self._control(fractions)
        rows = np.column_stack([self.t0 + fractions * (self.tf - self.t0), states, u])
        near = np.nextafter(fractions, 0.0) if self._breaks_are_points else fractions
        return t_.consistent(rows, found.at_points, near, self.p)

    def fits(self, transcription: Transcription) -> bool:
        """Whether the variables and multipliers belong to a transcription."""
        mine, other = self._nlp, transcription.nlp
        same = transcription is self._transcription or (
            mine.n_w == other.n_w
            and mine.n_g == other.n_g
            and transcription.plan.method == self._transcription.plan.method
            and transcription.plan.mesh.key == self._transcription.plan.mesh.key
            and transcription.plan.control == self._transcription.plan.control
        )
        return bool(same)

    def start(self) -> Start:
        """Variables and multipliers for a warm start."""
        return Start(self._result.w, self._result.lam_g, self._result.lam_w)

    def integration_error(self) -> float:
        """Largest difference of the states to those with half the step, relative to their size (shooting)."""
        return step_doubling_error(self._transcription, self.trajectory, self.t0)

    def mesh_errors(self) -> Float64Array:
        """Error of each interval (N,), relative to the states' size (collocation)."""
        return interval_errors(self)

    def verify(self, rtol: float = 1e-10) -> Verification:
        """Simulate the control with a tight adaptive solver and report how good the solution is; see `Verification`."""
        return verify(self, rtol)

    def plot(self, axes: Any = None) -> Any:
        """Plot states and controls over time with matplotlib.

        Parameters
        ----------
        axes
            Two axes, for states and controls; new ones by default.

        Returns
        -------
        ndarray of matplotlib.axes.Axes
        """
        pyplot = optional_module("sol.plot()", "matplotlib", "matplotlib.pyplot", "plot")
        if axes is None:
            _, axes = pyplot.subplots(2, 1, sharex=True)
        top, bottom = np.ravel(axes)[:2]
        fine = np.linspace(self.t0, self.tf, 20 * self._transcription.plan.mesh.size + 1)
        x, u = self.resample(fine)
        for j, name in enumerate(self._model.state_names):
            line = top.plot(fine, x[:, j], label=name)[0]
            top.plot(self.t, self.x[:, j], ".", color=line.get_color())
        for j, name in enumerate(self._model.control_names):
            bottom.plot(fine, u[:, j], label=name)
        bottom.set_xlabel("t")
        for ax in (top, bottom):
            if ax.get_legend_handles_labels()[0]:
                ax.legend()
        return np.array([top, bottom], dtype=object)
