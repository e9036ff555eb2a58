"""Work arrays of one thread, and the list of idle ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import address
from .sweeps import slots as s

REGISTER = 64
_N_ROWS = s.ROW_SAVED_AT - s.ROW_T_AT + 1  # the row arrays that a shared plan replaces come first
#: Kernel tapes kept per thread, in bytes: the last steps have theirs, those of earlier ones are made again in the
#: reverse sweep. Measured from 2 to 64 MB: at 16 the wide networks and long records no longer gain by more.
TAPE_BYTES = 16 << 20


def padded(count: int, item: int) -> int:
    """Bytes of `count` numbers rounded up to whole registers, at least one."""
    return max(-(-count * item // REGISTER), 1) * REGISTER


def aligned_vector(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A zeroed, 64-byte aligned vector with at least `count` entries, padded to whole registers."""
    size = padded(count, dtype.itemsize)
    memory = np.zeros(size + REGISTER, np.uint8)
    at = -address(memory) % REGISTER
    return memory[at : at + size].view(dtype)


@dataclass(frozen=True)
class StepSizes:
    """Numbers that the record of an implicit step and its work arrays depend on; all zero for an explicit method."""

    block: int = 0
    n_j: int = 0
    n_tape: int = 0
    n_acc: int = 0
    n_mass: int = 0
    mass: bool = False


@dataclass(frozen=True)
class Sizes:
    """Everything that the work arrays of a call depend on, in numbers or rows."""

    lanes: int
    nx: int
    nu: int
    nd: int
    nw: int
    item: int
    stages: int
    n_tape: int
    n_acc: tuple[int, int, int]
    cost_tape: int
    n_save: int
    n_pieces: int
    powers: int
    rows: int
    row_lanes: int
    states: int
    tape_rows: int
    backward: bool
    want_u: bool
    checkpoints: int
    slopes: int = 0
    step: StepSizes = StepSizes()

    @property
    def sn(self) -> int:
        """Bytes of a state of the block."""
        return padded(self.nx * self.lanes, self.item)

    @property
    def sm(self) -> int:
        """Bytes of a control of the block."""
        return padded(self.nu * self.lanes, self.item)

    @property
    def sl(self) -> int:
        """Bytes of one number per lane."""
        return padded(self.lanes, self.item)

    @property
    def record(self) -> int:
        """Bytes of a stage record."""
        return self.sn + self.sm + self.sl + padded(self.n_tape * self.lanes, self.item)

    @property
    def step_offsets(self) -> tuple[int, ...]:
        """Where the parts of a step's record start, and its size in bytes: k, J, LU factors, pivots, tape."""
        step, lanes = self.step, self.lanes
        if not step.block:
            return (0,) * 6
        counts = step.n_j, step.block**2, step.block, step.n_tape
        sizes = [(self.stages + 1) * self.sn, *(padded(count * lanes, self.item) for count in counts)]
        return tuple(accumulate(sizes, initial=0))

    @property
    def row_bytes(self) -> int:
        """Bytes of all records of a row."""
        return self.stages * self.record + self.step_offsets[-1]

    def _step_parts(self, back: int) -> dict[int, int]:
        """Work arrays of an implicit step."""
        step, item = self.step, self.item
        if not step.block:
            return {}
        per_j = padded(step.n_j * self.lanes, item)
        return {
            s.ONES_AT: self.sn, s.MINUS_H_AT: self.sl, s.INVERSE_AT: self.sl, s.MV_AT: self.sn, s.TIME_AT: self.sn,
            s.M_LANES_AT: padded(step.n_mass * self.lanes, item), s.DU_AT: self.sm, s.LEAST_AT: self.sl,
            s.MU_AT: back * (self.stages + 1) * self.sn, s.MTMU_AT: back * int(step.mass) * self.stages * self.sn,
            s.J_BAR_AT: back * per_j, s.TIME_BAR_AT: self.sn, s.DU_BAR_AT: self.sm,
            s.J_IN_AT: 64, s.J_OUT_AT: 64, s.J_BACK_IN_AT: 64, s.J_BACK_OUT_AT: 64,
            s.JACOBIAN + s.ACC_AT: padded(step.n_acc, item),
        }  # fmt: skip

    def parts(self) -> dict[int, int]:
        """Bytes of every work array by slot."""
        back = int(self.backward)
        row = 8 * self.rows * self.row_lanes
        return {
            s.ROW_T_AT: row, s.ROW_H_AT: row, s.ROW_E_AT: row, s.ROW_PIECE_AT: row, s.ROW_SAVED_AT: row,
            s.ROW_FLAG_AT: 8 * self.rows, s.ROW_FIRST_AT: 8 * self.rows,
            s.STATES_AT: self.states * self.sn, s.TAPES_AT: self.tape_rows * self.row_bytes,
            s.SCRATCH_AT: self.row_bytes, s.K_AT: (self.stages + 1) * self.sn,
            s.BARS_AT: back * (self.stages + 1) * self.sn, s.DENSE_AT: back * (self.stages + 1) * self.sn,
            s.HX_AT: self.sn, s.X_NEW_AT: self.sn, s.ERR_AT: self.sn, s.K_BAR_AT: self.sn,
            s.SAVES_AT: self.n_save * self.sn, s.SEEDS_AT: back * self.n_save * self.sn,
            s.CF_AT: self.n_pieces * self.powers * self.sm,
            s.CF_BAR_AT: int(self.want_u) * self.n_pieces * self.powers * self.sm,
            s.SU_AT: self.sm, s.U_BAR_AT: self.sm, s.T_BAR_AT: self.sl,
            s.LANE_F_AT: 8 * s.F_ROWS * self.lanes, s.LANE_I_AT: 8 * s.I_ROWS * self.lanes,
            s.STACK_AT: 8 * (self.checkpoints + 2),
            s.IN_AT: 64, s.OUT_AT: 64, s.BACK_IN_AT: 64, s.BACK_OUT_AT: 64,
            s.C_IN_AT: 64, s.C_OUT_AT: 64, s.C_BACK_IN_AT: 64, s.C_BACK_OUT_AT: 64,
            s.C_T_AT: self.sl, s.C_U_AT: self.sm, s.C_D_AT: padded(self.nd * self.lanes, self.item),
            s.C_W_AT: padded(self.nw * self.lanes, self.item), s.C_SEED_AT: self.sl,
            s.C_ELL_AT: padded((1 + self.slopes) * self.lanes, self.item),
            s.LANE_SLOPES_AT: padded(self.slopes * self.lanes, 8),
            s.C_DUMP_AT: padded(max(self.nd, self.nw, 1) * self.lanes, self.item), s.C_X_BAR_AT: self.sn,
            s.C_TAPE_AT: padded(self.cost_tape * self.lanes, self.item),
            s.MODEL + s.ACC_AT: padded(self.n_acc[0], self.item),
            s.COST + s.ACC_AT: padded(self.n_acc[1], self.item),
            s.TERMINAL + s.ACC_AT: padded(self.n_acc[2], self.item),
            **self._step_parts(back),
        }  # fmt: skip

    def memory(self, rows: int) -> tuple[int, int, int]:
        """Bytes of start states, of step headers and of all other work arrays in a reverse sweep over `rows` rows."""
        return _memory(self, rows)


@lru_cache(maxsize=256)
def _memory(sizes: Sizes, rows: int) -> tuple[int, int, int]:
    """See `Sizes.memory`; kept, since it takes as long as a short call."""
    states = sizes.states if sizes.checkpoints else min(sizes.states, rows + 1)
    used = replace(sizes, rows=min(sizes.rows, rows), states=states, tape_rows=min(sizes.tape_rows, rows))
    parts = used.parts()
    headers = sum(parts[slot] for slot in range(s.ROW_T_AT, s.ROW_SAVED_AT + 1))
    flags = parts[s.ROW_FLAG_AT] + parts[s.ROW_FIRST_AT]
    other = sum(parts.values()) - headers - flags - parts[s.STATES_AT]
    return parts[s.STATES_AT], headers + (flags if sizes.row_lanes > 1 else 0), other


class Workspace:
    """One zeroed, aligned allocation with all work arrays of a thread, and the thread's task table."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        parts = sizes.parts()
        total = sum(-(-v // REGISTER) * REGISTER for v in parts.values())
        # np.zeros leaves the pages to the system until they are touched: unused capacity costs no memory.
        self._memory = np.zeros(total + REGISTER, np.uint8)
        self.table = np.zeros(s.SIZE, np.int64)
        self.table_address = self.table.ctypes.data
        at = self._memory.ctypes.data
        at += -at % REGISTER
        addresses: dict[int, int] = {}
        for slot, size in parts.items():
            addresses[slot] = at
            at += -(-size // REGISTER) * REGISTER
        self._places = np.array([*addresses, s.ROW_CAP, s.TAPE_ROWS], np.int64)
        self._values = np.array([*addresses.values(), sizes.rows, sizes.tape_rows], np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self._memory.nbytes

    def prepare(self, call: NDArray[np.int64], own_rows: bool) -> None:
        """Task table for a call: the call's slots and this thread's addresses and capacities."""
        np.copyto(self.table, call)
        if own_rows:
            self.table[self._places] = self._values
        else:
            self.table[self._places[_N_ROWS:]] = self._values[_N_ROWS:]


class WorkspaceList:
    """Idle work arrays, kept for the next call; safe to use from several Python threads."""

    def __init__(self, limit: int = 16) -> None:
        self._idle: list[Workspace] = []
        self._lock = threading.Lock()
        self._limit = limit

    def take(self, sizes: Sizes) -> Workspace:
        """An idle workspace of these sizes, or a new one."""
        with self._lock:
            for k, space in enumerate(self._idle):
                if space.sizes == sizes:
                    return self._idle.pop(k)
        return Workspace(sizes)

    def give(self, space: Workspace) -> None:
        """Return a workspace; the oldest are dropped beyond the limit."""
        with self._lock:
            self._idle.append(space)
            del self._idle[: -self._limit]

    def __getstate__(self) -> dict[str, Any]:
        return {"_limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_limit"])  # type: ignore[misc]
