"""One taped number for activations that are linear on one side and exponential on the other (elu, selu, celu).

Such an activation reads ``x`` where x > 0 and ``e = expm1(x)`` where x <= 0, never both. Its derivative would tape x
and e; ``s = x if x > 0 else e`` holds the same information in one number: s <= 0 exactly where x <= 0, and each side is
a masked s. The instructions of the model itself stay as they are; those of the derivative are rewritten to read s, and
the tape (the memory traffic of the sweeps) halves.
"""

from __future__ import annotations

from dataclasses import dataclass

from .ops import ELEMENTWISE
from .program import Instruction, Program, ProgramBuilder


@dataclass(frozen=True)
class _Pattern:
    """``c = le(x, 0)``, ``masked = if_else_zero(c, x)``, ``e = expm1(masked)``."""

    x: int
    c: int
    e: int


def _find(program: Program) -> list[_Pattern]:
    found = []
    for ins in program.instructions:
        masked = program.producer.get(ins.inputs[0]) if ins.op == "expm1" else None
        if masked is None or masked.op != "if_else_zero":
            continue
        c, x = masked.inputs
        test = program.producer.get(c)
        if test is None or test.op != "le" or test.inputs[0] != x or program.sizes[c] != program.sizes[x]:
            continue
        bound = program.producer.get(test.inputs[1])
        if bound is not None and bound.op == "const" and not bound.attr.any():
            found.append(_Pattern(x, c, ins.output))
    return found


def share_branches(program: Program, primal: set[int]) -> Program:
    """Let the derivative (values outside ``primal``) read one number for both sides of such activations."""
    patterns = [p for p in _find(program) if p.e in primal]
    return _Rewriter(program, primal, patterns).run() if patterns else program


class _Rewriter:
    def __init__(self, program: Program, primal: set[int], patterns: list[_Pattern]) -> None:
        self.program, self.primal = program, primal
        self.by_e = {p.e: p for p in patterns}
        self.b = ProgramBuilder()
        self.new: dict[int, int] = {}
        self.late: dict[int, int] = {}  # primal value -> its form computed from s
        self.side: dict[int, tuple[int, int, int]] = {}  # c -> (x, s, not s <= 0)

    def run(self) -> Program:
        program, b = self.program, self.b
        self.new = {v: b.value(program.sizes[v]) for v in program.inputs}
        for ins in program.instructions:
            own = ins.output in self.primal
            args = [self.new[i] if own else self.alternative(i) for i in ins.inputs]
            self.new[ins.output] = b.emit(ins.op, args, program.sizes[ins.output], ins.attr)
            if ins.output in self.by_e:
                self.define(self.by_e[ins.output])
        outputs = [self.new[v] if v in self.primal else self.alternative(v) for v in program.outputs]
        inputs = [self.new[v] for v in program.inputs]
        return b.build(program.name, inputs, outputs, program.input_names, program.output_names)

    def define(self, p: _Pattern) -> None:
        b, n = self.b, self.program.sizes[p.x]
        zero = b.const(0.0)
        above = b.emit("not", [self.new[p.c]], n)
        linear = b.emit("if_else_zero", [above, self.new[p.x]], n)
        s = b.emit("add", [linear, self.new[p.e]], n)
        below = b.emit("le", [s, zero], n)
        self.side[p.c] = (p.x, s, b.emit("not", [below], n))
        self.late[p.c] = below
        self.late[p.e] = b.emit("if_else_zero", [below, s], n)

    def alternative(self, v: int) -> int:
        """The value for an instruction of the derivative: computed from s where that is cheap."""
        if v not in self.primal:
            return self.new[v]
        if v not in self.late:
            self.late[v] = self._made_again(self.program.producer.get(v), v)
        return self.late[v]

    def _made_again(self, ins: Instruction | None, v: int) -> int:
        if ins is None or ins.op not in ELEMENTWISE or not ELEMENTWISE[ins.op].cheap:
            return self.new[v]
        c = self._condition_above(ins)
        if c is not None:
            x, s, above = self.side[c]
            linear = self._with(ins.inputs[1], x, s)
            return (
                self.new[v] if linear is None else self.b.emit("if_else_zero", [above, linear], self.program.sizes[v])
            )
        args = [self.alternative(i) for i in ins.inputs]
        if args == [self.new[i] for i in ins.inputs]:
            return self.new[v]
        return self.b.emit(ins.op, args, self.program.sizes[v], ins.attr)

    def _condition_above(self, ins: Instruction) -> int | None:
        """The condition c if the instruction selects where c is false."""
        test = self.program.producer.get(ins.inputs[0]) if ins.op == "if_else_zero" else None
        if test is not None and test.op == "not" and test.inputs[0] in self.side:
            return test.inputs[0]
        return None

    def _with(self, v: int, x: int, s: int) -> int | None:
        """``v`` with ``x`` replaced by ``s``, if it is a cheap function of x and of constants; else None."""
        if v == x:
            return s
        ins = self.program.producer.get(v)
        if ins is not None and ins.op == "const":
            return self.new[v]
        if ins is None or ins.op not in ELEMENTWISE or not ELEMENTWISE[ins.op].cheap:
            return None
        args = [self._with(i, x, s) for i in ins.inputs]
        if any(a is None for a in args):
            return None
        return self.b.emit(ins.op, [a for a in args if a is not None], self.program.sizes[v], ins.attr)
