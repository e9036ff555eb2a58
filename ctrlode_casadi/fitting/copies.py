"""What an objective is pickled as: its arguments, with CasADi functions in place of the user's callables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca

from ..base.errors import DataError
from ..model.network import column
from ..model.ode import ControlledODE
from ..model.trace import call_python
from ..model.tree import ParameterTree
from .expressions import parameters
from .initial import InitialState


class TracedCallable:
    """A user's function of CasADi symbols as the expressions that it returns, which lambdas too can be pickled as.

    Parameters
    ----------
    name
        Of the user's function, for messages.
    f
        Its inputs, and its value as a column.
    """

    def __init__(self, name: str, f: ca.Function) -> None:
        self.__name__, self.f = name, f
        kind = inspect.Parameter.POSITIONAL_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in f.name_in()])

    def __call__(self, *arguments: Any) -> Any:
        """The expressions for these arguments; a tree of parameters counts as its vector."""
        flat = [a.flat if isinstance(a, ParameterTree) else a for a in arguments]
        return self.f.call(flat, True, False)[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return TracedCallable, (self.__name__, self.f)


def traced(name: str, source: Callable[..., Any], model: ControlledODE, sizes: dict[str, int]) -> TracedCallable:
    """The callable argument `name` of an objective in a form that can be pickled.

    Raises
    ------
    DataError
        If its expressions cannot be stored, as those with a `casadi.Callback`.
    """
    if isinstance(source, TracedCallable):
        return source
    symbols = {key: ca.MX.sym(key, n) for key, n in sizes.items()}
    arguments = {key: parameters(model, s) if key == "p" else s for key, s in symbols.items()}
    value = column(name, call_python(name, source, arguments, error=DataError), None)
    f = ca.Function("traced", list(symbols.values()), [value], list(symbols), ["value"])
    try:
        ca.Function.deserialize(f.serialize())  # a Callback is stored without complaint
    except Exception as exc:
        why = str(exc).strip().splitlines()[-1:]
        raise DataError(
            f"{name}: cannot be pickled, CasADi cannot store its expressions ({''.join(why)}); make the objective "
            f"anew where it is needed"
        ) from exc
    return TracedCallable(getattr(source, "__name__", repr(source)), f)


def storable(
    arguments: Sequence[Any], model: ControlledODE, n_data: int, encoder: ca.Function | None
) -> tuple[Any, ...]:
    """The arguments of `Objective`, in its order, with every callable traced.

    Parameters
    ----------
    arguments
        As they were given.
    model
        Of the objective.
    n_data
        Columns of the data.
    encoder
        The function (d0, p) of an `InitialState`.
    """
    sim, x0, controls, ts, data, loss, weights, regularization, running, terminal = arguments
    basic = {"t": 1, "x": model.nx, "u": model.nu, "y": model.ny}
    cost = basic | {"p": model.np}
    if isinstance(x0, InitialState) and encoder is not None:
        sizes = {"d0": encoder.numel_in(0), "p": model.np}
        x0 = InitialState(traced("x0 (InitialState fn)", x0.fn, model, sizes), x0.inputs)
    if callable(loss):
        loss = traced("loss", loss, model, basic | {"d": n_data, "p": model.np})
    if callable(regularization):
        regularization = traced("regularization", regularization, model, {"p": model.np})
    if running is not None:
        running = traced("running", running, model, cost)
    if terminal is not None:
        terminal = traced("terminal", terminal, model, cost)
    return sim, x0, controls, ts, data, loss, weights, regularization, running, terminal
