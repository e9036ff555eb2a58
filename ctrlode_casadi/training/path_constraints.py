"""Constraints on the states along the trajectories, as users write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import DataError
from ..fitting.expressions import parameters
from ..model.ode import ControlledODE
from ..model.trace import expression
from ..ocp.checks import takes


@dataclass(frozen=True, eq=False)
class PathConstraint:
    """``lb <= function(t, x, u, p) <= ub`` at all points of a transcription; lb and ub are (m,).

    For a DAE, x is followed by the algebraic variables.
    """

    name: str
    function: ca.Function
    lb: Float64Array
    ub: Float64Array


def read_state_bounds(value: Any, nx: int) -> tuple[Float64Array, Float64Array]:
    """The option `state_bounds`, a pair (lb, ub) of numbers or (nx,), None for no bound, as two arrays (nx,)."""
    if value is None:
        return np.full(nx, -np.inf), np.full(nx, np.inf)
    lb, ub = _pair("state_bounds", value, nx, "nx")
    crossed = np.flatnonzero(lb > ub)
    if crossed.size:
        i = int(crossed[0])
        raise DataError(f"state_bounds: lower above upper bound for state {i}, got {lb[i]:g} and {ub[i]:g}")
    return lb, ub


def read_path(value: Any, model: ControlledODE) -> tuple[PathConstraint, ...]:
    """The option `path`: one (function, lb, ub) or a list of them."""
    if value is None:
        return ()
    several = value if isinstance(value, list) else [value]
    return tuple(_constraint(f"path[{i}]" if len(several) > 1 else "path", c, model) for i, c in enumerate(several))


def _constraint(name: str, value: Any, model: ControlledODE) -> PathConstraint:
    if not isinstance(value, tuple) or len(value) != 3 or not callable(value[0]):
        raise DataError(f"{name}: expected (function, lb, ub) with function(t, x, u, p), got {value!r}")
    sizes = {"t": 1, "x": model.nx, "u": model.nu, "p": model.np}
    if model.nz and (takes(value[0], 5) or not takes(value[0], 4)):
        sizes["z"] = model.nz
    symbols = {n: ca.MX.sym(n, k) for n, k in sizes.items()}
    g = expression(name, value[0], symbols, parameters(model, symbols["p"]), None)
    if not ca.jacobian_sparsity(g, ca.vertcat(*(symbols[n] for n in symbols if n not in ("t", "u")))).nnz():
        raise DataError(f"{name}: the constraint depends on neither states nor parameters, so it cannot be fulfilled")
    lb, ub = _pair(name, value[1:], g.numel(), "m")
    if (lb > ub).any():
        i = int(np.flatnonzero(lb > ub)[0])
        raise DataError(f"{name}: lower above upper bound in entry {i}, got {lb[i]:g} and {ub[i]:g}")
    function = ca.Function("path", list(symbols.values()), [ca.densify(g)], list(symbols), ["g"])
    if model.nz:
        y = ca.MX.sym("x", model.nx + model.nz)
        own = [symbols["t"], y[: model.nx], symbols["u"], symbols["p"], y[model.nx :]][: len(symbols)]
        inputs = [symbols["t"], y, symbols["u"], symbols["p"]]
        function = ca.Function("path", inputs, [function(*own)], ["t", "x", "u", "p"], ["g"])
    return PathConstraint(name, function, lb, ub)


def _pair(name: str, value: Any, n: int, letter: str) -> tuple[Float64Array, Float64Array]:
    """Two sides as arrays (n,), None for no bound."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise DataError(f"{name}: expected a pair (lb, ub) of numbers or arrays ({letter}={n},), got {value!r}")
    sides = []
    for side, missing in zip(value, (-np.inf, np.inf)):
        entries = [missing if v is None else v for v in side] if isinstance(side, (list, tuple)) else side
        try:
            array = np.asarray(missing if entries is None else entries, dtype=np.float64)
            sides.append(np.array(np.broadcast_to(array, (n,)), dtype=np.float64))
        except (TypeError, ValueError) as exc:
            raise DataError(f"{name}: expected a number or {letter}={n} numbers on each side, got {side!r}") from exc
        if np.isnan(sides[-1]).any():
            raise DataError(f"{name}: bounds must not be NaN; write None or an infinity for no bound")
    return sides[0], sides[1]
