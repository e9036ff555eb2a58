"""Clean-up of a program before it is split and scheduled.

Rules: movement of movement is one movement; constants that repeat one number become scalars where they broadcast;
adding zero, multiplying by one and the like vanish. Every rule is exact for finite numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .ops import ELEMENTWISE
from .program import Instruction, Program, ProgramBuilder


def simplify(program: Program) -> Program:
    """The same program with fewer instructions."""
    b = ProgramBuilder()
    new: dict[int, int] = {}
    for v in program.inputs:
        new[v] = b.value(program.sizes[v])
    rewriter = _Rewriter(b)
    for ins in program.instructions:
        new[ins.output] = rewriter.rewrite(ins, [new[i] for i in ins.inputs], program.sizes[ins.output])
    outputs = [new[v] for v in program.outputs]
    inputs = [new[v] for v in program.inputs]
    return b.build(program.name, inputs, outputs, program.input_names, program.output_names)


class _Rewriter:
    def __init__(self, b: ProgramBuilder) -> None:
        self.b = b
        self.defined: dict[int, Instruction] = {}
        self._seen = 0

    def definition(self, v: int) -> Instruction | None:
        for ins in self.b.instructions[self._seen :]:
            self.defined[ins.output] = ins
        self._seen = len(self.b.instructions)
        return self.defined.get(v)

    def constant(self, v: int) -> np.ndarray | None:
        ins = self.definition(v)
        return ins.attr if ins is not None and ins.op == "const" else None

    def single_number(self, v: int) -> float | None:
        """The number that a constant repeats, None if it is no such constant."""
        c = self.constant(v)
        if c is None or c.size == 0 or not np.all(c == c[0]):
            return None
        return float(c[0])

    def rewrite(self, ins: Instruction, args: list[int], n: int) -> int:
        if ins.op == "gather":
            return self.gather(args[0], ins.attr)
        if ins.op == "concat":
            return self.concat(args, n)
        if ins.op in ELEMENTWISE:
            return self.elementwise(ins, args, n)
        return self.b.emit(ins.op, args, n, ins.attr)

    def gather(self, source: int, index: np.ndarray) -> int:
        if not np.any(index >= 0):
            return self.b.const(np.zeros(index.size))
        while True:
            made = self.definition(source)
            if made is None:
                break
            if made.op == "gather":
                safe = np.maximum(index, 0)
                index = np.where(index >= 0, made.attr[safe], -1)
                source = made.inputs[0]
            elif made.op == "concat" and index.size and index.min() >= 0:
                bounds = np.concatenate([[0], np.cumsum([self.b.sizes[p] for p in made.inputs])])
                part = int(np.searchsorted(bounds, index.min(), side="right")) - 1
                if index.max() >= bounds[part + 1]:
                    break
                index = index - bounds[part]
                source = made.inputs[part]
            else:
                break
        c = self.constant(source)
        if c is not None:
            return self.b.const(np.where(index >= 0, c[np.maximum(index, 0)], 0.0))
        return self.b.gather(source, index)

    def concat(self, args: list[int], n: int) -> int:
        constants = [self.constant(a) for a in args]
        known = [c for c in constants if c is not None]
        if len(known) == len(args):
            return self.b.const(np.concatenate(known))
        joined = self._rejoined(args)
        return joined if joined is not None else self.b.emit("concat", args, n)

    def _rejoined(self, args: list[int]) -> int | None:
        """Neighbouring slices of one value, put together again, are a slice of it."""
        base, parts = None, []
        for a in args:
            made = self.definition(a)
            if made is not None and made.op == "gather":
                source, index = made.inputs[0], made.attr
            else:
                source, index = a, np.arange(self.b.sizes[a])
            if base not in (None, source):
                return None
            base = source
            parts.append(index)
        if base is None:
            return None
        return self.b.gather(base, np.concatenate(parts))

    def elementwise(self, ins: Instruction, args: list[int], n: int) -> int:
        constants = [self.constant(a) for a in args]
        known = [c for c in constants if c is not None]
        if len(known) == len(args):
            with np.errstate(all="ignore"):
                return self.b.const(np.broadcast_to(ELEMENTWISE[ins.op].reference(*known), (n,)))
        rule = _RULES.get(ins.op)
        if rule is not None:
            found = rule(self, args, n)
            if found is not None:
                return found
        if n > 1:
            numbers = [self.single_number(a) for a in args]
            args = [a if x is None else self.b.const(x) for a, x in zip(args, numbers, strict=True)]
        return self.b.emit(ins.op, args, n)


def _as_length(r: _Rewriter, v: int, n: int) -> int | None:
    return v if r.b.sizes[v] == n else None


def _add(r: _Rewriter, args: list[int], n: int) -> int | None:
    for a, other in (args, args[::-1]):
        if r.single_number(a) == 0:
            return _as_length(r, other, n)
    return None


def _sub(r: _Rewriter, args: list[int], n: int) -> int | None:
    if r.single_number(args[1]) == 0:
        return _as_length(r, args[0], n)
    return r.b.emit("neg", [args[1]], n) if r.single_number(args[0]) == 0 and r.b.sizes[args[1]] == n else None


def _mul(r: _Rewriter, args: list[int], n: int) -> int | None:
    for a, other in (args, args[::-1]):
        if r.single_number(a) == 1:
            return _as_length(r, other, n)
    return None


def _div(r: _Rewriter, args: list[int], n: int) -> int | None:
    divisor = r.single_number(args[1])
    if divisor == 1:
        return _as_length(r, args[0], n)
    if divisor is not None and divisor != 0 and np.frexp(divisor)[0] in (0.5, -0.5):
        return r.b.emit("mul", [args[0], r.b.const(1.0 / divisor)], n)
    return None


def _constpow(r: _Rewriter, args: list[int], n: int) -> int | None:
    exponent = r.single_number(args[1])
    base = args[0]
    if exponent is None or r.b.sizes[base] != n:
        return None
    if exponent == 1:
        return base
    if exponent == 2:
        return r.b.emit("sq", [base], n)
    if exponent == 3:
        return r.b.emit("mul", [base, r.b.emit("sq", [base], n)], n)
    if exponent == -1:
        return r.b.emit("inv", [base], n)
    return None


def _assign(r: _Rewriter, args: list[int], n: int) -> int | None:
    return args[0]


_RULES: dict[str, Callable[[_Rewriter, list[int], int], int | None]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": _constpow,
    "constpow": _constpow,
    "assign": _assign,
}


def derivative_exp_from_expm1(program: Program, derivative_only: set[int]) -> Program:
    """Replace ``exp(x)`` by ``1 + expm1(x)`` where the latter exists and the former serves derivatives only.

    CasADi differentiates ``expm1`` to ``exp``, a second transcendental of the same argument. The error is 1 ulp of 1,
    against a slope of the activation that is of order one; values of the model itself are never touched.
    """
    arguments = {ins.inputs[0] for ins in program.instructions if ins.op == "expm1"}
    b = ProgramBuilder()
    new = {v: b.value(program.sizes[v]) for v in program.inputs}
    for ins in program.instructions:
        args, n = [new[i] for i in ins.inputs], program.sizes[ins.output]
        if ins.op == "exp" and ins.inputs[0] in arguments and ins.output in derivative_only:
            new[ins.output] = b.emit("add", [b.emit("expm1", args, n), b.const(1.0)], n)
        else:
            new[ins.output] = b.emit(ins.op, args, n, ins.attr)
    inputs, outputs = ([new[v] for v in side] for side in (program.inputs, program.outputs))
    return b.build(program.name, inputs, outputs, program.input_names, program.output_names)
