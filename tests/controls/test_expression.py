"""The CasADi side: same values, same coefficients, exact first and second derivatives, in MX and SX."""

from __future__ import annotations

import itertools

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.base.arrays import call
from ctrlode_casadi.base.errors import ControlError
from ctrlode_casadi.controls import Constant, PiecewiseLinear

RULES = ("hold", "linear", "periodic")


def times(knots):
    span = np.ptp(knots)
    return np.concatenate([knots, np.linspace(knots[0] - 2.2 * span, knots[-1] + 2.2 * span, 61)])


@pytest.mark.parametrize("sym", [ca.MX.sym, ca.SX.sym], ids=["MX", "SX"])
@pytest.mark.parametrize(
    "rules",
    [("hold", "linear"), ("linear", "hold"), ("periodic", "periodic"), ("hold", "periodic"), ("periodic", "linear")],
    ids="-".join,
)
def test_expression_equals_the_control(case, rng, random_knots, rules, sym):
    for K in (2, 3, 7):
        knots, values = random_knots(rng, K), case.values(rng, K, 2)
        control = case.make(knots, values[None], extrapolation=rules)
        t, U = sym("t"), sym("U", 2, K)
        f = ca.Function("u", [t, U], [control.expression(t, U)])
        ts = times(knots)
        got = np.stack([call(f, x, values.T)[0] for x in ts])
        want = control(ts)[0]
        scale = np.abs(want).max() + np.ptp(knots) * np.abs(control.derivative(ts)).max()
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-13 * scale)


@pytest.mark.parametrize("sym", [ca.MX.sym, ca.SX.sym], ids=["MX", "SX"])
def test_derivatives_of_the_expression(case, rng, random_knots, sym):
    knots, values = random_knots(rng, 6), case.values(rng, 6, 2)
    control = case.make(knots, values, extrapolation=("hold", "periodic"))
    t, U = sym("t"), sym("U", 2, 6)
    u = control.expression(t, U)
    w = np.array([0.7, -1.3])
    value = ca.dot(w, u)
    f = ca.Function("d", [t, U], [ca.jacobian(value, t), ca.gradient(value, U), ca.jacobian(u, U)])
    for x in (-2.0, 0.1, 1.3, knots[2], knots[-1] + 0.8):
        by_t, by_U, jacobian = call(f, x, values.T)
        np.testing.assert_allclose(by_t, control.derivative(x)[0] @ w, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(by_U, control.vjp(x, w[None])[0].T, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose((w @ jacobian).reshape(2, 6, order="F"), by_U, rtol=1e-11, atol=1e-11)


def test_second_derivatives_of_the_expression(case, rng, random_knots):
    knots, values = random_knots(rng, 6), case.values(rng, 6, 1)
    control = case.make(knots, values)
    t, U = ca.MX.sym("t"), ca.MX.sym("U", 1, 6)
    square = control.expression(t, U) ** 2
    g = ca.Function("g", [t, U], [ca.jacobian(square, ca.vec(U)).T, ca.jacobian(square, t)])
    H = ca.Function("H", [t, U], [ca.jacobian(ca.jacobian(square, ca.vec(U)), ca.vec(U))])
    x, e = 0.5 * (knots[2] + knots[3]), 1e-6
    v = values[:, 0]
    ahead, back = (np.stack([call(g, x, (v + s * d)[None])[0] for d in np.eye(6)]) for s in (e, -e))
    want = (ahead - back) / (2 * e)
    np.testing.assert_allclose(call(H, x, values.T)[0], want, atol=1e-7 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("rules", list(itertools.product(RULES, RULES)), ids="-".join)
def test_coefficients_equal_the_pieces(case, rng, random_knots, rules):
    knots, values = random_knots(rng, 5), case.values(rng, 5, 2)
    control = case.make(knots, values, extrapolation=rules)
    for t0, t1 in ((knots[0], knots[-1]), (knots[0] - 9.0, knots[-1] + 9.0)):
        p = control.pieces(t0, t1)
        for sym in (ca.MX.sym, ca.SX.sym):
            U = sym("U", 2, 5)
            f = ca.Function("c", [U], [ca.horzcat(*control.casadi_coefficients(U, t0, t1))])
            got = call(f, values.T)[0].reshape(2, len(p.anchors), -1).transpose(1, 0, 2)
            scale = np.abs(p.coefficients).max()
            np.testing.assert_allclose(got, p.coefficients[0], rtol=1e-12, atol=1e-12 * scale)
    assert len(control.casadi_coefficients(ca.DM(values.T))) == 4


def test_outside_is_nan_where_the_rule_is_error(case, rng):
    knots, values = np.arange(5.0), case.values(rng, 5, 2)
    control = case.make(knots, values, extrapolation=("error", "hold"))
    t, U = ca.MX.sym("t"), ca.MX.sym("U", 2, 5)
    f = ca.Function("u", [t, U], [control.expression(t, U)])
    assert np.isnan(call(f, -0.1, values.T)[0]).all()
    np.testing.assert_allclose(call(f, 9.0, values.T)[0], values[-1])
    np.testing.assert_allclose(call(f, 0.0, values.T)[0], values[0])


def test_own_knots_need_one_trajectory(rng):
    control = PiecewiseLinear(np.array([[0.0, 1.0], [0.0, 2.0]]), rng.normal(size=(2, 2)))
    t, U = ca.MX.sym("t"), ca.MX.sym("U", 1, 2)
    with pytest.raises(ControlError, match=r"controls\[i\]"):
        control.expression(t, U)
    f = ca.Function("u", [t, U], [control[1].expression(t, U)])
    np.testing.assert_allclose(call(f, 0.5, control.values[1].T)[0], control(0.5)[1])
    with pytest.raises(ControlError, match=r"U: .*nu=1, K=2"):
        control[1].expression(t, ca.MX.sym("U", 2, 1))
    with pytest.raises(ControlError, match="t: expected one time"):
        control[1].expression(ca.MX.sym("t", 2), U)


def test_numbers_give_numbers(case, rng):
    values = case.values(rng, 5, 2)
    control = case.make(np.arange(5.0), values)
    u = control.expression(1.3, ca.DM(values.T))
    assert isinstance(u, ca.DM)
    np.testing.assert_allclose(u.full()[:, 0], control(1.3)[0], atol=1e-14)


def test_constant(rng):
    U = ca.MX.sym("U", 2, 1)
    u = Constant([1.0, 2.0])
    assert u.expression(ca.MX.sym("t"), U).shape == (2, 1) and len(u.casadi_coefficients(U)) == 1
    with pytest.raises(ControlError, match="nu=2, K=1"):
        u.expression(0.0, ca.MX.sym("U", 2, 2))
