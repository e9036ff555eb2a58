"""What layers are pickled as: pickle cannot store lambdas and local functions, CasADi can store their expressions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, Self

import casadi as ca

from ..base.errors import ModelError


class Copied:
    """For immutable objects that are pickled in another form: a copy is the object itself."""

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def can_be_pickled(value: Any) -> bool:
    """Whether pickle stores a value; it stores functions by name, so lambdas and local functions have none."""
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def stored_function(owner: str, name: str, fn: Any, trace: Callable[[], ca.Function]) -> Any:
    """A function of expressions as it is, or its expressions as a `casadi.Function` where pickle cannot store it.

    Parameters
    ----------
    owner, name
        The layer and its argument, for messages.
    fn
        The function.
    trace
        Makes the `casadi.Function`.

    Raises
    ------
    ModelError
        If its expressions cannot be stored either, as those with a `casadi.Callback`.
    """
    if can_be_pickled(fn):
        return fn
    f = trace()
    try:
        ca.Function.deserialize(f.serialize())  # a Callback is stored without complaint
    except Exception as exc:
        why = "".join(str(exc).strip().splitlines()[-1:])
        raise ModelError(
            f"{owner}: {name} cannot be pickled, CasADi cannot store its expressions ({why}); define it with def at "
            f"the top level of a module, or make the network anew where it is needed"
        ) from exc
    return f


def check_initializer(owner: str, name: str, fn: Any) -> None:
    """Raise `ModelError` for an initialiser that pickle cannot store."""
    if not can_be_pickled(fn):
        raise ModelError(
            f"{owner}: {name} cannot be pickled, {getattr(fn, '__name__', fn)!r} is no function that a module has by "
            f"name; define it with def at the top level of a module, or take one of init"
        )
