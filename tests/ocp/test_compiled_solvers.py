"""Compiled NLP functions inside solvers: the same iterates as with CasADi's own, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi import RK4, Chain, ControlledODE, Dense
from ctrlode_casadi.ocp import symbolic
from ctrlode_casadi.ocp.compiled.nlp import oracle
from ctrlode_casadi.ocp.groups import NLP, OBJECTIVE, Group
from ctrlode_casadi.ocp.oracle import Oracle

QUIET = {"print_time": False, "ipopt.print_level": 0, "ipopt.sb": "yes"}
SQP = {
    "print_time": False,
    "print_header": False,
    "print_iteration": False,
    "print_status": False,
    "qpsol": "qrqp",
    "qpsol_options": {"print_iter": False, "print_header": False},
}


def cart_pole(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
    """Kelly's cart and pole: masses 1 and 0.3 kg, length 0.5 m."""
    sine, cosine = ca.sin(x[1]), ca.cos(x[1])
    d = 1.0 + 0.3 * sine**2
    return [
        x[2],
        x[3],
        (0.15 * sine * x[3] ** 2 + u[0] + 0.3 * 9.81 * cosine * sine) / d,
        -(0.15 * cosine * sine * x[3] ** 2 + u[0] * cosine + 1.3 * 9.81 * sine) / (0.5 * d),
    ]


def multiple_shooting(model: ControlledODE, n: int, tf: float, start: Any, end: Any, q: Any, limit: float) -> NLP:
    """Least squared control plus deviation from the end state, which is fixed where it is finite."""
    nx, nu = model.nx, model.nu
    v, s, p = ca.MX.sym("v", 2 * nx + nu), ca.MX.sym("s", 0), ca.MX.sym("q", model.np)
    x, u, following = v[:nx], v[nx : nx + nu], v[nx + nu :]
    step = RK4().step_function(model, tf / n)
    cost = tf / n * ca.sumsqr(u) + 0.1 * ca.sumsqr(x - np.nan_to_num(end))
    r = ca.vertcat(step(0.0, x, u, p) - following, cost)
    w0 = np.zeros((n + 1, nx + nu))
    w0[:, :nx] = np.linspace(start, np.nan_to_num(end), n + 1)
    lb, ub = (np.full((n + 1, nx + nu), sign * np.inf) for sign in (-1, 1))
    lb[:, nx:], ub[:, nx:] = -limit, limit
    lb[0, :nx] = ub[0, :nx] = start
    fixed = np.isfinite(end)
    lb[-1, :nx][fixed] = ub[-1, :nx][fixed] = np.asarray(end)[fixed]
    n_w = n * (nx + nu) + nx
    rows = np.hstack([nx * np.arange(n)[:, None] + np.arange(nx), np.full((n, 1), OBJECTIVE)])
    variables = (nx + nu) * np.arange(n)[:, None] + np.arange(2 * nx + nu)
    return NLP(
        n_w=n_w,
        n_g=n * nx,
        n_q=model.np,
        groups=(Group("interval", ca.Function("f", [v, s, p], [r]), variables, np.zeros((n, 0)), rows),),
        lbw=lb.ravel()[:n_w],
        ubw=ub.ravel()[:n_w],
        lbg=np.zeros(n * nx),
        ubg=np.zeros(n * nx),
        w0=w0.ravel()[:n_w],
        q=np.asarray(q, dtype=float),
        scale_w=np.ones(n_w),
        scale_g=np.full(n * nx, 2.0),
        scale_f=0.5,
        describe_variable=lambda i: f"w[{i}]",
        describe_row=lambda i: f"g[{i}]",
    )


def swing_up() -> NLP:
    return multiple_shooting(
        ControlledODE(cart_pole, nx=4, nu=1), 30, 2.0, np.zeros(4), [1.0, np.pi, 0.0, 0.0], np.zeros(0), 20.0
    )


def learned() -> NLP:
    net = Chain(Dense(4, 16, "tanh"), Dense(16, 3))
    return multiple_shooting(
        ControlledODE(net, nx=3, nu=1), 20, 3.0, [0.5, -0.5, 0.0], [0.2, np.nan, np.nan], net.init(seed=4), 2.0
    )


PROBLEMS = {"cart-pole": swing_up, "network": learned}


def solve(nlp: NLP, plugin: str, made: Oracle, options: dict[str, Any]) -> tuple[ca.Function, dict[str, Any]]:
    """Solver and result."""
    solver = ca.nlpsol("solver", plugin, made.problem, made.options | options)
    scaled = {"x0": nlp.w0, "lbx": nlp.lbw, "ubx": nlp.ubw, "lbg": nlp.lbg, "ubg": nlp.ubg}
    return solver, solver(p=nlp.q, **scaled)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("hessian", ["exact", "limited-memory"])
def test_ipopt_takes_the_same_way(problem: str, hessian: str) -> None:
    nlp = PROBLEMS[problem]()
    ours = oracle(nlp, hessian=hessian)
    theirs = symbolic.oracle(nlp)
    options = QUIET | {"ipopt.tol": 1e-6, "ipopt.max_iter": 200}
    solver, a = solve(nlp, "ipopt", ours, options)
    other, b = solve(nlp, "ipopt", theirs, options | {"ipopt.hessian_approximation": hessian})
    assert solver.stats()["success"]
    if hessian == "exact":
        assert solver.stats()["iter_count"] == other.stats()["iter_count"]
        assert abs(float(a["f"]) - float(b["f"])) <= 1e-11 * abs(float(b["f"]))
    else:  # the approximation grows round-off over many iterations
        assert abs(float(a["f"]) - float(b["f"])) <= 1e-6 * abs(float(b["f"]))


def test_sqpmethod_takes_the_same_way() -> None:
    nlp = learned()
    ours = oracle(nlp, plugin="sqpmethod")
    solver, a = solve(nlp, "sqpmethod", ours, SQP)
    problem = symbolic.expressions(nlp, scaled=True)
    other = ca.nlpsol("other", "sqpmethod", problem, SQP)
    b = other(x0=nlp.w0, p=nlp.q, lbx=nlp.lbw, ubx=nlp.ubw, lbg=nlp.lbg, ubg=nlp.ubg)
    assert solver.stats()["success"]
    assert solver.stats()["iter_count"] == other.stats()["iter_count"]
    assert abs(float(a["f"]) - float(b["f"])) <= 1e-10 * abs(float(b["f"]))


def test_functions_agree_as_casadi_functions() -> None:
    """The oracle's functions take missing inputs as zero and give what CasADi's give."""
    nlp = learned()
    ours, theirs = oracle(nlp), symbolic.oracle(nlp)
    rng = np.random.default_rng(0)
    w, lam = rng.normal(size=nlp.n_w), rng.normal(size=nlp.n_g)
    for name in ("objective", "constraints", "gradient", "jacobian"):
        a, b = getattr(ours, name).call([w, nlp.q]), getattr(theirs, name).call([w, nlp.q])
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(np.array(x), np.array(y), rtol=0, atol=1e-13)
    a, b = (o.hessian(w, nlp.q, 0.7, lam) for o in (ours, theirs))
    np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.array(ours.objective(0, 0)), np.array(theirs.objective(0, 0)), rtol=0, atol=1e-14)


def test_new_parameters_take_effect() -> None:
    """The part that depends on the parameters only is computed again when they change, and not mixed up."""
    nlp = learned()
    made = oracle(nlp)
    options = made.options | QUIET
    solver = ca.nlpsol("solver", "ipopt", made.problem, options)
    bounds = {"x0": nlp.w0, "lbx": nlp.lbw, "ubx": nlp.ubw, "lbg": nlp.lbg, "ubg": nlp.ubg}
    first = float(solver(p=nlp.q, **bounds)["f"])
    other = float(solver(p=0.5 * nlp.q, **bounds)["f"])
    assert float(solver(p=nlp.q, **bounds)["f"]) == first
    assert abs(other - first) > 1e-3


def resident_megabytes() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def test_solvers_leave_nothing_behind() -> None:
    """Two hundred programs with their solvers: the functions die with them, and memory stays flat."""
    nlp = learned()

    def once() -> weakref.ref[Any]:
        made = oracle(nlp, threads=1)
        solve(nlp, "ipopt", made, QUIET | {"ipopt.max_iter": 1})
        return weakref.ref(made.keep[0].problem)

    for _ in range(20):
        dead = once()
    gc.collect()
    assert dead() is None
    if not Path("/proc/self/statm").exists():
        pytest.skip("the process's memory cannot be read here")
    before = resident_megabytes()
    for _ in range(200):
        once()
    gc.collect()
    assert resident_megabytes() - before < 4.0
