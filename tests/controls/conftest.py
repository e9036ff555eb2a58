"""The table of control kinds with SciPy's own class as the truth; a new kind is one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.interpolate as si

from ctrlode_casadi.controls import (
    Akima,
    CubicHermite,
    CubicSpline,
    Pchip,
    PiecewiseConstant,
    PiecewiseLinear,
)


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[..., Any]  # (knots, values, extrapolation=...) -> control
    truth: Callable[..., Any]  # (knots (K,), values (K, nu)) -> SciPy interpolant
    closed: bool = False  # first and last value must be equal

    def values(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        v = rng.normal(size=shape)
        if self.closed:
            v[..., -1, :] = v[..., 0, :]
        return v


def _given_slopes(knots: Any, values: Any) -> np.ndarray:
    """Some slopes that depend on the shape only, so that control and truth agree on them."""
    shape = np.shape(values)
    return np.broadcast_to(np.sin(np.arange(shape[-2]))[:, None], shape).astype(np.asarray(values).dtype)


def _spline(bc: Any, closed: bool = False) -> Case:
    name = bc if isinstance(bc, str) else "-".join(bc)
    return Case(
        f"spline-{name}",
        lambda k, v, extrapolation="error", **o: CubicSpline(k, v, bc, extrapolation, **o),
        lambda k, v: si.CubicSpline(k, v, bc_type=bc, extrapolate=True),
        closed,
    )


CASES = [
    Case(
        "constant-left",
        lambda k, v, extrapolation="error", **o: PiecewiseConstant(k, v, "left", extrapolation, **o),
        lambda k, v: si.interp1d(k, v, kind="previous", axis=0),
    ),
    Case(
        "constant-right",
        lambda k, v, extrapolation="error", **o: PiecewiseConstant(k, v, "right", extrapolation, **o),
        lambda k, v: si.interp1d(k, v, kind="next", axis=0),
    ),
    Case("linear", PiecewiseLinear, lambda k, v: si.make_interp_spline(k, v, k=1)),
    Case(
        "hermite",
        lambda k, v, extrapolation="error", **o: CubicHermite(k, v, _given_slopes(k, v), extrapolation, **o),
        lambda k, v: si.CubicHermiteSpline(k, v, _given_slopes(k, v)),
    ),
    Case("pchip", Pchip, si.PchipInterpolator),
    Case("akima", Akima, lambda k, v: si.Akima1DInterpolator(k, v, extrapolate=True)),
    _spline("not-a-knot"),
    _spline("natural"),
    _spline("clamped"),
    _spline("periodic", closed=True),
    _spline(("clamped", "natural")),
    _spline(("natural", "not-a-knot")),
]


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(params=[c for c in CASES if not c.name.startswith("constant")], ids=lambda c: c.name)
def continuous_case(request: pytest.FixtureRequest) -> Case:
    """The kinds without jumps at the knots."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def random_knots() -> Callable[..., np.ndarray]:
    """Increasing knots (..., K) with distances between 0.2 and 1.2."""

    def make(rng: np.random.Generator, *shape: int) -> np.ndarray:
        return np.cumsum(rng.uniform(0.2, 1.2, size=shape), axis=-1) - 1.0

    return make
