"""Vector functions against mpmath over the whole range, and their special values against the C library."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from llvmlite import binding, ir
from numpy.typing import NDArray

from ctrlode_casadi.lowering.vecmath import LIMITS, ULP_BOUNDS, VectorMath

mpmath_context = mpmath.mp.clone()
mpmath_context.prec = 140
M = mpmath_context

HOST = binding.get_host_cpu_features()
AVX512 = bool(HOST.get("avx512f") and HOST.get("avx512dq"))
WAYS = [pytest.param(False, id="generic"),
        pytest.param(True, id="avx512", marks=pytest.mark.skipif(not AVX512, reason="no AVX-512"))]  # fmt: skip
DTYPES = ["float64", "float32"]
TRUTH: dict[str, Callable[..., mpmath.mpf]] = {
    "exp": M.exp, "expm1": M.expm1, "log": M.log, "log1p": M.log1p, "tanh": M.tanh, "sin": M.sin, "cos": M.cos,
    "tan": M.tan, "sinh": M.sinh, "cosh": M.cosh, "asin": M.asin, "acos": M.acos, "atan": M.atan, "asinh": M.asinh,
    "acosh": M.acosh, "atanh": M.atanh, "erf": M.erf, "erfinv": M.erfinv, "sqrt": M.sqrt,
    "atan2": M.atan2, "pow": M.power, "hypot": M.hypot, "quotient": M.fdiv,
}  # fmt: skip
C_MATH: dict[str, Callable[..., float]] = {
    "fmod": math.fmod, "remainder": math.remainder, "copysign": math.copysign, "floor": np.floor, "ceil": np.ceil,
    "fabs": np.fabs, "fmin": np.fmin, "fmax": np.fmax, "sign": np.sign, "div": np.divide,
}  # fmt: skip
BINARY = {"atan2", "pow", "hypot", "quotient", "fmod", "remainder", "copysign", "fmin", "fmax", "div"}
LOWER = {"log": 0.0, "sqrt": 0.0, "log1p": -1.0, "acosh": 1.0, "asin": -1.0, "acos": -1.0, "atanh": -1.0, "erfinv": -1.0}
UPPER = {"asin": 1.0, "acos": 1.0, "atanh": 1.0, "erfinv": 1.0}
PERIODIC = {"sin", "cos", "tan"}
Array = NDArray[np.floating]


class Compiled:
    """Every function as a loop over arrays, for one type."""

    def __init__(self, dtype: str, lanes: int, avx512: bool, names: tuple[str, ...] = ()) -> None:
        self.dtype, self.lanes = np.dtype(dtype), lanes
        module = ir.Module("test")
        functions = VectorMath(module, lanes, dtype, avx512)
        vec = ir.VectorType(ir.DoubleType() if dtype == "float64" else ir.FloatType(), lanes)
        for name in names or (*TRUTH, *C_MATH, "reciprocal"):
            _loop(module, functions, name, vec)
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        text = re.sub(r"^(define .*\))$", r'\1 "prefer-vector-width"="512"', str(module), flags=re.MULTILINE)
        parsed = binding.parse_assembly(text)
        parsed.verify()
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=HOST.flatten() + ",-prefer-256-bit", opt=2
        )
        builder = binding.create_pass_builder(machine, binding.PipelineTuningOptions(speed_level=2))
        builder.getModulePassManager().run(parsed, builder)
        self.text = str(parsed)
        self.engine = binding.create_mcjit_compiler(parsed, machine)
        self.engine.finalize_object()

    def __call__(self, name: str, x: Array, y: Array | None = None) -> Array:
        n = -(-x.size // self.lanes)
        buffers = [np.ones(n * self.lanes, self.dtype) for _ in range(3)]
        buffers[0][: x.size] = x
        if y is not None:
            buffers[1][: x.size] = y
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
        kind(self.engine.get_function_address(f"f_{name}"))(*(v.ctypes.data for v in buffers), n)
        return buffers[2][: x.size]


def _loop(module: ir.Module, functions: VectorMath, name: str, vec: ir.VectorType) -> None:
    count = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [vec.as_pointer()] * 3 + [count]), f"f_{name}")
    entry, loop, done = (function.append_basic_block() for _ in range(3))
    b = ir.IRBuilder(entry)
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(count)
    i.add_incoming(count(0), entry)
    x = [b.load(b.gep(p, [i]), align=4) for p in function.args[: 2 if name in BINARY else 1]]
    b.store(getattr(functions, name)(b, *x), b.gep(function.args[2], [i]), align=4)
    following = b.add(i, count(1))
    i.add_incoming(following, loop)
    b.cbranch(b.icmp_signed("<", following, function.args[3]), loop, done)
    b.position_at_end(done)
    b.ret_void()


_compiled: dict[tuple[str, bool], Compiled] = {}


def compiled(dtype: str, avx512: bool) -> Compiled:
    key = (dtype, avx512)
    if key not in _compiled:
        _compiled[key] = Compiled(dtype, 8 if dtype == "float64" else 16, avx512)
    return _compiled[key]


def _arguments(name: str, dtype: str) -> Array:
    """All exponents, a dense middle, neighbours of 1 and of multiples of pi, edges of overflow; inside the domain."""
    rng, info = np.random.default_rng(sum(map(ord, name))), np.finfo(dtype)
    few = 60 if name == "erfinv" else 250
    sign = rng.choice([-1.0, 1.0], few)
    every = sign * np.ldexp(rng.uniform(1.0, 2.0, few), rng.integers(info.minexp, info.maxexp, few))
    near_one = sign * (1.0 + rng.choice([-1, 1], few) * np.exp(rng.uniform(math.log(float(info.eps)), -0.5, few)))
    middle = sign * np.exp(rng.uniform(-14.0, 4.5, few))
    tails = rng.uniform(-760.0, 760.0, few) * (1.0 if dtype == "float64" else 0.14)
    subnormal = sign * rng.uniform(0.0, 1.0, few) * float(info.tiny)
    linear = rng.uniform(-1.5, 1.5, 2 * few)
    parts = [every, near_one, middle, tails, subnormal, linear]
    if name in PERIODIC:
        top = 1e9 if dtype == "float64" else 1e5
        multiples = np.pi / 2 * np.rint(np.exp(rng.uniform(0.0, math.log(top / 2), few)))
        parts = [*(p[np.abs(p) < top] for p in parts), rng.uniform(-top, top, few), multiples, np.pi / 2 * np.arange(-40, 40)]
    x = np.concatenate(parts).astype(dtype)
    return x[(x > LOWER.get(name, -np.inf)) & (x < UPPER.get(name, np.inf)) & np.isfinite(x)]


def _pairs(name: str, dtype: str) -> tuple[Array, Array]:
    rng, info, n = np.random.default_rng(7), np.finfo(dtype), 500
    half = info.maxexp // 2 - 5 if name == "quotient" else info.maxexp - 1

    def wide() -> Array:
        return rng.choice([-1.0, 1.0], n) * np.ldexp(rng.uniform(1.0, 2.0, n), rng.integers(-half, half, n))

    x, y = np.concatenate([wide(), rng.normal(size=n)]), np.concatenate([wide(), rng.normal(size=n)])
    if name == "pow":
        x = np.abs(x)
        limit = 0.69 * info.maxexp * rng.uniform(-1.1, 1.0, 2 * n)
        y = np.where(np.arange(2 * n) < n, limit / np.log(x), 3.0 * y)
        x[-100:], y[-100:] = -x[-100:], np.rint(y[-100:])
    x, y = x.astype(dtype), y.astype(dtype)
    keep = np.isfinite(x) & np.isfinite(y) & (y != 0.0)
    return x[keep], y[keep]


def _errors(got: Array, arguments: tuple[Array, ...], name: str) -> Array:
    """Errors in ulp of the truth; a subnormal truth has the ulp of the smallest normal, overflow must be overflow."""
    info = np.finfo(got.dtype)
    errors = np.zeros(got.size)
    for k, values in enumerate(zip(*arguments)):
        exact = TRUTH[name](*(M.mpf(float(v)) for v in values))
        size = abs(exact)
        if size > M.mpf(float(info.max)):
            errors[k] = 0.0 if np.isinf(got[k]) or got[k] == math.copysign(info.max, exact) else math.inf
            continue
        if not np.isfinite(got[k]):
            near = size > M.mpf(float(info.max)) * (1 - 4 * float(info.eps))
            errors[k] = 1.0 if near and np.isinf(got[k]) else math.inf
            continue
        ulp = np.spacing(got.dtype.type(float(max(size, M.mpf(float(info.tiny))))))
        errors[k] = float(abs(M.mpf(float(got[k])) - exact) / M.mpf(float(ulp)))
    return errors


_memory: dict[tuple[str, str], tuple[Array, ...]] = {}


@pytest.mark.parametrize("avx512", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(TRUTH))
def test_error_is_within_the_stated_bound(name: str, dtype: str, avx512: bool) -> None:
    arguments = _pairs(name, dtype) if name in BINARY else (_arguments(name, dtype),)
    got = compiled(dtype, avx512)(name, *arguments)
    errors = _errors(got, arguments, name)
    if name in LIMITS and "flushed" in LIMITS[name] and not avx512:
        errors[np.abs(got) == 0.0] = 0.0
    worst = int(np.argmax(errors))
    print(f"ULP {name} {dtype} {avx512} {errors[worst]:.3f}")
    assert errors[worst] <= ULP_BOUNDS[name][DTYPES.index(dtype)], [a[worst] for a in arguments] + [got[worst]]
