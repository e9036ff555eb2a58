"""Assembly of the five kernels of a function into one LLVM module."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import casadi as ca
from llvmlite import ir

from . import accumulator, deferred
from .body import Body, PiecePlace
from .derivative import Derivative, differentiate
from .emit import copy, run
from .homes import assign_homes
from .lanes import POINTER, Context, Memory, Target
from .program import Program
from .schedule import schedule
from .split import Split, uniform_values
from .vecmath.functions import VectorMath
from .views import find_views

SYMBOLS = ("prologue", "value", "value_tape", "adjoint", "finish")
VALUE_SYMBOLS = ("prologue", "value")

Values = Sequence[ir.Value]


def assemble(function: ca.Function, uniform: int, target: Target) -> tuple[ir.Module, dict[str, Any]]:
    """The module with the kernels of ``function`` and its sizes (n_uni, n_tape, n_acc)."""
    return _Assembly(differentiate(function, uniform), target).kernels()


def assemble_value(program: Program, uniform: int, target: Target) -> tuple[ir.Module, dict[str, Any]]:
    """The module with prologue and value of a program that is not differentiated any further, and its n_uni."""
    fixed = frozenset(uniform_values(program, [program.inputs[uniform]]))
    return _Assembly(_undifferentiated(program, uniform, fixed), target).values()


def _undifferentiated(program: Program, uniform: int, fixed: frozenset[int]) -> Derivative:
    """A program with a forward part only."""
    parts = Split(fixed, frozenset(program.needed_for(program.outputs, stop=fixed) - fixed), frozenset(), ())
    return Derivative(program, find_views(program, ()), parts, (), len(program.inputs), len(program.outputs), uniform)


class _Assembly:
    """Emits the kernels of one derivative for one target."""

    def __init__(self, d: Derivative, target: Target) -> None:
        self.d, self.target = d, target
        self.module = ir.Module("kernels")
        self.scalar = _context(self.module, replace(target, width=1, registers=1, row_width=0))
        self.wide = _row_contexts(self.module, target, self.scalar)
        self.main = self.scalar if self.wide is not None else _context(self.module, target)
        self.uni, self.n_uni = _uniform_layout(d)
        self.tape, self.n_tape = _layout(d.parts.tape, d.program)
        self.places, self.n_acc = accumulator.layout(d.pieces, target)
        self.flush: ir.Function | None = None
        if self.wide is not None and any(place.slots for place in self.places):
            self.flush = deferred.emit_flush(self.wide[target.row_width], self.scalar, d.pieces, self.places)

    def kernels(self) -> tuple[ir.Module, dict[str, Any]]:
        """Emit all five."""
        d = self.d
        self._kernel("prologue", 1, 1, self.prologue)
        self._kernel("value", d.n_in, d.n_out, self.value)
        self._kernel("value_tape", d.n_in, d.n_out + 1, self.value_tape)
        self._kernel("adjoint", d.n_in + 1 + d.n_out, len(d.bars) + 1, self.adjoint)
        self._kernel("finish", 2, 1, self.finish)
        return self.module, {"n_uni": self.n_uni, "n_tape": self.n_tape, "n_acc": self.n_acc}

    def values(self) -> tuple[ir.Module, dict[str, Any]]:
        """Emit prologue and value."""
        self.main.products = {}
        self._kernel("prologue", 1, 1, self.prologue)
        self._kernel("value", self.d.n_in, self.d.n_out, self.value)
        return self.module, {"n_uni": self.n_uni}

    # kernel bodies ---------------------------------------------------------------------------------------------
    def prologue(self, ins: Values, outs: Values) -> None:
        """Parameters in, parameters and all other uniform values out."""
        known = {self.d.program.inputs[self.d.uniform]: Memory(ins[0], 0, True)}
        results = [(v, Memory(outs[0], offset, True)) for v, offset in self.uni.items()]
        _emit(self.scalar, self.d, self.d.program.needed_for(self.uni), known, {}, results)

    def value(self, ins: Values, outs: Values) -> None:
        """F's outputs."""
        self._forward(ins, outs, {})

    def value_tape(self, ins: Values, outs: Values) -> None:
        """F's outputs and the tape."""
        tape = outs[self.d.n_out]
        self._forward(ins, outs, {v: Memory(tape, offset, True) for v, offset in self.tape.items()})

    def _forward(self, ins: Values, outs: Values, stored: dict[int, Memory]) -> None:
        d = self.d
        known = self._uniform_memory(ins)
        known |= {d.program.inputs[i]: Memory(ins[i], 0, True) for i in range(d.n_in) if i != d.uniform}
        results = [(v, Memory(outs[j], 0, True)) for j, v in enumerate(d.primal)]
        compute = d.program.needed_for([*d.primal, *stored], stop=d.parts.uniform) & d.parts.forward
        _emit(self.main, d, compute, known, stored, results, wide=self.wide)

    def adjoint(self, ins: Values, outs: Values) -> None:
        """Bars of the varying inputs; the parameters' share goes to the accumulator."""
        d = self.d
        known = self._uniform_memory(ins)
        known |= {v: Memory(ins[d.n_in], offset, True) for v, offset in self.tape.items()}
        known |= {d.program.inputs[d.n_in + j]: Memory(ins[d.n_in + 1 + j], 0, True) for j in range(d.n_out)}
        results = [(v, Memory(outs[j], 0, True)) for j, v in enumerate(d.bars)]
        acc = outs[len(d.bars)]
        _emit(self.main, d, set(d.parts.reverse), known, {}, results, (acc, self.places), self.wide)
        if self.flush is not None:
            deferred.emit_count(self.main, acc, self.flush)

    def finish(self, ins: Values, outs: Values) -> None:
        """The accumulator, reduced, is added to the gradient."""
        if self.flush is not None:
            self.main.b.call(self.flush, [ins[0]])
        accumulator.reduce_pieces(self.main, self.d.pieces, self.places, ins[0], outs[0], self.target.row_width)

    def _uniform_memory(self, ins: Values) -> dict[int, Memory]:
        return {v: Memory(ins[self.d.uniform], offset, varying=False) for v, offset in self.uni.items()}

    # functions -------------------------------------------------------------------------------------------------
    def _kernel(self, name: str, n_in: int, n_out: int, body: Callable[[Values, Values], None]) -> None:
        """A body with one restrict pointer per argument, inlined into the function that takes pointer arrays."""
        void = ir.VoidType()
        inner = ir.Function(self.module, ir.FunctionType(void, [POINTER] * (n_in + n_out)), name + ".body")
        inner.linkage = "internal"
        inner.attributes.add("alwaysinline")
        for arg in inner.args:
            arg.add_attribute("noalias")
        entry, start = inner.append_basic_block("entry"), inner.append_basic_block("start")
        ir.IRBuilder(entry).branch(start)
        builder = ir.IRBuilder(start)
        for context in {id(c): c for c in (self.main, self.scalar, *(self.wide or {}).values())}.values():
            context.b = builder
        body(inner.args[:n_in], inner.args[n_in:])
        builder.ret_void()
        exported = ir.Function(self.module, ir.FunctionType(void, [POINTER, POINTER]), name)
        exported.attributes.add("nounwind")
        b = ir.IRBuilder(exported.append_basic_block("entry"))
        args = []
        for pointer, count in zip(exported.args, (n_in, n_out), strict=True):
            for k in range(count):
                slot = b.gep(pointer, [ir.Constant(ir.IntType(64), k)], inbounds=True, source_etype=POINTER)
                args.append(b.load(slot, typ=POINTER))
        b.call(inner, args)
        b.ret_void()


def _row_contexts(module: ir.Module, target: Target, scalar: Context) -> dict[int, Context] | None:
    """Contexts of all widths over the entries of one trajectory; None where lanes are trajectories."""
    if not target.row_width:
        return None
    wide = {1: scalar}
    for bits in range(1, target.row_width.bit_length()):
        wide[1 << bits] = _context(module, replace(target, width=1 << bits, registers=1, row_width=0))
    return wide


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
    bases: list[int] = []
    for v in read_by:
        base, _ = d.views.resolve(v, d.program.sizes[v])
        made = d.program.producer.get(base)
        if base in d.parts.uniform and base not in (p, *bases) and made is not None and made.op != "const":
            bases.append(base)
    return _layout([p, *sorted(bases)], d.program)


def _emit(
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
    body = Body(c, program, views, known, stored, homes, pointer, places, wide, _callee_emitter(c, wide))
    run(body, steps)
    for v, memory in stored.items():
        if v not in own:
            copy(body, v, memory)
    for v, memory in results:
        if stored.get(v) is not memory:
            copy(body, v, memory)


def _callee_emitter(
    c: Context, wide: dict[int, Context] | None
) -> Callable[[str, Program, Sequence[bool]], ir.Function]:
    """How a function that is called is emitted: its inputs' memory, then that of its outputs one after another."""
    contexts = list({id(x): x for x in (c, *(wide or {}).values())}.values())

    def emit(name: str, program: Program, varying: Sequence[bool]) -> ir.Function:
        fn = ir.Function(c.module, ir.FunctionType(ir.VoidType(), [POINTER] * (len(varying) + 1)), name)
        fn.linkage = "internal"
        for attribute in ("noinline", "nounwind"):
            fn.attributes.add(attribute)
        fn.args[-1].add_attribute("noalias")
        entry, start = fn.append_basic_block("entry"), fn.append_basic_block("start")
        ir.IRBuilder(entry).branch(start)
        before, builder = c.b, ir.IRBuilder(start)
        for context in contexts:
            context.b = builder
        d = _undifferentiated(program, -1, frozenset())
        known = {v: Memory(a, 0, vary) for v, a, vary in zip(program.inputs, fn.args, varying, strict=False)}
        ends = itertools.accumulate((program.sizes[v] for v in program.outputs), initial=0)
        results = [(v, Memory(fn.args[-1], offset, True)) for v, offset in zip(program.outputs, ends, strict=False)]
        _emit(c, d, set(d.parts.forward), known, {}, results, wide=wide)
        builder.ret_void()
        for context in contexts:
            context.b = before
        return fn

    return emit
