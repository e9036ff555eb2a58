"""Reference interpreter: a program evaluated with NumPy, one operation at a time.

It is slow and plain on purpose: the compiled kernels and CasADi's virtual machine are compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .ops import ELEMENTWISE
from .program import Instruction, Program


def _gather(ins: Instruction, x: Any) -> Any:
    out = x[np.maximum(ins.attr, 0)] if x.shape[0] else np.zeros((ins.attr.size, *x.shape[1:]), x.dtype)
    out[ins.attr < 0] = 0
    return out


def _scatter(ins: Instruction, x: Any, y: Any) -> Any:
    index, add = ins.attr
    x, y = _same_lanes(x, y)
    out = np.array(x)
    if add:
        np.add.at(out, index, y)
    else:
        out[index] = y
    return out


def _mtimes(ins: Instruction, acc: Any, a: Any, b: Any) -> Any:
    r, k, c = ins.attr
    lanes = max(acc.shape[1], a.shape[1], b.shape[1])
    am = a.reshape(k, r, -1)
    bm = b.reshape(c, k, -1)
    out = np.zeros((c, r, lanes), acc.dtype)
    for j in range(k):
        out = out + am[None, j] * bm[:, j, None]
    return acc + out.reshape(r * c, lanes)


def _triples(ins: Instruction, acc: Any, a: Any, b: Any) -> Any:
    product = a[ins.attr[:, 1]] * b[ins.attr[:, 2]]
    out = np.array(np.broadcast_to(acc, (acc.shape[0], max(acc.shape[1], product.shape[1]))))
    np.add.at(out, ins.attr[:, 0], product)
    return out


def _concat(ins: Instruction, *parts: Any) -> Any:
    return np.concatenate(_same_lanes(*parts))


def _same_lanes(*parts: Any) -> list[Any]:
    lanes = max(p.shape[1] for p in parts)
    return [np.array(np.broadcast_to(p, (p.shape[0], lanes))) for p in parts]


def _call(ins: Instruction, *args: Any) -> Any:
    return _concat(ins, *interpret(ins.attr.program, args, np.result_type(*args) if args else np.float64))


_STRUCTURAL: dict[str, Callable[..., Any]] = {
    "gather": _gather,
    "scatter": _scatter,
    "mtimes": _mtimes,
    "triples": _triples,
    "concat": _concat,
    "call": _call,
    "sum": lambda ins, x: x.sum(axis=0, keepdims=True),
    "segment_sum": lambda ins, x: x.reshape(-1, ins.attr, x.shape[1]).sum(axis=0),
    "max": lambda ins, x: np.fmax.reduce(x, axis=0, keepdims=True),
    "min": lambda ins, x: np.fmin.reduce(x, axis=0, keepdims=True),
}


def interpret(program: Program, inputs: Sequence[Any], dtype: Any = np.float64) -> list[Any]:
    """Evaluate a program.

    Parameters
    ----------
    program : Program
        What to evaluate.
    inputs : sequence of array_like
        One per program input, shape (n,) for a value shared by all lanes or (n, lanes).

    Returns
    -------
    list of ndarray
        One per output, shape (n, lanes) (lanes is 1 where nothing varies).
    """
    values: dict[int, Any] = {}
    for v, x in zip(program.inputs, inputs, strict=True):
        a = np.asarray(x, dtype)
        values[v] = a.reshape(program.sizes[v], -1) if program.sizes[v] else np.zeros((0, 1), dtype)
    with np.errstate(all="ignore"):
        for ins in program.instructions:
            args = [values[i] for i in ins.inputs]
            if ins.op == "const":
                values[ins.output] = ins.attr.astype(dtype)[:, None]
            elif ins.op in ELEMENTWISE:
                values[ins.output] = _elementwise(ins, args, program.sizes[ins.output])
            else:
                values[ins.output] = _STRUCTURAL[ins.op](ins, *args)
    return [values[v] for v in program.outputs]


def _elementwise(ins: Instruction, args: list[Any], n: int) -> Any:
    result = np.asarray(ELEMENTWISE[ins.op].reference(*args))
    return np.array(np.broadcast_to(result, (n, result.shape[1])))
