"""What every layer and network is: a map from z and a flat parameter vector to an output."""

from __future__ import annotations

import numbers
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call_rows, floats
from ..base.errors import DataError, ModelError
from .layout import Parametrized, Seed


def size(name: str, value: Any, minimum: int = 1) -> int:
    """A checked number of entries."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < minimum:
        raise ModelError(f"{name}: expected an integer >= {minimum}, got {value!r}")
    return int(value)


def _entries(result: Any) -> Iterator[Any]:
    """Expressions and numbers in a result of nested lists, tuples and arrays."""
    if isinstance(result, (list, tuple)):
        for part in result:
            yield from _entries(part)
    elif isinstance(result, np.ndarray):
        yield from result.ravel()
    else:
        yield result


def column(name: str, result: Any, n: int | None = None, letter: str = "n_out") -> ca.MX:
    """What a user's function returned, as a dense column.

    Parameters
    ----------
    name
        Of the function, for messages.
    result
        A CasADi vector, a number, or a list, tuple or array of numbers and expressions.
    n
        Required number of entries; None for any number.
    letter
        Symbol of that number, for messages.
    """
    mx: Any = ca.MX  # the stubs overload its constructor by kind
    if result is None:
        raise ModelError(f"{name}: returned None; add a return statement with its expressions")
    parts = list(_entries(result))
    try:
        columns = [ca.vec(mx(part)) for part in parts]
    except (NotImplementedError, TypeError) as exc:
        kinds = sorted({type(part).__name__ for part in parts})
        raise ModelError(
            f"{name}: must return MX expressions or numbers, got entries of type {', '.join(kinds)}"
        ) from exc
    joined = ca.vertcat(*columns) if len(columns) != 1 else columns[0]
    if n is not None and joined.numel() != n:
        raise ModelError(f"{name}: must return {letter}={n} entries, it returned {joined.numel()}")
    joined = joined if joined.numel() else ca.MX(0, 1)
    return joined if joined.is_dense() else ca.densify(joined)


def check_free(name: str, expression: ca.MX, inputs: list[ca.MX], allowed: str) -> None:
    """Refuse an expression that depends on symbols other than `inputs`, by their names."""
    known = {symbol.__hash__() for symbol in inputs}
    free = [symbol.name() for symbol in ca.symvar(expression) if symbol.__hash__() not in known]
    if free:
        raise ModelError(
            f"{name}: the result depends on the free symbol{'s' if len(free) > 1 else ''} "
            f"{', '.join(free)}; it may only use {allowed}. Pass constants as numbers and unknowns "
            f"through params"
        )


def check_tables(name: str, expression: ca.MX, inputs: list[ca.MX]) -> None:
    """Refuse `casadi.interpolant` with values as inputs where its derivative with respect to them is silently zero."""
    for table in ca.Function("f", inputs, [expression]).find_functions():
        if table.class_name() not in ("BSplineInterpolant", "LinearInterpolant") or table.n_in() < 2:
            continue
        reverse = table.reverse(1)
        symbols = [ca.MX.sym(n, reverse.sparsity_in(i)) for i, n in enumerate(reverse.name_in())]
        if reverse.call(symbols)[1].nnz() == 0:
            raise ModelError(
                f"{name}: CasADi's interpolant {table.name()!r} takes its values as an input, and its derivative with "
                "respect to them would be zero without a warning; make it with the option {'inline': True}"
            )


class Network(Parametrized):
    """Base class of all layers. Immutable; the parameters are kept outside, in one flat vector.

    A subclass provides

    1. `n_in` and `n_out`, the sizes of input and output, as attributes;
    2. `layout`, names, shapes and initialisers of its parameters;
    3. `_apply(z, p)`, called with a dense CasADi column ``z`` of n_in entries and a column ``p`` of n_params
    entries
       (SX, MX or DM); it returns a column of n_out entries of the same kind, and checks nothing.
    """

    n_in: int
    n_out: int

    @abstractmethod
    def _apply(self, z: Any, p: Any) -> Any:
        """Output for one column."""

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return self.layout.n

    def init(self, seed: Seed = 0) -> Float64Array:
        """Initial parameters (n_params,), reproducible for an integer seed."""
        return self.layout.init(seed)

    def __call__(self, z: Any, p: Any) -> Any:
        """Apply the network.

        Parameters
        ----------
        z
            SX, MX or DM of shape (n_in, 1) or (n_in, N), or array of shape (..., n_in).
        p
            Parameters (n_params,), of the same kind as z or numbers, or a `ParameterTree`. With an array z, p
            may also be symbolic when z is one vector.

        Returns
        -------
        SX, MX, DM or ndarray
            (n_out, 1), (n_out, N) or (..., n_out), of the kind of z, or of p where only p is symbolic.
        """
        flat = self.layout.check(p)
        if isinstance(z, (ca.SX, ca.MX, ca.DM)):
            return self._on_expression(z, flat)
        if isinstance(z, (list, tuple)) and any(isinstance(part, (ca.SX, ca.MX)) for part in z):
            return self._on_expression(ca.vertcat(*z), flat)
        array = floats("z", z, finite=False)
        if isinstance(flat, (ca.SX, ca.MX)):
            return self._on_expression(ca.DM(array), flat)
        if isinstance(flat, ca.DM):
            flat = flat.full()[:, 0]
        if array.ndim == 0 and self.n_in == 1:
            array = array.reshape(1)
        if array.ndim == 0 or array.shape[-1] != self.n_in:
            raise DataError(f"z: the last axis must have n_in={self.n_in} entries, got shape {array.shape}")
        out = call_rows(self._function, array.reshape(-1, self.n_in), flat)
        return out.reshape((*array.shape[:-1], self.n_out))

    def _on_expression(self, z: Any, p: Any) -> Any:
        kinds = {type(v) for v in (z, p) if isinstance(v, (ca.SX, ca.MX))}
        if len(kinds) > 1:
            raise ModelError(
                f"network: z and p must be of the same kind, got {type(z).__name__} and "
                f"{type(p).__name__}; use MX for both"
            )
        kind = kinds.pop() if kinds else ca.DM
        z, p = kind(z), kind(p)
        if z.shape[0] != self.n_in:
            hint = "; transpose it" if z.shape[1] == self.n_in else ""
            raise ModelError(f"z: must have n_in={self.n_in} rows, got shape {tuple(z.shape)}{hint}")
        if not z.is_dense():
            z = ca.densify(z)
        if z.shape[1] == 1:
            return self._apply(z, p)
        if z.shape[1] == 0:
            return kind(self.n_out, 0)
        if kind is ca.SX:
            return ca.horzcat(*(self._apply(z[:, i], p) for i in range(z.shape[1])))
        return self._function.map(z.shape[1], [False, True])(z, p)

    @cached_property
    def _function(self) -> ca.Function:
        z, p = ca.MX.sym("z", self.n_in), ca.MX.sym("p", self.n_params)
        return ca.Function("network", [z, p], [self._apply(z, p)], ["z", "p"], ["out"])


def trace(name: str, fn: Callable[[Any], Any], n_in: int, n_out: int) -> ca.Function:
    """The `casadi.Function` of a user's function of one vector, checked for size and free symbols."""
    z = ca.MX.sym("z", n_in)
    try:
        out = fn(z)
    except Exception as exc:
        exc.add_note(f"while calling {name} with a CasADi MX of {n_in} entries")
        raise
    out = column(name, out, n_out)
    check_free(name, out, [z], "its argument")
    return ca.Function("lambda", [z], [out], ["z"], ["out"])
