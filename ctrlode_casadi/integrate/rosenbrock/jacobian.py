"""The Jacobian kernel of an implicit method, and what its linear systems look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ...lowering.kernels import LaneKernels, lane_kernels
from ..method import sparse_rows
from ..sweeps import slots as s
from ..workspace import StepSizes
from .tableaus import RosenbrockTableau


@dataclass(frozen=True, eq=False)
class Structure:
    """The shape of a system M x' = F(t, x, u, p) of equal diagonal blocks that depend on the first one.

    Attributes
    ----------
    blocks
        (q, n): the states of each block. Row 0 is 0..n-1; F of the first block depends on these only, F of another
        block on its own states, with the same Jacobian, and on those of the first. None stands for one block.
    mass
        M of one block, (n, n), or None for the identity.
    """

    blocks: NDArray[np.int64] | None = None
    mass: NDArray[np.float64] | None = None

    def of_size(self, n_states: int) -> NDArray[np.int64]:
        """The blocks of a system with so many states."""
        return np.arange(n_states)[None] if self.blocks is None else np.asarray(self.blocks, np.int64)


def jacobian_function(rhs: ca.Function, n: int) -> tuple[ca.Function, NDArray[np.int64], NDArray[np.int64]]:
    """(t, x, u, p, du) -> (nonzeros of dF/d(x[:n]), total time derivative); rows and columns of the nonzeros."""
    sizes = rhs.numel_in(1), rhs.numel_in(2), rhs.numel_in(3)
    t, first, rest = ca.MX.sym("t"), ca.MX.sym("x", n), ca.MX.sym("y", sizes[0] - n)
    u, p, du = ca.MX.sym("u", sizes[1]), ca.MX.sym("p", sizes[2]), ca.MX.sym("du", sizes[1])
    x = ca.vertcat(first, rest) if sizes[0] > n else first
    value = rhs.call([t, x, u, p], True, False)[0]
    jacobian = ca.jacobian(value, first)
    if jacobian.nnz() == 0:
        jacobian = ca.MX(ca.DM(ca.Sparsity.triplet(value.numel(), n, [0], [0]), 0.0))
    rows, columns = jacobian.sparsity().get_triplet()
    slope = ca.jtimes(value, ca.vertcat(t, u), ca.vertcat(1, du))
    parts = ca.Function("parts", [t, first, rest, u, p, du], [jacobian.nz[:], ca.densify(slope)])
    z = ca.MX.sym("x", sizes[0])
    outputs = parts.call([t, z[:n], z[n:], u, p, du], True, False)
    names = ["t", "x", "u", "p", "du"], ["jacobian", "slope"]
    made = ca.Function("jacobian", [t, z, u, p, du], outputs, *names)
    return made, np.array(rows, np.int64), np.array(columns, np.int64)


@dataclass(frozen=True, eq=False)
class LinearPart:
    """What an implicit method adds to an engine: kernels, slots of the task table, the arrays that they point to."""

    kernels: LaneKernels
    slots: dict[int, int]
    arrays: tuple[NDArray[Any], ...]
    sizes: StepSizes

    @property
    def fits_saves(self) -> bool:
        """Whether saved states are changed so that algebraic equations hold; it takes the controls at save times."""
        return bool(self.slots.get(s.PROJECT))


def _triples(*columns: Any) -> NDArray[np.int64]:
    """Triples (i, j, k), one after the other; at least one row, so that there is an address."""
    count = max((np.size(c) for c in columns), default=0)
    out = np.zeros((max(count, 1), 3), np.int64)
    for j, column in enumerate(columns):
        out[:count, j] = column
    return out


def _coupling(
    blocks: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> dict[int, NDArray[np.int64]]:
    """Triples that the pattern of the first block column gives."""
    n = blocks.shape[1]
    z = np.arange(rows.size)
    own = rows < n
    outer = [np.stack([z[~own], rows[~own], columns[~own]], axis=1)]
    outer += [np.stack([z[own], block[rows[own]], block[columns[own]]], axis=1) for block in blocks]
    return {
        s.W_J_AT: _triples(rows[own] * n + columns[own], z[own], 0),
        s.COUPLE_AT: _triples(rows[~own], z[~own], columns[~own]),
        s.COUPLE_T_AT: _triples(columns[~own], z[~own], rows[~own]),
        s.OUTER_AT: _triples(*np.concatenate(outer).T),
    }


def _everywhere(
    blocks: NDArray[np.int64], matrix: NDArray[np.float64], first: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Nonzeros of a matrix of one block, and the triples for products with it and its transpose in all blocks."""
    i, j = np.nonzero(matrix)
    z = np.tile(first + np.arange(i.size), len(blocks))
    rows = np.concatenate([block[i] for block in blocks])
    columns = np.concatenate([block[j] for block in blocks])
    return matrix[i, j], _triples(rows, z, columns), _triples(columns, z, rows)


def null_projections(mass: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Bases N of the null space of M^T and V of that of M, both (n, m), with orthonormal columns."""
    left, sizes, right = np.linalg.svd(mass)
    rank = int(np.sum(sizes > sizes[0] * mass.shape[0] * np.finfo(float).eps))
    return left[:, rank:], right[rank:].T


def _tidy(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """A projection without the zeros' rounding errors."""
    return np.where(np.abs(matrix) > 1e-14, matrix, 0.0)


def _mass(
    blocks: NDArray[np.int64], mass: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.float64], dict[int, Any], dict[int, int]]:
    """Constants, triples and counts that M gives; `rows` and `columns` are those of the Jacobian of the first block."""
    n = blocks.shape[1]
    i, j = np.nonzero(mass)
    values, forward, backward = _everywhere(blocks, mass, 0)
    places = {s.W_M_AT: _triples(i * n + j, np.arange(i.size), 0), s.M_AT: forward, s.MT_AT: backward}
    counts = {s.N_M: values.size, s.N_MM: values.size * len(blocks), s.MASS: int(not np.array_equal(mass, np.eye(n)))}
    if np.linalg.matrix_rank(mass) == n:
        return values, places, counts | {s.N_CONSTANTS: values.size}
    left, right = null_projections(mass)
    q, r = _tidy(left @ left.T), _tidy(right @ right.T)
    q_values, by_q, _ = _everywhere(blocks, q, values.size)
    r_values, by_r, _ = _everywhere(blocks, r, values.size + q_values.size)
    first = values.size + q_values.size + r_values.size
    products: list[float] = []
    at: list[tuple[int, int, int]] = []
    for z in np.flatnonzero(rows < n):
        for k in np.flatnonzero(q[:, rows[z]]):
            for m in np.flatnonzero(r[columns[z]]):
                at.append((int(k * n + m), int(z), first + len(products)))
                products.append(float(q[k, rows[z]] * r[columns[z], m]))
    places |= {s.Q_AT: by_q, s.R_AT: by_r, s.P_J_AT: np.array(at or [(0, 0, 0)], np.int64)}
    constants = np.concatenate([values, q_values, r_values, products, [-1.0]])
    counts |= {
        s.PROJECT: 1, s.N_P_J: len(products), s.N_Q: q_values.size * len(blocks), s.N_R: r_values.size * len(blocks),
        s.N_CONSTANTS: constants.size,
    }  # fmt: skip
    return constants, places, counts


def make_linear_part(
    rhs: ca.Function, structure: Structure, tableau: RosenbrockTableau, precision: str, lanes: int
) -> LinearPart:
    """Compile the Jacobian of a system and lay out its linear algebra."""
    dtype = np.dtype(precision)
    n_states = rhs.numel_in(1)
    blocks = structure.of_size(n_states)
    n = blocks.shape[1]
    function, rows, columns = jacobian_function(rhs, n)
    kernels = lane_kernels(function, "p", lanes=lanes, dtype=dtype.name)
    mass = np.eye(n) if structure.mass is None else np.asarray(structure.mass)
    values, by_mass, mass_counts = _mass(blocks, mass, rows, columns)
    coupling = _coupling(blocks, rows, columns)
    own = int(np.sum(rows < n))
    counts = {
        s.BLOCK: n, s.N_BLOCKS: len(blocks), s.N_W_J: own, s.N_COUPLE: rows.size - own,
        s.N_OUTER: rows.size - own + own * len(blocks), s.N_J: rows.size,
    }  # fmt: skip
    counts |= mass_counts
    forward = sparse_rows(list(tableau.C), dtype)
    backward = sparse_rows(list(tableau.C.T), dtype)
    gammas = np.arange(tableau.stages), tableau.gammas.astype(dtype)
    diagonal, nonzeros = np.array([tableau.gamma], dtype), np.append(values, 0.0).astype(dtype)
    places = (s.C_PTR_AT, s.C_COL_AT, s.C_VAL_AT, s.D_PTR_AT, s.D_COL_AT, s.D_VAL_AT, s.GAMMA_COL_AT, s.GAMMA_VAL_AT)
    arrays: dict[int, NDArray[Any]] = dict(zip(places, (*forward, *backward, *gammas), strict=True))
    arrays |= {s.DIAGONAL_AT: diagonal, s.M_VAL_AT: nonzeros, s.BLOCKS_AT: np.ascontiguousarray(blocks)}
    arrays |= coupling | by_mass
    slots = counts | {slot: array.ctypes.data for slot, array in arrays.items()}
    base = s.JACOBIAN
    slots |= {base + s.VALUE: kernels.value, base + s.VALUE_TAPE: kernels.value_tape, base + s.ADJOINT: kernels.adjoint}
    slots |= {base + s.FINISH: kernels.finish, base + s.N_ACC: kernels.n_acc}
    sizes = StepSizes(n, rows.size, kernels.n_tape, kernels.n_acc, values.size, bool(mass_counts[s.MASS]))
    return LinearPart(kernels, slots, tuple(arrays.values()), sizes)
