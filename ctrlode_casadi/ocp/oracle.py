"""What a backend hands to `casadi.nlpsol`: the scaled program and its derivative functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import casadi as ca


@dataclass(frozen=True, eq=False)
class Oracle:
    """Functions of the scaled program of an `NLP`.

    All of them take ``x = w / scale_w`` and ``p = q`` and give ``scale_f * f`` and ``scale_g * g``.

    Attributes
    ----------
    problem
        Third argument of `casadi.nlpsol`: a dict of expressions x, p, f, g, or a Function ``(x, p) -> (f, g)``.
    options
        Options of `casadi.nlpsol` that belong to it.
    objective, constraints, gradient, jacobian, hessian
        ``(x, p) -> f``, ``(x, p) -> g``, ``(x, p) -> (f, grad f)``, ``(x, p) -> (g, jac g)`` and
        ``(x, p, lam_f, lam_g) -> upper triangle`` of the Hessian of ``lam_f f + lam_g' g``.
    keep
        Whatever must stay alive as long as the functions.
    """

    problem: dict[str, Any] | ca.Function
    options: dict[str, Any]
    objective: ca.Function
    constraints: ca.Function
    gradient: ca.Function
    jacobian: ca.Function
    hessian: ca.Function
    keep: tuple[Any, ...] = field(default=())
