"""Lane kernels of functions that are only evaluated: prologue and value, without tape and adjoint.

Forward sensitivities are derivatives already; `lane_kernels` would differentiate them once more.
"""

from __future__ import annotations

import threading

import casadi as ca

from . import cache
from .assemble import VALUE_SYMBOLS, assemble_value
from .jit import compile_module, load_object
from .kernels import LaneKernels, check_machine, lanes_for, target_for
from .reader import read
from .simplify import simplify
from .version import FINGERPRINT

#: Instructions of a program above which code is optimised less, for the sake of compile time.
MANY = 3000

_MADE: dict[str, LaneKernels] = {}
_LOCK = threading.RLock()


def forward_kernels(
    function: ca.Function,
    uniform: int | str = "p",
    lanes: int | None = None,
    dtype: str = "float64",
    batch: int = 1,
) -> LaneKernels:
    """Compile a function to a prologue and a value kernel; arguments and errors as for `lane_kernels`.

    The other kernels of the result have the address zero and no tape or accumulator.
    """
    machine = check_machine()
    index = function.index_in(uniform) if isinstance(uniform, str) else uniform
    target = target_for(lanes_for(batch, function.nnz_in(index), dtype) if lanes is None else lanes, dtype)
    key = cache.key_of(
        "forward", function.serialize(), str(index), repr(target), machine.triple, machine.cpu, machine.features,
        FINGERPRINT,
    )  # fmt: skip
    with _LOCK:
        if key not in _MADE:
            found, seconds = cache.load(key), 0.0
            if found is None:
                program = simplify(read(function))
                module, data = assemble_value(program, index, target)
                code, seconds = compile_module(module, quick=len(program.instructions) > MANY)
                cache.store(key, data, code)
            else:
                data, code = found
            addresses = load_object(code, VALUE_SYMBOLS)
            _MADE[key] = LaneKernels(
                target.lanes, dtype, data["n_uni"], 0, 0, addresses["prologue"], addresses["value"], 0, 0, 0,
                target.width, found is not None, len(code), seconds,
            )  # fmt: skip
        return _MADE[key]
