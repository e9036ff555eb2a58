"""One Rosenbrock step as a CasADi expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca

from ...model.ode import ControlledODE
from .tableaus import RosenbrockTableau


def rosenbrock_step(
    model: ControlledODE,
    tableau: RosenbrockTableau,
    times: tuple[Any, Any, Any],
    x: ca.MX,
    control: Callable[[Any], ca.MX],
    slope: ca.MX,
    p: ca.MX,
) -> ca.MX:
    """The state after one step.

    Parameters
    ----------
    model, tableau
        An ODE, and the method.
    times
        Start, end and length of the step.
    x
        State at its start.
    control, slope
        u as a function of time, and du/dt at the start.
    p
        Parameters.
    """
    t, end, h = times
    jacobian, rate = _slopes(model)(t, x, control(t), p, slope)
    matrix = ca.MX.eye(model.nx) / tableau.gamma - h * jacobian
    k: list[ca.MX] = []
    for i in range(tableau.stages):
        time = end if tableau.c[i] == 1.0 else t + float(tableau.c[i]) * h
        value = model.rhs(time, x + h * _sum(tableau.A[i], k, x), control(time), p)
        value += _sum(tableau.C[i], k, x) + float(tableau.gammas[i]) * h * rate
        k.append(ca.solve(matrix, value))
    return x + h * _sum(tableau.b, k, x)


def _slopes(model: ControlledODE) -> ca.Function:
    """(t, x, u, p, du) -> df/dx and the total time derivative of f."""
    s = [ca.MX.sym(name, n) for name, n in (("t", 1), ("x", model.nx), ("u", model.nu), ("p", model.np))]
    du = ca.MX.sym("du", model.nu)
    value = model.rhs(*s)
    rate = ca.jtimes(value, ca.vertcat(s[0], s[2]), ca.vertcat(1, du))
    return ca.Function("slopes", [*s, du], [ca.jacobian(value, s[1]), ca.densify(rate)])


def _sum(weights: Any, k: list[ca.MX], like: ca.MX) -> ca.MX:
    """sum_j weights[j] k[j], zero where there is none."""
    terms = [float(w) * v for w, v in zip(weights, k) if w != 0.0]
    return sum(terms[1:], terms[0]) if terms else ca.MX.zeros(like.numel())
