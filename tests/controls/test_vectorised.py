"""The jitted and the vectorised functions give the same bits, and small jobs do not load Numba."""

from __future__ import annotations

import itertools
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from ctrlode_casadi.controls import interpolated, kernels, vectorised

RULES = list(itertools.product(("hold", "linear", "periodic"), repeat=2))


def results(control, times, rng) -> list[np.ndarray]:
    """Everything that either implementation computes for a control."""
    change = rng.normal(size=control.values.shape)
    out = []
    for t in times:
        bar = rng.normal(size=control(t).shape)
        out += [control(t), control.derivative(t), control.jvp(t, change), control.vjp(t, bar)]
    for t0, t1 in ((-0.5, 1.0), (-9.0, 12.0), (1.0, 1.0), (7.0, 7.5)):
        for part in ((0, None), (1, 3)):
            coefficients = control.pieces(t0, t1, *part).coefficients
            bar = rng.normal(size=coefficients.shape)
            out += [coefficients, control.pieces_adjoint(t0, t1, bar, *part)]
        out.append(control.pieces_tangent(t0, t1, change))
    return out


def assert_same(control, times, monkeypatch) -> None:
    both = []
    for module in (kernels, vectorised):
        monkeypatch.setattr(interpolated, "implementation", lambda size, module=module: module)
        both.append(results(control, times, np.random.default_rng(3)))
    for jitted, plain in zip(*both, strict=True):
        assert jitted.dtype == plain.dtype
        np.testing.assert_array_equal(plain, jitted)
        np.testing.assert_array_equal(np.signbit(plain), np.signbit(jitted))


@pytest.mark.parametrize("rules", RULES, ids="-".join)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_same_bits(case, rng, random_knots, monkeypatch, rules, dtype):
    for own in (False, True):
        knots = random_knots(rng, 3, 6) if own else random_knots(rng, 6)
        for B in (3,) if own else (1, 3):
            values = case.values(rng, B, 6, 2).astype(dtype)
            control = case.make(knots, values, extrapolation=rules, dtype=dtype)
            shared = np.concatenate([knots.ravel(), np.linspace(-9.0, 14.0, 40), [knots.min() - 1e-17]])
            rows = np.stack([shared, shared[::-1], shared + 0.1])
            assert_same(control, [shared, rows, 1.0, np.zeros(0)], monkeypatch)


@pytest.mark.parametrize("K", [2, 3])
def test_same_bits_with_few_knots(case, rng, random_knots, monkeypatch, K):
    control = case.make(random_knots(rng, K), case.values(rng, 3, K, 1), extrapolation=("periodic", "linear"))
    assert_same(control, [np.linspace(-8.0, 8.0, 33)], monkeypatch)


@pytest.mark.parametrize("own", [False, True])
def test_same_bits_within_the_knots_and_of_an_empty_batch(case, rng, random_knots, monkeypatch, own):
    knots = np.tile(np.linspace(-9.0, 12.0, 8), (3, 1)) if own else np.linspace(-9.0, 12.0, 8)
    t = np.concatenate([np.linspace(-9.0, 12.0, 50), [np.nextafter(-9.0, -10.0), np.nextafter(12.0, 13.0)]])
    control = case.make(knots, case.values(rng, 3, 8, 1))
    assert_same(control, [t], monkeypatch)
    for module in (kernels, vectorised):
        monkeypatch.setattr(interpolated, "implementation", lambda size, module=module: module)
        empty = control[:0]
        coefficients = empty.pieces(-9.0, 12.0).coefficients
        assert empty(t).shape == empty.derivative(t).shape == (0, 52, 1)
        assert empty.vjp(t, np.zeros((0, 52, 1))).shape == (0, 8, 1)
        assert empty.pieces_adjoint(-9.0, 12.0, coefficients).shape == (0, 8, 1)


def test_which_implementation(monkeypatch):
    assert vectorised.implementation(1) is kernels  # loaded by the imports above
    loaded = sys.modules[kernels.__name__]
    monkeypatch.delitem(sys.modules, kernels.__name__)
    assert vectorised.implementation(vectorised.SMALL) is vectorised
    monkeypatch.setitem(sys.modules, kernels.__name__, loaded)
    large = vectorised.implementation(vectorised.SMALL + 1)
    assert isinstance(large, ModuleType) and large.__name__ == kernels.__name__


def test_small_jobs_do_not_load_numba():
    code = """
import sys
import numpy as np
from ctrlode_casadi.controls import PiecewiseConstant, PiecewiseLinear
knots = np.linspace(0.0, 10.0, 100)
for kind in (PiecewiseConstant, PiecewiseLinear):
    u = kind(knots, np.ones((100, 100, 1)))
    p = u.pieces(0.0, 10.0)
    u(knots), u.derivative(knots), u.vjp(knots, np.ones((100, 100, 1)))
    u.pieces_adjoint(0.0, 10.0, p.coefficients)
print("numba" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False"]


def test_a_large_job_loads_the_jitted_kernels():
    code = """
import sys
import numpy as np
from ctrlode_casadi.controls import PiecewiseLinear
PiecewiseLinear(np.arange(3.0), np.ones(3))(np.linspace(0.0, 2.0, 300_000))
print("numba" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["True"]
