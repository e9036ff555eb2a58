"""The array boundary: checks of user arrays, and every conversion between NumPy and CasADi.

Shapes are written with the letters of the documentation: ``("B", ("nx", 2))`` is any number of trajectories
times two states. A message says which axis is wrong.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, TypeAlias

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from .errors import CtrlodeError, DataError

FloatArray: TypeAlias = NDArray[np.floating[Any]]
Float64Array: TypeAlias = NDArray[np.float64]
#: One axis of an expected shape: a size, a letter for any size, a (letter, size) pair, or None for any size.
Axis: TypeAlias = int | str | tuple[str, int] | None


def address(array: NDArray[Any] | None) -> int:
    """Address of an array's data, 0 for none (`ctypes.data` takes three times as long)."""
    return 0 if array is None else array.__array_interface__["data"][0]


def _axis_size(axis: Axis) -> int | None:
    """Required size of an axis, None when any size will do."""
    if isinstance(axis, tuple):
        return axis[1]
    return axis if isinstance(axis, int) else None


def _axis_text(axis: Axis) -> str:
    if isinstance(axis, tuple):
        return f"{axis[0]}={axis[1]}"
    return "any" if axis is None else str(axis)


def shape_text(shape: Sequence[Axis]) -> str:
    """Shape with its letters, as it appears in messages.

    >>> shape_text(("B", ("nx", 2)))
    '(B, nx=2)'
    """
    inner = ", ".join(_axis_text(a) for a in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def check_shape(name: str, got: Sequence[int], shape: Sequence[Axis], *, error: type[CtrlodeError] = DataError) -> None:
    """Raise `error` unless `got` fits `shape`; the message names the axis. Equal letters must have equal
    sizes.
    """
    expected = shape_text(shape)
    if len(got) != len(shape):
        raise error(f"{name}: expected {len(shape)} axes {expected}, got {len(got)} axes, shape {tuple(got)}")
    letters: dict[str, int] = {}
    for i, (n, axis) in enumerate(zip(got, shape, strict=True)):
        want = _axis_size(axis)
        if want is None and isinstance(axis, str):
            want = letters.setdefault(axis, n)
        if want is not None and n != want:
            raise error(
                f"{name}: expected shape {expected}, got {tuple(got)}: axis {i} must have {want} entries, it has {n}"
            )


def _as_array(name: str, value: object, error: type[CtrlodeError]) -> tuple[NDArray[Any], bool]:
    """The value as an array, and whether its type was chosen by the user (not a Python literal)."""
    if isinstance(value, (ca.SX, ca.MX)):
        raise error(f"{name}: expected numbers, got a symbolic CasADi expression ({type(value).__name__})")
    if isinstance(value, ca.DM):
        return from_dm(value), True
    if value is None or isinstance(value, (str, bytes)):
        raise error(f"{name}: expected an array of floats, got {value!r}")
    literal = isinstance(value, (list, tuple, range, numbers.Real))
    try:
        return np.asarray(value), not literal
    except (ValueError, TypeError) as exc:
        raise error(
            f"{name}: expected an array of floats, got {type(value).__name__} with rows of unequal length "
            f"or entries that are not numbers ({exc})"
        ) from exc


def _unmasked(name: str, value: Any, missing: bool, error: type[CtrlodeError]) -> Any:
    """The value; masked entries become NaN where entries may be missing, else NumPy would use what is under the mask.

    Masked entries elsewhere, of arrays in lists too, are refused.
    """
    parts = value if isinstance(value, (list, tuple)) else (value,)
    # the type first: `numpy.ma` is loaded by those who use it, nobody else pays for the import
    own = (part for part in parts if isinstance(part, np.ndarray) and type(part) is not np.ndarray)
    masked = next((part for part in own if np.ma.is_masked(part)), None)
    if masked is None:
        return value
    if missing and masked is value and value.dtype.kind == "f":
        return np.ma.filled(value, np.nan)
    raise error(
        f"{name}: masked arrays are not used, got one with {int(np.ma.count_masked(masked))} masked entries; mark "
        "missing data with NaN, value.filled(np.nan), or leave the entries out, value.compressed()"
    )


def floats(
    name: str,
    value: object,
    shape: Sequence[Axis] | None = None,
    *,
    dtype: type[np.floating[Any]] | np.dtype[Any] = np.float64,
    finite: bool | str = True,
    error: type[CtrlodeError] = DataError,
) -> FloatArray:
    """Check a user's array and return it as a C-contiguous float array.

    Parameters
    ----------
    name
        Argument name for the message.
    value
        Array-like. Python numbers and lists may hold integers; an array with an integer, boolean, complex or
        object type, or with the other float type, is refused, since a silent copy would hide a mistake. A DM
        column, as CasADi's solvers return it, counts as (n,).
    shape
        Expected shape, one `Axis` per axis; None skips the check.
    dtype
        ``numpy.float64`` (default) or ``numpy.float32``.
    finite
        True refuses NaN and infinities, ``"nan"`` lets NaN pass (missing data), False lets everything pass. Masked
        entries are refused, but for ``"nan"``, which takes them as NaN.
    error
        Class to raise, `DataError` by default.

    Returns
    -------
    ndarray
        The array itself when nothing had to change, else a copy.
    """
    array, typed = _as_array(name, _unmasked(name, value, finite == "nan", error), error)
    want = np.dtype(dtype)
    if array.size == 0 and not typed:
        array = array.astype(want)
    if array.dtype.kind not in ("f" if typed else "fiu"):
        raise error(
            f"{name}: expected an array of {want.name}, got dtype {array.dtype}; "
            f"convert it with np.asarray(..., dtype=np.{want.name})"
        )
    if typed and array.dtype != want:
        raise error(
            f"{name}: expected dtype {want.name}, got {array.dtype}: float types must not be mixed; "
            f"convert with .astype(np.{want.name}) or ask for dtype={array.dtype.name!r} where it is offered"
        )
    if shape is not None:
        check_shape(name, array.shape, shape, error=error)
    array = np.asarray(array, dtype=want, order="C")
    if finite is not False:
        check_finite(name, array, allow_nan=finite == "nan", error=error)
    return array


def check_finite(
    name: str, array: NDArray[Any], *, allow_nan: bool = False, error: type[CtrlodeError] = DataError
) -> None:
    """Raise `error` where `array` holds an infinity, or a NaN unless `allow_nan`; the message gives the first
    index.
    """
    bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f"at index {first if len(first) != 1 else first[0]}" if first else "as its value"
        raise error(
            f"{name}: all entries must be finite{' or NaN' if allow_nan else ''}, got "
            f"{array[first]} {where} ({int(bad.sum())} of {array.size} entries)"
        )


def dense(value: ca.DM) -> Float64Array:
    """A DM as a dense array of shape (rows, columns)."""
    return np.ascontiguousarray(value.full(), dtype=np.float64)


def from_dm(value: ca.DM) -> Float64Array:
    """A DM as an array: a column becomes (n,), a matrix (rows, columns)."""
    full = dense(value)
    return full[:, 0] if full.shape[1] == 1 else full


def to_dm(array: NDArray[Any] | Sequence[float] | float) -> ca.DM:
    """A number, vector (a column) or matrix as a dense DM."""
    return ca.DM(np.asarray(array, dtype=np.float64))


def vec(array: NDArray[Any]) -> Float64Array:
    """Entries of a vector or matrix in CasADi's column-major order, contiguous."""
    return np.asarray(array, dtype=np.float64).ravel(order="F")


def call(f: ca.Function, *arrays: NDArray[Any] | Sequence[float] | float) -> tuple[Float64Array, ...]:
    """Evaluate a `casadi.Function` on arrays through its buffers, without element-wise copies.

    Each input is a number, a vector or a matrix with as many entries as the Function's input (dense inputs go
    in as they are; for a sparse input only the entries of its pattern are taken). An output with one column
    comes back as (n,), any other as (rows, columns). Thread-safe for functions without internal solver state.

    Raises
    ------
    DataError
        If the number of inputs or the number of entries of one of them is wrong.
    """
    if len(arrays) != f.n_in():
        raise DataError(f"{f.name()}: expected {f.n_in()} inputs {tuple(f.name_in())}, got {len(arrays)}")
    buffer: Any  # the stubs of 3.8.2 ask for a size that set_arg and set_res do not take
    buffer, evaluate = f.buffer()
    keep: list[Float64Array] = []
    for i, array in enumerate(arrays):
        flat = vec(np.asarray(array))
        if flat.size != f.numel_in(i):
            raise DataError(
                f"{f.name()}: input {f.name_in(i)!r} must have {f.numel_in(i)} entries "
                f"{f.size_in(i)}, got shape {np.shape(array)}"
            )
        if not f.sparsity_in(i).is_dense():
            flat = np.ascontiguousarray(flat[f.sparsity_in(i).find()])
        keep.append(flat)
        buffer.set_arg(i, flat.data)
    results = [np.zeros(f.nnz_out(i)) for i in range(f.n_out())]
    for i, result in enumerate(results):
        buffer.set_res(i, result.data)
    evaluate()
    return tuple(_unpack(f, i, result) for i, result in enumerate(results))


def call_rows(f: ca.Function, rows: NDArray[Any], *shared: NDArray[Any]) -> Float64Array:
    """Evaluate ``f(z, *shared)`` for each row z of an (N, n) array; the first output comes back as (N, m).

    The rows enter as the columns of one mapped call, in place, while the other inputs are shared by all rows.
    """
    n = rows.shape[0]
    if n == 0:
        return np.zeros((0, f.numel_out(0)))
    mapped = f.map(n, [False] + [True] * len(shared))
    out = call(mapped, rows.T, *shared)[0]
    return out.reshape((f.numel_out(0), n)).T.copy()


def _unpack(f: ca.Function, i: int, nonzeros: Float64Array) -> Float64Array:
    """Output i of `f` from its nonzeros."""
    rows, columns = f.size_out(i)
    if not f.sparsity_out(i).is_dense():
        flat = np.zeros(rows * columns)
        flat[f.sparsity_out(i).find()] = nonzeros
        nonzeros = flat
    return nonzeros if columns == 1 else np.ascontiguousarray(nonzeros.reshape((rows, columns), order="F"))
