"""What a call of the engine takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..base.status import Status
from .batch import Batch, ControlBars
from .sweeps import slots as s
from .threads import time_is_up
from .workspace import Sizes


@dataclass(frozen=True, eq=False)
class Sweep:
    """What every call reports per trajectory.

    Attributes
    ----------
    status
        (B,) codes of `Status`.
    reached
        (B,) number of save times with a valid state.
    n_steps, n_rejected, n_rhs
        (B,) accepted steps, rejected trials and evaluations of the right-hand side of the forward sweep.
    """

    status: NDArray[np.int64]
    reached: NDArray[np.int64]
    n_steps: NDArray[np.int64]
    n_rejected: NDArray[np.int64]
    n_rhs: NDArray[np.int64]

    @property
    def success(self) -> NDArray[np.bool_]:
        """(B,) whether each trajectory reached its last save time."""
        return self.status == Status.SUCCESS


def new_sweep(size: int) -> Sweep:
    """A report of trajectories that were not integrated yet."""
    arrays = np.zeros((5, size), np.int64)
    arrays[0] = int(Status.INTERRUPTED)
    return Sweep(*arrays)


def stop_at_limit(sweep: Sweep, x: NDArray[Any] | None = None) -> None:
    """Report what was not finished when the limit of time passed; its states (B, T, nx) become NaN."""
    late = sweep.status == Status.INTERRUPTED
    sweep.status[late] = int(Status.TIME_LIMIT)
    if x is not None and late.any():
        for b in np.flatnonzero(late):
            x[b, sweep.reached[b] :] = np.nan


@dataclass(frozen=True, eq=False)
class Gradient:
    """Result of a reverse sweep.

    Attributes
    ----------
    p_bar
        (np,) adjoint of the parameters.
    x0_bar
        (B, nx) adjoint of the initial states; zero for a failed trajectory.
    control_bars
        Adjoint of the controls, one per chunk of trajectories, for `Batch.values_adjoint`; None
        unless asked for.
    sweep
        Status and counters.
    loss
        (B,) cost of each trajectory, infinite where it failed; empty when seeds were given.
    """

    p_bar: NDArray[Any]
    x0_bar: NDArray[Any]
    control_bars: list[ControlBars] | None
    sweep: Sweep
    loss: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


@dataclass(eq=False)
class CallWork:
    """What a call of an engine took, measured.

    Attributes
    ----------
    threads
        Threads at work.
    chunks
        For every chunk of trajectories, the work arrays of a thread, and for each group of blocks the replayed steps,
        the steps, and the most steps of a block.
    """

    threads: int = 0
    chunks: list[tuple[Sizes, NDArray[np.int64]]] = field(default_factory=list)

    def add(self, sizes: Sizes, counts: NDArray[np.int64], n_threads: int) -> None:
        """Add a chunk."""
        self.chunks.append((sizes, counts))
        self.threads = max(self.threads, n_threads)

    @property
    def rows(self) -> int:
        """Steps of all blocks of trajectories in the reverse sweep."""
        return sum(int(counts[:, 1].sum()) for _, counts in self.chunks)

    @property
    def replayed(self) -> int:
        """Steps computed again because their start state was not kept."""
        return sum(int(counts[:, 0].sum()) for _, counts in self.chunks)

    @property
    def checkpoints(self) -> int:
        """Limit on the stored states of a block, 0 for none."""
        return max((sizes.checkpoints for sizes, _ in self.chunks), default=0)

    @property
    def state_bytes(self) -> int:
        """Memory of one thread for start states."""
        return self._most(0)

    @property
    def header_bytes(self) -> int:
        """Memory of one thread for times and sizes of the steps."""
        return self._most(1)

    @property
    def other_bytes(self) -> int:
        """Memory of one thread for everything else."""
        return self._most(2)

    def _most(self, part: int) -> int:
        return max((sizes.memory(int(c[:, 2].max(initial=0)))[part] for sizes, c in self.chunks), default=0)

    @property
    def memory(self) -> int:
        """Bytes of all threads."""
        return self.threads * (self.state_bytes + self.header_bytes + self.other_bytes)

    def __str__(self) -> str:
        kept = f"at most {self.checkpoints} states of a block kept" if self.checkpoints else "all start states kept"
        again = self.replayed / max(self.rows, 1)
        each = [f"{v / 1e6:.3g} MB" for v in (self.state_bytes, self.header_bytes, self.other_bytes)]
        return (
            f"{self.rows} steps, {kept}, {self.replayed} replayed ({again:.2f} per step); "
            f"memory {self.memory / 1e6:.3g} MB ({self.threads} threads x states {each[0]}, step headers {each[1]}, "
            f"other {each[2]})"
        )


def whole_or_nothing(found: Gradient) -> Gradient:
    """The gradient, or zeros with the status of all trajectories where the limit of time has passed."""
    if not time_is_up():
        return found
    sweep = new_sweep(found.sweep.status.size)
    stop_at_limit(sweep)
    bars = found.control_bars
    if bars is not None:
        bars = [ControlBars(np.zeros_like(bar.coefficients)) for bar in bars]
    return Gradient(np.zeros_like(found.p_bar), np.zeros_like(found.x0_bar), bars, sweep)


@dataclass(frozen=True, eq=False)
class Call:
    """One call's arrays: inputs common to all chunks and outputs for the whole batch."""

    mode: int
    batch: Batch
    x0: NDArray[Any]
    sweep: Sweep
    want_u: bool = False
    checkpoints: int = 0
    x: NDArray[Any] | None = None
    seeds: NDArray[Any] | None = None
    d: NDArray[Any] | None = None
    w: NDArray[Any] | None = None
    scale: NDArray[np.float64] | None = None
    loss: NDArray[np.float64] | None = None
    x0_bar: NDArray[Any] | None = None
    slopes: NDArray[np.float64] | None = None
    work: CallWork = field(default_factory=CallWork)

    @property
    def backward(self) -> bool:
        """Whether a reverse sweep follows."""
        return self.mode in (s.VJP, s.GRADIENT)

    def stop_at_limit(self, start: int, stop: int) -> None:
        """The limit of time passed during trajectories start..stop-1; a reverse sweep then counts for none of them."""
        part = Sweep(*(v[start:stop] for v in vars(self.sweep).values()))
        if self.backward:
            part.status[:] = int(Status.INTERRUPTED)
            part.reached[:] = 0
        if self.x0_bar is not None:
            self.x0_bar[start:stop] = 0
        if self.loss is not None:
            self.loss[start:stop][part.status == Status.INTERRUPTED] = np.inf
        stop_at_limit(part, None if self.x is None else self.x[start:stop])


class SweepEngine(Protocol):
    """What every engine offers: compiled, CasADi's virtual machine or integrators, with events."""

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, nx) and the sweep's report."""

    def vjp(
        self,
        batch: Batch,
        x0: NDArray[Any],
        p: NDArray[Any],
        seeds: NDArray[Any],
        *,
        want_u: bool = False,
        checkpoints: int | None = None,
        x: NDArray[Any] | None = None,
    ) -> Gradient:
        """Adjoint for seeds (B, T, nx)."""
