"""The data of a batch of trajectories in the form that the sweeps read: save times and controls, shared or per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.errors import ControlError

#: Coefficients of at most this many bytes stay in memory between calls; larger batches make them chunk by chunk.
KEEP_BYTES = 64 << 20
#: Trajectories integrated per call of the compiled sweeps: bounds the memory for coefficients and their adjoint.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class PieceArrays:
    """Controls of some trajectories as the sweeps read them; every array has a leading axis of 1 (shared) or b.

    Attributes
    ----------
    breaks, stops, anchors, coefficients
        (b, Nb + 1), (b, Nb + 1) int64, (b, Nb), (b, Nb, nu, d + 1) with ascending powers of ``t - anchor``.
    jumps
        Whether any control jumps at a break, so that a stage before it cannot serve the step after it.
    """

    breaks: NDArray[np.float64]
    stops: NDArray[np.int64]
    anchors: NDArray[np.float64]
    coefficients: NDArray[Any]
    jumps: bool


def _jumps(breaks: NDArray[Any], anchors: NDArray[Any], coefficients: NDArray[Any]) -> bool:
    """Whether values to the left and to the right of any inner break differ by more than rounding."""
    if coefficients.shape[1] < 2 or coefficients.size == 0:
        return False
    inner = breaks[:, 1:-1]
    left = np.zeros((1, 1, 1))
    right = np.zeros((1, 1, 1))
    to_left, to_right = (inner - anchors[:, :-1])[..., None], (inner - anchors[:, 1:])[..., None]
    to_left, to_right = (np.where(np.isfinite(v), v, 0.0) for v in (to_left, to_right))
    for j in range(coefficients.shape[3] - 1, -1, -1):
        left = left * to_left + coefficients[:, :-1, :, j]
        right = right * to_right + coefficients[:, 1:, :, j]
    scale = 1e-5 if coefficients.dtype == np.float32 else 1e-12
    size = np.abs(coefficients[..., 0]).max(initial=0.0) + 1e-300
    gap = np.where(np.isfinite(inner)[..., None], np.abs(left - right), 0.0)
    return bool(np.any(gap > scale * size))


def piece_arrays(
    breaks: NDArray[Any], stops: NDArray[Any], anchors: NDArray[Any], coefficients: NDArray[Any], dtype: np.dtype[Any]
) -> PieceArrays:
    """`PieceArrays` from arrays that may lack the leading axis."""
    breaks = np.ascontiguousarray(np.atleast_2d(breaks), dtype=np.float64)
    anchors = np.ascontiguousarray(np.atleast_2d(anchors), dtype=np.float64)
    stops = np.ascontiguousarray(np.atleast_2d(stops), dtype=np.int64)
    coefficients = np.ascontiguousarray(coefficients, dtype=dtype)
    return PieceArrays(breaks, stops, anchors, coefficients, _jumps(breaks, anchors, coefficients))


def no_control(t0: float, t1: float, dtype: np.dtype[Any]) -> PieceArrays:
    """One piece without components, for models with nu == 0."""
    return piece_arrays(np.array([t0, t1]), np.zeros(2), np.array([t0]), np.zeros((1, 1, 0, 1)), dtype)


def _stack(parts: Sequence[PieceArrays], dtype: np.dtype[Any]) -> PieceArrays:
    """Single-trajectory controls of different lengths as one; short ones get pieces that start at infinity."""
    pieces = max(p.anchors.shape[1] for p in parts)
    powers = max(p.coefficients.shape[3] for p in parts)
    rows, nu = len(parts), parts[0].coefficients.shape[2]
    breaks = np.full((rows, pieces + 1), np.inf)
    anchors, stops = np.zeros((rows, pieces)), np.zeros((rows, pieces + 1), np.int64)
    coefficients = np.zeros((rows, pieces, nu, powers), dtype)
    for b, part in enumerate(parts):
        n = part.anchors.shape[1]
        breaks[b, : n + 1], stops[b, : n + 1], anchors[b, :n] = part.breaks[0], part.stops[0], part.anchors[0]
        breaks[b, n] = np.inf if n < pieces else breaks[b, n]
        coefficients[b, :n, :, : part.coefficients.shape[3]] = part.coefficients[0]
    return PieceArrays(breaks, stops, anchors, coefficients, any(p.jumps for p in parts))


@dataclass(frozen=True, eq=False)
class ControlBars:
    """Adjoint of the controls of one chunk of trajectories.

    Attributes
    ----------
    coefficients
        (b, Nb, nu, d + 1) from the integration; b is 1 for a shared control.
    saves
        (b, T, nu) from costs at the save times, or None.
    """

    coefficients: NDArray[Any]
    saves: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Save times and controls of B trajectories, checked; everything about a simulation but x0 and p.

    Attributes
    ----------
    ts
        (1, T) shared or (B, T); rows of ragged batches are padded with their last time.
    counts
        Number of save times of each row of `ts`.
    controls
        None, a control object, or a list of B control objects of one trajectory each.
    size
        Number of trajectories.
    """

    ts: NDArray[np.float64]
    counts: NDArray[np.int64]
    controls: Any
    size: int
    nu: int
    dtype: np.dtype[Any]
    _kept: dict[tuple[int, int], PieceArrays] = field(default_factory=dict, repr=False)
    _saved: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict, repr=False)
    #: Rows of shared fixed steps, one entry per solver; belongs to the engine.
    plans: dict[Any, Any] = field(default_factory=dict, repr=False)
    #: Task tables that engines have prepared for this batch.
    prepared: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def n_save(self) -> int:
        """Length of the time axis."""
        return self.ts.shape[1]

    @property
    def shared_controls(self) -> bool:
        """Whether one control serves all trajectories."""
        return self.controls is None or (not isinstance(self.controls, list) and self.controls.n_trajectories == 1)

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of trajectories that are integrated together."""
        return [(i, min(i + CHUNK, self.size)) for i in range(0, self.size, CHUNK)]

    def span(self, row: int | None = None) -> tuple[float, float]:
        """First and last save time of one row, or of all."""
        if row is not None and self.ts.shape[0] > 1:
            return float(self.ts[row, 0]), float(self.ts[row, -1])
        return float(self.ts[:, 0].min()), float(self.ts[:, -1].max())

    def pieces(self, start: int, stop: int) -> PieceArrays:
        """Controls of trajectories start..stop-1."""
        key = (0, 1) if self.shared_controls else (start, stop)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        made = self._make(start, stop)
        if made.coefficients.nbytes * -(-self.size // max(stop - start, 1)) <= KEEP_BYTES or self.shared_controls:
            self._kept[key] = made
        return made

    @property
    def steady(self) -> bool:
        """Whether save times stay as they are, so that fixed steps need to be planned once only."""
        return True

    @property
    def expected_seconds(self) -> float | None:
        """How long a call is expected to take, None if nothing is known."""
        return None

    def keeps(self, start: int, stop: int) -> bool:
        """Whether the controls of trajectories start..stop-1 stay in memory."""
        return ((0, 1) if self.shared_controls else (start, stop)) in self._kept

    def _make(self, start: int, stop: int) -> PieceArrays:
        if self.controls is None:
            return no_control(*self.span(), self.dtype)
        if isinstance(self.controls, list):
            return _stack([self._of(self.controls[b], *self.span(b), 0, 1) for b in range(start, stop)], self.dtype)
        whole = (0, 1) if self.shared_controls else (start, stop)
        return self._of(self.controls, *self.span(), *whole)

    def _of(self, control: Any, t0: float, t1: float, start: int, stop: int) -> PieceArrays:
        try:
            p = control.pieces(t0, max(t1, np.nextafter(t0, np.inf)), start, stop)
        except ControlError as exc:
            raise ControlError(f"ts: {str(exc).removeprefix('t: ')}") from None
        breaks, anchors = p.breaks, p.anchors
        return piece_arrays(breaks, p.stops, anchors, p.coefficients, self.dtype)

    def saved_controls(self, start: int, stop: int) -> NDArray[Any]:
        """Controls at the save times of trajectories start..stop-1, (b, T, nu), b = 1 where all are the same.

        At a knot a piecewise constant control has the value of its side, as in ``controls(t)``, which need not be that
        of the piece integrated next.
        """
        shared = self.shared_controls and self.ts.shape[0] == 1
        key = (-1, -1) if shared else (-1 - start, -1 - stop)
        kept = self._saved.get(key)
        if kept is not None:
            return kept
        shape = (1 if shared else stop - start, self.n_save, self.nu)
        out = np.zeros(shape, self.dtype)
        for rows, control, times in self._parts(start, stop):
            out[rows] = control(times)
        if out.nbytes * -(-self.size // max(stop - start, 1)) <= KEEP_BYTES or shared:
            self._saved[key] = out
        return out

    def _parts(self, start: int, stop: int) -> Iterator[tuple[slice, Any, NDArray[np.float64]]]:
        """(rows of the chunk, control, save times (T,) or (b, T)) of the objects that together make a chunk."""
        if self.controls is None:
            return
        own_times = self.ts.shape[0] > 1
        if isinstance(self.controls, list):
            for b in range(start, stop):
                yield slice(b - start, b - start + 1), self.controls[b], self.ts[b if own_times else 0]
        elif self.shared_controls:
            yield slice(0, stop - start), self.controls, self.ts[start:stop] if own_times else self.ts[0]
        else:
            times = self.ts[start:stop] if own_times else self.ts[0]
            yield slice(0, stop - start), self.controls[start:stop], times

    def values_adjoint(self, bars: Sequence[ControlBars]) -> Any:
        """Adjoint of the knot values from the adjoints of all chunks.

        Returns
        -------
        ndarray of the shape of the control's values, or a list of them for a list of controls.
        """
        parts = list(zip(bars, self.chunks(), strict=True))
        if isinstance(self.controls, list):
            return [v for bar, (start, stop) in parts for v in self._list_adjoint(bar, start, stop)]
        pieces = [self._chunk_adjoint(bar, start, stop) for bar, (start, stop) in parts]
        return np.sum(pieces, axis=0) if self.shared_controls else np.concatenate(pieces)

    def _chunk_adjoint(self, bar: ControlBars, start: int, stop: int) -> NDArray[Any]:
        rows = (0, 1) if self.shared_controls else (start, stop)
        out = self.controls.pieces_adjoint(*self.span(), bar.coefficients.astype(np.float64), *rows)
        if bar.saves is not None:
            for _, control, times in self._parts(start, stop):
                saves = bar.saves.astype(np.float64)
                whole = self.shared_controls and times.ndim == 1
                out = out + control.vjp(times, saves.sum(axis=0, keepdims=True) if whole else saves)
        return out

    def _list_adjoint(self, bar: ControlBars, start: int, stop: int) -> Iterator[NDArray[Any]]:
        for rows, control, times in self._parts(start, stop):
            span = self.span(start + rows.start)
            shape = self._of(control, *span, 0, 1).coefficients.shape
            coefficients = bar.coefficients[rows, : shape[1], :, : shape[3]].astype(np.float64)
            out = control.pieces_adjoint(*span, coefficients, 0, 1)
            if bar.saves is not None:
                out = out + control.vjp(times, bar.saves[rows].astype(np.float64))
            yield out[0]
