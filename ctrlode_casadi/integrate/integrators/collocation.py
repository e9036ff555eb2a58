"""CasADi's collocation as frozen settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...base.arrays import Float64Array
from ...base.errors import SolverError, unknown_name
from ..solvers import _count
from .solvers import CasadiIntegrator


@dataclass(frozen=True, kw_only=True)
class Collocation(CasadiIntegrator):
    """Collocation with fixed steps through CasADi: an implicit Runge-Kutta method for stiff models and DAEs of index 1.

    Parameters
    ----------
    degree
        Number of collocation points in a step, 1 to 9.
    scheme
        "radau" (default): order ``2 degree - 1`` at the ends of steps, stiffly accurate; "legendre": ``2 degree``.
    steps_per_interval
        Number of equal steps between neighbouring points of the save times and the control's knots merged.
    options
        More options of ``casadi.integrator(..., "collocation", ...)``, such as ``rootfinder_options``.

    Examples
    --------
    >>> Collocation(4, "legendre").order
    8
    """

    degree: int = field(default=3, kw_only=False)
    scheme: str = field(default="radau", kw_only=False)
    steps_per_interval: int = 1

    plugin: ClassVar[str] = "collocation"
    integrates_dae: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _count("Collocation", "degree", self.degree)
        if self.degree > 9:
            raise SolverError(f"Collocation(degree=...): expected 1 to 9, got {self.degree!r}")
        if self.scheme not in ("radau", "legendre"):
            raise SolverError(unknown_name("Collocation(scheme=...)", self.scheme, ("radau", "legendre")))
        _count("Collocation", "steps_per_interval", self.steps_per_interval)

    @property
    def adaptive(self) -> bool:
        """Whether the step size is controlled by an error estimate: never."""
        return False

    @property
    def order(self) -> int:
        """Order of a step at its end."""
        return 2 * self.degree - (1 if self.scheme == "radau" else 0)

    def casadi_options(self) -> dict[str, Any]:
        """CasADi's options."""
        made = {
            "number_of_finite_elements": int(self.steps_per_interval),
            "interpolation_order": int(self.degree),
            "collocation_scheme": self.scheme,
        }
        # Without the check, Newton's method takes NaN for convergence and the step does not move.
        newton = {"show_eval_warnings": False, "regularity_check": True}
        own = self.options.get("rootfinder_options", {})
        return {**made, **self.options, "rootfinder_options": {**newton, **own}}

    def size_of(self, state: Float64Array) -> float:
        """A power of ten: CasADi's Newton iterations end at changes of 1e-12, which is rounding for states of 1e4."""
        largest = float(np.abs(state).max(initial=0.0))
        return 10.0 ** max(0, math.ceil(math.log10(largest / 100.0))) if 100.0 < largest < math.inf else 1.0

    def integrator_options(self, length: float, has_algebraic: bool = False, size: float = 1.0) -> dict[str, Any]:
        """CasADi's options, with tolerances of Newton's method for states of this size."""
        made = super().integrator_options(length, has_algebraic)
        if size > 1.0 and "rootfinder" not in self.options:
            newton = {"abstol": 1e-12 * size, "abstolStep": 1e-12 * size}
            made["rootfinder_options"] = {**newton, **made["rootfinder_options"]}
        return made
