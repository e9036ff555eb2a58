"""The CasADi functions of an objective: dynamics, costs, and both in a direction of the parameters.

All have the inputs (t, x, u, p), costs also (d, w) with data and weights of one save time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.errors import DataError, ModelError
from ..model.network import check_free, column
from ..model.ode import ControlledODE
from ..model.trace import call_python
from .losses import Loss

_COST_INPUTS = ("t", "x", "u", "p", "d", "w")


@dataclass(frozen=True, eq=False)
class Functions:
    """What one sweep integrates and sums.

    Attributes
    ----------
    rhs
        (t, x, u, p) -> xdot.
    cost, terminal
        (t, x, u, p, d, w) -> ell at every save time and at the last one; None where there is none.
    nx, nu, n_params, nd, nw
        Sizes of the inputs.
    blocks
        (q, n): states of each diagonal block, see `integrate.jacobian.Structure`; None for one block.
    mass
        M of one block where rhs gives M xdot; None for the identity.
    """

    rhs: ca.Function
    cost: ca.Function | None
    terminal: ca.Function | None
    nx: int
    nu: int
    n_params: int
    nd: int
    nw: int
    blocks: NDArray[np.int64] | None = None
    mass: NDArray[np.float64] | None = None


def parameters(model: ControlledODE, p: ca.MX) -> Any:
    """What a user's function gets as p, the same as in the model's own callables: a tree or the vector itself."""
    return model.layout.unflatten(p) if model.named_parameters else p


def scalar(name: str, source: Callable[..., Any], arguments: dict[str, Any], symbols: list[ca.MX]) -> ca.MX:
    """The scalar expression that a user's function returns for its arguments, every misuse named."""
    result = call_python(name, source, arguments, error=DataError)
    try:
        value = column(name, result, None)
        check_free(name, value, symbols, f"its arguments ({', '.join(arguments)})")
    except ModelError as exc:
        raise DataError(str(exc)) from exc
    if value.numel() != 1:
        raise DataError(
            f"{name}: must return one entry (a scalar), it returned {value.numel()}; add them up, for example with "
            f"casadi.sum1 or casadi.sumsqr"
        )
    return value


def _symbols(model: ControlledODE, nx: int, nd: int, nw: int) -> dict[str, ca.MX]:
    sizes = {"t": 1, "x": nx, "u": model.nu, "p": model.np, "d": nd, "w": nw}
    return {name: ca.MX.sym(name, n) for name, n in sizes.items()}


@dataclass(frozen=True, eq=False)
class Terms:
    """What a user asked for: the loss at the save times, and the terminal and running cost.

    Attributes
    ----------
    loss
        A row of the table, a callable, or None.
    widths
        One width for each output, for the built-in losses.
    terminal, running
        Callables or None.
    nd, nw
        Entries of data and weights: (ny, ny) for a built-in loss. A callable has one weight, or one weight
        followed by a mask of the data present, or none.
    """

    loss: Loss | Callable[..., Any] | None
    widths: tuple[float, ...]
    terminal: Callable[..., Any] | None
    running: Callable[..., Any] | None
    nd: int
    nw: int


def build(model: ControlledODE, terms: Terms) -> Functions:
    """Functions of an objective; a running cost is one more state, its integral."""
    nx = model.nx + (terms.running is not None)
    s = _symbols(model, nx, terms.nd, terms.nw)
    x = s["x"][: model.nx] if nx > model.nx else s["x"]
    inner = {"t": s["t"], "x": x, "u": s["u"], "p": s["p"]}
    y = model.output_function(*inner.values())
    user = {**inner, "x": x[: model.n_visible], "y": y, "p": parameters(model, s["p"])}
    user = {name: user[name] for name in ("t", "x", "u", "y", "p")}
    everything = list(s.values())
    rhs = model.rhs
    if terms.running is not None:
        rate = scalar("running", terms.running, user, everything)
        xdot = ca.vertcat(model.rhs(*inner.values()), rate)
        rhs = ca.Function("rhs", everything[:4], [xdot], list(_COST_INPUTS[:4]), ["xdot"])
    last = []
    if terms.terminal is not None:
        last.append(scalar("terminal", terms.terminal, user, everything))
    if terms.running is not None:
        last.append(s["x"][model.nx])
    cost = _cost(terms, s, user, everything)
    return Functions(
        rhs,
        None if cost is None else _cost_function("cost", s, cost),
        _cost_function("terminal", s, sum(last[1:], last[0])) if last else None,
        nx,
        model.nu,
        model.np,
        terms.nd,
        terms.nw,
        mass=_mass(model, nx),
    )


def _mass(model: ControlledODE, nx: int) -> NDArray[np.float64] | None:
    """The model's mass matrix with ones for the integral of a running cost; None where there is none."""
    if model.system_mass is None:
        return None
    mass = np.eye(nx)
    mass[: model.nx, : model.nx] = model.system_mass
    return mass


def _cost(terms: Terms, s: dict[str, ca.MX], user: dict[str, Any], everything: list[ca.MX]) -> ca.MX | None:
    """Cost at one save time."""
    if terms.loss is None:
        return None
    if isinstance(terms.loss, Loss):
        return ca.dot(s["w"], terms.loss.penalty(user["y"] - s["d"], ca.DM(list(terms.widths))))
    y, d = user["y"], s["d"]
    if terms.nw > 1:
        # A missing entry is replaced by the model's output, which no residual sees.
        d = ca.if_else(s["w"][1:] > 0, d, y)
    arguments = {name: user[name] for name in ("t", "x", "u", "y")} | {"d": d, "p": user["p"]}
    value = scalar("loss", terms.loss, arguments, everything)
    return value * s["w"][0] if terms.nw else value


def _cost_function(name: str, s: dict[str, ca.MX], value: ca.MX) -> ca.Function:
    return ca.Function(name, list(s.values()), [value], list(s), ["ell"])


def in_direction(f: Functions) -> Functions:
    """The functions along a direction v of the parameters and dx of the states.

    The state is (x, dx) and the parameter vector (p, v), so that dx solves the variational equation. The costs
    are directional derivatives: their gradient with respect to p is a product with the Hessian (Griewank &
    Walther, Evaluating Derivatives, 2nd ed., section 5.1).
    """
    z, q = ca.MX.sym("x", 2 * f.nx), ca.MX.sym("p", 2 * f.n_params)
    t, u, d, w = ca.MX.sym("t"), ca.MX.sym("u", f.nu), ca.MX.sym("d", f.nd), ca.MX.sym("w", f.nw)
    x, dx = z[: f.nx], z[f.nx :]
    p, v = q[: f.n_params], q[f.n_params :]

    def along(function: ca.Function, extra: list[ca.MX]) -> tuple[ca.MX, ca.MX]:
        """Value and directional derivative, from the function's own forward mode."""
        inputs = [t, x, u, p, *extra]
        seeds = [ca.MX(1, 1), dx, ca.MX(f.nu, 1), v, *(ca.MX(*e.shape) for e in extra)]
        value = function(*inputs)
        return value, function.forward(1)(*inputs, value, *seeds)

    rhs = ca.Function("rhs", [t, z, u, q], [ca.vertcat(*along(f.rhs, []))], list(_COST_INPUTS[:4]), ["xdot"])
    costs = [
        None
        if function is None
        else ca.Function(name, [t, z, u, q, d, w], [along(function, [d, w])[1]], list(_COST_INPUTS), ["ell"])
        for name, function in (("cost", f.cost), ("terminal", f.terminal))
    ]
    blocks = np.arange(2 * f.nx).reshape(2, f.nx)
    return Functions(rhs, costs[0], costs[1], 2 * f.nx, f.nu, 2 * f.n_params, f.nd, f.nw, blocks, f.mass)
