"""From functions and a solver to an engine: the one place that knows what a family of solvers needs compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import casadi as ca
import numpy as np

from ..base.errors import UnsupportedOperation
from ..base.processors import available_threads
from ..model.dae import is_singular
from .auto.engine import AutoEngine
from .auto.solver import Auto
from .engine import Engine
from .rosenbrock.jacobian import Structure, make_linear_part
from .rosenbrock.solvers import RosenbrockMethod
from .solvers import OneStep


def make_engine(
    kernels: Any,
    function: ca.Function,
    solver: OneStep,
    *,
    n_err: int,
    n_threads: int | None,
    structure: Structure | None = None,
    cost: ca.Function | None = None,
    terminal: ca.Function | None = None,
    nd: int = 0,
    nw: int = 0,
    n_slopes: int = 0,
) -> Engine:
    """The engine of a solver for a right-hand side (t, x, u, p) and its lane kernels.

    Parameters
    ----------
    kernels, function
        The right-hand side, compiled and as a function.
    solver
        Explicit Runge-Kutta or Rosenbrock method, or `Auto`.
    n_err
        The error norm uses the first `n_err` states.
    n_threads
        Number of threads, None for all processors.
    structure
        Blocks and mass matrix of the system, for Rosenbrock methods; one block and no mass matrix by default.
    cost, terminal, nd, nw, n_slopes
        As in `Engine`, as functions.

    Raises
    ------
    UnsupportedOperation
        If a function contains an operation that has no compiled form.
    """
    from ..lowering.forward_kernels import forward_kernels
    from ..lowering.kernels import lane_kernels

    make = forward_kernels if n_slopes else lane_kernels

    def compiled(f: ca.Function | None) -> Any:
        return None if f is None else make(f, "p", lanes=kernels.lanes, dtype=kernels.dtype)

    stiff: Callable[[], Engine] | None = None
    if isinstance(solver, Auto):
        stiff = partial(
            make_engine, kernels, function, solver.stiff_solver, n_err=n_err, n_threads=n_threads, structure=structure,
            cost=cost, terminal=terminal, nd=nd, nw=nw, n_slopes=n_slopes,
        )  # fmt: skip
        if structure is not None and structure.mass is not None:
            return stiff()
        solver = solver.explicit_solver
    linear = None
    if isinstance(solver, RosenbrockMethod):
        linear = make_linear_part(function, structure or Structure(), solver.tableau, kernels.dtype, kernels.lanes)
    arguments = kernels, function.numel_in(1), function.numel_in(2), function.numel_in(3), solver
    options: dict[str, Any] = {
        "n_err": n_err, "cost": compiled(cost), "terminal": compiled(terminal), "nd": nd, "nw": nw,
        "n_slopes": n_slopes, "n_threads": n_threads, "linear": linear,
    }  # fmt: skip
    if stiff is not None:
        return AutoEngine(*arguments, **options, stiff=stiff)
    if structure is None or structure.mass is None or not is_singular(structure.mass):
        return Engine(*arguments, **options)
    from .rosenbrock.consistent import ConsistentStates
    from .rosenbrock.dae_engine import DaeEngine

    dtype, count = np.dtype(kernels.dtype), n_threads or available_threads()
    return DaeEngine(*arguments, **options, consistent=ConsistentStates(function, structure, dtype, count))


def compiled_only(solver: OneStep, reason: object) -> UnsupportedOperation:
    """The error for a Rosenbrock method where there is no compiled path."""
    return UnsupportedOperation(
        f"solver: {type(solver).__name__} runs in compiled form only, and {reason}; use CVODES(), or IDAS() for a DAE"
    )
