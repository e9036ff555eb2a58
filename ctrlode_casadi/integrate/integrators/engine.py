"""CasADi's integrators as an engine: trajectories in threads, one call for each control interval."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import Float64Array
from ...base.processors import available_threads
from ...base.status import Status
from ...model.ode import ControlledODE
from ..batch import Batch, ControlBars
from ..results import Gradient, Sweep, new_sweep, stop_at_limit, whole_or_nothing
from ..tangent import tangent_function
from ..threads import run_workers, time_is_up
from .collocation import Collocation
from .consistency import Consistency
from .derivatives import fill, reverse_trajectory, tangent_trajectory
from .objects import Dynamics, Evaluator, Kit, Workshop, make_integrator, muted, status_of
from .plan import Call, Track, local_powers, plan_calls
from .solvers import IDAS, CasadiIntegrator

#: Trajectories are summed in at most this many groups, in order, so that threads do not change a bit.
GROUPS = 64


@dataclass(frozen=True, eq=False)
class Record:
    """A forward sweep: states (B, T, nx + nz), its report, and the states at the start of every call."""

    x: Float64Array
    sweep: Sweep
    starts: list[Float64Array] = field(default_factory=list)


class IntegratorEngine:
    """Offers `simulate` and `vjp` of `Engine`, and `tangents`, with an integrator of CasADi; in double precision.

    Parameters
    ----------
    dynamics
        The ODE or DAE.
    solver
        The integrator's settings.
    n_threads
        Number of threads, None for all processors.

    Notes
    -----
    States are (x, z), differential before algebraic. z0 is a guess: consistent values are computed at the initial
    time and after every jump of the control. The reverse sweep starts from the states that the forward sweep kept at
    the start of every call, and runs only where that succeeded: SUNDIALS' adjoint never returns from a forward
    integration that fails.
    """

    def __init__(self, dynamics: Dynamics, solver: CasadiIntegrator, n_threads: int | None = None) -> None:
        self.dynamics, self.solver, self.threads = dynamics, solver, n_threads or available_threads()
        self.nx, self.nu, self.n_params, self.nz = dynamics.sizes
        self.consistency = None if dynamics.algebraic is None else Consistency(dynamics.algebraic)
        self._workshop = Workshop()
        self._last: tuple[Any, ...] | None = None
        #: What integrates the adjoint; an ODE's is left to CVODES, where IDAS often finds no initial slopes.
        self._reverse = solver.for_odes() if isinstance(solver, IDAS) and not self.nz else solver
        tolerances = self._reverse.casadi_options()
        #: Size of the seeds of an adjoint call, where SUNDIALS' absolute tolerance counts.
        self.seed_size = 1.0 if solver.exact_adjoint else tolerances["abstol"] / (0.01 * tolerances["reltol"])
        # IDAS cannot restart the adjoint of a DAE at an output inside a call (IDA_ERR_FAIL): a call ends there.
        self._reverse_splits = solver.splits or isinstance(self._reverse, IDAS)

    # --- what the simulator and the objective use ----------------------------------------------------------------

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, nx + nz) from x0 and a guess of the algebraic variables (B, nx + nz), and the report."""
        record = self._recorded(batch, x0, p, self.solver.splits)
        return record.x.astype(batch.dtype), record.sweep

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
        """CasADi's reverse mode, call by call backwards, for seeds (B, T, nx + nz).

        x0_bar has a column for each entry of x0; a guess has no influence. `checkpoints` is refused by the settings.
        """
        record, wide = self._recorded(batch, x0, p, self._reverse_splits), p.astype(float)
        if x is not None:
            x[...] = record.x
        sweep = Sweep(*(np.array(v) for v in vars(record.sweep).values()))
        shape = [batch.pieces(a, z).coefficients.shape[1:] for a, z in batch.chunks()]
        groups = self._groups(batch)
        shared = batch.shared_controls
        bars = [np.zeros((1 if shared else z - a, *s)) for (a, z), s in zip(batch.chunks(), shape, strict=True)]
        saves = [np.zeros((z - a, batch.n_save, self.nu)) for a, z in batch.chunks()] if self.nz else None
        p_bars, x0_bar = np.zeros((len(groups), self.n_params)), np.zeros((batch.size, self.nx + self.nz))
        sums = np.zeros((len(groups) if shared else 0, *(shape[0] if shape else ())))

        def work(kit: Kit, g: int, b: int) -> None:
            if sweep.status[b] != Status.SUCCESS:
                return
            track = self.track(batch, b, wide, self._reverse_splits)
            seed = seeds[b].astype(float)
            made = reverse_trajectory(self, kit, track, record.x[b], record.starts[b], seed)
            if made is None:
                sweep.status[b] = Status.SOLVER_FAILURE
                return
            p_part, x0_bar[b, : self.nx], pieces_bar, saves_bar = made
            p_bars[g] += p_part
            chunk = b // (batch.chunks()[0][1] or 1)
            row = b - batch.chunks()[chunk][0]
            target = sums[g] if shared else bars[chunk][row]
            if saves is not None:
                saves[chunk][row, : len(saves_bar)] = saves_bar
            for call, part in zip(track.calls, pieces_bar, strict=True):
                target[call.piece, :, : part.shape[1]] += part

        self._each(batch, groups, work)
        if shared and bars:
            # One control for all: the whole sum belongs to the first chunk.
            bars[0][0] = sums.sum(axis=0)
        control_bars = [ControlBars(v, saves[i] if saves else None) for i, v in enumerate(bars)] if want_u else None
        return whole_or_nothing(
            Gradient(p_bars.sum(axis=0).astype(batch.dtype), x0_bar.astype(batch.dtype), control_bars, sweep)
        )

    def tangents(
        self,
        pairs: Sequence[Batch],
        x0: NDArray[Any],
        p: NDArray[Any],
        dp: NDArray[Any],
        dx0: NDArray[Any],
    ) -> NDArray[Any]:
        """Changes of the states along n directions at once, by CasADi's forward mode.

        Parameters
        ----------
        pairs
            For each direction the batch with controls (u, du) (`tangent.TangentControl`), (B, 2 nu).
        x0, p
            As in the simulation.
        dp, dx0
            (n, np) and (n, B, nx).

        Returns
        -------
        ndarray
            (n, B, T, nx + nz); NaN where a trajectory failed.
        """
        first = pairs[0]
        out = np.full((len(pairs), first.size, first.n_save, self.nx + self.nz), np.nan)
        wide, start = p.astype(float), x0.astype(float)

        def work(kit: Kit, _: int, b: int) -> None:
            tracks = [self.track(pair, b, wide, self.solver.splits) for pair in pairs]
            tangent_trajectory(self, kit, tracks, start[b], (dp, dx0[:, b]), out[:, b])

        self._each(first, self._groups(first), work)
        return out.astype(first.dtype)

    # --- forward -------------------------------------------------------------------------------------------------

    def _recorded(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], split: bool) -> Record:
        """The forward sweep; that of the last call is used again where nothing has changed."""
        start, wide = x0.astype(float), p.astype(float)
        last = self._last
        if last is not None and last[0] is batch and last[1] == split and _equal(last[2:4], (start, wide)):
            return last[4]
        sweep = new_sweep(batch.size)
        x = np.full((batch.size, batch.n_save, self.nx + self.nz), np.nan)
        starts: list[Any] = [None] * batch.size

        def work(kit: Kit, _: int, b: int) -> None:
            track = self.track(batch, b, wide, split)
            starts[b] = self.forward(kit, track, start[b], x[b], sweep, b)

        self._each(batch, self._groups(batch), work)
        record = Record(x, sweep, starts)
        if time_is_up():
            stop_at_limit(sweep)
            return record
        self._last = (batch, split, start, wide, record)
        return record

    def forward(
        self,
        kit: Kit,
        track: Track,
        state: Float64Array,
        out: Float64Array,
        sweep: Sweep,
        b: int,
    ) -> Float64Array:
        """Integrate one trajectory from `state` (nx + nz,) into `out` (T, nx + nz); states at the calls' starts."""
        nx, nu = self.nx, self.nu
        starts = np.full((len(track.calls), nx + self.nz), np.nan)
        sweep.status[b], sweep.reached[b] = Status.SUCCESS, 1
        if not track.calls:
            out[0] = state
            self._fit(track, out, range(1), sweep, b)
        for k, call in enumerate(track.calls):
            if self.consistency is not None:
                find = self.consistency.start if k == 0 else self.consistency.solve
                z, status = find(call.start, state[:nx], track.control(k, 0.0, nu), track.p, state[nx:])
                if status != Status.SUCCESS:
                    sweep.status[b], sweep.reached[b] = status, 0 if k == 0 else sweep.reached[b]
                    return starts
                state = np.concatenate([state[:nx], z])
            if k == 0:
                out[0] = state
                if not self._fit(track, out, range(1), sweep, b):
                    return starts
            starts[k] = state
            evaluate = self.evaluator(kit, call, track.powers, state)
            fill(self, evaluate.inputs, state, track.theta[k])
            with muted():
                message = evaluate()
            found = [evaluate.outputs["xf"].reshape(-1, nx)]
            if self.nz:
                found.append(evaluate.outputs["zf"].reshape(-1, self.nz))
            rows = np.concatenate(found, axis=1)
            good = np.isfinite(rows).all(axis=1)
            valid = len(rows) if good.all() else int(np.argmin(good))
            saved = min(valid, call.last - call.first)
            out[call.first : call.first + saved] = rows[:saved]
            sweep.reached[b] = call.first + saved
            self._count(evaluate, sweep, b)
            if not self._fit(track, out, range(call.first, call.first + saved), sweep, b):
                return starts
            if message is not None or valid < len(rows):
                last = rows[valid - 1] if valid else state
                sweep.status[b] = self._failure(message, evaluate, track, k, last)
                return starts
            state = rows[-1]
        return starts

    def _fit(self, track: Track, out: Float64Array, saves: range, sweep: Sweep, b: int) -> bool:
        """Let z at save times fit the states and the controls reported there; False where that ends the trajectory."""
        if self.consistency is None:
            return True
        find = self.consistency.solve if track.calls else self.consistency.start
        for m in saves:
            x, z = out[m, : self.nx], out[m, self.nx :]
            out[m, self.nx :], status = find(track.times[m], x, track.saved[m, : self.nu], track.p, z)
            if status != Status.SUCCESS:
                out[m:], sweep.status[b], sweep.reached[b] = np.nan, status, m
                return False
        return True

    def evaluator(
        self, kit: Kit, call: Call, powers: int, state: Float64Array, kind: str = "value", directions: int = 0
    ) -> Evaluator:
        """The worker's integrator for a call from `state`: its "value", "adjoint", or "forward" along directions."""
        length, size = call.length if self.solver.time_dependent else 1.0, self.solver.size_of(state)
        key = (call.grid, length, size, kind, directions, powers)

        def make() -> Any:
            reverse = kind == "adjoint"
            solver = self._reverse if reverse else self.solver
            as_states = reverse and isinstance(solver, IDAS)
            f = make_integrator(
                self.dynamics, solver, powers, call.grid, length, size, adjoint=reverse, as_states=as_states
            )
            return f.forward(directions) if kind == "forward" else f

        return self._workshop.evaluator(kit, key, make, kind == "adjoint" and not self.solver.exact_adjoint)

    def _count(self, evaluate: Evaluator, sweep: Sweep, b: int) -> None:
        stats = evaluate.stats()
        steps = stats.get("nsteps", stats.get("n_steps", 0))
        if isinstance(self.solver, Collocation):
            steps = self.solver.steps_per_interval
        sweep.n_steps[b] += steps
        sweep.n_rejected[b] += stats.get("netfails", stats.get("n_reject", 0))
        sweep.n_rhs[b] += stats.get("nfevals", stats.get("n_rhs", 0))

    def _failure(self, message: str | None, evaluate: Evaluator, track: Track, k: int, state: Float64Array) -> Status:
        """Why a call failed; a right-hand side that is not finite at the last valid state is the first suspect."""
        call = track.calls[k]
        arguments = [call.start, state[: self.nx], track.control(k, 0.0, self.nu), track.theta[k, : self.n_params]]
        slope = np.asarray(self.dynamics.rhs(*arguments, *([state[self.nx :]] if self.nz else [])))
        if message is None or not np.isfinite(slope).all():
            return Status.NON_FINITE
        stats = evaluate.stats()
        if stats.get("n_steps", 0) + stats.get("n_reject", 0) >= getattr(self.solver, "max_steps", np.inf):
            return Status.MAX_STEPS
        return status_of(message, self.nz > 0)

    # --- parts ---------------------------------------------------------------------------------------------------

    def track(self, batch: Batch, b: int, p: Float64Array, split: bool) -> Track:
        """Trajectory b of a batch, whose controls may come with a change: nu or 2 nu components."""
        chunk = next((a, z) for a, z in batch.chunks() if a <= b < z)
        pieces = batch.pieces(*chunk)
        row = b - chunk[0]

        def own(v: NDArray[Any]) -> NDArray[Any]:
            return v[row if v.shape[0] > 1 else 0]

        r = b if batch.ts.shape[0] > 1 else 0
        once = batch.ts.shape[0] == 1 and pieces.breaks.shape[0] == 1
        key = ("integrator calls", split)
        calls = batch.prepared.get(key) if once else None
        if calls is None:
            calls = plan_calls(batch.ts[r, : batch.counts[r]], own(pieces.breaks), split)
            if once:
                batch.prepared[key] = calls
        coefficients, n = own(pieces.coefficients).astype(float), len(calls)
        maps = local_powers(calls, own(pieces.anchors), coefficients.shape[2])
        local = np.einsum("kcj,kjm->kmc", coefficients[[call.piece for call in calls]], maps)
        value = local[:, :, : self.nu].reshape(n, coefficients.shape[2] * self.nu)
        spans = np.array([(call.start, call.length) for call in calls]).reshape(n, 2)
        theta = np.concatenate([np.broadcast_to(p, (n, p.size)), value, spans], axis=1)
        change = local[:, :, self.nu :].reshape(n, -1) if n else value
        saved = own(batch.saved_controls(*chunk)).astype(float) if self.nz else np.zeros((0, 0))
        return Track(calls, theta, maps, change, batch.ts[r, : batch.counts[r]], saved, p)

    def _groups(self, batch: Batch) -> list[range]:
        """Contiguous ranges of trajectories, whose number does not depend on the threads."""
        bounds = np.linspace(0, batch.size, min(GROUPS, max(batch.size, 1)) + 1).astype(int)
        return [range(int(a), int(z)) for a, z in itertools.pairwise(bounds)]

    def _each(self, batch: Batch, groups: list[range], work: Callable[[Kit, int, int], None]) -> None:
        """Call `work(kit, group, trajectory)` for all trajectories, groups shared out among threads."""
        cancel = np.zeros(1, np.int64)
        queue, lock = iter(range(len(groups))), threading.Lock()

        def worker() -> None:
            with self._workshop.worker() as kit:
                while not cancel[0]:
                    with lock:
                        g = next(queue, None)
                    if g is None:
                        return
                    for b in groups[g]:
                        if cancel[0]:
                            return
                        work(kit, g, b)

        for a, z in batch.chunks():  # made here, not by several threads at once
            batch.pieces(a, z)
            if self.nz:
                batch.saved_controls(a, z)
        run_workers(worker, min(self.threads, len(groups)), cancel, None)


def _equal(one: Sequence[Float64Array], other: Sequence[Float64Array]) -> bool:
    """Whether arrays have the same entries."""
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def make_integrator_engine(
    model: ControlledODE, solver: CasadiIntegrator, n_threads: int | None, tangent: bool = False
) -> IntegratorEngine:
    """The engine of a model, or of its tangent system."""
    if tangent:
        return IntegratorEngine(Dynamics(tangent_function(model.rhs)), solver, n_threads)
    return IntegratorEngine(Dynamics(model.rhs, model.algebraic), solver, n_threads)
