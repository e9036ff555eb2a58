"""Reading rules of the structural MX operations (movement, products, reductions).

Movement is found by moving the numbers 0 ... nnz-1 through the same CasADi operation, so that the rules of CasADi's
sparse storage are CasADi's own.
"""

from __future__ import annotations

from collections.abc import Callable

import casadi as ca
import numpy as np

from .program import ProgramBuilder

Rule = Callable[[ProgramBuilder, ca.MX, list[int]], int]


def split_offsets(mx: ca.MX) -> list[int]:
    """Nonzero offsets of the parts of a split."""
    return [int(i) for i in mx.info()["offset"]]


def _numbered(sparsity: ca.Sparsity) -> ca.DM:
    return ca.DM(sparsity, np.arange(1, sparsity.nnz() + 1, dtype=float))


def _index(moved: ca.DM) -> np.ndarray:
    return np.array(moved.nonzeros(), dtype=np.int64) - 1


def _slice_index(mx: ca.MX) -> np.ndarray:
    info = mx.info()
    if "nz" in info:
        return np.array(info["nz"], dtype=np.int64)
    if "slice" in info:
        return _range(info["slice"])
    inner, outer = _range(info["inner"]), _range(info["outer"])
    return (outer[:, None] + inner[None, :]).ravel()


def _range(s: dict[str, int]) -> np.ndarray:
    return np.arange(s["start"], s["stop"], s["step"], dtype=np.int64)


def _getnonzeros(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.gather(args[0], _slice_index(mx))


def _setnonzeros(add: bool) -> Rule:
    def rule(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
        return b.emit("scatter", args, mx.nnz(), (_slice_index(mx), add))

    return rule


def _transpose(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.gather(args[0], _index(_numbered(mx.dep(0).sparsity()).T))


def projection(source: ca.Sparsity, target: ca.Sparsity) -> np.ndarray:
    """Where each nonzero of ``target`` stands among the nonzeros of ``source`` (-1: it does not)."""
    return _index(ca.project(_numbered(source), target))


def _project(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.gather(args[0], projection(mx.dep(0).sparsity(), mx.sparsity()))


def _same(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return args[0]


def _concat(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    parts = [a for a in args if b.sizes[a]]
    if len(parts) == 1:
        return parts[0]
    return b.emit("concat", parts, mx.nnz())


def _repmat(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    n = b.sizes[args[0]]
    return b.gather(args[0], np.tile(np.arange(n), mx.nnz() // max(n, 1)))


def _repsum(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.emit("segment_sum", args, mx.nnz(), mx.nnz())


def _mtimes(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    acc, a, x = (mx.dep(i).sparsity() for i in range(3))
    if acc.is_dense() and a.is_dense() and x.is_dense():
        return b.emit("mtimes", args, mx.nnz(), (a.size1(), a.size2(), x.size2()))
    return b.emit("triples", args, mx.nnz(), _product_triples(acc, a, x))


def _product_triples(out: ca.Sparsity, a: ca.Sparsity, x: ca.Sparsity) -> np.ndarray:
    where = {rc: i for i, rc in enumerate(zip(out.row(), out.get_col(), strict=True))}
    by_column: dict[int, list[tuple[int, int]]] = {}
    for i, (r, k) in enumerate(zip(a.row(), a.get_col(), strict=True)):
        by_column.setdefault(k, []).append((i, r))
    found: list[tuple[int, int, int]] = []
    for j, (k, c) in enumerate(zip(x.row(), x.get_col(), strict=True)):
        found.extend((where[r, c], i, j) for i, r in by_column.get(k, ()) if (r, c) in where)
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _zeros(b: ProgramBuilder, n: int) -> int:
    return b.const(np.zeros(n))


def _dot(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.emit("mtimes", [_zeros(b, 1), *args], 1, (1, b.sizes[args[0]], 1))


def _bilin(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    a, x, y = args
    sp = mx.dep(0).sparsity()
    if sp.is_dense():
        ay = b.emit("mtimes", [_zeros(b, sp.size1()), a, y], sp.size1(), (sp.size1(), sp.size2(), 1))
    else:
        vector = ca.Sparsity.dense(sp.size2(), 1)
        triples = _product_triples(ca.Sparsity.dense(sp.size1(), 1), sp, vector)
        ay = b.emit("triples", [_zeros(b, sp.size1()), a, y], sp.size1(), triples)
    return b.emit("mtimes", [_zeros(b, 1), x, ay], 1, (1, sp.size1(), 1))


def _rank1(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    a, alpha, x, y = args
    sp = mx.dep(0).sparsity()
    ax = b.emit("mul", [alpha, x], b.sizes[x])
    if sp.is_dense():
        return b.emit("mtimes", [a, ax, y], mx.nnz(), (sp.size1(), 1, sp.size2()))
    rows, cols = np.array(sp.row()), np.array(sp.get_col())
    return b.emit("triples", [a, ax, y], mx.nnz(), np.stack([np.arange(sp.nnz()), rows, cols], axis=1))


def _kron_index(left: ca.Sparsity, right: ca.Sparsity) -> tuple[np.ndarray, np.ndarray]:
    return (
        _index(ca.kron(_numbered(left), ca.DM(right, 1.0))),
        _index(ca.kron(ca.DM(left, 1.0), _numbered(right))),
    )


def _kron_contract(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    inner = str(mx).endswith("inner)")
    other = mx.dep(1).sparsity()
    left, right = (mx.sparsity(), other) if inner else (other, mx.sparsity())
    i, j = _kron_index(left, right)
    out, factor = (i, j) if inner else (j, i)
    triples = np.stack([out, np.arange(i.size), factor], axis=1)
    return b.emit("triples", [_zeros(b, mx.nnz()), *args], mx.nnz(), triples)


def _kron(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    i, j = _kron_index(mx.dep(0).sparsity(), mx.dep(1).sparsity())
    return b.emit("mul", [b.gather(args[0], i), b.gather(args[1], j)], mx.nnz())


def _einstein(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    info = mx.info()
    dims = [int(d) for d in info["iter_dims"]]
    grid = np.indices(dims).reshape(len(dims), -1)
    flat = []
    for key in ("strides_c", "strides_a", "strides_b"):
        start, *steps = (int(s) for s in info[key])
        flat.append(start + np.tensordot(np.array(steps), grid, axes=1))
    return b.emit("triples", args, mx.nnz(), np.stack(flat, axis=1))


def _norm1(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.emit("sum", [b.emit("fabs", args, b.sizes[args[0]])], 1)


def _norm2(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.emit("sqrt", [_dot(b, mx, [args[0], args[0]])], 1)


def _norminf(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    return b.emit("max", [b.emit("fabs", args, b.sizes[args[0]])], 1)


def _extreme(name: str) -> Rule:
    def rule(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
        sp = mx.dep(0).sparsity()
        values = args[0] if sp.is_dense() else b.emit("concat", [args[0], _zeros(b, 1)], sp.nnz() + 1)
        return b.emit(name, [values], 1)

    return rule


def _logsumexp(b: ProgramBuilder, mx: ca.MX, args: list[int]) -> int:
    n = b.sizes[args[0]]
    top = b.emit("max", args, 1)
    shifted = b.emit("exp", [b.emit("sub", [args[0], top], n)], n)
    return b.emit("add", [top, b.emit("log", [b.emit("sum", [shifted], 1)], 1)], 1)


MATRIX_OPS: dict[int, Rule] = {
    ca.OP_GETNONZEROS: _getnonzeros,
    ca.OP_SETNONZEROS: _setnonzeros(add=False),
    ca.OP_ADDNONZEROS: _setnonzeros(add=True),
    ca.OP_TRANSPOSE: _transpose,
    ca.OP_PROJECT: _project,
    ca.OP_RESHAPE: _same,
    ca.OP_VERTCAT: _concat,
    ca.OP_HORZCAT: _concat,
    ca.OP_DIAGCAT: _concat,
    ca.OP_HORZREPMAT: _repmat,
    ca.OP_HORZREPSUM: _repsum,
    ca.OP_MTIMES: _mtimes,
    ca.OP_DOT: _dot,
    ca.OP_BILIN: _bilin,
    ca.OP_RANK1: _rank1,
    ca.OP_KRON: _kron,
    ca.OP_KRON_CONTRACT: _kron_contract,
    ca.OP_EINSTEIN: _einstein,
    ca.OP_NORM1: _norm1,
    ca.OP_NORM2: _norm2,
    ca.OP_NORMF: _norm2,
    ca.OP_NORMINF: _norminf,
    ca.OP_MMAX: _extreme("max"),
    ca.OP_MMIN: _extreme("min"),
    ca.OP_LOGSUMEXP: _logsumexp,
}
