"""Initialisers: bounds, moments, orthogonality, settings."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from ctrlode_casadi.base import ModelError
from ctrlode_casadi.model import init

SHAPE = (120, 80)


def draw(initializer: Any, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return initializer(np.random.default_rng(seed), shape)


@pytest.mark.parametrize(
    ("initializer", "bound"),
    [
        (init.glorot_uniform, math.sqrt(6 / 200)),
        (init.glorot_uniform(gain=0.1), 0.1 * math.sqrt(6 / 200)),
        (init.kaiming_uniform, math.sqrt(6 / 80)),
        (init.kaiming_uniform(), math.sqrt(6 / 80)),
        (init.uniform(-0.5, 0.5), 0.5),
    ],
)
def test_uniform_bounds(initializer: init.Initializer, bound: float) -> None:
    w = draw(initializer)
    assert w.shape == SHAPE
    assert np.abs(w).max() <= bound and np.abs(w).max() > 0.999 * bound
    assert w.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    ("initializer", "std"),
    [
        (init.glorot_normal, math.sqrt(2 / 200)),
        (init.glorot_normal(2), 2 * math.sqrt(2 / 200)),
        (init.kaiming_normal, math.sqrt(2 / 80)),
        (init.lecun_normal, math.sqrt(1 / 80)),
        (init.normal(0.3), 0.3),
        (init.normal, 1.0),
    ],
)
def test_normal_moments(initializer: init.Initializer, std: float) -> None:
    w = draw(initializer)
    assert w.std() == pytest.approx(std, rel=0.03) and abs(w.mean()) < 0.05 * std


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6,)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    w = draw(init.orthogonal(gain=2.0), shape).reshape(shape[0], -1) / 2
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-14)


def test_fixed_values() -> None:
    np.testing.assert_array_equal(draw(init.zeros), np.zeros(SHAPE))
    np.testing.assert_array_equal(draw(init.ones()), np.ones(SHAPE))
    np.testing.assert_array_equal(draw(init.constant(2.5)), np.full(SHAPE, 2.5))
    np.testing.assert_array_equal(draw(init.identity, (3, 2)), np.eye(3, 2))


def test_every_initializer_is_reproducible_and_serves_biases() -> None:
    for name in init.__all__:
        if name == "Initializer":
            continue
        initializer = getattr(init, name)
        initializer = initializer(1.0) if name == "constant" else initializer
        np.testing.assert_array_equal(draw(initializer), draw(initializer))
        assert draw(initializer, (4,)).shape == (4,)
        assert pickle.loads(pickle.dumps(initializer)) == initializer == initializer()


def test_repr_and_equality() -> None:
    assert repr(init.uniform(-1, hi=2)) == "init.uniform(lo=-1, hi=2)"
    assert init.glorot_uniform(0.1) == init.glorot_uniform(gain=0.1) != init.glorot_uniform


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: init.glorot_uniform(gian=1), "did you mean 'gain'"),
        (lambda: init.zeros(1.0), "takes 0 settings"),
        (lambda: init.uniform(1, 0), "lo must not exceed hi"),
        (lambda: init.normal(-1), "std must not be negative"),
        (lambda: init.normal(float("nan")), "finite"),
        (lambda: init.normal("a"), "array of floats"),
        (lambda: init.uniform(1, lo=0), "given twice"),
        (lambda: draw(init.constant), "needs value"),
    ],
)
def test_misuse(build: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()
