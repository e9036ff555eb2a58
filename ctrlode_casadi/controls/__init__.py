"""Controls u(t): interpolation kinds, their polynomials for the time loops, and their CasADi expressions.

Numba and scipy.interpolate are imported when a control is first evaluated.
"""

from .constant import Constant
from .control import Control
from .cubic import Akima, CubicHermite, CubicSpline, Pchip
from .kinds import PiecewiseConstant, PiecewiseLinear
from .pieces import Pieces

__all__ = [
    "Akima",
    "Constant",
    "Control",
    "CubicHermite",
    "CubicSpline",
    "Pchip",
    "Pieces",
    "PiecewiseConstant",
    "PiecewiseLinear",
]
