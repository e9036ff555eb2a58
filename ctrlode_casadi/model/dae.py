"""Mass matrices and algebraic variables: checks, and the semi-explicit form."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, floats, to_dm
from ..base.errors import ModelError


def checked_mass(mass: Any, nx: int) -> Float64Array | None:
    """The mass matrix (nx, nx), read-only; None where there is none."""
    if mass is None:
        return None
    matrix: Float64Array = np.array(floats("mass", mass, error=ModelError), dtype=np.float64)
    if matrix.shape != (nx, nx):
        raise ModelError(f"mass: expected a constant matrix of shape (nx={nx}, nx={nx}), got shape {matrix.shape}")
    if not matrix.any():
        raise ModelError("mass: all entries are zero, so nothing depends on time; solve the equations instead")
    matrix.flags.writeable = False
    return matrix


def checked_z0(z0: Any, nz: int) -> Float64Array:
    """Guess of the algebraic variables (nz,)."""
    if z0 is None:
        return np.zeros(nz)
    if not nz:
        raise ModelError("z0: the model has no algebraic variables (nz=0), leave it out")
    guess: Float64Array = np.array(floats("z0", z0, error=ModelError), dtype=np.float64)
    if guess.shape != (nz,):
        raise ModelError(f"z0: expected a guess of shape (nz={nz},), got {guess.shape}")
    return guess


def rank_of(matrix: Float64Array) -> int:
    """Numerical rank, after scaling of rows and columns."""
    scale = np.abs(matrix).max(axis=1, keepdims=True)
    scaled = matrix / np.where(scale > 0.0, scale, 1.0)
    return int(np.linalg.matrix_rank(scaled))


def is_singular(matrix: Float64Array) -> bool:
    """Whether a mass matrix is singular."""
    return rank_of(matrix) < matrix.shape[0]


def semi_explicit(
    symbols: dict[str, ca.MX], dynamics: ca.Function, algebraic: ca.Function | None, mass: Float64Array, nz: int
) -> dict[str, ca.MX]:
    """Expressions x' = ode, 0 = alg of a model with a singular mass matrix; z has the states without derivatives."""
    nx = mass.shape[0]
    rows, columns = np.flatnonzero(mass.any(axis=1)), np.flatnonzero(mass.any(axis=0))
    inner = mass[np.ix_(rows, columns)]
    if rows.size != columns.size or is_singular(inner):
        raise ModelError(
            f"mass: a semi-explicit form needs a matrix whose nonzero rows and columns form a regular block; this one "
            f"has {rows.size} nonzero rows, {columns.size} nonzero columns and rank {rank_of(mass)}; integrate the "
            f"model with Rodas5P(), or combine the equations"
        )
    kept = {int(c): i for i, c in enumerate(columns)}
    x, extra = ca.MX.sym("x", columns.size), ca.MX.sym("z", nx - columns.size + nz)
    free = [i for i in range(nx) if i not in kept]
    state = ca.vertcat(*(x[kept[i]] if i in kept else extra[free.index(i)] for i in range(nx)))
    arguments = [symbols["t"], state, symbols["u"], symbols["p"], *([extra[len(free) :]] if nz else [])]
    value = dynamics(*arguments)
    zero_rows = [i for i in range(nx) if i not in set(rows.tolist())]
    ode = ca.mtimes(ca.inv(to_dm(inner)), ca.vertcat(*(value[int(i)] for i in rows)))
    alg = [value[i] for i in zero_rows] + ([algebraic(*arguments)] if algebraic is not None else [])
    return {"t": symbols["t"], "x": x, "u": symbols["u"], "p": symbols["p"], "ode": ode, "z": extra,
            "alg": ca.vertcat(*alg)}  # fmt: skip
