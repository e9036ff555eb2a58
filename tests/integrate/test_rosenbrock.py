"""Rosenbrock methods: order conditions, measured order, and the exact discrete adjoint."""

from __future__ import annotations

import itertools

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.base.errors import SolverError, UnsupportedOperation
from ctrlode_casadi.base.status import Status
from ctrlode_casadi.integrate.rosenbrock.tableaus import rodas4, rodas5p
from ctrlode_casadi.lowering.kernels import simd_width
from integrate.problems import P, blow_up, oscillator, oscillator_rhs, reference

METHODS = [co.Rodas4, co.Rodas5P]
KNOTS = np.array([0.0, 0.7, 1.1, 2.0, 3.0])
W = simd_width("float64")


# --- the coefficients ----------------------------------------------------------------------------------------------


def trees(order: int) -> list[tuple]:
    """Rooted trees with so many vertices, each as the sorted tuple of its subtrees."""
    if order == 1:
        return [()]
    found = set()
    for parts in partitions(order - 1):
        for choice in itertools.product(*(trees(n) for n in parts)):
            found.add(tuple(sorted(choice)))
    return sorted(found)


def partitions(n: int, largest: int | None = None) -> list[list[int]]:
    """Ways to write n as a sum of positive integers that do not increase."""
    if n == 0:
        return [[]]
    top = min(n, largest or n)
    return [[k, *rest] for k in range(top, 0, -1) for rest in partitions(n - k, k)]


def vertices(tree: tuple) -> int:
    return 1 + sum(vertices(t) for t in tree)


def density(tree: tuple) -> int:
    return vertices(tree) * int(np.prod([density(t) for t in tree], initial=1))


def classical(tableau):
    """alpha, beta = alpha + Gamma, and Gamma with b = m Gamma, from the transformed coefficients (H&W II, IV.7.24)."""
    gamma = np.linalg.inv(np.eye(tableau.stages) / tableau.gamma - tableau.C)
    alpha = tableau.A @ gamma
    return alpha, alpha + gamma, gamma


def elementary(tree, alpha, beta):
    """Weights of a tree (H&W II, IV.7, theorem 7.4): beta below vertices with one branch, alpha below the others."""
    matrix = beta if len(tree) == 1 else alpha
    return np.prod([matrix @ elementary(t, alpha, beta) for t in tree], axis=0, initial=1.0) * np.ones(len(alpha))


@pytest.mark.parametrize("tableau", [rodas4(), rodas5p()], ids=lambda t: t.name)
def test_order_conditions(tableau):
    alpha, beta, gamma = classical(tableau)
    np.testing.assert_allclose(alpha.sum(axis=1), tableau.c, atol=3e-14)
    np.testing.assert_allclose(gamma.sum(axis=1), tableau.gammas, atol=3e-14)
    b, embedded = tableau.b @ gamma, (tableau.b - tableau.e[0]) @ gamma
    for order in range(1, tableau.order + 1):
        gaps = [abs(b @ elementary(t, alpha, beta) - 1 / density(t)) for t in trees(order)]
        small = [abs(embedded @ elementary(t, alpha, beta) - 1 / density(t)) for t in trees(order)]
        assert max(gaps) < 1e-13
        assert max(small) < 1e-13 if order < tableau.order else max(small) > 1e-3
    assert max(abs(b @ elementary(t, alpha, beta) - 1 / density(t)) for t in trees(tableau.order + 1)) > 1e-4
    assert tableau.error_order == tableau.order - 1


@pytest.mark.parametrize("tableau", [rodas4(), rodas5p()], ids=lambda t: t.name)
@pytest.mark.parametrize("theta", [0.1, 0.5, 0.83, 1.0])
def test_dense_output_has_one_order_less(tableau, theta):
    alpha, beta, gamma = classical(tableau)
    weights = (tableau.P @ theta ** np.arange(1, tableau.P.shape[1] + 1)) @ gamma
    for order in range(1, tableau.order):
        for t in trees(order):
            assert weights @ elementary(t, alpha, beta) == pytest.approx(theta**order / density(t), abs=1e-13)


@pytest.mark.parametrize("tableau", [rodas4(), rodas5p()], ids=lambda t: t.name)
def test_stability(tableau):
    """A-stable on the imaginary axis, and the value at infinity is zero, also for the embedded method."""
    _, beta, gamma = classical(tableau)
    ones = np.ones(tableau.stages)
    for weights in (tableau.b, tableau.b - tableau.e[0]):
        b = weights @ gamma

        def damping(z, b=b):
            return abs(1 + z * b @ np.linalg.solve(np.eye(tableau.stages) - z * beta, ones))

        assert damping(-1e9) < 1e-6
    assert max(damping(1j * y, tableau.b @ gamma) for y in np.geomspace(1e-3, 1e5, 400)) < 1 + 1e-12


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [co.PiecewiseConstant, co.CubicSpline])
def test_measured_order(method, kind, rng):
    control, x0 = kind(KNOTS, rng.standard_normal((1, 5, 1))), rng.standard_normal(2)
    truth = reference(control, P, x0, np.array([0.0, 3.0]), KNOTS)[-1]
    counts = np.array([6, 12, 24])
    errors = [
        np.abs(
            co.Simulator(oscillator(), method(steps_per_interval=int(n)))(x0, control, P, [0.0, 3.0]).x[0, -1] - truth
        )
        for n in counts
    ]
    slope = -np.polyfit(np.log(counts), np.log(np.max(errors, axis=1)), 1)[0]
    assert method().order - 0.3 < slope < method().order + 0.8


@pytest.mark.parametrize("method", METHODS)
def test_dense_output_between_large_steps(method, rng):
    control, x0, ts = co.PiecewiseLinear([0.0, 3.0], [0.3, -0.4]), rng.standard_normal(2), np.linspace(0.0, 3.0, 101)
    sim = co.Simulator(oscillator(), method(rtol=1e-6, atol=1e-8))
    sol = sim(x0, control, P, ts)
    assert sol.stats["n_steps"][0] < 60
    np.testing.assert_allclose(sol.x[0], reference(control, P, x0, ts, np.array([0.0, 3.0])), atol=2e-5)


def test_steps_of_other_trajectories_do_not_matter(rng):
    control, ts = co.PiecewiseLinear(KNOTS, rng.standard_normal((2 * W + 1, 5, 1))), np.linspace(0.0, 3.0, 5)
    x0 = rng.standard_normal((2 * W + 1, 2))
    sim = co.Simulator(oscillator(), co.Rodas5P(rtol=1e-6))
    whole = sim(x0, control, P, ts)
    for b in (0, W, 2 * W):
        one = sim(x0[b], control[b], P, ts)
        np.testing.assert_allclose(whole.x[b], one.x[0], rtol=1e-11, atol=1e-12)
        assert whole.stats["n_steps"][b] == one.stats["n_steps"][0]


def test_pivots_are_exchanged():
    """1 / gamma - h J with h = 1 has a zero on the diagonal, so elimination in order would divide by it."""
    gamma = rodas5p().gamma
    matrix = np.array([[1 / gamma, 2.0, 0.3], [1.0, -1.0, 0.7], [0.2, 0.4, -0.5]])
    model = co.ControlledODE(lambda t, x, u, p: ca.mtimes(ca.DM(matrix), x), nx=3)
    for size in (1, W, W + 1):
        x0 = np.tile([1.0, 2.0, -1.0], (size, 1))
        sol = co.Simulator(model, co.Rodas5P(steps_per_interval=1))(x0, None, None, [0.0, 1.0])
        _, beta, change = classical(rodas5p())
        s = beta.shape[0]
        # One step of a linear system is the stability function of its matrix.
        stages = np.linalg.solve(np.eye(3 * s) - np.kron(beta, matrix), np.kron(np.ones(s), x0[0]))
        wanted = x0[0] + matrix @ ((rodas5p().b @ change) @ stages.reshape(s, 3))
        np.testing.assert_allclose(sol.x[:, -1], np.tile(wanted, (size, 1)), rtol=1e-10)


# --- derivatives ---------------------------------------------------------------------------------------------------


def plain_rosenbrock(tab, knots, values, p, x0, ts, n):
    """Fixed steps with linear interpolation and the exact Jacobian, in whatever arithmetic the inputs have."""
    points = np.unique(np.concatenate([ts, knots]))
    x, out = np.asarray(x0) + 0 * p[0] + 0 * values[0], []
    out.append(x)
    for left, right in itertools.pairwise(points):
        j = np.searchsorted(knots, 0.5 * (left + right)) - 1
        slope = (values[j + 1] - values[j]) / (knots[j + 1] - knots[j])
        h = (right - left) / n
        for i in range(n):
            t, k = left + i * h, []
            jacobian = np.array([[0.0, 1.0], [-p[0] * np.cos(x[0]), -p[1]]])
            rate = np.array([0.0, -0.1 * np.sin(t) + p[2] * slope])
            matrix = np.eye(2) / tab.gamma - h * jacobian
            for a, c_row, c, g in zip(tab.A, tab.C, tab.c, tab.gammas, strict=True):
                state = x + h * sum((w * s for w, s in zip(a, k, strict=False)), start=0 * x)
                f = oscillator_rhs(t + c * h, state, values[j] + slope * (t + c * h - knots[j]), p)
                f = f + sum((w * s for w, s in zip(c_row, k, strict=False)), start=0 * x) + g * h * rate
                k.append(np.linalg.solve(matrix, f))
            x = x + h * sum(w * s for w, s in zip(tab.b, k, strict=True))
        if right in ts:
            out.append(x)
    return np.array(out)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_fixed_steps_against_complex_steps(method, size, rng):
    ts, x0 = np.array([0.0, 0.5, 1.1, 3.0]), rng.standard_normal((size, 2))
    values, seeds = rng.standard_normal((size, 5)), rng.standard_normal((size, 4, 2))
    solver = method(steps_per_interval=2)
    sim, control = co.Simulator(oscillator(), solver), co.PiecewiseLinear(KNOTS, values[:, :, None])

    def functional(p, x0, values, b):
        return np.sum(seeds[b] * plain_rosenbrock(solver.tableau, KNOTS, values, p, x0, ts, 2))

    b = size - 1
    sol = sim(x0, control, P, ts)
    assert np.sum(seeds[b] * sol.x[b]) == pytest.approx(functional(P, x0[b], values[b], b), rel=1e-11)
    alone = np.zeros_like(seeds)
    alone[b] = seeds[b]
    found = sim.vjp(x0, control, P, ts, alone)
    assert not np.any(found[1][:b]) and not np.any(found[2][:b])
    parts, where = (found[0], found[1][b], found[2][b, :, 0]), [P, x0[b], values[b]]
    for i, point in enumerate(where):
        for j in range(point.size):
            moved = [v.astype(complex) for v in where]
            moved[i][j] += 1e-30j
            assert parts[i][j] == pytest.approx(functional(*moved, b).imag / 1e-30, rel=1e-9, abs=1e-12)


def agreement(sim, x0, control, p, ts, rng):
    """Relative gap in <seeds, J d> = <J^T seeds, d> for random seeds and directions."""
    seeds = rng.standard_normal((x0.shape[0], len(ts), x0.shape[1]))
    dp, dx0, du = rng.standard_normal(p.shape), rng.standard_normal(x0.shape), rng.standard_normal(control.values.shape)
    dx = sim.jvp(x0, control, p, ts, dp, dx0, du)
    p_bar, x0_bar, u_bar = sim.vjp(x0, control, p, ts, seeds)
    left, right = np.sum(seeds * dx), p_bar @ dp + np.sum(x0_bar * dx0) + np.sum(u_bar * du)
    return abs(left - right) / (np.abs(seeds * dx).sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [co.PiecewiseConstant, co.PiecewiseLinear, co.CubicSpline, co.Pchip])
@pytest.mark.parametrize("size", [1, W - 1, W, W + 1])
def test_adaptive_adjoint_is_the_transpose_of_the_tangent(method, kind, size, rng):
    control = kind(KNOTS, rng.standard_normal((size, 5, 1)))
    x0, ts = rng.standard_normal((size, 2)), np.sort(rng.uniform(0, 3, 17))
    assert agreement(co.Simulator(oscillator(), method(rtol=1e-4, atol=1e-5)), x0, control, P, ts, rng) < 1e-11


def test_own_knots_and_save_times(rng):
    own = co.PiecewiseLinear(np.sort(rng.uniform(0, 3, (10, 6)), axis=1), rng.standard_normal((10, 6, 1)), "hold")
    shared = co.PiecewiseConstant(KNOTS, rng.standard_normal((1, 5, 1)))
    x0, sim = rng.standard_normal((10, 2)), co.Simulator(oscillator(), co.Rodas5P(rtol=1e-5))
    ts = np.linspace(0.0, 3.0, 7)
    assert agreement(sim, x0, own, P, ts, rng) < 1e-11
    assert agreement(sim, x0, shared, P, ts, rng) < 1e-11
    ragged = [ts[: 3 + b % 4] for b in range(10)]
    sol = sim(x0, shared, P, ragged)
    for b in (0, 3, 9):
        np.testing.assert_allclose(sol[b].x[0], sim(x0[b], shared, P, ragged[b]).x[0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("solver", [co.Rodas5P(steps_per_interval=3), co.Rodas5P(rtol=1e-7), co.Rodas4(rtol=1e-5)])
@pytest.mark.parametrize("sensitivity", [co.Adjoint(checkpoints=1), co.Adjoint(checkpoints=3), co.Forward()])
def test_every_way_to_the_gradient(solver, sensitivity, rng):
    control, ts = co.PiecewiseLinear(KNOTS, rng.standard_normal((9, 5, 1))), np.linspace(0.0, 3.0, 11)
    x0, seeds = rng.standard_normal((9, 2)), rng.standard_normal((9, 11, 2))
    kept = co.Simulator(oscillator(), solver, co.Adjoint()).vjp(x0, control, P, ts, seeds)
    other = co.Simulator(oscillator(), solver, sensitivity).vjp(x0, control, P, ts, seeds)
    for a, b in zip(kept, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_threads_change_no_bit(rng):
    control, ts = co.PiecewiseLinear(KNOTS, rng.standard_normal((70, 5, 1))), np.linspace(0.0, 3.0, 5)
    x0, seeds = rng.standard_normal((70, 2)), rng.standard_normal((70, 5, 2))
    one, two = (
        co.Simulator(oscillator(), co.Rodas5P(), "adjoint", threads=n).vjp(x0, control, P, ts, seeds) for n in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a, b)


def test_a_right_hand_side_that_does_not_depend_on_the_state(rng):
    """x' = p0 u + p1 t: the Jacobian has no entries at all, the gradient is exact."""
    model = co.ControlledODE(lambda t, x, u, p: p[0] * u[0] + p[1] * t, nx=1, nu=1, params=2)
    control = co.PiecewiseLinear([0.0, 1.0, 2.0], [0.0, 1.0, -1.0])
    for solver in (co.Rodas5P(), co.Rodas4(steps_per_interval=1)):
        p_bar, x0_bar, u_bar = co.Simulator(model, solver).vjp([0.5], control, [2.0, 3.0], [0.0, 2.0], [[0.0], [1.0]])
        np.testing.assert_allclose(p_bar, [0.5, 2.0], rtol=1e-12)
        np.testing.assert_allclose(x0_bar, [1.0], rtol=1e-13)
        np.testing.assert_allclose(u_bar.ravel(), [1.0, 2.0, 1.0], rtol=1e-12)


# --- settings and failures -----------------------------------------------------------------------------------------


def test_settings():
    assert co.Rodas5P().adaptive and not co.Rodas5P(dt=0.1).adaptive
    assert co.Rodas4().order == 4 and co.Rodas5P.integrates_dae
    with pytest.raises(SolverError, match=r"Rodas5P\(rtol=...\)"):
        co.Rodas5P(rtol=-1.0)
    with pytest.raises(SolverError, match="not both"):
        co.Rodas4(dt=0.1, steps_per_interval=2)


def test_the_casadi_path_is_refused(monkeypatch):
    with pytest.raises(UnsupportedOperation, match=r"compiled form only.*CVODES"):
        co.Simulator(oscillator(), co.Rodas5P(), backend="casadi")
    from ctrlode_casadi.lowering import kernels

    def refuse(*args, **kwargs):
        raise UnsupportedOperation("no lowering for OP_TEST")

    monkeypatch.setattr(kernels, "lane_kernels", refuse)
    with pytest.raises(UnsupportedOperation, match=r"OP_TEST.*CVODES"):
        co.Simulator(oscillator(), co.Rodas5P())(np.ones(2), co.Constant(np.zeros((1, 1))), P, [0.0, 1.0])


def test_a_failing_trajectory_does_not_touch_its_neighbours():
    control = co.PiecewiseConstant([0.0, 2.0], np.zeros((W + 1, 2, 1)))
    x0 = np.full((W + 1, 1), 0.1)
    x0[3] = 2.0  # infinite at t = 0.5
    sim = co.Simulator(blow_up(), co.Rodas5P(), "adjoint")
    sol = sim(x0, control, [1.0], [0.0, 0.4, 2.0])
    assert [s == Status.SUCCESS for s in sol.status] == [b != 3 for b in range(W + 1)]
    assert np.isfinite(sol.x[3, 1, 0]) and np.isnan(sol.x[3, 2, 0])
    seeds = np.ones((W + 1, 3, 1))
    with pytest.warns(match="1 of"):
        p_bar, x0_bar, _ = sim.vjp(x0, control, [1.0], [0.0, 0.4, 2.0], seeds)
    # x = x0 / (1 - p x0 t): dx/dx0 = 1 / (1 - p x0 t)^2, dx/dp = x0^2 t / (1 - p x0 t)^2
    times = np.array([0.0, 0.4, 2.0])
    good = np.delete(np.arange(W + 1), 3)
    np.testing.assert_allclose(x0_bar[good, 0], np.sum(1 / (1 - 0.1 * times) ** 2), rtol=1e-6)
    assert x0_bar[3, 0] == 0.0
    assert p_bar[0] == pytest.approx(W * np.sum(0.01 * times / (1 - 0.1 * times) ** 2), rel=1e-6)


def test_step_limit():
    sol = co.Simulator(oscillator(), co.Rodas5P(rtol=1e-10, max_steps=5))(
        np.ones(2), co.Constant(np.zeros((1, 1))), P, [0.0, 30.0]
    )
    assert sol.status == [Status.MAX_STEPS]


def test_a_singular_step_matrix_has_a_status():
    """With J = 1 / (gamma h) at the only step of size h, 1 / gamma - h J is exactly zero."""
    gamma = rodas5p().gamma
    model = co.ControlledODE(lambda t, x, u, p: p[0] * x, nx=1, params=1)
    sol = co.Simulator(model, co.Rodas5P(steps_per_interval=1))([1.0], None, [1.0 / gamma], [0.0, 1.0])
    assert sol.status == [Status.SINGULAR] and np.isnan(sol.x[0, 1, 0])
    adaptive = co.Simulator(model, co.Rodas5P(dt0=1.0, rtol=1e-3))([1.0], None, [1.0 / gamma], [0.0, 1.0])
    assert adaptive.status == [Status.SUCCESS] and adaptive.stats["n_rejected"][0] > 0
    assert adaptive.x[0, 1, 0] == pytest.approx(np.exp(1.0 / gamma), rel=2e-2)
