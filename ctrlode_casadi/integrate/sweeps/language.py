"""The language of the compiled sweeps: a small typed subset of Python, and its primitive operations.

A function decorated with `sweep` is translated to LLVM by `translate`, for float64 or float32 states, and never runs
in Python. It may use: annotated parameters and results of the types below, local variables (typed by their first
assignment), arithmetic, comparisons, ``and``, ``or``, ``not``, conditional expressions, ``if``, ``while``, ``for`` over
``range`` or over a literal tuple, reading and writing entries of pointers, ``min max abs int``, ``math.sqrt``,
``math.ceil``, ``math.isfinite``, module-level integer constants, other sweep functions, and the primitives below.

Why not Numba: with Numba 0.68 the same functions took 25 s of processor time to compile on first use, most of it spent
on linking and optimising every function again into each of its callers; this way it is one LLVM module and 1-2 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Int: TypeAlias = int
Bool: TypeAlias = bool
#: Double precision always: times, steps, norms, losses.
Float: TypeAlias = float
#: The type of the states: double or single.
Real: TypeAlias = float
#: Pointers to entries of these types.
Ints: TypeAlias = list[int]
Floats: TypeAlias = list[float]
Reals: TypeAlias = list[float]


class SweepFunction:
    """A function of the sweeps' language; calls exist for type checkers only."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    def __call__(self, *args: Any) -> Any:
        """Refuse: the function exists in compiled form only."""
        raise TypeError(f"{self.__name__} belongs to the compiled sweeps and cannot be called from Python")


def sweep(function: Callable[..., Any]) -> SweepFunction:
    """Mark a function as part of the compiled sweeps."""
    return SweepFunction(function)


class Primitive(SweepFunction):
    """An operation that `translate` emits itself; the body only states its types."""


def _primitive(function: Callable[..., Any]) -> Primitive:
    return Primitive(function)


@_primitive
def ints(address: Int) -> Ints:
    """Pointer to int64 entries."""
    raise NotImplementedError


@_primitive
def doubles(address: Int) -> Floats:
    """Pointer to float64 entries."""
    raise NotImplementedError


@_primitive
def reals(address: Int) -> Reals:
    """Pointer to entries of the states' type."""
    raise NotImplementedError


@_primitive
def call_kernel(address: Int, inputs: Int, outputs: Int) -> None:
    """Call the kernel ``void(T **in, T **out)`` at `address`."""


@_primitive
def next_ticket(address: Int) -> Int:
    """Fetch and increment the shared counter at `address`, atomically."""
    raise NotImplementedError


@_primitive
def poll(address: Int) -> Int:
    """Read a flag that another thread may set."""
    raise NotImplementedError


@_primitive
def multiply_add(a: Real, b: Real, c: Real) -> Real:
    """a * b + c, rounded as in the vector loops (a lane's result must not depend on which of the two runs)."""
    raise NotImplementedError


# Vector loops over n entries. Arrays are 64-byte aligned and padded to whole registers, so that the loops run over full
# registers without remainder and without aliasing checks; entries of the padding are computed and never read.


@_primitive
def fill(y: Int, value: Real, n: Int) -> None:
    """y = value."""


@_primitive
def copy(y: Int, x: Int, n: Int) -> None:
    """y = x."""


@_primitive
def add(y: Int, x: Int, n: Int) -> None:
    """y += x."""


@_primitive
def multiply(y: Int, x: Int, n: Int) -> None:
    """y *= x."""


@_primitive
def horner(y: Int, s: Int, c: Int, n: Int) -> None:
    """y = y * s + c."""


@_primitive
def combine(y: Int, x: Int, h: Int, k: Int, stride: Int, cols: Int, vals: Int, count: Int, n: Int) -> None:
    """y = x + h * sum_z vals[z] * k[cols[z]], entry by entry; k has rows of `stride` bytes."""


@_primitive
def weigh(y: Int, h: Int, k: Int, stride: Int, cols: Int, vals: Int, count: Int, n: Int) -> None:
    """y = h * sum_z vals[z] * k[cols[z]], entry by entry."""


# Linear algebra across lanes: row r of an array is its r-th group of `lanes` entries, one entry for each lane.


@_primitive
def factor(w: Int, pivots: Int, least: Int, n: Int, lanes: Int) -> None:
    """LU factors of w [n][n] in place, with row exchanges; `least` gets the smallest pivot, NaN if not finite."""


@_primitive
def solve(w: Int, pivots: Int, x: Int, rows: Int, n: Int, lanes: Int) -> None:
    """Solve W y = x with the factors; y replaces x, whose n entries are the listed rows."""


@_primitive
def solve_transposed(w: Int, pivots: Int, x: Int, rows: Int, n: Int, lanes: Int) -> None:
    """Solve W^T y = x with the factors; y replaces x, whose n entries are the listed rows."""


@_primitive
def sparse_add(y: Int, h: Int, a: Int, x: Int, places: Int, count: Int, lanes: Int) -> None:
    """y[i] += h[0] a[j] x[k], row by row, for `count` triples (i, j, k)."""
