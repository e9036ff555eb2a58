"""The array boundary against NumPy and CasADi's own calls."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.base import ControlError, DataError
from ctrlode_casadi.base.arrays import call, check_shape, floats, from_dm, shape_text, to_dm, vec


def test_floats_returns_the_same_array_when_nothing_changes() -> None:
    a = np.arange(6.0).reshape(3, 2)
    assert floats("a", a, ("B", ("nx", 2))) is a


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]], ((1, 2.5), (3, 4))])
def test_floats_takes_python_numbers(value: object) -> None:
    out = floats("a", value, ("B", ("nx", 2)))
    assert out.dtype == np.float64 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, np.asarray(value, float))


def test_floats_makes_contiguous_copies() -> None:
    a = np.asfortranarray(np.arange(6.0).reshape(3, 2))
    out = floats("a", a)
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, a)


def test_floats_takes_dm_and_empty_batches() -> None:
    np.testing.assert_array_equal(floats("a", ca.DM([[1.0, 2.0]]), (1, 2)), [[1.0, 2.0]])
    assert floats("a", np.zeros((0, 2)), ("B", 2)).shape == (0, 2)
    assert floats("a", [], ("K",)).dtype == np.float64


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([[1, 2]]), "dtype int64"),
        (np.array([[True, False]]), "dtype bool"),
        (np.array([[1j, 2]]), "dtype complex128"),
        (np.array([[None, 2]]), "dtype object"),
        ([["a", "b"]], "dtype <U1"),
        ([[1.0, 2.0], [3.0]], "unequal length"),
        (np.zeros((1, 2), np.float32), "must not be mixed"),
        (np.zeros((1, 3)), r"axis 1 must have 2 entries, it has 3"),
        (np.zeros(2), r"expected 2 axes \(B, nx=2\), got 1 axes"),
        (np.array([[0.0, np.nan]]), r"got nan at index \(0, 1\) \(1 of 2"),
        (np.array([[0.0, np.inf]]), "finite"),
        (ca.MX.sym("v", 1, 2), "symbolic"),
    ],
)
def test_floats_refuses(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as info:
        floats("x0", value, ("B", ("nx", 2)))
    assert str(info.value).startswith("x0: ")


def test_floats_missing_data_and_error_class() -> None:
    floats("data", np.array([np.nan]), ("T",), finite="nan")
    floats("data", np.array([np.inf]), ("T",), finite=False)
    with pytest.raises(ControlError, match="finite or NaN"):
        floats("data", np.array([np.inf]), ("T",), finite="nan", error=ControlError)


def test_masked_entries_are_never_used() -> None:
    values = np.array([1.0, 99.0, 3.0])
    masked = np.ma.masked_array(values, mask=[False, True, False])
    np.testing.assert_array_equal(floats("data", masked, finite="nan"), [1.0, np.nan, 3.0])
    np.testing.assert_array_equal(floats("ts", np.ma.masked_array(values, mask=False)), values)
    for value in (masked, [masked, masked], [1.0, np.ma.masked]):
        with pytest.raises(DataError, match=r"masked entries; mark missing data with NaN, value.filled\(np.nan\)"):
            floats("ts", value)
    with pytest.raises(DataError, match="masked"):
        floats("data", np.ma.masked_array([1, 2], mask=[True, False]), finite="nan")


def test_shapes() -> None:
    assert shape_text(("T",)) == "(T,)" and shape_text((None, 3, ("nu", 1))) == "(any, 3, nu=1)"
    check_shape("m", (3, 3), ("n", "n"))
    with pytest.raises(DataError, match="axis 1 must have 3 entries"):
        check_shape("m", (3, 4), ("n", "n"))


def test_dm_round_trip() -> None:
    m = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(from_dm(to_dm(m)), m)
    np.testing.assert_array_equal(from_dm(to_dm(m[0])), m[0])
    assert from_dm(to_dm(2.0)).shape == (1,)
    np.testing.assert_array_equal(vec(m), np.array(ca.vec(ca.DM(m))).ravel())


def test_call_equals_casadi_with_matrices_and_sparse_patterns() -> None:
    a, b = ca.SX.sym("a", 2, 3), ca.SX.sym("b", ca.Sparsity.lower(3))
    f = ca.Function("f", [a, b], [a @ b, ca.diag(a[0, :]), ca.sum1(ca.vec(a))])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    out = call(f, x, y)
    expected = f(x, ca.tril(ca.DM(y)))
    assert [o.shape for o in out] == [(2, 3), (3, 3), (1,)]
    for o, e in zip(out, expected, strict=True):
        np.testing.assert_allclose(o, from_dm(e), rtol=1e-15)


def test_call_with_empty_input() -> None:
    u = ca.MX.sym("u", 0)
    x = ca.MX.sym("x", 2)
    (out,) = call(ca.Function("f", [x, u], [2 * x]), [1, 2], np.zeros(0))
    np.testing.assert_array_equal(out, [2.0, 4.0])


def test_call_refuses_wrong_sizes() -> None:
    f = ca.Function("f", [ca.SX.sym("a", 2)], [ca.SX(1)], ["a"], ["r"])
    with pytest.raises(DataError, match=r"input 'a' must have 2 entries"):
        call(f, np.zeros(3))
    with pytest.raises(DataError, match="expected 1 inputs"):
        call(f)
