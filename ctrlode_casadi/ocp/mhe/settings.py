"""Settings of a moving-horizon estimator: noise, prior, bounds and estimated parameters, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...base.arrays import Float64Array, floats
from ...base.errors import DataError
from ...model.ode import ControlledODE
from .. import checks
from ..groups import IntArray
from .filter import Gaussian


def covariance(name: str, value: Any, n: int, semi: bool = False) -> Float64Array:
    """A covariance (n, n) from standard deviations, a number or (n,), or from itself.

    Raises
    ------
    DataError
        For a wrong shape, or one that is not symmetric and positive (semi-)definite.
    """
    array = np.asarray(floats(name, value), dtype=np.float64)
    if array.shape in ((), (n,)):
        deviations = np.broadcast_to(array, (n,))
        if np.any(deviations < 0) or (not semi and np.any(deviations == 0)):
            rule = "non-negative" if semi else "positive"
            raise DataError(f"{name}: standard deviations must be {rule}, got {value!r}")
        return np.diag(deviations**2)
    if array.shape != (n, n):
        raise DataError(
            f"{name}: expected standard deviations, a number or ({n},), or a covariance ({n}, {n}), got {array.shape}"
        )
    lowest, largest = np.linalg.eigvalsh(0.5 * (array + array.T))[[0, -1]]
    if not np.allclose(array, array.T) or lowest < (-1e-12 * largest if semi else 1e-14 * largest) or largest < 0:
        raise DataError(f"{name}: a covariance must be symmetric and positive definite, lowest eigenvalue {lowest:.3g}")
    return array


def spread(matrix: Float64Array) -> Float64Array:
    """L with L L' the covariance, without columns of zeros."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-14 * max(float(values.max(initial=0.0)), 1e-300)
    if np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0:
        (which,) = np.nonzero(np.diag(matrix) > 0)
        return np.sqrt(matrix)[:, which]
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def parameters(model: ControlledODE, p: Any) -> Float64Array:
    """All parameters (np,), finite."""
    if p is None and model.np:
        raise DataError(f"p: the model has np={model.np} parameters; pass p=")
    values = np.zeros(0) if p is None else np.array(model.layout.check(p), dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("p: all parameters must be finite")
    return values


def estimated(model: ControlledODE, estimate: Sequence[str] | str) -> IntArray:
    """Indices of the estimated parameters, increasing."""
    if estimate == "all":
        return np.arange(model.np)
    names = (estimate,) if isinstance(estimate, str) else tuple(estimate)
    ranges = [np.arange(model.np)[model.layout.slice(name)] for name in names]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *ranges]))


def prior(x0: Float64Array, theta: Float64Array, x0_noise: Any, p_noise: Any) -> Gaussian:
    """What is known of the state and the estimated parameters before the first measurement."""
    n, m = x0.size, theta.size
    matrix = np.zeros((n + m, n + m))
    matrix[:n, :n] = covariance("x0_noise", x0_noise, n)
    if m:
        if p_noise is None:
            raise DataError("p_noise: give the standard deviations of the guess of the estimated parameters")
        matrix[n:, n:] = covariance("p_noise", p_noise, m)
    return Gaussian(np.concatenate([x0, theta]), matrix)


def bound_pair(name: str, value: Any, names: list[str]) -> tuple[Float64Array, Float64Array]:
    """A pair (lb, ub) as two arrays."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise DataError(f"{name}: expected a pair (lb, ub), got {value!r}")
    return checks.bounds(name, value[0], value[1], len(names), names)
