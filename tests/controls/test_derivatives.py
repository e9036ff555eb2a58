"""Derivatives with respect to the knot values: tangent against differences, adjoint against tangent."""

from __future__ import annotations

import numpy as np
import pytest

from ctrlode_casadi.base.errors import ControlError
from ctrlode_casadi.controls import Constant


def direction(case, rng, shape):
    d = rng.normal(size=shape)
    if case.closed:
        d[..., -1, :] = d[..., 0, :]
    return d


def difference(f, v, d, step):
    """Central difference with one Richardson step."""
    one, two = ((f(v + e * d) - f(v - e * d)) / (2.0 * e) for e in (step, 2.0 * step))
    return (4.0 * one - two) / 3.0


@pytest.fixture(params=["shared", "own"])
def problem(request, case, rng, random_knots):
    knots = random_knots(rng, 11) if request.param == "shared" else random_knots(rng, 3, 11)
    values = case.values(rng, 3, 11, 2)
    return case.make(knots, values, extrapolation=("linear", "periodic")), values


@pytest.mark.parametrize("K", [2, 3, 4, 11])
def test_tangent_is_the_limit_of_differences(case, rng, random_knots, K):
    values = case.values(rng, 3, K, 2)
    t = np.linspace(-4.0, 6.0, 57)
    for knots in (random_knots(rng, K), random_knots(rng, 3, K)):
        control = case.make(knots, values, extrapolation=("linear", "periodic"))
        d = direction(case, rng, values.shape)
        got = control.pieces_tangent(-4.0, 6.0, d)
        want = difference(lambda v, u=control: u.with_values(v).pieces(-4.0, 6.0).coefficients, values, d, 1e-4)
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8 * np.abs(want).max())
        want = difference(lambda v, u=control: u.with_values(v)(t), values, d, 1e-4)
        np.testing.assert_allclose(control.jvp(t, d), want, rtol=1e-8, atol=1e-9 * np.abs(want).max())


def test_adjoint_is_the_transpose_of_the_tangent(problem, rng):
    control, values = problem
    for start, stop in ((0, 3), (1, 2), (1, 3), (2, 2)):
        d = rng.normal(size=values[start:stop].shape)
        coef = control.pieces_tangent(-3.0, 9.0, d, start, stop)
        bar = rng.normal(size=coef.shape)
        values_bar = control.pieces_adjoint(-3.0, 9.0, bar, start, stop)
        assert values_bar.shape == d.shape
        np.testing.assert_allclose((values_bar * d).sum(), (bar * coef).sum(), rtol=1e-11, atol=1e-11)
    t = np.linspace(-3, 9, 40)
    d, bar = rng.normal(size=values.shape), rng.normal(size=(3, 40, 2))
    np.testing.assert_allclose((control.vjp(t, bar) * d).sum(), (bar * control.jvp(t, d)).sum(), rtol=1e-11)
    np.testing.assert_allclose(control.vjp(t[3], bar[:, 3]), control.vjp(t[3:4], bar[:, 3:4]))


def test_vjp_against_finite_differences_entry_by_entry(case, rng, random_knots):
    knots, values = random_knots(rng, 7), case.values(rng, 7, 1)
    control = case.make(knots, values, extrapolation="hold")
    t = np.linspace(knots[0] - 1.0, knots[-1] + 1.0, 25)
    bar = rng.normal(size=(1, 25, 1))
    got = control.vjp(t, bar)
    assert got.shape == control.values.shape
    directions = np.eye(7)[..., None]
    if case.closed:
        directions = directions[:-1]
        directions[0, -1] = 1.0
    for d in directions:
        want = difference(lambda v: (bar * control.with_values(v)(t)).sum(), values, d, 1e-4)
        np.testing.assert_allclose((got[0] * d).sum(), want, rtol=1e-8, atol=1e-9)


def test_shared_control_takes_any_number_of_rows(case, rng, random_knots):
    knots = random_knots(rng, 6)
    control = case.make(knots, case.values(rng, 6, 2))
    p = control.pieces(knots[0], knots[-1])
    bar = rng.normal(size=(4, *p.coefficients.shape[1:]))
    rows = control.pieces_adjoint(knots[0], knots[-1], bar)
    assert rows.shape == (4, 6, 2)
    total = control.pieces_adjoint(knots[0], knots[-1], bar.sum(axis=0, keepdims=True))
    np.testing.assert_allclose(rows.sum(axis=0), total[0], atol=1e-12 * np.abs(rows).max())
    own_times = rng.uniform(knots[0], knots[-1], size=(4, 9))
    u_bar = rng.normal(size=(4, 9, 2))
    d = rng.normal(size=(1, 6, 2))
    tangent = control.jvp(own_times, d)
    np.testing.assert_allclose((control.vjp(own_times, u_bar) * d).sum(), (u_bar * tangent).sum())


def test_flat_and_straight_data_have_finite_derivatives(case, rng):
    """At the branch points of Pchip and Akima the derivative is that of one branch, never NaN."""
    knots = np.arange(6.0)
    straight = np.ones(6) if case.closed else knots
    for values in (np.zeros(6), straight, np.array([0.0, 1.0, 1.0, 1.0, 3.0, 0.0])):
        control = case.make(knots, values[:, None])
        bar = control.vjp(np.linspace(0, 5, 21), rng.normal(size=(1, 21, 1)))
        assert np.isfinite(bar).all()


def test_constant(rng):
    u = Constant(rng.normal(size=(3, 2)))
    bar = rng.normal(size=(3, 5, 2))
    np.testing.assert_allclose(u.vjp(np.arange(5.0), bar)[:, 0], bar.sum(axis=1))
    np.testing.assert_allclose(u.jvp(np.arange(5.0), u.values), u(np.arange(5.0)))


def test_wrong_shapes_are_named(problem):
    control = problem[0]
    with pytest.raises(ControlError, match="u_bar"):
        control.vjp([0.0, 1.0], np.zeros((3, 3, 2)))
    with pytest.raises(ControlError, match=r"dvalues.*axis 1 must have 11"):
        control.jvp([0.0, 1.0], np.zeros((3, 10, 2)))
    with pytest.raises(ControlError, match="coef_bar"):
        control.pieces_adjoint(0.0, 1.0, np.zeros((3, 99, 2, 4)))
    with pytest.raises(ControlError, match="start, stop"):
        control.pieces(0.0, 1.0, 2, 7)
