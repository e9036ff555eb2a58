"""Events: what a user declares, and what a simulation reports of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ...base.errors import ModelError, SolverError
from ...model.ode import ControlledODE
from ...model.trace import expression

Source: TypeAlias = Callable[..., Any] | ca.Function


@dataclass(frozen=True, eq=False)
class Event:
    """A condition on the state whose zero starts something: a jump of the state, the end, or only an entry in a list.

    Parameters
    ----------
    condition
        ``condition(t, x, u, p)`` returns a scalar CasADi expression; the event is where it changes its sign. The
        arguments are those of the model's right-hand side. A `casadi.Function` with these inputs will do.
    jump
        ``jump(t, x, u, p)`` returns nx expressions, the state just after the event; None leaves the state as it is.
    direction
        1: only from negative to positive, -1: only from positive to negative, 0 (default): both.
    terminal
        Whether the trajectory ends at the event. Its status is SUCCESS, and its later rows are NaN.
    name
        For messages and plots.

    Raises
    ------
    ModelError
        If an argument is of the wrong kind.

    Examples
    --------
    A ball that loses a part of its speed at the ground:

    >>> bounce = Event(lambda t, x, u, p: x[0], lambda t, x, u, p: [x[0], -0.8 * x[1]], direction=-1)
    """

    condition: Source
    jump: Source | None = None
    direction: int = 0
    terminal: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.condition):
            raise ModelError(f"condition: expected a callable condition(t, x, u, p), got {self.condition!r}")
        if self.jump is not None and not callable(self.jump):
            raise ModelError(f"jump: expected a callable jump(t, x, u, p) or None, got {self.jump!r}")
        if self.direction not in (-1, 0, 1):
            raise ModelError(f"direction: expected -1 (falling), 0 (both) or 1 (rising), got {self.direction!r}")
        if not isinstance(self.terminal, bool):
            raise ModelError(f"terminal: expected True or False, got {self.terminal!r}")
        if self.name is not None and not isinstance(self.name, str):
            raise ModelError(f"name: expected a string or None, got {self.name!r}")


@dataclass(frozen=True, eq=False)
class EventLog:
    """The events of one trajectory, in the order of time.

    Attributes
    ----------
    t
        Times (E,).
    index
        Which of the simulator's events happened, (E,).
    before, after
        States (E, nx) just before and just after.
    """

    t: NDArray[np.float64]
    index: NDArray[np.int64]
    before: NDArray[Any]
    after: NDArray[Any]

    def __len__(self) -> int:
        return int(self.t.size)

    def __repr__(self) -> str:
        return f"EventLog({len(self)} events)"


@dataclass(frozen=True)
class EventSettings:
    """The events of a simulator as CasADi functions, and how they are searched.

    Attributes
    ----------
    model
        The model.
    events
        With ``condition`` and ``jump`` as `casadi.Function` (t, x, u, p).
    max_events
        Most events of one trajectory.
    spacing
        Largest distance of the points at which conditions are evaluated; None: see `Simulator`.
    """

    model: ControlledODE
    events: tuple[Event, ...]
    max_events: int
    spacing: float | None


def event_settings(
    model: ControlledODE, events: Event | Sequence[Event], max_events: int, spacing: float | None
) -> EventSettings:
    """Check what a simulator was given, and write conditions and jumps as functions."""
    if not isinstance(events, Event | Iterable):
        raise ModelError(f"events: expected an Event or a list of them, got {type(events).__name__}")
    listed = [events] if isinstance(events, Event) else list(events)
    for k, event in enumerate(listed):
        if not isinstance(event, Event):
            raise ModelError(f"events[{k}]: expected an Event, got {type(event).__name__}")
    if not isinstance(max_events, int) or isinstance(max_events, bool) or max_events < 1:
        raise SolverError(f"max_events: expected an integer of at least 1, got {max_events!r}")
    good = isinstance(spacing, int | float) and not isinstance(spacing, bool) and 0.0 < float(spacing) < np.inf
    if spacing is not None and not good:
        raise SolverError(f"event_spacing: expected a positive finite number or None, got {spacing!r}")
    if listed and (model.is_dae or model.mass is not None):
        raise ModelError(
            "events: a model with events must be an ODE dx/dt = rhs(t, x, u, p), without algebraic variables and "
            "without a mass matrix; solve the equations for dx/dt"
        )
    traced = tuple(_traced(model, k, event) for k, event in enumerate(listed))
    return EventSettings(model, traced, max_events, spacing)


def _traced(model: ControlledODE, k: int, event: Event) -> Event:
    """The event with its callables as CasADi functions of (t, x, u, p)."""
    sizes = {"t": 1, "x": model.nx, "u": model.nu, "p": model.np}
    symbols = {name: ca.MX.sym(name, n) for name, n in sizes.items()}
    p = model.layout.unflatten(symbols["p"]) if model.named_parameters else symbols["p"]

    def function(name: str, source: Source, n: int, letter: str) -> ca.Function:
        value = expression(f"events[{k}].{name}", source, symbols, p, n, letter)
        return ca.Function(name, list(symbols.values()), [ca.densify(value)], list(symbols), ["value"])

    condition = function("condition", event.condition, 1, "one")
    jump = None if event.jump is None else function("jump", event.jump, model.nx, "nx")
    return Event(condition, jump, event.direction, event.terminal, event.name or f"event {k}")
