"""Controlled neural ODEs for people who optimise.

A model ``xdot = f(t, x, u, p)`` with neural networks inside is a CasADi graph. The same object is simulated and
differentiated in compiled SIMD lanes, trained with SciPy or IPOPT, and used in optimal control and other CasADi models.

Start with ``ControlledODE``, a control such as ``PiecewiseLinear``, ``Simulator`` and ``Objective``; docs/getting_started
shows them together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name -> module that defines it. Modules are imported when a name is first used, which keeps
#: ``import ctrlode_casadi`` fast: Numba, llvmlite, SciPy and matplotlib load on demand.
_HOME = {
    # networks and parameters
    "Chain": "model.layers",
    "Dense": "model.layers",
    "Skip": "model.combinators",
    "Parallel": "model.combinators",
    "Scale": "model.combinators",
    "Lambda": "model.combinators",
    "ParameterLayout": "model.layout",
    # model
    "ControlledODE": "model.ode",
    # controls
    "Constant": "controls.constant",
    "PiecewiseConstant": "controls.kinds",
    "PiecewiseLinear": "controls.kinds",
    "CubicSpline": "controls.cubic",
    "CubicHermite": "controls.cubic",
    "Pchip": "controls.cubic",
    "Akima": "controls.cubic",
    # solvers and simulation
    "Euler": "integrate.solvers",
    "Midpoint": "integrate.solvers",
    "Heun": "integrate.solvers",
    "RK4": "integrate.solvers",
    "BS3": "integrate.solvers",
    "Dopri5": "integrate.solvers",
    "Tsit5": "integrate.solvers",
    "DOP853": "integrate.solvers",
    "Adjoint": "integrate.sensitivity",
    "Forward": "integrate.sensitivity",
    "Simulator": "integrate.simulator",
    "Trajectories": "integrate.trajectories",
    # fitting
    "Objective": "fitting.objective",
    "Free": "fitting.initial",
    "InitialState": "fitting.initial",
    # compiled functions
    "compile": "lowering.batched",
    # errors
    "Status": "base.status",
    "CtrlodeError": "base.errors",
    "ModelError": "base.errors",
    "ControlError": "base.errors",
    "DataError": "base.errors",
    "SolverError": "base.errors",
    "UnsupportedOperation": "base.errors",
    "MissingExtra": "base.errors",
    "IntegrationWarning": "base.errors",
}
_MODULES = {"init": "model.init"}
_TABLES = {"activations": "model.activations"}

__all__ = ["__version__", *_HOME, *_MODULES, *_TABLES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOME or name in _TABLES:
        module = importlib.import_module(f".{(_HOME | _TABLES)[name]}", __name__)
        value = getattr(module, name)
    elif name in _MODULES:
        value = importlib.import_module(f".{_MODULES[name]}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
