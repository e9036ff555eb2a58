"""Bounds on parameters, in the three forms that SciPy users write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import DataError

_FORMS = "give scipy.optimize.Bounds(lb, ub), a pair (lb, ub) of numbers or arrays, or a list of pairs (min, max)"


def read_bounds(bounds: Any, names: Sequence[str]) -> tuple[Float64Array, Float64Array]:
    """Lower and upper bounds (n,) of the parameters, infinite where there is none.

    Parameters
    ----------
    bounds
        None; an object with ``lb`` and ``ub``, such as `scipy.optimize.Bounds`; a pair (lb, ub) of numbers or arrays
        (n,), as `scipy.optimize.least_squares` takes it; or a sequence of n pairs (min, max), as
        `scipy.optimize.minimize` takes it. None stands for no bound. With two parameters, two sequences of two
        numbers can be read both ways: arrays are (lb, ub), tuples in a list are pairs, anything else is refused.
    names
        One readable name per parameter.

    Raises
    ------
    DataError
        For bounds of another form or length, for NaN, and where a lower bound lies above the upper one.
    """
    n = len(names)
    if bounds is None:
        return np.full(n, -np.inf), np.full(n, np.inf)
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        lower, upper = bounds.lb, bounds.ub
    elif _are_pairs(bounds, n):
        lower, upper = [pair[0] for pair in bounds], [pair[1] for pair in bounds]
    elif isinstance(bounds, (tuple, list, np.ndarray)) and len(bounds) == 2:
        lower, upper = bounds
    else:
        what = f"{len(bounds)} entries" if isinstance(bounds, (tuple, list, np.ndarray)) else type(bounds).__name__
        raise DataError(f"bounds: expected bounds of {n} parameters, got {what}; {_FORMS}")
    lb, ub = _side("lower", lower, -np.inf, n), _side("upper", upper, np.inf, n)
    crossed = np.flatnonzero((lb > ub) | (lb == np.inf) | (ub == -np.inf))
    if crossed.size:
        i = int(crossed[0])
        raise DataError(
            f"bounds: the lower bound must not lie above the upper one, got {lb[i]:g} and {ub[i]:g} for parameter {i} "
            f"({names[i]}); {crossed.size} of {n} are crossed"
        )
    return lb, ub


def _are_pairs(bounds: Any, n: int) -> bool:
    """Whether bounds are one pair per parameter rather than (lb, ub)."""
    if not isinstance(bounds, (tuple, list, np.ndarray)) or len(bounds) != n:
        return False
    entries = list(bounds)
    if not all(isinstance(e, (tuple, list, np.ndarray)) and len(e) == 2 for e in entries):
        return False
    if n != 2:
        return True
    if all(isinstance(e, tuple) for e in entries) and isinstance(bounds, list):
        return True
    if all(isinstance(e, np.ndarray) for e in entries) and not isinstance(bounds, np.ndarray):
        return False
    if any(v is None for e in entries for v in e):
        return True
    table = np.asarray(entries, dtype=np.float64)
    if np.array_equal(table, table.T):
        return True
    raise DataError(
        f"bounds: for two parameters {bounds!r} can mean (lb, ub) or two pairs (min, max); "
        f"write scipy.optimize.Bounds(lb, ub) or a list of tuples [(min, max), (min, max)]"
    )


def _side(name: str, value: Any, missing: float, n: int) -> Float64Array:
    """One side of the bounds as (n,)."""
    try:
        if isinstance(value, (list, tuple)):
            value = [missing if v is None else v for v in value]
        side = np.asarray(missing if value is None else value, dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise DataError(f"bounds: the {name} bounds must be numbers, got {value!r}; {_FORMS}") from exc
    if side.shape not in ((), (1,), (n,)):
        raise DataError(
            f"bounds: expected {n} {name} bounds, one per parameter, got shape {side.shape}; free initial states have "
            f"bounds too (obj.names() lists all parameters)"
        )
    if np.isnan(side).any():
        raise DataError(f"bounds: the {name} bounds must not be NaN; write None or an infinity for no bound")
    return np.array(np.broadcast_to(side, (n,)), dtype=np.float64)
