"""From data, weights and a loss to what the cost kernels read: finite data, and weights that hold all factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import FloatArray
from ..base.errors import DataError
from ..model.ode import ControlledODE
from .expressions import Terms
from .losses import Loss, find_loss, widths
from .records import Times, read_data, read_weights


@dataclass(frozen=True, eq=False)
class DataTerms:
    """Data side of an objective.

    Attributes
    ----------
    name
        The loss as the user wrote it, for messages.
    terms
        What the expressions are built from.
    data
        (1 or B, T, nd) with NaN where missing; None without data.
    weights
        What the user gave, three axes; None for none.
    """

    name: str
    terms: Terms
    data: FloatArray | None
    weights: FloatArray | None

    @property
    def sizes(self) -> dict[str, int]:
        """Number of trajectories of data and weights; 1 where they serve any number."""
        return {n: 1 if v is None else v.shape[0] for n, v in (("data", self.data), ("weights", self.weights))}

    @property
    def squares(self) -> bool:
        """Whether the loss is a sum of squared residuals."""
        t = self.terms
        plain = t.terminal is None and t.running is None
        return plain and isinstance(t.loss, Loss) and t.loss.squares

    def arrays(self, times: Times, size: int, dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Data and weights as (1 or B, T, nd) and (1 or B, T, nw) for costs that are averaged over B trajectories."""
        terms, T = self.terms, times.n
        data = np.zeros((1, T, 0)) if self.data is None else self.data
        present = ~np.isnan(data)
        complete = bool(present.all())
        d: NDArray[Any] = data if complete else np.where(present, data, 0.0)
        if isinstance(terms.loss, Loss):
            w = self._entry_weights(present, complete, size)
        elif terms.nw:
            w = self._save_weights(present, T)
        else:
            w = np.zeros((1, T, 0))
        return np.ascontiguousarray(d, dtype=dtype), np.ascontiguousarray(w, dtype=dtype)

    def _save_weights(self, present: NDArray[np.bool_], T: int) -> NDArray[Any]:
        """One weight per save time, followed by the mask of the data present where some are missing."""
        given = np.ones((1, 1, 1)) if self.weights is None else self.weights
        w = np.broadcast_to(given, (given.shape[0], T, 1))
        if self.terms.nw == 1:
            return w
        w = w * present.any(axis=2, keepdims=True)
        return np.concatenate([w, np.broadcast_to(present, (w.shape[0], *present.shape[1:]))], axis=2)

    def _entry_weights(self, present: NDArray[np.bool_], complete: bool, size: int) -> NDArray[Any]:
        """One weight per entry, with the factor of the mean and the number of trajectories."""
        count = int(present.sum()) * (size if present.shape[0] == 1 else 1)
        if count == 0 and size:
            raise DataError("data: all entries are missing (NaN); at least one must be present")
        loss = self.terms.loss
        factor = size / max(count, 1) if isinstance(loss, Loss) and loss.mean else float(size)
        weights = np.ones((1, 1, 1)) if self.weights is None else self.weights
        if complete:
            return np.broadcast_to(weights * factor, (weights.shape[0], *present.shape[1:]))
        return weights * factor * present


def read_terms(
    model: ControlledODE,
    times: Times,
    data: Any,
    loss: str | Callable[..., Any] | None,
    weights: Any,
    terminal: Callable[..., Any] | None,
    running: Callable[..., Any] | None,
    dtype: Any,
) -> DataTerms:
    """Check the arguments of an objective that say what is summed."""
    if loss is None and terminal is None and running is None:
        raise DataError("loss: None leaves nothing to minimise; give loss=, terminal= or running=")
    if loss is None or callable(loss):
        return _free_form(model, times, data, loss, weights, terminal, running, dtype)
    row = find_loss(loss)
    values = read_data(data, times, model.ny, dtype)
    if values is None:
        raise DataError(f"data: loss={loss!r} compares outputs with data, got None; pass data (B, T, ny={model.ny})")
    checked = read_weights(weights, times, model.ny, dtype)
    width = (1.0,) * model.ny if row.squares else tuple(float(v) for v in widths(values))
    return DataTerms(repr(loss), Terms(row, width, terminal, running, model.ny, model.ny), values, checked)


def _free_form(
    model: ControlledODE,
    times: Times,
    data: Any,
    loss: Callable[..., Any] | None,
    weights: Any,
    terminal: Callable[..., Any] | None,
    running: Callable[..., Any] | None,
    dtype: Any,
) -> DataTerms:
    """Terms of a callable loss, or of none."""
    if loss is None and (data is not None or weights is not None):
        what = "data" if data is not None else "weights"
        raise DataError(f"{what}: without a loss at the save times there is no use for it; got loss=None")
    values = read_data(data, times, None, dtype)
    checked = read_weights(weights, times, 1, dtype)
    nd = 0 if values is None else values.shape[2]
    missing = values is not None and bool((np.isnan(values).any(axis=2) & times.valid(values.shape[0])).any())
    if missing and nd != model.ny:
        raise DataError(
            f"data: a missing entry (NaN) is replaced by the output, so data must have ny={model.ny} columns, got {nd}"
        )
    nw = 1 + nd if missing else int(checked is not None)
    name = getattr(loss, "__name__", repr(loss))
    return DataTerms(name, Terms(loss, (), terminal, running, nd, nw), values, checked)
