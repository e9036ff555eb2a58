"""Rodas5P on stiff problems with published solutions, in objectives, as expressions and in single precision."""

from __future__ import annotations

import casadi as ca
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import ctrlode_casadi as co
from integrate.problems import P, oscillator

# Reference solutions: test set for IVP solvers (Mazzia & Magherini, Bari), as printed there. Last: steps at rtol 1e-6.


def robertson(x, k):
    a, b, c = k[0] * x[0], k[1] * x[1] * x[2], k[2] * x[1] ** 2
    return [-a + b, a - b - c, c]


def hires(x, k):
    r = 280 * x[5] * x[7]
    return [
        -1.71 * x[0] + 0.43 * x[1] + 8.32 * x[2] + 0.0007,
        1.71 * x[0] - 8.75 * x[1],
        -10.03 * x[2] + 0.43 * x[3] + 0.035 * x[4],
        8.32 * x[1] + 1.71 * x[2] - 1.12 * x[3],
        -1.745 * x[4] + 0.43 * x[5] + 0.43 * x[6],
        -r + 0.69 * x[3] + 1.71 * x[4] - 0.43 * x[5] + 0.69 * x[6],
        r - 1.81 * x[6],
        -r + 1.81 * x[6],
    ]


def oregonator(x, k):
    return [
        k[0] * (x[1] + x[0] * (1 - k[1] * x[0] - x[1])),
        (x[2] - (1 + x[0]) * x[1]) / k[0],
        k[2] * (x[0] - x[2]),
    ]


def van_der_pol(x, k):
    return [x[1], k[0] * (1 - x[0] ** 2) * x[1] - x[0]]


def pollution(x, k):
    """Verwer (1994): 25 reactions of 20 species; each row of the table is a reaction's rate and its reactants."""
    rates = [
        (0.35, 1), (26.6, 2, 4), (1.23e4, 5, 2), (8.6e-4, 7), (8.2e-4, 7), (1.5e4, 7, 6), (1.3e-4, 9), (2.4e4, 9, 6),
        (1.65e4, 11, 2), (9e3, 11, 1), (0.022, 13), (1.2e4, 10, 2), (1.88, 14), (1.63e4, 1, 6), (4.8e6, 3),
        (3.5e-4, 4), (0.0175, 4), (1e8, 16), (4.44e11, 16), (1.24e3, 17, 6), (2.1, 19), (5.78, 19), (0.0474, 1, 4),
        (1.78e3, 19, 1), (3.12, 20),
    ]  # fmt: skip
    r = [None] + [rate * np.prod([x[i - 1] for i in of]) for rate, *of in rates]
    made = [
        (2, 3, 9, 11, 12, 22, 25, -1, -10, -14, -23, -24), (1, 21, -2, -3, -9, -12), (1, 17, 19, 22, -15),
        (15, -2, -16, -17, -23), (4, 4, 6, 7, 13, 20, -3), (3, 18, 18, -6, -8, -14, -20), (13, -4, -5, -6),
        (4, 5, 6, 7), (-7, -8), (7, 9, -12), (8, 11, -9, -10), (9,), (10, -11), (12, -13), (14,), (16, -18, -19),
        (-20,), (20,), (23, 25, -21, -22, -24), (24, -25),
    ]  # fmt: skip
    return [sum(r[j] if j > 0 else -r[-j] for j in row) for row in made]


POLLUTION_START = np.zeros(20)
POLLUTION_START[[1, 3, 6, 7, 8, 16]] = 0.2, 0.04, 0.1, 0.3, 0.01, 0.007

PROBLEMS = {
    "pollution": (
        pollution, POLLUTION_START, [], 60.0,
        [0.5646255480022769e-01, 0.1342484130422339e+00, 0.4139734331099427e-08, 0.5523140207484359e-02,
         0.2018977262302196e-06, 0.1464541863493966e-06, 0.7784249118997964e-01, 0.3245075353396018e+00,
         0.7494013383880406e-02, 0.1622293157301561e-07, 0.1135863833257075e-07, 0.2230505975721359e-02,
         0.2087162882798630e-03, 0.1396921016840158e-04, 0.8964884856898295e-02, 0.4352846369330103e-17,
         0.6899219696263405e-02, 0.1007803037365946e-03, 0.1772146513969984e-05, 0.5682943292316392e-04], 200,
    ),
    "robertson": (
        robertson, [1.0, 0.0, 0.0], [0.04, 1e4, 3e7], 1e11,
        [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050], 350,
    ),
    "hires": (
        hires, [1.0, 0, 0, 0, 0, 0, 0, 0.0057], [], 321.8122,
        [0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
         0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2], 400,
    ),
    "oregonator": (
        oregonator, [1.0, 2.0, 3.0], [77.27, 8.375e-6, 0.161], 360.0,
        [0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3], 1200,
    ),
    "van der Pol": (
        van_der_pol, [2.0, 0.0], [1000.0], 2000.0, [0.1706167732170469e1, -0.8928097010248125e-3], 1000,
    ),
}  # fmt: skip


def model_of(rhs, x0, k):
    return co.ControlledODE(lambda t, x, u, p: rhs(x, p), nx=len(x0), params=len(k))


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("tolerance", [1e-6, 1e-9])
def test_published_solutions(name, tolerance):
    rhs, x0, k, end, wanted, most = PROBLEMS[name]
    sim = co.Simulator(model_of(rhs, x0, k), co.Rodas5P(rtol=tolerance, atol=1e-8 * tolerance))
    sol = sim(np.array(x0), None, k or None, [0.0, end])
    assert sol.success.all()
    np.testing.assert_allclose(sol.x[0, -1], wanted, rtol=10 * tolerance)
    assert sol.stats["n_steps"][0] < most * (1e-6 / tolerance) ** 0.25
    trials = sol.stats["n_steps"] + sol.stats["n_rejected"]
    assert np.array_equal(sol.stats["n_rhs"], 8 * trials + 2)  # two for the first step's size


def test_sensitivities_of_robertson_as_printed_by_sundials():
    """dx/dp at t = 0.4, 4, 40, 400 from cvsRoberts_FSA_dns (5 digits of a run at rtol 1e-4)."""
    rhs, x0, k, *_ = PROBLEMS["robertson"]
    ts = np.array([0.0, 0.4, 4.0, 40.0, 400.0])
    printed = np.array([
        [[-3.5595e-01, 3.9025e-04, 3.5556e-01], [9.5431e-08, -2.1309e-10, -9.5218e-08]],
        [[-1.8761e00, 1.7922e-04, 1.8759e00], [2.9614e-06, -5.8305e-10, -2.9608e-06]],
        [[-4.2475e00, 4.5913e-05, 4.2475e00], [1.3731e-05, -2.3573e-10, -1.3730e-05]],
        [[-5.9584e00, 3.5431e-06, 5.9584e00], [2.2738e-05, -2.2605e-11, -2.2738e-05]],
    ])  # fmt: skip
    for sensitivity in ("adjoint", "forward"):
        sim = co.Simulator(model_of(rhs, x0, k), co.Rodas5P(rtol=1e-8, atol=1e-14), sensitivity)
        for row in range(4):
            for c in range(3):
                seeds = np.zeros((5, 3))
                seeds[row + 1, c] = 1.0
                p_bar = sim.vjp(x0, None, k, ts, seeds)[0]
                np.testing.assert_allclose(p_bar[:2], printed[row, :, c], rtol=1e-3)


def test_many_stiff_trajectories_against_radau(rng):
    """Different rate constants, as controls, in one batch."""
    k = np.array([0.04, 1e4, 3e7]) * np.exp(0.5 * rng.standard_normal((11, 3)))
    model = co.ControlledODE(lambda t, x, u, p: robertson(x, u), nx=3, nu=3)
    ts = np.array([0.0, 1.0, 100.0, 1e4])
    sol = co.Simulator(model, co.Rodas5P(rtol=1e-7, atol=1e-13))([1.0, 0.0, 0.0], co.Constant(k), None, ts)
    for b in (0, 7, 10):
        run = solve_ivp(
            lambda t, x, b=b: robertson(x, k[b]), (0, 1e4), [1.0, 0.0, 0.0], "Radau", ts, rtol=1e-10, atol=1e-15
        )
        np.testing.assert_allclose(sol.x[b], run.y.T, rtol=1e-6, atol=1e-12)


def test_gradient_of_a_stiff_batch_against_differences(rng):
    """The exact adjoint of fixed steps against extrapolated differences, for every rate constant of one trajectory."""
    model = co.ControlledODE(lambda t, x, u, p: robertson(x, u), nx=3, nu=3)
    sim = co.Simulator(model, co.Rodas5P(steps_per_interval=2), "adjoint")
    k = np.array([0.04, 1e4, 3e7]) * np.exp(0.3 * rng.standard_normal((9, 3)))
    ts, weights = np.concatenate([[0.0], np.geomspace(1e-4, 1e3, 12)]), np.array([1.0, 1e4, 0.5])
    seeds = np.zeros((9, 13, 3))
    seeds[:, -1] = weights

    def value(logs):
        sol = sim([1.0, 0.0, 0.0], co.Constant(k * np.exp(logs)), None, ts)
        return sol.x[:, -1] @ weights

    u_bar = sim.vjp([1.0, 0.0, 0.0], co.Constant(k), None, ts, seeds)[2].reshape(9, 3) * k
    for c in range(3):
        d = np.eye(3)[c]
        h = 2e-3
        wide, half = (value(s * d) - value(-s * d) for s in (2 * h, h))
        np.testing.assert_allclose((8 * half - wide) / (12 * h), u_bar[:, c], rtol=2e-8, atol=1e-11)


def test_objective_agrees_with_an_explicit_method(rng):
    """Value, gradient, Hessian product and residual Jacobian, with free initial states and a running cost."""
    knots, ts = np.array([0.0, 0.7, 1.1, 2.0, 3.0]), np.linspace(0.0, 3.0, 9)
    control, x0 = co.PiecewiseLinear(knots, rng.standard_normal((9, 5, 1))), rng.standard_normal((9, 2))
    data = rng.standard_normal((9, 9, 2))
    running = {"loss": None, "running": lambda t, x, u, y, p: p[0] * x[0] ** 2 * u[0] + x[1] ** 2}
    for options in ({"data": data}, running):
        found = []
        for solver in (co.Rodas5P(rtol=1e-8, atol=1e-10), co.DOP853(rtol=1e-10, atol=1e-12)):
            obj = co.Objective(co.Simulator(oscillator(), solver), co.Free(x0), control, ts, **options)
            theta = obj.append_free(P)
            v = np.linspace(-1.0, 1.0, theta.size)
            value, gradient = obj(theta)
            assert obj.derivative_along(theta, v) == pytest.approx(gradient @ v, rel=1e-11)
            row = [np.array([value]), gradient, obj.hessp(theta, v)]
            if "data" in options:
                jac = obj.jac(theta)
                np.testing.assert_allclose(2 * jac.T @ obj.residuals(theta), gradient, rtol=1e-10, atol=1e-13)
                row.append(jac)
            found.append(row)
        for one, two in zip(*found, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [co.PiecewiseConstant, co.CubicSpline])
def test_expressions_take_the_same_steps(kind, rng):
    control, ts = kind([0.0, 0.7, 1.1, 2.0, 3.0], rng.standard_normal(5)), np.array([0.0, 0.5, 1.1, 3.0])
    x0 = np.array([1.0, 0.3])
    sim = co.Simulator(oscillator(), co.Rodas5P(steps_per_interval=2))
    f = sim.to_casadi(ts, control)
    np.testing.assert_allclose(np.array(f(x0, control.values[0].T, P)).T, sim(x0, control, P, ts).x[0], rtol=1e-12)
    p = ca.MX.sym("p", 3)
    hessian = ca.Function("h", [p], [ca.hessian(ca.sumsqr(f(x0, control.values[0].T, p)), p)[0]])
    obj = co.Objective(sim, x0, control, ts, data=np.zeros((1, 4, 2)), loss="sse")
    np.testing.assert_allclose(np.array(hessian(P)), obj.hess(P), rtol=1e-9, atol=1e-11)


def test_one_step_as_a_function():
    """A step a thousand times longer than the fast mode: the transient is damped, x follows cos(t)."""
    model = co.ControlledODE(lambda t, x, u, p: -1e4 * (x - ca.cos(t)) + u, nx=1, nu=1)
    step = model.step(co.Rodas5P(), 0.1)
    sol = co.Simulator(model, co.Rodas5P(steps_per_interval=1))([2.0], co.Constant([[0.0]]), None, [0.0, 0.1])
    assert float(step(0.0, 2.0, 0.0, [])) == pytest.approx(sol.x[0, -1, 0], rel=1e-12)
    assert sol.x[0, -1, 0] == pytest.approx(np.cos(0.1), abs=2e-2)


def test_single_precision(rng):
    k = np.float32([0.04, 1e4, 3e7]) * np.exp(0.3 * rng.standard_normal((17, 3))).astype(np.float32)
    model = co.ControlledODE(lambda t, x, u, p: robertson(x, u), nx=3, nu=3)
    ts, x0 = np.array([0.0, 1.0, 40.0]), np.float32([1.0, 0.0, 0.0])
    small = co.Simulator(model, co.Rodas5P(rtol=1e-4, atol=1e-8), "adjoint", dtype="float32")
    large = co.Simulator(model, co.Rodas5P(rtol=1e-8, atol=1e-13), "adjoint")
    seeds = np.zeros((17, 3, 3), np.float32)
    seeds[:, -1] = 1.0, 0.0, 2.0
    sol = small(x0, co.Constant(k, dtype="float32"), None, ts)
    wide = large(x0.astype(float), co.Constant(k.astype(float)), None, ts)
    assert sol.x.dtype == np.float32 and sol.success.all()
    np.testing.assert_allclose(sol.x, wide.x, rtol=2e-3, atol=1e-7)
    one = small.vjp(x0, co.Constant(k, dtype="float32"), None, ts, seeds)[2]
    two = large.vjp(x0.astype(float), co.Constant(k.astype(float)), None, ts, seeds.astype(float))[2]
    scale = np.abs(two * k[:, None]).max(axis=(0, 1))
    assert np.all(np.abs((one - two) * k[:, None]).max(axis=(0, 1)) < 5e-3 * scale)
