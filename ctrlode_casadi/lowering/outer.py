"""Gradients of weights: outer products of two varying vectors, summed over lanes straight into the accumulator.

Two forms. *Lane-partial*: one SIMD vector of partial sums per entry of the weight, reduced once at the end of the
sweep; best while all partial sums stay in the first-level cache. *Transposed*: the right factor is transposed in
registers so that the sum over lanes becomes the inner dimension of a register-blocked matrix product into one number
per weight; best for wide layers, where partial sums would stream through memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from .lanes import I32, Context
from .matmul import Load, inner_loop, row_blocks

#: Bytes of lane-partial sums of one weight matrix above which the transposed form is used (half of a 48 KiB L1).
PARTIAL_LIMIT = 24 * 1024
_MOST_COLUMNS = 6  # columns whose right factors stay in registers during a pass over the rows
_TILE_VECTORS = 4  # column vectors of a tile; fewer where registers are few


def is_partial(c_target_bytes: int, rows: int, columns: int) -> bool:
    """Whether a rows x columns gradient is kept as lane-partial sums of ``c_target_bytes`` each."""
    return rows * columns * c_target_bytes <= PARTIAL_LIMIT


def storage(partial: bool, rows: int, columns: int, width: int) -> int:
    """Numbers that the accumulator of a gradient takes."""
    return rows * columns * width if partial else rows * padded(columns, width)


def padded(columns: int, width: int) -> int:
    """Columns rounded up to whole vectors."""
    return -(-columns // width) * width


def add_partial(c: Context, pointer: ir.Value, offset: int, rows: int, columns: int, left: Load, right: Load) -> None:
    """``acc[j, i] += sum_m left(i, m) * right(j, m)``, one vector per entry, rows fastest."""
    registers = c.target.registers
    passes = -(-columns // max(1, min(_MOST_COLUMNS, 12 // registers)))
    block = -(-columns // passes)
    full = columns // block * block
    if full:
        with c.entries_by(full, block) as first:
            _partial_columns(c, pointer, offset, rows, first, block, left, right)
    if columns - full:
        _partial_columns(c, pointer, offset, rows, full, columns - full, left, right)


def _partial_columns(
    c: Context,
    pointer: ir.Value,
    offset: int,
    rows: int,
    first: int | ir.Value,
    count: int,
    left: Load,
    right: Load,
) -> None:
    width, registers = c.target.width, range(c.target.registers)
    factors = [[right(c.affine(first, 1, q), m) for m in registers] for q in range(count)]
    with c.entries(rows) as i:
        a = [left(c.affine(i, 1, 0), m) for m in registers]
        for q in range(count):
            entry = c.b.add(c.affine(first, rows, q * rows), c.affine(i, 1, 0))
            at = c.b.add(c.b.mul(entry, c.index(width)), c.index(offset))
            total = c.load_vector(pointer, at)
            for m in registers:
                total = c.fma(a[m], factors[q][m], total)
            c.store_vector(total, pointer, at)


def add_leaf(c: Context, pointer: ir.Value, offset: int, count: int, value: Load) -> None:
    """``acc[i] += sum_m value(i, m)``, one vector per entry."""
    with c.entries(count) as i:
        at = c.affine(i, c.target.width, offset)
        total = c.load_vector(pointer, at)
        for m in range(c.target.registers):
            total = c.b.fadd(total, value(c.affine(i, 1, 0), m))
        c.store_vector(total, pointer, at)


def transpose_into(c: Context, scratch: ir.Value, columns: int, value: Load) -> None:
    """Write ``value`` ([columns][L]) as ``scratch[L][padded columns]``; the padding is zero."""
    width, stride = c.target.width, padded(columns, c.target.width)
    for m in range(c.target.registers):
        whole = columns // width
        if whole:
            with c.entries(whole) as block:
                rows = [value(c.affine(block, width, q), m) for q in range(width)]
                _store_transposed(c, scratch, rows, c.affine(block, width, m * width * stride), stride)
        if columns % width:
            rest = [value(c.index(whole * width + q), m) for q in range(columns % width)]
            rest += [c.splat_constant(0.0)] * (width - len(rest))
            _store_transposed(c, scratch, rest, c.index(whole * width + m * width * stride), stride)


def _store_transposed(c: Context, scratch: ir.Value, rows: list[ir.Value], at: ir.Value, stride: int) -> None:
    for lane, v in enumerate(transpose(c, rows)):
        c.store_vector(v, scratch, c.b.add(at, c.index(lane * stride)))


def transpose(c: Context, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose a square block held in ``width`` vectors by log2(width) rounds of pairwise shuffles."""
    width = len(rows)
    distance = 1
    kind = ir.VectorType(I32, width)
    while distance < width:
        low, high = [], []
        for k in range(width):
            low.append(k if not k & distance else k - distance + width)
            high.append(k + distance if not k & distance else k + width)
        masks = [ir.Constant(kind, [ir.Constant(I32, k) for k in mask]) for mask in (low, high)]
        new = list(rows)
        for k in range(width):
            if not k & distance:
                pair = rows[k], rows[k + distance]
                new[k] = c.b.shuffle_vector(*pair, masks[0])
                new[k + distance] = c.b.shuffle_vector(*pair, masks[1])
        rows = new
        distance *= 2
    return rows


@dataclass(frozen=True)
class Factors:
    """The factors of a sum of outer products: ``left[i, q]`` and ``right[q, j]`` for q in ``range(count)``.

    ``left`` stands at ``left_start + i * left_row + q * left_step``, ``right`` at ``right_start + q * stride + j`` with
    the columns padded to whole vectors.
    """

    left: ir.Value
    left_start: ir.Value
    left_row: int
    left_step: int
    right: ir.Value
    right_start: int
    count: int


def add_products(c: Context, pointer: ir.Value, offset: int, rows: int, columns: int, factors: Factors) -> None:
    """``acc[i, :] += sum over q of left[i, q] * right[q, :]``, columns fastest: a register-blocked matrix product."""
    stride = padded(columns, c.target.width)
    vectors = stride // c.target.width
    count = -(-vectors // (_TILE_VECTORS if c.target.accumulators > 12 else 2))
    size = -(-vectors // count)
    starts = list(range(0, vectors, size))
    for s in starts:
        own = min(size, vectors - s)
        height, full = row_blocks(rows, own, c.target.accumulators)
        if full:
            with c.entries_by(full * height, height) as first:
                _tile(c, (pointer, offset, stride), (first, height), (s, own), factors)
        if rows - full * height:
            _tile(c, (pointer, offset, stride), (full * height, rows - full * height), (s, own), factors)


def _tile(
    c: Context,
    target: tuple[ir.Value, int, int],
    block: tuple[int | ir.Value, int],
    vectors: tuple[int, int],
    factors: Factors,
) -> None:
    """One block of rows (first, count) times one run of column vectors (first, count)."""
    b, width = c.b, c.target.width
    pointer, offset, stride = target
    (first, height), (start, own) = block, vectors
    zero = c.splat_constant(0.0)
    column = b.add(factors.left_start, c.affine(first, factors.left_row, 0))

    def terms(q: ir.Value | int, acc: list[list[ir.Value]]) -> list[list[ir.Value]]:
        at = c.affine(q, stride, factors.right_start + start * width)
        right = [c.load_vector(factors.right, b.add(at, c.index(k * width))) for k in range(own)]
        origin = b.add(column, c.affine(q, factors.left_step, 0))
        new = []
        for r in range(height):
            a = c.splat(c.load_scalar(factors.left, b.add(origin, c.index(r * factors.left_row))))
            new.append([c.fma(a, right[k], acc[r][k]) for k in range(own)])
        return new

    sums = inner_loop(c, factors.count, 1, [[[zero] * own for _ in range(height)]], terms)[0]
    for r in range(height):
        for k in range(own):
            at = b.add(c.affine(first, stride, offset + r * stride), c.index((start + k) * width))
            c.store_vector(b.fadd(c.load_vector(pointer, at), sums[r][k]), pointer, at)
