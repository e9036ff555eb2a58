"""Which model, solver and options fit together; everything else is refused before anything is compiled."""

from __future__ import annotations

from typing import Any

from ..base.errors import ModelError, SolverError, unknown_name
from ..model.ode import ControlledODE
from ..model.system import system_of
from .auto.solver import Auto, solver_named
from .batch import Batch
from .build import compiled_only
from .integrators.checks import check_use
from .integrators.solvers import CasadiIntegrator
from .rosenbrock.solvers import Rodas5P, RosenbrockMethod
from .solvers import OneStep, Tsit5, _positive

_BACKENDS = ("auto", "compiled", "casadi")


def default_solver(model: ControlledODE) -> OneStep:
    """What integrates a model where no solver is given: Tsit5, which takes no DAEs; Rodas5P for those."""
    return Rodas5P() if model.is_dae else Tsit5()


def described(model: ControlledODE, solver: OneStep | CasadiIntegrator) -> str:
    """One line on the solver of a model."""
    kind = "adaptive" if solver.adaptive else "fixed"
    why = ", the default for a DAE" if model.is_dae and solver == default_solver(model) else ""
    return f"solver: {solver!r}, order {solver.order}, {kind} steps{why}"


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
    solver = default_solver(model) if solver is None else solver_named(solver)
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


#: Most steps of one trajectory with fixed steps. They are planned before the sweep, with 40 bytes for each.
MOST_STEPS = 50_000_000


def check_step_count(solver: object, batch: Batch) -> None:
    """Refuse fixed steps whose number no memory holds."""
    if not isinstance(solver, OneStep) or solver.adaptive:
        return
    span = float((batch.ts[:, -1] - batch.ts[:, 0]).max(initial=0.0))
    if solver.dt is not None:
        steps, given = span / solver.dt, f"dt={solver.dt!r} over the time {span:g}"
    else:
        each = solver.steps_per_interval or 1
        steps, given = float(each) * (batch.n_save - 1), f"steps_per_interval={each} in {batch.n_save - 1} intervals"
    if steps > MOST_STEPS:
        raise SolverError(
            f"{type(solver).__name__}: {given} would be {steps:.3g} steps of one trajectory, at most {MOST_STEPS:,} "
            "are possible; take longer steps, or adaptive ones"
        )
