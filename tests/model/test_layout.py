"""Layouts: round trips, views, names, seeds, misuse."""

from __future__ import annotations

import pickle
from typing import Any

import casadi as ca
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ctrlode_casadi.base import DataError, ModelError
from ctrlode_casadi.model import init
from ctrlode_casadi.model.layers import Chain, Dense
from ctrlode_casadi.model.layout import ParameterLayout

NET = Chain(Dense(3, 4, "tanh"), Dense(4, 2))
LAYOUT = ParameterLayout(ode=NET, mass=1, K=(2, 3), d=4, plant={"k": 1, "c": (1,)})

names = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda s: s not in {"flat", "get", "items", "keys", "seed", "self", "values"}
)
sizes = st.integers(1, 4)
leaves = sizes | st.tuples(sizes) | st.tuples(sizes, sizes)
blocks = st.dictionaries(
    names, st.recursive(leaves, lambda b: st.dictionaries(names, b, max_size=3), max_leaves=6), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(blocks, st.integers(0, 2**32))
def test_round_trip(spec: dict[str, Any], seed: int) -> None:
    layout = ParameterLayout(spec)
    p = np.random.default_rng(seed).normal(size=layout.n)
    tree = layout.unflatten(p)
    np.testing.assert_array_equal(layout.flatten(tree), p)
    labels = layout.names()
    assert len(labels) == layout.n == len(set(labels))
    for i, label in enumerate(labels):
        path, _, index = label.partition("[")
        value: Any = tree
        for key in path.split("."):
            value = value[key]
        at = tuple(int(k) for k in index.rstrip("]").split(",")) if index else ()
        assert value[at] == p[i]
        where = layout.slice(path)
        assert where.start <= i < where.stop


@settings(max_examples=25, deadline=None)
@given(blocks)
def test_symbols_hold_the_same_entries_as_arrays(spec: dict[str, Any]) -> None:
    layout = ParameterLayout(spec)
    p = np.arange(layout.n) + 1.0
    for kind in (ca.SX, ca.MX):
        symbol = kind.sym("p", layout.n)
        back = ca.Function("back", [symbol], [kind(layout.flatten(layout.unflatten(symbol)))])
        np.testing.assert_array_equal(np.array(back(p)).ravel(), p)


def test_arrays_are_views_with_attribute_access() -> None:
    p = np.arange(LAYOUT.n, dtype=float)
    tree = LAYOUT.unflatten(p)
    assert tree.mass.shape == () and float(tree.mass) == NET.n_params and tree.plant.c.shape == (1,)
    assert tree.ode[0].weight is tree["ode"]["0"]["weight"]
    np.testing.assert_array_equal(tree.ode[0].weight, np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(tree.K, p[LAYOUT.slice("K")].reshape(2, 3))
    tree.ode[1].bias[...] = -1.0
    tree.mass[...] = -2.0
    np.testing.assert_array_equal(p[LAYOUT.slice("ode.1.bias")], [-1.0, -1.0])
    assert p[LAYOUT.slice("mass")] == [-2.0]
    assert np.shares_memory(tree.ode.flat, p)
    np.testing.assert_array_equal(np.asarray(tree.ode), p[:26])
    assert list(tree) == ["ode", "mass", "K", "d", "plant"] and "mass" in tree and tree.get("x") is None
    np.testing.assert_array_equal(LAYOUT.flatten(pickle.loads(pickle.dumps(tree))), p)


def test_symbols_are_row_major_matrices() -> None:
    p = ca.MX.sym("p", LAYOUT.n)
    tree = LAYOUT.unflatten(p)
    f = ca.Function("f", [p], [tree.K, tree.mass, tree.ode[0].weight])
    values = np.arange(LAYOUT.n, dtype=float)
    arrays = LAYOUT.unflatten(values)
    for got, expected in zip(f(values), (arrays.K, arrays.mass, arrays.ode[0].weight), strict=True):
        np.testing.assert_array_equal(got.full().squeeze(), expected)
    operations = [f.instruction_id(k) for k in range(f.n_instructions())]
    assert ca.OP_VERTCAT not in operations and ca.OP_HORZCAT not in operations


def test_flatten_takes_plain_mappings_numbers_and_nested_vectors() -> None:
    tree = {
        "ode": NET.init(3),
        "mass": 1.5,
        "K": [[1, 2, 3], [4, 5, 6]],
        "d": np.ones(4),
        "plant": {"k": 2, "c": 3},
    }
    p = LAYOUT.flatten(tree)
    assert p.dtype == np.float64
    back = LAYOUT.unflatten(p)
    assert back.mass == 1.5 and back.K[1, 0] == 4 and back.plant.c == [3]
    np.testing.assert_array_equal(back.ode.flat, NET.init(3))
    mixed = LAYOUT.flatten(tree | {"mass": ca.MX.sym("m")})
    assert isinstance(mixed, ca.MX) and mixed.shape == (LAYOUT.n, 1)


def test_names_and_repr() -> None:
    assert LAYOUT.names()[11] == "ode.0.weight[3,2]"
    assert LAYOUT.names()[26:30] == ["mass", "K[0,0]", "K[0,1]", "K[0,2]"]
    assert repr(LAYOUT) == "ParameterLayout(n=39: ode[26], mass[1], K[2x3], d[4], plant[2])"


def test_seeds() -> None:
    a, b = LAYOUT.init(7), LAYOUT.init(7)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, LAYOUT.init(8))
    np.testing.assert_array_equal(LAYOUT.init(np.random.default_rng(7)), a)
    longer = ParameterLayout(ode=NET, extra=Dense(2, 2))
    np.testing.assert_array_equal(longer.unflatten(longer.init(7)).ode.flat, LAYOUT.unflatten(a).ode.flat)
    assert np.isfinite(LAYOUT.init(None)).all()


def test_overrides() -> None:
    plain = LAYOUT.unflatten(LAYOUT.init(1))
    tree = LAYOUT.unflatten(
        LAYOUT.init(1, mass=1.2, K=np.full((2, 3), 4.0), d=init.constant(5), plant={"k": 6, "c": [7]})
    )
    assert tree.mass == 1.2 and (tree.K == 4).all() and (tree.d == 5).all() and tree.plant.k == 6
    np.testing.assert_array_equal(tree.ode.flat, plain.ode.flat)
    tree = LAYOUT.unflatten(LAYOUT.init(1, ode={"1": {"bias": 3.0}}))
    assert (tree.ode[1].bias == 3).all()
    np.testing.assert_array_equal(tree.ode[0].weight, plain.ode[0].weight)
    np.testing.assert_array_equal(LAYOUT.unflatten(LAYOUT.init(1, ode=NET.init(9))).ode.flat, NET.init(9))


def test_layouts_are_values() -> None:
    same = ParameterLayout(ode=NET, mass=1, K=(2, 3), d=4, plant={"k": 1, "c": (1,)})
    assert same == LAYOUT and hash(same) == hash(LAYOUT) and ParameterLayout(mass=1) != ParameterLayout(mas=1)
    assert pickle.loads(pickle.dumps(LAYOUT)) == LAYOUT
    assert ParameterLayout().n == 0 and ParameterLayout().init().shape == (0,)
    with pytest.raises(AttributeError, match="immutable"):
        same.n = 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ParameterLayout(a=0), "positive integers"),
        (lambda: ParameterLayout(a=True), "must be a size"),
        (lambda: ParameterLayout(a=1.0), "must be a size"),
        (lambda: ParameterLayout(a=(2, 0)), "positive integers"),
        (lambda: ParameterLayout(a=(2, 2, 2)), "at most two axes"),
        (lambda: ParameterLayout({"a b": 1}), "identifier"),
        (lambda: ParameterLayout(keys=1), "identifier"),
        (lambda: ParameterLayout({"a": 1}, a=1), "given twice"),
        (lambda: LAYOUT.slice("mas"), "did you mean 'mass'"),
        (lambda: LAYOUT.slice("mass.x"), "no inner blocks"),
        (lambda: LAYOUT.slice("ode.0.wieght"), "did you mean 'weight'"),
        (lambda: LAYOUT.init(0, mas=1), "did you mean 'mass'"),
        (lambda: LAYOUT.init(-1), "seed: expected a non-negative integer"),
        (lambda: LAYOUT.init("a"), "seed: expected"),
        (lambda: LAYOUT.init(0, K=np.ones((3, 2))), r"shape \(2, 3\), got \(3, 2\)"),
        (lambda: LAYOUT.init(0, mass=float("nan")), "finite"),
        (lambda: LAYOUT.init(0, K=lambda rng, shape: np.ones(2)), "initial values of K"),
        (lambda: LAYOUT.flatten({"mass": 1}), "'ode' is missing"),
        (lambda: LAYOUT.flatten(dict(LAYOUT.unflatten(LAYOUT.init())) | {"x": 1}), "unknown name 'x'"),
        (lambda: LAYOUT.unflatten(ca.MX.sym("p", 3)), "np=39 parameters"),
        (lambda: LAYOUT.unflatten(LAYOUT.init()).mas, "did you mean 'mass'"),
        (lambda: LAYOUT.unflatten(LAYOUT.init())["mas"], "did you mean 'mass'"),
        (lambda: setattr(LAYOUT.unflatten(LAYOUT.init()), "mass", 1), "names of a tree are fixed"),
    ],
)
def test_misuse(build: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()


@pytest.mark.parametrize("p", [np.zeros(3), np.zeros((39, 1)), np.zeros(39, int), [None] * 39])
def test_wrong_arrays(p: Any) -> None:
    with pytest.raises(DataError):
        LAYOUT.unflatten(p)
