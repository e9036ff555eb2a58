"""The language of the sweeps: arithmetic, control flow and refusals, through compiled code."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

from ctrlode_casadi.integrate.sweeps.language import Float, Int, Ints, doubles, fill, ints, sweep
from ctrlode_casadi.integrate.sweeps.translate import Translator
from ctrlode_casadi.integrate.sweeps.translate_values import TranslationError
from ctrlode_casadi.lowering.jit import compile_module, load_object


def compiled(function, result=ctypes.c_int64, args=(ctypes.c_int64,), dtype="float64"):
    translator = Translator(dtype)
    made, _, _ = translator.function(function, external=True)
    code, _ = compile_module(translator.module)
    return ctypes.CFUNCTYPE(result, *args)(load_object(code, (made.name,))[made.name])


@sweep
def collatz(n: Int) -> Int:
    """Steps of the Collatz iteration, with while, if and break."""
    count = 0
    while True:
        if n == 1:
            break
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        count += 1
    return count


@sweep
def divide(a: Int, b: Int) -> tuple[Int, Int]:
    """Quotient and remainder."""
    return a // b, a % b


@sweep
def mixed(n: Int) -> Int:
    """Loops with continue, a negative step, literal tuples, short-circuit conditions and tuple results."""
    total, small, big = 0, 0, 0
    for i in range(n, 0, -1):
        if i == 3:
            continue
        total += i
    for k in (1, 2, 4):
        total += k
    if (n > 0 and 100 // n > 1) or n == -7:
        total = total + 1000
    small, big = divide(total, 7)
    return 10 * small + big + min(n, 5) + max(2, n, 3)


@sweep
def functions(x: Float) -> Float:
    """Elementary functions; abs and a power."""
    y = math.sqrt(abs(x)) + math.exp(-x) + math.log(x + 1.0) + x**1.5 + math.ceil(x)
    return y if math.isfinite(y) and not x < 0 else -1.0


@sweep
def write(at: Int, n: Int) -> None:
    """Entries of pointers and a vector loop."""
    x = doubles(at)
    fill(at, 2.0, n)
    for i in range(n):
        x[i] += 0.5 * i


@sweep
def outside(n: Int) -> Int:
    """A construct that is not part of the language."""
    return [n][0]


@sweep
def unknown_name(a: Ints) -> Int:
    """A name that does not exist."""
    return ints(nothing)[0]  # noqa: F821


def python_mixed(n):
    total = sum(i for i in range(n, 0, -1) if i != 3) + 7
    total += 1000 if (n > 0 and 100 // n > 1) or n == -7 else 0
    return 10 * (total // 7) + total % 7 + min(n, 5) + max(2, n, 3)


def test_control_flow():
    run = compiled(collatz)
    assert [run(n) for n in (1, 6, 7, 27)] == [0, 8, 16, 111]
    run = compiled(mixed)
    assert [run(n) for n in (0, 1, 4, 40, 60)] == [python_mixed(n) for n in (0, 1, 4, 40, 60)]


def test_arithmetic():
    run = compiled(functions, ctypes.c_double, (ctypes.c_double,))
    for x in (0.0, 0.3, 2.5, 40.0):
        want = math.sqrt(x) + math.exp(-x) + math.log(x + 1) + x**1.5 + math.ceil(x)
        assert run(x) == pytest.approx(want, rel=1e-15)
    assert run(math.inf) == -1.0


def test_memory():
    memory = np.zeros(32)
    start = -memory.ctypes.data % 64 // 8
    part = memory[start : start + 16]
    compiled(write, None, (ctypes.c_int64, ctypes.c_int64))(part.ctypes.data, 16)
    assert np.array_equal(part, 2.0 + 0.5 * np.arange(16))


@pytest.mark.parametrize(
    ("function", "message"), [(outside, "List is not part"), (unknown_name, "unknown name nothing")]
)
def test_refusals_name_function_and_line(function, message):
    with pytest.raises(TranslationError, match=message):
        Translator("float64").function(function)


def test_sweep_functions_cannot_be_called():
    with pytest.raises(TypeError, match="compiled sweeps"):
        collatz(3)
