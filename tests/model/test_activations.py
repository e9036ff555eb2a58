"""Activations against torch's definitions in multiple precision, their derivatives, and the far tails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import casadi as ca
import mpmath as mp
import numpy as np
import pytest

from ctrlode_casadi.base import ModelError
from ctrlode_casadi.base.arrays import call
from ctrlode_casadi.model.activations import activations, find_activation

SCALE = mp.mpf("1.0507009873554804934193349852946")
ALPHA = mp.mpf("1.6732632423543772848170429916717")


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def softplus(x: Any) -> Any:
    return mp.log1p(mp.exp(x))


def clamp(x: Any, low: float, high: float) -> Any:
    return min(max(x, low), high)


# The definitions of the torch 2 documentation, term by term.
TORCH: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "tanh": mp.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: max(mp.mpf(0), x),
    "leaky_relu": lambda x: x if x > 0 else x / 100,
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "selu": lambda x: SCALE * (x if x > 0 else ALPHA * mp.expm1(x)),
    "celu": lambda x: max(mp.mpf(0), x) + min(mp.mpf(0), mp.expm1(x)),
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
    "silu": lambda x: x * sigmoid(x),
    "swish": lambda x: x * sigmoid(x),
    "softplus": softplus,
    "mish": lambda x: x * mp.tanh(softplus(x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "hard_tanh": lambda x: clamp(x, -1, 1),
    "hard_sigmoid": lambda x: clamp(x + 3, 0, 6) / 6,
    "relu6": lambda x: clamp(x, 0, 6),
    "log_sigmoid": lambda x: -softplus(-x),
    "tanhshrink": lambda x: x - mp.tanh(x),
    "sin": mp.sin,
    "cos": mp.cos,
    "exp": mp.exp,
    "square": lambda x: x * x,
}
# Values that torch 2 prints in float64.
TORCH_VALUES = {
    ("selu", -1.0): -1.1113307378125628,
    ("selu", 2.0): 2.101401974710961,
    ("elu", -1.0): -0.6321205588285577,
    ("gelu", 1.0): 0.8413447460685429,
    ("gelu", -0.5): -0.15426876936299347,
    ("silu", 1.0): 0.7310585786300049,
    ("softplus", 0.0): 0.6931471805599453,
    ("hard_sigmoid", 1.0): 0.6666666666666666,
    ("log_sigmoid", 0.0): -0.6931471805599453,
    ("leaky_relu", -3.0): -0.03,
}
#: Slopes and curvatures at 0, where a formula with branches goes wrong first; torch's slope where there is a
#: kink.
AT_ZERO = {
    "relu": (0.0, 0.0),
    "leaky_relu": (0.01, 0.0),
    "elu": (1.0, 1.0),
    "celu": (1.0, 1.0),
    "selu": (float(SCALE * ALPHA), float(SCALE * ALPHA)),
    "sigmoid": (0.25, 0.0),
    "silu": (0.5, 0.5),
    "softplus": (0.5, 0.25),
    "log_sigmoid": (0.5, -0.25),
    "mish": (0.6, 0.64),
    "softsign": (1.0, 0.0),
}
# Formulae that torch evaluates with a cancellation in the left tail: exact to rounding of 1, not of the
# value.
ABSOLUTE = {"gelu", "gelu_tanh", "tanhshrink", "hard_sigmoid", "sin", "cos"}
POINTS = [
    -700,
    -300,
    -88.5,
    -40,
    -20.5,
    -5,
    -1.3,
    -0.7,
    -1e-3,
    -1e-9,
    1e-9,
    1e-3,
    0.4,
    1.7,
    5,
    19,
    40,
    300,
    700,
]
SMOOTH_POINTS = [-30.0, -9.0, -2.6, -0.8, -0.013, 0.013, 0.7, 2.3, 5.5, 30.0]


def orders(name: str) -> ca.Function:
    """Value, first and second derivative by forward mode, and both by reverse mode, of one entry."""
    x, one = ca.MX.sym("x"), ca.MX(1)
    y = activations[name](x)
    forward = ca.jtimes(y, x, one)
    reverse = ca.jtimes(y, x, one, True)
    return ca.Function(
        name,
        [x],
        [
            y,
            forward,
            reverse,
            ca.jtimes(forward, x, one),
            ca.jtimes(reverse, x, one, True),
            ca.jtimes(reverse, x, one),
        ],
    )


def evaluate(f: ca.Function, x: float) -> list[float]:
    return [float(v[0]) for v in call(f, x)]


def test_every_row_has_a_definition() -> None:
    assert set(TORCH) == set(activations)


@pytest.mark.parametrize("name", list(activations))
def test_values_equal_torch(name: str) -> None:
    with mp.workdps(60):
        for x in POINTS:
            expected = float(TORCH[name](mp.mpf(x)))
            got = activations[name](x)
            scale = max(1.0, abs(x)) if name in ABSOLUTE else 0.0
            assert got == pytest.approx(expected, rel=2e-15, abs=4e-16 * scale + 1e-323), (name, x)


@pytest.mark.parametrize(("name", "x"), TORCH_VALUES)
def test_values_printed_by_torch(name: str, x: float) -> None:
    assert activations[name](x) == pytest.approx(TORCH_VALUES[name, x], rel=1e-15)


@pytest.mark.parametrize("name", list(activations))
def test_derivatives_equal_multiple_precision_differences(name: str) -> None:
    f = orders(name)
    with mp.workdps(50):
        for x in SMOOTH_POINTS:
            first, second = (float(mp.diff(TORCH[name], mp.mpf(x), n, h=mp.mpf("1e-12"))) for n in (1, 2))
            _, f1, r1, ff, rr, fr = evaluate(f, x)
            size = max(1.0, abs(first), abs(second))
            np.testing.assert_allclose([f1, r1], first, rtol=1e-9, atol=2e-13 * size, err_msg=f"{name} at {x}")
            np.testing.assert_allclose([ff, rr, fr], second, rtol=1e-9, atol=2e-11 * size, err_msg=f"{name} at {x}")


@pytest.mark.parametrize("name", list(AT_ZERO))
def test_derivatives_at_zero(name: str) -> None:
    _, f1, r1, ff, rr, fr = evaluate(orders(name), 0.0)
    slope, curvature = AT_ZERO[name]
    np.testing.assert_allclose([f1, r1], slope, rtol=1e-15)
    np.testing.assert_allclose([ff, rr, fr], curvature, rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("name", ["hard_tanh", "hard_sigmoid", "relu6"])
def test_slope_of_clamped_functions_is_zero_at_the_bounds(name: str) -> None:
    for x in {"hard_tanh": (-1, 1), "hard_sigmoid": (-3, 3), "relu6": (0, 6)}[name]:
        assert evaluate(orders(name), x)[1:3] == [0.0, 0.0]


@pytest.mark.parametrize("name", [n for n in activations if n not in ("exp", "square")])
def test_far_tails_are_finite_in_value_and_derivatives(name: str) -> None:
    f = orders(name)
    for magnitude in (30.0, 88.8, 354.9, 700.0, 709.9, 745.2, 1e4, 1e8):
        for x in (-magnitude, magnitude):
            values = evaluate(f, x)
            assert np.isfinite(values).all(), (name, x, values)
            assert values[1] == pytest.approx(values[2], rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("name", [n for n in activations if n not in ("exp", "square")])
def test_gradient_of_a_network_of_far_tails_is_finite(name: str) -> None:
    z, p = ca.MX.sym("z", 6), ca.MX.sym("p", 36)
    act = activations[name]
    out = ca.sum1(act(ca.mtimes(ca.reshape(p, 6, 6), act(z))))
    grad = ca.gradient(out, p)
    f = ca.Function("f", [z, p], [grad, ca.jtimes(grad, p, ca.MX.ones(36)), ca.hessian(out, z)[0]])
    results = call(f, [-1e4, -700, -1, 1, 700, 1e4], np.linspace(-300, 300, 36))
    assert all(np.isfinite(r).all() for r in results)


@pytest.mark.parametrize("name", ["exp", "square"])
def test_growing_functions_are_finite_up_to_700(name: str) -> None:
    for x in (-1e4, -700.0, 700.0):
        assert np.isfinite(evaluate(orders(name), x)).all()


@pytest.mark.parametrize("name", [n for n in activations if n not in ("exp", "square")])
def test_exponentials_see_no_positive_argument(name: str) -> None:
    """In float32 exp(89) is infinite: the intermediate values must stay small, not just the result."""
    x = ca.SX.sym("x")
    y = activations[name](x)
    f = ca.Function(name, [x], [y, ca.jacobian(y, x)], {"cse": True})
    for at in (-1e4, -90.0, 90.0, 1e4):
        work = [0.0] * f.sz_w()
        for k in range(f.n_instructions()):
            op, inputs, outputs = f.instruction_id(k), f.instruction_input(k), f.instruction_output(k)
            if op == ca.OP_CONST:
                work[outputs[0]] = f.instruction_constant(k)
            elif op == ca.OP_INPUT:
                work[outputs[0]] = at
            elif op != ca.OP_OUTPUT:
                if op in (ca.OP_EXP, ca.OP_EXPM1):
                    assert work[inputs[0]] <= 0
                a, b = ca.SX.sym("a"), ca.SX.sym("b")
                pair = [work[i] for i in inputs]
                one = ca.Function("one", [a, b], [ca.SX.binary(op, a, b) if len(pair) == 2 else ca.SX.unary(op, a)])
                work[outputs[0]] = float(one(pair[0], pair[-1]))
                assert abs(work[outputs[0]]) < 1e13


@pytest.mark.parametrize("name", list(activations))
def test_all_kinds_agree_and_keep_their_kind(name: str) -> None:
    values = np.array([[-2.5, -0.3, 0.0], [0.4, 1.0, 7.0]])
    act = activations[name]
    array = act(values)
    assert isinstance(array, np.ndarray) and array.shape == (2, 3)
    dm = act(ca.DM(values))
    assert isinstance(dm, ca.DM)
    np.testing.assert_array_equal(dm.full(), array)
    for kind in (ca.SX, ca.MX):
        x = kind.sym("x", 2, 3)
        y = act(x)
        assert isinstance(y, kind) and y.shape == (2, 3)
        np.testing.assert_array_equal(ca.Function("f", [x], [y])(values).full(), array)
    assert isinstance(act(0.5), float)
    assert act(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("name", [n for n in activations if not n.startswith("hard") and n != "identity"])
def test_nan_stays_visible(name: str) -> None:
    assert math.isnan(activations[name](math.nan))


def test_table() -> None:
    assert activations.selu is activations["selu"] and "tanh" in activations and "tahn" not in activations
    assert activations.get("nothing") is None
    assert find_activation("swish")(0.0) == 0.0 and find_activation(ca.tanh) is ca.tanh
    for lookup in (lambda: activations["tahn"], lambda: activations.tahn, lambda: find_activation("tahn")):
        with pytest.raises(ModelError, match=r"unknown name 'tahn'; did you mean 'tanh'\?"):
            lookup()
    with pytest.raises(ModelError, match="expected a name or a callable"):
        find_activation(3)  # type: ignore[arg-type]
