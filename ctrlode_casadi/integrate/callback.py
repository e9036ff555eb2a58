"""The compiled simulation as a node of a CasADi graph, with exact first derivatives.

CasADi calls back into Python: the value is a simulation, forward derivatives are `Simulator.jvp`, reverse
derivatives `Simulator.vjp`, that is, the derivatives of the numbers actually computed. With fixed steps second
and higher derivatives come from the expression of the same steps.

Life: CasADi refers to a Callback without owning it, so a node lives as long as the process. Make a node once,
not once per solve.

Threads: a node has no state of its own and may be evaluated from several threads at once, also by
``map(n, "thread")``. Python's part of a call holds the interpreter's lock; the compiled part does not.

A function that contains a node cannot be pickled or turned into C code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, Protocol, TypeAlias

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..base.errors import SolverError, UnsupportedOperation, unknown_name
from ..controls.control import Control
from ..model.ode import ControlledODE
from .auto.solver import Auto
from .expressions import check_single, control_shape, simulation_function
from .hybrid.events import Event
from .integrators.expressions import integrator_simulation
from .integrators.solvers import CasadiIntegrator
from .problem import check_controls, check_times

#: Nonzeros of an input or output in column-major order; None for an input of zeros or an output nobody needs.
Buffer: TypeAlias = memoryview | None
#: Names of the inputs and of the outputs.
Names: TypeAlias = tuple[Sequence[str], Sequence[str]]

_FORMS = ("auto", "expression", "callback")
_numbers = count()
_alive: list[ca.Callback] = []


class SimulatorLike(Protocol):
    """What a node asks of a simulator; all arrays are those of one trajectory."""

    @property
    def model(self) -> ControlledODE:
        """The model."""

    @property
    def solver(self) -> Any:
        """The solver."""

    @property
    def dtype(self) -> Any:
        """Precision of the compiled code."""

    @property
    def events(self) -> tuple[Event, ...]:
        """Events; empty for none."""

    def __call__(self, x0: Any, controls: Any, p: Any, ts: Any) -> Any:
        """A solution with states x (1, T, nx)."""

    def vjp(self, x0: Any, controls: Any, p: Any, ts: Any, xbar: Any) -> tuple[Any, Any, Any]:
        """p_bar, x0_bar, u_bar for xbar (1, T, nx)."""

    def jvp(self, x0: Any, controls: Any, p: Any, ts: Any, dp: Any, dx0: Any, du: Any) -> Any:
        """dx (1, T, nx)."""


def casadi_simulation(sim: SimulatorLike, ts: Any, controls: Control | None = None, form: str = "auto") -> ca.Function:
    """The simulation of one trajectory as a `casadi.Function` (x0, U, p) -> X.

    Parameters
    ----------
    sim, ts, controls
        As in `simulation_callback`.
    form
        "expression" (`simulation_function`: derivatives of any order, fixed steps only), "callback"
        (`simulation_callback`: compiled, faster, not for C code), or "auto" (default): an expression with fixed
        steps, a callback with adaptive ones.
    """
    if form not in _FORMS:
        raise SolverError(unknown_name("form", form, _FORMS))
    if isinstance(sim.solver, CasadiIntegrator) and form != "callback":
        return integrator_simulation(sim.model, sim.solver, ts, controls)
    if form == "callback" or (form == "auto" and (sim.solver.adaptive or sim.events)):
        return simulation_callback(sim, ts, controls)
    if sim.events:
        raise UnsupportedOperation(
            "form: there is no expression of a simulation with events, whose number depends on the values; use "
            "form='callback', which has first derivatives"
        )
    return simulation_function(sim.model, sim.solver, ts, controls)


def simulation_callback(sim: SimulatorLike, ts: Any, controls: Control | None = None) -> ca.Function:
    """A compiled simulation of one trajectory as a `casadi.Function`.

    Parameters
    ----------
    sim
        The simulator.
    ts
        Save times (T,), strictly increasing; ``ts[0]`` is the initial time.
    controls
        The control of one trajectory, whose values are replaced by the input U; None without control.

    Returns
    -------
    casadi.Function
        ``(x0, U, p) -> X`` with x0 (nx,), U (nu, K) one column per knot, (nu, 1) for `Constant` and (0, 0)
        without control, p (np,), X (nx, T). First derivatives are exact; higher ones need fixed steps. States
        after a failure are NaN, at which CasADi's solvers shorten their step; derivatives of the failed
        trajectory come with an `IntegrationWarning`.

    Raises
    ------
    ControlError
        If the control has more than one trajectory, another nu than the model, or does not cover ts.
    DataError
        If ts is not strictly increasing, or the control has another float type than the simulator.
    UnsupportedOperation
        If the model is a DAE.
    """
    if sim.model.nz:
        raise UnsupportedOperation(
            f"model: the compiled callback needs an ODE, the model has nz={sim.model.nz} algebraic variables; "
            "use casadi.integrator with model.to_dae()"
        )
    times = check_times(ts)
    check_single(sim.model, controls)
    check_controls(controls, sim.model.nu, np.dtype(sim.dtype))
    if controls is not None:
        controls.pieces(float(times[0]), float(times[-1]))
    return _Value(_Task(sim, times, controls, [controls]))


@dataclass(frozen=True, eq=False)
class _Task:
    """A simulation of one trajectory on flat buffers."""

    sim: SimulatorLike
    ts: Float64Array
    controls: Control | None
    #: The control of the last call, replaced as a whole; the simulator prepares each control object once.
    recent: list[Control | None]

    @cached_property
    def inputs(self) -> tuple[tuple[int, int], ...]:
        """Shapes of x0, U and p."""
        model = self.sim.model
        return (model.nx, 1), control_shape(self.controls), (model.np, 1)

    @cached_property
    def output(self) -> tuple[int, int]:
        """Shape of X."""
        return self.sim.model.nx, self.ts.size

    @cached_property
    def exact(self) -> ca.Function:
        """The expression of the same steps, for second derivatives."""
        make = integrator_simulation if isinstance(self.sim.solver, CasadiIntegrator) else simulation_function
        return make(self.sim.model, self.sim.solver, self.ts, self.controls)

    def vector(self, buffer: Buffer, i: int) -> NDArray[Any]:
        """A buffer of the shape of input i as a vector of the simulator's precision."""
        return _read(buffer, self.inputs[i]).astype(np.dtype(self.sim.dtype))

    def values(self, buffer: Buffer) -> NDArray[Any] | None:
        """A buffer of the shape of U as control values (1, K, nu) in the control's precision."""
        if self.controls is None:
            return None
        nu, K = self.inputs[1]
        return _read(buffer, (nu, K)).astype(self.controls.values.dtype).reshape(1, K, nu)

    def arguments(self, arg: Sequence[Buffer]) -> tuple[Any, Any, Any, Float64Array]:
        """x0, controls, p, ts from the first three buffers."""
        return self.vector(arg[0], 0), self.control(arg[1]), self.vector(arg[2], 2), self.ts

    def control(self, buffer: Buffer) -> Control | None:
        """The control with the values of a buffer."""
        values, last = self.values(buffer), self.recent[0]
        if last is None or values is None or np.array_equal(last.values, values):
            return last
        self.recent[0] = new = last.with_values(values)
        return new


def _read(buffer: Buffer, shape: tuple[int, int]) -> Float64Array:
    """The nonzeros of a dense input as a vector."""
    return np.zeros(shape[0] * shape[1]) if buffer is None else np.frombuffer(buffer, np.float64)


def _write(buffer: Buffer, array: Any) -> None:
    """Fill an output. Axes (time, component) in row-major order are (component, time) in CasADi's order."""
    if buffer is not None:
        np.frombuffer(buffer, np.float64)[:] = np.asarray(array).reshape(-1)


class _Node(ca.Callback):
    """A Callback on buffers, with inputs and outputs of given sparsity."""

    def __init__(
        self, name: str, task: _Task, inputs: Sequence[ca.Sparsity], outputs: Sequence[ca.Sparsity], names: Names
    ) -> None:
        ca.Callback.__init__(self)
        self._task = task
        self._inputs, self._outputs, self._names = list(inputs), list(outputs), names
        _alive.append(self)
        self.construct(name, {})

    def get_n_in(self) -> int:
        """Number of inputs."""
        return len(self._inputs)

    def get_n_out(self) -> int:
        """Number of outputs."""
        return len(self._outputs)

    def get_sparsity_in(self, i: int) -> ca.Sparsity:
        """Sparsity of input i."""
        return self._inputs[i]

    def get_sparsity_out(self, i: int) -> ca.Sparsity:
        """Sparsity of output i."""
        return self._outputs[i]

    def get_name_in(self, i: int) -> str:
        """Name of input i."""
        return self._names[0][i]

    def get_name_out(self, i: int) -> str:
        """Name of output i."""
        return self._names[1][i]

    def has_eval_buffer(self) -> bool:
        """Buffers are passed in place, not copied."""
        return True

    def has_forward(self, nfwd: int) -> bool:
        """One direction at a time; CasADi loops."""
        return nfwd == 1

    def has_reverse(self, nadj: int) -> bool:
        """One direction at a time; CasADi loops."""
        return nadj == 1

    def get_forward(self, nfwd: int, name: str, inames: Sequence[str], onames: Sequence[str], opts: Any) -> ca.Function:
        """Function of the inputs, the outputs and one seed per input."""
        return self.derivative(True, name, (inames, onames))

    def get_reverse(self, nadj: int, name: str, inames: Sequence[str], onames: Sequence[str], opts: Any) -> ca.Function:
        """Function of the inputs, the outputs and one seed per output."""
        return self.derivative(False, name, (inames, onames))

    def derivative(self, forward: bool, name: str, names: Names) -> ca.Function:
        """Derivative in one direction, forward or reverse, with the given names of inputs and outputs."""
        raise NotImplementedError


class _Value(_Node):
    """(x0, U, p) -> X."""

    def __init__(self, task: _Task) -> None:
        shapes = [ca.Sparsity.dense(*shape) for shape in task.inputs]
        name = f"compiled_simulation_{next(_numbers)}"
        super().__init__(name, task, shapes, [ca.Sparsity.dense(*task.output)], (("x0", "U", "p"), ("X",)))

    def eval_buffer(self, arg: Sequence[Buffer], res: Sequence[Buffer]) -> int:
        """One simulation."""
        x0, controls, p, ts = self._task.arguments(arg)
        _write(res[0], self._task.sim(x0, controls, p, ts).x)
        return 0

    def derivative(self, forward: bool, name: str, names: Names) -> ca.Function:
        """(x0, U, p, X, dx0, dU, dp) -> dX, or (x0, U, p, X, X_bar) -> x0_bar, U_bar, p_bar; X is not used."""
        return _Derivative(name, self._task, forward, names)


class _Derivative(_Node):
    """Forward or reverse derivative of the simulation in one direction."""

    def __init__(self, name: str, task: _Task, forward: bool, names: Names) -> None:
        primal = [ca.Sparsity.dense(*shape) for shape in task.inputs]
        states = ca.Sparsity.dense(*task.output)
        unused = ca.Sparsity(*task.output)  # the derivative needs no value, so CasADi need not compute it
        self._forward = forward
        seeds, results = (primal, [states]) if forward else ([states], primal)
        super().__init__(name, task, [*primal, unused, *seeds], results, names)

    def eval_buffer(self, arg: Sequence[Buffer], res: Sequence[Buffer]) -> int:
        """One tangent or one adjoint sweep."""
        task = self._task
        x0, controls, p, ts = task.arguments(arg)
        if self._forward:
            dx0, dp = (None if arg[4 + i] is None else task.vector(arg[4 + i], i) for i in (0, 2))
            du = None if arg[5] is None else task.values(arg[5])
            _write(res[0], task.sim.jvp(x0, controls, p, ts, dp=dp, dx0=dx0, du=du))
            return 0
        nx, T = task.output
        xbar = _read(arg[4], task.output).astype(np.dtype(task.sim.dtype)).reshape(1, T, nx)
        p_bar, x0_bar, u_bar = task.sim.vjp(x0, controls, p, ts, xbar)
        for buffer, bar in zip(res, (x0_bar, [] if controls is None else u_bar, p_bar)):
            _write(buffer, bar)
        return 0

    def derivative(self, forward: bool, name: str, names: Names) -> ca.Function:
        """Second derivatives, from the expression."""
        exact = self._exact()
        return exact.forward(1) if forward else exact.reverse(1)

    def _exact(self) -> ca.Function:
        """The same derivative of the expression of the simulation, with the inputs of this node."""
        solver = self._task.sim.solver
        if self._task.sim.events:
            raise UnsupportedOperation(
                "second derivatives of a simulation with events are not available; use a Hessian approximation "
                "({'ipopt.hessian_approximation': 'limited-memory'})"
            )
        if solver.adaptive and not isinstance(solver, CasadiIntegrator):
            name = "Tsit5" if isinstance(solver, Auto) else type(solver).__name__
            raise UnsupportedOperation(
                f"second derivatives of the compiled simulation with adaptive steps are not available; "
                f"use fixed steps, {name}(steps_per_interval=...), whose simulation is a CasADi expression with "
                "derivatives of any order, or a Hessian approximation "
                "({'ipopt.hessian_approximation': 'limited-memory'})"
            )
        value = self._task.exact
        other = value.forward(1) if self._forward else value.reverse(1)
        symbols = [ca.MX.sym(n, s) for n, s in zip(self.name_in(), self._inputs)]
        results = other.call(symbols)
        return ca.Function("exact", symbols, results)
