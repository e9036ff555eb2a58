"""Emission of a kernel from its steps: loops for fused elementwise code, one routine per structural operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from llvmlite import ir

from . import matmul, outer, rows
from .accumulate import Leaf
from .body import Body, allocate
from .elementwise import emit_elementwise
from .homes import Inside
from .lanes import Context, Memory
from .matmul import Load, Store
from .program import Instruction
from .schedule import Accumulate, Fused, Step
from .shared_products import Vector, call_matvec
from .views import progression, strided

#: Copies up to this many vectors are written out, longer ones run over an index table.
UNROLL_LIMIT = 64


def run(body: Body, steps: Sequence[Step]) -> None:
    """Emit all steps in order."""
    for step in steps:
        if isinstance(step, Fused):
            if body.wide is None:
                _fused(body, step)
            else:
                rows.fused(body, body.wide, step)
        elif isinstance(step, Accumulate):
            if body.wide is None:
                _accumulate(body, step)
            else:
                rows.accumulate(body, body.wide, step)
        else:
            ins = body.program.producer[step.value]
            _STRUCTURAL[ins.op](body, ins)


def _fused(body: Body, step: Fused) -> None:
    c, program = body.c, body.program
    own = set(step.values)
    outside: dict[int, Load] = {}
    for v in step.values:
        for i in program.producer[v].inputs:
            if i not in own and i not in outside:
                outside[i] = _hoisted(body, i, step.length)
    stores = {v: body.writer(v) for v in step.values if body.has_memory(v)}
    with c.entries(step.length) as entry:
        for m in range(c.target.registers):
            values: dict[int, ir.Value] = {}
            for v in step.values:
                ins = program.producer[v]
                args = [values[i] if i in own else outside[i](entry, m) for i in ins.inputs]
                values[v] = emit_elementwise(c, ins.op, args)
                if v in stores:
                    stores[v](entry, m, values[v])
                if step.length == 1:
                    body.registers.setdefault(v, []).append(values[v])


def _hoisted(body: Body, v: int, length: int) -> Load:
    """Loader of an operand; one that repeats over the loop is read before it."""
    load = body.loader(v)
    if body.program.sizes[v] == 1 and length > 1:
        values = [load(0, m) for m in range(body.c.target.registers)]
        return lambda entry, m: values[m]
    return load


def _accumulate(body: Body, step: Accumulate) -> None:
    c, piece, place = body.c, step.piece, body.piece_places[step.number]
    if isinstance(piece, Leaf):
        outer.add_leaf(c, body.accumulator, place.offset, piece.destination.size, body.loader(piece.value))
        return
    n_rows, columns = piece.shape
    left, right = body.factor(*piece.left), body.factor(*piece.right)
    if place.partial:
        outer.add_partial(c, body.accumulator, place.offset, n_rows, columns, body.reader(left), body.reader(right))
        return
    scratch = allocate(c, c.target.lanes * outer.padded(columns, c.target.width))
    outer.transpose_into(c, scratch, columns, body.reader(right))
    memory, start, step_size = left
    lanes = c.target.lanes
    origin = c.index((memory.offset + start) * lanes)
    factors = outer.Factors(memory.pointer, origin, step_size * lanes, 1, scratch, 0, lanes)
    outer.add_products(c, body.accumulator, place.offset, n_rows, columns, factors)


def copy(body: Body, v: int, memory: Memory) -> None:
    """Write a value to memory."""
    if body.wide is None:
        body.fill(body.loader(v), memory, body.program.sizes[v])
    elif body.program.sizes[v]:
        rows.copy(body, body.wide, v, memory, body.program.sizes[v])


def _moves(body: Body, pairs: np.ndarray, source: Memory, target: Memory, add: bool) -> None:
    """Entry-wise ``target[pairs[:, 0]] (+)= source[pairs[:, 1]]``."""
    c = body.c

    def move(to: ir.Value, origin: ir.Value) -> None:
        for m in range(c.target.registers):
            value = c.load_entry(source, origin, m)
            if add:
                value = c.b.fadd(c.load_entry(target, to, m), value)
            c.store_entry(value, target, to, m)

    if len(pairs) <= UNROLL_LIMIT // c.target.registers:
        for to, origin in pairs:
            move(c.index(to), c.index(origin))
        return
    table = c.table(pairs.ravel(), integer=True)
    with c.loop(len(pairs)) as k:
        at = [c.b.gep(table, [c.affine(k, 2, q)], inbounds=True, source_etype=ir.IntType(64)) for q in (0, 1)]
        move(*(c.b.load(p, typ=ir.IntType(64)) for p in at))


def _gather(body: Body, ins: Instruction) -> None:
    source = ins.inputs[0]
    base, inner = body.views.resolve(source, body.program.sizes[source])
    index = np.where(ins.attr >= 0, inner[np.maximum(ins.attr, 0)], -1) if inner.size else ins.attr
    target = body.memory(ins.output)
    if np.any(index < 0):
        zero = body.c.splat_constant(0.0)
        body.fill(lambda entry, m: zero, target, ins.attr.size)
    used = np.flatnonzero(index >= 0)
    _moves(body, np.stack([used, index[used]], axis=1), body.memory(base), target, add=False)


def _concat(body: Body, ins: Instruction) -> None:
    target = body.memory(ins.output)
    offset = 0
    for v in ins.inputs:
        n = body.program.sizes[v]
        home = body.homes.home.get(v)
        if not (isinstance(home, Inside) and home.whole == ins.output and home.offset == offset):
            copy(body, v, Memory(target.pointer, target.offset + offset, varying=True))
        offset += n


def _scatter(body: Body, ins: Instruction) -> None:
    index, add = ins.attr
    target = body.memory(ins.output)
    copy(body, ins.inputs[0], target)
    source = ins.inputs[1]
    base, inner = body.views.resolve(source, body.program.sizes[source])
    if base in body.registers and not body.has_memory(base) and base not in body.known:
        raise RuntimeError(f"value {base} of {body.program.name} has no memory; this is a bug in the homes")
    _moves(body, np.stack([index, inner], axis=1), body.memory(base), target, add)


def _start(body: Body, v: int) -> Load | None:
    base, index = body.views.resolve(v, body.program.sizes[v])
    numbers = body.constant(base)
    if numbers is not None and not np.any(numbers[index]):
        return None
    return body.loader(v)


def _factor_loader(body: Body, v: int) -> Load:
    """Loader of a factor of a product; a strided view (a transpose) is copied to scratch memory first."""
    c = body.c
    base, index = body.views.resolve(v, body.program.sizes[v])
    if progression(index) is not None:
        return body.loader(v)
    memory = Memory(allocate(c, index.size * c.target.lanes), 0, varying=True)
    _moves(body, np.stack([np.arange(index.size), index], axis=1), body.memory(base), memory, add=False)
    return lambda entry, m: c.load_entry(memory, c.affine(entry, 1, 0), m)


def _mtimes(body: Body, ins: Instruction) -> None:
    acc, a, x = ins.inputs
    r, k, n = ins.attr
    if body.wide is not None and _row_product(body, body.wide, ins):
        return
    start, store = _start(body, acc), body.writer(ins.output)
    if body.is_varying(a) and body.is_varying(x):
        matmul.varying_product(body.c, (r, k, n), _factor_loader(body, a), _factor_loader(body, x), start, store)
    elif body.is_varying(x):
        weights = _weights(body, a, r, k)
        if body.wide is None and _called(body, weights, ins):
            return
        load = _factor_loader(body, x)
        for j in range(n):
            matmul.matvec(body.c, weights, r, k, *_along(body, load, start, store, k * j, 1, r * j, 1))
    else:
        weights = _weights(body, x, k, n)
        turned = matmul.WeightView(weights.pointer, weights.offset, weights.across, weights.down)
        load = _factor_loader(body, a)
        for i in range(r):
            matmul.matvec(body.c, turned, n, k, *_along(body, load, start, store, i, r, i, r))


def _called(body: Body, weights: matmul.WeightView, ins: Instruction) -> bool:
    """A product by shared functions, if this module has them and all operands can be addressed."""
    acc, _, x = ins.inputs
    r, k, n = ins.attr
    vector, sum_from = _vector(body, x), None if _start(body, acc) is None else _vector(body, acc)
    if body.c.products is None or vector is None or (sum_from is None and _start(body, acc) is not None):
        return False
    out = body.memory(ins.output)
    for j in range(n):
        call_matvec(
            body.c,
            weights,
            (r, k),
            replace(vector, first=vector.first + k * j * vector.step),
            None if sum_from is None else replace(sum_from, first=sum_from.first + r * j * sum_from.step),
            Vector(out, r * j, 1),
        )
    return True


def _vector(body: Body, v: int) -> Vector | None:
    """Where a value is in memory; None for one in registers, or whose entries are no progression."""
    base, index = body.views.resolve(v, body.program.sizes[v])
    steps = progression(index)
    if steps is None or (base in body.registers and not body.has_memory(base) and base not in body.known):
        return None
    return Vector(body.memory(base), *steps)


def _row_product(body: Body, wide: Mapping[int, Context], ins: Instruction) -> bool:
    """A matrix-vector product of one trajectory, if one side is a uniform matrix and the other one column."""
    acc, a, x = ins.inputs
    r, k, n = ins.attr
    matrix, vector, shape = (a, x, (r, k)) if n == 1 else (x, a, (n, k))
    if (n != 1 and r != 1) or body.is_varying(matrix) or not body.is_varying(vector):
        return False
    weights = _weights(body, matrix, *((r, k) if n == 1 else (k, n)))
    if n != 1:
        weights = matmul.WeightView(weights.pointer, weights.offset, weights.across, weights.down)
    base, index = body.views.resolve(vector, body.program.sizes[vector])
    if not (body.has_memory(base) or base in body.known):
        return False
    first, step = progression(index)  # type: ignore[misc]
    start = None if _start(body, acc) is None else rows.chunk_loader(body, acc)
    return rows.matvec(body, wide, weights, shape, (body.memory(base), first, step), start, body.memory(ins.output))


def _along(
    body: Body,
    load: Load,
    start: Load | None,
    store: Store,
    x_first: int,
    x_step: int,
    out_first: int,
    out_step: int,
) -> tuple[Load, Load | None, Store]:
    """Column or row access of a matrix product."""
    c = body.c
    return (
        lambda k, m: load(c.affine(k, x_step, x_first), m),
        None if start is None else lambda i, m: start(c.affine(i, out_step, out_first), m),
        lambda i, m, value: store(c.affine(i, out_step, out_first), m, value),
    )


def _weights(body: Body, v: int, rows: int, columns: int) -> matmul.WeightView:
    base, index = body.views.resolve(v, body.program.sizes[v])
    memory = body.memory(base)
    start, down, across = strided(index, rows, columns)  # type: ignore[misc]
    return matmul.WeightView(memory.pointer, memory.offset + start, down, across)


def _triples(body: Body, ins: Instruction) -> None:
    acc, a, x = ins.inputs
    load_a, load_x, start, store = body.loader(a), body.loader(x), _start(body, acc), body.writer(ins.output)
    c = body.c
    by_output: dict[int, list[tuple[int, int]]] = {o: [] for o in range(body.program.sizes[ins.output])}
    for o, i, j in ins.attr:
        by_output[int(o)].append((int(i), int(j)))
    for o, terms in by_output.items():
        for m in range(c.target.registers):
            total = c.splat_constant(0.0) if start is None else start(c.index(o), m)
            for i, j in terms:
                total = c.fma(load_a(c.index(i), m), load_x(c.index(j), m), total)
            store(c.index(o), m, total)


def _segment_sum(body: Body, ins: Instruction) -> None:
    n = body.program.sizes[ins.output]
    count = body.program.sizes[ins.inputs[0]] // n
    _reduce(body, ins, n, count, lambda x, y: body.c.b.fadd(x, y))


def _reduce(
    body: Body, ins: Instruction, n: int, count: int, combine: Callable[[ir.Value, ir.Value], ir.Value]
) -> None:
    c, load, store = body.c, body.loader(ins.inputs[0]), body.writer(ins.output)
    with c.entries(n) as i:
        for m in range(c.target.registers):
            first = load(c.affine(i, 1, 0), m)
            if count > 1:

                def term(q: ir.Value, acc: list[list[ir.Value]], m: int = m) -> list[list[ir.Value]]:
                    at = c.b.add(c.affine(i, 1, n), c.affine(q, n, 0))
                    return [[combine(acc[0][0], load(at, m))]]

                first = matmul.inner_loop(c, count - 1, 1, [[[first]]], term)[0][0][0]
            store(c.affine(i, 1, 0), m, first)


def _call(body: Body, ins: Instruction) -> None:
    """A call of the function for this callee, which is emitted when it is first needed."""
    c, callee = body.c, ins.attr
    operands = [_in_memory(body, v) for v in ins.inputs]
    key = (callee, tuple(m.varying for m in operands))
    if key not in c.callees:
        if body.emit_callee is None:
            raise RuntimeError("this body cannot make functions; this is a bug in the assembly")
        name = c.module.get_unique_name(f"{callee.program.name}.called")
        c.callees[key] = body.emit_callee(name, callee.program, [m.varying for m in operands])
    addresses = [Vector(m, 0, 1).address(c) for m in (*operands, body.memory(ins.output))]
    c.b.call(c.callees[key], addresses)


def _in_memory(body: Body, v: int) -> Memory:
    """Neighbouring entries that are a value; copied where its entries are not neighbours."""
    vector, n = _vector(body, v), body.program.sizes[v]
    if vector is not None and (vector.step == 1 or n == 1):
        return replace(vector.memory, offset=vector.memory.offset + vector.first)
    memory = Memory(allocate(body.c, n * body.c.target.lanes), 0, varying=True)
    copy(body, v, memory)
    return memory


def _whole(combine: Callable[[Body], Callable[[ir.Value, ir.Value], ir.Value]]) -> Callable[[Body, Instruction], None]:
    def emit(body: Body, ins: Instruction) -> None:
        _reduce(body, ins, 1, body.program.sizes[ins.inputs[0]], combine(body))

    return emit


_STRUCTURAL: dict[str, Callable[[Body, Instruction], None]] = {
    "gather": _gather,
    "concat": _concat,
    "scatter": _scatter,
    "mtimes": _mtimes,
    "triples": _triples,
    "segment_sum": _segment_sum,
    "call": _call,
    "sum": _whole(lambda body: lambda x, y: body.c.b.fadd(x, y)),
    "max": _whole(lambda body: lambda x, y: body.c.math.fmax(body.c.b, x, y)),
    "min": _whole(lambda body: lambda x, y: body.c.math.fmin(body.c.b, x, y)),
}
