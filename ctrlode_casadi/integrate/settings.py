"""Which model, solver and options fit together; everything else is refused before anything is compiled."""

from __future__ import annotations

from typing import Any

from ..base.errors import ModelError, SolverError, unknown_name
from ..model.ode import ControlledODE
from ..model.system import system_of
from .auto.solver import Auto, solver_named
from .build import compiled_only
from .integrators.checks import check_use
from .integrators.solvers import CasadiIntegrator
from .rosenbrock.solvers import RosenbrockMethod
from .solvers import OneStep, Tsit5, _positive

_BACKENDS = ("auto", "compiled", "casadi")


def check_settings(
    model: Any, solver: Any, backend: str, threads: Any, dtype: str, events: bool, time_limit: float | None
) -> tuple[OneStep | CasadiIntegrator, ControlledODE]:
    """The solver, and the system that it integrates: the model, or (x, z) as the states of one system.

    Raises
    ------
    ModelError, SolverError
        For an argument of the wrong kind, an unknown name, or parts that do not fit together.
    """
    if not isinstance(model, ControlledODE):
        raise ModelError(f"model: expected a ControlledODE, got {type(model).__name__}")
    solver = Tsit5() if solver is None else solver_named(solver)
    if not isinstance(solver, OneStep | CasadiIntegrator):
        raise SolverError(f"solver: expected 'auto' or one such as Tsit5(), Rodas5P() or CVODES(), got {solver!r}")
    if backend not in _BACKENDS:
        raise SolverError(unknown_name("backend", backend, _BACKENDS))
    if dtype not in ("float64", "float32"):
        raise SolverError(unknown_name("dtype", dtype, ("float64", "float32")))
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise SolverError(f"threads: expected an integer of at least 1 or None, got {threads!r}")
    if time_limit is not None:
        _positive("Simulator", "time_limit", time_limit)
    if backend == "casadi" and isinstance(solver, RosenbrockMethod | Auto):
        raise compiled_only(solver, "backend='casadi' was asked for")
    if isinstance(solver, Auto) and events:
        raise SolverError("events: solver='auto' does not take events; use Tsit5(), or Rodas5P() if stiff")
    if model.is_dae and not solver.integrates_dae:
        what = f"nz={model.nz}" if model.nz else "singular mass matrix"
        raise ModelError(
            f"model: {type(solver).__name__} cannot integrate a DAE ({what}); use Rodas5P(), or IDAS() for a model "
            f"with algebraic variables"
        )
    check_use(solver, model, backend, events)
    return solver, _system(model, solver)


def _system(model: ControlledODE, solver: OneStep | CasadiIntegrator) -> ControlledODE:
    system = system_of(model) if isinstance(solver, RosenbrockMethod | Auto) else model
    atol = getattr(solver, "atol", 0.0)
    if isinstance(atol, tuple) and len(atol) != system.nx:
        names = f"nx={model.nx}" if system.nx == model.nx else f"nx + nz = {system.nx}"
        raise SolverError(f"solver: atol must have {names} entries, one per state, it has {len(atol)}")
    return system
