"""What the derivatives of a problem need of it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..integrate.batch import Batch
from ..model.ode import ControlledODE
from .expressions import Functions
from .initial import Start
from .machine import Machine
from .records import Times


class Posed(Protocol):
    """An objective without its parameters; `problem.Problem` documents the members."""

    model: ControlledODE
    machine: Machine
    start: Start
    times: Times
    batch: Batch
    functions: Functions
    n_params: int
    n_total: int
    dtype: np.dtype[Any]
    d: NDArray[Any]
    w: NDArray[Any]
    scale: NDArray[np.float64]

    @property
    def n_err(self) -> int:
        """States in the error norm."""

    def typed(self, theta: Float64Array) -> NDArray[Any]:
        """Theta in the precision of the sweeps."""

    def initial(self, theta: NDArray[Any]) -> NDArray[Any]:
        """Initial states of the sweeps."""
