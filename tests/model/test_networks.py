"""Networks against plain NumPy, for every kind of argument."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.base import DataError, ModelError
from ctrlode_casadi.base.arrays import call
from ctrlode_casadi.model import init
from ctrlode_casadi.model.combinators import Lambda, Parallel, Scale, Skip
from ctrlode_casadi.model.layers import Chain, Dense
from ctrlode_casadi.model.network import Network


def swap(z: Any) -> list[Any]:
    return [z[1], z[0] * z[2]]


ORIGIN = Chain(
    Dense(3, 10, "selu", weight_init=init.glorot_uniform(gain=0.1)),
    Dense(10, 10, "selu"),
    Dense(10, 10, "selu"),
    Dense(10, 2),
)
NETWORKS: list[Network] = [
    ORIGIN,
    Dense(3, 1),
    Dense(1, 3, "tanh"),
    Dense(1, 1, "tanh"),
    Dense(3, 2, lambda z: ca.tanh(z) ** 2, bias=False),
    Chain(
        Scale([1.0, 2.0, 3.0], [0.5, 1.0, 2.0]),
        Chain(Dense(3, 4, "gelu"), Dense(4, 2)),
        Scale(1.0, [2, 3], inverse=True),
    ),
    Skip(Dense(3, 3, "tanh")),
    Skip(Chain(Dense(3, 5, "mish"), Dense(5, 2)), "cat"),
    Parallel(Dense(3, 2), Dense(3, 4, "silu")),
    Parallel(Dense(3, 2), Lambda(swap, 3, 2), connection="+"),
    Chain(Lambda(swap, 3, 2), Dense(2, 2, "softplus")),
    Scale(0.0, [1.0, 2.0]),
]
INPUTS = np.random.default_rng(5).normal(size=(4, 3))


@pytest.mark.parametrize("net", NETWORKS)
def test_all_kinds_agree_and_keep_their_kind(net: Network) -> None:
    p = np.random.default_rng(1).normal(size=net.n_params)
    rows = np.resize(INPUTS, (4, net.n_in))
    out = net(rows, p)
    assert isinstance(out, np.ndarray) and out.shape == (4, net.n_out)
    np.testing.assert_array_equal(net(rows[0], p), out[0])
    np.testing.assert_array_equal(net(rows.reshape(2, 1, 2, -1), p), out.reshape(2, 1, 2, -1))
    assert net(np.zeros((0, net.n_in)), p).shape == (0, net.n_out)
    dm = net(ca.DM(rows[0]), p)
    assert isinstance(dm, ca.DM)
    np.testing.assert_allclose(dm.full().ravel(), out[0], rtol=1e-14)
    assert isinstance(net(rows[0], ca.DM(p)), np.ndarray)
    for kind in (ca.SX, ca.MX):
        z, q = kind.sym("z", net.n_in), kind.sym("q", net.n_params)
        y = net(z, q)
        assert isinstance(y, kind) and y.shape == (net.n_out, 1)
        np.testing.assert_allclose(call(ca.Function("f", [z, q], [y]), rows[0], p)[0], out[0], rtol=1e-14)
        many = kind.sym("z", net.n_in, 4)
        y = net(many, q)
        assert isinstance(y, kind) and y.shape == (net.n_out, 4)
        got = call(ca.Function("f", [many, q], [ca.densify(y)]), rows.T, p)[0]
        np.testing.assert_allclose(got.reshape(net.n_out, 4).T, out, rtol=1e-14)
        assert isinstance(net(z, p), kind) and isinstance(net(rows[0], q), kind)


def test_dense_order_of_parameters_is_row_major_weight_then_bias() -> None:
    p = np.arange(1.0, 12.0)
    net = Dense(3, 2)
    assert net.n_params == 8
    weight, bias = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([7.0, 8.0])
    z = np.array([1.0, -1.0, 0.5])
    np.testing.assert_array_equal(net(z, p[:8]), weight @ z + bias)
    assert net.layout.names() == [
        "weight[0,0]", "weight[0,1]", "weight[0,2]", "weight[1,0]", "weight[1,1]", "weight[1,2]",
        "bias[0]", "bias[1]",
    ]  # fmt: skip


def test_origin_network_equals_numpy() -> None:
    p = ORIGIN.init(seed=1111)
    assert p.shape == (282,) and ORIGIN.n_params == 282 and (ORIGIN.n_in, ORIGIN.n_out) == (3, 2)
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    z, at = INPUTS.T, 0
    for n_in, n_out in ((3, 10), (10, 10), (10, 10), (10, 2)):
        weight, bias = p[at : at + n_in * n_out].reshape(n_out, n_in), p[at + n_in * n_out :][:n_out]
        z = weight @ z + bias[:, None]
        at += n_in * n_out + n_out
        if n_out == 10:
            z = scale * np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))
    np.testing.assert_allclose(ORIGIN(INPUTS, p), z.T, rtol=1e-13)


def test_init_uses_the_initialisers_and_the_seed() -> None:
    tree = ORIGIN.layout.unflatten(ORIGIN.init(seed=1111))
    bound = 0.1 * np.sqrt(6 / 13)
    assert 0.8 * bound < np.abs(tree[0].weight).max() <= bound
    assert (tree[0].bias == 0).all() and np.abs(tree[1].weight).max() > bound
    np.testing.assert_array_equal(ORIGIN.init(seed=1111), ORIGIN.init(1111))
    assert not np.array_equal(ORIGIN.init(0), ORIGIN.init(1))


def test_tree_and_mapping_serve_as_parameters() -> None:
    p = ORIGIN.init(2)
    tree = ORIGIN.layout.unflatten(p)
    np.testing.assert_array_equal(ORIGIN(INPUTS, tree), ORIGIN(INPUTS, p))
    np.testing.assert_array_equal(ORIGIN(INPUTS, {k: dict(v) for k, v in tree.items()}), ORIGIN(INPUTS, p))


def test_skip_parallel_scale_meaning() -> None:
    inner = Dense(3, 3, "tanh")
    p = inner.init(4)
    z = INPUTS
    np.testing.assert_allclose(Skip(inner)(z, p), z + inner(z, p), rtol=1e-15)
    np.testing.assert_allclose(Skip(inner, "cat")(z, p), np.hstack([z, inner(z, p)]), rtol=1e-15)
    both = Parallel(inner, Dense(3, 2))
    q = both.init(5)
    tree = both.layout.unflatten(q)
    expected = np.hstack([inner(z, tree[0]), Dense(3, 2)(z, tree[1])])
    np.testing.assert_allclose(both(z, q), expected, rtol=1e-15)
    mean, std = [1.0, 2.0, 3.0], [0.5, 1.0, 2.5]
    np.testing.assert_allclose(Scale(mean, std)(z, []), (z - mean) / std, rtol=1e-15)
    back = Chain(Scale(mean, std), Scale(mean, std, inverse=True))
    np.testing.assert_allclose(back(z, []), z, rtol=1e-14)


def test_weights_are_views_of_p() -> None:
    """Slice, reshape, transpose, product: compiled code reads weights in place, in nested layouts too."""
    z, p = ca.MX.sym("z", 3), ca.MX.sym("p", ORIGIN.n_params + 5)
    f = ca.Function("f", [z, p], [ORIGIN(z, p[5:])])
    operations = [f.instruction_id(k) for k in range(f.n_instructions())]
    counts = {op: operations.count(op) for op in (ca.OP_GETNONZEROS, ca.OP_RESHAPE, ca.OP_TRANSPOSE, ca.OP_MTIMES)}
    assert counts == {ca.OP_GETNONZEROS: 8, ca.OP_RESHAPE: 4, ca.OP_TRANSPOSE: 4, ca.OP_MTIMES: 4}
    assert not {ca.OP_VERTCAT, ca.OP_VERTSPLIT, ca.OP_SETNONZEROS, ca.OP_CALL} & set(operations)
    slices = [f.instruction_MX(k).info()["slice"] for k, op in enumerate(operations) if op == ca.OP_GETNONZEROS]
    assert all(s["step"] == 1 for s in slices)


def test_gradient_equals_finite_difference_of_numpy_values() -> None:
    net = NETWORKS[5]
    p = net.init(3)
    z = ca.MX.sym("z", 3)
    q = ca.MX.sym("q", net.n_params)
    gradient = call(ca.Function("g", [z, q], [ca.gradient(ca.sumsqr(net(z, q)), q)]), INPUTS[0], p)[0]
    h = 1e-5
    for i in range(0, net.n_params, 3):
        e = h * np.eye(net.n_params)[i]
        ring = [float((net(INPUTS[0], p + k * e) ** 2).sum()) for k in (-2, -1, 1, 2)]
        difference = (ring[0] - 8 * ring[1] + 8 * ring[2] - ring[3]) / (12 * h)
        assert gradient[i] == pytest.approx(difference, rel=1e-8, abs=1e-8)


def test_networks_are_values() -> None:
    net = NETWORKS[5]
    net(INPUTS, net.init())
    again = pickle.loads(pickle.dumps(net))
    assert again == net and hash(again) == hash(net) and copy.deepcopy(net) == net
    np.testing.assert_array_equal(again(INPUTS, net.init(1)), net(INPUTS, net.init(1)))
    with pytest.raises(AttributeError):
        net.n_in = 5
    assert (
        repr(Chain(Dense(3, 2, "selu"), Dense(2, 1, bias=False)))
        == "Chain(Dense(3, 2, 'selu'), Dense(2, 1, bias=False))"
    )


def test_networks_with_lambdas_are_pickled_as_their_expressions() -> None:
    """The copy gives the same numbers and derivatives for all kinds of arguments; it can be pickled again."""
    net = Chain(
        Lambda(lambda z: [z[0] * z[1], ca.sin(z[2]), z[2]], 3, 3),
        Skip(Dense(3, 3, lambda z: z / (1 + z**2))),
        Parallel(Dense(3, 2, lambda z: ca.exp(-z * z), bias=False), Dense(3, 1, "selu")),
    )
    p = net.init(4)
    net(INPUTS, p)
    assert copy.copy(net) == net == copy.deepcopy(net)
    for again in (pickle.loads(pickle.dumps(net)), pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(net))))):
        np.testing.assert_array_equal(again(INPUTS, p), net(INPUTS, p))
        assert again.layout == net.layout
        for kind in (ca.MX, ca.SX):
            z, q = kind.sym("z", 3), kind.sym("q", net.n_params)
            both = [ca.Function("g", [z, q], [ca.gradient(ca.sumsqr(n(z, q)), ca.vertcat(z, q))]) for n in (net, again)]
            one, two = (call(f, INPUTS[0], p)[0] for f in both)
            np.testing.assert_allclose(two, one, rtol=1e-14)


def test_a_function_of_a_module_is_pickled_by_name() -> None:
    net = Chain(Dense(3, 2, ca.tanh), Dense(2, 1, ca.sin, weight_init=module_initializer))
    again = pickle.loads(pickle.dumps(net))
    assert again == net and again.layers[1].weight_init is module_initializer


def module_initializer(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Found by name."""
    return np.full(shape, 0.1)


class Doubled(ca.Callback):
    """An expression that CasADi cannot store."""

    def __init__(self) -> None:
        ca.Callback.__init__(self)
        self.construct("doubled", {})

    def eval(self, arg: list[ca.DM]) -> list[ca.DM]:
        """Twice the argument."""
        return [2 * arg[0]]


def test_what_cannot_be_pickled_is_named() -> None:
    double = Doubled()
    with pytest.raises(ModelError, match=r"Lambda\(fn, 1, 1\): fn cannot be pickled.*top level of a module"):
        pickle.dumps(Chain(Lambda(lambda z: double(z), 1, 1), Dense(1, 1)))
    net = Chain(Dense(3, 2), Dense(2, 1, weight_init=lambda rng, shape: np.zeros(shape)))
    with pytest.raises(ModelError, match=r"Dense\(2, 1\): weight_init cannot be pickled, '<lambda>'.*top level"):
        pickle.dumps(net)
    assert copy.deepcopy(net) == net
    with pytest.raises(ModelError, match=r"block '1.weight': its initialiser cannot be pickled"):
        pickle.dumps(net.layout)
    assert copy.deepcopy(net.layout) == net.layout


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Dense(3, 0), "n_out: expected an integer >= 1, got 0"),
        (lambda: Dense(3.0, 1), "n_in: expected an integer"),
        (lambda: Dense(3, 2, "seluu"), "did you mean 'selu'"),
        (lambda: Dense(3, 2, 5), "expected a name or a callable"),
        (lambda: Dense(3, 2, lambda z: z[0]), "must return n_out=2 entries, it returned 1"),
        (lambda: Dense(3, 2, "tanh", "glorot"), "weight_init must be an initialiser"),
        (lambda: Dense(3, 2, bias=0.5), "bias must be True or False"),
        (lambda: Dense(3, 2, bias_init=lambda rng, shape: np.ones(5)).init(), "initial values of bias"),
        (lambda: Chain(), "at least one layer"),
        (lambda: Chain([Dense(3, 2)]), r"unpack it, Chain\(\*layers\)"),
        (lambda: Chain(Dense(3, 2), ca.tanh), "wrap it in Lambda"),
        (lambda: Chain(Dense(3, 2), Dense(3, 2)), "layer 1.*takes 3 entries, but layer 0.*gives 2"),
        (lambda: Skip(Dense(3, 2)), r"needs n_in == n_out"),
        (lambda: Skip(Dense(3, 3), "cta"), "did you mean 'cat'"),
        (lambda: Parallel(Dense(3, 2), Dense(2, 2)), r"same n_in, got \[3, 2\]"),
        (lambda: Parallel(Dense(3, 2), Dense(3, 1), connection="+"), r"equal n_out, got \[2, 1\]"),
        (lambda: Scale([0.0, np.nan], 1.0), "mean: all entries must be finite, got nan at index 1"),
        (lambda: Scale([0.0, 1.0], [1.0, 0.0]), r"std must be positive, got std\[1\]=0"),
        (lambda: Scale([0.0, 1.0], [1.0, 1.0, 1.0]), "same length"),
        (lambda: Scale(np.array([1, 2]), 1.0), "dtype int64"),
        (lambda: Lambda(3, 1, 1), "fn must be callable"),
        (lambda: Lambda(lambda z: z, 2, 3), "must return n_out=3 entries, it returned 2"),
        (lambda: Lambda(lambda z: z + ca.MX.sym("k"), 2, 2), "free symbol k"),
        (lambda: Lambda(lambda z: None, 2, 2), "returned None"),
        (lambda: Dense(3, 2)(ca.MX.sym("z", 2), ca.MX.sym("p", 8)), "n_in=3 rows"),
        (lambda: Dense(3, 2)(ca.MX.sym("z", 1, 3), ca.MX.sym("p", 8)), "transpose it"),
        (lambda: Dense(3, 2)(ca.MX.sym("z", 3), ca.SX.sym("p", 8)), "same kind"),
        (
            lambda: Dense(3, 2)(ca.MX.sym("z", 3), ca.MX.sym("p", 7)),
            r"np=8 parameters.*weight\[2x3\], bias\[2\]",
        ),
    ],
)
def test_misuse(build: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()


@pytest.mark.parametrize(
    ("z", "p"),
    [
        (np.zeros(2), np.zeros(8)),
        (np.zeros(3), np.zeros(7)),
        (np.zeros(3, int), np.zeros(8)),
        (np.zeros(3, np.float32), np.zeros(8)),
        (np.zeros(3), np.zeros((8, 1))),
        (0.0, np.zeros(8)),
    ],
)
def test_wrong_arrays(z: Any, p: Any) -> None:
    with pytest.raises(DataError):
        Dense(3, 2)(z, p)
