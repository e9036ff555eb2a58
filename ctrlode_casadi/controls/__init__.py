"""Controls u(t): interpolation kinds, their polynomials for the time loops, and their CasADi expressions.

Numba is imported for the first large job, scipy.interpolate for the first slopes of a cubic kind.
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
