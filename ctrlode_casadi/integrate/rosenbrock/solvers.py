"""Rosenbrock methods for stiff systems, systems with a mass matrix, and DAEs of index 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..solvers import ErrorControl
from . import tableaus as rosenbrock_tableaus
from .tableaus import RosenbrockTableau


@dataclass(frozen=True, kw_only=True)
class RosenbrockMethod(ErrorControl):
    """Base of the linearly implicit (Rosenbrock) methods; settings as for the embedded explicit methods.

    1. A step solves linear systems only: one Jacobian, from CasADi's AD, and one factorisation serve all stages.
    2. The methods are stiffly accurate and L-stable: fast modes are damped, whatever the step.
    3. `tableau` is a `RosenbrockTableau`; methods differ by it only.
    """

    integrates_dae: ClassVar[bool] = True
    _table: ClassVar[Callable[[], RosenbrockTableau]]

    @property
    def tableau(self) -> RosenbrockTableau:
        """The method's coefficients."""
        return type(self)._table()


class Rodas4(RosenbrockMethod):
    """RODAS of Hairer & Wanner, order 4(3), six stages: for loose tolerances.

    Parameters
    ----------
    rtol, atol, max_steps, dt0
        As for `Tsit5`.
    steps_per_interval, dt
        Fixed steps instead.
    """

    _table = staticmethod(rosenbrock_tableaus.rodas4)


class Rodas5P(RosenbrockMethod):
    """Rodas5P (Steinebach 2023), order 5(4), eight stages, dense output of order 4: the choice for stiff systems.

    Integrates stiff ODEs, systems with a constant mass matrix, and DAEs of index 1.

    Parameters
    ----------
    rtol, atol, max_steps, dt0
        As for `Tsit5`.
    steps_per_interval, dt
        Fixed steps instead.

    Examples
    --------
    >>> Rodas5P(rtol=1e-8, atol=1e-10).order
    5
    """

    _table = staticmethod(rosenbrock_tableaus.rodas5p)
