"""Published values and sensitivities with CasADi's integrators.

Sensitivities are those that the examples of SUNDIALS print (github.com/LLNL/sundials): cvsLotkaVolterra_ASA,
cvsRoberts_FSA_dns, cvsRoberts_ASAi_dns and cvsAdvDiff_FSA_non. Values are of the test set for IVP solvers (Mazzia &
Magherini 2008) and of Hairer, Norsett & Wanner I, section II.0.
"""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co

CVODES = co.CVODES(rtol=1e-9, atol=1e-14, max_steps=100_000)
IDAS = co.IDAS(rtol=1e-9, atol=1e-14, max_steps=100_000)
TIGHTER: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-14, "max_steps": 100_000}


def hires(t: Any, y: Any, u: Any, p: Any) -> Any:
    r = 280 * y[5] * y[7]
    return [
        -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
        1.71 * y[0] - 8.75 * y[1],
        -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
        8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
        -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
        -r + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
        r - 1.81 * y[6],
        -r + 1.81 * y[6],
    ]


def robertson(t: Any, x: Any, u: Any, p: Any) -> Any:
    a, b, c = p[0] * x[0], p[1] * x[1] * x[2], p[2] * x[1] ** 2
    return [-a + b, a - b - c, c]


def van_der_pol(t: Any, x: Any, u: Any, p: Any) -> Any:
    return [x[1], 1000 * (1 - x[0] ** 2) * x[1] - x[0]]


def oregonator(t: Any, x: Any, u: Any, p: Any) -> Any:
    s = 77.27
    first = s * (x[1] + x[0] * (1 - 8.375e-6 * x[0] - x[1]))
    return [first, (x[2] - (1 + x[0]) * x[1]) / s, 0.161 * (x[0] - x[2])]


def arenstorf(t: Any, x: Any, u: Any, p: Any) -> Any:
    m = 0.012277471
    d1, d2 = ((x[0] + m) ** 2 + x[1] ** 2) ** 1.5, ((x[0] - (1 - m)) ** 2 + x[1] ** 2) ** 1.5
    ax = x[0] + 2 * x[3] - (1 - m) * (x[0] + m) / d1 - m * (x[0] - (1 - m)) / d2
    return [x[2], x[3], ax, x[1] - 2 * x[2] - (1 - m) * x[1] / d1 - m * x[1] / d2]


def predators(t: Any, x: Any, u: Any, p: Any) -> Any:
    return [p[0] * x[0] - p[1] * x[0] * x[1], -p[2] * x[1] + p[3] * x[0] * x[1]]


ORBIT = [0.994, 0.0, 0.0, -2.00158510637908252240537862224]
#: right-hand side, x0, end, x(end), relative tolerance of the published case
VALUES: dict[str, Any] = {
    "hires": (hires, [1, 0, 0, 0, 0, 0, 0, 0.0057], 321.8122,
              [0.7371312573325668e-3, 0.1442485726315185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2,
               0.2386356198831331e-2, 0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2], 2e-8),
    "robertson": (lambda t, x, u, p: robertson(t, x, u, [0.04, 1e4, 3e7]), [1, 0, 0], 1e11,
                  [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050], 1e-5),
    "vdpol": (van_der_pol, [2, 0], 2000.0, [0.1706167732170469e1, -0.8928097010248125e-3], 1e-7),
    "orego": (oregonator, [1, 2, 3], 360.0,
              [0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3], 2e-7),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("solver", [co.CVODES(**TIGHTER), co.IDAS(**TIGHTER), co.Rosenbrock(**TIGHTER)])
def test_published_values(solver: Any, name: str) -> None:
    rhs, x0, end, exact, rtol = VALUES[name]
    sim = co.Simulator(co.ControlledODE(rhs, nx=len(x0)), solver)
    sol = sim(np.array(x0, float), None, None, [0.0, end])
    assert sol.success.all()
    assert sol.x[0, -1] == pytest.approx(np.array(exact), rel=rtol)


def test_arenstorf_orbit_closes() -> None:
    """The orbit amplifies errors by about 1e4."""
    model = co.ControlledODE(arenstorf, nx=4)
    tight = {"rtol": 1e-12, "atol": 1e-14, "max_steps": 100_000}
    for solver in (co.CVODES(method="adams", **tight), co.IDAS(**tight), co.ERK(**tight)):
        found = co.Simulator(model, solver)(ORBIT, None, None, [0.0, 17.0652165601579625588917206249]).x[0, -1]
        assert found == pytest.approx(np.array(ORBIT), abs=2e-6)


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward", co.ContinuousAdjoint()])
@pytest.mark.parametrize("solver", [co.CVODES(rtol=1e-10, atol=1e-12), co.IDAS(rtol=1e-10, atol=1e-12)])
def test_lotka_volterra_of_sundials(solver: Any, sensitivity: Any) -> None:
    """cvsLotkaVolterra_ASA: g = |1 - x(10)|^2 / 2; printed from a run at a tolerance that leaves six digits."""
    sim = co.Simulator(co.ControlledODE(predators, nx=2, params=4), solver, sensitivity)
    p, ts = np.array([1.5, 1.0, 3.0, 1.0]), np.array([0.0, 10.0])
    x = sim([1.0, 1.0], None, p, ts).x[0]
    assert x[-1] == pytest.approx([1.026344801589377, 0.9096910639243128], rel=1e-6)
    p_bar, x0_bar, _ = sim.vjp([1.0, 1.0], None, p, ts, np.stack([np.zeros(2), x[-1] - 1.0]))
    printed = [6.219617362820864e-1, 6.800142032161892e-2, 1.691765074712130e-1, 2.725607529639176e-1]
    assert p_bar == pytest.approx(printed, rel=5e-6)
    assert x0_bar == pytest.approx([2.995996056786226e-1, -1.415181416922305e-2], rel=5e-6)
    # To more digits, from an independent tight integration.
    assert p_bar == pytest.approx(
        [0.6219615855513199, 0.06800140415087272, 0.1691764639959065, 0.27256069395001536], rel=2e-6
    )


#: t -> dy/dp1, dy/dp2, dy/dp3 as printed by cvsRoberts_FSA_dns
ROBERTSON: dict[float, Any] = {
    0.4: [[-3.5595e-01, 3.9025e-04, 3.5556e-01], [9.5431e-08, -2.1309e-10, -9.5218e-08],
          [-1.5833e-11, -5.2900e-13, 1.6362e-11]],
    4.0: [[-1.8761e00, 1.7922e-04, 1.8759e00], [2.9614e-06, -5.8305e-10, -2.9608e-06],
          [-4.9334e-10, -2.7626e-13, 4.9362e-10]],
    40.0: [[-4.2475e00, 4.5913e-05, 4.2475e00], [1.3731e-05, -2.3573e-10, -1.3730e-05],
           [-2.2883e-09, -1.1380e-13, 2.2884e-09]],
    400.0: [[-5.9584e00, 3.5431e-06, 5.9584e00], [2.2738e-05, -2.2605e-11, -2.2738e-05],
            [-3.7896e-09, -4.9948e-14, 3.7897e-09]],
}  # fmt: skip


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
@pytest.mark.parametrize("solver", [CVODES, IDAS])
def test_robertson_of_sundials(solver: Any, sensitivity: str) -> None:
    """cvsRoberts_FSA_dns: all sensitivities at four times, by the forward and by the adjoint equation."""
    sim = co.Simulator(co.ControlledODE(robertson, nx=3, params=3), solver, sensitivity)
    ts = np.array([0.0, *ROBERTSON])
    for k, printed in enumerate(ROBERTSON.values()):
        seeds = np.zeros((3, 5, 3))
        seeds[:, k + 1] = np.eye(3)
        rows = [sim.vjp([1.0, 0.0, 0.0], None, [0.04, 1e4, 3e7], ts, seed)[0] for seed in seeds]
        assert np.array(rows) == pytest.approx(np.array(printed).T, rel=1e-3)


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
def test_robertson_integral_of_sundials(sensitivity: str) -> None:
    """cvsRoberts_ASAi_dns: G, the integral of y3 to 4e7, its gradient and the adjoint at the start."""

    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        return [*robertson(t, x, u, p), x[2]]

    sim = co.Simulator(co.ControlledODE(rhs, nx=4, params=3), CVODES, sensitivity)
    p, x0 = [0.04, 1e4, 3e7], [1.0, 0.0, 0.0, 0.0]
    seeds = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert sim(x0, None, p, [0.0, 4e7]).x[0, -1, 3] == pytest.approx(3.9983e7, rel=1e-4)
    p_bar, x0_bar, _ = sim.vjp(x0, None, p, [0.0, 4e7], seeds)
    assert p_bar == pytest.approx([7.6842e5, -3.0691, 5.1144e-4], rel=2e-4)
    assert x0_bar[:3] == pytest.approx([3.9967e7] * 3, rel=1e-4)
    p_bar, x0_bar, _ = sim.vjp(x0, None, p, [0.0, 50.0], seeds)
    assert p_bar == pytest.approx([1.7341e2, -5.0590e-4, 8.4321e-8], rel=1e-4)
    assert x0_bar[:3] == pytest.approx([8.4190, 16.097, 16.097], rel=1e-4)


@pytest.mark.parametrize("sensitivity", ["adjoint", "forward"])
def test_advection_diffusion_of_sundials(sensitivity: str) -> None:
    """cvsAdvDiff_FSA_non: largest entries of the solution and of its sensitivities."""
    dx = 2.0 / 11

    def rhs(t: Any, x: Any, u: Any, p: Any) -> Any:
        left, right = ca.vertcat(0, x[:-1]), ca.vertcat(x[1:], 0)
        return p[0] / dx**2 * (left - 2 * x + right) + p[1] / (2 * dx) * (right - left)

    sim = co.Simulator(co.ControlledODE(rhs, nx=10, params=2), co.CVODES(rtol=1e-8, atol=1e-10), sensitivity)
    at = dx * np.arange(1, 11)
    x0, ts, p = at * (2 - at) * np.exp(2 * at), np.array([0.0, 0.5, 1.0]), [1.0, 0.5]
    largest = np.abs(sim(x0, None, p, ts).x[0]).max(axis=1)
    assert largest[1:] == pytest.approx([3.0529, 0.87533], rel=2e-4)
    for k, printed in ((1, [3.8668, 0.62020]), (2, [2.1743, 0.18909])):
        rows = []
        for i in range(10):
            seeds = np.zeros((3, 10))
            seeds[k, i] = 1.0
            rows.append(sim.vjp(x0, None, p, ts, seeds)[0])
        assert np.abs(rows).max(axis=0) == pytest.approx(printed, rel=2e-4)
