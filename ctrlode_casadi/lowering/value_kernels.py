"""Kernels of functions that are evaluated only: a prologue and a value, compiled quickly.

For long functions that are derivatives already, such as the Hessian of a simulation step. `lane_kernels` would
differentiate them once more and optimise the result at length. The contract of the two kernels is that of
`kernels.LaneKernels`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import casadi as ca

from ..base.errors import UnsupportedOperation
from . import cache
from .assemble import VALUE_SYMBOLS, assemble_value
from .blocks import ONCE, Array, Move, aligned, pool, prepared
from .calls import callees, expanded_scalars, read_program
from .jit import compile_module, host, load_object
from .kernels import few, simd_width
from .lanes import Target
from .program import Program
from .version import FINGERPRINT

#: Seconds of work that are worth a thread of their own.
_WORTH_A_THREAD = 1e-4
#: Calls that are timed.
_TRIALS = 3
#: Seconds that a function may take to compile, by estimate.
LONGEST_COMPILATION = 10.0
#: Scalar instructions for which compiling is worth while where there are too few rows for lanes.
MOST_SCALARS_FOR_ONE_LANE = 5000


@dataclass(frozen=True)
class ValueKernels:
    """Addresses and sizes: lanes, numbers in ``uni``, addresses of prologue and value."""

    lanes: int
    n_uni: int
    prologue: int
    value: int
    dtype: str = "float64"


_MADE: dict[str, ValueKernels] = {}
_LOCK = threading.RLock()


def value_kernels(function: ca.Function, uniform: int, rows: int) -> ValueKernels:
    """Compile a function for double precision.

    Parameters
    ----------
    function : casadi.Function
        Any function of MX or SX expressions.
    uniform : int
        The input that all rows share.
    rows : int
        Number of rows that it will be evaluated for.

    Raises
    ------
    UnsupportedOperation
        If an instruction has no lowering, if the code would be too long, or if the processor is too old.
    """
    machine = host()
    if not machine.fused:
        raise UnsupportedOperation(
            f"processor: {machine.cpu} has no fused multiply-add, without which compiled lanes are slower than CasADi; "
            f"use backend='casadi'"
        )
    width = simd_width("float64")
    if rows <= few(function.nnz_in(uniform)):
        target = Target("float64", 1, 1, machine.avx512, row_width=width)
    else:
        # More registers per entry gain nothing in long code, whose values do not stay in registers anyway.
        target = Target("float64", width, 1, machine.avx512)
    key = cache.key_of(
        "value",
        function.serialize(),
        str(uniform),
        repr(target),
        machine.triple,
        machine.cpu,
        machine.features,
        FINGERPRINT,
    )
    with _LOCK:
        if key not in _MADE:
            _MADE[key] = _make(function, uniform, target, key)
        return _MADE[key]


def _make(function: ca.Function, uniform: int, target: Target, key: str) -> ValueKernels:
    found = cache.load(key)
    if found is None:
        program = read_program(function)
        _check_length(function, program, target.lanes)
        module, data = assemble_value(program, uniform, target)
        code, _ = compile_module(module, quick=True)
        cache.store(key, data, code)
    else:
        data, code = found
    addresses = load_object(code, VALUE_SYMBOLS)
    return ValueKernels(target.lanes, data["n_uni"], addresses["prologue"], addresses["value"])


def _check_length(function: ca.Function, program: Program, lanes: int) -> None:
    """Refuse what would take long to compile, or would not run faster for it."""
    seconds = compile_seconds(program)
    if seconds > LONGEST_COMPILATION:
        raise UnsupportedOperation(
            f"function: {function} has {len(program.instructions)} instructions and would take about {seconds:.0f} s "
            f"to compile (the limit is {LONGEST_COMPILATION:.0f} s); use backend='casadi'"
        )
    if lanes == 1 and expanded_scalars(program) > MOST_SCALARS_FOR_ONE_LANE:
        raise UnsupportedOperation(
            f"function: {function} is long scalar code for few rows, which gains nothing by compilation; use "
            f"backend='casadi'"
        )


def compile_seconds(program: Program) -> float:
    """A rough estimate; measured for the derivatives of Runge-Kutta steps of networks and of scalar physics."""
    n = sum(program.sizes[ins.output] == 1 for ins in program.instructions)
    own = 7e-4 * (len(program.instructions) - n) + 1e-4 * n * (1.0 + n / 1e4)
    return own + sum(compile_seconds(c.program) for c in callees(program))


class FixedRows:
    """A function on rows of fixed arrays: set up once, evaluated many times with little overhead.

    Parameters
    ----------
    function : casadi.Function
        To be compiled.
    uniform : int
        Its uniform input.
    rows : sequence of ndarray
        (B, n) with contiguous entries for each other input, read at each call.
    outputs : sequence of ndarray
        (B, m) for each output, written at each call.
    threads : int
        How many threads may be used; results do not depend on it.

    Attributes
    ----------
    p : ndarray
        The uniform input; call `prepare` when it has changed.
    """

    def __init__(
        self, function: ca.Function, uniform: int, rows: Sequence[Array], outputs: Sequence[Array], threads: int
    ) -> None:
        self._size = outputs[0].shape[0]
        self._kernels = k = value_kernels(function, uniform, self._size)
        n = function.nnz_in(uniform)
        memory, self._uni = aligned(n, k.dtype), aligned(k.n_uni, k.dtype)
        self.p = memory[:n]
        self._uniform, self._rows, self._outputs = uniform, list(rows), list(outputs)
        self._prologue = prepared([], [(k.prologue, [memory], [self._uni])], [], k)
        self._shares = [(self._with_own_lanes(), slice(0, self._size))]
        self._most = min(threads, -(-self._size // k.lanes))
        self._seconds: list[float] = []

    def prepare(self) -> None:
        """Compute what depends on the uniform input only."""
        self._prologue(ONCE)

    def run(self) -> None:
        """Evaluate all rows."""
        (work, rows), *others = self._shares
        if self._most > 1:
            self._measured(work, rows)
            return
        futures = [pool(len(self._shares)).submit(share, part) for share, part in others]
        work(rows)
        for future in futures:
            future.result()

    def _measured(self, work: Callable[[slice], None], rows: slice) -> None:
        """The first calls run in one thread and show how many are worth while."""
        began = time.perf_counter()
        work(rows)
        self._seconds.append(time.perf_counter() - began)
        if len(self._seconds) == _TRIALS:
            threads = max(1, min(self._most, int(min(self._seconds) / _WORTH_A_THREAD)))
            lanes = self._kernels.lanes
            blocks = -(-self._size // lanes)
            bounds = [min(k * blocks // threads * lanes, self._size) for k in range(threads + 1)]
            works = [work, *(self._with_own_lanes() for _ in range(threads - 1))]
            self._shares = [(w, slice(*pair)) for w, pair in zip(works, itertools.pairwise(bounds), strict=True)]
            self._most = 1

    def _with_own_lanes(self) -> Callable[[slice], None]:
        """The evaluation of some rows, with memory for one block of lanes."""
        k = self._kernels
        ins, outs = ([aligned(a.shape[1] * k.lanes, k.dtype) for a in side] for side in (self._rows, self._outputs))
        packs, unpacks = (
            [Move(*pair) for pair in zip(*side, strict=True)] for side in ((self._rows, ins), (self._outputs, outs))
        )
        arguments = [*ins[: self._uniform], self._uni, *ins[self._uniform :]]
        return prepared(packs, [(k.value, arguments, outs)], unpacks, k)
