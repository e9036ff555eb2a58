"""Controlled neural ODEs for people who optimise.

A model ``xdot = f(t, x, u, p)`` with neural networks inside is a CasADi graph. The same object is simulated and
differentiated in compiled SIMD lanes, trained with SciPy or IPOPT, and used in optimal control and other CasADi models.

Start with ``ControlledODE``, a control such as ``PiecewiseLinear``, ``Simulator`` and ``Objective``;
docs/getting_started shows them together.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers, which do not see through __getattr__
    from .base.errors import (
        ControlError as ControlError,
        CtrlodeError as CtrlodeError,
        DataError as DataError,
        IntegrationWarning as IntegrationWarning,
        MissingExtra as MissingExtra,
        ModelError as ModelError,
        SolverError as SolverError,
        UnsupportedOperation as UnsupportedOperation,
    )
    from .base.status import Status as Status
    from .controls.constant import Constant as Constant
    from .controls.cubic import Akima as Akima, CubicHermite as CubicHermite, CubicSpline as CubicSpline, Pchip as Pchip
    from .controls.kinds import PiecewiseConstant as PiecewiseConstant, PiecewiseLinear as PiecewiseLinear
    from .fitting.check.objective import check_gradient as check_gradient
    from .fitting.check.report import GradientReport as GradientReport
    from .fitting.initial import Free as Free, InitialState as InitialState
    from .fitting.objective import Objective as Objective
    from .integrate.auto.solver import Auto as Auto
    from .integrate.hybrid.events import Event as Event, EventLog as EventLog
    from .integrate.integrators.collocation import Collocation as Collocation
    from .integrate.integrators.solvers import CVODES as CVODES, ERK as ERK, IDAS as IDAS, Rosenbrock as Rosenbrock
    from .integrate.rosenbrock.solvers import Rodas4 as Rodas4, Rodas5P as Rodas5P
    from .integrate.sensitivity import Adjoint as Adjoint, ContinuousAdjoint as ContinuousAdjoint, Forward as Forward
    from .integrate.simulator import Simulator as Simulator
    from .integrate.solvers import (
        BS3 as BS3,
        DOP853 as DOP853,
        RK4 as RK4,
        Dopri5 as Dopri5,
        Euler as Euler,
        Heun as Heun,
        Midpoint as Midpoint,
        Tsit5 as Tsit5,
    )
    from .integrate.trajectories import Trajectories as Trajectories
    from .lowering.batched import compile as compile
    from .model import init as init
    from .model.activations import activations as activations
    from .model.combinators import Lambda as Lambda, Parallel as Parallel, Scale as Scale, Skip as Skip
    from .model.layers import Chain as Chain, Dense as Dense
    from .model.layout import ParameterLayout as ParameterLayout
    from .model.ode import ControlledODE as ControlledODE
    from .ocp.definition import Soft as Soft
    from .ocp.mhe.estimator import MHE as MHE
    from .ocp.mpc.closed_loop import ClosedLoop as ClosedLoop, closed_loop as closed_loop
    from .ocp.mpc.controller import MPC as MPC
    from .ocp.mpc.stats import (
        ControllerWarning as ControllerWarning,
        StepRecord as StepRecord,
        StepStats as StepStats,
    )
    from .ocp.problem import OptimalControlProblem as OptimalControlProblem
    from .ocp.refinement import Refinement as Refinement
    from .ocp.solution import OptimalControlSolution as OptimalControlSolution
    from .ocp.status import SolveStatus as SolveStatus
    from .training.fit import fit as fit

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
    "Rodas4": "integrate.rosenbrock.solvers",
    "Rodas5P": "integrate.rosenbrock.solvers",
    "Auto": "integrate.auto.solver",
    "CVODES": "integrate.integrators.solvers",
    "IDAS": "integrate.integrators.solvers",
    "Collocation": "integrate.integrators.collocation",
    "ERK": "integrate.integrators.solvers",
    "Rosenbrock": "integrate.integrators.solvers",
    "Adjoint": "integrate.sensitivity",
    "Forward": "integrate.sensitivity",
    "ContinuousAdjoint": "integrate.sensitivity",
    "Simulator": "integrate.simulator",
    "Event": "integrate.hybrid.events",
    "EventLog": "integrate.hybrid.events",
    "Trajectories": "integrate.trajectories",
    # fitting
    "Objective": "fitting.objective",
    "check_gradient": "fitting.check.objective",
    "GradientReport": "fitting.check.report",
    "Free": "fitting.initial",
    "InitialState": "fitting.initial",
    "fit": "training.fit",
    # optimal control
    "OptimalControlProblem": "ocp.problem",
    "MPC": "ocp.mpc.controller",
    "closed_loop": "ocp.mpc.closed_loop",
    "ClosedLoop": "ocp.mpc.closed_loop",
    "MHE": "ocp.mhe.estimator",
    "StepStats": "ocp.mpc.stats",
    "StepRecord": "ocp.mpc.stats",
    "ControllerWarning": "ocp.mpc.stats",
    "OptimalControlSolution": "ocp.solution",
    "SolveStatus": "ocp.status",
    "Soft": "ocp.definition",
    "Refinement": "ocp.refinement",
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

__all__ = ["__version__", *_HOME, *_MODULES, *_TABLES]


def __getattr__(name: str) -> Any:
    if name in _HOME or name in _TABLES:
        module = importlib.import_module(f".{(_HOME | _TABLES)[name]}", __name__)
        value = getattr(module, name)
    elif name in _MODULES:
        value = importlib.import_module(f".{_MODULES[name]}", __name__)
    else:
        from .base.errors import unknown_name

        raise AttributeError(unknown_name(__name__, name, __all__), name=name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
