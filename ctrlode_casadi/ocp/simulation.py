"""One interval of a shooting method as a CasADi function: fixed Runge-Kutta steps of states and quadratures."""

from __future__ import annotations

import math

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import SolverError, UnsupportedOperation
from ..integrate.solvers import DOP853, RungeKutta
from ..integrate.tableaus import Tableau
from .definition import Definition, point_symbols

#: Steps per interval with which the automatic choice begins.
FIRST_CHOICE = DOP853(steps_per_interval=1)


def check_integrator(integrator: object, length: float) -> RungeKutta:
    """An explicit solver with a known number of steps per interval.

    Parameters
    ----------
    integrator
        Fixed-step solver of the package.
    length
        Duration of the longest interval, which turns `dt` into a number of steps.
    """
    if not isinstance(integrator, RungeKutta):
        raise UnsupportedOperation(
            f"integrator: shooting needs an explicit Runge-Kutta solver with fixed steps, such as "
            f"RK4(steps_per_interval=2), got {integrator!r}; for stiff models use method='collocation'"
        )
    name = type(integrator).__name__
    if integrator.adaptive:
        raise SolverError(
            f"integrator: the steps of an adaptive {name} depend on the values, which makes no smooth NLP; fix them, "
            f"{name}(steps_per_interval=2)"
        )
    count = integrator.steps_per_interval or 1
    if integrator.dt is not None:
        count = max(1, math.ceil(length / integrator.dt * (1.0 - 1e-12)))
    return type(integrator)(steps_per_interval=count)


def interval_function(d: Definition, integrands: ca.Function | None, solver: RungeKutta, segments: int) -> ca.Function:
    """States and quadratures over one interval that is cut into equal segments.

    Parameters
    ----------
    d
        The problem.
    integrands
        (t, x, u, p) -> (n,) what is integrated along with the states; None for nothing.
    solver
        Runge-Kutta method; its steps are those of the whole interval and at least one per segment.
    segments
        Number of segments.

    Returns
    -------
    casadi.Function
        ``(t, h, x, ua, ub, p) -> (X (nx, segments), Q (n,))``: start time, length, initial state, control at the start
        and the end of the interval (linear between), parameters; states at the end of each segment.
    """
    steps = max(1, math.ceil((solver.steps_per_interval or 1) / segments))
    one = _step(d, integrands, solver.tableau)
    t, h = ca.MX.sym("t"), ca.MX.sym("h")
    x, ua, ub, p = (ca.MX.sym(name, n) for name, n in (("x", d.nx), ("ua", d.nu), ("ub", d.nu), ("p", d.np)))
    inner = p if d.held is None else d.held(t + 0.5 * h, p)
    n, state, saved = steps * segments, x, []
    total = ca.MX.zeros(one.numel_out(1), 1)
    for i in range(n):
        left = ua + (i / n) * (ub - ua)
        right = ua + ((i + 1) / n) * (ub - ua)
        state, added = one(t + (i / n) * h, h / n, state, left, right, inner)
        total = total + added
        if (i + 1) % steps == 0:
            saved.append(state)
    names = ["t", "h", "x", "ua", "ub", "p"]
    return ca.Function("interval", [t, h, x, ua, ub, p], [ca.horzcat(*saved), total], names, ["X", "Q"])


def _step(d: Definition, integrands: ca.Function | None, tableau: Tableau) -> ca.Function:
    """One step: (t, h, x, ua, ub, p) -> (x', increments of the quadratures)."""
    t, x, ua, p = point_symbols(d)
    ub, h = ca.MX.sym("ub", d.nu), ca.MX.sym("h")
    slopes: list[ca.MX] = []
    rates: list[ca.MX] = []
    for i in range(tableau.main):
        c = float(tableau.c[i])
        u = ua + c * (ub - ua) if d.nu else ua
        state = _advance(x, h, tableau.A[i], slopes)
        slopes.append(d.rhs(t + c * h, state, u, p))
        if integrands is not None:
            rates.append(
                integrands(t + c * h, state, u, p) if tableau.b[i] != 0.0 else ca.MX(integrands.numel_out(0), 1)
            )
    total = _advance(ca.MX(rates[0].numel(), 1), h, tableau.b, rates) if rates else ca.MX(0, 1)
    after = _advance(x, h, tableau.b, slopes)
    results = [ca.densify(after), ca.densify(total)]
    return ca.Function("one_step", [t, h, x, ua, ub, p], results, ["t", "h", "x", "ua", "ub", "p"], ["xf", "dq"])


def _advance(x: ca.MX, h: ca.MX, weights: Float64Array, slopes: list[ca.MX]) -> ca.MX:
    """x + h sum_j weights[j] slopes[j]."""
    terms = [float(w) * k for w, k in zip(weights, slopes) if w != 0.0]
    return x + h * sum(terms[1:], terms[0]) if terms else x


def run(
    interval: ca.Function,
    times: Float64Array,
    x0: Float64Array,
    ua: Float64Array,
    ub: Float64Array,
    p: Float64Array,
) -> tuple[Float64Array, Float64Array]:
    """Each interval from its own start: states at the ends of segments (N, segments, nx), increments (N, n).

    `times` are the N + 1 breaks; `x0`, `ua` and `ub` have one row per interval.
    """
    n = times.size - 1
    mapped = interval.map(n, [False] * 5 + [True])
    X, Q = mapped(times[None, :-1], np.diff(times)[None, :], x0.T, ua.T, ub.T, p)
    states = X.full().T.reshape(n, -1, interval.numel_in(2))
    return states, Q.full().T
