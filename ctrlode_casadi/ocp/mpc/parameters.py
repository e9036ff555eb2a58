"""Parameters of a controller from step to step: blocks that users update, and their values along the horizon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...base.arrays import Float64Array, floats
from ...base.errors import DataError, unknown_name
from ...controls.control import Control
from ...model.layout import ParameterLayout
from .preview import Preview

#: How the values at the breaks are joined: first-order hold, by straight lines, and zero-order hold.
HOLDS = ("foh", "zoh")
#: A block that changes along the horizon: a number per entry, a row per break, or a function of time.
BlockValue = Any


class Parameters:
    """Values of a model's parameters, some of them with a table over the horizon.

    Parameters
    ----------
    layout
        Names of the parameters.
    p
        Values (np,).
    preview
        Names of the blocks with a table, or a mapping from names to their first values.
    fractions
        Breaks of the horizon as fractions (N + 1,).
    hold
        "foh", "zoh", or a mapping from names of blocks to them.
    """

    def __init__(
        self,
        layout: ParameterLayout,
        p: Float64Array,
        preview: Sequence[str] | Mapping[str, Any],
        fractions: Float64Array,
        hold: str | Mapping[str, str],
    ) -> None:
        if isinstance(preview, str):
            preview = (preview,)
        self._layout, self._first, self._fractions = layout, p.copy(), fractions
        self._blocks = {name: layout.slice(name) for name in preview}
        entries = [np.arange(where.start, where.stop) for where in self._blocks.values()]
        self._held = _held_blocks(hold, list(self._blocks))
        is_held = [np.full(e.size, name in self._held) for name, e in zip(self._blocks, entries)]
        self.preview = Preview(
            np.concatenate([np.zeros(0, np.int64), *entries]), fractions, np.concatenate([np.zeros(0, bool), *is_held])
        )
        if np.unique(self.preview.entries).size != self.preview.entries.size:
            raise DataError(f"preview: blocks overlap: {', '.join(self._blocks)}")
        self._given = dict(preview) if isinstance(preview, Mapping) else {}
        self.reset()

    def reset(self) -> None:
        """Back to the values of the construction."""
        self._p = self._first.copy()
        self._ahead: dict[str, BlockValue] = {}
        for name, value in self._given.items():
            self._ahead[name] = self._checked(name, value)

    @property
    def p(self) -> Float64Array:
        """Values (np,); those of blocks with a table are the latest at the start of the horizon."""
        return self._p

    def update(self, p: Any) -> None:
        """Take new values: all parameters (np,), or a mapping with some blocks.

        Raises
        ------
        DataError, ModelError
            For unknown blocks, wrong shapes, or values that are not finite. Nothing is changed then.
        """
        if p is None:
            return
        if not isinstance(p, Mapping):
            flat = np.asarray(floats("p", p, (("np", self._layout.n),)), dtype=np.float64)
            self._p, self._ahead = flat.copy(), {}
            return
        values, ahead = self._p.copy(), dict(self._ahead)
        for name, value in p.items():
            if name in self._blocks:
                ahead[name] = self._checked(name, value)
            else:
                where = self._layout.slice(name)
                values[where] = self._plain(name, value, where.stop - where.start)
        self._p, self._ahead = values, ahead

    def at(self, t0: float, duration: float) -> Float64Array:
        """All parameters of the extended problem for a horizon that begins at t0."""
        if not self._blocks:
            return self._p
        times = t0 + self._fractions * duration
        columns = []
        for name, where in self._blocks.items():
            rows = self._rows(name, times, where)
            self._p[where] = rows[0]
            columns.append(rows)
        return self.preview.extend(self._p, t0, duration, np.hstack(columns))

    def _checked(self, name: str, value: BlockValue) -> BlockValue:
        where = self._blocks[name]
        n, breaks = where.stop - where.start, self._fractions.size
        if callable(value):
            return value
        array = np.asarray(floats(f"p[{name!r}]", value), dtype=np.float64)
        if array.ndim == 0 and n == 1:
            array = array.reshape(1)
        if array.ndim == 1 and n == 1 and array.size != 1:
            array = array[:, None]
        if name in self._held and array.shape == (breaks - 1, n):
            array = np.vstack([array, array[-1:]])
        if array.shape not in ((n,), (breaks, n)):
            also = f", or one per interval, ({breaks - 1}, {n})" if name in self._held else ""
            raise DataError(
                f"p[{name!r}]: expected ({n},), held over the horizon, or one row per break of the horizon, "
                f"({breaks}, {n}){also}, got {np.shape(value)}; or give a function of time"
            )
        return array.copy()

    def _plain(self, name: str, value: Any, n: int) -> Float64Array:
        if callable(value):
            raise DataError(
                f"p[{name!r}]: a function of time needs values along the horizon; name the block in MPC(preview=...)"
            )
        array = np.asarray(floats(f"p[{name!r}]", value), dtype=np.float64)
        if array.size != n:
            raise DataError(f"p[{name!r}]: expected {n} values, got shape {array.shape}")
        return array.reshape(-1)

    def _rows(self, name: str, times: Float64Array, where: slice) -> Float64Array:
        n = where.stop - where.start
        value = self._ahead.get(name, self._p[where])
        if not callable(value):
            return np.asarray(np.broadcast_to(value, (times.size, n)))
        return sample(f"p[{name!r}]", value, times, n)


def _held_blocks(hold: str | Mapping[str, str], blocks: list[str]) -> set[str]:
    """Names of the blocks with zero-order hold."""
    kinds = dict(hold) if isinstance(hold, Mapping) else dict.fromkeys(blocks, hold)
    for name, kind in kinds.items():
        if name not in blocks:
            raise DataError(unknown_name("preview_hold block", name, blocks))
        if kind not in HOLDS:
            raise DataError(unknown_name("preview_hold", kind, HOLDS))
    return {name for name, kind in kinds.items() if kind == "zoh"}


def sample(name: str, function: Callable[..., Any], times: Float64Array, n: int) -> Float64Array:
    """Values (m, n) of a control, or of a function of one time, at times.

    Raises
    ------
    DataError
        Where the shape does not fit or a value is not finite.
    """
    if isinstance(function, Control):
        rows = np.asarray(function(times)[0], dtype=np.float64)
    else:
        rows = np.array([np.asarray(function(float(t)), dtype=np.float64).reshape(-1) for t in times])
    if rows.shape != (times.size, n):
        raise DataError(f"{name}: the function of time must return {n} numbers, it returned {rows.shape[1:]}")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise DataError(f"{name}: not finite at t = {times[int(np.argmax(bad))]:.6g}")
    return rows
