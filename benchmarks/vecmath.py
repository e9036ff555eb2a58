"""Throughput of the vectorised elementary functions, NumPy as the peer.

    python benchmarks/vecmath.py [--quick] [names ...]

One array of 512 values in the first-level cache, in and out, repeated inside the compiled code; the best of
many runs. "instructions" are the vector instructions of the loop body but for moves. Cycles are nanoseconds
times the clock, taken from a chain of dependent FMAs at 4 cycles each (Intel since 2015). NumPy's time is for
its own loop over the same array, without allocation.
"""

from __future__ import annotations

import ctypes
import math
import re
import time
from collections.abc import Callable
from functools import partial

import llvmlite
import numpy as np
from llvmlite import binding, ir

from common import parser, print_machine, print_table
from ctrlode_casadi.lowering.vecmath.functions import VectorMath

SIZE = 512
BINARY = ("atan2", "pow", "hypot", "fmod", "remainder", "quotient", "div")
UNARY = (
    "exp", "expm1", "tanh", "log", "log1p", "sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan",
    "asinh", "acosh", "atanh", "erf", "erfinv", "sqrt", "sign",
)  # fmt: skip
PEERS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
         "atanh": "arctanh", "atan2": "arctan2", "pow": "power", "div": "divide"}  # fmt: skip


def emit(names: tuple[str, ...], dtype: str, lanes: int, avx512: bool) -> ir.Module:
    """void f(x, y, out, repetitions) for each name, over SIZE values."""
    module = ir.Module("vecmath")
    functions = VectorMath(module, lanes, dtype, avx512)
    real = ir.DoubleType() if dtype == "float64" else ir.FloatType()
    vec, count = ir.VectorType(real, lanes), ir.IntType(64)
    for name in names:
        kind = ir.FunctionType(ir.VoidType(), [vec.as_pointer()] * 3 + [count])
        function = ir.Function(module, kind, f"f_{name}")
        for argument in function.args[:3]:
            argument.add_attribute("noalias")
        entry, outer, inner, latch, done = (function.append_basic_block() for _ in range(5))
        b = ir.IRBuilder(entry)
        b.branch(outer)
        b.position_at_end(outer)
        k = b.phi(count)
        k.add_incoming(count(0), entry)
        b.branch(inner)
        b.position_at_end(inner)
        i = b.phi(count)
        i.add_incoming(count(0), outer)
        x = [b.load(b.gep(p, [i]), align=64) for p in function.args[: 2 if name in BINARY else 1]]
        b.store(getattr(functions, name)(b, *x), b.gep(function.args[2], [i]), align=64)
        following = b.add(i, count(1))
        i.add_incoming(following, inner)
        b.cbranch(b.icmp_signed("<", following, count(SIZE // lanes)), inner, latch)
        b.position_at_end(latch)
        again = b.add(k, count(1))
        k.add_incoming(again, latch)
        b.cbranch(b.icmp_signed("<", again, function.args[3]), outer, done)
        b.position_at_end(done)
        b.ret_void()
    return module


class Compiled:
    """Machine code of a module, for this machine or with some of its features left out."""

    def __init__(self, module: ir.Module, wide: bool, without: str = "") -> None:
        text = str(module)
        if wide:  # llvmlite cannot spell string attributes
            text = re.sub(r"^(define .*\))$", r'\1 "prefer-vector-width"="512"', text, flags=re.MULTILINE)
        parsed = binding.parse_assembly(text)
        features = binding.get_host_cpu_features().flatten() + ",-prefer-256-bit" + without
        target = binding.Target.from_default_triple()
        machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=3)
        options = binding.PipelineTuningOptions(speed_level=3)
        options.loop_unrolling = False
        builder = binding.create_pass_builder(machine, options)
        builder.getModulePassManager().run(parsed, builder)
        self.assembly = machine.emit_assembly(parsed)
        self.engine = binding.create_mcjit_compiler(parsed, machine)
        self.engine.finalize_object()

    def function(self, name: str) -> Callable[[int, int, int, int], None]:
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
        return kind(self.engine.get_function_address(f"f_{name}"))

    def instructions(self, name: str) -> int:
        """Vector instructions of the longest block of a function, without moves."""
        body = self.assembly[self.assembly.index(f"\nf_{name}:") :]
        blocks = re.split(r"\n\.LBB", body[: body.index(".Lfunc_end")])[1:]
        moves = re.compile(r"v(mov|zeroupper)")
        return max(
            sum(bool(re.match(r"[v]\w+", line)) and not moves.match(line) for line in map(str.strip, block.split("\n")))
            for block in blocks
        )


def aligned(values: np.ndarray, dtype: str) -> np.ndarray:
    raw = np.zeros(SIZE * 8 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    made = raw[start : start + SIZE * np.dtype(dtype).itemsize].view(dtype)
    made[:] = values
    return made


def best(run: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def clock(rounds: int) -> float:
    """GHz, from dependent FMAs at 4 cycles each."""
    text = """
    declare double @llvm.fma.f64(double, double, double)
    define double @f_chain(i64 %n, double %a) {
    entry:
      br label %loop
    loop:
      %k = phi i64 [ 0, %entry ], [ %k1, %loop ]
      %x = phi double [ %a, %entry ], [ %y, %loop ]
      %y = call double @llvm.fma.f64(double %x, double %a, double %a)
      %k1 = add i64 %k, 1
      %more = icmp slt i64 %k1, %n
      br i1 %more, label %loop, label %done
    done:
      ret double %y
    }"""
    code = Compiled(text, False)
    kind = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int64, ctypes.c_double)
    run = kind(code.engine.get_function_address("f_chain"))
    return 4.0 * 100_000 / best(lambda: run(100_000, 0.5), rounds) / 1e9


def measure(dtype: str, lanes: int, names: tuple[str, ...], rounds: int) -> None:
    host = binding.get_host_cpu_features()
    variants = {"AVX-512": (True, ""), "generic, 512 bits": (False, ""),
                "generic, AVX2": (False, ",-avx512f,-avx512dq,-avx512vl,-avx512bw")}  # fmt: skip
    if not (host.get("avx512f") and host.get("avx512dq")):
        variants = {"generic": (False, "")}
    code = {label: Compiled(emit(names, dtype, lanes, avx), avx, without) for label, (avx, without) in variants.items()}
    random = np.random.default_rng(0)
    x, y, out = (aligned(v, dtype) for v in (random.uniform(0.01, 0.99, SIZE), random.uniform(0.5, 2.0, SIZE), 0.0))
    vectors, repetitions, ghz = SIZE // lanes, 100, clock(rounds)
    rows = []
    for name in names:
        argument = x + 1.0 if name == "acosh" else x
        x_in = aligned(argument, dtype)
        row = [name]
        for compiled in code.values():
            arguments = (x_in.ctypes.data, y.ctypes.data, out.ctypes.data, repetitions)
            ns = best(partial(compiled.function(name), *arguments), rounds) / repetitions / vectors * 1e9
            row.append(f"{compiled.instructions(name)} / {ns:.2f} / {ns * ghz:.0f}")
        peer = getattr(np, PEERS.get(name, name), None)
        operands = (x_in, y) if name in BINARY else (x_in,)
        seconds = best(partial(peer, *operands, out=out), 5 * rounds) if peer else math.nan
        row.append(f"{seconds / vectors * 1e9:.1f}" if peer else "-")
        rows.append(row)
    print(f"{dtype}, {lanes} lanes, {ghz:.2f} GHz: instructions / ns / cycles per vector\n")
    print_table(["function", *code, f"NumPy {np.__version__}, ns"], rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("names", nargs="*", help="functions; default all")
    chosen = options.parse_args()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    names = tuple(chosen.names) or (UNARY + BINARY)
    print_machine()
    print(f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, binding.llvm_version_info))}\n")
    for dtype, lanes in (("float64", 8), ("float32", 16)):
        measure(dtype, lanes, names, 5 if chosen.quick else 40)


if __name__ == "__main__":
    main()
