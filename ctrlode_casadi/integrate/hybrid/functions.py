"""Conditions and jumps of events as functions of all states of an engine, with the derivative of a jump.

At an event the time tau is determined by g(tau, x-, u, p) = 0, and the state after it is x+ = r(tau, x-, u, p). With
f- and f+ the right-hand side before and after, g' = g_t + g_x f- + g_u u' and r' = r_t + r_x f- + r_u u', a change of
the state, the control and the parameters at the fixed time tau gives

    dtau = -(g_x dx + g_u du + g_p dp) / g'
    dx+  = r_x dx + r_u du + r_p dp + (r' - f+) dtau

at the fixed time tau after the event (the saltation matrix: Leine & Nijmeijer, Dynamics and Bifurcations of
Non-Smooth Mechanical Systems, 2004, section 7.4). The adjoint is the transpose.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import casadi as ca

from ...base.arrays import Float64Array
from ...model.ode import ControlledODE
from .events import Event
from .lanes import RowFunction


class EventFunctions:
    """Events for a system whose first states are those of the model.

    Parameters
    ----------
    rhs
        (t, x, u, p) -> xdot of the system. States beyond the model's, such as an integral, do not jump.
    model
        The model.
    events
        With CasADi functions as condition and jump.
    tangent
        Whether the second half of states and parameters (and controls, if there are twice as many) is a change of
        the first.
    compiled
        Whether machine code is wanted.
    """

    def __init__(
        self, rhs: ca.Function, model: ControlledODE, events: tuple[Event, ...], tangent: bool, compiled: bool
    ) -> None:
        self.events, self.tangent, self._compiled = events, tangent, compiled
        self._rhs, self._model = rhs, model
        self.nx, self.nu, self.n_params = rhs.numel_in(1), rhs.numel_in(2), rhs.numel_in(3)
        self._base = self.nx // 2 if tangent else self.nx

    # --- evaluation, one row per event or point ------------------------------------------------------------------

    def values(self, t: Any, x: Any, u: Any, p: Any) -> Float64Array:
        """Conditions (m, E) at m points: t (m,), x (m, nx), u (m, nu), p (n_params,)."""
        return self._values(p, t, x, u)[0]

    def probe(self, t: Any, x: Any, u: Any, slope: Any, p: Any) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Conditions and their time derivatives, (m, E) each, and the right-hand side (m, nx); `slope` is du/dt."""
        g, rate, xdot = self._probe(p, t, x, u, slope)
        return g, rate, xdot

    def after(self, e: int, t: Any, x: Any, u: Any, u_after: Any, slope: Any, moves: Any, p: Any) -> Float64Array:
        """States (m, nx) after event e; `moves` is 0 where the time of the event is fixed, else 1."""
        return self._jumps[e](p, t, x, u, u_after, slope, moves)[0]

    def pull(
        self, e: int, t: Any, x: Any, u: Any, u_after: Any, slope: Any, moves: Any, p: Any, lam: Any
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Adjoints of x (m, nx), u (m, nu) and p (m, n_params) for an adjoint `lam` of the state after event e."""
        x_bar, u_bar, p_bar = self._pulls[e](p, t, x, u, u_after, slope, moves, lam)
        return x_bar, u_bar, p_bar

    # --- expressions ---------------------------------------------------------------------------------------------

    def _condition(self, event: Event, t: ca.MX, x: ca.MX, u: ca.MX, p: ca.MX) -> ca.MX:
        model = self._model
        return event.condition(t, x[: model.nx], u[: model.nu], p[: model.np])

    def _slope(self, t: ca.MX, x: ca.MX, u: ca.MX, p: ca.MX) -> ca.MX:
        """Right-hand side of the first half of the states."""
        full = [_padded(v, n) for v, n in zip((x, u, p), (self.nx, self.nu, self.n_params), strict=True)]
        return self._rhs(t, *full)[: self._base]

    def _made(self, name: str, inputs: list[ca.MX], outputs: list[Any]) -> RowFunction:
        return RowFunction(ca.Function(name, inputs, [ca.densify(v) for v in outputs]), self._compiled)

    def _symbols(self, *names: str) -> dict[str, ca.MX]:
        sizes = {"t": 1, "x": self.nx, "u": self.nu, "after": self.nu, "slope": self.nu, "moves": 1}
        return {name: ca.MX.sym(name, sizes[name]) for name in names} | {"p": ca.MX.sym("p", self.n_params)}

    @cached_property
    def _values(self) -> RowFunction:
        s = self._symbols("t", "x", "u")
        values = [self._condition(event, s["t"], s["x"], s["u"], s["p"]) for event in self.events]
        return self._made("values", list(s.values()), [ca.vertcat(*values)])

    @cached_property
    def _probe(self) -> RowFunction:
        s, model = self._symbols("t", "x", "u", "slope"), self._model
        w = ca.MX.sym("w", 1 + self._base + model.nu)
        t, x, u = w[0], w[1 : 1 + self._base], w[1 + self._base :]
        p, rate = ca.MX.sym("p_", model.np), ca.MX.sym("rate", model.nu)
        g = ca.vertcat(*(self._condition(event, t, x, u, p) for event in self.events))
        change = ca.jtimes(g, w, ca.vertcat(1, self._slope(t, x, u, p), rate))
        inner = ca.Function("inner", [w, rate, p], [ca.densify(g), ca.densify(change)])
        at = ca.vertcat(s["t"], s["x"][: self._base], s["u"][: model.nu])
        results = inner(at, s["slope"][: model.nu], s["p"][: model.np])
        return self._made("probe", list(s.values()), [*results, self._rhs(s["t"], s["x"], s["u"], s["p"])])

    def _change(self, event: Event) -> ca.Function:
        """(w, u_after, slope, moves, d) -> x+, dx+ with w = (t, x, u, p) and d a change of (x, u, p)."""
        n, nu, n_params = self._base, self._model.nu, self._model.np
        w, after, slope = ca.MX.sym("w", 1 + n + nu + n_params), ca.MX.sym("after", nu), ca.MX.sym("slope", nu)
        moves, d = ca.MX.sym("moves"), ca.MX.sym("d", n + nu + n_params)
        t, x, u, p = w[0], w[1 : 1 + n], w[1 + n : 1 + n + nu], w[1 + n + nu :]
        g, r = self._condition(event, t, x, u, p), x
        if event.jump is not None:
            rest = [x[self._model.nx :]] if n > self._model.nx else []
            r = ca.vertcat(event.jump(t, x[: self._model.nx], u, p), *rest)
        forward = ca.vertcat(1, self._slope(t, x, u, p), slope, ca.MX(n_params, 1))
        rate = ca.if_else(moves > 0.5, ca.jtimes(g, w, forward), 1.0)
        seed = ca.vertcat(0, d)
        dtau = -moves * ca.jtimes(g, w, seed) / rate
        change = ca.jtimes(r, w, seed) + (ca.jtimes(r, w, forward) - self._slope(t, r, after, p)) * dtau
        return ca.Function("change", [w, after, slope, moves, d], [r, change])

    @cached_property
    def _jumps(self) -> list[RowFunction]:
        """(t, x, u, u_after, slope, moves, p) -> x+ for each event."""
        n, nu, n_params, out = self._base, self._model.nu, self._model.np, []
        for event in self.events:
            s = self._symbols("t", "x", "u", "after", "slope", "moves")
            w = ca.vertcat(s["t"], s["x"][:n], s["u"][:nu], s["p"][:n_params])
            d = ca.MX(n + nu + n_params, 1)
            if self.tangent:
                du = s["u"][nu:] if self.nu == 2 * nu else ca.MX(nu, 1)
                d = ca.vertcat(s["x"][n:], du, s["p"][n_params:])
            both = self._change(event)(w, s["after"][:nu], s["slope"][:nu], s["moves"], d)
            result = ca.vertcat(*both) if self.tangent else both[0]
            out.append(self._made("jump", list(s.values()), [result]))
        return out

    @cached_property
    def _pulls(self) -> list[RowFunction]:
        """(t, x, u, u_after, slope, moves, lam, p) -> adjoints of x, u and p for each event."""
        n, nu, out = self._base, self._model.nu, []
        for event in self.events:
            s = self._symbols("t", "x", "u", "after", "slope", "moves")
            p, lam, d = s.pop("p"), ca.MX.sym("lam", n), ca.MX.sym("d", n + nu + self._model.np)
            w = ca.vertcat(s["t"], s["x"], s["u"], p)
            change = self._change(event)(w, s["after"], s["slope"], s["moves"], d)[1]
            bar = ca.jtimes(change, d, lam, True)  # linear in d, which drops out
            bar = ca.densify(ca.substitute([bar], [d], [ca.DM.zeros(d.shape)])[0])
            results = [bar[:n], bar[n : n + nu], bar[n + nu :]]
            out.append(self._made("pull", [*s.values(), lam, p], results))
        return out


def _padded(v: ca.MX, n: int) -> ca.MX:
    """The vector with zeros appended up to n entries."""
    return v if v.numel() == n else ca.vertcat(v, ca.MX(n - v.numel(), 1))
