"""Which branch of a function is taken: absolute values, maxima, comparisons and conditions of a CasADi graph.

A function is expanded to scalar operations, evaluated in NumPy for many rows at once, and every operation whose
derivative jumps says on which side its argument is. Two sets of rows that differ there lie on both sides of a kink.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ...lowering.ops import BY_OPCODE

#: Operations with a kink or a jump, and the side on which their operands are.
_SIDES: dict[str, Callable[..., Any]] = {
    "fabs": np.sign,
    "sign": np.sign,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "fmin": lambda x, y: x < y,
    "fmax": lambda x, y: x > y,
    "floor": np.floor,
    "ceil": np.ceil,
    "if_else_zero": lambda c, y: c != 0,
    "copysign": lambda x, y: np.sign(y),
}
#: How often operations are written out in the text of an operand.
_DEPTH = 4
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True)
class Switch:
    """An operation that takes another branch.

    Attributes
    ----------
    text
        The operation with its operands.
    row
        First row in which it does.
    """

    text: str
    row: int


class Branches:
    """Finds switches of a `casadi.Function`; finds none in one that cannot be expanded to scalar operations."""

    def __init__(self, f: ca.Function) -> None:
        self._f: ca.Function | None
        try:
            self._f = f if f.is_a("SXFunction") else f.expand()
        except RuntimeError:  # callbacks and solvers have no expression
            self._f = None

    def switch(self, one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> Switch | None:
        """The first operation that takes another branch in two sets of inputs, (n_i, rows) each."""
        if self._f is None:
            return None
        a, b = self._sides(one), self._sides(other)
        found: Switch | None = None
        for k, side in a.items():
            changed = np.flatnonzero(np.atleast_1d(side != b[k]))
            if changed.size and (found is None or changed[0] < found.row):
                found = Switch(self._text(k), int(changed[0]))
        return found

    def _sides(self, inputs: Sequence[NDArray[Any]]) -> dict[int, NDArray[Any]]:
        """For each operation with a kink, the side on which its operands are, by row."""
        f: Any = self._f
        nonzeros = [np.asarray(v, np.float64)[f.sparsity_in(i).find()] for i, v in enumerate(inputs)]
        rows = max((v.shape[1] for v in nonzeros), default=1)
        work: dict[int, Any] = {}
        out: dict[int, NDArray[Any]] = {}
        with np.errstate(all="ignore"):
            for k in range(f.n_instructions()):
                code, to, of = f.instruction_id(k), f.instruction_output(k), f.instruction_input(k)
                if code == ca.OP_CONST:
                    work[to[0]] = np.full(rows, f.instruction_constant(k))
                elif code == ca.OP_INPUT:
                    work[to[0]] = np.broadcast_to(nonzeros[of[0]][of[1]], (rows,))
                elif code != ca.OP_OUTPUT:
                    op = BY_OPCODE[code]
                    operands = [work[i] for i in of[: op.arity]]
                    if op.name in _SIDES:
                        out[k] = np.asarray(_SIDES[op.name](*operands))
                    work[to[0]] = op.reference(*operands)
        return out

    def _text(self, k: int) -> str:
        """Instruction k with its operands, as far as they are short."""
        f: Any = self._f

        def write(index: int, before: int, depth: int) -> str:
            at = next((j for j in range(before - 1, -1, -1) if _target(f, j) == index), None)
            if at is None or depth == 0:
                return "..."
            code, of = f.instruction_id(at), f.instruction_input(at)
            if code == ca.OP_CONST:
                return f"{f.instruction_constant(at):g}"
            if code == ca.OP_INPUT:
                name = f.name_in(of[0])
                return name if f.numel_in(of[0]) == 1 else f"{name}[{of[1]}]"
            op = BY_OPCODE[code]
            parts = [write(i, at, depth - 1) for i in of[: op.arity]]
            return f"({f' {_SIGNS[op.name]} '.join(parts)})" if op.name in _SIGNS else f"{op.name}({', '.join(parts)})"

        op = BY_OPCODE[f.instruction_id(k)]
        return f"{op.name}({', '.join(write(i, k, _DEPTH) for i in f.instruction_input(k)[: op.arity])})"


def _target(f: Any, k: int) -> int:
    """Place that instruction k writes to, -1 for an output."""
    return -1 if f.instruction_id(k) == ca.OP_OUTPUT else int(f.instruction_output(k)[0])
