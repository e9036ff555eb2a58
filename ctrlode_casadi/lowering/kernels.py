"""Lane kernels of a differentiable function: the contract between this layer and its users.

A kernel is a C function ``void k(T **in, T **out)``. Varying arrays are ``[n][L]``, C-contiguous. For a function F with
one uniform input p:

1. ``prologue``    in (p)                                        out (uni): whatever depends on p only, once per call;
2. ``value``       in (F's inputs, p replaced by uni)             out (F's outputs);
3. ``value_tape``  in the same                                    out (F's outputs, tape);
4. ``adjoint``     in (F's inputs with uni, tape, a seed per output)
                   out (bar of every varying input, overwritten; acc, added to). It reads nothing of F's inputs but uni:
                   what it needs of the others is on the tape;
5. ``finish``      in (acc, uni)                                  out (p_bar, added to).

Kernels do not allocate, cannot fail and share no state. Outputs must not overlap inputs.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

import casadi as ca

from ..base.errors import UnsupportedOperation
from . import cache
from .assemble import SYMBOLS, assemble
from .jit import Machine, compile_module, host, load_object
from .lanes import Target
from .version import FINGERPRINT


@dataclass(frozen=True)
class LaneKernels:
    """Addresses and sizes of the kernels of one function (sizes in numbers, per lane where so named).

    Parameters
    ----------
    lanes : int
        Trajectories per block, L.
    dtype : str
        "float64" or "float32".
    n_uni, n_acc : int
        Numbers in ``uni`` and ``acc``.
    n_tape : int
        Entries of the tape; it takes ``n_tape * lanes`` numbers.
    prologue, value, value_tape, adjoint, finish : int
        Addresses.
    width : int
        Numbers in a SIMD vector.
    from_cache : bool
        Whether the code was found on disk.
    code_bytes : int
        Size of the object code.
    compile_seconds : float
        Time in LLVM; 0 from the cache.
    """

    lanes: int
    dtype: str
    n_uni: int
    n_tape: int
    n_acc: int
    prologue: int
    value: int
    value_tape: int
    adjoint: int
    finish: int
    width: int
    from_cache: bool
    code_bytes: int
    compile_seconds: float

    @property
    def registers(self) -> int:
        """SIMD vectors per entry."""
        return self.lanes // self.width


_MADE: dict[str, LaneKernels] = {}
_LOCK = threading.RLock()


def lane_kernels(
    function: ca.Function,
    uniform: int | str = "p",
    lanes: int | None = None,
    dtype: str = "float64",
    batch: int = 1,
) -> LaneKernels:
    """Compile a function to lane kernels.

    Parameters
    ----------
    function : casadi.Function
        Any function of MX or SX expressions.
    uniform : int or str
        The input that all lanes share.
    lanes : int, optional
        Lanes per block, a multiple of the SIMD width; chosen from ``batch`` by default.
    dtype : str
        "float64" or "float32".
    batch : int
        Number of trajectories that will be run together.

    Returns
    -------
    LaneKernels

    Raises
    ------
    UnsupportedOperation
        If an instruction has no lowering; the message prints it.
    """
    index = function.index_in(uniform) if isinstance(uniform, str) else uniform
    machine = check_machine()
    target = target_for(lanes_for(batch, function.nnz_in(index), dtype) if lanes is None else lanes, dtype)
    key = cache.key_of(
        function.serialize(), str(index), repr(target), machine.triple, machine.cpu, machine.features, FINGERPRINT
    )
    with _LOCK:
        if key not in _MADE:
            _MADE[key] = _make(function, index, target, key)
        return _MADE[key]


def check_machine() -> Machine:
    """This machine; `UnsupportedOperation` where compiled lanes do not pay."""
    machine = host()
    if not machine.fused:
        raise UnsupportedOperation(
            f"processor: {machine.cpu} has no fused multiply-add, without which compiled lanes are slower than CasADi; "
            f"use backend='casadi'"
        )
    return machine


def target_for(lanes: int, dtype: str) -> Target:
    """What kernels with so many lanes are emitted for."""
    width = simd_width(dtype)
    if lanes == 1:
        return Target(dtype, 1, 1, host().avx512, row_width=width)
    if lanes <= 0 or lanes % width:
        raise UnsupportedOperation(f"lanes: must be 1 or a positive multiple of {width} for {dtype}, got {lanes}")
    return Target(dtype, width, lanes // width, host().avx512)


def simd_width(dtype: str) -> int:
    """Numbers in a SIMD vector."""
    return host().vector_bytes // (8 if dtype == "float64" else 4)


def lanes_for(batch: int, n_params: int, dtype: str) -> int:
    """Lanes per block for a batch of a function with ``n_params`` uniform numbers: 1, or whole SIMD vectors."""
    if batch <= few(n_params):
        return 1
    width = simd_width(dtype)
    return registers_for(batch, width) * width


def few(n_params: int) -> int:
    """Largest batch that runs faster trajectory by trajectory, with vectors over the entries of a layer.

    Measured for layers of 10 to 64 units: one lane costs a quarter to a half of a block of eight.
    """
    return 4 if n_params >= 500 else 2


def registers_for(batch: int, width: int) -> int:
    """SIMD vectors per entry for a batch: few idle lanes, and as wide as the register file allows.

    The relative speed per lane was measured with benchmarks/scaling.py for layers of 10 to 128 units. Every core of the
    machine should have a block, so the longest share counts.
    """
    speed = {1: 0.88, 2: 1.0, 4: 0.98} if host().avx512 else {1: 1.0, 2: 0.9}
    vectors = -(-max(batch, 1) // width)
    cores = os.cpu_count() or 1

    def cost(registers: int) -> float:
        blocks = -(-vectors // registers)
        return -(-blocks // cores) * registers / speed[registers]

    return min(speed, key=cost)


def _make(function: ca.Function, index: int, target: Target, key: str) -> LaneKernels:
    found = cache.load(key)
    if found is not None:
        data, code = found
        return _loaded(data, code, target, from_cache=True, seconds=0.0)
    module, data = assemble(function, index, target)
    code, seconds = compile_module(module)
    cache.store(key, data, code)
    return _loaded(data, code, target, from_cache=False, seconds=seconds)


def _loaded(data: dict[str, Any], code: bytes, target: Target, *, from_cache: bool, seconds: float) -> LaneKernels:
    addresses = load_object(code, SYMBOLS)
    return LaneKernels(
        lanes=target.lanes,
        dtype=target.dtype,
        width=target.width,
        from_cache=from_cache,
        code_bytes=len(code),
        compile_seconds=seconds,
        **data,
        **addresses,
    )
