"""LLVM set-up: target machine, optimisation to object code, loading of object code."""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass

import llvmlite.binding as llvm
from llvmlite import ir

_LOCK = threading.RLock()
_ENGINES: list[llvm.ExecutionEngine] = []


@dataclass(frozen=True)
class Machine:
    """The processor that code is generated for."""

    triple: str
    cpu: str
    features: str

    @property
    def avx512(self) -> bool:
        """Whether 512-bit vectors with masks are there."""
        enabled = set(self.features.split(","))
        return {"+avx512f", "+avx512dq", "+avx512vl"} <= enabled

    @property
    def fused(self) -> bool:
        """Whether multiply-add is one instruction (all of x86-64 since 2013, all 64-bit ARM)."""
        return "x86" not in self.triple or "+fma" in self.features.split(",")

    @property
    def vector_bytes(self) -> int:
        """Bytes of a lane vector: one AVX-512 register; narrower machines use several registers for it."""
        return 64


@functools.cache
def host() -> Machine:
    """This machine."""
    with _LOCK:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features().flatten()
        return Machine(llvm.get_default_triple(), llvm.get_host_cpu_name(), features)


def _target_machine(effort: int = 2) -> llvm.TargetMachine:
    machine = host()
    features = machine.features + (",-prefer-256-bit" if machine.avx512 else "")
    target = llvm.Target.from_triple(machine.triple)
    return target.create_target_machine(cpu=machine.cpu, features=features, opt=effort, jit=True)


def compile_module(module: ir.Module, quick: bool = False) -> tuple[bytes, float]:
    """Optimise a module and return its object code and the seconds that took.

    ``quick`` is for long code that runs a short time: nothing but inlining. Measured for the Hessian of eight network
    stages: 1.9 s instead of 7.3 s, and code that takes 6 % longer.
    """
    began = time.perf_counter()
    with _LOCK:
        tm = _target_machine(1 if quick else 2)
        module.triple = tm.triple
        module.data_layout = str(tm.target_data)
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        # The emitters have vectorised and blocked already: level 1 runs within 3 % of level 3 and compiles in half the
        # time.
        options = llvm.create_pipeline_tuning_options(speed_level=0 if quick else 1)
        options.slp_vectorization = False
        options.loop_vectorization = False
        options.loop_unrolling = not quick
        builder = llvm.create_pass_builder(tm, options)
        builder.getModulePassManager().run(parsed, builder)
        code = tm.emit_object(parsed)
    return bytes(code), time.perf_counter() - began


def load_object(code: bytes, symbols: tuple[str, ...]) -> dict[str, int]:
    """Load object code and return the addresses of its symbols. The code stays loaded for the life of the process."""
    with _LOCK:
        tm = _target_machine()
        empty = llvm.parse_assembly(f'target triple = "{tm.triple}"')
        engine = llvm.create_mcjit_compiler(empty, tm)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _ENGINES.append(engine)
        return {name: engine.get_function_address(name) for name in symbols}
