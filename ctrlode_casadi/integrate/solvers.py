"""Solvers as frozen settings: the base of all, of one-step methods, and the explicit Runge-Kutta methods."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..base.errors import SolverError
from . import tableaus
from .tableaus import Tableau

if TYPE_CHECKING:
    import casadi as ca

    from ..model.ode import ControlledODE


def _positive(owner: str, name: str, value: object, *, zero: bool = False) -> None:
    """Raise `SolverError` unless value is a positive finite number."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(float(value))
    if not good or float(value) < 0 or (float(value) == 0 and not zero):  # type: ignore[arg-type]
        kind = "non-negative" if zero else "positive"
        raise SolverError(f"{owner}({name}=...): expected a {kind} finite number, got {value!r}")


def _count(owner: str, name: str, value: object) -> None:
    """Raise `SolverError` unless value is an integer of at least one."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < 1:
        raise SolverError(f"{owner}({name}=...): expected an integer of at least 1, got {value!r}")


class Solver:
    """Base of all solvers, frozen settings that are checked on construction and never change.

    1. `adaptive` says whether steps are controlled by an error estimate, `order` the order of a step.
    2. `integrates_dae` says whether the solver takes models with algebraic variables or a mass matrix.
    3. `Paths` chooses the engine by the solver's family; the families derive from this class, the methods of a family
       differ by data only.
    """

    integrates_dae: ClassVar[bool] = False

    @property
    def adaptive(self) -> bool:
        """Whether the step size is controlled by an error estimate."""
        raise NotImplementedError

    @property
    def order(self) -> int:
        """Order of a step."""
        raise NotImplementedError


@dataclass(frozen=True)
class OneStep(Solver):
    """Base of all one-step methods of the package: explicit Runge-Kutta and Rosenbrock.

    1. `tableau` gives the method; `adaptive` says whether steps are controlled by an error estimate.
    2. With fixed steps, `steps_per_interval` equal steps, or ``ceil(length / dt)`` of them, are taken between
       neighbouring points of the save times and the control's knots merged.
    3. Settings are checked on construction and never change.
    """

    steps_per_interval: int | None = None
    dt: float | None = None
    _table: ClassVar[Callable[[], Tableau]]

    @property
    def tableau(self) -> Tableau:
        """The method's coefficients."""
        return type(self)._table()

    @property
    def order(self) -> int:
        """Order of the method."""
        return self.tableau.order

    @property
    def adaptive(self) -> bool:
        """Whether the step size is controlled by an error estimate."""
        return False

    def step_function(self, model: ControlledODE, dt: float) -> ca.Function:
        """One step of length dt as a `casadi.Function` (t, x, u, p) -> xf; see `expressions.step_function`."""
        from .expressions import step_function

        return step_function(self, model, dt)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.steps_per_interval is not None and self.dt is not None:
            got = f"steps_per_interval={self.steps_per_interval!r} and dt={self.dt!r}"
            raise SolverError(f"{name}: give steps_per_interval or dt, not both; got {got}")
        if self.steps_per_interval is not None:
            _count(name, "steps_per_interval", self.steps_per_interval)
        if self.dt is not None:
            _positive(name, "dt", self.dt)


@dataclass(frozen=True)
class RungeKutta(OneStep):
    """Base of all explicit Runge-Kutta solvers."""


@dataclass(frozen=True)
class _FixedStep(RungeKutta):
    """A method without error estimate; ``steps_per_interval=1`` unless `dt` is given."""


@dataclass(frozen=True, kw_only=True)
class ErrorControl(OneStep):
    """A method with error estimate: adaptive unless `steps_per_interval` or `dt` is given.

    Parameters
    ----------
    rtol, atol
        Relative and absolute tolerance of the local error, as in SciPy: the root mean square over the states of
        ``error / (atol + rtol * max(|x|, |x'|))`` stays below one. `atol` may be a sequence with one entry per state.
        In single precision rtol is raised to 6e-6, fifty units of rounding.
    max_steps
        Limit on the trial steps of one trajectory; it grows by ten with every knot of the control that is passed.
    dt0
        First step; chosen by Hairer's algorithm when None.
    """

    rtol: float = 1e-6
    atol: float | tuple[float, ...] = 1e-8
    max_steps: int = 100_000
    dt0: float | None = None

    @property
    def adaptive(self) -> bool:
        """Whether the step size is controlled by an error estimate."""
        return self.steps_per_interval is None and self.dt is None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        _positive(name, "rtol", self.rtol, zero=True)
        if isinstance(self.atol, int | float | numbers.Real):
            _positive(name, "atol", self.atol, zero=True)
        else:
            try:
                entries = tuple(float(v) for v in self.atol)
            except (TypeError, ValueError) as exc:
                raise SolverError(f"{name}(atol=...): expected a number or one per state, got {self.atol!r}") from exc
            for v in entries:
                _positive(name, "atol", v, zero=True)
            object.__setattr__(self, "atol", entries)
        if self.rtol == 0 and (self.atol == 0 or (isinstance(self.atol, tuple) and 0.0 in self.atol)):
            raise SolverError(f"{name}: rtol and atol must not both be zero")
        _count(name, "max_steps", self.max_steps)
        if self.dt0 is not None:
            _positive(name, "dt0", self.dt0)


@dataclass(frozen=True, kw_only=True)
class _Embedded(ErrorControl, RungeKutta):
    """An explicit method with error estimate."""


class Euler(_FixedStep):
    """Explicit Euler method, order 1, one evaluation per step."""

    _table = staticmethod(tableaus.euler)


class Midpoint(_FixedStep):
    """Explicit midpoint rule, order 2, two evaluations per step."""

    _table = staticmethod(tableaus.midpoint)


class Heun(_FixedStep):
    """Heun's method, order 2, two evaluations per step."""

    _table = staticmethod(tableaus.heun)


class RK4(_FixedStep):
    """The classical Runge-Kutta method, order 4, four evaluations per step.

    Examples
    --------
    >>> RK4(steps_per_interval=2).order
    4
    """

    _table = staticmethod(tableaus.rk4)


class BS3(_Embedded):
    """Bogacki-Shampine pair of order 3(2): for loose tolerances, three evaluations per step."""

    _table = staticmethod(tableaus.bs3)


class Dopri5(_Embedded):
    """Dormand-Prince pair of order 5(4), six evaluations per step; the method of SciPy's RK45."""

    _table = staticmethod(tableaus.dopri5)


class Tsit5(_Embedded):
    """Tsitouras' pair of order 5(4), six evaluations per step: the usual choice for problems that are not stiff.

    Examples
    --------
    >>> Tsit5(rtol=1e-8, atol=1e-10).adaptive
    True
    """

    _table = staticmethod(tableaus.tsit5)


class DOP853(_Embedded):
    """Hairer's method of order 8(5,3) with dense output of order 7: for tight tolerances."""

    _table = staticmethod(tableaus.dop853)
