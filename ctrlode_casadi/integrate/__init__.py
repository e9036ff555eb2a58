"""Time integration: methods as data, sweeps over lanes of trajectories, exact discrete adjoints.

`simulator` is the way in; `engine` runs batches through the compiled sweeps (`blocks` and below), `casadi_path` is the
plain evaluation of the same formulas for models that cannot be compiled.
"""

from __future__ import annotations

from .sensitivity import Adjoint, ContinuousAdjoint, Forward
from .simulator import Simulator
from .solvers import BS3, DOP853, RK4, Dopri5, Euler, Heun, Midpoint, RungeKutta, Tsit5
from .trajectories import Trajectories

__all__ = [
    "BS3",
    "DOP853",
    "RK4",
    "Adjoint",
    "ContinuousAdjoint",
    "Dopri5",
    "Euler",
    "Forward",
    "Heun",
    "Midpoint",
    "RungeKutta",
    "Simulator",
    "Trajectories",
    "Tsit5",
]
