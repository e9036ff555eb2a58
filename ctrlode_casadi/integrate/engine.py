"""Runs batches through the compiled sweeps: simulation, adjoint with given seeds, cost and its gradient.

An `Engine` belongs to one set of kernels and one solver; a `Batch` brings save times and controls. All results have the
batch first. Calls are reentrant: work arrays belong to the call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import address
from ..base.processors import available_threads
from . import threads, workspace
from .batch import Batch, ControlBars, PieceArrays
from .method import make_method
from .results import Call, CallWork, Gradient, Sweep, new_sweep
from .rosenbrock.jacobian import LinearPart
from .solvers import OneStep
from .sweeps import slots as s
from .sweeps.load import call_kernel, load_sweeps
from .table import CALL_SLOTS, put_times, row_address
from .workspace import Sizes, StepSizes, Workspace, WorkspaceList, aligned_vector

__all__ = ["Engine", "Gradient", "Sweep"]

MAX_GROUPS = 64
_FIRST_ROWS = 512


@dataclass(eq=False)
class _Prepared:
    """What calls of one kind on one chunk of a batch have in common; `held` keeps alive what the table points to."""

    table: NDArray[np.int64]
    sizes: Sizes
    held: tuple[Any, ...]
    plan: tuple[Any, ...] | None
    groups: int
    bar_shape: tuple[int, ...]
    rows: int
    seconds: float | None = None

    @property
    def own_rows(self) -> bool:
        return self.plan is None


class Engine:
    """Sweeps for one model, solver and precision.

    Parameters
    ----------
    kernels
        Lane kernels of ``rhs(t, x, u, p)``.
    nx, nu, n_params
        Sizes.
    solver
        Runge-Kutta or Rosenbrock solver.
    n_err
        The error norm uses the first `n_err` states (all by default).
    cost, terminal
        Lane kernels of ``cost(t, x, u, p, d, w) -> ell`` at every save time and at the last one.
    nd, nw
        Entries of d and w.
    n_slopes
        Entries that the cost kernels return after the cost; see `slopes`.
    linear
        Jacobian and linear algebra of a Rosenbrock solver.
    n_threads
        Number of threads; all processors by default. Results do not depend on it.
    stop_when_stiff
        Trajectories that the stiffness test finds stiff end there, with the status STIFF.
    """

    def __init__(
        self,
        kernels: Any,
        nx: int,
        nu: int,
        n_params: int,
        solver: OneStep,
        *,
        n_err: int | None = None,
        cost: Any = None,
        terminal: Any = None,
        nd: int = 0,
        nw: int = 0,
        n_slopes: int = 0,
        n_threads: int | None = None,
        linear: LinearPart | None = None,
        stop_when_stiff: bool = False,
    ) -> None:
        self.kernels, self.cost, self.terminal = kernels, cost, terminal
        self.nx, self.nu, self.n_params, self.nd, self.nw = nx, nu, n_params, nd, nw
        self.solver, self.n_slopes = solver, n_slopes
        #: What the last call took, None before the first.
        self.work: CallWork | None = None
        self.n_err = nx if n_err is None else n_err
        self.linear = linear
        self._fits_saves = linear is not None and linear.fits_saves
        self.dtype = np.dtype(kernels.dtype)
        self.n_threads = n_threads or available_threads()
        self.method = make_method(solver, self.n_err, self.dtype, stop_when_stiff)
        self.sweeps = load_sweeps(self.dtype.name)
        self.idle = WorkspaceList()
        self._rows = _FIRST_ROWS
        self._token = object()
        self._lock = threading.Lock()

    # --- public entries ------------------------------------------------------------------------------------------

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, nx) at the save times and the sweep's report. x0 (B, nx), p (np,), of the engine's dtype."""
        x = np.empty((batch.size, batch.n_save, self.nx), self.dtype)
        call = Call(s.SIMULATE, batch, x0, new_sweep(batch.size), x=x)
        self._run(call, p)
        return x, call.sweep

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
        """Discrete adjoint for seeds (B, T, nx) of the states at the save times; `x` (B, T, nx) receives the states."""
        x0_bar = np.zeros((batch.size, self.nx), self.dtype)
        call = Call(
            s.VJP, batch, x0, new_sweep(batch.size), want_u and self.nu > 0, checkpoints or 0, x, seeds, x0_bar=x0_bar
        )
        p_bar, bars = self._run(call, p)
        return Gradient(p_bar, x0_bar, bars, call.sweep)

    def losses(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], Sweep]:
        """Cost of each trajectory, (B,): the sum of `cost` over its save times plus `terminal` at the last one.

        d (B or 1, T, nd) and w (B or 1, T, nw) hold data and weights; entries must be finite.
        """
        loss = np.zeros(batch.size)
        call = Call(s.LOSS, batch, x0, new_sweep(batch.size), d=d, w=w, scale=np.ones(batch.size), loss=loss)
        self._run(call, p)
        return loss, call.sweep

    def slopes(
        self, batch: Batch, x0: NDArray[Any], p: NDArray[Any], d: NDArray[Any], w: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], Sweep]:
        """Costs (B,) as in `losses`, and the sums (B, n_slopes) of what follows the cost; zero for failed ones."""
        loss, sums = np.zeros(batch.size), np.zeros((batch.size, self.n_slopes))
        call = Call(
            s.LOSS, batch, x0, new_sweep(batch.size), d=d, w=w, scale=np.ones(batch.size), loss=loss, slopes=sums
        )
        self._run(call, p)
        return loss, sums, call.sweep

    def gradient(
        self,
        batch: Batch,
        x0: NDArray[Any],
        p: NDArray[Any],
        d: NDArray[Any],
        w: NDArray[Any],
        scale: NDArray[np.float64],
        *,
        want_u: bool = False,
        checkpoints: int | None = None,
    ) -> Gradient:
        """Costs as in `losses`, and the gradient of ``sum(scale * loss)`` over the trajectories that succeed."""
        loss, x0_bar = np.zeros(batch.size), np.zeros((batch.size, self.nx), self.dtype)
        call = Call(
            s.GRADIENT, batch, x0, new_sweep(batch.size), want_u and self.nu > 0, checkpoints or 0,
            d=d, w=w, scale=scale, loss=loss, x0_bar=x0_bar,
        )  # fmt: skip
        p_bar, bars = self._run(call, p)
        return Gradient(p_bar, x0_bar, bars, call.sweep, loss)

    # --- one call ------------------------------------------------------------------------------------------------

    def _run(self, call: Call, p: NDArray[Any]) -> tuple[NDArray[Any], list[ControlBars] | None]:
        p_bar = np.zeros(self.n_params, self.dtype)
        bars: list[ControlBars] = []
        unis = self.prologues(p)
        for start, stop in call.batch.chunks():
            part, bar = self._run_chunk(call, start, stop, unis)
            p_bar += part
            if bar is not None:
                bars.append(bar)
        self.work = call.work
        return p_bar, bars if call.want_u else None

    def prologues(self, p: NDArray[Any]) -> list[NDArray[Any] | None]:
        """What depends on the parameters only: one array for each set of kernels, None where there is none."""
        own, made = aligned_vector(self.n_params, self.dtype), []
        own[: self.n_params] = p
        for kernels in (self.kernels, self.cost, self.terminal, self.linear.kernels if self.linear else None):
            made.append(None if kernels is None else aligned_vector(kernels.n_uni, self.dtype))
            if kernels is not None:
                call_kernel(kernels.prologue, [own], made[-1:])  # type: ignore[arg-type]
        return made

    def _run_chunk(
        self, call: Call, start: int, stop: int, unis: Sequence[NDArray[Any] | None]
    ) -> tuple[NDArray[Any], ControlBars | None]:
        ready = self.prepared(call, start, stop)
        p_bars = np.zeros((ready.groups if call.backward else 1, self.n_params), self.dtype)
        bars = np.zeros(ready.bar_shape, self.dtype) if call.want_u else None
        saves = None
        if call.want_u and (call.mode == s.GRADIENT or self._fits_saves):
            saves = np.zeros((stop - start, call.batch.n_save, self.nu), self.dtype)
        flags = np.zeros(2, np.int64)  # cancel, counter of groups
        work_done = np.zeros((ready.groups, 3), np.int64)
        table = self.complete(call, start, ready, unis, flags, p_bars, bars)
        table[[s.U_SAVES_BAR_AT, s.WORK_AT]] = address(saves), address(work_done)
        run_groups, idle, own_rows = self.sweeps.run_groups, self.idle, ready.own_rows
        held = (call, unis, flags, p_bars, bars, saves, work_done)  # what the table points to

        def work(held: tuple[Any, ...] = held) -> None:
            space = idle.take(ready.sizes)
            space.prepare(table, own_rows)
            group = -1
            while True:
                group = run_groups(space.table_address, group)
                if group < 0:
                    break
                space = self.larger(space)
                space.prepare(table, own_rows)
            idle.give(space)

        began, count = time.perf_counter(), min(self.n_threads, ready.groups)
        if not threads.run_workers(work, count, flags, ready.seconds):
            for array in (flags, p_bars, bars, saves):
                if array is not None:
                    array[...] = 0
            threads.run_workers(work, count, flags, None)
        ready.seconds = time.perf_counter() - began
        if flags[0]:
            call.stop_at_limit(start, stop)
            for array in (p_bars, bars, saves):
                if array is not None:
                    array[...] = 0
        call.work.add(ready.sizes, work_done, count)
        if bars is None:
            return p_bars.sum(axis=0), None
        total = bars.sum(axis=0, keepdims=True) if call.batch.shared_controls else bars
        return p_bars.sum(axis=0), ControlBars(total, saves)

    def prepared(self, call: Call, start: int, stop: int) -> _Prepared:
        """What calls of one kind on one chunk have in common, kept with the batch."""
        batch, key = call.batch, (self._token, call.mode, call.want_u, call.checkpoints, start)
        found: _Prepared | None = batch.prepared.get(key)
        if found is not None and found.rows == self._rows:
            return found
        pieces = batch.pieces(start, stop)
        blocks = -(-(stop - start) // self.kernels.lanes)
        groups = min(blocks, MAX_GROUPS)
        plan = self._plan(batch, pieces)
        sizes = self._sizes(call, pieces, plan)
        table = self._table(call, start, stop, pieces, plan)
        table[[s.BLOCKS, s.GROUPS, s.OWN_COEF_BAR]] = blocks, groups, not batch.shared_controls
        table[[s.SN, s.SM, s.RECORD, s.ROW_BYTES]] = sizes.sn, sizes.sm, sizes.record, sizes.row_bytes
        table[[s.OFF_STEP, s.OFF_J, s.OFF_LU, s.OFF_PIVOTS, s.OFF_J_TAPE]] = (
            sizes.stages * sizes.record, *sizes.step_offsets[1:5],
        )  # fmt: skip
        table[[s.OFF_U, s.OFF_T, s.OFF_TAPE]] = sizes.sn, sizes.sn + sizes.sm, sizes.sn + sizes.sm + sizes.sl
        bar_shape = (groups if batch.shared_controls else stop - start, *pieces.coefficients.shape[1:])
        saved = batch.saved_controls(start, stop) if self._fits_saves or call.mode in (s.LOSS, s.GRADIENT) else None
        if saved is not None:
            table[[s.U_SAVES_AT, s.OWN_U]] = address(saved), saved.shape[0] > 1
        made = _Prepared(table, sizes, (pieces, saved), plan, groups, bar_shape, self._rows, batch.expected_seconds)
        if batch.keeps(start, stop):
            batch.prepared[key] = made
        return made

    def complete(
        self,
        call: Call,
        start: int,
        ready: _Prepared,
        unis: Sequence[NDArray[Any] | None],
        flags: NDArray[np.int64],
        p_bars: NDArray[Any],
        bars: NDArray[Any] | None,
    ) -> NDArray[np.int64]:
        """The prepared table with the addresses of this call's arrays."""
        table = ready.table.copy()
        sweep, flag = call.sweep, address(flags)
        rows = (
            call.x0, call.x, call.seeds, call.scale, call.loss, call.slopes, call.x0_bar, sweep.status, sweep.reached,
            sweep.n_steps, sweep.n_rejected, sweep.n_rhs,
        )  # fmt: skip
        table[CALL_SLOTS] = [
            flag, flag + 8, address(p_bars), address(bars), *(row_address(v, start) for v in rows),
            *(address(uni) for uni in unis),
        ]  # fmt: skip
        for slot, own, array in ((s.D_AT, s.OWN_D, call.d), (s.W_AT, s.OWN_W, call.w)):
            shared = array is None or array.shape[0] == 1
            table[own] = not shared
            table[slot] = row_address(array, 0 if shared else start)
        return table

    def larger(self, space: Workspace) -> Workspace:
        """A workspace with twice the rows (as far as the planned rows need); the engine remembers the size."""
        sizes = space.sizes
        needed = max(2 * sizes.rows, int(space.table[s.ROWS]) + 2)
        states = sizes.states if sizes.states <= sizes.checkpoints + 2 else needed + 1
        with self._lock:
            self._rows = max(self._rows, needed)
        return Workspace(replace(sizes, rows=needed, states=states))

    # --- the task table ------------------------------------------------------------------------------------------

    def _plan(self, batch: Batch, pieces: PieceArrays) -> tuple[Any, ...] | None:
        """Rows of a fixed-step sweep that all trajectories share, or None."""
        if self.method.adaptive or batch.ts.shape[0] > 1 or pieces.breaks.shape[0] > 1 or not batch.steady:
            return None
        found: tuple[Any, ...] | None = batch.plans.get(self.solver)
        if found is not None and np.array_equal(found[0], pieces.breaks):
            return found
        table = np.zeros(s.SIZE, np.int64)
        self._put_method(table)
        index = np.zeros(s.I_ROWS, np.int64)
        put_times(table, batch, pieces)
        table[[s.LANES, s.LANE_I_AT, s.ROW_CAP]] = 1, address(index), 0
        rows = int(self.sweeps.plan_shared(table.ctypes.data))
        arrays = [np.zeros(max(rows, 1)) for _ in range(3)] + [np.zeros(max(rows, 1), np.int64) for _ in range(2)]
        table[s.ROW_T_AT : s.ROW_SAVED_AT + 1] = [address(v) for v in arrays]
        table[s.ROW_CAP] = rows
        self.sweeps.plan_shared(table.ctypes.data)
        batch.plans[self.solver] = made = (pieces.breaks, rows, arrays)
        return made

    def _put_method(self, table: NDArray[np.int64]) -> None:
        for slot, value in self.method.slots.items():
            table[slot] = value
        if self.linear is not None:
            for slot, value in self.linear.slots.items():
                table[slot] = value

    def _table(
        self, call: Call, start: int, stop: int, pieces: PieceArrays, plan: tuple[Any, ...] | None
    ) -> NDArray[np.int64]:
        """Task table of a chunk without the work arrays and the caller's arrays."""
        table = np.zeros(s.SIZE, np.int64)
        self._put_method(table)
        put_times(table, call.batch, pieces)
        if call.batch.ts.shape[0] > 1:
            table[s.TS_AT] += 8 * start * call.batch.n_save
            table[s.COUNT_AT] += 8 * start
        lanes = self.kernels.lanes
        table[[s.LANES, s.NX, s.NU, s.N, s.M]] = lanes, self.nx, self.nu, self.nx * lanes, self.nu * lanes
        table[[s.N_ERR, s.ND, s.NW, s.ITEM, s.NP]] = self.n_err, self.nd, self.nw, self.dtype.itemsize, self.n_params
        table[s.SLOPES] = self.n_slopes
        table[[s.BATCH, s.MODE, s.WANT_U, s.CHECKPOINTS]] = stop - start, call.mode, call.want_u, call.checkpoints
        table[s.SHARED_PLAN] = plan is not None
        table[s.LH] = 1 if plan is not None else lanes
        if plan is not None:
            table[s.ROWS] = plan[1]
            table[s.ROW_T_AT : s.ROW_SAVED_AT + 1] = [address(v) for v in plan[2]]
        for base, kernels in ((s.MODEL, self.kernels), (s.COST, self.cost), (s.TERMINAL, self.terminal)):
            if kernels is not None and (base == s.MODEL or call.mode in (s.LOSS, s.GRADIENT)):
                table[base : base + 4] = kernels.value, kernels.value_tape, kernels.adjoint, kernels.finish
                table[base + s.N_ACC] = kernels.n_acc
        return table

    def _sizes(self, call: Call, pieces: PieceArrays, plan: tuple[Any, ...] | None) -> Sizes:
        """Sizes of a call's work arrays."""
        kernels, costs = self.kernels, [k for k in (self.cost, self.terminal) if k is not None]
        lanes, item, tab = kernels.lanes, self.dtype.itemsize, self.method.tableau
        keep = call.backward and call.checkpoints == 0
        if plan is not None:
            rows = plan[1] + 1
        elif self.method.adaptive and not call.backward:
            rows = 2
        else:
            rows = self._rows
        sizes = Sizes(
            lanes, self.nx, self.nu, self.nd, self.nw, item, tab.stages, kernels.n_tape,
            (kernels.n_acc, *(k.n_acc if k is not None else 0 for k in (self.cost, self.terminal))),
            max([k.n_tape for k in costs], default=0), call.batch.n_save, pieces.anchors.shape[1],
            pieces.coefficients.shape[3], rows, 1 if plan is not None else lanes,
            rows + 1 if keep else 2 + call.checkpoints, 0, call.backward, call.want_u, call.checkpoints,
            self.n_slopes, self.linear.sizes if self.linear else StepSizes(),
        )  # fmt: skip
        if not keep:
            return sizes
        fit = min(workspace.TAPE_BYTES // sizes.row_bytes, rows)
        return replace(sizes, tape_rows=0 if self.method.adaptive and fit < 2 else fit)
