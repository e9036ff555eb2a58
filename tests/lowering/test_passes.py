"""The passes: what is taped, fused, moved for free, accumulated in place, and simplified away."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.lowering.accumulate import Leaf, Outer, find_pieces
from ctrlode_casadi.lowering.assemble import differentiate
from ctrlode_casadi.lowering.kernels import lane_kernels
from ctrlode_casadi.lowering.program import Program, ProgramBuilder
from ctrlode_casadi.lowering.reader import read
from ctrlode_casadi.lowering.schedule import Fused, Single, schedule
from ctrlode_casadi.lowering.simplify import simplify
from ctrlode_casadi.lowering.split import minimum_cut, split, uniform_values
from ctrlode_casadi.lowering.views import Views, find_views, progression, strided
from lowering.cases import ACTIVATIONS, dense_net, elu, function
from lowering.compare import W, check_kernels


def tape_size(f: ca.Function) -> int:
    """Entries on the tape."""
    return lane_kernels(f, "p", lanes=W).n_tape


def ops(program: Program) -> list[str]:
    """Operations of a program, in order."""
    return [i.op for i in program.instructions]


# the tape -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "per_unit"), [("tanh", 1), ("sigmoid", 3), ("exp", 1), ("sin", 2), ("identity", 0)]
)
def test_tape_of_a_layer(activation: str, per_unit: int) -> None:
    """tanh' follows from tanh by cheap operations, sin' does not; the inputs (3) are needed for the weights.

    CasADi's derivative of a quotient divides by the denominator, so that 1 / (1 + exp(-x)) needs three entries.
    """
    f = dense_net([3, 7, 2], activation)
    hidden = per_unit * 7 if activation != "identity" else 7
    assert tape_size(f) <= 3 + hidden


def test_tape_of_elu_has_two_entries_per_unit() -> None:
    """The sign of the argument and expm1 of it: neither follows from the other cheaply without a comparison."""
    f = function("elu", lambda x, p: elu(x) * p, [5], 1)
    assert 5 < tape_size(f) <= 10


def test_tape_is_empty_where_nothing_is_needed() -> None:
    f = function("affine", lambda x, p: ca.reshape(p[:6], 2, 3) @ x, [3], 6)
    assert tape_size(f) == 3  # the gradient of the weights needs x
    assert tape_size(function("constant_slope", lambda x, p: 2 * x + 1, [3], 1)) == 0
    assert tape_size(function("no_parameters", lambda x, p: ca.DM(np.ones((2, 3))) @ x, [3], 1)) == 0


def test_cheap_operation_is_computed_again() -> None:
    """From x to -2 x + 1, only x is taped although the reverse sweep needs both."""
    f = function("cheap", lambda x, p: ca.vertcat(x * p[0], (1 - 2 * x) * p[1]), [4], 2)
    assert tape_size(f) == 4


def chain() -> tuple[Program, dict[str, int]]:
    """x -> e = exp(x) -> (a = e + 1, b = e * e), and a narrow s = sum(e)."""
    b = ProgramBuilder()
    x = b.value(8)
    e = b.emit("exp", [x], 8)
    names = {"x": x, "e": e, "a": b.emit("add", [e, b.const(1.0)], 8), "b": b.emit("mul", [e, e], 8)}
    names["s"] = b.emit("sum", [e], 1)
    outputs = [names[k] for k in ("a", "b", "s")]
    return b.build("chain", [x], outputs, ["x"], ["a", "b", "s"]), names


def test_minimum_cut_takes_the_common_source() -> None:
    program, v = chain()
    uniform = uniform_values(program, [])  # the constant
    assert minimum_cut(program, {v["a"], v["b"]}, uniform) == {v["e"]}
    assert minimum_cut(program, {v["s"]}, uniform) == {v["s"]}
    assert minimum_cut(program, {v["e"], v["s"]}, uniform) == {v["e"], v["s"]}
    assert minimum_cut(program, set(), uniform) == set()


def test_minimum_cut_prefers_the_narrow_value() -> None:
    """A scalar from which a long vector follows cheaply is taped instead of the vector."""
    b = ProgramBuilder()
    x, w = b.value(1), b.value(50)
    e = b.emit("exp", [x], 1)
    wide = b.emit("mul", [e, w], 50)
    program = b.build("p", [x, w], [wide], ["x", "w"], ["y"])
    assert minimum_cut(program, {wide}, {w}) == {e}


def test_uniform_values_leave_the_lanes() -> None:
    f = function("g", lambda x, p: ca.exp(p[0]) * x + ca.sin(p[1]), [3], 2)
    program = simplify(read(f))
    uniform = uniform_values(program, [program.inputs[1]])
    assert {i.op for i in program.instructions if i.output in uniform} >= {"exp", "sin"}
    assert all(i.op in ("mul", "add", "const") for i in program.instructions if i.output not in uniform)


def test_split_is_consistent() -> None:
    """The reverse kernel reads seeds, uniform values, the tape and its own; the forward kernels make the tape."""
    for name in ACTIVATIONS:
        d = differentiate(dense_net([3, 5, 4, 2], name), 3)
        parts, program = d.parts, d.program
        seeds = set(program.inputs[d.n_in :])
        for v in parts.reverse:
            if v in program.producer:
                known = parts.reverse | parts.uniform | set(parts.tape) | seeds
                assert set(program.producer[v].inputs) <= known, name
        assert set(parts.tape) <= parts.forward | set(program.inputs)
        assert not parts.reverse & set(parts.tape)


def test_split_without_seeds_dependence() -> None:
    program, v = chain()
    parts = split(program, [], [], [v["a"]], [])
    assert parts.tape == () and v["a"] in parts.forward and v["s"] not in parts.forward


# fusion -------------------------------------------------------------------------------------------------------------


def steps_of(f: ca.Function) -> list[Fused | Single]:
    """Schedule of a whole function."""
    program = simplify(read(f))
    views = find_views(program, program.outputs)
    compute = {i.output for i in program.instructions if i.op != "const" and i.output not in views.owner}
    steps = schedule(program, views, compute)
    done = set(program.inputs) | {i.output for i in program.instructions if i.op == "const"}
    for step in steps:  # every value is defined before it is used
        for v in step.values if isinstance(step, Fused) else (step.value,):
            bases = {views.resolve(i, program.sizes[i])[0] for i in program.producer[v].inputs}
            assert bases <= done
            done.add(v)
    assert compute <= done
    return steps  # type: ignore[return-value]


def test_elementwise_chain_is_one_loop() -> None:
    x, y = ca.MX.sym("x", 9), ca.MX.sym("y", 9)
    (loop,) = steps_of(ca.Function("f", [x, y], [ca.tanh(x * y + 1) / (1 + x**2)]))
    assert isinstance(loop, Fused) and loop.length == 9


def test_lengths_are_separate_loops() -> None:
    x, y = ca.MX.sym("x", 9), ca.MX.sym("y", 4)
    steps = steps_of(ca.Function("f", [x, y], [ca.sin(x) * 2, ca.cos(y) * 3]))
    assert sorted(s.length for s in steps if isinstance(s, Fused)) == [4, 9]


def test_network_has_one_loop_per_layer() -> None:
    steps = steps_of(dense_net([4, 6, 6, 3], "selu"))
    products = [k for k, s in enumerate(steps) if isinstance(s, Single)]
    loops = [s for s in steps if isinstance(s, Fused)]
    assert len(loops) <= 3 and len(products) <= 4


def test_read_through_a_shift_is_not_fused() -> None:
    """x[i + 1] of a value made in the same loop is not there yet when entry i is computed."""
    x = ca.MX.sym("x", 6)
    y = ca.sin(x)
    shifted = y[[1, 2, 3, 4, 5]] * 2
    steps = steps_of(ca.Function("f", [x], [shifted, ca.vertcat(y[1:], y[0]) + y]))
    assert sum(isinstance(s, Fused) for s in steps) >= 2
    check_kernels(function("shift", lambda x, p: ca.sin(x) * p + ca.vertcat(ca.sin(x)[1:], ca.sin(x)[0]), [6], 6))


# views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "want"),
    [
        ([2, 3, 4], (2, 1)),
        ([5, 3, 1], (5, -2)),
        ([4], (4, 1)),
        ([], (0, 1)),
        ([3, 3, 3], (3, 0)),
        ([0, 2, 3], None),
        ([1, 0, -1], None),
        ([-1], None),
    ],
)
def test_progression(index: list[int], want: tuple[int, int] | None) -> None:
    assert progression(np.array(index, dtype=np.int64)) == want


def test_strided() -> None:
    grid = np.arange(12)
    assert strided(grid, 3, 4) == (0, 1, 3)
    assert strided(grid.reshape(4, 3).T.ravel(), 4, 3) == (0, 3, 1)
    assert strided(grid[[0, 1, 3, 4]], 2, 2) == (0, 1, 3)
    assert strided(grid[[0, 1, 3, 5]], 2, 2) is None
    assert strided(np.array([-1, -1]), 2, 1) is None
    assert strided(np.array([7]), 1, 1) == (7, 1, 1)


def copies(program: Program, views: Views) -> int:
    """Gathers that have to be carried out."""
    return sum(i.op == "gather" and i.output not in views.owner for i in program.instructions)


def test_weights_are_views_and_scattered_entries_copies() -> None:
    net = simplify(read(dense_net([3, 5, 2], "tanh")))
    views = find_views(net, net.outputs)
    assert copies(net, views) == 0, "a weight matrix would be copied"
    odd = simplify(read(function("odd", lambda x, p: ca.sin(x[[0, 3, 1]]) + p, [4], 3)))
    assert copies(odd, find_views(odd, odd.outputs)) == 1


# pieces of the parameter gradient -----------------------------------------------------------------------------------


def test_weight_gradients_are_outer_products_in_place() -> None:
    """Two matrices and two bias vectors: each parameter is reached once, products stay factors."""
    sizes = [3, 5, 2]
    d = differentiate(dense_net(sizes, "tanh"), 3)
    products = [p for p in d.pieces if isinstance(p, Outer)]
    sums = [p for p in d.pieces if isinstance(p, Leaf)]
    assert sorted(p.left[1].size * p.right[1].size for p in products) == [10, 15]
    assert sorted(p.destination.size for p in sums) == [2, 5]
    reached = np.concatenate([p.destination.ravel() for p in d.pieces])
    assert sorted(reached) == list(range(3 * 5 + 5 + 5 * 2 + 2))


def test_pieces_of_a_product_of_matrices() -> None:
    b = ProgramBuilder()
    a, x, zero = b.value(6), b.value(8), b.const(np.zeros(12))
    y = b.emit("mtimes", [zero, a, x], 12, (3, 2, 4))
    program = b.build("p", [a, x], [y], ["a", "x"], ["y"])
    pieces = find_pieces(program, y, frozenset({a, x, y}))
    assert [p.shape for p in pieces if isinstance(p, Outer)] == [(3, 4), (3, 4)]
    assert find_pieces(program, zero, frozenset({a, x, y})) == []


def test_pieces_follow_scatter_and_concat() -> None:
    b = ProgramBuilder()
    u, v = b.value(2), b.value(3)
    base = b.const(np.zeros(5))
    put = b.emit("scatter", [base, u], 5, (np.array([4, 1]), False))
    added = b.emit("scatter", [put, v], 5, (np.array([0, 1, 2]), True))
    both = b.emit("concat", [added, u], 7)
    program = b.build("p", [u, v], [both], ["u", "v"], ["y"])
    pieces = find_pieces(program, both, frozenset({u, v, put, added, both}))
    leaves = sorted((p.value, p.destination.tolist()) for p in pieces if isinstance(p, Leaf))
    assert leaves == [(u, [4, 1]), (u, [5, 6]), (v, [0, 1, 2])]


# simplification -----------------------------------------------------------------------------------------------------


def simplified(expression: ca.MX, *symbols: ca.MX) -> list[str]:
    """Operations that are left."""
    return ops(simplify(read(ca.Function("f", list(symbols), [expression]))))


def test_simplification() -> None:
    x, y = ca.MX.sym("x", 6), ca.MX.sym("y", 6)
    assert simplified(x[1:5][::2][::-1], x) == ["gather"]
    assert simplified(ca.vertcat(x, y)[6:], x, y) == []
    assert simplified(ca.vertcat(x[:2], x[2:]), x) == []
    assert simplified(ca.vertcat(x, y)[[7, 9]], x, y) == ["gather"]
    assert "mul" not in simplified(x * ca.MX.ones(6), x)
    assert simplified(x + ca.MX.zeros(6), x) == []
    assert sorted(simplified(x / 4, x)) == ["const", "mul"]
    assert "div" in simplified(x / 3, x)
    assert simplified(x**2, x) == ["sq"]
    assert simplified(ca.sin(ca.MX(2.0)) * ca.MX.ones(2), x) == ["const"]
    constants = [
        i.attr for i in simplify(read(ca.Function("f", [x], [x * ca.DM([3] * 6)]))).instructions if i.op == "const"
    ]
    assert [c.tolist() for c in constants] == [[3.0]], "a repeated number is one number"


@pytest.mark.parametrize("value", [0.0, -0.0, np.inf, np.nan, 3.5])
def test_constants_are_folded_exactly(value: float) -> None:
    x = ca.MX.sym("x", 1)
    program = simplify(read(ca.Function("f", [x], [ca.MX(ca.DM(value)) * 2 - 1])))
    assert set(ops(program)) == {"const"}
    np.testing.assert_array_equal(program.producer[program.outputs[0]].attr, [value * 2 - 1])


def test_exp_of_a_derivative_follows_from_expm1() -> None:
    """selu needs one transcendental per unit in both sweeps together."""
    d = differentiate(dense_net([3, 5, 2], "selu"), 3)
    assert ops(d.program).count("expm1") == 1 and "exp" not in ops(d.program)
