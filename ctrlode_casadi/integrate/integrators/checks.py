"""What a simulator asks before it uses a solver: whether an integrator of CasADi can give what is wanted."""

from __future__ import annotations

from ...base.errors import ModelError, SolverError
from ...model.ode import ControlledODE
from ..sensitivity import ContinuousAdjoint, Sensitivity
from ..solvers import Solver
from .solvers import CasadiIntegrator


def resolved(solver: Solver, wanted: Sensitivity) -> Sensitivity:
    """How `vjp` computes with a solver; `SolverError` for what it cannot give."""
    if isinstance(solver, CasadiIntegrator):
        return solver.derivative(wanted)
    if isinstance(wanted, ContinuousAdjoint):
        raise SolverError(
            f"sensitivity: ContinuousAdjoint belongs to SUNDIALS (CVODES, IDAS), not to Runge-Kutta solvers; use "
            f"Adjoint() with {type(solver).__name__}"
        )
    return wanted


def check_use(solver: Solver, model: ControlledODE, backend: str, has_events: bool) -> None:
    """Raise where an integrator of CasADi is asked for what only the package's own solvers do."""
    if not isinstance(solver, CasadiIntegrator):
        return
    name = type(solver).__name__
    if backend == "compiled":
        raise SolverError(f"backend='compiled': {name} is an integrator of CasADi; leave backend out, or use Rodas5P()")
    if model.is_dae and not model.nz:
        raise ModelError(
            f"model: {name} needs algebraic equations (nz=, algebraic=), this model has a singular mass matrix; use "
            f"Rodas5P(), or write rows without derivative as algebraic equations"
        )
    if has_events:
        raise SolverError(f"events: {name} does not take events; use Rodas5P() or Tsit5()")
