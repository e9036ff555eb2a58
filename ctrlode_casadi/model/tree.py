"""The named view of a flat parameter vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..base.errors import ModelError, UnknownName, unknown_name


class ParameterTree(Mapping[str, Any]):
    """One level of a parameter vector: names to arrays, CasADi symbols or further levels.

    Entries are read by attribute or key, ``tree.ode`` or ``tree["ode"]``, layers of a network by number,
    ``tree.ode[0].weight``. ``flat`` is the part of the vector that the level covers; a network takes it or
    the tree itself as its parameters. Over an ndarray everything is a view: writing into
    ``tree.ode[0].weight[...]`` changes the vector.
    """

    __slots__ = ("_entries", "flat")

    def __init__(self, flat: Any, entries: Mapping[str, Any]) -> None:
        object.__setattr__(self, "flat", flat)
        object.__setattr__(self, "_entries", dict(entries))

    def __getitem__(self, key: str | int) -> Any:
        name = str(key)
        if name not in self._entries:
            raise UnknownName(unknown_name("parameters", name, self._entries))
        return self._entries[name]

    def __contains__(self, key: object) -> bool:
        return str(key) in self._entries

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ParameterTree.__slots__:
            raise AttributeError(name)
        if name not in self._entries:
            raise UnknownName(unknown_name("parameters", name, self._entries))
        return self._entries[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise ModelError(
            f"parameters: the names of a tree are fixed, got an assignment to {name!r}; write into the "
            f"array, "
            f"tree.{name}[...] = value, or build a vector with layout.flatten"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._entries]

    def __reduce__(self) -> tuple[Any, ...]:
        return ParameterTree, (self.flat, self._entries)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = np.asarray(self.flat, dtype=dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        return f"ParameterTree({', '.join(f'{k}={v!r}' for k, v in self._entries.items())})"
