"""Reader: a casadi.Function (MX with nested calls, or SX) becomes a flat program.

Calls are inlined. An operation that has no meaning for smooth vector code is refused here, by name, before anything is
compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import numpy as np

from ..base.errors import UnsupportedOperation
from .ops import BY_OPCODE, OPCODE_NAMES, PASS_THROUGH
from .program import Program, ProgramBuilder
from .structure import MATRIX_OPS, Rule, projection, split_offsets


def read(function: ca.Function) -> Program:
    """Read a CasADi function.

    Parameters
    ----------
    function : casadi.Function
        An MXFunction or SXFunction; calls to further functions, maps and switches are inlined.

    Returns
    -------
    Program

    Raises
    ------
    UnsupportedOperation
        For an instruction or a function class without a lowering; the message prints the instruction.
    """
    b = ProgramBuilder()
    inputs = [b.value(function.nnz_in(i)) for i in range(function.n_in())]
    outputs = inline(b, function, inputs)
    return b.build(function.name(), inputs, outputs, function.name_in(), function.name_out())


def inline(b: ProgramBuilder, f: ca.Function, args: Sequence[int]) -> list[int]:
    """Put the instructions of ``f``, called with the values ``args``, into ``b`` and return its outputs."""
    kind = f.class_name()
    reader = _FUNCTION_READERS.get(kind)
    if reader is None:
        raise UnsupportedOperation(
            f"function: {f} of class {kind} cannot be compiled to lanes (it has no instruction stream); "
            f"use backend='casadi', or write it with CasADi expressions"
        )
    return reader(b, f, args)


def _read_sx(b: ProgramBuilder, f: ca.Function, args: Sequence[int]) -> list[int]:
    work: dict[int, int] = {}
    outputs: list[dict[int, int]] = [{} for _ in range(f.n_out())]
    for k in range(f.n_instructions()):
        op, out, inp = f.instruction_id(k), f.instruction_output(k), f.instruction_input(k)
        if op == ca.OP_INPUT:
            work[out[0]] = b.gather(args[inp[0]], np.array([inp[1]]))
        elif op == ca.OP_OUTPUT:
            outputs[out[0]][out[1]] = work[inp[0]]
        elif op == ca.OP_CONST:
            work[out[0]] = b.const(f.instruction_constant(k))
        elif op in PASS_THROUGH:
            work[out[0]] = work[inp[0]]
        else:
            row = BY_OPCODE.get(op)
            if row is None:
                raise _unsupported(f, k, op)
            work[out[0]] = b.emit(row.name, [work[i] for i in inp[: row.arity]], 1)
    return [_join(b, [o[i] for i in range(f.nnz_out(j))]) for j, o in enumerate(outputs)]


def _join(b: ProgramBuilder, parts: Sequence[int]) -> int:
    if len(parts) == 1:
        return parts[0]
    return b.emit("concat", parts, sum(b.sizes[p] for p in parts)) if parts else b.const(np.zeros(0))


def _read_mx(b: ProgramBuilder, f: ca.Function, args: Sequence[int]) -> list[int]:
    work: dict[int, int] = {}
    parts: list[list[int]] = [[] for _ in range(f.n_out())]
    for k in range(f.n_instructions()):
        op, out, inp = f.instruction_id(k), f.instruction_output(k), f.instruction_input(k)
        if op == ca.OP_OUTPUT:
            parts[out[0]].append(work[inp[0]])
            continue
        mx = f.instruction_MX(k)
        if op == ca.OP_INPUT:
            offset = int(mx.info()["offset"])
            work[out[0]] = b.gather(args[inp[0]], np.arange(offset, offset + mx.nnz()))
        elif op == ca.OP_CONST:
            work[out[0]] = b.const(np.array(mx.to_DM().nonzeros()))
        elif op == ca.OP_CALL:
            operands = [_operand(b, work, i) for i in inp]
            kept = b.call(mx.which_function(), operands)
            results = inline(b, mx.which_function(), operands) if kept is None else kept
            work.update((o, r) for o, r in zip(out, results, strict=True) if o >= 0)
        elif op in (ca.OP_VERTSPLIT, ca.OP_HORZSPLIT, ca.OP_DIAGSPLIT):
            offsets = split_offsets(mx)
            for o, lo, hi in zip(out, offsets[:-1], offsets[1:], strict=True):
                if o >= 0:
                    work[o] = b.gather(work[inp[0]], np.arange(lo, hi))
        else:
            work[out[0]] = _read_mx_single(b, f, k, mx, [_operand(b, work, i) for i in inp])
    return [_assemble_output(b, f, j, p) for j, p in enumerate(parts)]


def _assemble_output(b: ProgramBuilder, f: ca.Function, j: int, parts: list[int]) -> int:
    """Join an output that the stream writes in segments.

    The instruction carries the segment only in its printed form ``output[j][segment] = @k``.
    """
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return b.const(np.zeros(f.nnz_out(j)))
    segments = [int(s) for s in re.findall(rf"\boutput\[{j}\]\[(\d+)\] = ", f.str(True))]
    if len(segments) != len(parts) or sum(b.sizes[p] for p in parts) != f.nnz_out(j):
        raise UnsupportedOperation(
            f"function: output {j} of {f} is written in {len(parts)} parts that cannot be told apart"
        )
    return _join(b, [p for _, p in sorted(zip(segments, parts, strict=True))])


def _operand(b: ProgramBuilder, work: dict[int, int], index: int) -> int:
    return work[index] if index >= 0 else b.const(np.zeros(0))


def _read_mx_single(b: ProgramBuilder, f: ca.Function, k: int, mx: ca.MX, args: list[int]) -> int:
    op = f.instruction_id(k)
    row = BY_OPCODE.get(op)
    if row is not None:
        return b.emit(row.name, args[: row.arity], mx.nnz())
    if op in PASS_THROUGH:
        return args[0]
    rule = MATRIX_OPS.get(op) or _SCALAR_OPS.get(op)
    if rule is None:
        raise _unsupported(f, k, op)
    return rule(b, mx, args)


def _unsupported(f: ca.Function, k: int, op: int) -> UnsupportedOperation:
    shown = str(f).split(":")[0]
    text = f.instruction_MX(k) if f.is_a("MXFunction") else f"instruction {k}"
    return UnsupportedOperation(
        f"function {shown}: {OPCODE_NAMES.get(op, op)} in '{text}' has no lowering to lanes; "
        f"use backend='casadi', or rewrite the expression without it"
    )


def _read_map(b: ProgramBuilder, f: ca.Function, args: Sequence[int]) -> list[int]:
    info: dict[str, Any] = f.info()
    base, n = info["f"], info["n"]
    calls = []
    for j in range(n):
        own = [b.gather(a, np.arange(j * base.nnz_in(i), (j + 1) * base.nnz_in(i))) for i, a in enumerate(args)]
        calls.append(inline(b, base, own))
    return [_join(b, [c[i] for c in calls]) for i in range(f.n_out())]


def _read_map_sum(b: ProgramBuilder, f: ca.Function, args: Sequence[int]) -> list[int]:
    base = f.find_functions(0)[0]
    counts = {f.nnz_in(i) // base.nnz_in(i) for i in range(f.n_in()) if base.nnz_in(i)}
    counts |= {f.nnz_out(i) // base.nnz_out(i) for i in range(f.n_out()) if base.nnz_out(i)}
    n = max(counts)
    if not counts <= {1, n}:
        raise UnsupportedOperation(f"function: {f} is a map whose number of calls cannot be found")
    total: list[int] = []
    calls = []
    for k in range(n):
        own = []
        for i, a in enumerate(args):
            m = base.nnz_in(i)
            own.append(a if f.nnz_in(i) == m else b.gather(a, np.arange(k * m, (k + 1) * m)))
        calls.append(inline(b, base, own))
    for j in range(f.n_out()):
        if f.nnz_out(j) == n * base.nnz_out(j):
            total.append(_join(b, [c[j] for c in calls]))
        else:
            value = calls[0][j]
            for c in calls[1:]:
                value = b.emit("add", [value, c[j]], b.sizes[value])
            total.append(value)
    return total


def _read_switch(b: ProgramBuilder, f: ca.Function, args: Sequence[int]) -> list[int]:
    info: dict[str, Any] = f.info()
    magnitude = b.emit("floor", [b.emit("fabs", [args[0]], 1)], 1)
    index = b.emit("copysign", [magnitude, args[0]], 1)
    results = _call_branch(b, f, info["f_def"], args[1:])
    for j, branch in enumerate(info["f"]):
        hit = b.emit("eq", [index, b.const(float(j))], 1)
        miss = b.emit("not", [hit], 1)
        for o, value in enumerate(_call_branch(b, f, branch, args[1:])):
            n = b.sizes[value]
            yes = b.emit("if_else_zero", [hit, value], n)
            results[o] = b.emit("add", [yes, b.emit("if_else_zero", [miss, results[o]], n)], n)
    return results


def _call_branch(b: ProgramBuilder, f: ca.Function, branch: ca.Function, args: Sequence[int]) -> list[int]:
    """A branch of a switch; its sparsities may be smaller than the switch's own."""
    own = [b.gather(a, projection(f.sparsity_in(i + 1), branch.sparsity_in(i))) for i, a in enumerate(args)]
    out = inline(b, branch, own)
    return [b.gather(v, projection(branch.sparsity_out(j), f.sparsity_out(j))) for j, v in enumerate(out)]


def _by_scalars(expression: Callable[..., Any], name: str) -> Rule:
    """A small dense linear-algebra operation, written out in scalars by CasADi's own symbolic algorithm."""

    def rule(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
        symbols = [ca.SX.sym("a", mx.dep(i).sparsity()) for i in range(mx.n_dep())]
        n = max(s.size1() for s in symbols)
        if n > 12:
            raise UnsupportedOperation(
                f"{name}: written out in scalars up to 12 x 12, got {n} x {n}; use backend='casadi' for this model"
            )
        out = ca.project(ca.densify(expression(mx, *symbols)), mx.sparsity())
        return inline(b, ca.Function(name, symbols, [out]), args)[0]

    return rule


def _solve(mx: ca.MX, rhs: Any, a: Any) -> Any:
    return ca.solve(a.T if mx.info()["tr"] else a, rhs)


#: Operations that are read as scalar expressions.
_SCALAR_OPS: dict[int, Rule] = {
    ca.OP_DETERMINANT: _by_scalars(lambda mx, a: ca.det(a), "determinant"),
    ca.OP_INVERSE: _by_scalars(lambda mx, a: ca.inv(a), "inverse"),
    ca.OP_SOLVE: _by_scalars(_solve, "solve"),
}

_FUNCTION_READERS: dict[str, Callable[..., list[int]]] = {
    "SXFunction": _read_sx,
    "MXFunction": _read_mx,
    "Map": _read_map,
    "MapSum": _read_map_sum,
    "Switch": _read_switch,
}
