"""The result of a simulation."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import call_rows
from ..base.errors import MissingExtra
from ..base.status import Status
from ..model.ode import ControlledODE
from ..model.system import system_of
from .hybrid.events import EventLog


def optional_module(feature: str, package: str, module: str, extra: str) -> Any:
    """An optional module, or `MissingExtra` with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise MissingExtra(feature, package, extra) from exc


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories:
    """States, outputs and controls of B trajectories at T save times.

    Attributes
    ----------
    t
        Save times (T,); (B, T) padded with NaN for trajectories with different save times.
    x
        States (B, T, nx); NaN from the first save time that a failed trajectory did not reach, and in the padding.
    status
        List of B `Status`.
    stats
        ``n_steps``, ``n_rejected``, ``n_rhs``: (B,) accepted steps, rejected trials, right-hand sides evaluated. With
        ``solver="auto"`` also ``stiff``: (B,) bool, whether the stiff method integrated the trajectory.
    model, controls, p
        What was simulated.
    events
        List of B `EventLog`, empty ones included; None for a simulator without events.
    z
        Algebraic variables (B, T, nz) of a DAE; None for other models.

    Notes
    -----
    ``y`` (B, T, ny), ``u`` (B, T, nu) and ``success`` (B,) are computed when first asked for. ``sol[i]`` is one
    trajectory, without padding, and ``len(sol)`` is B.
    """

    t: NDArray[np.float64]
    x: NDArray[Any]
    status: list[Status]
    stats: dict[str, NDArray[Any]]
    model: ControlledODE
    controls: Any
    p: NDArray[Any]
    events: list[EventLog] | None = None
    z: NDArray[Any] | None = None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __repr__(self) -> str:
        failed = len(self) - int(self.success.sum())
        end = f", {failed} failed" if failed else ""
        return f"Trajectories(B={len(self)}, T={self.x.shape[1]}, nx={self.x.shape[2]}{end})"

    def __getitem__(self, index: int) -> Trajectories:
        """One trajectory."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"trajectories[{index}]: there are B={len(self)} trajectories")
        i = index % len(self)
        t = self.t if self.t.ndim == 1 else self.t[i][np.isfinite(self.t[i])]
        controls = self.controls
        if isinstance(controls, list) or (controls is not None and controls.n_trajectories > 1):
            controls = controls[i]
        stats = {name: values[i : i + 1] for name, values in self.stats.items()}
        events = None if self.events is None else [self.events[i]]
        x = self.x[i : i + 1, : t.size]
        z = None if self.z is None else self.z[i : i + 1, : t.size]
        return Trajectories(t, x, [self.status[i]], stats, self.model, controls, self.p, events, z)

    @cached_property
    def success(self) -> NDArray[np.bool_]:
        """(B,) whether each trajectory reached its last save time, or a terminal event."""
        return np.array([status == Status.SUCCESS for status in self.status], dtype=bool)

    @cached_property
    def u(self) -> NDArray[Any]:
        """Controls at the save times, (B, T, nu)."""
        shape = (*self.x.shape[:2], self.model.nu)
        if self.controls is None or self.x.shape[0] == 0:
            return np.zeros(shape, self.x.dtype)
        if self.t.ndim == 1 and not isinstance(self.controls, list):
            return np.ascontiguousarray(np.broadcast_to(self.controls(self.t), shape))
        out = np.full(shape, np.nan, self.x.dtype)
        for b in range(len(self)):
            one = self[b]
            out[b, : one.t.size] = one.controls(one.t)[0]
        return out

    @cached_property
    def y(self) -> NDArray[Any]:
        """Outputs at the save times, (B, T, ny); NaN where the state is."""
        if not self.model.has_output:
            return self.x
        f, (B, T) = system_of(self.model).output_function, self.x.shape[:2]
        x = self.x if self.z is None else np.concatenate([self.x, self.z], axis=2)
        sizes = np.cumsum([1, x.shape[2], self.model.nu])
        z, p = ca.MX.sym("z", int(sizes[-1])), ca.MX.sym("p", self.model.np)
        g = ca.Function("g", [z, p], [f(z[0], z[1 : int(sizes[1])], z[int(sizes[1]) :], p)])
        times = np.broadcast_to(self.t if self.t.ndim == 2 else self.t[None], (B, T))[..., None]
        rows = np.concatenate([times, x, self.u], axis=2).astype(np.float64).reshape(B * T, -1)
        good = np.isfinite(rows).all(axis=1)
        out = np.full((B * T, self.model.ny), np.nan)
        out[good] = call_rows(g, rows[good], self.p.astype(np.float64))
        return out.reshape(B, T, self.model.ny).astype(self.x.dtype)

    def plot(self, ax: Any = None, trajectories: Any = slice(None, 20)) -> Any:
        """Plot the outputs over time with matplotlib.

        Parameters
        ----------
        ax
            Axes to draw on; new ones by default.
        trajectories
            Index of the trajectories to draw, the first twenty by default.

        Returns
        -------
        matplotlib.axes.Axes
        """
        pyplot = optional_module("sol.plot()", "matplotlib", "matplotlib.pyplot", "plot")
        if ax is None:
            _, ax = pyplot.subplots()
        for j, name in enumerate(self.model.output_names):
            for k, b in enumerate(np.arange(len(self))[trajectories]):
                one = self[int(b)]
                ax.plot(one.t, one.y[0, :, j], color=f"C{j % 10}", alpha=1.0 if k == 0 else 0.5,
                        label=name if k == 0 else None)  # fmt: skip
        ax.set_xlabel("t")
        ax.legend()
        return ax

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` with the dimensions trajectory, time, state, control and output."""
        xarray = optional_module("sol.to_xarray()", "xarray", "xarray", "data")
        data = {
            "x": (("trajectory", "time", "state"), self.x),
            "u": (("trajectory", "time", "control"), self.u),
            "y": (("trajectory", "time", "output"), self.y),
            "success": (("trajectory",), self.success),
            **{name: (("trajectory",), values) for name, values in self.stats.items()},
        }
        times = ("time",) if self.t.ndim == 1 else ("trajectory", "time")
        names = {
            "state": list(self.model.state_names),
            "control": list(self.model.control_names),
            "output": list(self.model.output_names),
        }
        key = "time" if self.t.ndim == 1 else "t"
        return xarray.Dataset(data, coords={key: (times, self.t), **names})

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame`, one row per trajectory and save time, columns of states, controls and outputs."""
        pandas = optional_module("sol.to_dataframe()", "pandas", "pandas", "data")
        B, T = self.x.shape[:2]
        times = np.broadcast_to(self.t if self.t.ndim == 2 else self.t[None], (B, T))
        keep = np.isfinite(times).ravel()
        columns: dict[str, NDArray[Any]] = {}
        parts = [(self.model.state_names, self.x), (self.model.control_names, self.u)]
        if self.model.has_output:
            parts.append((self.model.output_names, self.y))
        for names, values in parts:
            for j, name in enumerate(names):
                columns[name] = values[:, :, j].ravel()[keep]
        numbers = np.repeat(np.arange(B), T)[keep]
        index = pandas.MultiIndex.from_arrays([numbers, times.ravel()[keep]], names=["trajectory", "t"])
        return pandas.DataFrame(columns, index=index)
