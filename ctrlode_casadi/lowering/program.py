"""The program: what every pass of the lowering reads and writes.

A program is a CasADi function flattened to single assignments over *nonzero vectors*. Every value is a
plain vector of ``n`` numbers (the nonzeros of a CasADi matrix in column-major order); shapes survive only
where an operation needs them, as attributes. All movement of entries (slices, transposes, reshapes,
projections, splits) is one operation, ``gather``; all joining is ``concat``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Instruction:
    """One assignment ``output = op(inputs; attr)``.

    ``attr`` by op: ``const`` -> ndarray; ``gather`` -> integer array (-1 reads as zero); ``scatter`` ->
    (integer array, add: bool); ``mtimes`` -> (r, k, c) for ``acc + A @ B``; ``triples`` -> integer array
    (m, 3) of (out, a, b) for ``acc[out] += a * b``; ``call`` -> what is called (`calls.Callee`); otherwise None.
    """

    op: str
    inputs: tuple[int, ...]
    output: int
    attr: Any = None


@dataclass(frozen=True)
class Program:
    """A flat single-assignment program.

    Parameters
    ----------
    name : str
        Used for symbol names and messages.
    sizes : tuple of int
        Length of the nonzero vector of every value.
    inputs, outputs : tuple of int
        Value of each function input and output.
    input_names, output_names : tuple of str
        Names, in the same order.
    instructions : tuple of Instruction
        In an order in which every value is defined before it is used.
    """

    name: str
    sizes: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    producer: dict[int, Instruction] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "producer", {i.output: i for i in self.instructions})

    def size(self, value: int) -> int:
        """Number of entries of a value."""
        return self.sizes[value]

    def needed_for(self, values: Iterable[int], stop: frozenset[int] | set[int] = frozenset()) -> set[int]:
        """Values that ``values`` depend on (themselves included); ``stop`` are not looked behind."""
        seen: set[int] = set()
        stack = list(values)
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            if v in self.producer and v not in stop:
                stack.extend(self.producer[v].inputs)
        return seen

    def depends_on(self, values: Iterable[int]) -> set[int]:
        """Values that depend on any of ``values`` (themselves included)."""
        found = set(values)
        for ins in self.instructions:
            if any(i in found for i in ins.inputs):
                found.add(ins.output)
        return found

    def with_instructions(self, instructions: Sequence[Instruction], **changes: Any) -> Program:
        """The same program with other instructions (and other fields, as named)."""
        return replace(self, instructions=tuple(instructions), **changes)

    def __str__(self) -> str:
        lines = [f"program {self.name}({', '.join(self.input_names)}) -> ({', '.join(self.output_names)})"]
        for v, name in zip(self.inputs, self.input_names, strict=True):
            lines.append(f"  %{v}[{self.sizes[v]}] = input {name}")
        for i in self.instructions:
            attr = "" if i.attr is None else f"  {_short(i.attr)}"
            args = " ".join(f"%{a}" for a in i.inputs)
            lines.append(f"  %{i.output}[{self.sizes[i.output]}] = {i.op} {args}{attr}")
        for v, name in zip(self.outputs, self.output_names, strict=True):
            lines.append(f"  output {name} = %{v}")
        return "\n".join(lines)


def _short(attr: Any) -> str:
    text = np.array2string(attr, threshold=8, edgeitems=3) if isinstance(attr, np.ndarray) else str(attr)
    return text.replace("\n", " ")


class ProgramBuilder:
    """Collects instructions; equal instructions are made once (value numbering)."""

    COMMUTATIVE = frozenset({"add", "mul", "eq", "ne", "and", "or", "fmin", "fmax", "hypot"})

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.instructions: list[Instruction] = []
        self._known: dict[tuple[Any, ...], int] = {}

    def value(self, n: int) -> int:
        """A new value that no instruction defines (an input)."""
        self.sizes.append(n)
        return len(self.sizes) - 1

    def emit(self, op: str, inputs: Sequence[int], n: int, attr: Any = None) -> int:
        """Define a value of length ``n`` and return it (an equal earlier one if there is one)."""
        ids = tuple(sorted(inputs)) if op in self.COMMUTATIVE else tuple(inputs)
        key = (op, ids, n, _attr_key(attr))
        if key in self._known:
            return self._known[key]
        v = self.value(n)
        self.instructions.append(Instruction(op, ids, v, attr))
        self._known[key] = v
        return v

    def const(self, values: Any) -> int:
        """A constant vector; a single repeated number is kept as one entry where it can broadcast."""
        a = np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()
        return self.emit("const", (), a.size, a)

    def gather(self, source: int, index: np.ndarray) -> int:
        """Entries ``index`` of ``source``; nothing is made when they are all of it, in order."""
        idx = np.ascontiguousarray(index, dtype=np.int64)
        n = self.sizes[source]
        if idx.size == n and np.array_equal(idx, np.arange(n)):
            return source
        return self.emit("gather", (source,), idx.size, idx)

    def call(self, f: Any, args: Sequence[int]) -> list[int] | None:
        """Results of a call that is not inlined; None to inline it, as is always done here."""
        return None

    def build(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        input_names: Sequence[str],
        output_names: Sequence[str],
    ) -> Program:
        """The finished program (instructions that no output needs are left out)."""
        program = Program(
            name,
            tuple(self.sizes),
            tuple(inputs),
            tuple(outputs),
            tuple(input_names),
            tuple(output_names),
            tuple(self.instructions),
        )
        needed = program.needed_for(outputs)
        return program.with_instructions([i for i in program.instructions if i.output in needed])


def _attr_key(attr: Any) -> Any:
    if isinstance(attr, np.ndarray):
        return (attr.shape, attr.dtype.str, attr.tobytes())
    if isinstance(attr, tuple):
        return tuple(_attr_key(a) for a in attr)
    return attr
