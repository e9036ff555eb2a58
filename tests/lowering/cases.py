"""Functions that the kernel tests run: one table row per construct, each a CasADi function of varying inputs and p."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import numpy as np


def function(name: str, expression: Callable[..., Any], sizes: Sequence[int], n_p: int) -> ca.Function:
    """``name(x0, x1, ..., p)`` of column vectors with as many outputs as the expression returns."""
    xs = [ca.MX.sym(f"x{i}", n) for i, n in enumerate(sizes)]
    p = ca.MX.sym("p", n_p)
    out = expression(*xs, p)
    out = list(out) if isinstance(out, (list, tuple)) else [out]
    names = [f"x{i}" for i in range(len(xs))] + ["p"]
    return ca.Function(name, [*xs, p], [ca.MX(o) for o in out], names, [f"y{j}" for j in range(len(out))])


def matrix(p: ca.MX, first: int, rows: int, columns: int) -> ca.MX:
    """A weight matrix stored row by row, as networks store it."""
    return ca.reshape(p[first : first + rows * columns], columns, rows).T


def selu(x: ca.MX) -> ca.MX:
    """Scaled exponential unit."""
    n = ca.if_else(x > 0, 0, x)
    return 1.0507009873554805 * (x - n + 1.6732632423543772 * ca.expm1(n))


def elu(x: ca.MX) -> ca.MX:
    """Exponential linear unit."""
    n = ca.if_else(x > 0, 0, x)
    return x - n + ca.expm1(n)


def softplus(x: ca.MX) -> ca.MX:
    """log(1 + exp(x)) without overflow."""
    return ca.fmax(x, 0) + ca.log1p(ca.exp(-ca.fabs(x)))


ACTIVATIONS: dict[str, Callable[[ca.MX], ca.MX]] = {
    "identity": lambda x: x,
    "tanh": ca.tanh,
    "sigmoid": lambda x: 1 / (1 + ca.exp(-x)),
    "relu": lambda x: ca.if_else(x > 0, x, 0),
    "leaky_relu": lambda x: ca.if_else(x > 0, x, 0.01 * x),
    "elu": elu,
    "selu": selu,
    "gelu": lambda x: 0.5 * x * (1 + ca.erf(x / np.sqrt(2))),
    "silu": lambda x: x / (1 + ca.exp(-x)),
    "softplus": softplus,
    "mish": lambda x: x * ca.tanh(softplus(x)),
    "softsign": lambda x: x / (1 + ca.fabs(x)),
    "hard_tanh": lambda x: ca.if_else(x > 1, 1, ca.if_else(x < -1, -1, x)),
    "sin": ca.sin,
    "cos": ca.cos,
    "exp": ca.exp,
    "square": lambda x: x**2,
}


def dense_net(sizes: Sequence[int], activation: str, name: str = "net") -> ca.Function:
    """``net(t, x, u, p) -> xdot`` with dense layers; the last of the inputs is u."""
    t, u = ca.MX.sym("t"), ca.MX.sym("u", 1)
    x = ca.MX.sym("x", sizes[0] - 1)
    pairs = list(itertools.pairwise(sizes))
    p = ca.MX.sym("p", sum(i * o + o for i, o in pairs))
    z, first = ca.vertcat(x, u), 0
    for layer, (i, o) in enumerate(pairs):
        z = matrix(p, first, o, i) @ z + p[first + i * o : first + i * o + o]
        first += i * o + o
        if layer < len(pairs) - 1:
            z = ACTIVATIONS[activation](z)
    return ca.Function(name, [t, x, u, p], [z], ["t", "x", "u", "p"], ["xdot"])


def physics() -> ca.Function:
    """An SX function of two tanks with a valve."""
    x, u, k = ca.SX.sym("x", 2), ca.SX.sym("u"), ca.SX.sym("k", 3)
    level = ca.sqrt(ca.fabs(x) + 0.1)
    rate = ca.vertcat(-k[0] * level[0] + k[1] * u, k[0] * level[0] - k[2] * level[1])
    return ca.Function("tanks", [x, u, k], [rate, ca.dot(x, x)])


def _mapped() -> ca.Function:
    x, k = ca.MX.sym("x", 2), ca.MX.sym("k", 2)
    return ca.Function("one", [x, k], [ca.vertcat(ca.sin(x[0]) * k[0], x[1] * x[0] + k[1])])


def _spring() -> ca.Function:
    x, k = ca.MX.sym("x", 2), ca.MX.sym("k")
    return ca.Function("step", [x, k], [x + 0.1 * ca.vertcat(x[1], -k * ca.sin(x[0]))])


def _switch() -> ca.Function:
    x = ca.SX.sym("x", 2)
    return ca.Function.conditional(
        "pick",
        [ca.Function("a", [x], [ca.sin(x)]), ca.Function("b", [x], [x * x[0]])],
        ca.Function("c", [x], [ca.cos(x) + 2]),
    )


def _sparse_weights(x: ca.MX, p: ca.MX) -> ca.MX:
    pattern = ca.Sparsity.triplet(4, 3, [0, 1, 3, 3, 2], [0, 1, 0, 2, 2])
    return ca.MX(pattern, p[:5]) @ x


Case = Callable[[], ca.Function]

#: Operations, calls and uniform subexpressions.
OPERATIONS: dict[str, Case] = {
    "sx_physics": lambda: function("sx_physics", lambda x, u, p: [*physics()(x, u, p[:3]), p[3] * x[0]], [2, 1], 4),
    "map": lambda: function("mapped", lambda x, p: _mapped().map(3)(ca.reshape(x, 2, 3), ca.repmat(p, 1, 3)), [6], 2),
    "map_shared": lambda: function(
        "map_shared", lambda x, p: _mapped().map(3, [False, True])(ca.reshape(x, 2, 3), p), [6], 2
    ),
    "map_sum": lambda: function(
        "map_sum",
        lambda x, p: _mapped().map(3, [False, True], [True])(ca.reshape(x, 2, 3), p),
        [6],
        2,
    ),
    "mapaccum": lambda: function("accum", lambda x, u, p: _spring().mapaccum(4)(x, u * p[0]), [2, 4], 1),
    "switch": lambda: function("switch", lambda x, p: _switch()(x[0] * 2, x[1:] * p), [3], 2),
    "matrix_product": lambda: function(
        "both_vary", lambda x, y, p: ca.reshape(x, 3, 4) @ ca.reshape(y, 4, 2) * p[0], [12, 8], 1
    ),
    "long_inner_product": lambda: function(
        "long", lambda x, y, p: ca.reshape(x, 2, 12) @ ca.reshape(y, 12, 3) + p[0], [24, 36], 1
    ),
    "varying_matrix_uniform_vector": lambda: function(
        "row_times", lambda x, p: ca.reshape(x, 4, 5) @ p + ca.reshape(x, 5, 4).T @ p, [20], 5
    ),
    "matrix_state": lambda: function(
        "matrix_state", lambda x, p: ca.tanh(ca.reshape(p, 4, 4) @ ca.reshape(x, 4, 3)), [12], 16
    ),
    "sandwich": lambda: function(
        "sandwich", lambda x, p: ca.reshape(p, 3, 3).T @ ca.reshape(x, 3, 3) @ ca.reshape(p, 3, 3), [9], 9
    ),
    "sums": lambda: function(
        "sums",
        lambda x, p: [ca.sum1(x * p), ca.sum2(ca.reshape(x, 2, 3)), ca.sum1(ca.reshape(x, 2, 3)), ca.sum1(ca.sum2(x))],
        [6],
        6,
    ),
    "norms": lambda: function(
        "norms",
        lambda x, p: [ca.norm_1(x), ca.norm_2(x * p), ca.norm_inf(x), ca.norm_fro(ca.reshape(x, 2, 3)), ca.sumsqr(x)],
        [6],
        6,
    ),
    "logsumexp": lambda: function("lse", lambda x, p: [ca.logsumexp(x), x * ca.logsumexp(p)], [5], 3),
    "softmax": lambda: function("softmax", lambda x, p: ca.exp(x - ca.logsumexp(x)) * p, [5], 5),
    "extremes": lambda: function("extremes", lambda x, p: [ca.mmax(x * p), ca.mmin(x), ca.fmax(x, p)], [5], 5),
    "dot": lambda: function("dot", lambda x, y, p: [ca.dot(x, y), ca.dot(x, p), ca.dot(p, p) * x[0]], [5, 5], 5),
    "bilin": lambda: function(
        "bilin", lambda x, y, p: ca.bilin(ca.reshape(p, 3, 4), x, y) + ca.bilin(x @ y.T, p[:3], p[:4]), [3, 4], 12
    ),
    "rank1": lambda: function("rank1", lambda x, y, p: ca.rank1(ca.reshape(p[:6], 2, 3), p[6], x, y), [2, 3], 7),
    "outer": lambda: function("outer", lambda x, y, p: ca.vec(x @ y.T) * p[0], [3, 4], 1),
    "kron": lambda: function("kron", lambda x, p: ca.kron(ca.reshape(x, 2, 2), ca.reshape(p, 2, 3)) @ p, [4], 6),
    "solve": lambda: function("solve", lambda x, p: ca.solve(ca.reshape(p, 3, 3) + 5 * ca.DM.eye(3), x), [3], 9),
    "solve_varying": lambda: function(
        "solve_varying", lambda x, p: ca.solve(ca.reshape(x, 3, 3) + 5 * ca.DM.eye(3), p), [9], 3
    ),
    "det_inverse": lambda: function(
        "det_inverse",
        lambda x, p: [
            ca.det(ca.reshape(x, 3, 3) + 4 * ca.DM.eye(3)),
            ca.inv(ca.reshape(p, 2, 2) + 4 * ca.DM.eye(2)) @ x[:2],
        ],
        [9],
        4,
    ),
    "odd_gather": lambda: function("odd_gather", lambda x, p: x[[4, 0, 0, 3, 1]] * p[[1, 1, 0, 2, 0]], [5], 3),
    "reversed": lambda: function("reversed", lambda x, p: ca.tanh(x[::-1]) + p[::-2], [5], 10),
    "scatter": lambda: function("scatter", lambda x, p: _assigned(x, p), [5], 4),
    "long_scatter": lambda: function("long_scatter", lambda x, p: _permuted(x) * p, [90], 90),
    "triangular": lambda: function(
        "triangular", lambda x, p: ca.tril(ca.reshape(p, 4, 4)) @ x + ca.triu(ca.reshape(p, 4, 4)).T @ x, [4], 16
    ),
    "sparse_weights": lambda: function("sparse_weights", _sparse_weights, [3], 5),
    "diagonal": lambda: function("diagonal", lambda x, p: ca.diag(p) @ x + ca.diag(ca.reshape(x @ p.T, 4, 4)), [4], 4),
    "repmat": lambda: function("repmat", lambda x, p: ca.repmat(x, 3, 1) * p, [2], 6),
    "repmat_columns": lambda: function("repmat_columns", lambda x, p: ca.repmat(x, 1, 3) @ p, [4], 3),
    "if_else": lambda: function("if_else", lambda x, p: ca.if_else(x[0] > p[0], x * p[1], ca.sin(x)), [3], 2),
    "broadcast": lambda: function(
        "broadcast", lambda x, p: [x[0] * p, p[0] * x, x[0] + p[1] * ca.MX.ones(7), x * 2 + 1], [3], 4
    ),
    "uniform_softplus": lambda: function(
        "uniform_softplus", lambda x, p: softplus(p[0]) * x + ca.sqrt(1 + ca.dot(p, p)), [3], 2
    ),
    "normalised_weights": lambda: function(
        "normalised", lambda x, p: (ca.reshape(p, 4, 3) / ca.norm_fro(p)) @ x, [3], 12
    ),
    "squared_weights": lambda: function(
        "squared", lambda x, p: (ca.reshape(p, 3, 3) @ ca.reshape(p, 3, 3)) @ x, [3], 9
    ),
    "skew_weights": lambda: function("skew", lambda x, p: (ca.reshape(p, 3, 3) - ca.reshape(p, 3, 3).T) @ x, [3], 9),
    "tied_weights": lambda: function(
        "tied", lambda x, p: ca.reshape(p, 5, 3).T @ ca.tanh(ca.reshape(p, 5, 3) @ x), [3], 15
    ),
    "vector_parameters": lambda: function("vector", lambda x, p: ca.sin(x * p) + p**2, [4], 4),
    "uniform_output": lambda: function("uniform_output", lambda x, p: [x * p[0], ca.exp(p), p], [2], 3),
    "affine_of_p": lambda: function("affine", lambda x, p: [2 * p + x, p[::-1] - x], [3], 3),
}


def _assigned(x: ca.MX, p: ca.MX) -> ca.MX:
    y = ca.MX(x)
    y[[0, 3]] = p[:2] * x[1]
    y[2] += ca.sin(x[0]) * p[3]
    y[1:3] = y[1:3] + p[2]
    return y


def _permuted(x: ca.MX) -> ca.MX:
    order = [int(i) for i in np.random.default_rng(5).permutation(90)]
    y = ca.MX.zeros(90)
    y[order] = ca.sin(x)
    return y + x[order]


#: Degenerate shapes and outputs.
EDGES: dict[str, Case] = {
    "constant_output": lambda: function("constant", lambda x, p: [ca.DM([1, 2, 3]), x * p, ca.DM.zeros(2)], [2], 2),
    "unused_inputs": lambda: function("unused", lambda x, y, p: x * 2, [3, 2], 4),
    "nothing_used": lambda: function("nothing", lambda x, p: ca.DM([1.5]), [3], 4),
    "zero_size_input": lambda: function("no_control", lambda t, x, u, p: -p * x + t, [1, 2, 0], 2),
    "zero_size_parameter": lambda: function("no_parameter", lambda x, p: ca.sin(x), [3], 0),
    "zero_size_output": lambda: function("empty_output", lambda x, p: [x * p, ca.MX(0, 1)], [2], 2),
    "identity": lambda: function("identity", lambda x, p: [x, p, x], [3], 2),
    "slice_of_input": lambda: function("slices", lambda x, p: [x[1:], x[::2], x[0], p[1:3]], [4], 4),
    "input_twice": lambda: function("twice", lambda x, p: [x * x, x + x, x * p + x], [3], 3),
    "repeated_scalar": lambda: function(
        "repeated", lambda x, p: [ca.vertcat(s := ca.dot(x, x), s), ca.repmat(ca.sum1(x * p), 5, 1)], [3], 3
    ),
    "same_output_twice": lambda: function("same", lambda x, p: [ca.sin(x) * p, ca.sin(x) * p], [3], 3),
    "output_is_intermediate": lambda: function(
        "intermediate", lambda x, p: [ca.tanh(x), ca.tanh(x) * p, ca.vertcat(ca.tanh(x), x)], [3], 3
    ),
    "concat_of_concat": lambda: function(
        "nested_concat",
        lambda x, p: [ca.vertcat(ca.vertcat(ca.sin(x), p), ca.vertcat(x[0], ca.sin(x))), ca.vertcat(x, x)],
        [3],
        2,
    ),
    "scalar": lambda: function("scalar", lambda x, p: ca.exp(-p * x), [1], 1),
    "row_vectors": lambda: function("rows", lambda x, p: (x.T * p.T) @ ca.DM.ones(3, 2), [3], 3),
    "many_inputs": lambda: function(
        "many", lambda a, b, c, d, e, p: [a + b * p[0], ca.vertcat(c, d) * e, ca.dot(e, p)], [2, 2, 1, 3, 4], 4
    ),
    "long_vector": lambda: function("long_vector", lambda x, p: ca.cumsum(x) * p + x[40] * x[::-1], [83], 83),
}
