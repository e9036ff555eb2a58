"""A kernel body under construction: where every value is read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from llvmlite import ir

from .homes import Homes, Slot
from .lanes import POINTER, Context, Memory
from .matmul import Load, Store
from .program import Program
from .views import Views, progression


def allocate(c: Context, numbers: int) -> ir.Value:
    """Stack memory of the kernel, on a cache line."""
    with c.b.goto_entry_block():
        pointer = c.b.alloca(ir.ArrayType(c.scalar, max(numbers, 1)))
        pointer.align = 64
        pointer.type = POINTER
        if c.target.lanes == 1:
            # One trajectory's vectors have mixed widths. Promoted to registers, narrow stores under a wide load become
            # selects with constant masks, on which LLVM 22 fails an assertion in EarlyCSE ("Scope imbalance!") and
            # aborts the process. An empty instruction that is given the address keeps the memory in memory.
            c.b.asm(ir.FunctionType(ir.VoidType(), [POINTER]), "", "r", [pointer], True)
    return pointer


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
    """Values of one kernel under construction.

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
    emit_callee : callable, optional
        Emits a function that is called: (name, its program, which of its inputs vary) -> function.
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
    emit_callee: Callable[[str, Program, Sequence[bool]], ir.Function] | None = None
    registers: dict[int, list[ir.Value]] = field(default_factory=dict)
    _tables: dict[int, ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._scratch = allocate(self.c, self.homes.scratch_entries * self.c.target.lanes)

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

    def writer(self, v: int) -> Store:
        """How to write a value."""
        memory = self.memory(v)
        return lambda entry, m, value: self.c.store_entry(value, memory, self.c.affine(entry, 1, 0), m)

    def factor(self, v: int, index: np.ndarray) -> tuple[Memory, int, int]:
        """(memory, first entry, step) of the entries ``index`` of a value."""
        base, inner = self.views.resolve(v, self.program.sizes[v])
        start, step = progression(inner[index])  # type: ignore[misc]
        return self.memory(base), start, step

    def reader(self, factor: tuple[Memory, int, int]) -> Load:
        """How to read a factor, entry by entry."""
        memory, start, step = factor
        return lambda entry, m: self.c.load_entry(memory, self.c.affine(entry, step, start), m)

    def fill(self, load: Load, memory: Memory, count: int) -> None:
        """Write ``count`` entries to memory."""
        if count == 0:
            return
        with self.c.entries(count) as entry:
            for m in range(self.c.target.registers):
                self.c.store_entry(load(entry, m), memory, self.c.affine(entry, 1, 0), m)
