"""Errors, status and the array boundary: the lowest layer, which imports nothing else of the package."""

from .errors import (
    ControlError,
    CtrlodeError,
    DataError,
    IntegrationWarning,
    MissingExtra,
    ModelError,
    SolverError,
    UnknownName,
    UnsupportedOperation,
    unknown_name,
)
from .status import Status

__all__ = [
    "ControlError",
    "CtrlodeError",
    "DataError",
    "IntegrationWarning",
    "MissingExtra",
    "ModelError",
    "SolverError",
    "Status",
    "UnknownName",
    "UnsupportedOperation",
    "unknown_name",
]
