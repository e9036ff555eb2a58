"""Values and time derivatives against SciPy, at knots and beyond them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.interpolate as si
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from ctrlode_casadi.controls import Constant, CubicSpline, Pchip, PiecewiseConstant, PiecewiseLinear

RULES = ("hold", "linear", "periodic")


def close(got, want, scale=None):
    scale = np.abs(want).max(initial=1e-300) if scale is None else scale
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13 * scale)


@pytest.mark.parametrize("K", [2, 3, 4, 5, 30])
def test_equals_scipy_with_shared_knots(case, rng, random_knots, K):
    knots, values = random_knots(rng, K), case.values(rng, 3, K, 2)
    control = case.make(knots, values)
    t = np.sort(np.concatenate([np.linspace(knots[0], knots[-1], 301), knots]))
    close(control(t), np.stack([case.truth(knots, v)(t) for v in values]))
    assert control(t).shape == (3, t.size, 2)
    close(control(t[7]), control(t)[:, 7])


def test_equals_scipy_with_knots_per_trajectory(case, rng, random_knots):
    knots, values = random_knots(rng, 4, 9), case.values(rng, 4, 9, 2)
    t = np.linspace(knots[:, 0].max(), knots[:, -1].min(), 50)
    control = case.make(knots, values)
    close(control(t), np.stack([case.truth(k, v)(t) for k, v in zip(knots, values)]))
    own = np.linspace(knots[:, 0], knots[:, -1], 20).T
    close(control(own), np.stack([case.truth(k, v)(s) for k, v, s in zip(knots, values, own)]))


def test_derivative_equals_scipy(case, rng, random_knots):
    knots, values = random_knots(rng, 12), case.values(rng, 2, 12, 2)
    t = np.sort(np.concatenate([np.linspace(knots[0], knots[-1], 101), knots]))
    got = case.make(knots, values).derivative(t)
    if case.name.startswith("constant"):
        assert not got.any()
    elif case.name == "linear":
        slopes = np.diff(values[0], axis=0) / np.diff(knots)[:, None]
        close(got[0], si.PPoly(np.stack([slopes, values[0, :-1]]), knots).derivative()(t))
    else:
        want = np.stack([case.truth(knots, v)(t, 1) for v in values])
        close(got, want, 10.0 * np.abs(want).max())


@pytest.mark.parametrize("left", RULES)
@pytest.mark.parametrize("right", RULES)
def test_extrapolation(case, rng, random_knots, left, right):
    knots, values = random_knots(rng, 7), case.values(rng, 2, 7, 2)
    control = case.make(knots, values, extrapolation=(left, right))
    inside = case.make(knots, values)
    period = knots[-1] - knots[0]
    d = inside.derivative(knots[[0, -1]])
    e = np.linspace(0.01, 2.9, 40) * period
    beyond = {
        "hold": (lambda: np.repeat(values[:, :1], 40, 1), lambda: np.repeat(values[:, -1:], 40, 1)),
        "linear": (lambda: values[:, :1] - d[:, :1] * e[:, None], lambda: values[:, -1:] + d[:, -1:] * e[:, None]),
        "periodic": (
            lambda: inside(knots[0] + np.remainder(-e, period)),
            lambda: inside(knots[0] + np.remainder(e, period)),
        ),
    }
    scale = 10.0 * np.abs(values).max() + 30.0 * np.abs(d).max()
    close(control(knots[0] - e), beyond[left][0](), scale)
    close(control(knots[-1] + e), beyond[right][1](), scale)


def test_which_value_counts_at_a_knot():
    knots, v = np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
    t = [0.0, 0.5, 1.0, 1.5, 2.0]
    assert PiecewiseConstant(knots, v)(t).ravel().tolist() == [1, 1, 2, 2, 3]
    assert PiecewiseConstant(knots, v, side="right")(t).ravel().tolist() == [1, 2, 2, 3, 3]
    around = [-2.0, -1.5, 0.0, 2.0, 2.5, 4.0]
    left = PiecewiseConstant(knots, v, extrapolation="periodic")
    assert left(around).ravel().tolist() == [1, 1, 1, 1, 1, 1]
    right = PiecewiseConstant(knots, v, "right", "periodic")
    assert right(around).ravel().tolist() == [3, 2, 3, 3, 2, 3]
    assert PiecewiseConstant(knots, v, extrapolation="hold")(around).ravel().tolist() == [1, 1, 1, 3, 3, 3]
    saw = PiecewiseLinear(knots, v, extrapolation="periodic")
    np.testing.assert_allclose(saw([2.0, 2.5, -0.5]).ravel(), [1.0, 1.5, 2.5])


def test_periodic_spline_is_smooth_over_the_seam():
    knots = np.linspace(0, 2 * np.pi, 41)
    values = np.sin(knots)
    values[-1] = values[0]
    u = CubicSpline(knots, values, "periodic", "periodic")
    t = np.linspace(-7, 20, 500)
    np.testing.assert_allclose(u(t)[0, :, 0], np.sin(t), atol=2e-6)
    np.testing.assert_allclose(u.derivative(t)[0, :, 0], np.cos(t), atol=4e-5)


def test_derivative_is_the_limit_of_differences(case, rng, random_knots):
    knots, values = random_knots(rng, 8), case.values(rng, 2, 8, 1)
    control = case.make(knots, values, extrapolation=("linear", "periodic"))
    beyond = [knots[0] - 0.5, knots[-1] + 0.3 * np.ptp(knots)]
    t = np.concatenate([knots[:-1] + 0.37 * np.diff(knots), beyond])
    d = 1e-6
    want = (control(t + d) - control(t - d)) / (2 * d)
    np.testing.assert_allclose(control.derivative(t), want, atol=2e-8)


def test_trajectories_do_not_influence_each_other(case, rng, random_knots):
    """Akima in SciPy has a threshold over all columns: a huge neighbour must not change a trajectory."""
    knots, values = random_knots(rng, 10), case.values(rng, 3, 10, 1)
    values[1] *= 1e14
    t = np.linspace(knots[0], knots[-1], 33)
    whole = case.make(knots, values)(t)
    for b in range(3):
        np.testing.assert_array_equal(whole[b], case.make(knots, values[b])(t)[0])


def test_constant(rng):
    v = rng.normal(size=(3, 2))
    u = Constant(v)
    assert u.values.shape == (3, 1, 2) and u.breakpoints.shape == (0,) and u.n_trajectories == 3 and u.nu == 2
    np.testing.assert_array_equal(u([-1e9, 0.0, 1e9]), np.repeat(v[:, None], 3, axis=1))
    np.testing.assert_array_equal(u(0.0), v)
    assert not u.derivative([0.0, 1.0]).any()
    assert Constant(3.0)(0.0).tolist() == [[3.0]]
    assert Constant([1.0, 2.0], nu=1).n_trajectories == 2 and Constant([1.0, 2.0]).n_trajectories == 1
    np.testing.assert_array_equal(u[1](0.0), v[1:2])
    np.testing.assert_array_equal(u.with_values(2 * v)(0.0), 2 * v)


def test_float32(case, rng, random_knots):
    knots, values = random_knots(rng, 9), case.values(rng, 2, 9, 2).astype(np.float32)
    control = case.make(knots, values, dtype="float32")
    t = np.linspace(knots[0], knots[-1], 40)
    assert control.values.dtype == control(t).dtype == np.float32
    assert control.pieces(t[0], t[-1]).coefficients.dtype == np.float32
    want = case.make(knots, values.astype(np.float64))(t)
    np.testing.assert_allclose(control(t), want, rtol=2e-6, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pchip_spline_linear_for_any_data(data):
    K = data.draw(st.integers(2, 12))
    steps = data.draw(arrays(float, K, elements=st.floats(1e-3, 1e3)))
    values = data.draw(arrays(float, (2, K, 1), elements=st.floats(-1e6, 1e6)))
    knots = np.cumsum(steps)
    t = np.linspace(knots[0], knots[-1], 23)
    scale = np.abs(values).max()
    for make, truth in (
        (Pchip, si.PchipInterpolator),
        (CubicSpline, si.CubicSpline),
        (PiecewiseLinear, lambda k, v: si.make_interp_spline(k, v, k=1)),
    ):
        want = np.stack([truth(knots, v)(t) for v in values])
        close(make(knots, values)(t), want, 1e-300 + max(scale, 30.0 * np.abs(want).max()))


def test_times_within_round_off_of_the_last_knot():
    u = PiecewiseLinear(np.linspace(0.0, 0.3, 4), np.arange(4.0))
    assert 3 * 0.1 > 0.3
    np.testing.assert_allclose(u(np.arange(4) * 0.1).ravel(), np.arange(4.0), atol=1e-14)
    p = u.pieces(0.0, 3 * 0.1)
    assert p.breaks[-1] >= 3 * 0.1
