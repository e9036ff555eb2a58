"""The reader and the interpreter against CasADi's virtual machine: every operation, call and derivative; refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.base.errors import UnsupportedOperation
from ctrlode_casadi.lowering.interpreter import interpret
from ctrlode_casadi.lowering.ops import BY_OPCODE, ELEMENTWISE, OPCODE_NAMES, PASS_THROUGH
from ctrlode_casadi.lowering.reader import _SCALAR_OPS, read
from ctrlode_casadi.lowering.structure import MATRIX_OPS
from lowering.cases import EDGES, OPERATIONS
from lowering.compare import assert_near, check_interpreter, vjp, vm

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, -0.5, 2.0, -2.5, 3.0, 1e-300, 1e300, 7.25]

#: Operations that CasADi writes by another name than its builder.
_BUILDERS: dict[str, Callable[..., Any]] = {
    "assign": lambda x: x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x: -x,
    "pow": lambda x, y: x**y,
    "constpow": lambda x, y: ca.constpow(x, y),
    "sq": lambda x: x**2,
    "twice": lambda x: 2 * x,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "not": ca.logic_not,
    "and": ca.logic_and,
    "or": ca.logic_or,
    "if_else_zero": lambda x, y: ca.if_else(x, y, 0),
    "inv": lambda x: 1 / x,
}


def elementwise_function(name: str, kind: Any) -> ca.Function:
    """One elementwise operation of two-entry vectors as an SX or MX function."""
    row = ELEMENTWISE[name]
    builder = _BUILDERS.get(name) or getattr(ca, name)
    xs = [kind.sym(n, 2) for n in "xy"[: row.arity]]
    return ca.Function(name, xs, [builder(*xs)])


@pytest.mark.parametrize("kind", [ca.SX, ca.MX], ids=["SX", "MX"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str, kind: Any) -> None:
    """All pairs of special values; where the C library leaves the sign of NaN and the last bits open, so do we."""
    f = elementwise_function(name, kind)
    codes = {f.instruction_id(k) for k in range(f.n_instructions())}
    if name != "assign" and (name, kind) != ("constpow", ca.SX):
        assert ELEMENTWISE[name].opcode in codes, "CasADi wrote the expression with other operations"
    program = read(f)
    tolerance = 1e-10 if name == "erfinv" else 4e-15  # CasADi's own erfinv has no more digits
    pairs = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)
    inputs = [np.stack([q, q[::-1]]) for q in pairs[: f.n_in()]]
    (got,) = interpret(program, inputs)
    for lane in range(pairs.shape[1]):
        (want,) = vm(f, [x[:, lane] for x in inputs])
        np.testing.assert_allclose(
            got[:, lane], want, rtol=tolerance, atol=0, err_msg=f"{name} {[x[:, lane] for x in inputs]}"
        )


@pytest.mark.parametrize("table", [OPERATIONS, EDGES], ids=["operations", "edges"])
def test_functions_and_their_derivatives(table: dict[str, Callable[[], ca.Function]]) -> None:
    """Value, forward and reverse of every function of the kernel tests, through the reader and the interpreter."""
    for make in table.values():
        f = make()
        for g in (f, vjp(f), f.forward(1)):
            check_interpreter(g, tolerance=1e-11)


X = ca.MX.sym("x", 4)
Y = ca.MX.sym("y", 4)
M = ca.MX.sym("m", 3, 4)
Q = ca.MX.sym("q", 3, 3)
S = ca.MX.sym("s", ca.Sparsity.lower(3))
T = ca.MX.sym("t", ca.Sparsity.triplet(3, 4, [0, 2, 1, 0], [0, 0, 2, 3]))
PLACE = ca.Sparsity.triplet(3, 3, [0, 1, 2, 2], [1, 1, 0, 2])


def _set_item(target: ca.MX, key: Any, value: Any) -> ca.MX:
    out = ca.MX(target)
    out[key] = value
    return out


def _split_sum(parts: list[ca.MX]) -> ca.MX:
    return ca.sin(parts[0]) + ca.cos(parts[-1])


EXPRESSIONS: dict[str, ca.MX] = {
    "slice": X[1:4:2],
    "negative_slice": X[::-1],
    "repeated_index": X[[3, 3, 0]],
    "block": M[1:, ::2],
    "row": M[1, :],
    "matrix_entry": M[2, 3],
    "sparse_column": T[:, 0],
    "sparse_block": T[0:2, 1:4],
    "sparse_to_dense": ca.densify(T),
    "set": _set_item(X, slice(0, 2), Y[2:] * Y[:2]),
    "set_block": _set_item(M, (slice(0, 2), slice(1, 3)), Q[:2, :2]),
    "transpose": M.T,
    "sparse_transpose": T.T,
    "reshape": ca.reshape(M, 6, 2),
    "sparse_reshape": ca.reshape(T, 6, 2),
    "vec": ca.vec(T),
    "project": ca.project(Q, PLACE),
    "project_up": ca.project(S, ca.Sparsity.dense(3, 3)),
    "sparsity_cast": ca.sparsity_cast(Q, ca.Sparsity.dense(9, 1)),
    "vertcat": ca.vertcat(X, Y[0], M[:, 0]),
    "horzcat": ca.horzcat(M, Q),
    "vertcat_matrices": ca.vertcat(M, M * 2),
    "diagcat": ca.diagcat(X, M, X[0]),
    "vertsplit": _split_sum(ca.vertsplit(X, [0, 2, 4])),
    "uneven_vertsplit": ca.vertcat(*ca.vertsplit(M, [0, 1, 3])[::-1]),
    "horzsplit": _split_sum(ca.horzsplit(M, 2)),
    "sparse_horzsplit": ca.horzcat(*ca.horzsplit(T, [0, 1, 4])[::-1]),
    "diagsplit": ca.diagsplit(ca.diagcat(Q, X[0]), [0, 3, 4])[0],
    "repmat": ca.repmat(X, 2, 3),
    "repsum": ca.repsum(M, 1, 2),
    "kron": ca.kron(M, X),
    "sparse_kron": ca.kron(T, S),
    "mtimes": M @ X,
    "mtimes_matrix": Q @ M,
    "sparse_mtimes": T @ X,
    "sparse_mtimes_sparse": S @ T,
    "mac": ca.mac(Q, M, M + 1),
    "dot": ca.dot(X, Y),
    "matrix_dot": ca.dot(M, M + 1),
    "sparse_dot": ca.dot(S, Q),
    "bilin": ca.bilin(Q, X[:3], Y[1:]),
    "sparse_bilin": ca.bilin(S, X[:3], Y[1:]),
    "rank1": ca.rank1(M, X[0], X[1:], Y),
    "sparse_rank1": ca.rank1(T, X[0], X[1:], Y),
    "einstein": ca.einstein(ca.vec(M), X, [3, 4], [4], [3], [-1, -2], [-2], [-1]),
    "einstein_outer": ca.einstein(X, Y, [4], [4], [4, 4], [-1], [-2], [-2, -1]),
    "norm_1": ca.norm_1(X),
    "norm_2": ca.norm_2(X),
    "norm_inf": ca.norm_inf(M),
    "norm_fro": ca.norm_fro(M),
    "sparse_norm": ca.norm_fro(T) + ca.norm_1(ca.vec(T)) + ca.norm_inf(T),
    "mmax": ca.mmax(X),
    "mmin": ca.mmin(M),
    "sparse_mmax": ca.mmax(-(T**2)),
    "sparse_mmin": ca.mmin(T**2),
    "logsumexp": ca.logsumexp(X),
    "sum1": ca.sum1(M),
    "sum2": ca.sum2(M),
    "cumsum": ca.cumsum(X),
    "trace": ca.trace(Q),
    "det": ca.det(Q),
    "inv": ca.inv(Q),
    "solve": ca.solve(Q, X[:3]),
    "solve_transposed": ca.solve(Q.T, ca.horzcat(X[:3], Y[1:])),
    "solve_lower": ca.solve(S + 3 * ca.DM.eye(3), X[:3]),
    "norm_cross": ca.cross(X[:3], Y[1:]),
    "skew": ca.skew(X[:3]),
    "polyval": ca.polyval(X, Y[0]),
    "sparse_times_scalar": T * X[0] + T,
    "sparse_plus_dense": T + M,
    "sparse_cos": ca.cos(T),
    "blockcat": ca.blockcat([[Q, M], [2 * Q, -M]]),
    "if_else": ca.if_else(X[0] > Y[0], M, 2 * M),
    "if_else_short": ca.if_else(X[0] > Y[0], X, Y, True),
    "conditional": ca.conditional(X[0] * 2, [X, Y, X * Y], -Y),
    "attachAssert": (X * 2).attachAssert(ca.MX(1), "never"),
    "constants": ca.vertcat(3.5, X, ca.DM([1, 2])) + ca.MX.ones(7) * ca.MX(2),
    "empty_parts": ca.vertcat(ca.MX(0, 1), X, ca.MX.zeros(2)),
    "zeros": ca.MX.zeros(3, 2),
    "sparse_zero": ca.MX(3, 3),
    "eye": ca.MX.eye(3) @ Q,
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression(name: str) -> None:
    expression = EXPRESSIONS[name]
    symbols = ca.symvar(expression) or [X]
    f = ca.Function(name, symbols, [expression])
    for g in (f, vjp(f), f.forward(1), ca.Function(name + "_jac", symbols, [ca.jacobian(expression, symbols[0])])):
        check_interpreter(g, tolerance=1e-11)


def _two(kind: Any) -> ca.Function:
    x, y = kind.sym("x", 2), kind.sym("y", 2)
    return ca.Function("two", [x, y], [ca.sin(x) * y[0], ca.dot(x, y)])


@pytest.mark.parametrize("kind", [ca.SX, ca.MX], ids=["SX", "MX"])
def test_calls(kind: Any) -> None:
    """Calls, maps, accumulations, switches and nested calls of SX and MX functions, with derivatives."""
    two = _two(kind)
    step = ca.Function(
        "step", [x := kind.sym("x", 2), u := kind.sym("u")], [x + 0.1 * ca.vertcat(x[1], u - ca.sin(x[0]))]
    )
    branches = [ca.Function("a", [x], [ca.sin(x)]), ca.Function("b", [x], [x * x[1]])]
    switch = ca.Function.conditional("pick", branches, ca.Function("c", [x], [-x]))
    either = ca.Function.if_else("either", *branches)
    outer = ca.Function("outer", [X, Y], [two(two(X[:2], Y[:2])[0], X[2:])[0] * two(X[:2], X[2:])[1]])
    functions = [
        two,
        two.map(3),
        two.map(3, [True, False]),
        two.map(2, [False, False], [True, False]),
        two.map(3, "unroll"),
        step.mapaccum(4),
        step.fold(3),
        switch,
        either,
        outer,
        outer.map(2),
        ca.Function("deep", [X, Y], [outer.map(2)(ca.horzcat(X, Y), ca.horzcat(Y, X))]),
        ca.Function("split", [X], list(two.map(2)(ca.reshape(X, 2, 2), ca.reshape(X, 2, 2)))),
    ]
    for f in functions:
        check_interpreter(f)
        check_interpreter(f.forward(1))
        check_interpreter(vjp(f))


@pytest.mark.parametrize("index", [-1.0, -0.5, -0.0, 0.0, 0.4, 0.99, 1.0, 1.5, 2.0, 17.0, np.inf, -np.inf, np.nan])
def test_switch_index(index: float) -> None:
    """A switch truncates its index; anything outside, and what is no number, takes the default."""
    f = OPERATIONS["switch"]()
    inputs = [np.array([index / 2, 0.3, -0.7]), np.array([1.1, 0.6])]
    (got,) = interpret(read(f), inputs)
    assert_near(got[:, 0], vm(f, inputs)[0], 1e-14, f"index {index}")


def test_equal_instructions_are_read_once() -> None:
    f = ca.Function("f", [X], [ca.sin(X) + ca.sin(X), ca.sin(X) * 2], {"cse": False})
    assert sum(i.op == "sin" for i in read(f).instructions) == 1


def test_printing() -> None:
    text = str(read(ca.Function("f", [X], [ca.sin(X[1:])], ["x"], ["y"])))
    assert "program f(x) -> (y)" in text and "gather %0" in text and "sin" in text


def test_every_opcode_is_supported_or_named() -> None:
    """A new CasADi opcode shows up here; those without a lowering are listed with their reason."""
    refused = {
        "OP_PARAMETER",  # a free symbol
        "OP_SUBREF", "OP_SUBASSIGN",  # never made by CasADi 3.8
        "OP_GETNONZEROS_PARAM", "OP_SETNONZEROS_PARAM", "OP_ADDNONZEROS_PARAM",  # indices that are data
        "OP_BSPLINE", "OP_CONVEXIFY", "OP_FIND", "OP_LOW", "OP_DUMP", "OP_MAP",
    }  # fmt: skip
    streams = {ca.OP_INPUT, ca.OP_OUTPUT, ca.OP_CONST, ca.OP_CALL, ca.OP_VERTSPLIT, ca.OP_HORZSPLIT, ca.OP_DIAGSPLIT}
    known = set(BY_OPCODE) | set(PASS_THROUGH) | set(MATRIX_OPS) | set(_SCALAR_OPS) | streams
    assert {name for code, name in OPCODE_NAMES.items() if code not in known} == refused


class _Twice(ca.Callback):
    def __init__(self) -> None:
        ca.Callback.__init__(self)
        self.construct("twice_in_python", {})

    def eval(self, arg: Any) -> Any:
        return [2 * arg[0]]


def _refused() -> dict[str, tuple[ca.Function, str]]:
    spline = ca.interpolant("table", "bspline", [[0.0, 1, 2, 3, 4]], [0.0, 1, 4, 9, 16])
    inline = ca.bspline(X[0], ca.DM([1, 2, 3, 4]), [[0, 0, 0, 0, 1, 1, 1, 1]], [3], 1)
    linear = ca.interpolant("grid", "linear", [[0.0, 1, 2]], [0.0, 1, 4])
    i = ca.MX.sym("i")
    root = ca.rootfinder("root", "newton", ca.Function("r", [z := ca.MX.sym("z"), i], [z**3 - i]))
    twice = _Twice()
    large = ca.MX.sym("large", 13, 13)
    return {
        "bspline": (ca.Function("f", [X], [spline(X[0])]), "BSpline|OP_BSPLINE"),
        "inline_bspline": (ca.Function("f", [X], [inline * X]), r"f.*OP_BSPLINE in '.*'"),
        "linear_table": (ca.Function("f", [X], [linear(X[0])]), "grid.*of class LinearInterpolant"),
        "index_is_data": (ca.Function("f", [X, i], [X.nz[i]]), r"f.*OP_GETNONZEROS_PARAM in '.*'.*backend='casadi'"),
        "low": (ca.Function("f", [X, i], [ca.low(X, i)]), "OP_LOW"),
        "find": (ca.Function("f", [X], [ca.find(X > 0)]), "OP_FIND"),
        "rootfinder": (ca.Function("f", [i], [root(0, i)]), "root.*of class Newton"),
        "callback": (twice, "twice_in_python.*of class CallbackInternal.*no instruction stream"),
        "callback_call": (ca.Function("f", [i], [twice(i)]), "twice_in_python.*of class CallbackInternal"),
        "large_solve": (ca.Function("f", [large, Y], [ca.solve(large, ca.vertcat(Y, Y, Y, 1))]), r"12 x 12, got 13"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "bspline", "inline_bspline", "linear_table", "index_is_data", "low", "find", "rootfinder", "callback",
        "callback_call", "large_solve",
    ],
)  # fmt: skip
def test_unsupported_operations_are_refused_by_name(name: str) -> None:
    f, message = _refused()[name]
    with pytest.raises(UnsupportedOperation, match=message):
        read(f)
