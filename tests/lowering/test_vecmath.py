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

from ctrlode_casadi.lowering.vecmath.functions import LIMITS, ULP_BOUNDS, VectorMath

mpmath_context = mpmath.mp.clone()
mpmath_context.prec = 140
M = mpmath_context

HOST = binding.get_host_cpu_features()
AVX512 = bool(HOST.get("avx512f") and HOST.get("avx512dq"))
WAYS = [
    pytest.param(avx512, id="avx512" if avx512 else "generic") for avx512 in ((False, True) if AVX512 else (False,))
]
DTYPES = ["float64", "float32"]
UNARY = [
    "exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan",
    "asinh", "acosh", "atanh", "erf", "erfinv", "sqrt",
]  # fmt: skip
TRUTH: dict[str, Callable[..., mpmath.mpf]] = {name: getattr(M, name) for name in UNARY} | {
    "atan2": M.atan2, "pow": M.power, "hypot": M.hypot, "quotient": M.fdiv,
}  # fmt: skip
C_MATH: dict[str, Callable[..., float]] = {
    "fmod": math.fmod, "remainder": math.remainder, "copysign": math.copysign, "floor": np.floor,
    "ceil": np.ceil, "fabs": np.fabs, "fmin": np.fmin, "fmax": np.fmax, "sign": np.sign, "div": np.divide,
}  # fmt: skip
BINARY = {"atan2", "pow", "hypot", "quotient", "fmod", "remainder", "copysign", "fmin", "fmax", "div"}
UPPER = dict.fromkeys(("asin", "acos", "atanh", "erfinv"), 1.0)
LOWER = {"log": 0.0, "sqrt": 0.0, "log1p": -1.0, "acosh": 1.0} | dict.fromkeys(UPPER, -1.0)
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
        self.source = text
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
    """All exponents, a dense middle, neighbours of 1 and of multiples of pi, edges of overflow.

    Inside the domain.
    """
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
        parts = [
            *(p[np.abs(p) < top] for p in parts),
            rng.uniform(-top, top, few),
            multiples,
            np.pi / 2 * np.arange(-40, 40),
        ]
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


def _errors(got: Array, arguments: tuple[Array, ...], name: str, flushed: bool) -> Array:
    """Errors in ulp of the truth, of the smallest normal for a subnormal truth; overflow must be overflow."""
    info = np.finfo(got.dtype)
    errors = np.zeros(got.size)
    for k, values in enumerate(zip(*arguments)):
        exact = TRUTH[name](*(M.mpf(float(v)) for v in values))
        size = abs(exact)
        if size > M.mpf(float(info.max)):
            errors[k] = 0.0 if np.isinf(got[k]) or got[k] == math.copysign(info.max, exact) else math.inf
            continue
        if flushed and got[k] == 0.0 and size < 4 * M.mpf(float(info.tiny)):
            continue
        if not np.isfinite(got[k]):
            near = size > M.mpf(float(info.max)) * (1 - 4 * float(info.eps))
            errors[k] = 1.0 if near and np.isinf(got[k]) else math.inf
            continue
        ulp = np.spacing(got.dtype.type(float(max(size, M.mpf(float(info.tiny))))))
        errors[k] = float(abs(M.mpf(float(got[k])) - exact) / M.mpf(float(ulp)))
    return errors


@pytest.mark.parametrize("avx512", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(TRUTH))
def test_error_is_within_the_stated_bound(name: str, dtype: str, avx512: bool) -> None:
    arguments = _pairs(name, dtype) if name in BINARY else (_arguments(name, dtype),)
    got = compiled(dtype, avx512)(name, *arguments)
    errors = _errors(got, arguments, name, flushed=name in ("exp", "pow") and not avx512)
    worst = int(np.argmax(errors))
    assert errors[worst] <= ULP_BOUNDS[name][DTYPES.index(dtype)], [
        *(a[worst] for a in arguments),
        got[worst],
    ]


def test_every_bound_is_tested() -> None:
    assert set(ULP_BOUNDS) == set(TRUTH) and set(LIMITS) <= set(TRUTH) | set(C_MATH)


@pytest.mark.parametrize("avx512", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_results_of_exp_with_avx512_are_right(dtype: str, avx512: bool) -> None:
    info = np.finfo(dtype)
    x = np.linspace(math.log(float(info.smallest_subnormal)) + 0.1, math.log(float(info.tiny)), 50).astype(dtype)
    got = compiled(dtype, avx512)("exp", x)
    if avx512:
        np.testing.assert_allclose(got, np.exp(x.astype("longdouble")), rtol=0, atol=float(info.smallest_subnormal))
    else:
        assert np.all(got <= 2 * info.tiny)


SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan]
NUMPY = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
         "atanh": "arctanh", "atan2": "arctan2", "pow": "power", "div": "divide"}  # fmt: skip
ODD_AT_ONE = {"erf": math.erf(1.0), "erfinv": math.inf}


def _c_value(name: str, x: float, y: float) -> float:
    """The C library's value; CasADi's for sign and erfinv."""
    if name in ODD_AT_ONE:
        if abs(x) > 1.0 or math.isnan(x):
            return math.copysign(1.0, x) if name == "erf" and not math.isnan(x) else math.nan
        return math.copysign(ODD_AT_ONE[name], x) if x else x
    if name == "sign":
        return x if x == 0.0 or math.isnan(x) else math.copysign(1.0, x)
    if name in ("fmod", "remainder"):
        try:
            return float(C_MATH[name](x, y))
        except ValueError:
            return math.nan
    function = getattr(np, NUMPY.get(name, name))
    operands = [np.array([v]) for v in ((x, y) if name in BINARY else (x,))]  # NumPy takes a scalar 0.5 for sqrt
    with np.errstate(all="ignore"):
        return float(function(*operands)[0])


@pytest.mark.parametrize("avx512", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in (*TRUTH, *C_MATH) if n not in ("quotient", "sin", "cos", "tan")])
def test_special_values_are_those_of_c(name: str, dtype: str, avx512: bool) -> None:
    others = [*SPECIAL, 2.0, -2.0, 3.0, 0.5, -2.5] if name in BINARY else [0.0]
    first = [*SPECIAL, 2.0, -3.0, 0.25] if name in BINARY else SPECIAL
    pairs = [(x, y) for x in first for y in others]
    x, y = (np.array(v, dtype) for v in zip(*pairs))
    got = compiled(dtype, avx512)(name, x, y)
    for (a, b), value in zip(pairs, got):
        expected = _c_value(name, a, b)
        assert float(value) == pytest.approx(expected, rel=4e-7 if dtype == "float32" else 1e-15, nan_ok=True), (a, b)
        # of two zeros of different sign C leaves it open which one is the smaller
        if not math.isnan(expected) and not (name in ("fmin", "fmax") and a == b == 0.0):
            assert math.copysign(1.0, value) == math.copysign(1.0, expected), (a, b)


@pytest.mark.parametrize("avx512", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sine_cosine_and_tangent_of_special_values(dtype: str, avx512: bool) -> None:
    f, x = compiled(dtype, avx512), np.array([0.0, -0.0, math.inf, -math.inf, math.nan], dtype)
    for name in ("sin", "tan"):
        got = f(name, x)
        assert np.all(got[:2] == 0.0) and np.signbit(got[:2]).tolist() == [False, True] and np.all(np.isnan(got[2:]))
    got = f("cos", x)
    assert np.all(got[:2] == 1.0) and np.all(np.isnan(got[2:]))


@pytest.mark.parametrize("avx512", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["fmod", "remainder"])
def test_remainders_are_exact(name: str, dtype: str, avx512: bool) -> None:
    rng = np.random.default_rng(3)
    y = rng.choice([-1.0, 1.0], 2000) * np.exp(rng.uniform(-8.0, 8.0, 2000))
    ratio = np.concatenate(
        [rng.normal(size=500), np.rint(rng.normal(size=500) * 9) + 0.5, np.rint(rng.normal(size=500) * 99)]
    )
    large = rng.normal(size=500) * (1e14 if dtype == "float64" else 1e6)
    x, y = (y * np.concatenate([ratio, large])).astype(dtype), y.astype(dtype)
    x[500:700], y[500:700] = np.rint(ratio[500:700]) + 0.5, 1.0
    got = compiled(dtype, avx512)(name, x, y)
    np.testing.assert_array_equal(got, [C_MATH[name](float(a), float(b)) for a, b in zip(x, y)])
    assert np.isnan(compiled(dtype, avx512)(name, np.array([1e30], dtype), np.array([1e-5], dtype)))[0]


@pytest.mark.parametrize("lanes", [1, 2, 4, 32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_lanes_gives_the_same_values(dtype: str, lanes: int) -> None:
    names = ("exp", "tanh", "log1p", "erf", "pow")
    narrow = Compiled(dtype, lanes, AVX512, names)
    wide = compiled(dtype, AVX512 and lanes == 32)
    x, y = np.linspace(0.01, 3.0, 77).astype(dtype), np.linspace(-2.0, 2.0, 77).astype(dtype)
    for name in names:
        np.testing.assert_array_equal(narrow(name, x, y), wide(name, x, y))


@pytest.mark.parametrize("avx512", WAYS)
def test_exp_and_expm1_of_one_argument_share_their_polynomial(avx512: bool) -> None:
    def fmas(*names: str) -> int:
        module, vec = ir.Module("pair"), ir.VectorType(ir.DoubleType(), 8)
        functions = VectorMath(module, 8, "float64", avx512)
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [vec, vec.as_pointer()]), "f")
        b = ir.IRBuilder(function.append_basic_block())
        for k, name in enumerate(names):
            value = getattr(functions, name)(b, function.args[0])
            b.store(value, b.gep(function.args[1], [ir.IntType(64)(k)]))
        b.ret_void()
        parsed = binding.parse_assembly(str(module))
        binding.initialize_native_target()
        machine = binding.Target.from_default_triple().create_target_machine()
        builder = binding.create_pass_builder(machine, binding.PipelineTuningOptions(speed_level=2))
        builder.getModulePassManager().run(parsed, builder)
        return str(parsed).count("call <8 x double> @llvm.fma")

    assert fmas("exp", "expm1") <= fmas("expm1") + 3


@pytest.mark.parametrize("avx512", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_branch_and_no_call_is_emitted(dtype: str, avx512: bool) -> None:
    code = compiled(dtype, avx512)
    called = set(re.findall(r"call [^@\n]*@([\w.]+)", code.text))
    assert all(name.startswith("llvm.") for name in called), called
    assert not {name.split(".")[1] for name in called} & {"exp", "log", "pow", "sin", "cos", "tan", "tanh"}
    assert "frem" not in code.text
    assert len(re.findall(r"^ *br ", code.source, flags=re.MULTILINE)) == 2 * code.source.count("define")


def test_wrong_types_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype"):
        VectorMath(ir.Module(), 8, "float16")
    with pytest.raises(ValueError, match="power of two"):
        VectorMath(ir.Module(), 6, "float64")
