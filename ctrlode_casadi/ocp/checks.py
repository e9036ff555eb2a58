"""Checks of what users give an optimal control problem: bounds, states with free entries, and functions."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError, ModelError, unknown_name
from ..fitting.expressions import parameters
from ..fitting.initial import Free
from ..model.network import check_free, column
from ..model.ode import ControlledODE
from ..model.trace import call_python
from .definition import Definition, Soft


def number(name: str, value: object) -> float:
    """A finite number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(float(value)):
        raise DataError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def bounds(name: str, lb: Any, ub: Any, n: int, names: Sequence[str]) -> tuple[Float64Array, Float64Array]:
    """Lower and upper bounds (n,); None and infinite entries mean that there is none.

    Raises
    ------
    DataError
        For a wrong shape, NaN, or a lower bound above the upper one.
    """
    low, high = _bound(f"{name} lb", lb, n, -np.inf), _bound(f"{name} ub", ub, n, np.inf)
    (wrong,) = np.nonzero(low > high)
    if wrong.size:
        i = int(wrong[0])
        raise DataError(
            f"{name}: bounds are crossed for {names[i]}: lb={low[i]:g} is larger than ub={high[i]:g}; swap them"
        )
    for i in range(n):
        if low[i] == np.inf or high[i] == -np.inf:
            raise DataError(f"{name}: no value of {names[i]} lies between lb={low[i]:g} and ub={high[i]:g}")
    return low, high


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """A pair of bounds."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise DataError(f"{name}: expected a pair (lb, ub), got {value!r}")
    return value[0], value[1]


def _bound(name: str, value: Any, n: int, missing: float) -> Float64Array:
    if value is None:
        return np.full(n, missing)
    if isinstance(value, (list, tuple)):
        value = [missing if v is None else v for v in value]
    array = np.asarray(floats(name, value, finite=False), dtype=np.float64)
    if array.ndim > 1 and array.size == n:  # a column, or the shape of a block of parameters
        array = array.reshape(-1)
    if array.shape not in ((), (n,)):
        raise DataError(f"{name}: expected a number or shape ({n},), got {array.shape}")
    if np.isnan(array).any():
        raise DataError(f"{name}: NaN is no bound; use None or an infinity where there is none")
    return np.array(np.broadcast_to(array, (n,)))


def fixed_states(name: str, value: Any, nx: int) -> Float64Array:
    """States (nx,) with NaN where an entry is free (None or NaN)."""
    if isinstance(value, (list, tuple)):
        value = [np.nan if v is None else v for v in value]
    array = np.asarray(floats(name, value, finite="nan"), dtype=np.float64)
    if array.ndim == 0 and nx == 1:
        array = array.reshape(1)
    if array.shape != (nx,):
        raise DataError(f"{name}: expected shape (nx={nx},) with None for entries that are free, got {array.shape}")
    return array.copy()


def soft(value: Any) -> Soft | None:
    """The price of a violation: None, a weight, or a `Soft`."""
    if value is None:
        return None
    chosen = value if isinstance(value, Soft) else Soft(number("soft", value))
    if not number("soft", chosen.weight) > 0:
        raise DataError(f"soft: the weight must be positive, got {chosen.weight!r}")
    if chosen.norm not in ("l1", "l2"):
        raise DataError(unknown_name("soft", chosen.norm, ("l1", "l2")))
    return chosen


def count_or_none(name: str, value: Any) -> int | None:
    """None, or a number of points of at least zero."""
    if value is None:
        return None
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < 0:
        raise DataError(f"{name}: expected a number of points inside each interval, 0 or more, got {value!r}")
    return int(value)


def along(name: str, source: Callable[..., Any], model: ControlledODE, n: int | None = None) -> ca.Function:
    """A user's function (t, x, u, p) as a `casadi.Function` of the flat parameters."""
    sizes = {"t": 1, "x": model.nx, "u": model.nu, "p": model.np}
    return _function(name, source, model, sizes, n)


def at_ends(name: str, source: Callable[..., Any], model: ControlledODE, n: int | None = None) -> ca.Function:
    """A user's function (x0, xf, tf, p) as a `casadi.Function` of the flat parameters."""
    return _function(name, source, model, {"x0": model.nx, "xf": model.nx, "tf": 1, "p": model.np}, n)


def _function(
    name: str, source: Callable[..., Any], model: ControlledODE, sizes: dict[str, int], n: int | None
) -> ca.Function:
    symbols = {key: ca.MX.sym(key, size) for key, size in sizes.items()}
    arguments = symbols | {"p": parameters(model, symbols["p"])}
    if isinstance(source, ca.Function):
        arguments = dict(symbols)
    result = call_python(name, source, arguments, error=DataError)
    try:
        out = column(name, result, None)
        check_free(name, out, list(symbols.values()), f"its arguments ({', '.join(symbols)})")
    except ModelError as exc:
        raise DataError(str(exc)) from exc
    if n is not None and out.numel() != n:
        raise DataError(f"{name}: must return {n} entr{'y' if n == 1 else 'ies'}, it returned {out.numel()}")
    return ca.Function("given", list(symbols.values()), [ca.densify(out)], list(symbols), ["out"])


def depends_on(f: ca.Function, argument: int) -> bool:
    """Whether a function depends on one of its arguments."""
    return f.jac_sparsity(0, argument).nnz() > 0


def refuse_constant(name: str, f: ca.Function, arguments: Sequence[int]) -> None:
    """Refuse a constraint with an entry that depends on nothing."""
    rows: set[int] = set()
    for argument in arguments:
        rows |= set(f.jac_sparsity(0, argument).row())
    constant = sorted(set(range(f.numel_out(0))) - rows)
    if constant:
        raise DataError(
            f"{name}: entry {constant[0]} of the constraint does not depend on any variable of the problem, so "
            "nothing can be chosen to meet it; remove it, or use the arguments of the function"
        )


def free_time(tf: Free, t0: float) -> tuple[float, float, float]:
    """Guess and bounds of a free final time.

    Raises
    ------
    DataError
        For bounds that are missing, crossed, or allow a horizon without length.
    """
    guess = number("tf (Free guess)", tf.guess)
    if tf.lb is None or tf.ub is None:
        raise DataError("tf: a free final time needs bounds, co.Free(guess, lb, ub)")
    lb, ub = number("tf (Free lb)", tf.lb), float(tf.ub)
    if lb <= 0 or lb <= t0:
        raise DataError(
            f"tf (Free lb): the lower bound of the final time must be positive and larger than t0={t0:g}, got "
            f"{lb:g}; a horizon must have a length"
        )
    if not lb <= guess <= ub:
        raise DataError(f"tf: expected lb <= guess <= ub, got lb={lb:g}, guess={guess:g}, ub={ub:g}")
    return guess, lb, ub


def check_fixed(d: Definition, which: str, values: Float64Array) -> None:
    """Refuse a fixed initial or terminal state outside its bounds."""
    for i in np.flatnonzero(np.isfinite(values)):
        low, high = d.x_lb[i], d.x_ub[i]
        if not low <= values[i] <= high:
            side, bound = ("lower", low) if values[i] < low else ("upper", high)
            raise DataError(
                f"{which}: the {which} state {d.state_names[i]} = {values[i]:g} violates its {side} bound {bound:g}; "
                "no solution exists. Change the state or bounds(x=...)"
            )


def check_start(d: Definition) -> None:
    """Refuse an initial state that violates a path constraint which nothing else can influence."""
    if not np.isfinite(d.x_start).all() or np.isnan(d.p).any():
        return
    for c in d.path:
        if c.soft is not None or c.uses_control or (d.free.size and depends_on(c.function, 3)):
            continue
        g = c.function(d.t0, d.x_start, 0, d.p).full()[:, 0]
        worst = np.maximum(c.lb - g, g - c.ub)
        j = int(worst.argmax())
        if worst[j] > 1e-8 * max(1.0, abs(g[j])):
            raise DataError(
                f"initial: the initial state violates {c.name}: entry {j} is {g[j]:g}, allowed is "
                f"[{c.lb[j]:g}, {c.ub[j]:g}]; no solution exists"
            )
