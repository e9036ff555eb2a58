"""Work arrays of one thread, and the list of idle ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import slots as s

REGISTER = 64
_N_ROWS = s.ROW_SAVED_AT - s.ROW_T_AT + 1  # the row arrays that a shared plan replaces come first
#: Kernel tapes kept per thread, in bytes: the last steps have theirs, those of earlier ones are made again in the
#: reverse sweep. Measured from 2 to 64 MB: at 16 the wide networks and long records no longer gain by more.
TAPE_BYTES = 16 << 20


def padded(count: int, item: int) -> int:
    """Bytes of `count` numbers rounded up to whole registers, at least one."""
    return max(-(-count * item // REGISTER), 1) * REGISTER


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

    def parts(self) -> dict[int, int]:
        """Bytes of every work array by slot."""
        back = int(self.backward)
        row = 8 * self.rows * self.row_lanes
        return {
            s.ROW_T_AT: row, s.ROW_H_AT: row, s.ROW_E_AT: row, s.ROW_PIECE_AT: row, s.ROW_SAVED_AT: row,
            s.ROW_FLAG_AT: 8 * self.rows, s.ROW_FIRST_AT: 8 * self.rows,
            s.STATES_AT: self.states * self.sn, s.TAPES_AT: self.tape_rows * self.stages * self.record,
            s.SCRATCH_AT: self.stages * self.record, s.K_AT: (self.stages + 1) * self.sn,
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
            s.C_W_AT: padded(self.nw * self.lanes, self.item), s.C_ELL_AT: self.sl, s.C_SEED_AT: self.sl,
            s.C_DUMP_AT: padded(max(self.nd, self.nw, 1) * self.lanes, self.item), s.C_X_BAR_AT: self.sn,
            s.C_TAPE_AT: padded(self.cost_tape * self.lanes, self.item),
            s.MODEL + s.ACC_AT: padded(self.n_acc[0], self.item),
            s.COST + s.ACC_AT: padded(self.n_acc[1], self.item),
            s.TERMINAL + s.ACC_AT: padded(self.n_acc[2], self.item),
        }  # fmt: skip


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
