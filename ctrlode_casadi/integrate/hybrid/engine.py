"""Simulations with events: phases between events on any engine, jumps, and the adjoint through both.

All trajectories of a chunk go forward together, a round at a time. In a round each is simulated over a window of time;
conditions are evaluated on sampled points of it; the first change of sign is located by simulations from the point
before; the phase up to that time is simulated again with its own save times, and the jump is applied. A trajectory
without an event in its window goes on from the window's end. The adjoint repeats the phases in reverse order, so that
it is that of the numbers computed, up to the dependence of a phase on its ends, which is that of the exact flow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ...base.errors import UnsupportedOperation
from ...base.status import Status
from ..batch import Batch, ControlBars
from ..engine import Engine
from ..results import Gradient, Sweep, SweepEngine, new_sweep, whole_or_nothing
from .events import EventLog, EventSettings
from .functions import EventFunctions
from .parts import Firing, HybridParts, Round
from .rounds import Rounds


@dataclass(frozen=True, eq=False)
class Journey:
    """A simulation with events.

    Attributes
    ----------
    x
        (B, T, nx) states at the save times; NaN after a failure or a terminal event.
    sweep
        Status and counters.
    logs
        The events of each trajectory.
    chunks
        What the adjoint needs of each chunk of trajectories.
    """

    x: NDArray[Any]
    sweep: Sweep
    logs: list[EventLog]
    chunks: list[tuple[Rounds, list[Round]]] = field(default_factory=list)


class HybridEngine:
    """Adds events to an engine; offers `simulate` and `vjp` like it.

    Parameters
    ----------
    inner
        Integrates the phases. With fixed steps it takes one step between neighbouring save times.
    solver
        The solver as the user gave it.
    rhs
        (t, x, u, p) -> xdot of the system that `inner` integrates.
    settings
        The events of a model whose states come first in x.
    tangent
        Whether x is (state, change of the state), and p and perhaps u likewise.
    """

    def __init__(
        self,
        inner: SweepEngine,
        solver: Any,
        rhs: ca.Function,
        settings: EventSettings,
        tangent: bool = False,
    ) -> None:
        functions = EventFunctions(rhs, settings.model, settings.events, tangent, isinstance(inner, Engine))
        self.parts, self.tangent = HybridParts(inner, solver, functions, settings), tangent
        self.nx, self.nu, self.n_params = (rhs.numel_in(i) for i in (1, 2, 3))

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, nx) at the save times, and the sweep's report."""
        made = self.run(batch, x0, p)
        return made.x, made.sweep

    def run(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> Journey:
        """A simulation with the list of its events."""
        x = np.full((batch.size, batch.n_save, self.nx), np.nan, batch.dtype)
        made = Journey(x, new_sweep(batch.size), [])
        for start, stop in batch.chunks():
            rounds = Rounds(self.parts, batch, start, stop, p)
            made.chunks.append((rounds, rounds.go(x0[start:stop], x[start:stop], made.sweep)))
            made.logs.extend(rounds.logs())
            rounds.phases.release()
        return made

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
        """Adjoint for seeds (B, T, nx); those of rows that do not exist play no part.

        A phase is a discrete adjoint. Where it begins or ends at an event, its derivative with respect to that time is
        the right-hand side, which is exact within the tolerance of the steps.
        """
        made = self.run(batch, x0, p)
        if x is not None:
            x[...] = made.x
        return self.pull(batch, made, p, seeds, want_u=want_u, checkpoints=checkpoints)

    def pull(
        self,
        batch: Batch,
        made: Journey,
        p: NDArray[Any],
        seeds: NDArray[Any],
        *,
        want_u: bool = False,
        checkpoints: int | None = None,
    ) -> Gradient:
        """The adjoint of a simulation that was made, for seeds (B, T, nx)."""
        if self.tangent:
            raise UnsupportedOperation(
                "second derivatives through events are not available; use methods that need gradients only, such as "
                "L-BFGS-B, or hessian_approximation='limited-memory' with IPOPT"
            )
        x0_bar = np.zeros((batch.size, self.nx), batch.dtype)
        p_bar, bars = np.zeros(self.n_params), []
        for rounds, passed in made.chunks:
            bar = np.zeros(rounds.source.coefficients.shape)
            back = _Reverse(self.parts, rounds, seeds[rounds.start : rounds.stop], want_u, checkpoints, p_bar, bar)
            x0_bar[rounds.start : rounds.stop] = back.go(passed, made.sweep)
            rounds.phases.release()
            bars.append(ControlBars(bar.astype(batch.dtype)))
        return whole_or_nothing(
            Gradient(p_bar.astype(batch.dtype), x0_bar, bars if want_u and self.nu else None, made.sweep)
        )


@dataclass(eq=False)
class _Reverse:
    """The adjoint of one chunk: adds to `p_bar` and to the adjoint `bar` of the controls."""

    parts: HybridParts
    rounds: Rounds
    seeds: NDArray[Any]
    want_u: bool
    checkpoints: int | None
    p_bar: NDArray[np.float64]
    bar: NDArray[np.float64]

    def go(self, passed: list[Round], sweep: Sweep) -> NDArray[np.float64]:
        """Adjoint of the initial states (n, nx)."""
        rounds = self.rounds
        good = sweep.status[rounds.start : rounds.stop] == Status.SUCCESS
        lam = np.zeros((good.size, self.parts.functions.nx))
        for one in reversed(passed):
            for firing in reversed(one.firings):
                self._through(firing, good, lam)
            keep = np.flatnonzero(good[one.rows])
            if keep.size:
                self._phase(one, keep, lam)
        lam[good] += self.seeds[good, 0]
        return lam

    def _through(self, firing: Firing, good: NDArray[np.bool_], lam: NDArray[np.float64]) -> None:
        """From the adjoint after an event to that before it."""
        keep = np.flatnonzero(good[firing.rows])
        if keep.size == 0:
            return
        f, rows, controls = firing.taken(keep), firing.rows[keep], self.rounds.controls
        u = controls.value(rows, f.piece, f.t)
        after, slope = controls.value(rows, f.piece_after, f.t), controls.slope(rows, f.piece, f.t)
        x_bar, u_bar, p_bar = self.parts.functions.pull(
            f.event, f.t, f.before, u, after, slope, f.moves, self.rounds.p, lam[rows]
        )
        lam[rows] = x_bar
        self.p_bar += p_bar.sum(axis=0)
        if self.want_u and u_bar.size:
            controls.add_bar(self.bar, rows, f.piece, f.t, u_bar)

    def _phase(self, one: Round, keep: NDArray[np.int64], lam: NDArray[np.float64]) -> None:
        """From the adjoint at the end of a round's phases to that at their start."""
        rows, x = one.rows[keep], np.ascontiguousarray(one.x[keep])
        points = self.rounds.grid.phase(rows, one.begin[keep], one.end[keep])
        seeds = np.where((points.saves >= 0)[:, :, None], self.seeds[rows[:, None], np.maximum(points.saves, 0)], 0.0)
        seeds[np.arange(rows.size), points.last] += lam[rows]
        x_bar, p_bar, bars = self.rounds.phases.vjp(rows, points, x, seeds, self.want_u, self.checkpoints)
        lam[rows] = x_bar
        self.p_bar += p_bar
        if bars is not None:
            np.add.at(self.bar, np.zeros(1, np.int64) if self.bar.shape[0] == 1 else rows, bars)
