"""Where named parameters live in one flat vector."""

from __future__ import annotations

import math
import numbers
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, floats, from_dm
from ..base.errors import CtrlodeError, DataError, ModelError, unknown_name
from .init import InitFunction, zeros
from .storing import Copied, check_initializer
from .tree import ParameterTree

_NAME = re.compile(r"[A-Za-z]\w*|\d+")
#: Names that a block may not have: methods of the tree, and the arguments of `ParameterLayout.init`.
_RESERVED = frozenset({"flat", "get", "items", "keys", "seed", "self", "values"})

Seed: TypeAlias = int | np.random.Generator | None


class Parametrized(ABC):
    """Anything that owns a block of parameters and says how they are laid out, such as a network."""

    @property
    @abstractmethod
    def layout(self) -> ParameterLayout:
        """Names, shapes and initialisers of the parameters."""


@dataclass(frozen=True)
class Leaf:
    """One array of parameters: a number (), a vector (n,) or a matrix (rows, columns), stored row by row."""

    shape: tuple[int, ...]
    init: InitFunction = zeros

    @property
    def n(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def draw(self, rng: np.random.Generator, where: str) -> Float64Array:
        """Initial values as an array of this shape."""
        values = np.asarray(self.init(rng, self.shape), dtype=np.float64)
        floats(f"initial values of {where}", values, self.shape, error=ModelError)
        return values


Block: TypeAlias = "Leaf | ParameterLayout"
BlockLike: TypeAlias = "int | tuple[int, ...] | Parametrized | Leaf | ParameterLayout | Mapping[str, Any]"


def _leaf_shape(name: str, value: Any) -> tuple[int, ...]:
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    for size in sizes:
        if not isinstance(size, numbers.Integral) or isinstance(size, bool) or size < 1:
            raise ModelError(f"ParameterLayout: sizes of block {name!r} must be positive integers, got {value!r}")
    if len(sizes) > 2:
        raise ModelError(f"ParameterLayout: block {name!r} may have at most two axes, got shape {value!r}")
    return () if sizes is not value and value == 1 else tuple(int(size) for size in sizes)


def _as_block(name: str, value: Any) -> Block:
    """What a user wrote for one block, as a leaf or a layout."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise ModelError(
            f"ParameterLayout: a block name must be an identifier that starts with a letter and is none "
            f"of {', '.join(sorted(_RESERVED))}; got {name!r}"
        )
    if isinstance(value, (Leaf, ParameterLayout)):
        return value
    if isinstance(value, Parametrized):
        return value.layout
    if isinstance(value, Mapping):
        return ParameterLayout(value)
    if isinstance(value, (numbers.Integral, tuple, list)) and not isinstance(value, bool):
        return Leaf(_leaf_shape(name, value))
    raise ModelError(
        f"ParameterLayout: block {name!r} must be a size, a shape, a network, a layout or a dict of such, "
        f"got {type(value).__name__}"
    )


class ParameterLayout(Copied):
    """Named blocks of one flat parameter vector, in the order given.

    Parameters
    ----------
    blocks
        Mapping from names to blocks; may be left out.
    **named
        Further blocks by keyword. A block is 1 (one number), n (a vector), a shape (a vector or a matrix,
        stored row by row), a network, another layout or a dict of blocks.

    Raises
    ------
    ModelError
        For a name that cannot be an attribute, a repeated name, a size that is not a positive integer.

    Examples
    --------
    >>> layout = ParameterLayout(mass=1, K=(2, 3))
    >>> layout.n, layout.slice("K")
    (7, slice(1, 7, None))
    >>> layout.unflatten(np.arange(7.0)).K[1, 0]
    np.float64(4.0)
    """

    __slots__ = ("_blocks", "_slices", "n")

    n: int
    _blocks: dict[str, Block]
    _slices: dict[str, slice]

    def __init__(self, blocks: Mapping[str, BlockLike] | None = None, /, **named: BlockLike) -> None:
        table: dict[str, Block] = {}
        slices: dict[str, slice] = {}
        start = 0
        for name, value in [*(blocks or {}).items(), *named.items()]:
            if name in table:
                raise ModelError(f"ParameterLayout: block {name!r} is given twice")
            table[name] = _as_block(name, value)
            slices[name] = slice(start, start + table[name].n)
            start = slices[name].stop
        object.__setattr__(self, "n", start)
        object.__setattr__(self, "_blocks", table)
        object.__setattr__(self, "_slices", slices)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a ParameterLayout is immutable; build a new one")

    def __reduce__(self) -> tuple[Any, ...]:
        for path, leaf in self._leaves():
            check_initializer(f"ParameterLayout: block {path!r}", "its initialiser", leaf.init)
        return ParameterLayout, (self._blocks,)

    def _leaves(self) -> Iterator[tuple[str, Leaf]]:
        """All leaves with their dotted names."""
        for name, block in self._blocks.items():
            if isinstance(block, Leaf):
                yield name, block
            else:
                yield from ((f"{name}.{path}", leaf) for path, leaf in block._leaves())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterLayout) and list(self._blocks.items()) == list(other._blocks.items())

    def __hash__(self) -> int:
        return hash(tuple(self._blocks.items()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, name: object) -> bool:
        return name in self._blocks

    def __repr__(self) -> str:
        parts = [
            f"{name}[{'x'.join(map(str, block.shape)) or '1'}]" if isinstance(block, Leaf) else f"{name}[{block.n}]"
            for name, block in self._blocks.items()
        ]
        return f"ParameterLayout(n={self.n}: {', '.join(parts)})" if parts else "ParameterLayout(n=0)"

    def block(self, name: str | int) -> Block:
        """The leaf or nested layout of a name; a dotted name descends, as in ``"ode.0.weight"``."""
        head, _, rest = str(name).partition(".")
        if head not in self._blocks:
            raise ModelError(unknown_name("parameter block", head, self._blocks))
        block = self._blocks[head]
        if not rest:
            return block
        if isinstance(block, Leaf):
            raise ModelError(f"parameter block: {head!r} has no inner blocks, got {name!r}")
        return block.block(rest)

    def slice(self, name: str | int) -> slice:
        """Where a block, given by its (dotted) name, lies in the flat vector.

        Raises
        ------
        ModelError
            For an unknown name, with the nearest known one.
        """
        head, _, rest = str(name).partition(".")
        block = self.block(head)
        outer = self._slices[head]
        if not rest:
            return outer
        if isinstance(block, Leaf):
            raise ModelError(f"parameter block: {head!r} has no inner blocks, got {name!r}")
        inner = block.slice(rest)
        return slice(outer.start + inner.start, outer.start + inner.stop)

    def names(self) -> list[str]:
        """One readable name per entry of the flat vector, such as ``"ode.0.weight[3,1]"``."""
        result: list[str] = []
        for name, block in self._blocks.items():
            if isinstance(block, ParameterLayout):
                result += [f"{name}.{inner}" for inner in block.names()]
            elif block.shape:
                result += [f"{name}[{','.join(map(str, i))}]" for i in product(*map(range, block.shape))]
            else:
                result.append(name)
        return result

    def check(self, p: Any, name: str = "p") -> Any:
        """A parameter vector of this layout's length: a float array, or a CasADi column, unchanged where
        possible.

        Raises
        ------
        DataError
            For numbers of a wrong type or shape.
        ModelError
            For an expression of a wrong shape.
        """
        if isinstance(p, ParameterTree):
            p = p.flat
        elif isinstance(p, Mapping):
            p = self.flatten(p)
        symbolic = isinstance(p, (ca.SX, ca.MX, ca.DM))
        if not symbolic:
            dtype = np.float32 if isinstance(p, np.ndarray) and p.dtype == np.float32 else np.float64
            p = floats(name, p, finite=False, dtype=dtype)
        if tuple(p.shape) != ((self.n, 1) if symbolic else (self.n,)):
            error: type[CtrlodeError] = ModelError if symbolic else DataError
            raise error(
                f"{name}: expected a vector of np={self.n} parameters, got shape {tuple(p.shape)}; "
                f"the layout is {self!r}"
            )
        return p

    def unflatten(self, p: Any) -> ParameterTree:
        """Nested mapping with attribute access: ndarray views for an array, CasADi expressions for SX, MX or
        DM.

        A matrix over MX is a pure view, a transposed reshape of a slice of p, which compiled code reads in
        place.
        """
        return self._tree(self.check(p))

    def _tree(self, p: Any) -> ParameterTree:
        entries: dict[str, Any] = {}
        for name, block in self._blocks.items():
            part = p if block.n == self.n else p[self._slices[name]]
            if isinstance(block, ParameterLayout):
                entries[name] = block._tree(part)
            elif isinstance(part, np.ndarray):
                entries[name] = part.reshape(block.shape)
            elif len(block.shape) == 2:
                entries[name] = ca.reshape(part, block.shape[1], block.shape[0]).T
            else:
                entries[name] = part
        return ParameterTree(p, entries)

    def flatten(self, tree: Mapping[str, Any]) -> Any:
        """The inverse of `unflatten`: an ndarray, or a CasADi column when an entry is SX or MX.

        Nested levels may be mappings or flat vectors.

        Raises
        ------
        ModelError
            For missing or unknown names, or an entry of a wrong shape.
        """
        parts = self._flat_parts(tree, "")
        if any(isinstance(part, (ca.SX, ca.MX)) for part in parts):
            columns: Any = [part if isinstance(part, (ca.SX, ca.MX)) else ca.DM(part) for part in parts]
            return ca.vertcat(*columns)
        return np.concatenate([np.zeros(0), *parts])

    def _flat_parts(self, tree: Mapping[str, Any], prefix: str) -> list[Any]:
        for name in tree:
            if name not in self._blocks:
                raise ModelError(unknown_name(f"parameters{prefix and ' of ' + prefix[:-1]}", name, self._blocks))
        parts: list[Any] = []
        for name, block in self._blocks.items():
            where = prefix + name
            if name not in tree:
                raise ModelError(f"parameters: block {where!r} is missing; the layout is {self!r}")
            value = tree[name]
            if isinstance(block, ParameterLayout) and isinstance(value, Mapping):
                parts += block._flat_parts(value, where + ".")
            elif isinstance(block, ParameterLayout):
                parts.append(block.check(value, where))
            else:
                parts.append(_flat_leaf(where, block, value))
        return parts

    def init(self, seed: Seed = 0, **overrides: Any) -> Float64Array:
        """Initial parameters as one flat vector.

        Parameters
        ----------
        seed
            Integer, `numpy.random.Generator`, or None for fresh randomness. Each block draws from a stream of
            its own, so that an override or a block added at the end leaves the others as they were.
        **overrides
            Values for blocks by name: a number (fills the block), an array of the block's shape, an
            initialiser, or a mapping for a nested block. Blocks that are not drawn by a network's initialiser
            start at zero.
        """
        for name in overrides:
            if name not in self._blocks:
                raise ModelError(unknown_name("parameter block", name, self._blocks))
        try:
            streams = np.random.default_rng(seed).spawn(len(self._blocks))
        except (TypeError, ValueError) as exc:
            raise ModelError(f"seed: expected a non-negative integer, a Generator or None, got {seed!r}") from exc
        parts = [
            _initial(name, block, rng, overrides.get(name))
            for rng, (name, block) in zip(streams, self._blocks.items(), strict=True)
        ]
        return np.concatenate([np.zeros(0), *parts])


def _flat_leaf(where: str, leaf: Leaf, value: Any) -> Any:
    """One array or expression, row by row."""
    if isinstance(value, (ca.SX, ca.MX)):
        rows, columns = (*leaf.shape, 1, 1)[:2]
        if value.shape != (rows, columns):
            raise ModelError(f"parameters: {where!r} must have shape {(rows, columns)}, got {value.shape}")
        return ca.vec(value.T) if columns > 1 else value
    if isinstance(value, ca.DM):
        value = from_dm(value)
    array = floats(where, value, finite=False, error=ModelError)
    if array.shape != leaf.shape and not (leaf.n == array.size == 1):
        raise ModelError(f"parameters: {where!r} must have shape {leaf.shape}, got {array.shape}")
    return array.ravel()


def _initial(where: str, block: Block, rng: np.random.Generator, override: Any) -> Float64Array:
    """Flat initial values of one block; an `override` replaces the block's own initialiser."""
    if isinstance(block, ParameterLayout):
        if override is None or isinstance(override, Mapping):
            return block.init(rng, **{str(key): value for key, value in (override or {}).items()})
        return np.asarray(block.check(override, where), dtype=np.float64)
    if override is None:
        return block.draw(rng, where).ravel()
    if callable(override):
        return Leaf(block.shape, override).draw(rng, where).ravel()
    values = np.asarray(floats(f"init({where}=...)", override, error=ModelError), dtype=np.float64)
    if values.ndim and values.shape != block.shape:
        raise ModelError(f"init: {where!r} must be a number or have shape {block.shape}, got {values.shape}")
    return np.broadcast_to(values, block.shape).ravel()
