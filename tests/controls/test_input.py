"""What users may pass, and what bad input gets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ctrlode_casadi.base.errors import ControlError
from ctrlode_casadi.controls import Constant, CubicHermite, CubicSpline, PiecewiseConstant, PiecewiseLinear

K3 = [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("shape", "nu", "want"),
    [
        ((3,), None, (1, 3, 1)),
        ((5, 3), None, (5, 3, 1)),
        ((3, 2), None, (1, 3, 2)),
        ((5, 3, 2), None, (5, 3, 2)),
        ((3, 3), None, (3, 3, 1)),
        ((3, 3), 3, (1, 3, 3)),
        ((3, 1), 1, (1, 3, 1)),
        ((1, 3), None, (1, 3, 1)),
        ((0, 3), None, (0, 3, 1)),
    ],
)
def test_shapes_of_values(shape, nu, want):
    assert PiecewiseLinear(K3, np.zeros(shape), nu=nu).values.shape == want


def test_values_without_batch_axis_are_repeated_for_own_knots():
    u = PiecewiseLinear(np.array([K3, [0.0, 2.0, 4.0]]), np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]))
    assert u.values.shape == (2, 3, 2) and u.knots.shape == (2, 3) and u.breakpoints.shape == (2, 3)
    np.testing.assert_allclose(u(1.0), [[1.0, 2.0], [0.5, 1.5]])


@pytest.mark.parametrize(
    ("knots", "values", "message"),
    [
        ([0.0, 2.0, 1.0], np.zeros(3), r"knots: must be strictly increasing, got knots out of order: entry 1"),
        ([0.0, 1.0, 1.0], np.zeros(3), r"repeated knot: entry 1.*PiecewiseConstant"),
        ([K3, [0.0, 0.0, 1.0]], np.zeros((2, 3)), r"of trajectory 1: entry 0"),
        ([0.0], np.zeros(1), r"at least K=2"),
        (np.zeros((1, 2, 3)), np.zeros(3), r"\(K,\) or \(B, K\)"),
        ([0.0, np.nan, 1.0], np.zeros(3), r"knots: all entries must be finite"),
        (K3, np.zeros(4), r"values: .*axis 0 must have 3"),
        (K3, np.zeros((2, 4, 1)), r"values: .*axis 1 must have 3"),
        (K3, np.zeros((4, 2)), r"values: two axes are \(B, K=3\)"),
        (K3, np.zeros((3, 0)), r"nu=1"),
        (K3, np.zeros((1, 1, 3, 1)), r"values: expected"),
        (K3, [0.0, np.inf, 0.0], r"values: all entries must be finite, got inf at index 1"),
        (K3, np.array([1, "a", None], dtype=object), r"values: .*object"),
        (K3, np.ones(3, bool), r"values: .*bool"),
        (K3, np.ones(3, complex), r"values: .*complex"),
        (K3, np.ones(3, np.float32), r"values: .*float32"),
        (np.array([K3, K3]), np.zeros((3, 3, 1)), r"knots have B=2 rows, values have B=3"),
    ],
)
def test_bad_data(knots, values, message):
    with pytest.raises(ControlError, match=message):
        PiecewiseLinear(knots, values)


def test_bad_names():
    with pytest.raises(ControlError, match="did you mean 'hold'"):
        PiecewiseLinear(K3, np.zeros(3), extrapolation="holds")
    with pytest.raises(ControlError, match="pair"):
        PiecewiseLinear(K3, np.zeros(3), extrapolation=("hold",))
    with pytest.raises(ControlError, match="did you mean 'right'"):
        PiecewiseConstant(K3, np.zeros(3), side="rihgt")
    with pytest.raises(ControlError, match="did you mean 'natural'"):
        CubicSpline(K3, np.zeros(3), bc_type="naturel")
    with pytest.raises(ControlError, match="both ends"):
        CubicSpline(K3, np.zeros(3), bc_type=("periodic", "natural"))
    with pytest.raises(ControlError, match="dtype"):
        PiecewiseLinear(K3, np.zeros(3), dtype="float16")
    with pytest.raises(ControlError, match="nu: expected a positive integer"):
        PiecewiseLinear(K3, np.zeros(3), nu=0)


def test_periodic_spline_needs_equal_ends():
    with pytest.raises(ControlError, match=r"trajectory 1 component 0.*values\[:, -1\]"):
        CubicSpline(K3, np.array([[1.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), bc_type="periodic")
    u = CubicSpline(K3, np.array([1.0, 2.0, 1.0]), bc_type="periodic")
    with pytest.raises(ControlError, match="equal first and last"):
        u.with_values([1.0, 2.0, 3.0])


def test_with_values_keeps_nu():
    u = PiecewiseLinear(K3, np.zeros((3, 3)), nu=3)
    assert u.with_values(np.ones((3, 3))).values.shape == (1, 3, 3)
    with pytest.raises(ControlError, match=r"axis 2 must have 3"):
        u.with_values(np.ones((1, 3, 2)))


def test_slopes_of_hermite():
    u = CubicHermite(K3, np.zeros((2, 3, 1)), [0.0, 1.0, 0.0])
    assert u.slopes.shape == (2, 3, 1)
    assert u.with_values(np.ones((2, 3, 1))).slopes.shape == (2, 3, 1)
    with pytest.raises(ControlError, match=r"slopes.*axis 0 must have 3"):
        CubicHermite(K3, np.zeros(3), np.zeros(4))
    with pytest.raises(ControlError, match=r"values: axis 0 must have 1 or B=3"):
        CubicHermite(K3, np.zeros((2, 3, 1)), np.zeros((3, 3, 1)))


def test_integer_arrays_are_refused_and_integer_lists_are_not():
    with pytest.raises(ControlError, match="knots: expected an array of float64, got dtype int64"):
        PiecewiseLinear(np.arange(3), [0.0, 2.0, 4.0])
    with pytest.raises(ControlError, match="values: expected an array of float64, got dtype int64"):
        PiecewiseLinear([0.0, 1.0, 2.0], np.array([0, 2, 4]))
    assert PiecewiseLinear([0, 1, 2], [0, 2, 4])(0.5).item() == 1.0


def test_times_are_checked():
    u = PiecewiseLinear(K3, np.zeros((4, 3)))
    with pytest.raises(ControlError, match="t: all entries must be finite"):
        u([0.0, np.nan])
    with pytest.raises(ControlError, match="B=4"):
        u(np.zeros((3, 2)))
    with pytest.raises(ControlError, match=r"\(B, m\)"):
        u(np.zeros((4, 2, 1)))
    assert u([]).shape == (4, 0, 1)


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("changed", ["knots", "values", "slopes", "with_values"])
def test_what_a_user_writes_into_arrays_later_does_not_change_the_control(changed, view):
    arrays = {"knots": np.array(K3), "values": np.ones((2, 3, 1)), "slopes": np.ones((2, 3, 1))}
    given = {name: v.view() for name, v in arrays.items()}
    for v in given.values():
        v.flags.writeable = not view
    u = CubicHermite(given["knots"], given["values"], given["slopes"])
    if changed == "with_values":
        u, changed = u.with_values(given["values"]), "values"
    t = np.linspace(0.0, 2.0, 9)
    before = u(t).copy()
    arrays[changed] *= 7.0
    np.testing.assert_array_equal(u(t), before)
    assert u.pieces(0.0, 2.0).breaks.tolist() == K3


def test_constant_values_are_the_controls_own():
    values = np.array([1.0, 2.0])
    u = Constant(values)
    values[:] = 5.0
    assert u([0.0]).ravel().tolist() == [1.0, 2.0]


def test_arrays_of_a_control_cannot_be_written_to_and_are_shared_with_others():
    u = PiecewiseLinear(K3, np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match="read-only"):
        u.values[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        u.knots[0] = 1.0
    assert np.shares_memory(PiecewiseLinear(u.knots, u.values).values, u.values)
    assert np.shares_memory(u[1].values, u.values)


def test_slopes_out_of_range_are_refused():
    with pytest.raises(ControlError, match="slopes at the knots"):
        CubicSpline([0.0, 1e-300, 1.0, 2.0], [0.0, 1e300, 0.0, 0.0])(0.5)


def test_import_is_light():
    code = "import sys, ctrlode_casadi.controls; print('numba' in sys.modules, 'scipy.interpolate' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
