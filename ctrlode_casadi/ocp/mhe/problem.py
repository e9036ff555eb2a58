"""The program of a moving-horizon estimator: the model's transcription plus three groups of squares.

With states x_0 ... x_N, normalised process noise xi_0 ... xi_{N-1} and estimated parameters theta it minimises

    |A (z_0 - z)|^2 / 2  +  sum_k |xi_k|^2 / 2  +  sum_k |W_k (y_k - h(t_k, x_k, u_k, p))|^2 / 2

with z_0 = (x_0, theta), subject to ``xdot = f(t, x, u, p) + L xi_k / dt`` on interval k (Rao, Rawlings & Mayne, IEEE
TAC 48 (2003)). The noise is a control that is constant on each interval; the known controls are variables that are
fixed by their bounds. So is a switch: intervals without data, while the window fills, have no dynamics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array
from ...model.ode import ControlledODE
from ..definition import Definition, point_symbols
from ..elements import Element, join
from ..groups import Group, IntArray
from ..guess import make_guess
from ..transcription import Plan, Transcription, transcribe


@dataclass(frozen=True, eq=False)
class Estimation:
    """What is estimated, from what.

    Attributes
    ----------
    model
        The model, whose output is measured.
    dt
        Sampling time.
    window
        Number of intervals N.
    spread
        L (nx, nv): process noise over one sampling interval has the covariance L L'.
    p
        Parameters (np,).
    free
        Indices of the estimated ones.
    p_lb, p_ub, x_lb, x_ub
        Their bounds, and those of the states.
    """

    model: ControlledODE
    dt: float
    window: int
    spread: Float64Array
    p: Float64Array
    free: IntArray
    p_lb: Float64Array
    p_ub: Float64Array
    x_lb: Float64Array
    x_ub: Float64Array

    @property
    def n_noise(self) -> int:
        """Number of noise variables per interval."""
        return int(self.spread.shape[1])

    @property
    def n_estimated(self) -> int:
        """Number of states and estimated parameters."""
        return self.model.nx + self.free.size

    def data_sizes(self) -> dict[str, tuple[int, int]]:
        """Shapes of the data that follow the parameters, in this order, column by column."""
        nodes, ny, n = self.window + 1, self.model.ny, self.n_estimated
        return {
            "y": (ny, nodes),
            "weight": (ny * ny, nodes),
            "u": (self.model.nu, nodes),
            "mean": (n, 1),
            "arrival": (n, n),
        }

    def data(self, **arrays: Float64Array) -> Float64Array:
        """The data as one vector; arrays have the shapes of `data_sizes`."""
        return np.concatenate([arrays[name].reshape(-1, order="F") for name in self.data_sizes()])


def definition(e: Estimation) -> Definition:
    """The model with its noise, with the data behind the parameters."""
    m, nv = e.model, e.n_noise
    size = sum(rows * columns for rows, columns in e.data_sizes().values())
    t, x = ca.MX.sym("t"), ca.MX.sym("x", m.nx)
    w, p = ca.MX.sym("w", m.nu + nv + 1), ca.MX.sym("p", m.np + size)
    slope = m.rhs(t, x, w[: m.nu, 0], p[: m.np, 0])
    if nv:
        slope = slope + ca.mtimes(ca.DM(e.spread / e.dt), w[m.nu : m.nu + nv, 0])
    rhs = ca.Function("rhs", [t, x, w, p], [ca.densify(w[m.nu + nv] * slope)], ["t", "x", "u", "p"], ["xdot"])
    unbounded = np.full(m.nu + nv + 1, np.inf)
    names = (*m.control_names, *(f"process noise {i}" for i in range(nv)), "switch")
    free = np.full(m.nx, np.nan)
    return Definition(
        rhs, m.state_names, names, (*m.layout.names(), *(f"data {i}" for i in range(size))), 0.0, e.window * e.dt,
        e.window * e.dt, e.window * e.dt, False, np.concatenate([e.p, np.zeros(size)]), e.free, e.p_lb, e.p_ub,
        e.x_lb, e.x_ub, -unbounded, unbounded, None, free, free, None, None, (), (), (),
    )  # fmt: skip


def make_transcription(e: Estimation, plan: Plan, x0: Float64Array) -> Transcription:
    """The program of an estimator."""
    d = definition(e)
    guess = make_guess(d, {"x": x0, "u": np.append(np.zeros(d.nu - 1), 1.0)})
    t = transcribe(d, plan, guess)
    groups = [_measurements(e, t), _arrival(e, t)]
    if e.n_noise:
        groups.append(_noise(e, t))
    return replace(t, nlp=replace(t.nlp, groups=(*t.nlp.groups, *groups)))


def break_places(t: Transcription) -> IntArray:
    """Places of the states at the breaks, (N + 1, nx)."""
    breaks = getattr(t.states, "breaks", None)
    return t.states.places if breaks is None else np.asarray(t.states.places[breaks])


def _data(e: Estimation, p: ca.MX) -> dict[str, ca.MX]:
    parts, start = {}, e.model.np
    for name, (rows, columns) in e.data_sizes().items():
        parts[name] = ca.reshape(p[start : start + rows * columns], rows, columns)
        start += rows * columns
    return parts


def _measurements(e: Estimation, t: Transcription) -> Group:
    m, d, nodes = e.model, t.definition, e.window + 1
    element = Element(d, {"x": m.nx}, {"tau": 1, "pick": nodes})
    data, p, pick = _data(e, element.p), element.p[: m.np, 0], element.constants["pick"]
    y, u = ca.mtimes(data["y"], pick), ca.mtimes(data["u"], pick)
    weight = ca.reshape(ca.mtimes(data["weight"], pick), m.ny, m.ny)
    h = m.output_function(element.time(element.constants["tau"]), element.variables["x"], u, p)
    cost = 0.5 * ca.sumsqr(ca.mtimes(weight, y - h))
    constants = np.hstack([t.plan.mesh.breaks[:, None], np.eye(nodes)])
    return Group("measurement", element.function("measurement", [cost]), join([break_places(t)], t.p), constants, None)


def _arrival(e: Estimation, t: Transcription) -> Group:
    element = Element(t.definition, {"x": e.model.nx}, {})
    data = _data(e, element.p)
    z = ca.vertcat(element.variables["x"], *(element.p[int(i)] for i in e.free))
    cost = 0.5 * ca.sumsqr(ca.mtimes(data["arrival"], z - data["mean"]))
    places = join([break_places(t)[:1]], t.p)
    return Group("arrival cost", element.function("arrival", [cost]), places, np.zeros((1, 0)), None)


def _noise(e: Estimation, t: Transcription) -> Group:
    element = Element(t.definition, {"xi": e.n_noise}, {})
    places = join([t.u[:, e.model.nu : e.model.nu + e.n_noise]], t.p)
    function = element.function("noise", [0.5 * ca.sumsqr(element.variables["xi"])])
    return Group("process noise", function, places, np.zeros((e.window, 0)), None)


def interval_map(e: Estimation, plan: Plan) -> ca.Function:
    """``(t, z, u, p) -> (z', dz'/dz, dz'/dxi)`` over one sampling interval, z = (x, estimated parameters).

    It is the map of the transcription: the same Runge-Kutta steps, or the same collocation polynomial.
    """
    from ..simulation import interval_function

    m, d = e.model, definition(e)
    t, z, u, p = ca.MX.sym("t"), ca.MX.sym("z", e.n_estimated), ca.MX.sym("u", m.nu), ca.MX.sym("p", m.np)
    xi = ca.MX.sym("xi", e.n_noise)
    place = {int(entry): m.nx + k for k, entry in enumerate(e.free)}
    everything = ca.vertcat(*(z[place[i]] if i in place else p[i] for i in range(m.np)), ca.DM.zeros(d.np - m.np, 1))
    w = ca.vertcat(u, xi, 1.0)
    if plan.method == "collocation":
        after = _collocated(d, plan)(t, z[: m.nx, 0], w, everything, e.dt)
    else:
        after = interval_function(d, None, plan.integrator, 1)(t, e.dt, z[: m.nx, 0], w, w, everything)[0]
    following = ca.vertcat(after, z[m.nx :, 0])
    by_state, by_noise = ca.jacobian(following, z), ca.jacobian(following, xi)
    both = ca.Function("both", [t, z, u, p, xi], [following, ca.densify(by_state), ca.densify(by_noise)])
    return ca.Function("interval", [t, z, u, p], list(both(t, z, u, p, ca.DM.zeros(e.n_noise, 1))))


def _collocated(d: Definition, plan: Plan) -> ca.Function:
    """``(t, x, w, p, h) -> x'`` by collocation, time being a state."""
    t, x, w, p = point_symbols(d)
    state, constants = ca.vertcat(x, t), ca.vertcat(w, p)
    f = ca.Function("f", [state, constants], [ca.vertcat(d.rhs(t, x, w, p), 1.0)], ["x", "p"], ["xdot"])
    tight = {"abstol": 1e-12, "error_on_fail": False}
    step = ca.simpleIRK(f, 1, int(plan.mesh.degrees[0]), plan.scheme, "newton", tight)
    h = ca.MX.sym("h")
    after = step(state, constants, h)[: d.nx]
    return ca.Function("collocated", [t, x, w, p, h], [after])


def output_map(e: Estimation) -> ca.Function:
    """``(t, z, u, p) -> (h, dh/dz)``."""
    m = e.model
    t, z, u, p = ca.MX.sym("t"), ca.MX.sym("z", e.n_estimated), ca.MX.sym("u", m.nu), ca.MX.sym("p", m.np)
    place = {int(entry): m.nx + k for k, entry in enumerate(e.free)}
    everything = ca.vertcat(*(z[place[i]] if i in place else p[i] for i in range(m.np)))
    h = m.output_function(t, z[: m.nx, 0], u, everything)
    return ca.Function("output", [t, z, u, p], [ca.densify(h), ca.densify(ca.jacobian(h, z))])
