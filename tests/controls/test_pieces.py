"""The polynomials over a time span equal the control, piece by piece, with every extrapolation rule."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from ctrlode_casadi.base.errors import ControlError
from ctrlode_casadi.controls import Akima, Constant, CubicSpline, Pchip, PiecewiseConstant, PiecewiseLinear

RULES = ("hold", "linear", "periodic")


def check_pieces(control, t0, t1, start=0, stop=None):
    """Breaks increase and cover the span; the polynomials equal the control inside each piece."""
    p = control.pieces(t0, t1, start, stop)
    breaks, anchors = np.atleast_2d(p.breaks), np.atleast_2d(p.anchors)
    assert (np.diff(breaks) > 0).all() and (breaks[:, 0] <= t0).all() and (breaks[:, -1] >= t1).all()
    assert anchors.shape[1] == breaks.shape[1] - 1 == p.coefficients.shape[1] == p.stops.size - 1
    part = control if control.n_trajectories == 1 else control[start:stop]
    for b, q in itertools.product(range(breaks.shape[0]), range(anchors.shape[1])):
        lo, hi = max(t0, breaks[b, q]), min(t1, breaks[b, q + 1])
        if hi <= lo:
            continue
        for t in lo + (hi - lo) * np.array([0.01, 0.5, 0.99]):
            s = t - anchors[b, q]
            rows = slice(b, b + 1) if breaks.shape[0] > 1 else slice(None)
            u = sum(p.coefficients[rows, q, :, j] * s**j for j in range(p.coefficients.shape[3]))
            np.testing.assert_allclose(u, part(t)[rows], rtol=1e-12, atol=1e-11)
    return p


@pytest.mark.parametrize("rules", list(itertools.product(RULES, RULES)), ids="-".join)
def test_pieces_equal_the_control(case, rng, random_knots, rules):
    knots, values = random_knots(rng, 6), case.values(rng, 3, 6, 2)
    span = np.ptp(knots)
    control = case.make(knots, values, extrapolation=rules)
    for t0, t1 in (
        (knots[0], knots[-1]),
        (knots[0] - 2.3 * span, knots[-1] + 1.7 * span),
        (knots[2], knots[3]),
        (knots[-1], knots[-1] + 3.0 * span),
        (knots[0] - span, knots[0]),
        (knots[1] + 0.01, knots[1] + 0.02),
        (knots[0] - 5.2, knots[0] - 5.1),
        (knots[0], knots[0]),
        (knots[-1], knots[-1]),
    ):
        check_pieces(control, t0, t1)
    own = case.make(np.stack([knots, knots + 0.4, 0.5 * knots]), values, extrapolation=rules)
    for t0, t1 in ((-6.0, 8.0), (0.5, 0.6)):
        check_pieces(own, t0, t1)
        check_pieces(own, t0, t1, 1, 3)


def test_only_the_pieces_of_the_span():
    u = PiecewiseLinear(np.arange(101.0), np.arange(101.0))
    assert u.pieces(10.0, 12.0).breaks.tolist() == [10.0, 11.0, 12.0]
    assert u.pieces(10.5, 11.5).breaks.tolist() == [10.0, 11.0, 12.0]
    assert u.pieces(0.0, 100.0).coefficients.shape == (1, 100, 1, 2)


def test_neighbouring_polynomials_meet(continuous_case, rng, random_knots):
    knots = random_knots(rng, 9)
    p = continuous_case.make(knots, continuous_case.values(rng, 2, 9, 2)).pieces(knots[0], knots[-1])
    h = np.diff(p.breaks)[:, None]
    end = sum(p.coefficients[..., j] * h**j for j in range(p.coefficients.shape[3]))
    np.testing.assert_allclose(end[:, :-1], p.coefficients[:, 1:, :, 0], atol=5e-15, rtol=1e-14)


def test_stops():
    knots, v = np.arange(4.0), np.zeros(4)
    for kind in (PiecewiseConstant, PiecewiseLinear, Pchip, Akima):
        assert kind(knots, v).stop_at_knots and kind(knots, v).pieces(0.0, 3.0).stops.all()
    u = CubicSpline(knots, v, extrapolation=("hold", "linear"))
    assert not u.stop_at_knots
    p = u.pieces(-1.0, 4.0)
    assert p.breaks.tolist() == [-1, 0, 1, 2, 3, 4] and p.stops.tolist() == [False, True, False, False, True, False]
    assert CubicSpline(knots, v, extrapolation="periodic").pieces(0.0, 6.0).stops.tolist() == [
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert not CubicSpline(knots, v, "periodic", "periodic").pieces(0.0, 6.0).stops.any()


def test_shared_control_ignores_the_range_of_trajectories(case, rng, random_knots):
    knots = random_knots(rng, 5)
    u = case.make(knots, case.values(rng, 5, 2))
    assert u.n_trajectories == 1
    assert u.pieces(knots[0], knots[-1], 8, 16).coefficients.shape[0] == 1


def test_constant_pieces(rng):
    u = Constant(rng.normal(size=(4, 2)))
    p = check_pieces(u, 1.0, 3.0, 1, 3)
    assert p.coefficients.shape == (2, 1, 2, 1)
    bar = rng.normal(size=(2, 1, 2, 1))
    np.testing.assert_array_equal(u.pieces_adjoint(1.0, 3.0, bar, 1, 3), bar[:, 0].transpose(0, 2, 1))
    np.testing.assert_array_equal(u.pieces_tangent(1.0, 3.0, u.values[1:3], 1, 3), p.coefficients)


def test_selection_and_pickle(case, rng, random_knots):
    for knots in (random_knots(rng, 6), random_knots(rng, 4, 6)):
        values = case.values(rng, 4, 6, 2)
        control = case.make(knots, values, extrapolation="hold")
        t = np.linspace(-1, 5, 17)
        whole = control(t)
        np.testing.assert_array_equal(control[1](t), whole[1:2])
        np.testing.assert_array_equal(control[-1](t), whole[3:])
        np.testing.assert_array_equal(control[1:3](t), whole[1:3])
        np.testing.assert_array_equal(control[[3, 0]](t), whole[[3, 0]])
        np.testing.assert_array_equal(control[np.array([True, False, True, False])](t), whole[[0, 2]])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(control))(t), whole)
        assert len(control) == 4 and control[2].n_trajectories == 1 and control[1].knots.shape == (6,)
        with pytest.raises(IndexError, match="B=4"):
            control[4]
        np.testing.assert_allclose(control.with_values(2.0 * values).values, 2.0 * values)


def test_empty_batch(case, rng, random_knots):
    knots = random_knots(rng, 5)
    for k in (knots, np.zeros((0, 5))):
        control = case.make(k, np.zeros((0, 5, 2)), extrapolation="hold")
        assert control([0.0, 1.0]).shape == (0, 2, 2)
        assert control.pieces(0.0, 1.0).coefficients.shape[0] == 0
        assert control.vjp([0.0, 1.0], np.zeros((0, 2, 2))).shape == (0, 5, 2)


def test_error_rule_names_range_and_trajectory(rng):
    u = PiecewiseLinear(np.array([[0.0, 1.0], [0.5, 1.0]]), np.zeros((2, 2)))
    with pytest.raises(ControlError, match=r"0\.2.*\[0\.5, 1\.0\] of trajectory 1.*extrapolation='hold'"):
        u([0.2, 0.6])
    with pytest.raises(ControlError, match="outside the control's range"):
        u.pieces(0.6, 1.1)
    with pytest.raises(ControlError, match="t0 <= t1"):
        u.pieces(1.0, 0.6)
    half = PiecewiseLinear([0.0, 1.0], [0.0, 1.0], extrapolation=("error", "hold"))
    assert half(7.0).item() == 1.0
    with pytest.raises(ControlError, match="outside"):
        half(-1.0)
