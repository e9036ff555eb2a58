"""Layers that combine, normalise or compute a fixed expression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import floats
from ..base.errors import ModelError, unknown_name
from .layers import check_layers, numbered_layout, split
from .layout import ParameterLayout
from .network import Network, column, size, trace
from .storing import Copied, stored_function

_CONNECTIONS = ("+", "cat")
_NO_PARAMETERS = ParameterLayout()


def _check_connection(name: str, connection: str) -> None:
    if connection not in _CONNECTIONS:
        raise ModelError(unknown_name(f"{name}: connection", connection, _CONNECTIONS))


@dataclass(frozen=True)
class Skip(Network):
    """A layer with its input carried past it.

    Parameters
    ----------
    layer
        Any layer or network.
    connection
        "+" (default): ``z + layer(z)``, for which the layer's output must be as long as its input; "cat": the
        input, then the layer's output, ``[z; layer(z)]``.
    """

    layer: Network
    connection: str = "+"

    def __post_init__(self) -> None:
        check_layers("Skip", (self.layer,))
        _check_connection("Skip", self.connection)
        if self.connection == "+" and self.layer.n_in != self.layer.n_out:
            raise ModelError(
                f"Skip: connection '+' needs n_in == n_out, got {self.layer!r} with n_in="
                f"{self.layer.n_in}, n_out={self.layer.n_out}; use connection='cat'"
            )
        object.__setattr__(self, "n_in", self.layer.n_in)
        object.__setattr__(self, "n_out", self.layer.n_out + (self.layer.n_in if self.connection == "cat" else 0))

    @cached_property
    def layout(self) -> ParameterLayout:
        """The layer's own layout."""
        return self.layer.layout

    def _apply(self, z: Any, p: Any) -> Any:
        out = self.layer._apply(z, p)
        return z + out if self.connection == "+" else ca.vertcat(z, out)


@dataclass(frozen=True, init=False)
class Parallel(Network):
    """Layers side by side, all with the same input.

    Parameters
    ----------
    *layers
        At least one layer or network, all with the same n_in.
    connection
        "cat" (default): outputs one after the other; "+": their sum, for which all n_out must be equal.
    """

    layers: tuple[Network, ...]
    connection: str

    def __init__(self, *layers: Network, connection: str = "cat") -> None:
        check_layers("Parallel", layers)
        _check_connection("Parallel", connection)
        inputs, outputs = [layer.n_in for layer in layers], [layer.n_out for layer in layers]
        if len(set(inputs)) > 1:
            raise ModelError(f"Parallel: all layers get the same input and must have the same n_in, got {inputs}")
        if connection == "+" and len(set(outputs)) > 1:
            raise ModelError(f"Parallel: connection '+' needs equal n_out, got {outputs}; use connection='cat'")
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "connection", connection)
        object.__setattr__(self, "n_in", inputs[0])
        object.__setattr__(self, "n_out", sum(outputs) if connection == "cat" else outputs[0])

    @cached_property
    def layout(self) -> ParameterLayout:
        """The layers' layouts under "0", "1", ..."""
        return numbered_layout(self.layers)

    def _apply(self, z: Any, p: Any) -> Any:
        outs = [layer._apply(z, part) for layer, part in zip(self.layers, split(self.layers, p), strict=True)]
        if self.connection == "cat":
            return ca.vertcat(*outs)
        total = outs[0]
        for out in outs[1:]:
            total = total + out
        return total

    def __repr__(self) -> str:
        tail = "" if self.connection == "cat" else f", connection={self.connection!r}"
        return f"Parallel({', '.join(map(repr, self.layers))}{tail})"


@dataclass(frozen=True, init=False)
class Scale(Network):
    """Fixed normalisation ``(z - mean) / std``; no parameters.

    Parameters
    ----------
    mean, std
        Vectors (n,), or one a number. ``std`` must be positive.
    inverse
        True for the way back, ``mean + std * z``; False by default.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    inverse: bool

    def __init__(self, mean: Any, std: Any, inverse: bool = False) -> None:
        m, s = (
            np.atleast_1d(floats(f"Scale: {name}", value, error=ModelError))
            for name, value in (("mean", mean), ("std", std))
        )
        if m.ndim > 1 or s.ndim > 1 or (m.size != s.size and 1 not in (m.size, s.size)) or 0 in (m.size, s.size):
            raise ModelError(f"Scale: mean and std must be vectors of the same length, got shapes {m.shape}, {s.shape}")
        if (s <= 0).any():
            i = int(np.argmax(s <= 0))
            raise ModelError(f"Scale: std must be positive, got std[{i}]={s[i]:g}; use 1 for an entry that is constant")
        n = max(m.size, s.size)
        object.__setattr__(self, "mean", tuple(np.broadcast_to(m, n).tolist()))
        object.__setattr__(self, "std", tuple(np.broadcast_to(s, n).tolist()))
        object.__setattr__(self, "inverse", bool(inverse))
        object.__setattr__(self, "n_in", n)
        object.__setattr__(self, "n_out", n)

    @property
    def layout(self) -> ParameterLayout:
        """Empty."""
        return _NO_PARAMETERS

    def _apply(self, z: Any, p: Any) -> Any:
        mean, std = ca.DM(self.mean), ca.DM(self.std)
        return mean + std * z if self.inverse else (z - mean) * (1 / std)


@dataclass(frozen=True)
class Lambda(Copied, Network):
    """A fixed CasADi expression as a layer; no parameters.

    Parameters
    ----------
    fn
        Function of one CasADi column of n_in entries; returns n_out expressions, as a vector, list or tuple. With a
        lambda the layer can be pickled, too: its expressions are stored.
    n_in, n_out
        Sizes of input and output.
    """

    fn: Callable[[Any], Any]
    n_in: int
    n_out: int

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ModelError(f"Lambda: fn must be callable, got {type(self.fn).__name__}")
        for name in ("n_in", "n_out"):
            object.__setattr__(self, name, size(f"Lambda: {name}", getattr(self, name)))
        self._traced.name()  # builds it, and so checks fn

    @property
    def layout(self) -> ParameterLayout:
        """Empty."""
        return _NO_PARAMETERS

    def __reduce__(self) -> tuple[Any, ...]:
        fn = stored_function(f"Lambda(fn, {self.n_in}, {self.n_out})", "fn", self.fn, lambda: self._traced)
        return type(self), (fn, self.n_in, self.n_out)

    @cached_property
    def _traced(self) -> ca.Function:
        return trace("Lambda: fn", self.fn, self.n_in, self.n_out)

    def _apply(self, z: Any, p: Any) -> Any:
        return column("Lambda: fn", self.fn(z), self.n_out) if isinstance(z, ca.MX) else self._traced(z)
