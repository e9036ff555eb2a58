"""fatrop is told the stages of a program where there are some, and solves it in any case as IPOPT does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.ocp.stages import stage_options

N = 8
Change = Callable[[co.OptimalControlProblem], Any]


def problem(change: Change, tf: Any = 3.0, p: Any = None) -> co.OptimalControlProblem:
    model = co.ControlledODE(lambda t, x, u, p: [x[1], p * (1 - x[0] ** 2) * x[1] - x[0] + u[0]], nx=2, nu=1, params=1)
    ocp = co.OptimalControlProblem(model, tf=tf, p=[1.0])
    ocp.minimize(lagrange=lambda t, x, u, p: ca.sumsqr(x) + u[0] ** 2, mayer=lambda x0, xf, tf, p: xf[0] ** 2)
    ocp.bounds(u=(-1.0, 1.0), x=([-0.25, None], [None, None]))
    ocp.initial([0.0, 1.0])
    change(ocp)
    return ocp


def both(ocp: co.OptimalControlProblem, **settings: Any) -> tuple[co.OptimalControlSolution, dict[str, Any]]:
    """The solution by fatrop, compared with IPOPT's, and the stages it was told."""
    chosen: dict[str, Any] = {"intervals": N, "backend": "casadi"} | settings
    reference, sol = ocp.solve(**chosen), ocp.solve(solver="fatrop", **chosen)
    assert reference.success and sol.success, sol.message
    assert sol.objective == pytest.approx(reference.objective, rel=1e-7)
    np.testing.assert_allclose(sol.x, reference.x, atol=1e-5)
    np.testing.assert_allclose(sol.multipliers.costates, reference.multipliers.costates, atol=1e-4)
    np.testing.assert_allclose(sol.multipliers.constraints, reference.multipliers.constraints, atol=1e-4)
    report = sol.verify()
    assert report.optimality < 1e-5 and report.complementarity < 1e-5
    return sol, stage_options(sol.transcription, sol.oracle, "fatrop")


STAGED: dict[str, tuple[Change, list[int], list[int]]] = {
    "bounds": (lambda o: None, [1] * N + [0], [0] * (N + 1)),
    "terminal": (lambda o: o.terminal([0.0, 0.0]), [1] * N + [0], [0] * (N + 1)),
    "path": (
        lambda o: o.path(lambda t, x, u, p: x[0] + x[1], -0.5, None, inside=1), [1] * N + [0], [1] + [2] * 7 + [1],
    ),
    "control": (lambda o: o.path(lambda t, x, u, p: u**2, None, 0.5), [1] * N + [0], [1] * N + [0]),
    "soft": (
        lambda o: o.path(lambda t, x, u, p: x[0] + 0.2 * x[1], None, 0.3, soft=10.0),
        [1] + [2] * 7 + [1], [0] + [1] * N,
    ),
    "end": (lambda o: o.boundary(lambda x0, xf, tf, p: xf[0] + xf[1], -0.1, 0.1), [1] * N + [0], [0] * N + [1]),
}  # fmt: skip


@pytest.mark.parametrize("name", STAGED)
def test_programs_with_stages(name: str) -> None:
    change, nu, ng = STAGED[name]
    _, told = both(problem(change))
    assert told == {"structure_detection": "manual", "N": N, "nx": [2] * (N + 1), "nu": nu, "ng": ng}


JOINED: dict[str, tuple[Change, dict[str, Any], Any]] = {
    "both ends": (lambda o: o.boundary(lambda x0, xf, tf, p: xf[0] + 0.1 * x0[1], -1.0, 1.0), {}, 3.0),
    "Mayer term of both ends": (
        lambda o: (o.initial([0.0, None]), o.minimize(
            lambda t, x, u, p: ca.sumsqr(x) + u[0] ** 2, lambda x0, xf, tf, p: (xf[1] - x0[1] + 1.0) ** 2)), {}, 3.0,
    ),
    "integral": (lambda o: o.integral(lambda t, x, u, p: u**2, None, 1.0), {}, 3.0),
    "final time": (lambda o: o.terminal([0.0, 0.0]), {}, co.Free(3.0, 1.0, 4.0)),
    "linear control": (lambda o: None, {"control": "linear"}, 3.0),
    "collocation": (lambda o: None, {"method": "collocation"}, 3.0),
    "single shooting": (lambda o: o.bounds(x=(None, None)), {"method": "single-shooting"}, 3.0),
    "sizes": (lambda o: None, {"scaling": {"x": [3.0, 7.0]}}, 3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINED)
def test_programs_whose_stages_are_joined(name: str) -> None:
    change, settings, tf = JOINED[name]
    chosen: dict[str, Any] = {"intervals": N, "backend": "casadi"} | settings
    sol = problem(change, tf).solve(solver="fatrop", **chosen)
    told = stage_options(sol.transcription, sol.oracle, "fatrop")
    assert (told != {}) == (name == "sizes")
    if name in ("linear control", "single shooting", "sizes", "both ends"):
        both(problem(change, tf), **settings)


def test_the_stages_make_it_fast_and_the_user_may_switch_them_off() -> None:
    ocp = problem(lambda o: None)
    settings: dict[str, Any] = {"intervals": 60, "backend": "casadi", "solver": "fatrop"}
    seconds = {}
    for found in ("manual", "none"):
        given = {} if found == "manual" else {"options": {"structure_detection": "none"}}
        sols = [ocp.solve(**settings, **given) for _ in range(3)]
        assert all(sol.success for sol in sols)
        seconds[found] = min(sol.stats["seconds"] - sol.stats["function_seconds"] for sol in sols)
    assert seconds["manual"] < 0.3 * seconds["none"]


def test_a_controller_with_fatrop() -> None:
    ocp = problem(lambda o: None)
    ours, reference = (co.MPC(ocp, intervals=N, solver=solver) for solver in ("fatrop", "ipopt"))
    for x in ([0.1, 1.0], [0.3, 0.5], [0.2, -0.1]):
        np.testing.assert_allclose(ours.step(x), reference.step(x), atol=1e-5)
    assert ours.stats.counts == {"solve": 3}
