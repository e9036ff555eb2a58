"""Emission of one kernel body from its steps: loops for fused elementwise code, one routine per structural operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from llvmlite import ir

from . import matmul, outer, rows
from .accumulate import Leaf
from .elementwise import emit_elementwise
from .homes import Homes, Inside, Slot
from .lanes import POINTER, Context, Memory
from .program import Instruction, Program
from .schedule import Accumulate, Fused, Step
from .views import Views, progression, strided

#: Copies and sparse products up to this many entries are written out, longer ones run over an index table.
UNROLL_LIMIT = 64

Load = Callable[["ir.Value | int", int], ir.Value]


@dataclass(frozen=True)
class PiecePlace:
    """Accumulator of one piece: position in the accumulator and form.

    ``slots`` are the positions of the waiting left and right factors where products are deferred (see ``deferred``).
    """

    offset: int
    partial: bool
    slots: tuple[int, int] | None = None


@dataclass
class Body:
    """Emits the steps of one kernel.

    Parameters
    ----------
    c : Context
        Positioned in the body function.
    program, views : Program, Views
        What is computed; which movements are free.
    known : mapping
        Memory of values that exist on entry (inputs, uniform values, tape).
    stored : mapping
        Memory that computed values must be written to (tape, outputs).
    wide : mapping, optional
        SIMD width -> context over the entries of a value: the orientation for one trajectory (``c`` is scalar then).
    """

    c: Context
    program: Program
    views: Views
    known: Mapping[int, Memory]
    stored: Mapping[int, Memory]
    homes: Homes
    accumulator: ir.Value | None = None
    piece_places: Sequence[PiecePlace] = ()
    wide: Mapping[int, Context] | None = None
    registers: dict[int, list[ir.Value]] = field(default_factory=dict)
    _tables: dict[int, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scratch = _alloca(self.c, self.homes.scratch_entries * self.c.target.lanes)

    # places ----------------------------------------------------------------------------------------------------
    def memory(self, v: int) -> Memory:
        """Memory of an owner."""
        place = self.known.get(v) or self.stored.get(v)
        if place is not None:
            return place
        made = self.program.producer.get(v)
        if made is not None and made.op == "const":
            if v not in self._tables:
                self._tables[v] = self.c.table(made.attr)
            return Memory(self._tables[v], 0, varying=False)
        home = self.homes.home[v]
        if isinstance(home, Slot):
            return Memory(self._scratch, home.offset, varying=True)
        whole = self.memory(home.whole)
        return Memory(whole.pointer, whole.offset + home.offset, varying=True)

    def has_memory(self, v: int) -> bool:
        """Whether a computed value must be written to memory."""
        return v in self.stored or v in self.homes.home

    def constant(self, v: int) -> np.ndarray | None:
        """Numbers of a constant owner."""
        made = self.program.producer.get(v)
        return made.attr if made is not None and made.op == "const" else None

    def loader(self, v: int) -> Load:
        """How to read a value, entry by entry; a value of length one is the same for every entry."""
        base, index = self.views.resolve(v, self.program.sizes[v])
        numbers = self.constant(base)
        if numbers is not None:
            own = numbers[index]
            if own.size and np.all(own == own[0]):
                splat = self.c.splat_constant(own[0])
                return lambda entry, m: splat
        if base in self.registers and index.size == 1:
            values = self.registers[base]
            return lambda entry, m: values[m]
        steps = progression(index)
        if steps is None:
            raise RuntimeError(f"value {v} of {self.program.name} is not addressable; this is a bug in the views")
        start, step = steps if self.program.sizes[v] != 1 else (steps[0], 0)
        memory = self.memory(base)
        return lambda entry, m: self.c.load_entry(memory, self.c.affine(entry, step, start), m)

    def is_varying(self, v: int) -> bool:
        """Whether a value differs between lanes."""
        base, _ = self.views.resolve(v, self.program.sizes[v])
        if base in self.registers:
            return True
        return self.constant(base) is None and self.memory(base).varying

    def writer(self, v: int) -> Callable[[ir.Value | int, int, ir.Value], None]:
        """How to write a value."""
        memory = self.memory(v)
        return lambda entry, m, value: self.c.store_entry(value, memory, self.c.affine(entry, 1, 0), m)

    # steps -----------------------------------------------------------------------------------------------------
    def run(self, steps: Sequence[Step]) -> None:
        """Emit all steps in order."""
        for step in steps:
            if isinstance(step, Fused):
                self._fused(step) if self.wide is None else rows.fused(self, self.wide, step)
            elif isinstance(step, Accumulate):
                self._accumulate(step) if self.wide is None else rows.accumulate(self, self.wide, step)
            else:
                ins = self.program.producer[step.value]
                _STRUCTURAL[ins.op](self, ins)

    def _fused(self, step: Fused) -> None:
        c, program = self.c, self.program
        own = set(step.values)
        outside: dict[int, Load] = {}
        for v in step.values:
            for i in program.producer[v].inputs:
                if i not in own and i not in outside:
                    outside[i] = self._hoisted(i, step.length)
        stores = {v: self.writer(v) for v in step.values if self.has_memory(v)}
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
                        self.registers.setdefault(v, []).append(values[v])

    def _hoisted(self, v: int, length: int) -> Load:
        """Loader of an operand; one that repeats over the loop is read before it."""
        load = self.loader(v)
        if self.program.sizes[v] == 1 and length > 1:
            values = [load(0, m) for m in range(self.c.target.registers)]
            return lambda entry, m: values[m]
        return load

    def _accumulate(self, step: Accumulate) -> None:
        c, piece, place = self.c, step.piece, self.piece_places[step.number]
        if isinstance(piece, Leaf):
            outer.add_leaf(c, self.accumulator, place.offset, piece.destination.size, self.loader(piece.value))
            return
        n_rows, columns = piece.shape
        left, right = self.factor(*piece.left), self.factor(*piece.right)
        if place.partial:
            outer.add_partial(
                c, self.accumulator, place.offset, n_rows, columns, self._reader(left), self._reader(right)
            )
            return
        scratch = _alloca(c, c.target.lanes * outer.padded(columns, c.target.width))
        outer.transpose_into(c, scratch, columns, self._reader(right))
        memory, start, step_size = left
        lanes = c.target.lanes
        origin = c.index((memory.offset + start) * lanes)
        factors = outer.Factors(memory.pointer, origin, step_size * lanes, 1, scratch, 0, lanes)
        outer.add_products(c, self.accumulator, place.offset, n_rows, columns, factors)

    def factor(self, v: int, index: np.ndarray) -> tuple[Memory, int, int]:
        base, inner = self.views.resolve(v, self.program.sizes[v])
        start, step = progression(inner[index])  # type: ignore[misc]
        return self.memory(base), start, step

    def _reader(self, factor: tuple[Memory, int, int]) -> Load:
        memory, start, step = factor
        return lambda entry, m: self.c.load_entry(memory, self.c.affine(entry, step, start), m)

    def copy(self, v: int, memory: Memory) -> None:
        """Write a value to memory."""
        if self.wide is None:
            self.fill(self.loader(v), memory, self.program.sizes[v])
        elif self.program.sizes[v]:
            rows.copy(self, self.wide, v, memory, self.program.sizes[v])

    def fill(self, load: Load, memory: Memory, count: int) -> None:
        """Write ``count`` entries to memory."""
        if count == 0:
            return
        with self.c.entries(count) as entry:
            for m in range(self.c.target.registers):
                self.c.store_entry(load(entry, m), memory, self.c.affine(entry, 1, 0), m)


def _alloca(c: Context, numbers: int) -> ir.Value:
    with c.b.goto_entry_block():
        pointer = c.b.alloca(ir.ArrayType(c.scalar, max(numbers, 1)))
        pointer.align = 64
        pointer.type = POINTER
    return pointer


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
            body.copy(v, Memory(target.pointer, target.offset + offset, varying=True))
        offset += n


def _scatter(body: Body, ins: Instruction) -> None:
    index, add = ins.attr
    target = body.memory(ins.output)
    body.copy(ins.inputs[0], target)
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


def _mtimes(body: Body, ins: Instruction) -> None:
    acc, a, x = ins.inputs
    r, k, n = ins.attr
    if body.wide is not None and _row_product(body, body.wide, ins):
        return
    start, store = _start(body, acc), body.writer(ins.output)
    if body.is_varying(a) and body.is_varying(x):
        matmul.varying_product(body.c, (r, k, n), body.loader(a), body.loader(x), start, store)
    elif body.is_varying(x):
        weights = _weights(body, a, r, k)
        load = body.loader(x)
        for j in range(n):
            matmul.matvec(body.c, weights, r, k, *_along(body, load, start, store, k * j, 1, r * j, 1))
    else:
        weights = _weights(body, x, k, n)
        turned = matmul.WeightView(weights.pointer, weights.offset, weights.across, weights.down)
        load = body.loader(a)
        for i in range(r):
            matmul.matvec(body.c, turned, n, k, *_along(body, load, start, store, i, r, i, r))


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
    store: Callable[[ir.Value | int, int, ir.Value], None],
    x_first: int,
    x_step: int,
    out_first: int,
    out_step: int,
) -> tuple[Load, Load | None, Callable[[ir.Value | int, int, ir.Value], None]]:
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
    "sum": _whole(lambda body: lambda x, y: body.c.b.fadd(x, y)),
    "max": _whole(lambda body: lambda x, y: body.c.math.fmax(body.c.b, x, y)),
    "min": _whole(lambda body: lambda x, y: body.c.math.fmin(body.c.b, x, y)),
}
