"""Compiled NLP functions against CasADi's own derivatives of the whole program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi import SolverError, UnsupportedOperation
from ctrlode_casadi.lowering.kernels import simd_width
from ctrlode_casadi.ocp.compiled import local as compiled_local, nlp as compiled
from ctrlode_casadi.ocp.compiled.nlp import CompiledNLP, oracle
from ctrlode_casadi.ocp.groups import NLP, OBJECTIVE, Group

W = simd_width("float64")


def program(n_w: int, n_g: int, groups: Sequence[Group], n_q: int = 0, scaled: bool = True) -> NLP:
    """A program without bounds, with scales that differ from one."""
    rng = np.random.default_rng(5)
    scales = [rng.uniform(0.5, 2.0, n) if scaled else np.ones(n) for n in (n_w, n_g, 1)]
    return NLP(
        n_w=n_w,
        n_g=n_g,
        n_q=n_q,
        groups=tuple(groups),
        lbw=np.full(n_w, -np.inf),
        ubw=np.full(n_w, np.inf),
        lbg=np.zeros(n_g),
        ubg=np.zeros(n_g),
        w0=np.zeros(n_w),
        q=np.zeros(n_q),
        scale_w=scales[0],
        scale_g=scales[1],
        scale_f=float(scales[2][0]),
        describe_variable=lambda i: f"w[{i}]",
        describe_row=lambda i: f"g[{i}]",
    )


def reference(nlp: NLP) -> ca.Function:
    """(x, q, lam_f, lam_g) -> f, g, grad f, jac g, Hessian: the elements written out one by one, and CasADi's AD."""
    x, q = ca.MX.sym("x", nlp.n_w), ca.MX.sym("q", nlp.n_q)
    w = x * ca.DM(nlp.scale_w)
    lam_f, lam_g = ca.MX.sym("lam_f"), ca.MX.sym("lam_g", nlp.n_g)
    f, g = ca.MX(0.0), [ca.MX(0.0) for _ in range(nlp.n_g)]
    for group in nlp.groups:
        for places, constants, targets in zip(group.variables, group.constants, group.targets, strict=True):
            r = ca.vec(group.function(w[places.tolist()], ca.DM(constants), q))
            for k, row in enumerate(targets):
                if row == OBJECTIVE:
                    f += r[k]
                else:
                    g[row] += r[k]
    f = nlp.scale_f * f
    gs = ca.vertcat(*g) * ca.DM(nlp.scale_g) if nlp.n_g else ca.MX(0, 1)
    hess = ca.hessian(lam_f * f + ca.dot(lam_g, gs), x)[0]
    parts = [f, gs, ca.gradient(f, x), ca.jacobian(gs, x), hess]
    return ca.Function("reference", [x, q, lam_f, lam_g], [ca.densify(p) for p in parts])


def agree(nlp: NLP, seed: int = 0, tolerance: float = 1e-12, **options: Any) -> CompiledNLP:
    """All five functions at two points and two parameter vectors."""
    made, ref = CompiledNLP(nlp, **options), reference(nlp)
    rng = np.random.default_rng(seed)
    for q in rng.normal(size=(2, nlp.n_q)):
        for w in rng.normal(size=(2, nlp.n_w)):
            lam_f, lam_g = float(rng.normal()), rng.normal(size=nlp.n_g)
            f, g, grad, jac, hess = (np.array(a) for a in ref(w, q, lam_f, lam_g))
            jac_sp, hess_sp = made.jacobian_sparsity, made.hessian_sparsity
            out = [np.full(n, np.nan) for n in (1, nlp.n_g, nlp.n_w, jac_sp.nnz(), hess_sp.nnz())]
            made.objective(w, q, out[0])
            made.constraints(w, q, out[1])
            made.gradient(w, q, out[2])
            made.jacobian(w, q, out[3])
            made.hessian(w, q, lam_f, lam_g, out[4])
            got = [*out[:3], np.array(ca.DM(jac_sp, out[3])), np.array(ca.DM(hess_sp, out[4]))]
            for ours, theirs in zip(got, (f, g, grad, jac, np.triu(hess)), strict=True):
                theirs = theirs.reshape(ours.shape)
                scale = max(1.0, float(np.abs(theirs).max(initial=0.0)))
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)
    return made


def network(width: int, n_in: int, n_out: int) -> tuple[ca.Function, int]:
    """(z, p) -> y with one hidden tanh layer, and the number of its weights."""
    sizes = [(width, n_in), (width, 1), (n_out, width)]
    n = sum(a * b for a, b in sizes)
    z, p = ca.MX.sym("z", n_in), ca.MX.sym("p", n)
    blocks, first = [], 0
    for a, b in sizes:
        blocks.append(ca.reshape(p[first : first + a * b], a, b))
        first += a * b
    y = blocks[2] @ ca.tanh(blocks[0] @ z + blocks[1])
    return ca.Function("net", [z, p], [y]), n


def shooting(n: int, nx: int = 3, nu: int = 1, width: int = 7) -> NLP:
    """Multiple shooting of a network with one RK4 step per interval and a cost on nodes."""
    net, n_q = network(width, nx + nu, nx)
    v, s, q = ca.MX.sym("v", 2 * nx + nu), ca.MX.sym("s", 1), ca.MX.sym("q", n_q)
    x, u, following = v[:nx], v[nx : nx + nu], v[nx + nu :]
    k1 = net(ca.vertcat(x, u), q)
    k2 = net(ca.vertcat(x + 0.5 * s * k1, u), q)
    defect = ca.Function("defect", [v, s, q], [ca.vertcat(x + s * k2 - following, ca.sumsqr(x) * s + u[0] ** 2)])
    nodes = (nx + nu) * np.arange(n)[:, None]
    variables = nodes + np.arange(2 * nx + nu)
    rows = np.hstack([nx * np.arange(n)[:, None] + np.arange(nx), np.full((n, 1), OBJECTIVE)])
    constants = np.random.default_rng(3).uniform(0.1, 0.3, (n, 1))
    return program((nx + nu) * n + nx, nx * n, [Group("interval", defect, variables, constants, rows)], n_q)


@pytest.mark.parametrize("n", [1, 2, 3, W - 1, W, W + 1, 3 * W + 5])
def test_shooting_of_a_network(n: int) -> None:
    made = agree(shooting(n))
    assert made.jacobian_sparsity.nnz() == n * 15  # 3 x 4, and the identity of the next node
    assert made.hessian_sparsity.nnz() == n * 10


def random_group(rng: np.random.Generator, n: int, n_w: int, n_g: int, n_q: int, shared: int) -> Group:
    """Elements of random variables that add to random rows."""
    n_local, n_s, m = int(rng.integers(2, 7)), int(rng.integers(0, 3)), int(rng.integers(1, 5))
    v, s, q = ca.SX.sym("v", n_local), ca.SX.sym("s", n_s), ca.SX.sym("q", n_q)
    pool = [*ca.vertsplit(v), *ca.vertsplit(s), *ca.vertsplit(q)]
    r = []
    for _ in range(m):
        a, b, c = (pool[i] for i in rng.integers(0, len(pool), 3))
        term = [a * ca.sin(b) + c, a**2 * b, ca.exp(0.3 * a) - b * c, a + 2 * b, ca.tanh(a * b + c)]
        r.append(term[int(rng.integers(5))] + v[int(rng.integers(n_local))] ** 2)
    f = ca.Function("f", [v, s, q], [ca.vertcat(*r)])
    variables = np.array([rng.permutation(n_w)[:n_local] for _ in range(n)]).reshape(n, n_local)
    variables[:, :shared] = np.arange(min(shared, n_local))
    variables[:, shared:] = np.array([shared + rng.permutation(n_w - shared)[: n_local - shared] for _ in range(n)])
    rows = rng.integers(-1, n_g, (n, m))
    return Group("random", f, variables, rng.normal(size=(n, n_s)), rows)


@pytest.mark.parametrize("seed", range(6))
def test_random_groups_with_shared_variables_and_rows(seed: int) -> None:
    """Several groups add to the same rows; elements share variables."""
    rng = np.random.default_rng(seed)
    sizes = [1, 2, W + 1, int(rng.integers(1, 3 * W))]
    groups = [random_group(rng, n, 12, 9, 2, int(rng.integers(0, 3))) for n in sizes]
    agree(program(12, 9, groups, 2), seed)


def test_one_variable_twice_in_an_element() -> None:
    """Both local variables are the same one: the off-diagonal of the element counts twice on the diagonal."""
    v = ca.SX.sym("v", 2)
    f = ca.Function("f", [v, ca.SX.sym("s", 0), ca.SX.sym("q", 0)], [v[0] ** 2 * v[1] + ca.sin(v[1])])
    variables = np.array([[0, 0], [0, 1], [2, 1], [2, 2]])
    group = Group("twice", f, variables, np.zeros((4, 0)), np.array([[0], [OBJECTIVE], [0], [OBJECTIVE]]))
    agree(program(3, 1, [group]))


def test_empty_parts() -> None:
    """No elements, no results, no constraints, a variable that nothing depends on, a row without contributions."""
    v, none = ca.MX.sym("v", 2), ca.MX.sym("none", 0)
    objective = ca.Function("f", [v, none, none], [v[0] ** 4 + v[0]])
    nothing = ca.Function("nothing", [v, none, none], [ca.MX(0, 1)])
    constant = ca.Function("constant", [v, none, none], [ca.MX(3.0)])
    few, zero = np.array([[0, 2], [1, 2]]), np.zeros((0, 2), np.int64)
    groups = [
        Group("objective", objective, few, np.zeros((2, 0)), None),
        Group("no elements", objective, zero, np.zeros((0, 0)), None),
        Group("no results", nothing, few, np.zeros((2, 0)), np.zeros((2, 0), np.int64)),
    ]
    agree(program(4, 0, groups))
    agree(program(4, 3, [*groups, Group("constant", constant, few, np.zeros((2, 0)), np.array([[1], [1]]))]))
    agree(program(4, 0, []))


def test_rows_of_the_objective_none_means_all() -> None:
    v, none = ca.MX.sym("v", 2), ca.MX.sym("none", 0)
    f = ca.Function("f", [v, none, none], [ca.vertcat(v[0] ** 2, v[0] * v[1] ** 3)])
    agree(program(3, 0, [Group("objective", f, np.array([[0, 1], [1, 2], [2, 0]]), np.zeros((3, 0)), None)]))


@pytest.mark.parametrize("n", [2, 5, W + 1])
def test_free_parameters_are_evaluated_by_directions(n: int) -> None:
    """A network's weights as variables: more colours than a long function takes."""
    nx, width = 2, 5
    net, n_p = network(width, nx, nx)
    assert n_p > compiled_local.MOST_COLOURS
    v, s, q = ca.MX.sym("v", 2 * nx + n_p), ca.MX.sym("s", 1), ca.MX.sym("q", 0)
    x, following, p = v[:nx], v[nx : 2 * nx], v[2 * nx :]
    defect = ca.Function("defect", [v, s, q], [x + s * net(x, p) - following])
    shared = np.broadcast_to(nx * (n + 1) + np.arange(n_p), (n, n_p))
    variables = np.hstack([nx * np.arange(n)[:, None] + np.arange(2 * nx), shared])
    rows = nx * np.arange(n)[:, None] + np.arange(nx)
    group = Group("interval", defect, variables, np.full((n, 1), 0.2), rows)
    agree(program(nx * (n + 1) + n_p, nx * n, [group]))


def test_too_many_second_derivatives_are_left_to_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = shooting(3)
    monkeypatch.setattr(compiled, "MOST_SECOND_DERIVATIVES", 29)
    assert not CompiledNLP(nlp).second
    assert CompiledNLP(nlp, "exact").second
    made = oracle(nlp)
    assert made.options["ipopt.hessian_approximation"] == "limited-memory"
    with pytest.raises(RuntimeError, match="no second derivatives"):
        made.hessian(np.zeros(nlp.n_w), np.zeros(nlp.n_q), 1.0, np.zeros(nlp.n_g))
    with pytest.raises(SolverError, match="limited-memory"):
        oracle(nlp, hessian="none")


def test_wide_jacobians_by_rows_and_by_columns() -> None:
    """Dense local Jacobians with more rows and columns than there are colours for one function."""
    rng = np.random.default_rng(1)
    for m, n_local in ((20, 40), (40, 20)):
        v, none = ca.MX.sym("v", n_local), ca.MX.sym("none", 0)
        f = ca.Function("f", [v, none, none], [ca.DM(rng.normal(size=(m, n_local))) @ ca.tanh(v) + ca.sumsqr(v)])
        variables = np.array([rng.permutation(50)[:n_local] for _ in range(3)])
        rows = np.arange(3 * m).reshape(3, m)
        agree(program(50, 3 * m, [Group("wide", f, variables, np.zeros((3, 0)), rows)]))


def test_results_do_not_depend_on_threads() -> None:
    nlp = shooting(400, width=32)
    rng = np.random.default_rng(0)
    w, q, lam = rng.normal(size=nlp.n_w), rng.normal(size=nlp.n_q), rng.normal(size=nlp.n_g)
    found = []
    for threads in (1, 2, 3):
        made = CompiledNLP(nlp, threads=threads)
        out = np.empty(made.hessian_sparsity.nnz())
        for k in range(6):  # the first calls are timed in one thread
            made.hessian(w + k, q, 1.0, lam, out)
        found.append(out)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_inputs_are_not_changed_and_points_are_told_apart() -> None:
    """The results of one point are not given for another, also when an array is changed in place."""
    nlp = shooting(3)
    made, ref = CompiledNLP(nlp), reference(nlp)
    rng = np.random.default_rng(2)
    w, q = rng.normal(size=nlp.n_w), rng.normal(size=nlp.n_q)
    out = np.empty(nlp.n_g)
    for change in (w, q, w):
        kept = w.copy(), q.copy()
        made.constraints(w, q, out)
        assert np.array_equal(w, kept[0])
        assert np.array_equal(q, kept[1])
        np.testing.assert_allclose(out, np.array(ref(w, q, 0, 0)[1]).ravel(), rtol=0, atol=1e-13)
        change[2] += 0.5


def test_nan_passes_through() -> None:
    nlp = shooting(3)
    made = CompiledNLP(nlp)
    w, q = np.zeros(nlp.n_w), np.zeros(nlp.n_q)
    w[0] = np.nan
    out = np.zeros(nlp.n_g)
    made.constraints(w, q, out)
    assert np.isnan(out[0])
    made.constraints(np.zeros(nlp.n_w), q, out)
    assert np.isfinite(out).all()


def test_unsupported_operations_are_named() -> None:
    v, none = ca.MX.sym("v", 2), ca.MX.sym("none", 0)
    table = ca.interpolant("table", "linear", [[0.0, 1.0, 2.0]], [0.0, 1.0, 4.0])
    f = ca.Function("f", [v, none, none], [table(v[0]) + v[1]])
    nlp = program(2, 0, [Group("objective", f, np.array([[0, 1]]), np.zeros((1, 0)), None)])
    with pytest.raises(UnsupportedOperation, match="backend='casadi'"):
        oracle(nlp)
    with pytest.raises(UnsupportedOperation, match="fatrop"):
        oracle(shooting(2), plugin="fatrop")
