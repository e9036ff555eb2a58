"""Initialisers: how the entries of one weight or bias are drawn.

An initialiser is called with ``(rng, shape)`` and returns an array; ``shape`` is ``(n_out, n_in)`` for a
weight and ``(n_out,)`` for a bias, which counts as ``n_in = 1``. Those of this module may be used as they
stand (``init.zeros``, ``init.glorot_uniform``) or called with their settings
(``init.glorot_uniform(gain=0.1)``). Any callable of the user with the same two arguments will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, overload

import numpy as np

from ..base.arrays import Float64Array, floats
from ..base.errors import ModelError, unknown_name

Shape: TypeAlias = tuple[int, ...]


class InitFunction(Protocol):
    """What a layout needs of an initialiser."""

    def __call__(self, rng: np.random.Generator, shape: Shape, /) -> Any: ...


@dataclass(frozen=True)
class Initializer:
    """A distribution with its settings; immutable.

    ``initializer(rng, shape)`` draws, ``initializer(setting, ...)`` or ``initializer(name=setting)`` returns
    one with other settings. A setting of None must be given before anything can be drawn.
    """

    name: str
    draw: Callable[..., Float64Array]
    settings: tuple[tuple[str, float | None], ...] = ()

    @overload
    def __call__(self, rng: np.random.Generator, shape: Shape, /) -> Float64Array: ...
    @overload
    def __call__(self, *args: float, **settings: float) -> Initializer: ...
    def __call__(self, *args: Any, **settings: Any) -> Float64Array | Initializer:
        if args and isinstance(args[0], np.random.Generator):
            return self._sample(*args, **settings)
        return self._with(args, settings)

    def _sample(self, rng: np.random.Generator, shape: Shape) -> Float64Array:
        missing = [key for key, value in self.settings if value is None]
        if missing:
            raise ModelError(f"init.{self.name}: needs {missing[0]}; write init.{self.name}({missing[0]}=...)")
        return self.draw(rng, tuple(shape), **dict(self.settings))

    def _with(self, args: tuple[float, ...], settings: dict[str, float]) -> Initializer:
        known = [key for key, _ in self.settings]
        if len(args) > len(known):
            raise ModelError(f"init.{self.name}: takes {len(known)} settings {tuple(known)}, got {len(args)}")
        given = dict(zip(known, args, strict=False))
        for key, value in settings.items():
            if key not in known:
                raise ModelError(unknown_name(f"init.{self.name}", key, known))
            if key in given:
                raise ModelError(f"init.{self.name}: {key} is given twice")
            given[key] = value
        for key, value in given.items():
            floats(f"init.{self.name}({key})", value, (), error=ModelError)
        merged = tuple((key, float(given[key]) if key in given else old) for key, old in self.settings)
        result = Initializer(self.name, self.draw, merged)
        _check_settings(result)
        return result

    def __repr__(self) -> str:
        inner = ", ".join(f"{key}={value:g}" for key, value in self.settings if value is not None)
        return f"init.{self.name}({inner})" if inner else f"init.{self.name}"


def _check_settings(initializer: Initializer) -> None:
    settings = dict(initializer.settings)
    low, high, std = settings.get("lo"), settings.get("hi"), settings.get("std")
    if low is not None and high is not None and low > high:
        raise ModelError(f"init.uniform: lo must not exceed hi, got lo={low:g}, hi={high:g}")
    if std is not None and std < 0:
        raise ModelError(f"init.normal: std must not be negative, got {std:g}")


def _fans(shape: Shape) -> tuple[int, int]:
    """(n_in, n_out) of a weight or bias."""
    return (shape[1] if len(shape) > 1 else 1), (shape[0] if shape else 1)


def _uniform(rng: np.random.Generator, shape: Shape, lo: float, hi: float) -> Float64Array:
    return rng.uniform(lo, hi, shape)


def _normal(rng: np.random.Generator, shape: Shape, std: float) -> Float64Array:
    return std * rng.standard_normal(shape)


def _constant(rng: np.random.Generator, shape: Shape, value: float) -> Float64Array:
    return np.full(shape, value)


def _zeros(rng: np.random.Generator, shape: Shape) -> Float64Array:
    return np.zeros(shape)


def _ones(rng: np.random.Generator, shape: Shape) -> Float64Array:
    return np.ones(shape)


def _glorot_uniform(rng: np.random.Generator, shape: Shape, gain: float) -> Float64Array:
    bound = gain * math.sqrt(6 / sum(_fans(shape)))
    return bound * rng.uniform(-1, 1, shape)


def _glorot_normal(rng: np.random.Generator, shape: Shape, gain: float) -> Float64Array:
    return _normal(rng, shape, gain * math.sqrt(2 / sum(_fans(shape))))


def _kaiming_uniform(rng: np.random.Generator, shape: Shape) -> Float64Array:
    bound = math.sqrt(6 / _fans(shape)[0])
    return rng.uniform(-bound, bound, shape)


def _kaiming_normal(rng: np.random.Generator, shape: Shape) -> Float64Array:
    return _normal(rng, shape, math.sqrt(2 / _fans(shape)[0]))


def _lecun_normal(rng: np.random.Generator, shape: Shape) -> Float64Array:
    return _normal(rng, shape, math.sqrt(1 / _fans(shape)[0]))


def _orthogonal(rng: np.random.Generator, shape: Shape, gain: float) -> Float64Array:
    n_in, n_out = _fans(shape)
    q, r = np.linalg.qr(rng.standard_normal((max(n_in, n_out), min(n_in, n_out))))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform (Mezzadri 2007, eq. 5.1)
    return gain * (q if n_out >= n_in else q.T).reshape(shape)


def _identity(rng: np.random.Generator, shape: Shape) -> Float64Array:
    n_in, n_out = _fans(shape)
    return np.eye(n_out, n_in).reshape(shape)


#: Uniform in +-gain sqrt(6 / (n_in + n_out)); Glorot and Bengio 2010, eq. 16.
glorot_uniform = Initializer("glorot_uniform", _glorot_uniform, (("gain", 1.0),))
#: Normal with standard deviation gain sqrt(2 / (n_in + n_out)).
glorot_normal = Initializer("glorot_normal", _glorot_normal, (("gain", 1.0),))
#: Uniform in +-sqrt(6 / n_in); He et al. 2015, for relu.
kaiming_uniform = Initializer("kaiming_uniform", _kaiming_uniform)
#: Normal with standard deviation sqrt(2 / n_in).
kaiming_normal = Initializer("kaiming_normal", _kaiming_normal)
#: Normal (not truncated) with standard deviation sqrt(1 / n_in); the choice for selu, Klambauer et al. 2017.
lecun_normal = Initializer("lecun_normal", _lecun_normal)
#: Orthonormal rows or columns, whichever are fewer, times gain; Saxe et al. 2013.
orthogonal = Initializer("orthogonal", _orthogonal, (("gain", 1.0),))
#: Uniform in [lo, hi), by default [0, 1).
uniform = Initializer("uniform", _uniform, (("lo", 0.0), ("hi", 1.0)))
#: Normal with mean 0 and standard deviation std, by default 1.
normal = Initializer("normal", _normal, (("std", 1.0),))
#: All entries equal to value.
constant = Initializer("constant", _constant, (("value", None),))
zeros = Initializer("zeros", _zeros)
ones = Initializer("ones", _ones)
#: Ones on the diagonal, zeros elsewhere.
identity = Initializer("identity", _identity)

__all__ = [
    "Initializer",
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "identity",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "normal",
    "ones",
    "orthogonal",
    "uniform",
    "zeros",
]


def __getattr__(name: str) -> Any:
    raise AttributeError(unknown_name("initialiser", name, __all__), name=name)
