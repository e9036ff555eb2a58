"""Assembly of the five kernels of a function into one LLVM module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import casadi as ca
import numpy as np
from llvmlite import ir

from . import deferred, outer
from .accumulate import Leaf, Outer, find_pieces
from .body import Body, PiecePlace
from .emit import copy, run
from .homes import assign_homes
from .lanes import POINTER, Context, Memory, Target
from .program import Program
from .reader import read
from .schedule import schedule
from .simplify import derivative_exp_from_expm1, simplify
from .split import Split, split, uniform_values
from .vecmath import VectorMath
from .views import Views, find_views, progression, strided

SYMBOLS = ("prologue", "value", "value_tape", "adjoint", "finish")


def vjp_function(function: ca.Function, uniform: int) -> ca.Function:
    """(inputs, seeds) -> (outputs, bars of the varying inputs, bar of the uniform input), made by CasADi's AD."""
    ins = [ca.MX.sym(function.name_in(i), function.sparsity_in(i)) for i in range(function.n_in())]
    outs = function.call(ins, True, False)
    seeds = [ca.MX.sym(f"seed{j}", o.sparsity()) for j, o in enumerate(outs)]
    stacked = ca.vertcat(*[_nonzeros(o) for o in outs])
    seed = ca.vertcat(*[_nonzeros(s) for s in seeds])
    order = [i for i in range(len(ins)) if i != uniform] + [uniform]
    bars = [ca.project(ca.jtimes(stacked, ins[i], seed, True), ins[i].sparsity()) for i in order]
    return ca.Function("vjp", [*ins, *seeds], [*outs, *bars], {"cse": True})


def _nonzeros(x: ca.MX) -> ca.MX:
    return x if x.is_column() and x.is_dense() else x.nz[:]


@dataclass(frozen=True)
class Derivative:
    """A vector-Jacobian program with its parts."""

    program: Program
    views: Views
    parts: Split
    pieces: tuple[Leaf | Outer, ...]
    n_in: int
    n_out: int
    uniform: int

    @property
    def primal(self) -> tuple[int, ...]:
        """Values of F's outputs."""
        return self.program.outputs[: self.n_out]

    @property
    def bars(self) -> tuple[int, ...]:
        """Values of the bars of F's varying inputs."""
        return self.program.outputs[self.n_out :]


def differentiate(function: ca.Function, uniform: int) -> Derivative:
    """Read, simplify and split the vector-Jacobian function of ``function``."""
    n_in, n_out = function.n_in(), function.n_out()
    program = simplify(read(vjp_function(function, uniform)))
    primal_values = program.needed_for(program.outputs[:n_out])
    program = derivative_exp_from_expm1(program, set(range(len(program.sizes))) - primal_values)
    p = program.inputs[uniform]
    varying = frozenset(range(len(program.sizes))) - uniform_values(program, [p])
    pieces = tuple(find_pieces(program, program.outputs[-1], varying))
    roots = [*program.outputs[n_out:-1], *_piece_values(pieces)]
    needed = program.needed_for([*program.outputs[:-1], *roots])
    program = program.with_instructions(
        [i for i in program.instructions if i.output in needed],
        outputs=program.outputs[:-1],
        output_names=program.output_names[:-1],
    )
    parts = split(program, [p], program.inputs[n_in:], program.outputs[:n_out], roots)
    views = find_views(program, parts.tape, pieces)
    return Derivative(program, views, parts, pieces, n_in, n_out, uniform)


def _piece_values(pieces: Sequence[Leaf | Outer]) -> list[int]:
    values = []
    for piece in pieces:
        values += [piece.value] if isinstance(piece, Leaf) else [piece.left[0], piece.right[0]]
    return values


def assemble(function: ca.Function, uniform: int, target: Target) -> tuple[ir.Module, dict[str, Any]]:
    """The module with the kernels of ``function`` and its sizes (n_uni, n_tape, n_acc)."""
    d = differentiate(function, uniform)
    module = ir.Module("kernels")
    scalar_context = _context(module, replace(target, width=1, registers=1, row_width=0))
    wide: dict[int, Context] | None = None
    if target.row_width:
        wide = {1: scalar_context}
        for bits in range(1, target.row_width.bit_length()):
            wide[1 << bits] = _context(module, replace(target, width=1 << bits, registers=1, row_width=0))
        context, contexts = scalar_context, list(wide.values())
    else:
        context = _context(module, target)
        contexts = [context, scalar_context]
    uni, n_uni = _uniform_layout(d)
    tape, n_tape = _layout(d.parts.tape, d.program)
    places, n_acc = _accumulator_layout(d.pieces, target)
    flush = None
    if wide is not None and any(place.slots for place in places):
        flush = deferred.emit_flush(wide[target.row_width], scalar_context, d.pieces, places)
    n_in, n_out = d.n_in, d.n_out
    sizes = {"n_uni": n_uni, "n_tape": n_tape, "n_acc": n_acc}

    def known(args: Sequence[ir.Value]) -> dict[int, Memory]:
        memory = {v: Memory(args[d.uniform], o, varying=False) for v, o in uni.items()}
        memory |= {d.program.inputs[i]: Memory(args[i], 0, True) for i in range(n_in) if i != d.uniform}
        return memory

    def forward(with_tape: bool) -> Callable[[Sequence[ir.Value], Sequence[ir.Value]], None]:
        def body(ins: Sequence[ir.Value], outs: Sequence[ir.Value]) -> None:
            stored = {v: Memory(outs[n_out], o, True) for v, o in tape.items()} if with_tape else {}
            results = [(v, Memory(outs[j], 0, True)) for j, v in enumerate(d.primal)]
            compute = d.program.needed_for([*d.primal, *stored], stop=d.parts.uniform) & d.parts.forward
            _emit_body(context, d, compute, known(ins), stored, results, wide=wide)

        return body

    def reverse(ins: Sequence[ir.Value], outs: Sequence[ir.Value]) -> None:
        memory = {v: Memory(ins[d.uniform], o, varying=False) for v, o in uni.items()}
        memory |= {v: Memory(ins[n_in], o, True) for v, o in tape.items()}
        memory |= {d.program.inputs[n_in + j]: Memory(ins[n_in + 1 + j], 0, True) for j in range(n_out)}
        results = [(v, Memory(outs[j], 0, True)) for j, v in enumerate(d.bars)]
        acc = outs[len(d.bars)]
        _emit_body(context, d, set(d.parts.reverse), memory, {}, results, (acc, places), wide)
        if flush is not None:
            deferred.emit_count(context, acc, flush)

    def prologue(ins: Sequence[ir.Value], outs: Sequence[ir.Value]) -> None:
        p = d.program.inputs[d.uniform]
        results = [(v, Memory(outs[0], o, True)) for v, o in uni.items()]
        compute = d.program.needed_for(uni)
        _emit_body(scalar_context, d, compute, {p: Memory(ins[0], 0, True)}, {}, results)

    def finish(ins: Sequence[ir.Value], outs: Sequence[ir.Value]) -> None:
        if flush is not None:
            context.b.call(flush, [ins[0]])
        _finish(context, d.pieces, places, ins[0], outs[0], target.row_width)

    _kernel(contexts, "prologue", 1, 1, prologue)
    _kernel(contexts, "value", n_in, n_out, forward(with_tape=False))
    _kernel(contexts, "value_tape", n_in, n_out + 1, forward(with_tape=True))
    _kernel(contexts, "adjoint", n_in + 1 + n_out, len(d.bars) + 1, reverse)
    _kernel(contexts, "finish", 2, 1, finish)
    return module, sizes


def _context(module: ir.Module, target: Target) -> Context:
    avx512 = target.avx512 and target.width * target.itemsize == 64
    return Context(module, target, VectorMath(module, target.width, target.dtype, avx512))


def _layout(values: Sequence[int], program: Program) -> tuple[dict[int, int], int]:
    offsets, total = {}, 0
    for v in values:
        offsets[v] = total
        total += program.sizes[v]
    return offsets, total


def _uniform_layout(d: Derivative) -> tuple[dict[int, int], int]:
    """Places of the parameters (first) and of the uniform values that a varying instruction or an output reads."""
    p = d.program.inputs[d.uniform]
    read_by: list[int] = list(d.program.outputs)
    for v in d.parts.forward | d.parts.reverse:
        if v in d.program.producer:
            read_by += d.program.producer[v].inputs
    bases = []
    for v in read_by:
        base, _ = d.views.resolve(v, d.program.sizes[v])
        made = d.program.producer.get(base)
        if base in d.parts.uniform and base not in (p, *bases) and made is not None and made.op != "const":
            bases.append(base)
    return _layout([p, *sorted(bases)], d.program)


def _accumulator_layout(pieces: Sequence[Leaf | Outer], target: Target) -> tuple[list[PiecePlace], int]:
    places, total = [], deferred.HEADER if target.row_width else 0
    for piece in pieces:
        slots = None
        partial, size = True, piece.destination.size * target.width
        if isinstance(piece, Outer):
            rows, columns = piece.shape
            partial = not target.row_width and outer.is_partial(target.width * target.itemsize, rows, columns)
            size = outer.storage(partial, rows, columns, target.width)
            if target.row_width and deferred.is_deferred(rows, columns):
                stride = outer.padded(columns, target.row_width)
                size = rows * stride
                slots = (total + size, total + size + deferred.SLOTS * rows)
                size += deferred.SLOTS * (rows + stride)
        places.append(PiecePlace(total, partial, slots))
        total += -(-size // 16) * 16
    return places, total


def _emit_body(
    c: Context,
    d: Derivative,
    compute: set[int],
    known: dict[int, Memory],
    stored: dict[int, Memory],
    results: Sequence[tuple[int, Memory]],
    accumulation: tuple[ir.Value, Sequence[PiecePlace]] | None = None,
    wide: dict[int, Context] | None = None,
) -> None:
    """Schedule and emit the instructions of one kernel and copy its results out."""
    program, views = d.program, d.views
    own = {v for v in compute if v not in known and v not in views.owner and v in program.producer}
    own = {v for v in own if program.producer[v].op != "const" and program.sizes[v] > 0}
    steps = schedule(program, views, own, d.pieces if accumulation else ())
    stored = dict(stored)
    for v, memory in results:
        if v in own and v not in stored:
            stored[v] = memory
    owners = [views.resolve(v, program.sizes[v])[0] for v, _ in results]
    homes = assign_homes(program, views, steps, set(stored), [v for v in owners if v in own])
    pointer, places = accumulation if accumulation else (None, ())
    body = Body(c, program, views, known, stored, homes, pointer, places, wide)
    run(body, steps)
    for v, memory in stored.items():
        if v not in own:
            copy(body, v, memory)
    for v, memory in results:
        if stored.get(v) is not memory:
            copy(body, v, memory)


def _kernel(
    contexts: Sequence[Context],
    name: str,
    n_in: int,
    n_out: int,
    body: Callable[[Sequence[ir.Value], Sequence[ir.Value]], None],
) -> None:
    """A body with one restrict pointer per argument, inlined into the exported function that takes pointer arrays."""
    void, module = ir.VoidType(), contexts[0].module
    inner = ir.Function(module, ir.FunctionType(void, [POINTER] * (n_in + n_out)), name + ".body")
    inner.linkage = "internal"
    inner.attributes.add("alwaysinline")
    for arg in inner.args:
        arg.add_attribute("noalias")
    entry, start = inner.append_basic_block("entry"), inner.append_basic_block("start")
    ir.IRBuilder(entry).branch(start)
    builder = ir.IRBuilder(start)
    for context in contexts:
        context.b = builder
    body(inner.args[:n_in], inner.args[n_in:])
    builder.ret_void()
    exported = ir.Function(module, ir.FunctionType(void, [POINTER, POINTER]), name)
    exported.attributes.add("nounwind")
    b = ir.IRBuilder(exported.append_basic_block("entry"))
    args = []
    for pointer, count in zip(exported.args, (n_in, n_out), strict=True):
        for k in range(count):
            slot = b.gep(pointer, [ir.Constant(ir.IntType(64), k)], inbounds=True, source_etype=POINTER)
            args.append(b.load(slot, typ=POINTER))
    b.call(inner, args)
    b.ret_void()


def _finish(
    c: Context,
    pieces: Sequence[Leaf | Outer],
    places: Sequence[PiecePlace],
    acc: ir.Value,
    target: ir.Value,
    row_width: int,
) -> None:
    """Reduce the accumulator over lanes and add it to the gradient."""
    width = c.target.width
    for piece, place in zip(pieces, places, strict=True):
        if isinstance(piece, Outer) and not place.partial:
            stride = outer.padded(piece.shape[1], row_width if place.slots else width)
            _add_matrix(c, acc, place.offset, stride, target, piece.destination)
            continue
        flat = piece.destination.T.ravel() if isinstance(piece, Outer) else piece.destination
        _add_entries(c, acc, place.offset, width, target, flat)


def _add_matrix(c: Context, acc: ir.Value, offset: int, stride: int, target: ir.Value, destination: np.ndarray) -> None:
    """``target[destination[i, j]] += acc[offset + i stride + j]``."""
    rows, columns = destination.shape
    steps = strided(destination.T.ravel(), rows, columns)
    if steps is None:
        for i, row in enumerate(destination):
            _add_entries(c, acc, offset + i * stride, 1, target, row)
        return
    start, down, across = steps
    with c.entries(rows) as i, c.entries(columns) as j:
        at = c.b.add(c.affine(i, stride, offset), c.affine(j, 1, 0))
        to = c.b.add(c.affine(i, down, start), c.affine(j, across, 0))
        c.store_scalar(c.b.fadd(c.load_scalar(target, to), c.load_scalar(acc, at)), target, to)


def _add_entries(c: Context, acc: ir.Value, offset: int, step: int, target: ir.Value, destination: np.ndarray) -> None:
    """``target[destination[i]] += sum of acc[offset + i step : ... + step]``."""

    def add(i: int | ir.Value, to: ir.Value) -> None:
        at = c.affine(i, step, offset)
        value = c.load_scalar(acc, at) if step == 1 else c.lane_sum(c.load_vector(acc, at))
        c.store_scalar(c.b.fadd(c.load_scalar(target, to), value), target, to)

    steps = progression(destination)
    if steps is not None and destination.size > 1:
        with c.loop(destination.size) as i:
            add(i, c.affine(i, steps[1], steps[0]))
        return
    for i, to in enumerate(destination):
        if to >= 0:
            add(i, c.index(to))
