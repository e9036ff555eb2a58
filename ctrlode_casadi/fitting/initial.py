"""Where trajectories start: at given states, at states that are estimated, or at states that a network computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, FloatArray, floats
from ..base.errors import DataError, ModelError
from ..integrate.problem import check_states
from ..lowering.batched import CompiledFunction
from ..model.network import check_free, column
from ..model.ode import ControlledODE
from ..model.trace import call_python
from .expressions import parameters


@dataclass(frozen=True, eq=False)
class Free:
    """A quantity that is found together with the rest: initial states of an objective, or a final time.

    Parameters
    ----------
    guess
        Initial states: (nx,) for one that all trajectories share, or (B, nx) for one per trajectory, in the unit of
        the states; `Objective.append_free` appends them to the model's parameters. Final time of an
        `OptimalControlProblem`: a number.
    lb, ub
        Bounds, needed for a final time; an objective takes bounds from its optimiser instead.
    mask
        Which entries are free, boolean, (nx,) or the shape of `guess`; all by default. The others keep their guess.

    Examples
    --------
    >>> Free([0.0, 1.0], mask=[True, False]).mask
    [True, False]
    """

    guess: Any
    lb: Any = None
    ub: Any = None
    mask: Any = None


@dataclass(frozen=True, eq=False)
class InitialState:
    """Initial states computed from measurements and parameters, such as by an encoder network.

    Parameters
    ----------
    fn
        ``fn(d0, p)`` returns nx CasADi expressions; p is as in the model's functions (unflattened where the model
        has named parameters).
    inputs
        (B, n) rows d0, one per trajectory, or (n,) for all; the first row of each trajectory's data by default.

    Examples
    --------
    >>> import ctrlode_casadi as co
    >>> encoder = co.Dense(3, 2)
    >>> start = co.InitialState(lambda d0, p: encoder(d0, p.encoder))
    """

    fn: Callable[[Any, Any], Any]
    inputs: Any = None


class Start(ABC):
    """Initial states (B, nx) as a function of theta = (p, z) with z the free initial states.

    1. Arrays have the engine's precision; theta too.
    2. `pullback` adds the gradient of ``sum(x0_bar * states)`` to ``theta_bar`` (float64).
    3. `tangent` is the derivative of the states along a direction v of theta, and `pullback_tangent` adds the
       gradient of ``sum(dx0_bar * tangent)`` with respect to theta.
    4. `columns` tells which entry of theta each initial state is, -1 where it is none; `parameter_jacobian` is the
       derivative (B, nx, np) with respect to p, None where there is none.
    """

    n_free: int = 0
    columns: NDArray[np.int64] | None = None

    @abstractmethod
    def states(self, theta: NDArray[Any]) -> NDArray[Any]:
        """Initial states (B, nx)."""

    def tangent(self, theta: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        """Change of the states along v, (B, nx)."""
        return np.zeros_like(self.states(theta))

    @abstractmethod
    def pullback(self, theta: NDArray[Any], x0_bar: NDArray[Any], theta_bar: Float64Array) -> None:
        """Add the adjoint of the states."""

    def pullback_tangent(
        self, theta: NDArray[Any], v: NDArray[Any], dx0_bar: NDArray[Any], theta_bar: Float64Array
    ) -> None:
        """Add the adjoint of the tangent; nothing where the states are linear in theta."""
        return

    def parameter_jacobian(self, theta: NDArray[Any]) -> NDArray[Any] | None:
        """Derivative with respect to the model's parameters."""
        return None

    def guess(self) -> Float64Array:
        """Starting values of z."""
        return np.zeros(0)

    def names(self, state_names: tuple[str, ...]) -> list[str]:
        """A readable name for every entry of z."""
        return []


class GivenStates(Start):
    """Known initial states."""

    def __init__(self, x0: NDArray[Any]) -> None:
        self._x0 = x0

    def states(self, theta: NDArray[Any]) -> NDArray[Any]:
        return self._x0

    def pullback(self, theta: NDArray[Any], x0_bar: NDArray[Any], theta_bar: Float64Array) -> None:
        return


class FreeStates(Start):
    """Estimated initial states. `columns` is (B, nx)."""

    def __init__(self, guess: FloatArray, mask: NDArray[np.bool_], size: int, n_params: int, dtype: Any) -> None:
        rows = guess.shape[0]
        self._shared = rows == 1
        self._guess, self._mask = guess, mask
        self.n_free = int(mask.sum())
        columns = np.full(guess.shape, -1, np.int64)
        columns[mask] = n_params + np.arange(self.n_free)
        self.columns = np.ascontiguousarray(np.broadcast_to(columns, (size, guess.shape[1])))
        self._known = np.ascontiguousarray(np.broadcast_to(guess, self.columns.shape), dtype=dtype)
        self._free = self.columns >= 0
        self._entries = self.columns[self._free]

    def states(self, theta: NDArray[Any]) -> NDArray[Any]:
        x0 = self._known.copy()
        x0[self._free] = theta[self._entries]
        return x0

    def tangent(self, theta: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        dx0 = np.zeros_like(self._known)
        dx0[self._free] = v[self._entries]
        return dx0

    def pullback(self, theta: NDArray[Any], x0_bar: NDArray[Any], theta_bar: Float64Array) -> None:
        np.add.at(theta_bar, self._entries, x0_bar[self._free])

    def guess(self) -> Float64Array:
        return self._guess[self._mask].astype(np.float64)

    def names(self, state_names: tuple[str, ...]) -> list[str]:
        where = np.argwhere(self._mask)
        return [f"x0.{state_names[i]}" if self._shared else f"x0[{b}].{state_names[i]}" for b, i in where]


class ComputedStates(Start):
    """Initial states ``fn(d0, p)``, compiled."""

    def __init__(self, f: ca.Function, inputs: NDArray[Any], n_params: int, threads: int | None) -> None:
        self._f, self._inputs, self._n = f, inputs, n_params
        self._dtype, self._threads = str(inputs.dtype), threads
        self._value = self._compile(f)

    @property
    def function(self) -> ca.Function:
        """The function (d0, p) -> x0."""
        return self._f

    @property
    def inputs(self) -> NDArray[Any]:
        """Rows d0 (B, n)."""
        return self._inputs

    def _compile(self, f: ca.Function) -> CompiledFunction:
        return CompiledFunction(f, dtype=self._dtype, threads=self._threads)

    @cached_property
    def _tangent(self) -> CompiledFunction:
        d, p, v = ca.MX.sym("d0", self._f.numel_in(0)), ca.MX.sym("p", self._n), ca.MX.sym("v", self._n)
        value = self._f(d, p)
        change = self._f.forward(1)(d, p, value, ca.MX(*d.shape), v)
        return self._compile(ca.Function("tangent", [d, p, v], [ca.densify(change)], ["d0", "p", "v"], ["dx0"]))

    @cached_property
    def _jacobian(self) -> CompiledFunction:
        d, p = ca.MX.sym("d0", self._f.numel_in(0)), ca.MX.sym("p", self._n)
        by_p = ca.densify(ca.jacobian(self._f(d, p), p)).T
        return self._compile(ca.Function("by_p", [d, p], [ca.vec(by_p)], ["d0", "p"], ["jac"]))

    def states(self, theta: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._value(self._inputs, theta[: self._n]))

    def tangent(self, theta: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._tangent(self._inputs, theta[: self._n], v[: self._n]))

    def pullback(self, theta: NDArray[Any], x0_bar: NDArray[Any], theta_bar: Float64Array) -> None:
        theta_bar[: self._n] += self._value.vjp(self._inputs, theta[: self._n], seeds=x0_bar)[1]

    def pullback_tangent(
        self, theta: NDArray[Any], v: NDArray[Any], dx0_bar: NDArray[Any], theta_bar: Float64Array
    ) -> None:
        n = self._n
        theta_bar[:n] += self._tangent.vjp(self._inputs, theta[:n], v[:n], seeds=dx0_bar)[1]

    def parameter_jacobian(self, theta: NDArray[Any]) -> NDArray[Any]:
        flat = np.asarray(self._jacobian(self._inputs, theta[: self._n]))
        return flat.reshape(flat.shape[0], self._f.numel_out(0), self._n)


class WithAlgebraic(Start):
    """Initial states of a DAE followed by the guess of its algebraic variables, which no parameter changes."""

    def __init__(self, inner: Start, nx: int, guess: FloatArray) -> None:
        self._inner, self._nx, self._guess = inner, nx, guess
        self.n_free = inner.n_free
        if inner.columns is not None:
            rows = inner.columns.shape[0]
            self.columns = np.hstack([inner.columns, np.full((rows, guess.size), -1, np.int64)])

    @property
    def inner(self) -> Start:
        """The initial states alone."""
        return self._inner

    def _padded(self, states: NDArray[Any], tail: NDArray[Any]) -> NDArray[Any]:
        return np.hstack([states, np.broadcast_to(tail.astype(states.dtype), (states.shape[0], tail.size))])

    def _own(self, bar: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(bar[:, : self._nx])

    def states(self, theta: NDArray[Any]) -> NDArray[Any]:
        return self._padded(self._inner.states(theta), self._guess)

    def tangent(self, theta: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
        return self._padded(self._inner.tangent(theta, v), np.zeros_like(self._guess))

    def pullback(self, theta: NDArray[Any], x0_bar: NDArray[Any], theta_bar: Float64Array) -> None:
        self._inner.pullback(theta, self._own(x0_bar), theta_bar)

    def pullback_tangent(
        self, theta: NDArray[Any], v: NDArray[Any], dx0_bar: NDArray[Any], theta_bar: Float64Array
    ) -> None:
        self._inner.pullback_tangent(theta, v, self._own(dx0_bar), theta_bar)

    def parameter_jacobian(self, theta: NDArray[Any]) -> NDArray[Any] | None:
        found = self._inner.parameter_jacobian(theta)
        if found is None:
            return None
        return np.concatenate(
            [found, np.zeros((found.shape[0], self._guess.size, found.shape[2]), found.dtype)], axis=1
        )

    def guess(self) -> Float64Array:
        return self._inner.guess()

    def names(self, state_names: tuple[str, ...]) -> list[str]:
        return self._inner.names(state_names)


def free_guess(x0: Free, nx: int, dtype: Any) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Guess and mask of a `Free`, checked, both (1 or B, nx)."""
    if x0.lb is not None or x0.ub is not None:
        raise DataError("x0 (Free lb, ub): initial states of an objective are bounded by the optimiser's own bounds")
    guess = check_states("x0 (Free guess)", x0.guess, nx, dtype)
    if x0.mask is None:
        return guess, np.ones(guess.shape, bool)
    mask = np.asarray(x0.mask)
    if mask.dtype != bool or mask.shape not in ((nx,), guess.shape):
        raise DataError(
            f"x0 (Free mask): expected booleans of shape (nx={nx},) or {guess.shape}, got dtype {mask.dtype}, "
            f"shape {mask.shape}; True marks an entry to estimate"
        )
    return guess, np.array(np.broadcast_to(mask, guess.shape))


def encoder_inputs(x0: InitialState, first_rows: FloatArray | None, dtype: Any) -> FloatArray:
    """Rows d0 of an `InitialState`, (1 or B, n)."""
    if x0.inputs is not None:
        rows = floats("x0 (InitialState inputs)", x0.inputs, dtype=dtype)
        if rows.ndim not in (1, 2):
            raise DataError(f"x0 (InitialState inputs): expected shape (B, n) or (n,), got {rows.shape}")
        return np.atleast_2d(rows)
    if first_rows is None:
        raise DataError("x0: an InitialState without inputs= starts from the first row of data, but data is None")
    if np.isnan(first_rows).any():
        b = int(np.argwhere(np.isnan(first_rows))[0, 0])
        raise DataError(
            f"x0: an InitialState without inputs= starts from the first row of data, but that of trajectory {b} is "
            f"missing in part; give inputs= of shape (B, n)"
        )
    return first_rows


def encoder_function(x0: InitialState, model: ControlledODE, n_inputs: int) -> ca.Function:
    """The `casadi.Function` (d0, p) -> x0 of an `InitialState`."""
    name, d, p = "x0 (InitialState fn)", ca.MX.sym("d0", n_inputs), ca.MX.sym("p", model.np)
    result = call_python(name, x0.fn, {"d0": d, "p": parameters(model, p)}, error=DataError)
    try:
        out = column(name, result, model.nx, "nx")
        check_free(name, out, [d, p], "d0 and p")
    except ModelError as exc:
        raise DataError(str(exc)) from exc
    return ca.Function("initial", [d, p], [out], ["d0", "p"], ["x0"])
