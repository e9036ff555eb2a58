"""Forward sensitivities: the state and its derivatives along many directions, integrated together.

With the directions d_1 ... d_m of parameters, initial states and control values packed into the rows of a matrix S
(nx, m), stored row by row, the system is

    x' = f(t, x, u, p),    S' = f_x S + [f_p columns | 0 | f_u du],

so that f_x and f_p are evaluated once for all directions (Hairer, Norsett & Wanner I, I.14). The error norm sees x
only: the steps are those of the simulation, and S is the derivative of the numbers computed. A batch fills the lanes
with trajectories; a single trajectory fills vectors with the columns of S.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..controls.pieces import Pieces
from .batch import Batch

#: Work arrays of a block that a chunk of directions may fill, in bytes.
CHUNK_BYTES = 16 << 20
#: Most states for which the rows of the Jacobian of a network come from adjoint sweeps, which share their products.
ADJOINT_ROWS = 8


@dataclass(frozen=True)
class Columns:
    """Directions integrated together: parameters, then initial states, then control values, each first..last-1.

    Control values are numbered knot by knot, component by component.
    """

    params: tuple[int, int]
    states: tuple[int, int] = (0, 0)
    controls: tuple[int, int] = (0, 0)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Number of directions of each kind."""
        return tuple(last - first for first, last in (self.params, self.states, self.controls))  # type: ignore[return-value]

    @property
    def n(self) -> int:
        """Number of directions."""
        return sum(self.counts)


def chunks_of(n_params: int, n_states: int, n_controls: int, chunk: int) -> list[Columns]:
    """All directions in chunks of at most `chunk`, of nearly equal size."""
    total = n_params + n_states + n_controls
    count = max(-(-total // max(chunk, 1)), 1)
    edges = [total * k // count for k in range(count + 1)]
    starts = (0, n_params, n_params + n_states)
    sizes = (n_params, n_states, n_controls)

    def part(kind: int, first: int, last: int) -> tuple[int, int]:
        low, high = (min(max(v - starts[kind], 0), sizes[kind]) for v in (first, last))
        return (low, high) if high > low else (0, 0)

    return [Columns(part(0, a, z), part(1, a, z), part(2, a, z)) for a, z in itertools.pairwise(edges)]


def default_chunk(total: int, nx: int, n_save: int, stages: int, lanes: int, item: int = 8) -> int:
    """Directions per chunk: all of them if the work arrays of a block stay within `CHUNK_BYTES`, else equal parts."""
    each = nx * lanes * item * (n_save + 2 * stages + 8)
    fit = max(CHUNK_BYTES // max(each, 1), 8)
    parts = max(-(-total // fit), 1)
    return max(-(-total // parts), 1)


def jacobian_function(rhs: ca.Function) -> ca.Function:
    """(t, x, u, p) -> xdot, df/dx, df/dp, df/du."""
    s = [ca.MX.sym(rhs.name_in(i), rhs.numel_in(i)) for i in range(4)]
    xdot = rhs(*s)
    n = xdot.numel()
    if n <= min(ADJOINT_ROWS, s[3].numel()) and matrix_products(rhs):
        rows = [ca.reverse([xdot[i]], [s[1], s[3], s[2]], [[ca.MX(1)]])[0] for i in range(n)]
        parts = [ca.vertcat(*(ca.densify(row[k]).T for row in rows)) for k in range(3)]
    else:
        parts = [ca.jacobian(xdot, s[k]) for k in (1, 3, 2)]
    return ca.Function("jacobians", s, [xdot, *parts])


def matrix_products(function: ca.Function) -> bool:
    """Whether a function, or one that it calls, multiplies matrices."""
    if function.is_a("SXFunction"):
        return False
    for k in range(function.n_instructions()):
        op = function.instruction_id(k)
        if op == ca.OP_MTIMES:
            return True
        if op == ca.OP_CALL and matrix_products(function.instruction_MX(k).which_function()):
            return True
    return False


def sensitivity_system(rhs: ca.Function, columns: Columns) -> ca.Function:
    """(t, [x; S], [u; du], p) -> [xdot; Sdot] for a right-hand side (t, x, u, p) -> xdot.

    S has a column for each direction and is stored row by row; du has the changes of the first component of the control
    for all control directions, then those of the second.
    """
    nx, nu = rhs.numel_in(1), rhs.numel_in(2)
    m = columns.n
    n_params, n_states, n_controls = columns.counts
    t, z = ca.MX.sym("t"), ca.MX.sym("x", nx * (1 + m))
    u, p = ca.MX.sym("u", nu * (1 + n_controls)), ca.MX.sym("p", rhs.numel_in(3))
    value, by_x, by_p, by_u = jacobian_function(rhs)(t, z[:nx], u[:nu] if n_controls else u, p)
    rows = [z[nx + i * m : nx + (i + 1) * m] for i in range(nx)]
    changes = [u[nu + c * n_controls : nu + (c + 1) * n_controls] for c in range(nu)]
    first, last = columns.params
    parts = []
    for i in range(nx):
        own = [ca.densify(by_p[i, first:last]).T] if n_params else []
        if n_states:
            own.append(ca.MX.zeros(n_states))
        if n_controls:
            used = [by_u[i, c] * changes[c] for c in range(nu) if by_u.sparsity().has_nz(i, c)]
            own.append(sum(used[1:], used[0]) if used else ca.MX.zeros(n_controls))
        part = ca.vertcat(*own)
        for j in range(nx):
            if by_x.sparsity().has_nz(i, j):
                part = part + by_x[i, j] * rows[j]
        parts.append(part)
    return ca.Function("rhs", [t, z, u, p], [ca.vertcat(value, *parts)], ["t", "x", "u", "p"], ["xdot"])


def slopes_of(cost: ca.Function, columns: Columns) -> ca.Function:
    """(t, [x; S], u, p, d, w) -> the cost and its derivatives along the directions; controls are held fixed here."""
    nx, m = cost.numel_in(1), columns.n
    names = ["t", "x", "u", "p", "d", "w"]
    s = [ca.MX.sym(name, cost.numel_in(i)) for i, name in enumerate(names)]
    z = ca.MX.sym("x", nx * (1 + m))
    ell = cost(*s)
    by_x, by_p = ca.reverse([ell], [s[1], s[3]], [[ca.MX(1)]])[0]
    derivatives = ca.Function("derivatives", s, [ell, ca.densify(by_x), ca.densify(by_p)])
    value, by_x, by_p = derivatives(s[0], z[:nx], *s[2:])
    first, last = columns.params
    slopes = ca.vertcat(by_p[first:last], ca.MX.zeros(m - (last - first)))
    for i in range(nx):
        slopes = slopes + by_x[i] * z[nx + i * m : nx + (i + 1) * m]
    inputs = [s[0], z, ca.MX.sym("u_all", cost.numel_in(2)), *s[3:]]
    made = ca.Function("inner", [s[0], z, *s[2:]], [ca.vertcat(value, slopes)])
    return ca.Function(cost.name(), inputs, [made(*inputs)], names, ["ell"])


def product_with_seeds(nx: int, nu: int, n_params: int, columns: Columns) -> ca.Function:
    """The cost ``d . x`` of seeds d, with its derivatives along the directions."""
    m, n_controls = columns.n, columns.counts[2]
    z, d = ca.MX.sym("x", nx * (1 + m)), ca.MX.sym("d", nx)
    inputs = [ca.MX.sym("t"), z, ca.MX.sym("u", nu * (1 + n_controls)), ca.MX.sym("p", n_params), d, ca.MX.sym("w", 0)]
    slopes = sum((d[i] * z[nx + i * m : nx + (i + 1) * m] for i in range(1, nx)), d[0] * z[nx : nx + m])
    return ca.Function("cost", inputs, [ca.vertcat(ca.dot(d, z[:nx]), slopes)], ["t", "x", "u", "p", "d", "w"], ["ell"])


def sensitivity_blocks(nx: int, m: int) -> NDArray[np.int64]:
    """States of (x, S) by blocks: x, then each column of S; see `jacobian.Structure`."""
    return np.concatenate([np.arange(nx)[None], nx + np.arange(nx * m).reshape(nx, m).T])


class ForwardControl:
    """A control followed by its changes along unit changes of its values; offers what a batch needs."""

    def __init__(self, control: Any, directions: tuple[int, int]) -> None:
        self.control = control
        self.first, self.last = directions

    @property
    def n_trajectories(self) -> int:
        """Number of trajectories, 1 when shared."""
        return int(self.control.n_trajectories)

    def __call__(self, t: Any) -> NDArray[Any]:
        """Values at save times, of the control alone; costs of seeds do not depend on them."""
        own = np.asarray(self.control(t))
        return np.concatenate([own, np.zeros((*own.shape[:2], own.shape[2] * (self.last - self.first)))], axis=2)

    def __getitem__(self, index: Any) -> ForwardControl:
        return ForwardControl(self.control[index], (self.first, self.last))

    def pieces(self, t0: float, t1: float, start: int = 0, stop: int | None = None) -> Pieces:
        """Pieces of the control with those of its changes appended, component by component."""
        base: Pieces = self.control.pieces(t0, t1, start, stop)
        own = base.coefficients
        rows, n_pieces, nu, powers = own.shape
        m = self.last - self.first
        changes = np.zeros((rows, n_pieces, nu, m, powers), own.dtype)
        n_knots = self.control.values.shape[1]
        unit = np.zeros((rows, n_knots, nu), self.control.values.dtype)
        for q in range(m):
            k, c = divmod(self.first + q, nu)
            if k < n_knots:
                unit[:, k, c] = 1.0
                changes[:, :, :, q] = self.control.pieces_tangent(t0, t1, unit, start, stop)
                unit[:, k, c] = 0.0
        flat = changes.reshape(rows, n_pieces, nu * m, powers)
        return Pieces(base.breaks, base.anchors, np.concatenate([own, flat], axis=2), base.stops)


def extended_batch(batch: Batch, columns: Columns) -> Batch:
    """The batch with the changes of the controls along the directions."""
    if columns.counts[2] == 0:
        return batch
    controls: Any = batch.controls
    if isinstance(controls, list):
        controls = [ForwardControl(c, columns.controls) for c in controls]
    else:
        controls = ForwardControl(controls, columns.controls)
    nu = batch.nu * (1 + columns.counts[2])
    return Batch(batch.ts, batch.counts, controls, batch.size, nu, np.dtype(batch.dtype))


def initial_sensitivities(x0: NDArray[Any], columns: Columns, nx: int | None = None) -> NDArray[Any]:
    """(x, S) at the initial time, (B, nx (1 + m)): unit columns for the directions of the initial states."""
    n, m = (x0.shape[1] if nx is None else nx), columns.n
    z = np.zeros((x0.shape[0], n * (1 + m)), x0.dtype)
    z[:, : x0.shape[1]] = x0
    first, last = columns.states
    for i in range(first, last):
        z[:, n + i * m + columns.counts[0] + i - first] = 1.0
    return z


def control_count(batch: Batch) -> int:
    """Values of the control of a trajectory, K nu; the largest number in a list of controls."""
    controls: Any = batch.controls
    if controls is None:
        return 0
    listed: Sequence[Any] = controls if isinstance(controls, list) else [controls]
    return max(c.values.shape[1] * c.values.shape[2] for c in listed)


def control_bars(batch: Batch, slopes: NDArray[Any]) -> Any:
    """Adjoint of the control values from the slopes (B, K nu) of every trajectory's functional."""
    controls: Any = batch.controls
    if controls is None:
        return None
    if isinstance(controls, list):
        shapes = [c.values.shape[1:] for c in controls]
        return [row[: k * n].reshape(k, n) for row, (k, n) in zip(slopes, shapes, strict=True)]
    rows = slopes.sum(axis=0, keepdims=True) if batch.shared_controls else slopes
    return np.ascontiguousarray(rows.reshape(controls.values.shape))
