"""What checks and graph nodes need of an objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ..base.arrays import Float64Array
from .failures import Failure

if TYPE_CHECKING:
    from ..integrate.simulator import Simulator


class Differentiable(Protocol):
    """A scalar function of np_total parameters with derivatives; `Objective` documents the members."""

    sim: Simulator
    np_total: int
    last_failure: Failure | None

    def __call__(self, p: Any) -> tuple[float, Float64Array]:
        """Value and gradient."""

    def value(self, p: Any) -> float:
        """Value."""

    def hess(self, p: Any) -> Float64Array:
        """Hessian."""

    def derivative_along(self, p: Any, v: Any) -> float:
        """Directional derivative by a forward sweep."""

    def names(self) -> list[str]:
        """Names of the parameters."""

    def simulation(self, p: Any) -> tuple[Any, Any, Any, Any]:
        """Initial states, controls, parameters and save times."""

    def with_simulator(self, sim: Simulator) -> Differentiable:
        """The same on another simulator."""
