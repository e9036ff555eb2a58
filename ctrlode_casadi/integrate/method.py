"""A tableau in the form that the compiled sweeps read: sparse rows forward and backward, in the type of the states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .solvers import ErrorControl, OneStep
from .sweeps import slots as s
from .tableaus import Tableau

BETA = 0.2  # PI gain times the order of the error estimate: 0.04 for a pair of order 5(4) (Hairer & Wanner II, IV.2).


def sparse_rows(
    rows: list[NDArray[np.float64]], dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Row pointers, columns and values of the rows' nonzeros."""
    columns = [np.flatnonzero(row) for row in rows]
    pointers = np.concatenate([[0], np.cumsum([c.size for c in columns])]).astype(np.int64)
    values = np.concatenate([row[c] for row, c in zip(rows, columns, strict=True)] or [np.zeros(0)])
    return pointers, np.concatenate([*columns, [0]]).astype(np.int64), np.append(values, 0.0).astype(dtype)


@dataclass(frozen=True, eq=False)
class Method:
    """Slots of the task table that a solver fixes, and the arrays that they point to."""

    slots: dict[int, int]
    arrays: tuple[NDArray[Any], ...]
    tableau: Tableau
    adaptive: bool


def _backward_rows(tab: Tableau) -> list[NDArray[np.float64]]:
    """Rows of kbar_i = h (sum_j a_ji Xbar_j + b_i lambda), lambda in column S; without, then with extra stages."""
    rows = []
    for active in (tab.main, tab.stages):
        for i in range(tab.stages):
            row = np.zeros(tab.stages + 1)
            row[:active] = tab.A[:active, i]
            row[-1] = tab.b[i]
            rows.append(row)
    return rows


def _aliases(tab: Tableau) -> NDArray[np.int64]:
    """First stage at the same node, whose time and control are used again. Stages 0 and FSAL keep their own."""
    alias = np.arange(tab.stages)
    for i in range(1, tab.stages):
        if not (tab.fsal and i == tab.trial - 1):
            alias[i] = next(j for j in range(1, i + 1) if tab.c[j] == tab.c[i])
    return alias.astype(np.int64)


def make_method(solver: OneStep, n_err: int, dtype: np.dtype[Any], stop_when_stiff: bool = False) -> Method:
    """Arrays of a solver for systems whose error is measured in the first `n_err` states.

    `stop_when_stiff` ends trajectories that the stiffness test finds stiff, for methods that have one.
    """
    tab, adaptive = solver.tableau, solver.adaptive
    errors = [] if tab.e is None else list(tab.e)
    forward = sparse_rows([*tab.A, tab.b, *errors], dtype)
    backward = sparse_rows(_backward_rows(tab), dtype)
    order = (tab.error_order or tab.order) + 1
    control = np.zeros(8)
    atol = np.zeros(max(n_err, 1))
    max_steps = 0
    if isinstance(solver, ErrorControl):
        floor = 50 * float(np.finfo(dtype).eps)
        control[s.RTOL] = max(solver.rtol, floor) if dtype == np.float32 else solver.rtol
        control[s.DT0] = solver.dt0 or 0.0
        atol[:] = solver.atol
        max_steps = solver.max_steps
    control[[s.SAFETY, s.SHRINK, s.GROW, s.BETA]] = 0.9, 0.2, 10.0, BETA / order
    control[s.DT] = solver.dt or 0.0
    control[s.STABILITY] = tab.stability or 0.0
    tested = s.STOP_WHEN_STIFF if stop_when_stiff else s.WATCH_LIMIT
    dense = np.ascontiguousarray(tab.P if tab.P is not None else np.zeros((tab.stages, 1)))
    arrays = (tab.c.copy(), _aliases(tab), *forward, *backward, dense, control, atol)
    places = (
        s.C_AT, s.ALIAS_AT, s.F_PTR_AT, s.F_COL_AT, s.F_VAL_AT, s.B_PTR_AT, s.B_COL_AT, s.B_VAL_AT, s.P_AT,
        s.CONTROL_AT, s.ATOL_AT,
    )  # fmt: skip
    slots = {place: array.ctypes.data for place, array in zip(places, arrays, strict=True)}
    slots |= {
        s.STAGES: tab.stages, s.MAIN: tab.main, s.TRIAL: tab.trial, s.FSAL: int(tab.fsal),
        s.TWO_ERRORS: int(len(errors) == 2), s.DEGREE: dense.shape[1], s.ORDER: order, s.ADAPTIVE: int(adaptive),
        s.MAX_STEPS: max_steps, s.STEPS_PER: 0 if solver.dt is not None else (solver.steps_per_interval or 1),
        s.STIFFNESS: 0 if tab.stability is None else tested,
    }  # fmt: skip
    return Method(slots, arrays, tab, adaptive)
