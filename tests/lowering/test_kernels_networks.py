"""Lane kernels of networks: activations, wide layers, lane counts, float types, independence of the lanes."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.base.errors import UnsupportedOperation
from ctrlode_casadi.lowering.kernels import lane_kernels, registers_for
from lowering.cases import ACTIVATIONS, OPERATIONS, dense_net, function, matrix
from lowering.compare import W, aligned, call, check_kernels


def small(rng: np.random.Generator, i: int, shape: tuple[int, ...]) -> Any:
    """Inputs of order one, weights of order 0.2 (the fourth input)."""
    return rng.standard_normal(shape) * (0.2 if i == 3 else 1.0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    check_kernels(dense_net([3, 6, 5, 2], activation, activation), draw=small)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_lane_count(dtype: str) -> None:
    width = 64 // np.dtype(dtype).itemsize
    net = dense_net([3, 10, 10, 10, 2], "selu", "origin")
    batches = (1, width - 1, width, width + 1, 4 * width + 3)
    check_kernels(net, registers=(0, 1, 2, 4), dtype=dtype, draw=small, batches=batches)


@pytest.mark.parametrize(
    ("sizes", "registers", "dtype"),
    [
        ((12, 64, 64, 10), 4, "float64"),
        ((5, 65, 70, 3), 2, "float64"),
        ((8, 7, 33, 2), 1, "float64"),
        ((4, 64, 65, 1), 1, "float32"),
        ((3, 130, 31, 2), 2, "float32"),
    ],
)
def test_wide_layers(sizes: tuple[int, ...], registers: int, dtype: str) -> None:
    check_kernels(dense_net(sizes, "tanh", "wide"), registers=[registers, 0], dtype=dtype, draw=small)


@pytest.mark.parametrize("name", ["sx_physics", "matrix_state", "softmax", "solve", "odd_gather", "norms"])
def test_float32(name: str) -> None:
    check_kernels(OPERATIONS[name](), dtype="float32", registers=[2], batches=(1, 17, 33))


def test_hybrid_model() -> None:
    """A network correction of known physics, composed with a second network that sees the first one's output."""

    def rhs(x: ca.MX, u: ca.MX, p: ca.MX) -> ca.MX:
        z = ca.vertcat(x, u)
        first = matrix(p, 21, 2, 7) @ ca.tanh(matrix(p, 0, 7, 3) @ z)
        second = ca.dot(p[35:38], ca.tanh(ca.vertcat(first, u)))
        return ca.vertcat(x[1], -ca.exp(p[38]) * ca.sin(x[0]) - second) + first / (1 + ca.sumsqr(x))

    check_kernels(function("hybrid", rhs, [2, 1], 39), registers=(0, 1, 4))


def test_lanes_do_not_mix() -> None:
    """A lane that is not finite leaves every other lane untouched, bit for bit."""
    f = OPERATIONS["softmax"]()
    k = lane_kernels(f, "p", lanes=W)
    rng = np.random.default_rng(3)
    x, p, uni = aligned((5, W)), aligned((5,)), aligned((k.n_uni,))
    x[...], p[...] = rng.standard_normal(x.shape), rng.standard_normal(p.shape)
    call(k.prologue, [p], [uni])
    clean, dirty = aligned((5, W)), aligned((5, W))
    call(k.value, [x, uni], [clean])
    x[:, 2], x[0, 5] = np.nan, np.inf
    call(k.value, [x, uni], [dirty])
    others = [i for i in range(W) if i not in (2, 5)]
    np.testing.assert_array_equal(clean[:, others], dirty[:, others])
    assert np.isnan(dirty[:, 2]).all()


def test_results_do_not_depend_on_the_lane() -> None:
    k = lane_kernels(OPERATIONS["sx_physics"](), "p", lanes=2 * W)
    x, u, p, uni = aligned((2, 2 * W)), aligned((1, 2 * W)), aligned((4,)), aligned((k.n_uni,))
    x[...], u[...], p[...] = np.array([[0.3], [-0.7]]), 0.2, [0.5, 1.0, 1.5, 2.0]
    call(k.prologue, [p], [uni])
    outs = [aligned((n, 2 * W)) for n in (2, 1, 1)]
    call(k.value, [x, u, uni], outs)
    for y in outs:
        np.testing.assert_array_equal(y, np.repeat(y[:, :1], 2 * W, axis=1))


@pytest.mark.parametrize("lanes", [0, -W, W + 1, W // 2])
def test_lanes_must_be_a_multiple_of_the_width(lanes: int) -> None:
    with pytest.raises(UnsupportedOperation, match=f"multiple of {W}.*got {lanes}"):
        lane_kernels(OPERATIONS["dot"](), "p", lanes=lanes)


def test_registers_follow_the_batch() -> None:
    assert registers_for(1, W) == 1
    assert registers_for(W, W) == 1
    assert registers_for(1000 * W, W) > 1
    assert all(1 <= registers_for(b, W) <= 4 for b in range(200))
