"""Checks of what users give an optimal control problem: bounds, states with free entries, and functions."""

from __future__ import annotations

import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError, ModelError, unknown_name
from ..fitting.expressions import parameters
from ..fitting.initial import Free
from ..model.layout import ParameterLayout
from ..model.network import check_free, column
from ..model.ode import ControlledODE
from ..model.trace import call_python
from .definition import Definition, PointConstraint, Soft

#: By how much a fixed state may be outside its bounds, relative to its size if that is larger than one.
_ROUND_OFF = 1e-12


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


def set_points(value: Any, missing: float | None = None) -> Any:
    """Numbers that a user sets, as `floats` takes them: arrays of integers and objects may hold them, too.

    Entries that are None become `missing`, if that is given.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuO" and not np.ma.isMaskedArray(value):
        value = value.tolist()
    if missing is not None and isinstance(value, (list, tuple)):
        value = [missing if v is None else v for v in value]
    return value


def _bound(name: str, value: Any, n: int, missing: float) -> Float64Array:
    if value is None:
        return np.full(n, missing)
    array = np.asarray(floats(name, set_points(value, missing), finite=False), dtype=np.float64)
    if array.ndim > 1 and array.size == n:  # a column, or the shape of a block of parameters
        array = array.reshape(-1)
    if array.shape not in ((), (n,)):
        raise DataError(f"{name}: expected a number or shape ({n},), got {array.shape}")
    if np.isnan(array).any():
        raise DataError(f"{name}: NaN is no bound; use None or an infinity where there is none")
    return np.array(np.broadcast_to(array, (n,)))


def algebraic_bounds(z: Any, model: ControlledODE) -> tuple[Float64Array, Float64Array]:
    """Bounds of the algebraic variables (nz,)."""
    if model.nz == 0:
        raise DataError("bounds: the model has no algebraic variables (nz=0), leave z out")
    return bounds("z", *pair("z", z), model.nz, [f"z{i}" for i in range(model.nz)])


def fixed_states(name: str, value: Any, nx: int) -> Float64Array:
    """States (nx,) with NaN where an entry is free (None or NaN)."""
    array = np.asarray(floats(name, set_points(value, np.nan), finite="nan"), dtype=np.float64)
    if array.ndim == 0 and nx == 1:
        array = array.reshape(1)
    if array.shape != (nx,):
        raise DataError(f"{name}: expected shape (nx={nx},) with None for entries that are free, got {array.shape}")
    return array.copy()


def flat_guess(guess: Any, layout: ParameterLayout) -> Any:
    """A guess with flat parameters, where they are a mapping."""
    p = guess.get("p") if isinstance(guess, Mapping) else None
    return {**guess, "p": layout.check(p, "guess['p']")} if isinstance(p, Mapping) else guess


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
    """A user's function (t, x, u, p), or (t, x, u, p, z), as a `casadi.Function` (t, x, v, p) with flat parameters."""
    sizes = {"t": 1, "x": model.nx, "u": model.nu, "p": model.np}
    if model.nz == 0:
        return _function(name, source, model, sizes, n)
    if not takes(source, 4) or takes(source, 5):
        sizes["z"] = model.nz
    return with_free(model, _function(name, source, model, sizes, n))


def with_free(model: ControlledODE, f: ca.Function) -> ca.Function:
    """A function (t, x, u, p) or (t, x, u, p, z) as one of (t, x, v, p) with v = (u, z)."""
    sizes = {"t": 1, "x": model.nx, "u": model.nu + model.nz, "p": model.np}
    t, x, v, p = (ca.MX.sym(name, n) for name, n in sizes.items())
    arguments = [t, x, v[: model.nu], p, v[model.nu :]][: f.n_in()]
    return ca.Function("given", [t, x, v, p], [ca.densify(f(*arguments))], list(sizes), ["out"])


def takes(source: Any, n: int) -> bool:
    """Whether a function takes n arguments."""
    if isinstance(source, ca.Function):
        return int(source.n_in()) == n
    try:
        inspect.signature(source).bind(*range(n))
    except (TypeError, ValueError):
        return False
    return True


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
    try:
        result = call_python(name, source, arguments, error=DataError)
    except RuntimeError as exc:
        if type(exc) is not RuntimeError or "casadi/core" not in str(exc):
            raise
        said = re.sub(r"^\S*casadi/core\S*: ", "", str(exc).splitlines()[-1])
        raise DataError(f"{name}: {said} ({'; '.join(exc.__notes__)})") from exc
    try:
        out = column(name, result, None)
        check_free(name, out, list(symbols.values()), f"its arguments ({', '.join(symbols)})")
    except ModelError as exc:
        raise DataError(str(exc)) from exc
    if n is not None and out.numel() != n:
        raise DataError(f"{name}: must return {n} entr{'y' if n == 1 else 'ies'}, it returned {out.numel()}")
    return ca.Function("given", list(symbols.values()), [ca.densify(out)], list(symbols), ["out"])


def equations(model: ControlledODE) -> tuple[ca.Function, ca.Function | None]:
    """xdot, or M xdot for a singular mass matrix, and the algebraic equations of a model, as functions (t, x, v, p)."""
    dynamics = model.rhs if model.has_rhs else model.dynamics
    if model.algebraic is None:
        return dynamics, None
    return with_free(model, dynamics), with_free(model, model.algebraic)


def depends_on(f: ca.Function, argument: int, entries: range | None = None) -> bool:
    """Whether a function depends on one of its arguments, or on some entries of it."""
    used = f.jac_sparsity(0, argument).get_col()
    return len(used) > 0 if entries is None else any(i in entries for i in used)


def point_constraint(
    name: str, f: ca.Function, model: ControlledODE, limits: tuple[Any, Any], inside: Any, price: Any
) -> PointConstraint:
    """A constraint along the horizon, checked."""
    refuse_constant(name, f, choices(model, 1, 2))
    low, high = two_bounds(name, *limits, f.numel_out(0))
    uses = (depends_on(f, 2, range(model.nu)), depends_on(f, 2, range(model.nu, model.nu + model.nz)))
    return PointConstraint(f, low, high, count_or_none("inside", inside), soft(price), name, *uses)


def choices(model: ControlledODE, *arguments: int) -> list[int]:
    """Arguments that a constraint may depend on to be more than a constant; p counts when it may become free."""
    return [*arguments, 3] if model.np else list(arguments)


def two_bounds(name: str, lb: Any, ub: Any, m: int) -> tuple[Float64Array, Float64Array]:
    """Bounds (m,) of a constraint; every entry needs one."""
    low, high = bounds(name, lb, ub, m, [f"entry {i}" for i in range(m)])
    if not (np.isfinite(low) | np.isfinite(high)).all():
        raise DataError(f"{name}: give lb=, ub= or both; an entry without bounds constrains nothing")
    return low, high


def state_index(state: Any, names: Sequence[str]) -> int:
    """Index of a state that is given by its index or its name."""
    if isinstance(state, str) and str(state) in names:
        return list(names).index(str(state))
    if not isinstance(state, str) and 0 <= int(state) < len(names):
        return int(state)
    raise DataError(f"periodic: expected indices below nx={len(names)} or names of states {names}, got {state!r}")


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
    """Refuse a fixed initial or terminal state outside its bounds.

    An initial state that has no derivative in the equations is a guess only.
    """
    guessed = which == "initial" and d.mass is not None
    moving = np.ones(d.nx, bool) if d.mass is None or not guessed else d.mass.any(axis=0)
    for i in np.flatnonzero(np.isfinite(values) & moving):
        low, high = d.x_lb[i], d.x_ub[i]
        slack = _ROUND_OFF * max(1.0, abs(values[i]))
        if not low - slack <= values[i] <= high + slack:
            side, bound = ("lower", low) if values[i] < low else ("upper", high)
            raise DataError(
                f"{which}: the {which} state {d.state_names[i]} = {values[i]:.12g} violates its {side} bound "
                f"{bound:.12g}; no solution exists. Change the state or bounds(x=...)"
            )
