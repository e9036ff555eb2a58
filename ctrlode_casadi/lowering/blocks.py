"""Running kernels over the rows of a batch: pack a block of rows into lanes, call kernels, unpack, next block.

The loop over blocks is machine code of its own (`run_rows`), one for each float type, that serves all kernels. A whole
share of a batch is one call without the interpreter's lock; with a call per block two threads took turns instead of
working side by side (vjp of 100,000 rows of a 3-10-10-10-2 network: 31 ms against 16 ms on one thread).
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from . import cache
from .jit import compile_module, host, load_object
from .kernels import LaneKernels
from .lanes import I64, POINTER
from .version import FINGERPRINT

Array = NDArray[Any]
Result = TypeVar("Result")

_SYMBOL = "run_rows"
_LINE = 64
#: Shares of a batch that are summed on their own; fixed, so that sums do not depend on the number of threads.
SHARES = 64
#: Numbers that pass through the smallest share: some tenths of a millisecond, below which a second thread does not pay.
LEAST_SHARE = 1 << 18


def aligned(numbers: int, dtype: Any) -> Array:
    """Uninitialised numbers in cache lines of their own; never empty, so that there is an address."""
    want = np.dtype(dtype)
    used = max(numbers, 1) * want.itemsize
    raw = np.empty(used + _LINE + -used % _LINE, np.uint8)
    first = -raw.ctypes.data % _LINE
    return raw[first : first + used].view(want)


class _Emitter:
    """The function ``run_rows(packs, n, calls, n, unpacks, n, start, stop, lanes)``.

    ``packs`` and ``unpacks`` are records of five integers (rows, numbers from row to row, entries, lane memory,
    what idle lanes get: 0 the last row, 1 zeros), ``calls`` of three (kernel, its in, its out).
    """

    def __init__(self, number: ir.Type) -> None:
        self.module, self.number = ir.Module(_SYMBOL), number
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I64] * 3 + [I64] * 3)
        fn = ir.Function(self.module, kind, _SYMBOL)
        packs, n_packs, calls, n_calls, unpacks, n_unpacks, start, stop, self.lanes = fn.args
        self.b = b = ir.IRBuilder(fn.append_basic_block("entry"))
        with self._loop(start, stop, self.lanes) as row:
            left = b.sub(stop, row)
            used = b.select(b.icmp_signed("<", left, self.lanes), left, self.lanes)
            with self._loop(_i64(0), n_packs, _i64(1)) as k:
                self._pack(packs, k, row, used)
            with self._loop(_i64(0), n_calls, _i64(1)) as k:
                address, ins, outs = self._record(calls, k, 3)
                kernel = ir.FunctionType(ir.VoidType(), [POINTER, POINTER]).as_pointer()
                b.call(b.inttoptr(address, kernel), [b.inttoptr(ins, POINTER), b.inttoptr(outs, POINTER)])
            with self._loop(_i64(0), n_unpacks, _i64(1)) as k:
                self._unpack(unpacks, k, row, used)
        b.ret_void()

    @contextmanager
    def _loop(self, start: ir.Value, stop: ir.Value, step: ir.Value) -> Iterator[ir.Value]:
        b, before = self.b, self.b.block
        head, inside, done = (b.append_basic_block(n) for n in ("head", "inside", "done"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(start, before)
        b.cbranch(b.icmp_signed("<", i, stop), inside, done)
        b.position_at_end(inside)
        yield i
        i.add_incoming(b.add(i, step), b.block)
        b.branch(head)
        b.position_at_end(done)

    def _record(self, table: ir.Value, k: ir.Value, n: int) -> list[ir.Value]:
        b = self.b
        places = [b.add(b.mul(k, _i64(n)), _i64(q)) for q in range(n)]
        return [b.load(b.gep(table, [at], inbounds=True, source_etype=I64), typ=I64) for at in places]

    def _at(self, address: ir.Value, index: ir.Value) -> ir.Value:
        pointer = self.b.inttoptr(address, POINTER)
        return self.b.gep(pointer, [index], inbounds=True, source_etype=self.number)

    def _pack(self, table: ir.Value, k: ir.Value, row: ir.Value, used: ir.Value) -> None:
        b = self.b
        rows, stride, entries, memory, idle = self._record(table, k, 5)
        last = b.sub(used, _i64(1))
        with self._loop(_i64(0), entries, _i64(1)) as entry, self._loop(_i64(0), self.lanes, _i64(1)) as lane:
            busy = b.icmp_signed("<", lane, used)
            source = b.add(b.mul(b.add(row, b.select(busy, lane, last)), stride), entry)
            value = b.load(self._at(rows, source), typ=self.number)
            keep = b.or_(busy, b.icmp_signed("==", idle, _i64(0)))
            target = b.add(b.mul(entry, self.lanes), lane)
            b.store(b.select(keep, value, ir.Constant(self.number, 0.0)), self._at(memory, target))

    def _unpack(self, table: ir.Value, k: ir.Value, row: ir.Value, used: ir.Value) -> None:
        b = self.b
        rows, stride, entries, memory, _ = self._record(table, k, 5)
        with self._loop(_i64(0), used, _i64(1)) as lane, self._loop(_i64(0), entries, _i64(1)) as entry:
            value = b.load(self._at(memory, b.add(b.mul(entry, self.lanes), lane)), typ=self.number)
            b.store(value, self._at(rows, b.add(b.mul(b.add(row, lane), stride), entry)))


def _i64(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


@functools.cache
def _run_rows(dtype: str) -> Any:
    """The compiled loop; the interpreter's lock is released while it runs."""
    machine = host()
    key = cache.key_of(_SYMBOL, dtype, machine.triple, machine.cpu, machine.features, FINGERPRINT)
    found = cache.load(key)
    if found is None:
        code = compile_module(_Emitter(ir.DoubleType() if dtype == "float64" else ir.FloatType()).module)[0]
        cache.store(key, {}, code)
    else:
        code = found[1]
    address = load_object(code, (_SYMBOL,))[_SYMBOL]
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p, ctypes.c_int64] * 3, *[ctypes.c_int64] * 3)(address)


@functools.cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that are kept: new ones share a core for their first milliseconds."""
    return ThreadPoolExecutor(threads, thread_name_prefix="ctrlode")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # a forked child has none of the threads


@dataclass(frozen=True)
class Move:
    """Rows (B, n) and the memory of one block of lanes, [n][L], that they go to or come from.

    Parameters
    ----------
    rows : ndarray
        With contiguous entries; the distance from row to row may be zero.
    lanes : ndarray
        Memory of the block.
    zero : bool
        Whether idle lanes are zero; they repeat the last row otherwise.
    """

    rows: Array
    lanes: Array
    zero: bool = False

    def record(self) -> tuple[int, ...]:
        """The numbers that ``run_rows`` reads."""
        stride = self.rows.strides[0] // self.rows.itemsize
        return (self.rows.ctypes.data, stride, self.rows.shape[1], self.lanes.ctypes.data, int(self.zero))


class Kernels(Protocol):
    """What running kernels needs to know of them."""

    @property
    def lanes(self) -> int:
        """Rows per block."""

    @property
    def dtype(self) -> str:
        """Float type."""


#: The rows of a kernel that runs once.
ONCE = slice(0, 1)
Call = tuple[int, Sequence[Array], Sequence[Array]]


def run_rows(
    packs: Sequence[Move], calls: Sequence[Call], unpacks: Sequence[Move], rows: slice, kernels: Kernels
) -> None:
    """For each block of rows: pack, call kernels (address, in, out), unpack."""
    prepared(packs, calls, unpacks, kernels)(rows)


def prepared(
    packs: Sequence[Move], calls: Sequence[Call], unpacks: Sequence[Move], kernels: Kernels
) -> Callable[[slice], None]:
    """`run_rows` on fixed arrays, for many calls; it keeps the arrays."""
    tables = [np.array([m.record() for m in side], np.int64) for side in (packs, unpacks)]
    pointers = [[np.array([x.ctypes.data for x in a], np.int64) for a in call[1:]] for call in calls]
    steps = [(call[0], i.ctypes.data, o.ctypes.data) for call, (i, o) in zip(calls, pointers, strict=True)]
    table = np.array(steps, np.int64)
    sides = zip((tables[0], table, tables[1]), (packs, calls, unpacks), strict=True)
    arguments = [x for records, side in sides for x in (records.ctypes.data, len(side))]
    kept = (packs, calls, unpacks, tables, pointers, table)
    loop, lanes = _run_rows(kernels.dtype), kernels.lanes

    def run(rows: slice, kept: object = kept) -> None:
        loop(*arguments, rows.start, rows.stop, lanes)

    return run


@dataclass(frozen=True)
class Batch:
    """A batch to be run: the kernels, the uniform values and the rows of the varying inputs.

    Parameters
    ----------
    kernels : LaneKernels
        Their uniform input is the first one.
    uni : ndarray
        What the prologue made.
    rows : sequence of ndarray
        (B, n) for each varying input.
    size : int
        B.
    threads : int
        How many threads may be used.
    """

    kernels: LaneKernels
    uni: Array
    rows: Sequence[Array]
    size: int
    threads: int

    @classmethod
    def start(cls, kernels: LaneKernels, p: Array, rows: Sequence[Array], size: int, threads: int) -> Batch:
        """Run the prologue."""
        own, uni = aligned(p.size, kernels.dtype), aligned(kernels.n_uni, kernels.dtype)
        own[: p.size] = p
        run_rows([], [(kernels.prologue, [own], [uni])], [], ONCE, kernels)
        return cls(kernels, uni, [_contiguous(r) for r in rows], size, threads)

    def lanes(self, rows: Sequence[Array]) -> list[Array]:
        """Memory of one block for each array of rows."""
        return [aligned(r.shape[1] * self.kernels.lanes, self.kernels.dtype) for r in rows]

    def shares(self, numbers_per_row: int) -> list[slice]:
        """Rows of each share: whole blocks, nearly equal, the same for any number of threads.

        The entries of the tape stand for the arithmetic between inputs and outputs.
        """
        lanes = self.kernels.lanes
        blocks = -(-self.size // lanes)
        n = max(1, min(SHARES, blocks, self.size * max(numbers_per_row, 1) // LEAST_SHARE))
        bounds = [min(k * blocks // n * lanes, self.size) for k in range(n + 1)]
        return [slice(*pair) for pair in itertools.pairwise(bounds)]

    def over(self, work: Callable[[slice], Result], shares: Sequence[slice]) -> Iterator[Result]:
        """Results of ``work`` for each share, in order."""
        if self.threads == 1 or len(shares) <= 1:
            return map(work, shares)
        return pool(self.threads).map(work, shares)


def _contiguous(rows: Array) -> Array:
    """The rows with contiguous entries."""
    fits = rows.strides[1] == rows.itemsize and rows.strides[0] % rows.itemsize == 0
    return rows if fits or (rows.shape[1] <= 1 and rows.strides[0] % rows.itemsize == 0) else np.ascontiguousarray(rows)


def evaluate(batch: Batch, outputs: Sequence[Array]) -> None:
    """Fill the outputs, (B, m) each."""
    k = batch.kernels

    def work(rows: slice) -> None:
        ins, outs = batch.lanes(batch.rows), batch.lanes(outputs)
        run_rows(
            [Move(*pair) for pair in zip(batch.rows, ins, strict=True)],
            [(k.value, [batch.uni, *ins], outs)],
            [Move(*pair) for pair in zip(outputs, outs, strict=True)],
            rows,
            k,
        )

    for _ in batch.over(work, batch.shares(sum(a.shape[1] for a in (*batch.rows, *outputs)) + k.n_tape)):
        pass


def pull_back(batch: Batch, seeds: Sequence[Array], bars: Sequence[Array], p_bar: Array) -> None:
    """Fill the bars of the varying inputs, (B, n) each, and add to ``p_bar`` the sum over the batch."""
    k = batch.kernels
    seeds = [_contiguous(s) for s in seeds]

    def work(rows: slice) -> Array:
        ins, barred, outs, lam = (batch.lanes(a) for a in (batch.rows, bars, seeds, seeds))
        tape, acc, own = (aligned(n, k.dtype) for n in (k.n_tape * k.lanes, k.n_acc, p_bar.size))
        acc[:], own[:] = 0.0, 0.0
        packs = [Move(*pair) for pair in zip(batch.rows, ins, strict=True)]
        packs += [Move(*pair, zero=True) for pair in zip(seeds, lam, strict=True)]
        calls = [
            (k.value_tape, [batch.uni, *ins], [*outs, tape]),
            (k.adjoint, [batch.uni, *ins, tape, *lam], [*barred, acc]),
        ]
        run_rows(packs, calls, [Move(*pair) for pair in zip(bars, barred, strict=True)], rows, k)
        run_rows([], [(k.finish, [acc, batch.uni], [own])], [], ONCE, k)
        return own

    for own in batch.over(work, batch.shares(sum(a.shape[1] for a in (*batch.rows, *seeds)) + k.n_tape)):
        p_bar += own[: p_bar.size]
