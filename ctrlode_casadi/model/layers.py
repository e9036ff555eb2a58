"""Dense layers and chains of layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca

from ..base.errors import ModelError
from . import init
from .activations import Activation, ActivationFunction, find_activation
from .init import InitFunction
from .layout import Leaf, ParameterLayout
from .network import Network, size, trace
from .storing import Copied, check_initializer, stored_function


@dataclass(frozen=True)
class Dense(Copied, Network):
    """Fully connected layer, ``activation(W z + b)``.

    Parameters
    ----------
    n_in, n_out
        Sizes of input and output.
    activation
        Name in `activations` or a callable of one CasADi expression that works entry by entry; "identity" by
        default.
    weight_init, bias_init
        Initialisers; Glorot-uniform weights and zero biases by default.
    bias
        Whether there is a bias; True by default.

    Notes
    -----
    Parameters: ``weight`` (n_out, n_in) row by row, then ``bias`` (n_out,). The cost is n_out n_in
    multiply-adds. A layer can be pickled, with a lambda as activation too: its expressions are stored. A lambda as
    initialiser is refused then.
    """

    n_in: int
    n_out: int
    activation: str | ActivationFunction = "identity"
    weight_init: InitFunction = init.glorot_uniform
    bias_init: InitFunction = init.zeros
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("n_in", "n_out"):
            object.__setattr__(self, name, size(f"Dense: {name}", getattr(self, name)))
        for name in ("weight_init", "bias_init"):
            if not callable(getattr(self, name)):
                raise ModelError(
                    f"Dense: {name} must be an initialiser such as init.zeros or a callable (rng, shape) -> "
                    f"array, "
                    f"got {getattr(self, name)!r}"
                )
        if not isinstance(self.bias, bool):
            raise ModelError(f"Dense: bias must be True or False, got {self.bias!r}; biases are set by bias_init")
        function = find_activation(self.activation)
        if isinstance(function, Activation):
            object.__setattr__(self, "activation", function.name)
        else:
            trace("activation", function, self.n_out, self.n_out)

    @cached_property
    def layout(self) -> ParameterLayout:
        """``weight`` (n_out, n_in), then ``bias`` (n_out,) if there is one."""
        weight = Leaf((self.n_out, self.n_in), self.weight_init)
        return ParameterLayout(
            {"weight": weight} | ({"bias": Leaf((self.n_out,), self.bias_init)} if self.bias else {})
        )

    def _apply(self, z: Any, p: Any) -> Any:
        n = self.n_out * self.n_in
        weight = ca.reshape(p[:n] if self.bias else p, self.n_in, self.n_out).T
        out = ca.mtimes(weight, z)
        return find_activation(self.activation)(out + p[n:] if self.bias else out)

    def __reduce__(self) -> tuple[Any, ...]:
        activation, n = self.activation, self.n_out
        if not isinstance(activation, str):
            function = activation
            activation = stored_function(
                f"Dense({self.n_in}, {n})", "activation", function, lambda: trace("activation", function, n, n)
            )
        for name in ("weight_init", "bias_init"):
            check_initializer(f"Dense({self.n_in}, {n})", name, getattr(self, name))
        return type(self), (self.n_in, n, activation, self.weight_init, self.bias_init, self.bias)

    def __repr__(self) -> str:
        activation = "" if self.activation == "identity" else f", {self.activation!r}"
        return f"Dense({self.n_in}, {self.n_out}{activation}{'' if self.bias else ', bias=False'})"


@dataclass(frozen=True, init=False)
class Chain(Network):
    """Layers one after the other.

    Parameters
    ----------
    *layers
        At least one layer or network; the output of each must fit the input of the next.

    Notes
    -----
    The layers' parameters follow each other; in the layout they are named "0", "1", ...

    Examples
    --------
    >>> net = Chain(Dense(3, 10, "selu"), Dense(10, 2))
    >>> net.n_params
    62
    """

    layers: tuple[Network, ...]

    def __init__(self, *layers: Network) -> None:
        check_layers("Chain", layers)
        for i in range(1, len(layers)):
            if layers[i].n_in != layers[i - 1].n_out:
                raise ModelError(
                    f"Chain: layer {i}, {layers[i]!r}, takes {layers[i].n_in} entries, but layer {i - 1}, "
                    f"{layers[i - 1]!r}, gives {layers[i - 1].n_out}"
                )
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "n_in", layers[0].n_in)
        object.__setattr__(self, "n_out", layers[-1].n_out)

    @cached_property
    def layout(self) -> ParameterLayout:
        """The layers' layouts under "0", "1", ..."""
        return numbered_layout(self.layers)

    def _apply(self, z: Any, p: Any) -> Any:
        for layer, part in zip(self.layers, split(self.layers, p), strict=True):
            z = layer._apply(z, part)
        return z

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.layers))})"


def check_layers(name: str, layers: tuple[Any, ...]) -> None:
    """Refuse an empty list of layers and anything that is not a network."""
    if not layers:
        raise ModelError(f"{name}: needs at least one layer")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Network):
            hint = f"; unpack it, {name}(*layers)" if isinstance(layer, (list, tuple)) else ""
            hint = hint or ("; wrap it in Lambda(fn, n_in, n_out)" if callable(layer) else "")
            raise ModelError(f"{name}: layer {i} must be a layer or network, got {type(layer).__name__}{hint}")


def numbered_layout(layers: tuple[Network, ...]) -> ParameterLayout:
    """Layouts of several layers one after the other."""
    return ParameterLayout({str(i): layer.layout for i, layer in enumerate(layers)})


def split(layers: tuple[Network, ...], p: Any) -> list[Any]:
    """Each layer's part of the parameters; a part that is all of p is p itself."""
    parts, start = [], 0
    for layer in layers:
        n = layer.n_params
        parts.append(p if n == p.shape[0] else p[start : start + n])
        start += n
    return parts
