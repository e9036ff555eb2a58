"""The compiled sweeps of this machine: translated once per precision, kept on disk, called through ctypes.

A ctypes call releases the interpreter's lock, so that threads run side by side.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...base.arrays import address
from ...lowering import cache
from ...lowering.jit import compile_module, host, load_object
from ...lowering.version import FINGERPRINT

_SOURCES = (
    "language", "emit", "emit_linear", "translate", "translate_values", "slots", "inputs", "linear", "stages", "saves",
    "projection", "fixed", "stiffness", "adaptive", "reverse", "costs", "fitted", "blocks",
)  # fmt: skip
_SYMBOLS = ("blocks_run_groups", "blocks_plan_shared")
_LOCK = threading.Lock()
_LOADED: dict[str, Sweeps] = {}


@dataclass(frozen=True)
class Sweeps:
    """Entry functions: both take the address of a task table.

    Attributes
    ----------
    run_groups
        (table, group) -> -1 when all groups are done, else the group that needs larger work arrays.
    plan_shared
        (table) -> number of fixed steps that all lanes share.
    from_cache
        Whether the code was found on disk.
    compile_seconds
        Time spent in LLVM; 0 from the cache.
    """

    run_groups: Callable[[int, int], int]
    plan_shared: Callable[[int], int]
    from_cache: bool
    compile_seconds: float


def load_sweeps(dtype: str) -> Sweeps:
    """The sweeps for states of type "float64" or "float32"."""
    with _LOCK:
        if dtype not in _LOADED:
            _LOADED[dtype] = _make(dtype)
        return _LOADED[dtype]


def _key(dtype: str) -> str:
    """Everything that the code depends on: the sources of the sweeps, the machine, the versions."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    machine = host()
    return cache.key_of("sweeps", dtype, digest.hexdigest(), machine.triple, machine.cpu, machine.features, FINGERPRINT)


def _make(dtype: str) -> Sweeps:
    key = _key(dtype)
    found = cache.load(key)
    seconds = 0.0
    if found is not None:
        code = found[1]
    else:
        from . import blocks
        from .translate import Translator

        translator = Translator(dtype)
        for entry in (blocks.run_groups, blocks.plan_shared):
            translator.function(entry, external=True)
        code, seconds = compile_module(translator.module)
        cache.store(key, {}, code)
    addresses = load_object(code, _SYMBOLS)
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(addresses["blocks_run_groups"])
    plan = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(addresses["blocks_plan_shared"])
    return Sweeps(run, plan, found is not None, seconds)


@lru_cache(maxsize=256)
def _kernel(address: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)


def call_kernel(kernel: int, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[Any]]) -> None:
    """Call one kernel ``void k(T **in, T **out)``; arrays must be 64-byte aligned and padded to whole registers."""
    ins = (ctypes.c_void_p * max(len(inputs), 1))(*[address(a) for a in inputs])
    outs = (ctypes.c_void_p * max(len(outputs), 1))(*[address(a) for a in outputs])
    _kernel(kernel)(ins, outs)
