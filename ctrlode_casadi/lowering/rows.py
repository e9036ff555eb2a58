"""The second orientation: one trajectory, SIMD vectors over the entries of a value.

With a single record, lanes over trajectories would idle. Here a value with n entries is n numbers in memory, and
elementwise code, products and weight gradients run over neighbouring entries. A loop that does not divide into whole
vectors ends with a vector that overlaps the one before: entries in the overlap are computed twice, which is harmless
because no loop reads what it writes. Everything else (movement, reductions, sparse products) uses the scalar form of
the lane emitter, whose memory layout is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from llvmlite import ir

from . import deferred
from .accumulate import Leaf, Outer
from .body import Body
from .elementwise import emit_elementwise
from .lanes import I32, Context, Memory
from .matmul import WeightView, inner_loop
from .outer import padded
from .schedule import Accumulate, Fused
from .views import progression

#: Reads ``width`` consecutive entries that start at an entry.
LoadChunk = Callable[["ir.Value | int", Context], ir.Value]


def widest(wide: Mapping[int, Context], n: int) -> Context:
    """Context of the widest vectors that fit into n entries."""
    return wide[max(w for w in wide if w <= max(n, 1))]


def chunk_loader(body: Body, v: int) -> LoadChunk:
    """How to read consecutive entries of a value; a value of length one is repeated."""
    c = body.c
    base, index = body.views.resolve(v, body.program.sizes[v])
    numbers = body.constant(base)
    if numbers is not None and index.size and (numbers[index] == numbers[index[0]]).all():
        number = float(numbers[index[0]])
        return lambda entry, wide: wide.splat_constant(number)
    if index.size == 1:
        scalar = c.b.extract_element(body.loader(v)(0, 0), ir.Constant(I32, 0))
        return lambda entry, wide: wide.splat(scalar)
    start, step = progression(index)  # type: ignore[misc]
    memory = body.memory(base)
    return lambda entry, wide: _load(wide, memory, entry, start, step)


def _load(wide: Context, memory: Memory, entry: ir.Value | int, start: int, step: int) -> ir.Value:
    first = wide.affine(entry, step, start + memory.offset)
    if step == 1 or wide.target.width == 1:
        return wide.load_vector(memory.pointer, first)
    vector = ir.Constant(wide.vector, ir.Undefined)
    for k in range(wide.target.width):
        at = wide.b.add(first, wide.index(k * step))
        number = wide.load_scalar(memory.pointer, at)
        vector = wide.b.insert_element(vector, number, ir.Constant(I32, k))
    return vector


def over_chunks(wide: Mapping[int, Context], n: int, emit: Callable[[ir.Value | int, Context], None]) -> None:
    """Run ``emit(first entry, context)`` over n entries, the last chunk overlapping the one before."""
    context = widest(wide, n)
    width = context.target.width
    whole = n // width
    if whole == 1:
        emit(0, context)
    elif whole:
        with context.loop(whole * width, step=width) as i:
            emit(i, context)
    if n % width:
        emit(n - width, context)


def fused(body: Body, wide: Mapping[int, Context], step: Fused) -> None:
    """An elementwise loop over the entries of values of one length."""
    program = body.program
    own = set(step.values)
    outside: dict[int, LoadChunk] = {}
    for v in step.values:
        for i in program.producer[v].inputs:
            if i not in own and i not in outside:
                outside[i] = chunk_loader(body, i)
    places = {v: body.memory(v) for v in step.values if body.has_memory(v)}

    def chunk(entry: ir.Value | int, c: Context) -> None:
        values: dict[int, ir.Value] = {}
        for v in step.values:
            ins = program.producer[v]
            args = [values[i] if i in own else outside[i](entry, c) for i in ins.inputs]
            values[v] = emit_elementwise(c, ins.op, args)
            if v in places:
                c.store_vector(values[v], places[v].pointer, c.affine(entry, 1, places[v].offset))
            if step.length == 1:
                body.registers[v] = [values[v]]

    over_chunks(wide, step.length, chunk)


def copy(body: Body, wide: Mapping[int, Context], v: int, memory: Memory, n: int) -> None:
    """Write a value to memory."""
    load = chunk_loader(body, v)
    over_chunks(wide, n, lambda i, c: c.store_vector(load(i, c), memory.pointer, c.affine(i, 1, memory.offset)))


def matvec(
    body: Body,
    wide: Mapping[int, Context],
    weights: WeightView,
    shape: tuple[int, int],
    x: tuple[Memory, int, int],
    start: LoadChunk | None,
    out: Memory,
) -> bool:
    """``out = start + W @ x`` for contiguous x; False when no fast form fits (then nothing is emitted).

    Weights that are contiguous along the output are summed column by column; weights that are contiguous along x give
    one dot product per row, reduced eight rows at a time.
    """
    rows, inner = shape
    memory, first, step = x
    if weights.down == 1 and rows > 1:
        _by_columns(body, wide, weights, shape, (memory, first, step), start, out)
        return True
    if weights.across == 1 and step == 1 and inner > 1:
        _by_dots(body, wide, weights, shape, Memory(memory.pointer, memory.offset + first, True), start, out)
        return True
    return False


def _by_columns(
    body: Body,
    wide: Mapping[int, Context],
    weights: WeightView,
    shape: tuple[int, int],
    x: tuple[Memory, int, int],
    start: LoadChunk | None,
    out: Memory,
) -> None:
    rows, inner = shape
    memory, first, step = x
    c = widest(wide, rows)
    width = c.target.width
    starts = [*range(0, rows - width + 1, width)]
    if rows % width:
        starts.append(rows - width)
    most = c.target.accumulators
    for k in range(0, len(starts), most):
        tile = starts[k : k + most]
        parts = max(1, min(inner, 8 // len(tile)))
        init = [c.splat_constant(0.0) if start is None else start(s, c) for s in tile]
        zero = [c.splat_constant(0.0)] * len(tile)

        def terms(q: ir.Value | int, acc: list[ir.Value], tile: list[int] = tile) -> list[ir.Value]:
            scalar = c.load_scalar(memory.pointer, c.affine(q, step, memory.offset + first))
            z = c.splat(scalar)
            at = c.affine(q, weights.across, weights.offset)
            columns = [c.load_vector(weights.pointer, c.b.add(at, c.index(s))) for s in tile]
            return [c.fma(w, z, a) for w, a in zip(columns, acc, strict=True)]

        sums = _accumulate(c, inner, parts, [init] + [zero] * (parts - 1), terms)
        for s, value in zip(tile, sums, strict=True):
            c.store_vector(value, out.pointer, c.index(out.offset + s))


def _accumulate(
    c: Context,
    count: int,
    parts: int,
    sums: list[list[ir.Value]],
    terms: Callable[[ir.Value | int, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """Sum terms over ``count`` positions with ``parts`` independent chains."""
    whole = count // parts
    if whole > 1:
        blocks = inner_loop(c, whole, parts, [[s] for s in sums], lambda q, acc: [terms(q, acc[0])])
        sums = [b[0] for b in blocks]
        done = whole * parts
    else:
        done = 0
    for q in range(done, count):
        sums[(q - done) % parts] = terms(q, sums[(q - done) % parts])
    total = sums[0]
    for other in sums[1:]:
        total = [c.b.fadd(a, b) for a, b in zip(total, other, strict=True)]
    return total


def _by_dots(
    body: Body,
    wide: Mapping[int, Context],
    weights: WeightView,
    shape: tuple[int, int],
    x: Memory,
    start: LoadChunk | None,
    out: Memory,
) -> None:
    rows, inner = shape
    c = widest(wide, inner)
    width = c.target.width
    whole, rest = divmod(inner, width)
    tail = _masked_tail(c, x, inner, rest) if rest else None

    def block(first: ir.Value | int, count: int) -> None:
        base = c.affine(first, weights.down, weights.offset)

        def terms(q: ir.Value | int, acc: list[ir.Value]) -> list[ir.Value]:
            z = c.load_vector(x.pointer, c.affine(q, width, x.offset))
            at = c.b.add(base, c.affine(q, width, 0))
            return [
                c.fma(c.load_vector(weights.pointer, c.b.add(at, c.index(r * weights.down))), z, a)
                for r, a in enumerate(acc)
            ]

        sums = _accumulate(c, whole, 1, [[c.splat_constant(0.0)] * count], terms)
        if tail is not None:
            at = c.b.add(base, c.index(inner - width))
            sums = [
                c.fma(c.load_vector(weights.pointer, c.b.add(at, c.index(r * weights.down))), tail, s)
                for r, s in enumerate(sums)
            ]
        _store_sums(wide, c, sums, first, start, out)

    size = max(w for w in wide if w <= rows)
    full = rows // size
    if full == 1:
        block(0, size)
    else:
        with c.loop(full * size, step=size) as first:
            block(first, size)
    if rows % size:
        block(rows - size, size)


def _masked_tail(c: Context, x: Memory, inner: int, rest: int) -> ir.Value:
    """The last ``width`` entries of x, those that whole vectors have covered set to zero."""
    width = c.target.width
    mask = ir.Constant(
        ir.VectorType(ir.IntType(1), width), [ir.Constant(ir.IntType(1), int(k >= width - rest)) for k in range(width)]
    )
    last = c.load_vector(x.pointer, c.index(x.offset + inner - width))
    return c.b.select(mask, last, c.splat_constant(0.0))


def _store_sums(
    wide: Mapping[int, Context],
    c: Context,
    sums: list[ir.Value],
    first: ir.Value | int,
    start: LoadChunk | None,
    out: Memory,
) -> None:
    """Reduce one vector per row to one number per row and store the rows together."""
    target = wide[len(sums)]
    total = row_sums(c, sums)
    if start is not None:
        total = c.b.fadd(total, start(first, target))
    target.store_vector(total, out.pointer, target.affine(first, 1, out.offset))


def row_sums(c: Context, rows: list[ir.Value]) -> ir.Value:
    """Vector of the sums of several vectors, by log2 rounds of pairwise shuffles and additions.

    After a round, a vector holds twice as many rows side by side, each with half as many partial sums.
    """
    width = c.target.width
    segment = width
    while len(rows) > 1 and segment > 1:
        pairs = zip(rows[0::2], rows[1::2], strict=True)
        rows = [_folded(c, [a, b], segment) for a, b in pairs]
        segment //= 2
    while segment > 1:
        rows = [_folded(c, [rows[0]], segment)]
        segment //= 2
    while len(rows) > 1:
        rows = [_joined(c, a, b) for a, b in zip(rows[0::2], rows[1::2], strict=True)]
    return rows[0]


def _folded(c: Context, vectors: list[ir.Value], segment: int) -> ir.Value:
    """Add the upper half of every segment to its lower half; the segments of two vectors go side by side."""
    width = vectors[0].type.count
    first, second = vectors if len(vectors) == 2 else (vectors[0], ir.Constant(vectors[0].type, ir.Undefined))
    low = [
        q * width + s + k for q in range(len(vectors)) for s in range(0, width, segment) for k in range(segment // 2)
    ]
    high = [k + segment // 2 for k in low]
    return c.b.fadd(*(c.b.shuffle_vector(first, second, _mask(m)) for m in (low, high)))


def _joined(c: Context, a: ir.Value, b: ir.Value) -> ir.Value:
    return c.b.shuffle_vector(a, b, _mask(range(2 * a.type.count)))


def _mask(entries: Iterable[int]) -> ir.Constant:
    numbers = [ir.Constant(I32, k) for k in entries]
    return ir.Constant(ir.VectorType(I32, len(numbers)), numbers)


def accumulate(body: Body, wide: Mapping[int, Context], step: Accumulate) -> None:
    """Add one piece of the gradient: neighbouring weights together."""
    piece, place, acc = step.piece, body.piece_places[step.number], body.accumulator
    if isinstance(piece, Leaf):
        load = chunk_loader(body, piece.value)
        over_chunks_once(
            wide, piece.destination.size, lambda i, c: _add(c, acc, c.affine(i, 1, place.offset), load(i, c))
        )
        return
    if place.slots is not None:
        _defer(body, wide, piece, place.slots)
        return
    rows, columns = piece.shape
    left, l0, ls = body.factor(*piece.left)
    right, r0, rs = body.factor(*piece.right)
    c = body.c
    with c.entries(rows) as i:
        scalar = c.load_scalar(left.pointer, c.affine(i, ls, left.offset + l0))
        row = c.affine(i, columns, place.offset)

        def chunk(j: ir.Value | int, w: Context) -> None:
            at = w.b.add(row, w.affine(j, 1, 0))
            old = w.load_vector(acc, at)
            w.store_vector(w.fma(w.splat(scalar), _load(w, right, j, r0, rs), old), acc, at)

        over_chunks_once(wide, columns, chunk)


def _defer(body: Body, wide: Mapping[int, Context], piece: Outer, slots: tuple[int, int]) -> None:
    """Copy the factors into the free slot."""
    c, acc = body.c, body.accumulator
    rows, columns = piece.shape
    free = deferred.slot(c, acc)
    widths = (rows, padded(columns, max(wide)))
    for factor, n, start, stride in zip((piece.left, piece.right), (rows, columns), slots, widths, strict=True):
        memory, first, step = body.factor(*factor)
        origin = c.b.add(c.b.mul(free, c.index(stride)), c.index(start))

        def chunk(
            i: ir.Value | int,
            w: Context,
            memory: Memory = memory,
            first: int = first,
            step: int = step,
            origin: ir.Value = origin,
        ) -> None:
            w.store_vector(_load(w, memory, i, first, step), acc, w.b.add(origin, w.affine(i, 1, 0)))

        over_chunks(wide, n, chunk)


def _add(c: Context, pointer: ir.Value | None, at: ir.Value, value: ir.Value) -> None:
    c.store_vector(c.b.fadd(c.load_vector(pointer, at), value), pointer, at)


def over_chunks_once(wide: Mapping[int, Context], n: int, emit: Callable[[ir.Value | int, Context], None]) -> None:
    """Run ``emit`` over n entries without overlap: whole vectors, then ever narrower ones."""
    done = 0
    while done < n:
        context = widest(wide, n - done)
        width = context.target.width
        whole = (n - done) // width
        if whole == 1:
            emit(done, context)
        else:
            start = done
            with context.loop(whole * width, step=width) as i:
                emit(context.b.add(i, context.index(start)) if start else i, context)
        done += whole * width
