"""What a gradient costs by the adjoint and by forward sensitivities: the model behind `sensitivity="auto"`.

Each time is a sum of a few terms, such as the call or the states that a stage updates, times constants that
benchmarks/sensitivities_fit.py fits to the measurements of benchmarks/sensitivities.py. Nearly all terms are
proportional to the number of stages, so the choice hardly depends on it.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import casadi as ca

from ..base.errors import UnsupportedOperation
from .batch import Batch
from .forward import jacobian_function
from .sensitivity import Adjoint, Forward
from .solvers import RungeKutta, Solver

#: Microseconds of a call, a stage of a block, an addition or product, a function such as sine, a state.
#: First where trajectories are integrated one by one, then for blocks of lanes (per register of lanes).
ADJOINT = ((88.6, 0.0107, 0.0, 0.00513, 0.0387), (119.7, 0.0388, 0.00251, 0.00383, 0.00158))
#: The same for forward sensitivities: a call, a stage of a block, operations and functions of the Jacobian, an entry of
#: S (eight of them in the first case), a product with an entry of the Jacobian (again eight).
FORWARD = ((109.8, 0.0608, 0.0, 0.0057, 0.0, 0.00223), (137.8, 0.00537, 7e-5, 0.00521, 0.0067, 3e-6))
#: Beyond so many directions, or entries of S, the adjoint is taken without a look: from about this size on it was ahead
#: by a factor of two or more wherever it was measured.
MOST_DIRECTIONS, MOST_ENTRIES = 300, 1000
#: Steps between two save times that adaptive solvers are expected to take.
ADAPTIVE_STEPS = 1.0


@dataclass(frozen=True)
class Work:
    """Size of a right-hand side.

    Attributes
    ----------
    plain
        Additions and products, and functions such as sine, of one evaluation.
    jacobian
        The same of the right-hand side with its Jacobians.
    couplings
        Nonzeros of the state's Jacobian.
    nx, n_params
        States and parameters.
    """

    plain: tuple[int, int]
    jacobian: tuple[int, int]
    couplings: int
    nx: int
    n_params: int


@dataclass(frozen=True)
class Choice:
    """What "auto" chose.

    Attributes
    ----------
    sensitivity
        The method.
    reason
        The figures, as text.
    adjoint, forward
        Estimated microseconds of a gradient.
    """

    sensitivity: Adjoint | Forward
    reason: str
    adjoint: float = float("nan")
    forward: float = float("nan")


def operations(function: ca.Function) -> tuple[int, int]:
    """Additions and products (those of matrices included), and other functions, of one evaluation."""
    from ..lowering.ops import ELEMENTWISE
    from ..lowering.reader import read

    program = read(function)
    simple, functions = 0, 0
    for ins in program.instructions:
        row = ELEMENTWISE.get(ins.op)
        if ins.op == "mtimes":
            rows, inner, columns = ins.attr
            simple += rows * inner * columns
        elif ins.op == "triples":
            simple += len(ins.attr)
        elif row is not None and not row.cheap:
            functions += program.size(ins.output)
        elif ins.op not in ("const", "gather", "concat", "scatter"):
            simple += program.size(ins.output)
    return simple, functions


def work_of(rhs: ca.Function) -> Work | None:
    """The size of a right-hand side (t, x, u, p) -> xdot; None where it has no compiled form."""
    jacobians = jacobian_function(rhs)
    try:
        plain, jacobian = operations(rhs), operations(jacobians)
    except UnsupportedOperation:
        return None
    couplings = int(jacobians.nnz_out(1))
    return Work(plain, jacobian, couplings, rhs.numel_in(1), rhs.numel_in(3))


def adjoint_terms(work: Work, lanes: int, blocks: float, stages: float) -> tuple[float, ...]:
    """What the constants `ADJOINT` multiply; `stages` of every block, in blocks of so many lanes."""
    count, registers = blocks * stages, max(lanes / 8, 1.0)
    simple, functions = work.plain
    return 1.0, count, count * registers * simple, count * registers * functions, count * registers * work.nx


def forward_terms(
    work: Work, lanes: int, blocks: float, stages: float, directions: int, chunks: int = 1
) -> tuple[float, ...]:
    """What the constants `FORWARD` multiply."""
    count, registers = blocks * stages, max(lanes / 8, 1.0)
    simple, functions = work.jacobian
    vectors = directions if lanes > 1 else -(-directions // 8)
    once = chunks * count * registers
    entries = count * registers * vectors
    return chunks, chunks * count, once * simple, once * functions, entries * work.nx, entries * work.couplings


def _total(constants: tuple[float, ...], terms: tuple[float, ...]) -> float:
    return sum(c * t for c, t in zip(constants, terms, strict=True))


class Selection:
    """Chooses between adjoint and forward sensitivities for one right-hand side and solver; safe for several threads.

    Parameters
    ----------
    rhs
        (t, x, u, p) -> xdot; looked at when first needed.
    solver, dtype, threads
        As in the simulator.
    """

    def __init__(self, rhs: ca.Function, solver: Solver, dtype: str, threads: int) -> None:
        self._rhs, self._solver, self._dtype, self._threads = rhs, solver, dtype, threads
        self._work: Work | None = None
        self._known = False
        self._lock = threading.Lock()

    @property
    def work(self) -> Work | None:
        """Size of the right-hand side."""
        with self._lock:
            if not self._known:
                self._work, self._known = work_of(self._rhs), True
            return self._work

    def choose(self, directions: int, chunks: int, batch: Batch) -> Choice:
        """The faster method for a gradient in so many directions, integrated in so many chunks."""
        from ..lowering.kernels import lanes_for

        nx = self._rhs.numel_in(1)
        if not isinstance(self._solver, RungeKutta):
            return Choice(Adjoint(), "steps that are or may be implicit, whose adjoint is one linear system per stage")
        if directions > MOST_DIRECTIONS or directions * nx > MOST_ENTRIES:
            reason = f"{directions} directions of {nx} states: more than {MOST_DIRECTIONS}, or {MOST_ENTRIES} numbers"
            return Choice(Adjoint(), reason)
        work = self.work
        if work is None:
            return Choice(Adjoint(), "a model without a compiled form")
        lanes = lanes_for(batch.size, work.n_params, self._dtype)
        blocks = math.ceil(math.ceil(batch.size / lanes) / self._threads)
        stages = self._solver.tableau.main * self._steps(batch)
        many = int(lanes > 1)
        adjoint = _total(ADJOINT[many], adjoint_terms(work, lanes, blocks, stages))
        forward = _total(FORWARD[many], forward_terms(work, lanes, blocks, stages, directions, chunks))
        reason = (
            f"{directions} directions of {nx} states and {batch.size} trajectories, estimated {adjoint:.3g} us by the "
            f"adjoint and {forward:.3g} us by forward sensitivities"
        )
        return Choice(Forward() if forward < adjoint else Adjoint(), reason, adjoint, forward)

    def _steps(self, batch: Batch) -> float:
        """Steps of a trajectory: known where they are fixed, else guessed from the save times."""
        intervals, solver = max(batch.n_save - 1, 1), self._solver
        if solver.adaptive or not isinstance(solver, RungeKutta):
            return max(intervals * ADAPTIVE_STEPS, 20.0)
        first, last = batch.span()
        return (last - first) / solver.dt if solver.dt else intervals * (solver.steps_per_interval or 1)
