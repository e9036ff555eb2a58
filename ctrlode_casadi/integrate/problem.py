"""Checks of what users pass to a simulation: shapes, types, ranges, before anything is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.arrays import floats
from ..base.errors import ControlError, DataError
from ..controls import Control
from ..model.ode import ControlledODE
from .batch import Batch


def check_parameters(model: ControlledODE, p: object, dtype: np.dtype[Any], name: str = "p") -> NDArray[Any]:
    """The flat parameter vector (np,); None where the model has no parameters."""
    if p is None:
        if model.np == 0:
            return np.zeros(0, dtype)
        raise DataError(f"{name}: the model has {model.np} parameters, got None; model.init(seed) makes initial values")
    array = floats(name, p, None, dtype=dtype)
    if array.ndim == 0 and model.np == 1:
        array = array[None]
    if array.shape != (model.np,):
        raise DataError(
            f"{name}: expected a flat vector of shape (np={model.np},), got {array.shape}; "
            f"its layout is {model.layout!r}, and layout.flatten(...) makes the vector"
        )
    return array


def is_ragged(ts: object) -> bool:
    """Whether save times are a list with one array per trajectory."""
    return isinstance(ts, list | tuple) and len(ts) > 0 and all(np.ndim(row) == 1 for row in ts)


def check_times(ts: object, name: str = "ts") -> NDArray[np.float64]:
    """Save times (T,), strictly increasing, T >= 1."""
    if isinstance(ts, np.ndarray) and ts.dtype == np.float32:
        ts = ts.astype(np.float64)
    array: NDArray[np.float64] = floats(name, ts, None)  # type: ignore[assignment]
    if array.ndim != 1:
        raise DataError(
            f"{name}: expected one axis (T,), got shape {array.shape}; "
            f"pass a list of arrays for trajectories with different save times"
        )
    if array.size == 0:
        raise DataError(f"{name}: expected at least one time (ts[0] is the initial time), got an empty array")
    steps = np.diff(array)
    if np.any(steps <= 0):
        k = int(np.argmax(steps <= 0))
        raise DataError(
            f"{name}: save times must increase strictly, got {name}[{k}]={array[k]:g} and "
            f"{name}[{k + 1}]={array[k + 1]:g}; sort them and remove repeated ones"
        )
    return array


def check_states(name: str, value: object, nx: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Initial states as (B, nx) or (1, nx) when one state was given."""
    array = floats(name, value, None, dtype=dtype)
    if array.ndim == 0:
        array = array[None, None]
    elif array.ndim == 1:
        array = array[:, None] if nx == 1 else array[None, :]
    if array.ndim != 2 or array.shape[1] != nx:
        raise DataError(
            f"{name}: expected shape (nx={nx},) or (B, nx={nx}), got {array.shape}: "
            f"the last axis must have nx={nx} entries"
        )
    return array


def check_guess(value: object, nz: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Guess of the algebraic variables as (B, nz) or (1, nz)."""
    array = np.atleast_1d(floats("z0", value, None, dtype=dtype))
    array = array[:, None] if array.ndim == 1 and nz == 1 else np.atleast_2d(array)
    if array.ndim != 2 or array.shape[1] != nz:
        raise DataError(f"z0: expected shape (nz={nz},) or (B, nz={nz}), got {array.shape}")
    return array


def check_controls(controls: object, nu: int, dtype: np.dtype[Any]) -> int:
    """Number of trajectories of a control or list of controls (1: shared); raise unless it fits the model."""
    if controls is None:
        if nu == 0:
            return 1
        raise ControlError(
            f"controls: the model has nu={nu} controls, got None; pass for example PiecewiseLinear(knots, values)"
        )
    parts: Sequence[Any] = controls if isinstance(controls, list | tuple) else [controls]
    for i, part in enumerate(parts):
        name = f"controls[{i}]" if isinstance(controls, list | tuple) else "controls"
        if not isinstance(part, Control):
            raise ControlError(
                f"{name}: expected a control such as PiecewiseLinear(knots, values), got {type(part).__name__}"
            )
        if nu == 0:
            raise ControlError(f"{name}: the model has no controls (nu=0), pass None")
        if part.nu != nu:
            raise ControlError(f"{name}: the last axis of values must have nu={nu} entries, it has {part.nu}")
        if part.values.dtype != dtype:
            raise DataError(
                f"{name}: values are {part.values.dtype} and the simulator is {dtype}: float types must "
                f"not be mixed; make the control with dtype={dtype.name!r}"
            )
        if isinstance(controls, list | tuple) and part.n_trajectories != 1:
            raise ControlError(
                f"{name}: in a list every control belongs to one trajectory, this one has {part.n_trajectories}"
            )
    return len(parts) if isinstance(controls, list | tuple) else parts[0].n_trajectories


def common_size(sizes: dict[str, int]) -> int:
    """Number of trajectories B that all sizes agree on; a size of 1 is shared."""
    several = {name: n for name, n in sizes.items() if n != 1}
    if len(set(several.values())) > 1:
        text = ", ".join(f"{name} has {n}" for name, n in several.items())
        raise DataError(f"number of trajectories: {text}; they must agree, or be 1 to be shared by all")
    return next(iter(several.values()), 1)


def make_batch(
    model: ControlledODE, x0: object, controls: Any, ts: Any, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], Batch]:
    """Initial states (B, nx) and the batch of a simulation, checked."""
    states = check_states("x0", x0, model.nx, dtype)
    n_controls = check_controls(controls, model.nu, dtype)
    sizes = {"x0": states.shape[0], "controls": n_controls}
    if is_ragged(ts):
        rows = [check_times(row, f"ts[{b}]") for b, row in enumerate(ts)]
        sizes["ts"] = len(rows)
        counts = np.array([row.size for row in rows], np.int64)
        times = np.stack([np.append(row, np.full(counts.max() - row.size, row[-1])) for row in rows])
    else:
        times = check_times(ts)[None, :]
        counts = np.array([times.shape[1]], np.int64)
    size = common_size(sizes)
    if isinstance(controls, list | tuple):
        controls = list(controls) if len(controls) == size else controls[0]
    if times.shape[0] > 1 or size == 1:
        times = np.ascontiguousarray(times)
    states = np.ascontiguousarray(np.broadcast_to(states, (size, model.nx)))
    batch = Batch(times, counts, controls, size, model.nu, dtype)
    if size:
        batch.pieces(*batch.chunks()[0])  # refuses times outside the control's range
    return states, batch


def check_seeds(name: str, value: object, batch: Batch, nx: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Seeds (B, T, nx); (T, nx) where there is one trajectory."""
    array = floats(name, value, None, dtype=dtype)
    if array.ndim == 2 and nx == 1 and array.shape == (batch.size, batch.n_save):
        array = array[:, :, None]
    if array.ndim == 2 and batch.size == 1:
        array = array[None]
    want = (batch.size, batch.n_save, nx)
    if array.shape != want:
        raise DataError(f"{name}: expected shape (B={want[0]}, T={want[1]}, nx={nx}), got {array.shape}")
    return np.ascontiguousarray(array)


def check_state_change(batch: Batch, dx0: Any, nx: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Change of the initial states, (B, nx) or (1, nx); zero by default."""
    if dx0 is None:
        return np.zeros((1, nx), dtype)
    change = check_states("dx0", dx0, nx, dtype)
    if change.shape[0] not in (1, batch.size):
        raise DataError(f"dx0: axis 0 must have B={batch.size} entries or 1, it has {change.shape[0]}")
    return change


def check_change(batch: Batch, du: Any, dtype: np.dtype[Any]) -> Any:
    """Change of the control values: an array like the values, a list for a list of controls, or None."""
    if du is None:
        return None
    if batch.controls is None:
        raise DataError("du: the model has no controls (nu=0), leave it out")
    parts = batch.controls if isinstance(batch.controls, list) else [batch.controls]
    changes = list(du) if isinstance(batch.controls, list) else [du]
    out = []
    for i, (control, change) in enumerate(zip(parts, changes, strict=False)):
        array = floats("du" if len(parts) == 1 else f"du[{i}]", change, None, dtype=dtype)
        if array.size != control.values.size:
            raise DataError(f"du: expected the shape of controls.values {control.values.shape}, got {array.shape}")
        out.append(array.reshape(control.values.shape))
    if len(out) != len(parts):
        raise DataError(f"du: expected one array per control ({len(parts)}), got {len(changes)}")
    return out if isinstance(batch.controls, list) else out[0]
