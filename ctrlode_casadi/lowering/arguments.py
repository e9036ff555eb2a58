"""Arguments of compiled functions: shared by the batch or one per row, in the shapes that `compile` promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
from numpy.typing import NDArray

from ..base.arrays import floats
from ..base.errors import DataError

Array = NDArray[Any]


@dataclass(frozen=True)
class Shape:
    """Nonzeros and shape of an input or output; ``matrix`` where a dense matrix may stand for its entries."""

    n: int
    rows: int
    columns: int
    matrix: bool

    @classmethod
    def of(cls, s: ca.Sparsity) -> Shape:
        """Shape of a sparsity pattern."""
        return cls(s.nnz(), s.size1(), s.size2(), s.is_dense() and s.size1() > 1 and s.size2() > 1)


@dataclass(frozen=True)
class Argument:
    """One argument: its entries as (n,) or (B, n), and the shape that it came in."""

    values: Array
    shape: tuple[int, ...]

    @property
    def batch(self) -> int | None:
        """B, None for an argument that the whole batch shares."""
        return self.values.shape[0] if self.values.ndim == 2 else None

    def like_given(self, values: Array, of: Shape) -> Array:
        """Entries (n,) or (B, n) in the shape of the argument."""
        if of.matrix and self.shape[-2:] == (of.rows, of.columns):
            return values.reshape(*self.shape[:-2], of.columns, of.rows).swapaxes(-1, -2)
        return values.reshape(self.shape)


def checked_argument(name: str, value: object, of: Shape, dtype: Any) -> Argument:
    """Check one argument; the rules are those of `compile`."""
    a = floats(name, value, dtype=dtype, finite=False)
    n, rows, columns, shape = of.n, of.rows, of.columns, a.shape
    if shape == (n,) or (n == 1 and shape == ()):
        return Argument(a.reshape(n), shape)
    if a.ndim == 2 and shape[1] == n:
        return Argument(a, shape)
    if n == 1 and a.ndim == 1:
        return Argument(a[:, None], shape)
    if of.matrix and shape[-2:] == (rows, columns) and a.ndim in (2, 3):
        return Argument(a.swapaxes(-1, -2).reshape(*shape[:-2], n), shape)
    if a.ndim in (2, 3) and shape[-1] == 1 and shape[-2] == n:
        return Argument(a.reshape(shape[:-1]), shape)
    also = f", ({rows}, {columns}) or (B, {rows}, {columns})" if of.matrix else ""
    order = " nonzeros in column-major order" if rows > 1 and columns > 1 else ""
    raise DataError(
        f"{name}: expected shape ({n},) for a value that the whole batch shares, or (B, {n}) for one per row{also} "
        f"({n}{order}), got shape {shape}; reshape it, or transpose it if the batch came last"
    )


def batch_size(names: Sequence[str], arguments: Sequence[Argument]) -> int | None:
    """The common B; None if every argument is shared."""
    first: tuple[str, int] | None = None
    for name, a in zip(names, arguments, strict=True):
        if a.batch is None:
            continue
        if first is not None and a.batch != first[1]:
            raise DataError(
                f"{name}: all batched arrays must have equally many rows, got {a.batch} rows where {first[0]} has "
                f"{first[1]}; pass a value that all rows share without the batch axis"
            )
        first = first or (name, a.batch)
    return None if first is None else first[1]
