"""Checks of what users hand to a control: knots, values, times, extrapolation rules."""

from __future__ import annotations

import numbers
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, FloatArray, check_finite, check_shape, floats
from ..base.errors import ControlError, unknown_name

#: A CasADi expression: MX, SX or DM. Operators of CasADi mix them freely, its stubs do not.
Expression: TypeAlias = Any

#: Extrapolation rules and their codes in `formulas`.
ERROR, HOLD, LINEAR, PERIODIC = 0, 1, 2, 3
RULES = {"error": ERROR, "hold": HOLD, "linear": LINEAR, "periodic": PERIODIC}

_DTYPES: dict[str, type[np.floating[Any]]] = {"float64": np.float64, "float32": np.float32}


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous view that cannot be written through (the kernels are compiled for such arrays only)."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def own(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous array that nobody can change later: a copy, or the array itself where nobody can write to it."""
    behind: Any = array
    while isinstance(behind, np.ndarray) and not behind.flags.writeable:
        behind = behind.base
    if behind is None:
        return read_only(array)
    copied = np.array(array, order="C")
    copied.flags.writeable = False
    return copied


def float_type(dtype: object) -> type[np.floating[Any]]:
    """``"float64"`` or ``"float32"``, or the NumPy type of this name, as a NumPy type."""
    name = dtype
    if isinstance(dtype, (type, np.dtype)):
        name = np.dtype(dtype).name
    if name not in _DTYPES:
        raise ControlError(unknown_name("dtype", name, _DTYPES))
    return _DTYPES[str(name)]


def real_array(name: str, value: object, dtype: type[np.floating[Any]]) -> FloatArray:
    """A user's array as C-contiguous floats of `dtype`.

    Python numbers and lists may hold integers. Integer, boolean, complex and object arrays, mixed float types, NaN and
    infinities are refused.
    """
    return floats(name, value, dtype=dtype, error=ControlError)


def knots_array(value: object, dtype: type[np.floating[Any]]) -> Float64Array:
    """Knots as float64 (1, K), shared by all trajectories, or (B, K), one row per trajectory, strictly
    increasing.

    A control stored in float32 may have float32 knots; times are always computed in float64.
    """
    if dtype is np.float32 and isinstance(value, np.ndarray) and value.dtype == np.float32:
        value = value.astype(np.float64)
    knots = real_array("knots", value, np.float64).astype(np.float64, copy=False)
    if knots.ndim not in (1, 2):
        raise ControlError(
            f"knots: expected shape (K,) or (B, K), got {knots.shape}; give one row of times, or one row per trajectory"
        )
    if knots.shape[-1] < 2:
        raise ControlError(
            f"knots: axis {knots.ndim - 1} must have at least K=2 entries, got {knots.shape[-1]} "
            f"(shape {knots.shape}); use Constant(values) for a control without knots"
        )
    rows = np.atleast_2d(knots)
    bad = np.argwhere(~(np.diff(rows, axis=1) > 0))
    if bad.size:
        b, k = (int(i) for i in bad[0])
        what = "a repeated knot" if rows[b, k] == rows[b, k + 1] else "knots out of order"
        fix = (
            "remove the repeated knot; for a jump use PiecewiseConstant"
            if rows[b, k] == rows[b, k + 1]
            else "sort the knots and their values by time"
        )
        which = f" of trajectory {b}" if knots.ndim == 2 else ""
        raise ControlError(
            f"knots: must be strictly increasing, got {what}{which}: entry {k} is {float(rows[b, k])!r}, "
            f"entry {k + 1} is {float(rows[b, k + 1])!r}; {fix}"
        )
    return rows


def knot_values(
    name: str, value: object, rows: int, K: int, nu: int | None, dtype: type[np.floating[Any]]
) -> FloatArray:
    """Values at the knots as (B, K, nu).

    The rule for fewer axes: one axis is (K,); two axes are (B, K) when the last one has K entries and `nu` is
    not given or 1, else (K, nu). `rows` is the number of rows of the knots: 1, or B, which the values must
    then have too (values without a batch axis are repeated).
    """
    array = real_array(name, value, dtype)
    shape = array.shape
    if nu is not None and (not isinstance(nu, numbers.Integral) or nu < 1):
        raise ControlError(f"nu: expected a positive integer, got {nu!r}")
    if array.ndim == 1:
        check_shape(name, shape, (("K", K),), error=ControlError)
        array = array.reshape(1, K, 1)
    elif array.ndim == 2:
        if shape[1] == K and nu in (None, 1):
            array = array.reshape(shape[0], K, 1)
        elif shape[0] == K:
            array = array.reshape(1, K, shape[1])
        else:
            raise ControlError(
                f"{name}: two axes are (B, K={K}) when nu == 1 or (K={K}, nu), got shape {shape}: neither "
                f"axis {'1 nor axis 0' if nu in (None, 1) else '0'} has {K} entries, one per knot"
            )
    elif array.ndim != 3:
        raise ControlError(f"{name}: expected (B, K={K}, nu), (K={K}, nu), (B, K={K}) or (K={K},), got shape {shape}")
    last = "nu" if nu is None else ("nu", int(nu))
    check_shape(name, array.shape, ("B", ("K", K), last), error=ControlError)
    if array.shape[2] == 0:
        raise ControlError(
            f"{name}: axis 2 must have at least nu=1 entries, got shape {array.shape}; "
            "pass controls=None where the model has no control"
        )
    if rows != 1 and array.shape[0] == 1:
        array = np.repeat(array, rows, axis=0)
    if rows not in (1, array.shape[0]):
        raise ControlError(
            f"{name}: knots have B={rows} rows, {name} have B={array.shape[0]} (axis 0); "
            "give one row of values per row of knots, or shared knots of shape (K,)"
        )
    return array


def extrapolation_rules(value: object) -> tuple[str, str]:
    """One name for both ends, or a pair (left, right)."""
    pair = (value, value) if isinstance(value, str) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ControlError(
            f"extrapolation: expected a name or a pair (left, right) of names, got {value!r}; names: {', '.join(RULES)}"
        )
    for rule in pair:
        if not isinstance(rule, str) or rule not in RULES:
            raise ControlError(unknown_name("extrapolation", rule, RULES))
    return str(pair[0]), str(pair[1])


def times(value: object, n_trajectories: int) -> tuple[Float64Array, bool]:
    """Times as (1, m), or (B, m) with own times per trajectory, and whether a scalar came in."""
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        value = value.astype(np.float64)
    t = real_array("t", value, np.float64).astype(np.float64, copy=False)
    if t.ndim == 2 and n_trajectories not in (1, t.shape[0]) and t.shape[0] != 1:
        raise ControlError(
            f"t: axis 0 must have B={n_trajectories} entries, one row of times per trajectory, got shape {t.shape}"
        )
    if t.ndim > 2:
        raise ControlError(f"t: expected a number, (m,) or (B, m), got shape {t.shape}")
    return np.atleast_2d(t), t.ndim == 0


def span(t0: float, t1: float) -> tuple[float, float]:
    """Both ends of a time span, checked."""
    if not (np.isfinite(t0) and np.isfinite(t1) and t0 <= t1):
        raise ControlError(f"t0, t1: expected finite times with t0 <= t1, got {t0!r} and {t1!r}")
    return float(t0), float(t1)


def batch(name: str, value: object, shape: tuple[Any, ...], dtype: type[np.floating[Any]]) -> FloatArray:
    """A tangent or adjoint as floats of `dtype`, whatever its own float type."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ControlError(f"{name}: expected floats, got dtype {array.dtype}")
    check_shape(name, array.shape, shape, error=ControlError)
    return np.ascontiguousarray(array, dtype=dtype)


def finite_slopes(slopes: NDArray[Any]) -> NDArray[Any]:
    """The slopes, refused where differences of values over differences of knots left the range of floats."""
    check_finite("values: slopes at the knots", slopes, error=ControlError)
    return slopes
