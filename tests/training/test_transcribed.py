"""Multiple shooting and collocation against single shooting, and what only they can do."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from training.cases import Pendulum, falling, run

BOTH = ["multiple-shooting", "collocation"]

#: What an objective can be made of: arguments of `Pendulum`, then of its objective.
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero-order hold": ({"kind": "hold"}, {}),
    "linear control": ({"kind": "linear"}, {}),
    "spline": ({"kind": "spline"}, {}),
    "ragged": ({}, {"ragged": True}),
    "ragged, adaptive": ({"solver": co.Tsit5(rtol=1e-9, atol=1e-11)}, {"ragged": True}),
    "dt": ({"solver": co.RK4(dt=0.1)}, {"ragged": True}),
    "free": ({}, {"x0": "free", "ragged": True}),
    "free, shared": ({"kind": "hold"}, {"x0": "shared"}),
    "free in part": ({}, {"x0": "masked"}),
    "encoder": ({}, {"x0": "encoder", "ragged": True}),
    "output": ({"output": lambda t, x, u, p: ca.sin(x[0]) * p[0] + 0.1 * u[0]}, {"ragged": True}),
    "hidden state": ({"output": lambda t, x, u, p: x[0]}, {"x0": "free", "ragged": True}),
    "weights": ({}, {"weights": np.array([1.0, 0.2]), "loss": "sse"}),
    "regularization": ({}, {"regularization": np.array([1e-3, 1e-2, 0.0])}),
    "penalty": ({}, {"regularization": lambda p: 0.01 * ca.sumsqr(p - 1)}),
    "robust": ({}, {"loss": "mae_smooth", "ragged": True}),
    "own loss": ({}, {"loss": lambda t, x, u, y, d, p: ca.sumsqr(y - d) * (1 + t)}),
    "running and terminal": (
        {},
        {
            "ragged": True,
            "running": lambda t, x, u, y, p: x[1] ** 2 + 0.1 * p[0] ** 2 + u[0] * x[0],
            "terminal": lambda t, x, u, y, p: x[0] ** 2,
        },
    ),
}


def starts(pendulum: Pendulum, kind: str | None) -> Any:
    return {
        None: pendulum.x0,
        "free": co.Free(pendulum.x0 + 0.1),
        "shared": co.Free(np.array([0.2, 0.1])),
        "masked": co.Free(pendulum.x0, mask=[True, False]),
        "encoder": co.InitialState(lambda d0, p: [d0[0] * p[0] / 1.3, d0[1]], inputs=pendulum.x0),
    }[kind]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_optimum_is_that_of_single_shooting(name: str) -> None:
    """With fixed steps multiple shooting takes the simulator's, so that value and optimum agree to rounding."""
    of_pendulum, options = OBJECTIVES[name]
    pendulum = Pendulum(**of_pendulum)
    options = {**options, "x0": starts(pendulum, options.get("x0"))}
    obj = pendulum.objective(**options)
    p0 = obj.append_free(Pendulum.GUESS)
    try:
        obj.n_residuals  # noqa: B018
        best = run(obj, p0, "trf", xtol=1e-14, ftol=1e-14, gtol=1e-13)
    except co.UnsupportedOperation:
        best = run(obj, p0, "trust-ncg", gtol=1e-10)
    exact = "adaptive" not in name
    for method in BOTH:
        found = run(obj, p0, method, tol=1e-10)
        assert found.success, found.message
        same = 1e-9 if exact and method == "multiple-shooting" else 1e-6
        assert found.fun == pytest.approx(best.fun, rel=10 * same)
        np.testing.assert_allclose(found.x, best.x, atol=3e-7 if same == 1e-9 else 3e-4)
        assert found.nlp_fun == pytest.approx(found.fun, rel=same if same == 1e-9 else 1e-3)
        np.testing.assert_allclose(found.states[:, 0], obj.initial_states(found.x), atol=1e-7)
        assert found.states.shape == (3, 18, 2)


@pytest.mark.parametrize(
    ("method", "hessian"),
    [("multiple-shooting", "exact"), ("multiple-shooting", "gauss-newton"), ("collocation", "limited-memory")],
)
def test_backends_agree(method: str, hessian: str) -> None:
    pendulum = Pendulum("hold")
    obj = pendulum.objective(co.Free(pendulum.x0), ragged=True)
    p0 = obj.append_free(Pendulum.GUESS)
    fits = [run(obj, p0, method, hessian=hessian, backend=b, accuracy=None) for b in ("casadi", "compiled")]
    assert all(f.success for f in fits)
    assert abs(fits[0].nit - fits[1].nit) <= 1
    np.testing.assert_allclose(fits[0].x, fits[1].x, atol=1e-7)


@pytest.mark.parametrize("method", BOTH)
def test_positivity_of_a_hidden_state(method: str) -> None:
    """h = 1 + p t must not turn negative before t = 1: the best p is -1, and -1.5 without the constraint."""
    obj = falling()
    free = run(obj, [-0.2], method)
    kept = run(obj, [-0.2], method, state_bounds=([None, 0.0], None))
    assert free.x[0] == pytest.approx(-1.5, abs=1e-5) and free.states[0, -1, 1] == pytest.approx(-0.5, abs=1e-5)
    assert kept.success and kept.x[0] == pytest.approx(-1.0, abs=1e-6)
    assert kept.states.min() > -1e-6


@pytest.mark.parametrize("method", BOTH)
def test_path_constraint(method: str) -> None:
    """1 + p t + t / 2 >= 0.2 at t = 1 needs p >= -1.3; a second one on p alone is weaker."""
    path = [(lambda t, x, u, p: x[1] + 0.5 * t, 0.2, None), (lambda t, x, u, p: p, -1.4, 0.0)]
    found = run(falling(), [-0.2], method, path=path)
    assert found.success and found.x[0] == pytest.approx(-1.3, abs=1e-6)
    found = run(falling(), [-0.2], method, path=path[1])
    assert found.x[0] == pytest.approx(-1.4, abs=1e-5)


@pytest.mark.parametrize("method", ["multiple-shooting", "collocation"])
def test_path_constraint_with_a_control_that_jumps(method: str) -> None:
    """x + u <= 1.4 with x = p t and u = 1 between 1 and 2: just after the jump up p + 1, just before the one down less.

    Multiple shooting looks at nodes, with the control after them: p <= 0.4. Collocation also looks at the end of each
    interval, where 2 p + 1 <= 1.4.
    """
    model = co.ControlledODE(lambda t, x, u, p: p, nx=1, nu=1, params=1)
    ts = np.arange(4.0)
    control = co.PiecewiseConstant(ts, np.array([0.0, 1.0, 0.0, 0.0]))
    obj = co.Objective(co.Simulator(model, solver=co.RK4()), 0.0, control, ts, data=ts)
    found = run(obj, [0.1], method, path=(lambda t, x, u, p: x + u, None, 1.4))
    limit = 0.4 if method == "multiple-shooting" else 0.2
    assert found.success and found.x[0] == pytest.approx(limit, abs=1e-5)


def test_an_impossible_constraint_is_reported() -> None:
    found = run(falling(), [-2.5], "multiple-shooting", bounds=(-3.0, -2.0), state_bounds=([None, 0.0], None))
    assert not found.success and found.status == 2 and found.defect > 1e-3
    assert "IPOPT: Infeasible_Problem_Detected" in found.message


class Duffing:
    """An oscillator with a hardening spring; its model: a network, and a cubic term whose start has the wrong sign."""

    def __init__(self) -> None:
        net = co.Chain(co.Dense(2, 8, "tanh"), co.Dense(8, 1))
        self.layout = co.ParameterLayout(net=net, cubic=1)
        model = co.ControlledODE(
            lambda t, x, u, p: [x[1], p.cubic * x[0] ** 3 + net(x, p.net)], nx=2, params=self.layout
        )
        truth = co.ControlledODE(lambda t, x, u, p: [x[1], -x[0] - 0.5 * x[0] ** 3 - 0.05 * x[1]], nx=2)
        ts = np.linspace(0.0, 15.0, 151)
        x0 = np.array([[1.5, 0.0], [0.0, -1.0]])
        self.clean = co.Simulator(truth, solver=co.DOP853(rtol=1e-10, atol=1e-12))(x0, None, None, ts).y
        data = self.clean + 0.01 * np.random.default_rng(0).standard_normal(self.clean.shape)
        sim = co.Simulator(model, solver=co.RK4(steps_per_interval=1))
        self.objective = co.Objective(sim, x0, None, ts, data=data, regularization=1e-5)
        self.start = self.layout.init(1, cubic=1.0)


@pytest.mark.parametrize("method", BOTH)
def test_an_unstable_start(method: str) -> None:
    """Simulations explode at the start, long before the end of the records. Nodes on the data do not."""
    d = Duffing()
    with pytest.warns(co.IntegrationWarning):
        alone = run(d.objective, d.start, "L-BFGS-B")
    assert alone.status == 97 and alone.fun == np.inf
    found = run(d.objective, d.start, method)
    assert found.success and found.nit < 60, found.message
    assert found.fun < 1.3e-4
    assert -0.7 < found.p.cubic < -0.4
    states = d.objective.sim(d.clean[:, 0], None, found.x, np.linspace(0.0, 15.0, 151)).x
    np.testing.assert_allclose(states, d.clean, atol=0.02)


@pytest.mark.parametrize("method", BOTH)
def test_a_chaotic_system_with_one_state_measured(method: str) -> None:
    """Lorenz' equations over ten turns: least squares by simulation is lost, states as variables are not."""

    def lorenz(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        return [p[0] * (x[1] - x[0]), x[0] * (p[1] - x[2]) - x[1], x[0] * x[1] - p[2] * x[2]]

    model = co.ControlledODE(lorenz, nx=3, params=3, output=lambda t, x, u, p: x[0])
    sim = co.Simulator(model, solver=co.RK4(steps_per_interval=2))
    truth, x0, ts = np.array([10.0, 28.0, 8.0 / 3.0]), np.array([1.0, 1.0, 20.0]), np.linspace(0.0, 10.0, 401)
    y = sim(x0, None, truth, ts).y
    obj = co.Objective(
        sim, co.Free(x0 + 0.5), None, ts, data=y + 0.1 * np.random.default_rng(0).standard_normal(y.shape)
    )
    p0 = obj.append_free(np.array([6.0, 20.0, 1.5]))
    assert run(obj, p0, "least_squares", maxiter=60).fun > 1.0
    found = run(obj, p0, method)
    assert found.success and found.nit < 60, found.message
    np.testing.assert_allclose(found.x[:3], truth, rtol=1e-2)
    assert found.nlp_fun < 0.011
    # The program of collocation is more accurate than the simulator, whose small errors grow; the message says so.
    assert (method == "collocation") == ("amplifies small defects" in found.message)


def test_stiff_models_by_collocation() -> None:
    """Fast relaxation towards cos(t): one interval is two hundred time constants long."""
    model = co.ControlledODE(lambda t, x, u, p: -p[0] * (x[0] - p[1] * ca.cos(t)), nx=1, params=2)
    ts = np.linspace(0.0, 2.0, 11)
    k = 1000.0
    data = (k**2 * np.cos(ts) + k * np.sin(ts) + np.exp(-k * ts)) / (1 + k**2)
    obj = co.Objective(co.Simulator(model, solver=co.Tsit5()), 1.0, None, ts, data=data, loss="sse")
    found = run(obj, [k, 0.5], "collocation", bounds=[(k, k), (None, None)])
    assert found.success and found.x[1] == pytest.approx(1.0, abs=1e-4)


def test_states_as_a_guess() -> None:
    obj = falling()
    ts = np.linspace(0.0, 1.0, 11)
    states = np.stack([0.3 + 0 * ts, 1.0 - ts], axis=1)
    for guess in (states, states[None], "simulation", "data"):
        found = run(obj, [-0.2], "multiple-shooting", states=guess)
        assert found.success and found.x[0] == pytest.approx(-1.5, abs=1e-6)


def test_subintervals_and_steps_are_finer_programs_of_the_same_fit() -> None:
    pendulum = Pendulum("hold")
    obj = pendulum.objective()
    plain, finer = (run(obj, Pendulum.GUESS, "multiple-shooting", **o) for o in ({}, {"subintervals": 2, "steps": 4}))
    np.testing.assert_allclose(plain.x, finer.x, atol=1e-4)
    assert plain.fun <= finer.fun and finer.nlp_fun != plain.nlp_fun
