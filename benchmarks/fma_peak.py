"""The floating-point peak that this machine really reaches: independent fused multiply-adds in registers."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from llvmlite import binding

from ctrlode_casadi.base.processors import available_threads
from ctrlode_casadi.cli import info

CHAINS = 12  # independent accumulators: more than latency x units of any current core, fits 16 registers
ITERATIONS = 2_000_000


def assembly(lanes: int, dtype: str) -> str:
    """A loop of CHAINS vector FMAs an iteration; the sum is stored so that nothing can be left out."""
    scalar = {"float64": "double", "float32": "float"}[dtype]
    suffix = {"float64": "f64", "float32": "f32"}[dtype]
    vector = f"<{lanes} x {scalar}>"
    chains = range(CHAINS)
    phis = "\n".join(f"  %a{i} = phi {vector} [ %start{i}, %entry ], [ %b{i}, %loop ]" for i in chains)
    fmas = "\n".join(
        f"  %b{i} = call {vector} @llvm.fma.v{lanes}{suffix}({vector} %a{i}, {vector} %x, {vector} %y)" for i in chains
    )
    starts = "\n".join(f"  %start{i} = load {vector}, ptr %in, align 4" for i in chains)
    stores = "\n".join(
        f"  %o{i} = getelementptr {vector}, ptr %out, i64 {i}\n  store {vector} %b{i}, ptr %o{i}, align 4"
        for i in chains
    )
    return f"""
declare {vector} @llvm.fma.v{lanes}{suffix}({vector}, {vector}, {vector})
define void @spin(i64 %n, ptr %in, ptr %out) {{
entry:
{starts}
  %px = getelementptr {vector}, ptr %in, i64 1
  %x = load {vector}, ptr %px, align 4
  %py = getelementptr {vector}, ptr %in, i64 2
  %y = load {vector}, ptr %py, align 4
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %k1, %loop ]
{phis}
{fmas}
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %n
  br i1 %more, label %loop, label %done
done:
{stores}
  ret void
}}
"""


class Spinner:
    """The compiled loop; holds the engine, because the code lives in it."""

    def __init__(self, dtype: str) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        _, features = info.cpu()
        self.lanes = info.register_bytes(features) // (8 if dtype == "float64" else 4)
        target = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=2
        )
        module = binding.parse_assembly(assembly(self.lanes, dtype))
        self.engine = binding.create_mcjit_compiler(module, target)
        self.engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        self.call = prototype(self.engine.get_function_address("spin"))
        self.number = ctypes.c_double if dtype == "float64" else ctypes.c_float

    def seconds(self, iterations: int) -> float:
        numbers = (self.number * (3 * self.lanes))(*([1.0] * self.lanes + [0.999] * self.lanes + [1e-3] * self.lanes))
        out = (self.number * (CHAINS * self.lanes))()
        start = time.perf_counter()
        self.call(iterations, ctypes.addressof(numbers), ctypes.addressof(out))
        return time.perf_counter() - start


@cache
def fma_peak(threads: int = 1, dtype: str = "float64", tries: int = 7) -> float:
    """Best rate in operations per second (an FMA counts as two) of `threads` cores running at once."""
    spinner = Spinner(dtype)
    operations = 2.0 * CHAINS * spinner.lanes * ITERATIONS
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(tries):
            slowest = max(pool.map(spinner.seconds, [ITERATIONS] * threads))
            best = max(best, threads * operations / slowest)
    return best


if __name__ == "__main__":
    for dtype in ("float64", "float32"):
        for threads in (1, available_threads()):
            print(f"{dtype} {threads} threads: {fma_peak(threads, dtype) / 1e9:.1f} GFLOP/s")
