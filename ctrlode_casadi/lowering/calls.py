"""Calls that stay calls: functions of scalars that a long program evaluates many times.

The reader inlines every call. For a simulation of many steps in scalar expressions that makes code whose length, and
time to compile, grow with the number of steps. Here a function that is called often becomes one instruction, ``call``:
its operands are the function's inputs, its result all outputs one after another, its attribute the `Callee`. Arguments
that are constants are put into the callee, so that zeros of seeds vanish there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import casadi as ca
import numpy as np

from .program import Instruction, Program, ProgramBuilder
from .reader import inline
from .simplify import simplify

#: Scalar instructions from which on a program is written with calls, and of which a callee has at least so many.
LONG, LEAST = 3000, 20
#: Scalar instructions of a callee at most, and how often it is called at least.
MOST, OFTEN = 3000, 3


@dataclass(frozen=True, eq=False)
class Callee:
    """A function that is called; all its outputs are one vector."""

    program: Program

    @property
    def n_out(self) -> int:
        """Numbers in the result."""
        return sum(self.program.sizes[v] for v in self.program.outputs)


def read_program(function: ca.Function) -> Program:
    """The simplified program of a function, with calls where it would be long otherwise."""
    refused: set[int] = set()
    while True:
        reader = _CallReader(refused)
        program = simplify(reader.read(function))
        rare = {f for f, n in reader.count.items() if n < OFTEN}
        if rare:
            refused |= rare
            continue
        if reader.count and expanded_scalars(program) <= LONG:
            return simplify(_CallReader(None).read(function))
        return program


def callees(program: Program) -> list[Callee]:
    """The functions that a program calls, each once."""
    return list({id(i.attr): i.attr for i in program.instructions if i.op == "call"}.values())


def scalars(program: Program) -> int:
    """Number of scalar instructions, callees counted once."""
    own = sum(program.sizes[i.output] == 1 for i in program.instructions)
    return own + sum(scalars(c.program) for c in callees(program))


def expanded_scalars(program: Program) -> int:
    """Number of scalar instructions if all calls were written out."""
    calls = Counter(id(i.attr) for i in program.instructions if i.op == "call")
    own = sum(program.sizes[i.output] == 1 for i in program.instructions)
    return own + sum(calls[id(c)] * scalars(c.program) for c in callees(program))


class _CallBuilder(ProgramBuilder):
    """Collects instructions, with a hook for calls."""

    def __init__(self, reader: _CallReader) -> None:
        super().__init__()
        self.reader = reader
        self._defined: dict[int, Instruction] = {}
        self._seen = 0

    def call(self, f: ca.Function, args: Sequence[int]) -> list[int] | None:
        """The results of a call that stays one; None for one to be inlined."""
        return self.reader.call(self, f, args)

    def constant(self, v: int) -> np.ndarray | None:
        """The numbers of a value that is a constant, or entries of one."""
        for ins in self.instructions[self._seen :]:
            self._defined[ins.output] = ins
        self._seen = len(self.instructions)
        made = self._defined.get(v)
        if made is None:
            return None
        if made.op == "const":
            return np.asarray(made.attr)
        if made.op != "gather":
            return None
        of = self.constant(made.inputs[0])
        return None if of is None else np.where(made.attr >= 0, of[np.maximum(made.attr, 0)], 0.0)


class _CallReader:
    """Reads a function and keeps calls of functions of scalars, but for those in ``refused`` (None: all are)."""

    def __init__(self, refused: set[int] | None) -> None:
        self.refused = refused
        self.count: Counter[int] = Counter()
        self._sizes: dict[int, bool] = {}
        self._made: dict[tuple[int, tuple[bytes | None, ...]], Callee] = {}

    def read(self, function: ca.Function) -> Program:
        b = _CallBuilder(self)
        inputs = [b.value(function.nnz_in(i)) for i in range(function.n_in())]
        outputs = inline(b, function, inputs)
        return b.build(function.name(), inputs, outputs, function.name_in(), function.name_out())

    def call(self, b: _CallBuilder, f: ca.Function, args: Sequence[int]) -> list[int] | None:
        if self.refused is None or hash(f) in self.refused or not self._fits(f):
            return None
        constants = [b.constant(a) for a in args]
        key = hash(f), tuple(None if c is None else c.tobytes() for c in constants)
        if key not in self._made:
            self._made[key] = _callee(f, constants)
        callee = self._made[key]
        self.count[hash(f)] += 1
        varying = [a for a, c in zip(args, constants, strict=True) if c is None and b.sizes[a]]
        whole = b.emit("call", varying, callee.n_out, callee)
        bounds = np.cumsum([0, *(f.nnz_out(j) for j in range(f.n_out()))])
        return [b.gather(whole, np.arange(lo, hi)) for lo, hi in itertools.pairwise(bounds)]

    def _fits(self, f: ca.Function) -> bool:
        key = hash(f)  # of the function's node; the Python object is another one each time
        if key not in self._sizes:
            program = _callee(f, [None] * f.n_in()).program
            few = sum(program.sizes[i.output] == 1 for i in program.instructions)
            others = sum(i.op not in ("const", "gather", "concat") for i in program.instructions) - few
            self._sizes[key] = LEAST <= few <= MOST and others * 4 <= few
        return self._sizes[key]


def _callee(f: ca.Function, constants: Sequence[np.ndarray | None]) -> Callee:
    b = ProgramBuilder()
    given = [b.value(f.nnz_in(i)) if c is None else b.const(c) for i, c in enumerate(constants)]
    inputs = [v for v, c in zip(given, constants, strict=True) if c is None and b.sizes[v]]
    outputs = inline(b, f, given)
    names = [f"i{k}" for k in range(len(inputs))]
    return Callee(simplify(b.build(f.name(), inputs, outputs, names, f.name_out())))
