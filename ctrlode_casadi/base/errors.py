"""The exception and warning classes of the package.

Every error that a user can cause derives from `CtrlodeError`. Each class also inherits the built-in exception
that a SciPy or NumPy user would catch. A message names the argument, the rule, what came, and the usual fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CtrlodeError(Exception):
    """Base class of all errors raised by ctrlode_casadi."""


class ModelError(CtrlodeError, ValueError):
    """A network, parameter layout or model is built from parts that do not fit."""


class ControlError(CtrlodeError, ValueError):
    """Knots, values or extrapolation rules of a control are invalid, or a time lies outside its range."""


class DataError(CtrlodeError, ValueError):
    """An array has the wrong shape, type or contents."""


class SolverError(CtrlodeError, RuntimeError):
    """A solver is configured with values it cannot work with, or it failed where a result is required."""


class UnsupportedOperation(CtrlodeError, NotImplementedError):
    """An expression contains an operation that the chosen path cannot carry out."""


class MissingExtra(CtrlodeError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    feature
        What the user asked for, for example ``"sol.plot()"``.
    package
        The distribution that is missing, for example ``"matplotlib"``.
    extra
        The extra of ctrlode_casadi that installs it, for example ``"plot"``.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs {package}, which is not installed. Fix: pip install 'ctrlode_casadi[{extra}]'"
        )
        self.feature = feature
        self.package = package
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str, str]]:
        return MissingExtra, (self.feature, self.package, self.extra)


class UnknownName(ModelError, AttributeError, KeyError):
    """A name that is not in a table, asked for by attribute or key; the message has the nearest one."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class IntegrationWarning(RuntimeWarning):
    """A trajectory could not be integrated; the result of the others is right."""


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """Message for a name that is not in a table, with the nearest known one.

    >>> unknown_name("activation", "tahn", ["relu", "tanh"])
    "activation: unknown name 'tahn'; did you mean 'tanh'? Known names: relu, tanh"
    """
    names = sorted(known)
    lowered = {n.lower(): n for n in names}
    near = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[near[0]]!r}?" if near else "."
    return f"{what}: unknown name {name!r}{hint} Known names: {', '.join(names) or '(none)'}"
