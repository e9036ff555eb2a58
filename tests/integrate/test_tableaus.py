"""Order conditions of every method (Butcher's rooted trees), of its error estimate and of its dense output."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ctrlode_casadi.integrate import tableaus

METHODS = ["euler", "midpoint", "heun", "rk4", "bs3", "dopri5", "tsit5", "dop853"]
DENSE_ORDER = {"bs3": 3, "dopri5": 4, "tsit5": 4, "dop853": 7}


@cache
def trees(order):
    """All rooted trees with `order` nodes, as sorted tuples of subtrees."""
    if order == 1:
        return ((),)
    found = set()

    def forests(left, largest):
        if left == 0:
            yield ()
            return
        for size in range(1, left + 1):
            for tree in trees(size):
                if (size, tree) <= largest:
                    for rest in forests(left - size, (size, tree)):
                        yield (tree, *rest)

    for forest in forests(order - 1, (order, ())):
        found.add(tuple(sorted(forest)))
    return tuple(sorted(found))


def size(tree):
    return 1 + sum(size(t) for t in tree)


def density(tree):
    return size(tree) * int(np.prod([density(t) for t in tree], initial=1))


def stage_weights(A, tree):
    """Elementary weights of the stages."""
    out = np.ones(A.shape[0])
    for sub in tree:
        out = out * (A @ stage_weights(A, sub))
    return out


def worst(A, weights, order, theta=1.0):
    """Largest violation of the order conditions up to `order`."""
    every = [tree for n in range(1, order + 1) for tree in trees(n)]
    return max(abs(weights @ stage_weights(A, tree) - theta ** size(tree) / density(tree)) for tree in every)


def test_number_of_trees():
    assert [len(trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@pytest.mark.parametrize("name", METHODS)
def test_order_of_the_step(name):
    tab = getattr(tableaus, name)()
    assert worst(tab.A, tab.b, tab.order) < 1e-13
    assert worst(tab.A, tab.b, tab.order + 1) > 1e-6
    assert np.allclose(tab.A.sum(axis=1), tab.c, atol=1e-14)
    assert np.all(np.triu(tab.A) == 0)


@pytest.mark.parametrize("name", ["bs3", "dopri5", "tsit5"])
def test_order_of_the_embedded_solution(name):
    tab = getattr(tableaus, name)()
    assert worst(tab.A, tab.b - tab.e[0], tab.error_order) < 1e-13
    assert worst(tab.A, tab.b - tab.e[0], tab.error_order + 1) > 1e-6


def test_error_estimates_of_dop853():
    tab = tableaus.dop853()
    fifth, third = tab.e
    assert worst(tab.A, tab.b - fifth, 5) < 1e-13
    assert worst(tab.A, tab.b - third, 3) < 1e-13


@pytest.mark.parametrize("name", DENSE_ORDER)
def test_order_of_the_dense_output(name):
    tab = getattr(tableaus, name)()
    for theta in (0.1, 0.5, 0.8):
        weights = tab.P @ theta ** np.arange(1, tab.P.shape[1] + 1)
        assert worst(tab.A, weights, DENSE_ORDER[name], theta) < 1e-13
    assert np.allclose(tab.P.sum(axis=1), tab.b, atol=1e-12)


@pytest.mark.parametrize("name", ["bs3", "dopri5", "tsit5"])
def test_last_stage_is_the_first_of_the_next_step(name):
    tab = getattr(tableaus, name)()
    assert tab.fsal
    assert np.array_equal(tab.A[-1], tab.b)
