"""Running a kernel over many blocks of lanes in one call, and the memory that it works on.

A kernel takes arrays of pointers to one block. The runner is a few machine instructions that call a kernel for
block after block and move the pointers on; one runner serves all kernels, and a call from Python costs the same for one
block and for a hundred.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from . import cache
from .jit import compile_module, host, load_object
from .kernels import LaneKernels
from .lanes import I64, POINTER
from .version import FINGERPRINT

Result = TypeVar("Result")
Space = TypeVar("Space")
_SYMBOL = "run_blocks"
_LINE = 64


def aligned(numbers: int, dtype: Any) -> NDArray[Any]:
    """Uninitialised numbers in cache lines of their own; never empty, so that there is an address."""
    want = np.dtype(dtype)
    used = max(numbers, 1) * want.itemsize
    raw = np.empty(used + _LINE + -used % _LINE, np.uint8)
    first = -raw.ctypes.data % _LINE
    return raw[first : first + used].view(want)


def _module() -> ir.Module:
    """``run_blocks(kernel, in, out, in_steps, out_steps, n_in, n_out, count)``; the pointers in ``in`` and ``out`` move."""
    module = ir.Module(_SYMBOL)
    kind = ir.FunctionType(ir.VoidType(), [I64] + [POINTER] * 4 + [I64] * 3)
    fn = ir.Function(module, kind, _SYMBOL)
    kernel, ins, outs, in_steps, out_steps, n_in, n_out, count = fn.args
    b = ir.IRBuilder(fn.append_basic_block("entry"))
    called = b.inttoptr(kernel, ir.FunctionType(ir.VoidType(), [POINTER, POINTER]).as_pointer())

    def loop(stop: ir.Value, body: Callable[[ir.Value], None]) -> None:
        before = b.block
        head, inside, done = (b.append_basic_block(n) for n in ("head", "inside", "done"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(ir.Constant(I64, 0), before)
        b.cbranch(b.icmp_signed("<", i, stop), inside, done)
        b.position_at_end(inside)
        body(i)
        i.add_incoming(b.add(i, ir.Constant(I64, 1)), b.block)
        b.branch(head)
        b.position_at_end(done)

    def advance(pointers: ir.Value, steps: ir.Value, i: ir.Value) -> None:
        at = b.gep(pointers, [i], inbounds=True, source_etype=I64)
        step = b.load(b.gep(steps, [i], inbounds=True, source_etype=I64), typ=I64)
        b.store(b.add(b.load(at, typ=I64), step), at)

    def block(_: ir.Value) -> None:
        b.call(called, [ins, outs])
        loop(n_in, lambda i: advance(ins, in_steps, i))
        loop(n_out, lambda i: advance(outs, out_steps, i))

    loop(count, block)
    b.ret_void()
    return module


@functools.cache
def _runner() -> Any:
    """The compiled runner; the interpreter's lock is released while it runs."""
    machine = host()
    key = cache.key_of(_SYMBOL, machine.triple, machine.cpu, machine.features, FINGERPRINT)
    found = cache.load(key)
    code = found[1] if found is not None else compile_module(_module())[0]
    if found is None:
        cache.store(key, {}, code)
    address = load_object(code, (_SYMBOL,))[_SYMBOL]
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 3)(address)


@dataclass(frozen=True)
class Blocks:
    """``count`` blocks of a varying value, [count][n][L], or one array that every block uses (``n`` is 0 then)."""

    memory: NDArray[Any]
    n: int
    lanes: int

    @classmethod
    def of(cls, count: int, n: int, lanes: int, dtype: Any) -> Blocks:
        """Memory for some blocks of a value with n entries."""
        return cls(aligned(count * n * lanes, dtype), n, lanes)

    @classmethod
    def same(cls, memory: NDArray[Any]) -> Blocks:
        """Memory that does not advance from block to block."""
        return cls(memory, 0, 0)

    @functools.cached_property
    def address(self) -> int:
        """Where the first block stands."""
        return int(self.memory.ctypes.data)

    @property
    def step(self) -> int:
        """Bytes from one block to the next."""
        return self.n * self.lanes * self.memory.itemsize

    def _split(self, rows: int) -> tuple[NDArray[Any], int, int]:
        """Memory as (block, entry, lane); number of full blocks; rows in the block after them."""
        view = self.memory[: self.memory.size // max(self.n * self.lanes, 1) * self.n * self.lanes]
        return view.reshape(-1, self.n, self.lanes), rows // self.lanes, rows % self.lanes

    def pack(self, rows: NDArray[Any], *, repeat: bool) -> None:
        """Fill the blocks from (b, n) rows; idle lanes repeat the last row, or are zero."""
        if self.n == 0:
            return
        view, full, rest = self._split(len(rows))
        head = full * self.lanes
        view[:full] = rows[:head].reshape(full, self.lanes, self.n).transpose(0, 2, 1)
        if rest:
            view[full, :, :rest] = rows[head:].T
            view[full, :, rest:] = rows[-1][:, None] if repeat else 0.0

    def unpack(self, rows: NDArray[Any]) -> None:
        """Write the blocks to (b, n) rows."""
        if self.n == 0:
            return
        view, full, rest = self._split(len(rows))
        head = full * self.lanes
        rows[:head].reshape(full, self.lanes, self.n)[...] = view[:full].transpose(0, 2, 1)
        if rest:
            rows[head:] = view[full, :, :rest].T


def run_blocks(kernel: int, inputs: Sequence[Blocks], outputs: Sequence[Blocks], count: int = 1) -> None:
    """Call ``kernel`` for ``count`` blocks."""
    sides = (*inputs, *outputs)
    # The runner moves the pointers on after every block. In one cache line with another thread's (NumPy hands small
    # arrays out side by side) two threads took three times as long as one.
    table = aligned(2 * len(sides), np.int64)
    table[:] = [*(x.address for x in sides), *(x.step for x in sides)]
    first, second = table.ctypes.data, table.ctypes.data + 8 * len(sides)
    behind = 8 * len(inputs)
    _runner()(kernel, first, first + behind, second, second + behind, len(inputs), len(outputs), count)


#: Bytes of blocks that one thread works on at a time: they stay in the second-level cache.
CHUNK_BYTES = 256 * 1024
#: Shares of a batch that are summed on their own; fixed, so that sums do not depend on the number of threads.
SHARES = 64


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that are kept: new ones share a core for their first milliseconds."""
    return ThreadPoolExecutor(threads, thread_name_prefix="ctrlode")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has none of the threads


@dataclass(frozen=True)
class Batch:
    """A batch to be run: the kernels, the uniform values and the rows of the varying inputs.

    Parameters
    ----------
    kernels : LaneKernels
        Their uniform input is the first one.
    uni : Blocks
        What the prologue made.
    rows : sequence of ndarray
        (B, n) for each varying input.
    size : int
        B.
    threads : int
        How many threads may be used.
    """

    kernels: LaneKernels
    uni: Blocks
    rows: Sequence[NDArray[Any]]
    size: int
    threads: int

    @classmethod
    def start(
        cls, kernels: LaneKernels, p: NDArray[Any], rows: Sequence[NDArray[Any]], size: int, threads: int
    ) -> Batch:
        """Run the prologue."""
        own = aligned(p.size, kernels.dtype)
        own[: p.size] = p
        uni = Blocks.same(aligned(kernels.n_uni, kernels.dtype))
        run_blocks(kernels.prologue, [Blocks.same(own)], [uni])
        return cls(kernels, uni, rows, size, threads)

    def blocks(self, count: int, widths: Sequence[int]) -> list[Blocks]:
        """Memory for ``count`` blocks of values of these widths."""
        return [Blocks.of(count, n, self.kernels.lanes, self.kernels.dtype) for n in widths]

    def shares(self, numbers_per_lane: int) -> tuple[int, list[list[slice]]]:
        """(blocks per chunk, chunks of rows by share) for a chunk that takes this much memory per lane."""
        lanes = self.kernels.lanes
        per_block = max(numbers_per_lane, 1) * lanes * np.dtype(self.kernels.dtype).itemsize
        count = max(1, min(CHUNK_BYTES // per_block, -(-self.size // lanes)))
        rows = count * lanes
        chunks = [slice(s, min(s + rows, self.size)) for s in range(0, self.size, rows)]
        n = min(len(chunks), SHARES)
        return count, [chunks[k * len(chunks) // n : (k + 1) * len(chunks) // n] for k in range(n)]

    def over(
        self, shares: list[list[slice]], make: Callable[[], Space], work: Callable[[Space, list[slice]], Result]
    ) -> Iterator[Result]:
        """Results of ``work`` for each share, in order; a thread makes its memory once."""
        spaces: list[Space] = []

        def run(share: list[slice]) -> Result:
            try:
                space = spaces.pop()
            except IndexError:
                space = make()
            result = work(space, share)
            spaces.append(space)
            return result

        if self.threads == 1 or len(shares) <= 1:
            yield from map(run, shares)
            return
        yield from _pool(self.threads).map(run, shares)

    def count(self, at: slice) -> int:
        """Blocks that a chunk of rows takes."""
        return -(-(at.stop - at.start) // self.kernels.lanes)


def evaluate(batch: Batch, outputs: Sequence[NDArray[Any]]) -> None:
    """Fill the outputs, (B, m) each."""
    widths_in, widths_out = ([a.shape[1] for a in side] for side in (batch.rows, outputs))
    count, shares = batch.shares(sum(widths_in) + sum(widths_out))

    def make() -> tuple[list[Blocks], list[Blocks]]:
        return batch.blocks(count, widths_in), batch.blocks(count, widths_out)

    def work(space: tuple[list[Blocks], list[Blocks]], chunks: list[slice]) -> None:
        ins, outs = space
        for at in chunks:
            for blocks, rows in zip(ins, batch.rows, strict=True):
                blocks.pack(rows[at], repeat=True)
            run_blocks(batch.kernels.value, [batch.uni, *ins], outs, batch.count(at))
            for blocks, rows in zip(outs, outputs, strict=True):
                blocks.unpack(rows[at])

    for _ in batch.over(shares, make, work):
        pass


def pull_back(batch: Batch, seeds: Sequence[NDArray[Any]], bars: Sequence[NDArray[Any]], p_bar: NDArray[Any]) -> None:
    """Fill the bars of the varying inputs, (B, n) each, and add to ``p_bar`` the sum over the batch."""
    k = batch.kernels
    widths_in, widths_out = ([a.shape[1] for a in side] for side in (batch.rows, seeds))
    count, shares = batch.shares(2 * sum(widths_in) + 2 * sum(widths_out) + k.n_tape)

    def make() -> list[list[Blocks]]:
        return [batch.blocks(count, w) for w in (widths_in, widths_out, widths_in, widths_out, [k.n_tape])]

    def work(space: list[list[Blocks]], chunks: list[slice]) -> NDArray[Any]:
        ins, outs, barred, lam, tape = space
        acc, own = aligned(k.n_acc, k.dtype), aligned(p_bar.size, k.dtype)
        acc[:], own[:] = 0.0, 0.0
        for at in chunks:
            for blocks, rows in zip(ins, batch.rows, strict=True):
                blocks.pack(rows[at], repeat=True)
            for blocks, rows in zip(lam, seeds, strict=True):
                blocks.pack(rows[at], repeat=False)
            run_blocks(k.value_tape, [batch.uni, *ins], [*outs, *tape], batch.count(at))
            state = [batch.uni, *ins, *tape, *lam]
            run_blocks(k.adjoint, state, [*barred, Blocks.same(acc)], batch.count(at))
            for blocks, rows in zip(barred, bars, strict=True):
                blocks.unpack(rows[at])
        run_blocks(k.finish, [Blocks.same(acc), batch.uni], [Blocks.same(own)])
        return own

    for own in batch.over(shares, make, work):
        p_bar += own[: p_bar.size]
