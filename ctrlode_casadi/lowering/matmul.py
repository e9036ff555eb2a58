"""Matrix products of lane kernels.

``uniform matrix @ varying vector`` is the inner loop of everything: a block of output rows stays in registers
(rows x registers accumulators), each weight is loaded once and broadcast over the lanes. The weights are a strided view
of the parameter vector, never copied; a transposed product swaps the strides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from .lanes import Context

#: Independent chains that hide the latency of a fused multiply-add (4 cycles, 2 per cycle).
CHAINS = 8


@dataclass(frozen=True)
class WeightView:
    """A uniform matrix in memory: entry (i, k) at ``offset + i * down + k * across``."""

    pointer: ir.Value
    offset: int
    down: int
    across: int


Load = Callable[[ir.Value | int, int], ir.Value]
Store = Callable[[ir.Value | int, int, ir.Value], None]


def row_blocks(rows: int, registers: int, accumulators: int) -> tuple[int, int]:
    """(rows per block, number of full blocks) so that the blocks are nearly equal."""
    most = max(1, accumulators // registers)
    count = -(-rows // most)
    size = -(-rows // count)
    return size, rows // size


def matvec(
    c: Context, weights: WeightView, rows: int, inner: int, vector: Load, start: Load | None, store: Store
) -> None:
    """``store(i, m, start(i, m) + sum_k W[i, k] * vector(k, m))`` for all rows and registers."""
    size, full = row_blocks(rows, c.target.registers, c.target.accumulators)
    if full == 1:
        _block(c, weights, 0, size, inner, vector, start, store)
    elif full > 1:
        with c.loop(full * size, step=size) as first:
            _block(c, weights, first, size, inner, vector, start, store)
    rest = rows - full * size
    if rest:
        _block(c, weights, full * size, rest, inner, vector, start, store)


def _block(
    c: Context,
    weights: WeightView,
    first: int | ir.Value,
    count: int,
    inner: int,
    vector: Load,
    start: Load | None,
    store: Store,
) -> None:
    b, registers = c.b, range(c.target.registers)
    zero = c.splat_constant(0.0)
    row = [c.affine(first, 1, r) for r in range(count)]
    init = [[zero if start is None else start(row[r], m) for m in registers] for r in range(count)]
    unroll = max(1, min(inner, CHAINS // (count * c.target.registers)))
    base = c.affine(first, weights.down, weights.offset)
    main = inner // unroll
    sums = [init] + [[[zero] * len(registers) for _ in range(count)] for _ in range(unroll - 1)]

    def terms(k: ir.Value | int, acc: list[list[ir.Value]]) -> list[list[ir.Value]]:
        z = [vector(k, m) for m in registers]
        at = b.add(base, c.affine(k, weights.across, 0))
        new = []
        for r in range(count):
            w = c.splat(c.load_scalar(weights.pointer, c.b.add(at, c.index(r * weights.down))))
            new.append([c.fma(w, z[m], acc[r][m]) for m in registers])
        return new

    if main == 1:
        sums = [terms(q, sums[q]) for q in range(unroll)]
    else:
        sums = inner_loop(c, main, unroll, sums, terms)
    for k in range(main * unroll, inner):
        sums[0] = terms(k, sums[0])
    for r in range(count):
        for m in registers:
            total = sums[0][r][m]
            for other in sums[1:]:
                total = b.fadd(total, other[r][m])
            store(row[r], m, total)


Sums = list[list[list[ir.Value]]]


def inner_loop(
    c: Context,
    count: int,
    unroll: int,
    sums: Sums,
    terms: Callable[[ir.Value, list[list[ir.Value]]], list[list[ir.Value]]],
) -> Sums:
    """The loop over the inner dimension, with all accumulators as loop-carried values."""
    b = c.b
    before = b.block
    head, done = b.append_basic_block("inner"), b.append_basic_block("inner.done")
    b.branch(head)
    b.position_at_end(head)
    k = b.phi(ir.IntType(64))
    k.add_incoming(c.index(0), before)
    phis = [[[b.phi(c.vector) for _ in row] for row in block] for block in sums]
    _incoming(phis, sums, before)
    new = [terms(b.add(k, c.index(q)) if q else k, phis[q]) for q in range(unroll)]
    following = b.add(k, c.index(unroll))
    k.add_incoming(following, b.block)
    _incoming(phis, new, b.block)
    b.cbranch(b.icmp_signed("<", following, c.index(count * unroll)), head, done)
    b.position_at_end(done)
    return new


def _incoming(phis: Sums, values: Sums, block: ir.Block) -> None:
    for pb, vb in zip(phis, values, strict=True):
        for pr, vr in zip(pb, vb, strict=True):
            for p, v in zip(pr, vr, strict=True):
                p.add_incoming(v, block)


def varying_product(
    c: Context, shape: tuple[int, int, int], left: Load, right: Load, start: Load | None, store: Store
) -> None:
    """``acc + A @ B`` where both matrices vary; (r, k, c) column-major, one output entry at a time."""
    r, k, n = shape
    with c.entries(n) as j, c.entries(r) as i:
        out = c.b.add(c.affine(j, r, 0), c.affine(i, 1, 0))
        column, row = c.affine(j, k, 0), c.affine(i, 1, 0)
        for m in range(c.target.registers):
            first = c.splat_constant(0.0) if start is None else start(out, m)

            def term(q: ir.Value | int, acc: list[list[ir.Value]], m: int = m) -> list[list[ir.Value]]:
                a = left(c.b.add(row, c.affine(q, r, 0)), m)
                x = right(c.b.add(column, c.affine(q, 1, 0)), m)
                return [[c.fma(a, x, acc[0][0])]]

            if k <= 8:
                total = [[first]]
                for q in range(k):
                    total = term(q, total)
            else:
                total = inner_loop(c, k, 1, [[[first]]], term)[0]
            store(out, m, total[0][0])
