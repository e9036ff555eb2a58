"""Settings of the automatic choice between an explicit and a stiff method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...base.errors import SolverError
from ..rosenbrock.solvers import Rodas5P, RosenbrockMethod
from ..solvers import ErrorControl, RungeKutta, Tsit5
from ..tableaus import Tableau

if TYPE_CHECKING:
    import casadi as ca

    from ...model.ode import ControlledODE


@dataclass(frozen=True, kw_only=True)
class Auto(ErrorControl):
    """Starts every trajectory explicitly, and integrates those that turn out to be stiff with a stiff method.

    The explicit method tests for stiffness as it goes, without further evaluations (Hairer & Wanner II, IV.2). A
    trajectory that is found stiff is integrated from its start by the stiff method with the same settings, so that its
    states, steps and derivatives are those of this method alone. The choice depends on the trajectory only. What was
    found is in ``sol.stats["stiff"]`` and in ``sim.explain()``. DAEs go to the stiff method at once. ``solver="auto"``
    stands for ``Auto()``.

    Parameters
    ----------
    rtol, atol, max_steps, dt0
        As for `Tsit5`, for both methods.
    explicit
        `Tsit5` or `Dopri5`, the class.
    stiff
        `Rodas5P` or `Rodas4`, the class.

    Raises
    ------
    SolverError
        For bad settings, or an explicit method without a stiffness test.

    Examples
    --------
    >>> Auto(rtol=1e-8, atol=1e-10).stiff_solver.rtol
    1e-08
    """

    steps_per_interval: None = field(default=None, init=False, repr=False)
    dt: None = field(default=None, init=False, repr=False)
    explicit: type[ErrorControl] = Tsit5
    stiff: type[RosenbrockMethod] = Rodas5P
    integrates_dae: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.explicit
        if not (isinstance(kind, type) and issubclass(kind, RungeKutta) and issubclass(kind, ErrorControl)):
            raise SolverError(f"Auto(explicit=...): expected the class Tsit5 or Dopri5, got {kind!r}")
        if kind().tableau.stability is None:
            raise SolverError(f"Auto(explicit=...): {kind.__name__} has no stiffness test; use Tsit5 or Dopri5")
        if not (isinstance(self.stiff, type) and issubclass(self.stiff, RosenbrockMethod)):
            raise SolverError(f"Auto(stiff=...): expected the class Rodas5P or Rodas4, got {self.stiff!r}")

    def __repr__(self) -> str:
        parts = [f"{name}={value!r}" for name, value in self._settings.items()]
        return f"Auto({', '.join(parts)}, explicit={self.explicit.__name__}, stiff={self.stiff.__name__})"

    @property
    def tableau(self) -> Tableau:
        """Coefficients of the explicit method."""
        return self.explicit_solver.tableau

    @property
    def explicit_solver(self) -> ErrorControl:
        """The explicit method with these settings."""
        return self.explicit(**self._settings)

    @property
    def stiff_solver(self) -> RosenbrockMethod:
        """The stiff method with these settings."""
        return self.stiff(**self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps, "dt0": self.dt0}

    def step_function(self, model: ControlledODE, dt: float) -> ca.Function:
        """Refuse: there is no single step without a choice."""
        raise SolverError(
            "solver: Auto chooses its method by trajectory and has no step of its own; use Tsit5() or Rodas5P()"
        )


def solver_named(solver: Any) -> Any:
    """A solver as it was given, ``Auto()`` for "auto"."""
    return Auto() if isinstance(solver, str) and solver == "auto" else solver
