"""What a controller can be connected to: a model, a simulator, or a Python function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...base.arrays import Float64Array, call, floats
from ...base.errors import DataError
from ...base.status import Status
from ...controls.constant import Constant
from ...integrate.simulator import Simulator
from ...integrate.solvers import Tsit5
from ...model.ode import ControlledODE

#: Parameters of a plant: values, a mapping of all blocks, or a function ``(t, rng)`` of them.
PlantParameters = Any


class Plant(Protocol):
    """What `closed_loop` needs of a plant.

    1. `model` has as many states as the plant, and its names and output; `p` its parameters.
    2. `advance` returns the state after dt under a constant control, and the status: anything but SUCCESS ends the
       loop. `counts` holds the sums of the integrator's steps and right-hand sides.
    3. `output` is the measurement without noise.
    """

    counts: dict[str, int]

    @property
    def model(self) -> ControlledODE:
        """A model with the plant's states."""

    @property
    def p(self) -> Float64Array:
        """Parameters of the model, the latest."""

    def advance(self, t: float, x: Float64Array, u: Float64Array, dt: float) -> tuple[Float64Array, Status]:
        """The state after dt."""

    def output(self, t: float, x: Float64Array, u: Float64Array) -> Float64Array:
        """The measurement."""


def _no_counts() -> dict[str, int]:
    return {"n_steps": 0, "n_rejected": 0, "n_rhs": 0}


@dataclass(eq=False)
class SimulatedPlant:
    """A model under a simulator, with parameters of its own."""

    simulator: Simulator
    parameters: PlantParameters
    rng: np.random.Generator
    counts: dict[str, int] = field(default_factory=_no_counts)
    _last: tuple[float, Float64Array] | None = None

    @property
    def model(self) -> ControlledODE:
        """The simulated model."""
        return self.simulator.model

    @property
    def p(self) -> Float64Array:
        """Parameters of the last step; zeros before any."""
        return np.zeros(self.model.np) if self._last is None else self._last[1]

    def _parameters(self, t: float) -> Float64Array:
        """Values at a time; a function is asked once per time."""
        if self._last is None or self._last[0] != t:
            p = self.parameters(t, self.rng) if callable(self.parameters) else self.parameters
            layout = self.model.layout
            flat = np.zeros(0) if p is None and layout.n == 0 else layout.check([] if p is None else p, "p")
            self._last = t, np.asarray(flat, dtype=np.float64)
        return self._last[1]

    def advance(self, t: float, x: Float64Array, u: Float64Array, dt: float) -> tuple[Float64Array, Status]:
        """Integrate over one sampling time."""
        controls = Constant(u[None, None, :]) if self.model.nu else None
        result = self.simulator(x, controls, self._parameters(t), np.array([t, t + dt]))
        for name in self.counts:
            self.counts[name] += int(result.stats[name][0])
        return np.asarray(result.x[0, -1], dtype=np.float64), result.status[0]

    def output(self, t: float, x: Float64Array, u: Float64Array) -> Float64Array:
        """The model's output; the state where it has none."""
        if not self.model.has_output:
            return x
        return call(self.model.output_function, t, x, u, self._parameters(t))[0]


@dataclass(eq=False)
class FunctionPlant:
    """A Python function ``(x, u, t, dt) -> x_next``."""

    function: Callable[[Float64Array, Float64Array, float, float], Any]
    names: ControlledODE
    parameters: Float64Array
    counts: dict[str, int] = field(default_factory=_no_counts)

    @property
    def model(self) -> ControlledODE:
        """A model with the function's states: the controller's where the numbers are equal."""
        return self.names

    @property
    def p(self) -> Float64Array:
        """Parameters of that model."""
        return self.parameters

    def advance(self, t: float, x: Float64Array, u: Float64Array, dt: float) -> tuple[Float64Array, Status]:
        """Call the function on copies."""
        after = np.asarray(self.function(x.copy(), u.copy(), t, dt), dtype=np.float64).reshape(-1)
        if after.shape != x.shape:
            raise DataError(f"plant: must return {x.size} states, it returned shape {after.shape}")
        self.counts["n_steps"] += 1
        return after, Status.SUCCESS if np.isfinite(after).all() else Status.NON_FINITE

    def output(self, t: float, x: Float64Array, u: Float64Array) -> Float64Array:
        """The state."""
        return x


def make_plant(
    plant: Any,
    x0: Any,
    model: ControlledODE,
    values: Float64Array,
    p: PlantParameters,
    solver: Any,
    rng: np.random.Generator,
) -> Plant:
    """A plant from what the user gave.

    Parameters
    ----------
    plant
        `ControlledODE`, `Simulator` or function.
    x0
        Initial state, whose size a function's plant has.
    model, values
        The controller's model and its parameters.
    p, solver
        Parameters of a simulated plant, and the solver of a model (``Tsit5(rtol=1e-9, atol=1e-11)`` by default).
    rng
        For parameters that are a function.
    """
    if isinstance(plant, ControlledODE):
        plant = Simulator(plant, solver=solver or Tsit5(rtol=1e-9, atol=1e-11), threads=1)
    elif solver is not None:
        raise DataError("solver: belongs to a plant that is a ControlledODE; a Simulator has its own")
    if isinstance(plant, Simulator):
        if plant.model.nu != model.nu:
            raise DataError(f"plant: the controller has nu={model.nu} controls, the plant nu={plant.model.nu}")
        needed = plant.model.np
        if p is None and needed:
            raise DataError(f"p: the plant has np={needed} parameters; pass p= to closed_loop")
        return SimulatedPlant(plant, p, rng)
    if not callable(plant):
        raise DataError(
            "plant: expected a ControlledODE, a Simulator or a function (x, u, t, dt) -> x_next, got "
            f"{type(plant).__name__}"
        )
    if p is not None:
        raise DataError("p: belongs to a plant that is a model; a function has its own parameters")
    size = np.size(floats("x0", x0))
    if size == model.nx:
        return FunctionPlant(plant, model, values)
    other = ControlledODE(lambda t, x, u, p: [0.0] * size, nx=size, nu=model.nu, control_names=model.control_names)
    return FunctionPlant(plant, other, np.zeros(0))
