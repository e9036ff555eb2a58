"""From a problem to an NLP and back: one object for all methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from ..base.arrays import Float64Array, call_rows
from ..base.errors import DataError, unknown_name
from ..integrate.solvers import RungeKutta
from . import algebraic, collocation, shooting, simulation, single_shooting
from .assembly import GLOBAL, Assembler
from .collocation import CollocationStates
from .controls import ControlGrid, control_grid
from .definition import Definition, along_rows
from .groups import NLP, IntArray
from .guess import Guess, Resampled, make_guess
from .mesh import Mesh, collocation_rule
from .points import Horizon
from .reduction import Reduction, reduce
from .scaling import make_scales
from .shooting import ShootingStates

METHODS = ("single-shooting", "multiple-shooting", "collocation")


@dataclass(frozen=True, eq=False)
class Plan:
    """How a problem is written down.

    Attributes
    ----------
    method
        One of `METHODS`.
    mesh
        Intervals, with the degrees of their collocation.
    control
        "constant", "linear" or "collocation".
    scheme
        "radau" or "legendre".
    integrator
        Runge-Kutta method with a number of steps per interval, for shooting.
    scaling
        True, False, a dict of typical sizes, or `scaling.WIDE`.
    """

    method: str
    mesh: Mesh
    control: str
    scheme: str
    integrator: RungeKutta
    scaling: bool | str | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A point of the NLP in the terms of the problem.

    Attributes
    ----------
    fractions
        (T,) fractions of the horizon: the breaks, and the collocation points.
    x, u
        (T, nx) all states, (T, nu) controls; the last row of a piecewise constant control repeats the one before.
    values
        (M, nu) values of the control on its grid.
    tf, p
        Final time and all parameters.
    z
        (T, nz) algebraic variables.
    states, at_points
        The states (T, n) and algebraic variables at the collocation points (n_points, m) of the reduced problem.
    """

    fractions: Float64Array
    x: Float64Array
    u: Float64Array
    values: Float64Array
    tf: float
    p: Float64Array
    z: Float64Array
    states: Float64Array
    at_points: Float64Array


@dataclass(frozen=True, eq=False)
class Transcription:
    """A problem as an NLP.

    Attributes
    ----------
    definition, reduction
        The problem, and what became of its pure cost states and its mass matrix.
    plan
        How it was written down.
    nlp
        The program.
    control
        The control's grid.
    states
        Places of the states.
    u, tf, p
        Places of the control values (M, nu), of the final time (empty when fixed), of the free parameters.
    """

    definition: Definition
    reduction: Reduction
    plan: Plan
    nlp: NLP
    control: ControlGrid
    states: CollocationStates | ShootingStates
    u: IntArray
    tf: IntArray
    p: IntArray

    def pack(self, guess: Guess) -> Float64Array:
        """Variables w of a guess."""
        w = self.nlp.w0.copy()
        small = guess.within(self.reduction)
        rows = self.states.places.shape[0]
        w[self.states.places] = small.x(self.states.fractions[:rows])
        if isinstance(self.states, CollocationStates) and self.states.algebraic.size:
            w[self.states.algebraic] = small.z(self.states.algebraic_fractions)
        w[self.u] = small.control(self.control)
        w[self.tf] = guess.tf
        w[self.p] = guess.p[self.definition.free]
        return w

    def make_guess(self, guess: Mapping[str, Any] | Resampled | None) -> Guess:
        """A user's guess, checked and completed."""
        return make_guess(self.definition, guess)

    def trajectory(self, w: Float64Array, q: Float64Array | None = None) -> Trajectory:
        """States, controls, final time and parameters of a point."""
        q = self.nlp.q if q is None else q
        tf = float(w[self.tf[0]]) if self.tf.size else float(q[1])
        p = q[2:].copy()
        p[self.definition.free] = w[self.p]
        values = w[self.u].reshape(self.u.shape)
        duration = tf - float(q[0])
        x = w[self.states.places]
        if isinstance(self.states, CollocationStates):
            return self._collocated(w, values, tf, p, float(q[0]), duration)
        return self._shot(x, values, tf, p, float(q[0]), duration)

    def _shot(
        self, x: Float64Array, values: Float64Array, tf: float, p: Float64Array, t0: float, duration: float
    ) -> Trajectory:
        d, mesh = self.reduction.problem, self.plan.mesh
        times = t0 + mesh.breaks * duration
        ua, ub = self.interval_controls(values)
        if x.shape[0] == 1:
            interval = simulation.interval_function(d, None, self.plan.integrator, 1)
            nodes = [x[0]]
            for k in range(mesh.size):
                step = interval(times[k], times[k + 1] - times[k], nodes[-1], ua[k], ub[k], p)
                nodes.append(step[0].full()[:, 0])
            x = np.stack(nodes)
        states, removed = x, None
        if d.hidden is not None:
            interval = simulation.interval_function(d, d.hidden, self.plan.integrator, 1)
            _, added = simulation.run(interval, times, x[:-1], ua, ub, p)
            start = self.definition.x_start[self.reduction.removed]
            removed = np.vstack([start, start + np.cumsum(added, axis=0)])
        u = np.vstack([ua, ub[-1:]])
        none = np.zeros((states.shape[0], 0))
        x = self.reduction.merge(states, removed, none)
        return Trajectory(mesh.breaks, x, u, values, tf, p, none, states, none)

    def interval_controls(self, values: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Controls (N, nu) at the start and the end of each interval."""
        first = np.array([self.control.parts(k)[0] for k in range(self.plan.mesh.size)])
        last = np.array([self.control.parts(k)[-1] for k in range(self.plan.mesh.size)])
        return values[first], values[last]

    def _collocated(
        self, w: Float64Array, values: Float64Array, tf: float, p: Float64Array, t0: float, duration: float
    ) -> Trajectory:
        states, mesh, d = cast(CollocationStates, self.states), self.plan.mesh, self.reduction.problem
        x, which = w[states.places], np.concatenate(states.points)
        u = np.clip(self.control.evaluate(values, states.fractions), d.u_lb, d.u_ub)
        if self.control.kind == "collocation":
            u[which] = values
        z = np.zeros((x.shape[0], d.nz))
        if d.nz:
            found = w[states.algebraic]
            times = t0 + states.fractions * duration
            z = self.consistent(np.column_stack([times, x, u]), found[: which.size], states.fractions, p)
            z[which] = found[: which.size]
            others = np.setdiff1d(states.breaks, which)
            for value, fraction in zip(found[which.size :], states.algebraic_fractions[which.size :]):
                z[others[states.fractions[others] == fraction]] = value
        removed = None
        if d.hidden is not None:
            times = t0 + states.fractions[which] * duration
            rows = np.column_stack([times, x[which], self._controls_at_points(values), z[which]])
            hidden = d.hidden
            f = along_rows(d, lambda *v: [hidden(*v)])
            rates = np.split(call_rows(f, rows, p), np.cumsum(mesh.degrees)[:-1])
            start = self.definition.x_start[self.reduction.removed]
            removed = collocation.integrate_rates(mesh, self.plan.scheme, states, rates, start, duration)
        whole = self.reduction.merge(x, removed, z)
        own = z[:, self.reduction.algebraic.size :]
        return Trajectory(states.fractions, whole, u, values, tf, p, own, x, z[which])

    def consistent(
        self, rows: Float64Array, at_points: Float64Array, fractions: Float64Array, p: Float64Array
    ) -> Float64Array:
        """Algebraic variables (m, nz) of the reduced problem at rows (t, states, u), fractions (m,) of the horizon.

        They solve their equations there; Newton's method starts from the polynomials through the collocation points.
        """
        near = algebraic.between(self.plan.mesh, self.plan.scheme, at_points, fractions)
        return algebraic.consistent(self.reduction.problem, rows, near, p)

    def _controls_at_points(self, values: Float64Array) -> Float64Array:
        """Controls at the collocation points, (sum of degrees, nu)."""
        mesh = self.plan.mesh
        rows = []
        for k in range(mesh.size):
            points = collocation_rule(self.plan.scheme, int(mesh.degrees[k])).points
            rows.append(self.control.weights(k, points) @ values[self.control.parts(k)])
        return np.concatenate(rows)


def transcribe(definition: Definition, plan: Plan, guess: Guess) -> Transcription:
    """Write a problem down as an NLP.

    Raises
    ------
    DataError
        For an unknown method, or a control that the method does not have.
    """
    if plan.method not in METHODS:
        raise DataError(unknown_name("method", plan.method, METHODS))
    reduction = reduce(definition)
    d, build = reduction.problem, Assembler()
    small = guess.within(reduction)
    scales = make_scales(reduction, small, plan.scaling)
    control = control_grid(plan.control, plan.mesh, plan.scheme, plan.method == "collocation")
    shared = []
    tf = p = np.zeros(0, dtype=np.int64)
    if d.free_tf:
        tf = build.variables(
            (1,), lambda i: "final time", stage=GLOBAL, lb=d.tf_lb, ub=d.tf_ub, guess=guess.tf, scale=scales.tf
        )
        shared.append(tf)
    if d.free.size:
        p = build.variables(
            (d.free.size,),
            lambda i: f"parameter {d.parameter_names[d.free[i]]}",
            stage=GLOBAL,
            lb=d.p_lb,
            ub=d.p_ub,
            guess=guess.p[d.free],
            scale=scales.p,
        )
        shared.append(p)
    u = build.variables(
        (control.fractions.size, d.nu),
        lambda i, j: f"control {d.control_names[j]} at t = {d.t0 + control.fractions[i] * (guess.tf - d.t0):.6g}",
        stage=control.stages[:, None],
        lb=d.u_lb,
        ub=d.u_ub,
        guess=small.control(control),
        scale=scales.u,
    )
    h = Horizon(d, scales, build, control, u, np.concatenate([np.zeros(0, np.int64), *shared]), guess.tf)
    states: CollocationStates | ShootingStates
    if plan.method == "collocation":
        states = collocation.transcribe(h, small, plan.scheme)
    elif plan.method == "multiple-shooting":
        states = shooting.transcribe_multiple(h, small, plan.integrator)
    else:
        states = single_shooting.transcribe_single(h, small, plan.integrator)
    nlp, w_place, g_place = build.build(d.parameters(), 1.0 / scales.objective)
    states = _renumbered(states, w_place, g_place)
    return Transcription(definition, reduction, plan, nlp, control, states, w_place[u], w_place[tf], w_place[p])


def _renumbered(
    states: CollocationStates | ShootingStates, w_place: IntArray, g_place: IntArray
) -> CollocationStates | ShootingStates:
    places = w_place[states.places]
    if isinstance(states, CollocationStates):
        defects = [g_place[rows] for rows in states.defects]
        more = w_place[states.algebraic] if states.algebraic.size else states.algebraic
        return replace(states, places=places, defects=defects, closings=g_place[states.closings], algebraic=more)
    return replace(states, places=places, defects=g_place[states.defects])
