"""What a controller can be connected to: a model, a simulator, a Python function or a `casadi.Function`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array, call, floats
from ...base.errors import DataError
from ...base.status import Status
from ...controls.constant import Constant
from ...integrate.simulator import Simulator
from ...integrate.solvers import Tsit5
from ...model.layout import ParameterLayout
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
class Values:
    """Parameters of a plant: the user's values, or a function of time that gives them."""

    layout: ParameterLayout
    source: PlantParameters
    rng: np.random.Generator
    _last: tuple[float, Float64Array] | None = None

    def __post_init__(self) -> None:
        if self.source is None and self.layout.n:
            raise DataError(f"p: the plant has np={self.layout.n} parameters; pass p= to closed_loop")

    @property
    def latest(self) -> Float64Array:
        """Those of the last step; zeros before any."""
        return np.zeros(self.layout.n) if self._last is None else self._last[1]

    def at(self, t: float) -> Float64Array:
        """Values at a time; a function is asked once per time."""
        if self._last is None or self._last[0] != t:
            p = self.source(t, self.rng) if callable(self.source) else self.source
            flat = np.zeros(0) if p is None and self.layout.n == 0 else self.layout.check([] if p is None else p, "p")
            self._last = t, np.asarray(flat, dtype=np.float64)
        return self._last[1]


@dataclass(eq=False)
class SimulatedPlant:
    """A model under a simulator, with parameters of its own."""

    simulator: Simulator
    parameters: Values
    counts: dict[str, int] = field(default_factory=_no_counts)

    @property
    def model(self) -> ControlledODE:
        """The simulated model."""
        return self.simulator.model

    @property
    def p(self) -> Float64Array:
        """Parameters of the last step; zeros before any."""
        return self.parameters.latest

    def advance(self, t: float, x: Float64Array, u: Float64Array, dt: float) -> tuple[Float64Array, Status]:
        """Integrate over one sampling time."""
        controls = Constant(u[None, None, :]) if self.model.nu else None
        result = self.simulator(x, controls, self.parameters.at(t), np.array([t, t + dt]))
        for name in self.counts:
            self.counts[name] += int(result.stats[name][0])
        return np.asarray(result.x[0, -1], dtype=np.float64), result.status[0]

    def output(self, t: float, x: Float64Array, u: Float64Array) -> Float64Array:
        """The model's output; the state where it has none."""
        if not self.model.has_output:
            return x
        return call(self.model.output_function, t, x, u, self.parameters.at(t))[0]


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


@dataclass(eq=False)
class StepPlant:
    """A `casadi.Function` that makes one step, with its inputs in any order.

    Attributes
    ----------
    function
        The step; its first output is the state after it.
    inputs
        What goes into each of its inputs: "t", "x", "u", "p", "dt", or "" for the input's default.
    names
        A model with the plant's states.
    parameters
        Values of p.
    """

    function: ca.Function
    inputs: tuple[str, ...]
    names: ControlledODE
    parameters: Values
    counts: dict[str, int] = field(default_factory=_no_counts)

    @property
    def model(self) -> ControlledODE:
        """A model with the function's states: the controller's where the numbers are equal."""
        return self.names

    @property
    def p(self) -> Float64Array:
        """Parameters of the last step; zeros before any."""
        return self.parameters.latest

    def advance(self, t: float, x: Float64Array, u: Float64Array, dt: float) -> tuple[Float64Array, Status]:
        """Evaluate the function; one that fails, such as an integrator, gives `SOLVER_FAILURE`."""
        f = self.function
        known: dict[str, Any] = {"t": t, "x": x, "u": u, "p": self.parameters.at(t), "dt": dt}
        arguments = [known.get(name, f.default_in(i)) for i, name in enumerate(self.inputs)]
        try:
            after = np.asarray(f.call([ca.DM(a) for a in arguments])[0].full()[:, 0], dtype=np.float64)
        except RuntimeError:
            return x, Status.SOLVER_FAILURE
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
        `ControlledODE`, `Simulator`, function or `casadi.Function`.
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
        return SimulatedPlant(plant, Values(plant.model.layout, p, rng))
    if not callable(plant):
        raise DataError(
            "plant: expected a ControlledODE, a Simulator, a function (x, u, t, dt) -> x_next or a casadi.Function "
            f"such as model.step(...), got {type(plant).__name__}"
        )
    size = np.size(floats("x0", x0))
    if isinstance(plant, ca.Function):
        return _step_plant(plant, size, model, values, p, rng)
    if p is not None:
        raise DataError("p: belongs to a plant that is a model; a function has its own parameters")
    if size == model.nx:
        return FunctionPlant(plant, model, values)
    return FunctionPlant(plant, _stand_in(size, model, 0), np.zeros(0))


def _stand_in(nx: int, model: ControlledODE, n_parameters: int) -> ControlledODE:
    """A model that only says how many states, controls and parameters a function's plant has."""
    return ControlledODE(
        lambda t, x, u, p: [0.0] * nx, nx, model.nu, params=n_parameters or None, control_names=model.control_names
    )


def _step_plant(
    f: ca.Function, nx: int, model: ControlledODE, values: Float64Array, p: PlantParameters, rng: np.random.Generator
) -> Plant:
    """A plant from a `casadi.Function`; its first output is the next state."""
    inputs = _inputs(f, nx, model.nu)
    if not f.n_out() or f.numel_out(0) != nx:
        raise DataError(f"plant: the first output of {f} must be the next state, ({nx},) as x0")
    n_parameters = sum(f.numel_in(i) for i, name in enumerate(inputs) if name == "p")
    if p is not None and not n_parameters:
        raise DataError(f"p: {f} has no input p")
    same = nx == model.nx and n_parameters in (0, model.np)
    names = model if same else _stand_in(nx, model, n_parameters)
    return StepPlant(f, inputs, names, Values(names.layout, p if n_parameters else values[: names.np], rng))


#: Names of the inputs of a step, and what they are; x0, xf and z0 are those of `casadi.integrator`.
_MEANINGS = {"t": "t", "x": "x", "u": "u", "p": "p", "dt": "dt", "x0": "x", "z0": ""}
#: Inputs by position, for functions whose inputs have no such names.
_ORDERS = (("t", "x", "u", "p"), ("x", "u", "t", "dt"), ("x", "u", "p"), ("x", "u"))


def _inputs(f: ca.Function, nx: int, nu: int) -> tuple[str, ...]:
    """What each input of a step is: by its name, else by the sizes in order."""
    sizes = {"t": 1, "x": nx, "u": nu, "dt": 1}
    given = [(name, f.numel_in(i)) for i, name in enumerate(f.name_in())]
    named = tuple(_MEANINGS.get(name, "") for name, _ in given)
    known = all(name in _MEANINGS or size == 0 for name, size in given)
    if known and named.count("x") == named.count("u") == 1:
        orders = [named]
    else:
        orders = [order for order in _ORDERS if len(order) == len(given)]
    fitting = [o for o in orders if all(sizes.get(name, size) == size for name, (_, size) in zip(o, given))]
    if len(fitting) != 1:
        why = "the sizes fit several orders: name the inputs" if fitting else f"nx={nx} as x0, nu={nu}"
        raise DataError(
            f"plant: a casadi.Function must make one step of mpc.dt, as model.step(solver, mpc.dt) with inputs "
            f"(t, x, u, p), or have inputs named x, u and any of t, p, dt; got {f} ({why})"
        )
    return fitting[0]
