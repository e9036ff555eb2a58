"""Starting points: what the user knows, an earlier solution, or a sensible default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..base.arrays import Float64Array, floats
from ..base.errors import DataError, unknown_name
from .checks import set_points
from .controls import ControlGrid
from .definition import Definition
from .reduction import Reduction

_KEYS = ("x", "u", "z", "p", "tf", "t")


@dataclass(frozen=True, eq=False)
class Guess:
    """States and controls over the fraction of the horizon, parameters and final time.

    Attributes
    ----------
    x, u, z
        Functions from fractions (m,) of the horizon to states (m, nx), controls (m, nu), algebraic variables (m, nz).
    p
        All parameters (np,).
    tf
        Final time.
    rows
        Controls (M, nu) on an even grid as the user gave them: a piecewise constant control with M intervals takes
        them as they are. None where they are no such table.
    """

    x: Callable[[Float64Array], Float64Array]
    u: Callable[[Float64Array], Float64Array]
    z: Callable[[Float64Array], Float64Array]
    p: Float64Array
    tf: float
    rows: Float64Array | None = None

    def within(self, reduction: Reduction) -> Guess:
        """The guess of a problem's smaller form."""
        return replace(
            self,
            x=lambda fractions: reduction.states(self.x(fractions)),
            z=lambda fractions: np.hstack([self.x(fractions)[:, reduction.algebraic], self.z(fractions)]),
        )

    def control(self, grid: ControlGrid) -> Float64Array:
        """Values (M, nu) of the control on a grid."""
        if self.rows is not None and grid.kind == "constant" and self.rows.shape[0] == grid.mesh.size:
            return self.rows
        return self.u(grid.fractions)


@runtime_checkable
class Resampled(Protocol):
    """An earlier solution, as far as a guess needs it."""

    t0: float
    tf: float
    p: Float64Array

    def resample(self, t: Any) -> tuple[Float64Array, Float64Array]:
        """States and controls at times t."""

    def resample_z(self, t: Any) -> Float64Array:
        """Algebraic variables at times t."""


def make_guess(d: Definition, guess: Mapping[str, Any] | Resampled | None) -> Guess:
    """A guess of every quantity.

    Parameters
    ----------
    d
        The problem, with all its states.
    guess
        Dict with any of x (M, nx) or (nx,), u (M, nu) or (nu,), z (M, nz) or (nz,), p (np,), tf; the rows are on an
        even grid over the horizon, or at the times t (M,). Or an earlier solution.

    Raises
    ------
    DataError
        For unknown keys, wrong shapes, entries that are not finite, times that do not increase, another final time
        than the fixed one.
    """
    if guess is None:
        guess = {}
    elif isinstance(guess, Resampled):
        return _from_solution(d, guess)
    if not isinstance(guess, Mapping):
        raise DataError(f"guess: expected a dict with x, u, z, p, tf, or a solution, got {type(guess).__name__}")
    for key in guess:
        if key not in _KEYS:
            raise DataError(unknown_name("guess", key, _KEYS))
    tf = _final_time(d, guess.get("tf"))
    grid = None if guess.get("t") is None else _grid(guess["t"])
    fx, rows_x = _rows("x", guess.get("x"), d.nx, grid)
    fu, rows_u = _rows("u", guess.get("u"), d.nu, grid)
    fz, rows_z = _rows("z", guess.get("z"), d.nz, grid)
    if rows_x is None:
        fx, rows_x = np.array([0.0, 1.0]), _default_states(d)
    if rows_u is None:
        fu, rows_u = np.array([0.0]), _middle(d.u_lb, d.u_ub)[None, :]
    if rows_z is None:
        near = np.where(d.z0 == 0.0, _middle(d.z_lb, d.z_ub), np.clip(d.z0, d.z_lb, d.z_ub))
        fz, rows_z = np.array([0.0]), near[None, :]
    p = d.p.copy()
    if guess.get("p") is not None:
        given = np.asarray(floats("guess['p']", set_points(guess["p"]), (("np", d.np),)), dtype=np.float64)
        p[d.free] = given[d.free]
    missing = np.isnan(p)
    missing[np.setdiff1d(np.arange(d.np), d.free)] = False
    p[missing] = _middle(d.p_lb, d.p_ub)[missing[d.free]]
    return Guess(
        lambda fractions: _resample(fractions, fx, rows_x),
        lambda fractions: _resample(fractions, fu, rows_u),
        lambda fractions: _resample(fractions, fz, rows_z),
        p,
        tf,
        rows_u if grid is None else None,
    )


def _from_solution(d: Definition, solution: Resampled) -> Guess:
    """States and controls of an earlier solution, by its own polynomials."""
    x, u = solution.resample(np.array([solution.t0]))
    nz = solution.resample_z(np.array([solution.t0])).shape[1]
    if x.shape[1] != d.nx or u.shape[1] != d.nu or nz != d.nz or solution.p.size != d.np:
        raise DataError(
            f"guess: the solution has nx={x.shape[1]}, nu={u.shape[1]}, nz={nz}, np={solution.p.size}, the problem has "
            f"nx={d.nx}, nu={d.nu}, nz={d.nz}, np={d.np}"
        )
    start, length = solution.t0, solution.tf - solution.t0
    p = d.p.copy()
    p[d.free] = solution.p[d.free]
    return Guess(
        lambda fractions: solution.resample(start + fractions * length)[0],
        lambda fractions: solution.resample(start + fractions * length)[1],
        lambda fractions: solution.resample_z(start + fractions * length),
        p,
        solution.tf if d.free_tf else d.tf,
    )


def _final_time(d: Definition, tf: Any) -> float:
    if tf is None:
        return d.tf
    value = float(floats("guess['tf']", tf))
    if value <= d.t0:
        raise DataError(f"guess['tf']: must be larger than t0={d.t0:g}, got {value:g}")
    if not d.free_tf and abs(value - d.tf) > 1e-9 * max(abs(d.t0), abs(d.tf)):
        raise DataError(
            f"guess['tf']: the final time is fixed, tf={d.tf:g}, got {value:g}; leave it out, or make it a variable "
            f"with OptimalControlProblem(model, tf=Free({value:g}, lb, ub))"
        )
    return value if d.free_tf else d.tf


def _grid(t: Any) -> Float64Array:
    times = np.asarray(floats("guess['t']", set_points(t), ("M",)), dtype=np.float64)
    if times.size < 2 or np.any(np.diff(times) < 0) or times[-1] <= times[0]:
        raise DataError(
            "guess['t']: expected at least two increasing times, the last one larger than the first, got "
            f"{np.array2string(times, threshold=8)}"
        )
    return (times - times[0]) / (times[-1] - times[0])


def _rows(
    name: str, value: Any, n: int, grid: Float64Array | None
) -> tuple[Float64Array, Float64Array] | tuple[Float64Array, None]:
    letter = f"n{name}"
    if value is None:
        return np.array([0.0]), None
    array = np.asarray(floats(f"guess[{name!r}]", set_points(value)), dtype=np.float64)
    if array.ndim == 0 and n == 1:
        array = array.reshape(1)
    if n == 0 and array.size:
        raise DataError(f"guess[{name!r}]: the problem has none ({letter}=0), leave it out")
    if array.ndim == 1 and array.size == n and not (n == 1 and grid is not None and grid.size == array.size):
        return np.array([0.0]), array[None, :]
    if array.ndim == 1 and n == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != n or array.shape[0] < 1:
        raise DataError(
            f"guess[{name!r}]: expected shape (M, {letter}={n}) with one row per point of an even grid, or "
            f"({letter}={n},) for a constant, got {np.shape(value)}"
        )
    if grid is not None and array.shape[0] not in (1, grid.size):
        raise DataError(f"guess[{name!r}]: expected one row per entry of guess['t'], {grid.size}, got {array.shape[0]}")
    rows = array.shape[0]
    return (np.linspace(0.0, 1.0, rows) if grid is None or rows == 1 else grid), array


def _default_states(d: Definition) -> Float64Array:
    """A line from the initial to the terminal state; where one is free, the other, else the middle of the bounds."""
    middle = _middle(d.x_lb, d.x_ub)
    start = np.where(np.isnan(d.x_start), np.where(np.isnan(d.x_end), middle, d.x_end), d.x_start)
    end = np.where(np.isnan(d.x_end), start, d.x_end)
    return np.stack([start, end])


def _middle(lb: Float64Array, ub: Float64Array) -> Float64Array:
    """The middle of the bounds; zero, or the nearest bound, where one is infinite."""
    both = np.isfinite(lb) & np.isfinite(ub)
    with np.errstate(invalid="ignore"):
        return np.where(both, 0.5 * (lb + ub), np.clip(0.0, lb, ub))


def _resample(at: Float64Array, grid: Float64Array, rows: Float64Array) -> Float64Array:
    if grid.size == 1:
        return np.repeat(rows, at.size, axis=0)
    return (
        np.stack([np.interp(at, grid, rows[:, i]) for i in range(rows.shape[1])], axis=1)
        if rows.shape[1]
        else (np.zeros((at.size, 0)))
    )
