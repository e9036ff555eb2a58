"""Turning the functions that a user writes for a model into expressions, with every misuse named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import casadi as ca

from ..base.errors import DataError, ModelError
from .network import check_free, check_tables, column


def expression(
    name: str,
    source: Callable[..., Any] | ca.Function,
    symbols: Mapping[str, ca.MX],
    p: Any,
    n: int | None,
    letter: str = "ny",
) -> ca.MX:
    """Column of `n` entries (any number for None; `letter` is its symbol) that `source` returns for the
    symbols.

    Parameters
    ----------
    name
        Argument of the model that `source` came from: "rhs", "output" or "algebraic".
    source
        Python callable or `casadi.Function` with as many inputs as there are symbols.
    symbols
        Names and symbols, in the order of the arguments.
    p
        What takes the place of the parameter symbol in the call of a Python callable.
    n, letter
        Number of entries that there must be, None for any number, and its symbol for messages.
    """
    if isinstance(source, ca.Function):
        result = _call_function(name, source, symbols, n, letter)
    else:
        arguments = {key: p if key == "p" else symbol for key, symbol in symbols.items()}
        result = call_python(name, source, arguments, "a casadi.Function or a network")
    joined = column(name, result, n, letter)
    check_free(name, joined, list(symbols.values()), f"its arguments {_listed(symbols)}")
    check_tables(name, joined, list(symbols.values()))
    return joined


def _listed(symbols: Mapping[str, Any]) -> str:
    return f"({', '.join(symbols)})"


def call_python(
    name: str,
    source: Callable[..., Any],
    arguments: Mapping[str, Any],
    otherwise: str = "",
    error: type[ModelError | DataError] = ModelError,
) -> Any:
    """What a user's function returns for CasADi symbols.

    Parameters
    ----------
    name
        Argument that `source` came from, for messages.
    source
        Python callable.
    arguments
        What it gets, by name, in order.
    otherwise
        What else the argument may be, for the message.
    error
        Class of what is raised.

    Raises
    ------
    ModelError or DataError
        When `source` is not callable or does not take these arguments.
    """
    listed = _listed(arguments)
    if not callable(source):
        more = f", {otherwise}" if otherwise else ""
        raise error(f"{name}: expected a callable {name}{listed}{more}, got {type(source).__name__}")
    try:
        signature = inspect.signature(source)
    except (TypeError, ValueError):  # a builtin, or a casadi.Function, without a signature
        signature = None
    if signature is not None:
        try:
            signature.bind(*arguments.values())
        except TypeError as exc:
            raise error(
                f"{name}: must take the {len(arguments)} arguments {listed}, but its signature is {signature}"
            ) from exc
    try:
        return source(*arguments.values())
    except Exception as exc:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in arguments.items() if hasattr(value, "shape"))
        exc.add_note(
            f"while calling {name}{listed} with CasADi MX symbols of shapes {shapes}; use CasADi's "
            f"functions (ca.sin, ca.if_else, ...) instead of math, numpy on entries, and if"
        )
        raise


def _call_function(name: str, f: ca.Function, symbols: Mapping[str, ca.MX], n: int | None, letter: str = "ny") -> ca.MX:
    if f.n_in() != len(symbols) or f.n_out() != 1:
        raise ModelError(
            f"{name}: the casadi.Function must have the {len(symbols)} inputs {_listed(symbols)} and one "
            f"output, got {f.n_in()} inputs {tuple(f.name_in())} and {f.n_out()} outputs"
        )
    for i, (key, symbol) in enumerate(symbols.items()):
        if f.numel_in(i) != symbol.numel():
            raise ModelError(
                f"{name}: input {i} of the casadi.Function is {key} with {symbol.numel()} entries, "
                f"the Function's {f.name_in(i)!r} has shape {f.size_in(i)}"
            )
    if n is not None and f.numel_out(0) != n:
        raise ModelError(f"{name}: must return {letter}={n} entries, the casadi.Function returns {f.numel_out(0)}")
    arguments = [
        symbol if f.size_in(i) == symbol.shape else ca.reshape(symbol, *f.size_in(i))
        for i, symbol in enumerate(symbols.values())
    ]
    return f(*arguments)
