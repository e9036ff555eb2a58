"""What a gradient check looks at: an objective, a simulation or a function, each as a scalar function of a vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array, call
from ...base.errors import DataError
from ...integrate.integrators.solvers import CVODES, IDAS, CasadiIntegrator
from ...integrate.sensitivity import ContinuousAdjoint
from ...integrate.simulator import Simulator
from ...integrate.trajectories import Trajectories
from ..protocol import Differentiable
from .course import Course
from .kinks import Branches

#: Times at which branches of a model are looked at, besides the save times.
SAMPLES = 65


class Target(ABC):
    """A scalar function of a vector z, with derivatives from an adjoint and from a forward sweep.

    Attributes
    ----------
    what
        Name for the report.
    single
        Whether it computes in single precision.
    """

    what = "value"
    single = False

    @abstractmethod
    def pair(self, z: Float64Array) -> tuple[float, Float64Array]:
        """Value and gradient from the adjoint."""

    @abstractmethod
    def value(self, z: Float64Array) -> float:
        """Value."""

    @abstractmethod
    def along(self, z: Float64Array, v: Float64Array) -> float:
        """Derivative along v from a forward sweep."""

    @abstractmethod
    def names(self) -> list[str]:
        """A name for each entry of z."""

    @abstractmethod
    def switch(self, low: Float64Array, high: Float64Array) -> str:
        """The first branch that differs between two points; empty if none was found."""

    @property
    def tolerance(self) -> float:
        """Tolerance of adaptive steps, zero without."""
        return 0.0

    @property
    def failure(self) -> str:
        """Why there was no value last time."""
        return "the value is not finite"

    @property
    def continuous(self) -> bool:
        """Whether the gradient is that of the exact solution, computed to a tolerance."""
        return False

    def steps(self, z: Float64Array) -> int | None:
        """Number of adaptive steps; None where there are none."""
        return None

    def course(self, z: Float64Array) -> Course | None:
        """What happens on the way to the value; None where nothing can."""
        return None

    def tighter(self) -> Target | None:
        """The same with a thousandth of the tolerance; None where there is none."""
        return None

    def uncontrolled(self) -> str:
        """What computes the adjoint outside the error control; empty for nothing."""
        return ""


class SimulationTarget(Target):
    """What objectives and simulations have in common."""

    sim: Simulator

    @abstractmethod
    def solution(self, z: Float64Array, dense: bool) -> Trajectories:
        """Trajectories at z, with `dense` also at times between the save times."""

    @property
    def single(self) -> bool:  # type: ignore[override]
        """Whether the simulator computes in single precision."""
        return self.sim.dtype == "float32"

    @property
    def tolerance(self) -> float:
        """Tolerance of the steps."""
        solver: Any = self.sim.solver
        if not solver.adaptive:
            return 0.0
        tolerance = max(float(getattr(solver, "rtol", 0.0)), float(np.max(getattr(solver, "atol", 0.0))))
        return min(max(tolerance, 6e-6 if self.single else 1e-14), 1e-2)

    @property
    def continuous(self) -> bool:
        """Whether SUNDIALS' continuous adjoint or a tolerance of CasADi's own is behind the gradient."""
        return isinstance(self.sim.sensitivity, ContinuousAdjoint) or isinstance(self.sim.solver, CasadiIntegrator)

    def uncontrolled(self) -> str:
        """SUNDIALS, where its quadratures do not choose steps."""
        solver = self.sim.solver
        if isinstance(solver, CVODES | IDAS) and not solver.casadi_options().get("quad_err_con", False):
            return type(solver).__name__.lower()
        return ""

    def steps(self, z: Float64Array) -> int | None:
        """Accepted steps of all trajectories."""
        if not self.sim.solver.adaptive:
            return None
        return int(self.solution(z, False).stats["n_steps"].sum())

    def course(self, z: Float64Array) -> Course | None:
        """The events of all trajectories."""
        names = tuple(str(event.name) for event in self.sim.events)
        return Course.of(names, self.solution(z, False)) if names else None

    def switch(self, low: Float64Array, high: Float64Array) -> str:
        """The first branch of the right-hand side or the output that differs, at the same times."""
        if self.sim.model.is_dae:
            return ""
        one, other = self.solution(low, True), self.solution(high, True)
        rows = [_rows(sol) for sol in (one, other)]
        keep = np.isfinite(rows[0][1]).all(axis=0) & np.isfinite(rows[1][1]).all(axis=0)
        inputs = [[v[:, keep] for v in part] for part in rows]
        for name, branches in self._branches:
            found = branches.switch(*inputs)
            if found is not None:
                b, k = np.unravel_index(np.flatnonzero(keep)[found.row], one.x.shape[:2])
                t = one.t[k] if one.t.ndim == 1 else one.t[b, k]
                return f"{found.text} in the {name} changes its branch at t = {t:g} (trajectory {b})"
        return ""

    @cached_property
    def _branches(self) -> list[tuple[str, Branches]]:
        model = self.sim.model
        functions = [("right-hand side", model.rhs)] + ([("output", model.output_function)] if model.has_output else [])
        return [(name, Branches(f)) for name, f in functions]

    def _tighter_simulator(self) -> Simulator | None:
        solver: Any = self.sim.solver
        if not solver.adaptive or not hasattr(solver, "rtol") or self.single:
            return None
        atol = solver.atol
        atol = tuple(max(1e-3 * v, 1e-15) for v in atol) if isinstance(atol, tuple) else max(1e-3 * atol, 1e-15)
        tight = replace(solver, rtol=max(1e-3 * solver.rtol, 1e-13), atol=atol)
        return self.sim.with_solver(tight, self.sim.sensitivity)


class ObjectiveTarget(SimulationTarget):
    """An objective."""

    what = "objective"

    def __init__(self, objective: Differentiable) -> None:
        self.objective, self.sim = objective, objective.sim

    def pair(self, z: Float64Array) -> tuple[float, Float64Array]:
        return self.objective(z)

    def value(self, z: Float64Array) -> float:
        return self.objective.value(z)

    def along(self, z: Float64Array, v: Float64Array) -> float:
        return self.objective.derivative_along(z, v)

    def names(self) -> list[str]:
        return self.objective.names()

    @property
    def failure(self) -> str:
        return str(self.objective.last_failure)

    def solution(self, z: Float64Array, dense: bool) -> Trajectories:
        x0, controls, p, ts = self.objective.simulation(z)
        return self.sim(x0, controls, p, refined(ts) if dense else ts)

    def tighter(self) -> Target | None:
        sim = self._tighter_simulator()
        return None if sim is None else ObjectiveTarget(self.objective.with_simulator(sim))


class SimulatorTarget(SimulationTarget):
    """A random combination of the states of a simulation, as a function of parameters, initial states and controls."""

    what = "random combination of the states"

    def __init__(self, sim: Simulator, x0: Any, controls: Any, p: Any, ts: Any, seed: int) -> None:
        self.sim, self.ts, self._seed = sim, ts, seed
        dtype = np.dtype(sim.dtype)
        p = np.zeros(0) if p is None else p
        self._x0, self._p, self.controls = np.asarray(x0, dtype), np.asarray(p, dtype).ravel(), controls
        self._listed = list(controls) if isinstance(controls, list | tuple) else [] if controls is None else [controls]
        sizes = [self._p.size, self._x0.size, *(c.values.size for c in self._listed)]
        self._bounds = np.cumsum([0, *sizes])
        shape = sim(self._x0, controls, self._p, ts).x.shape
        self.xbar = np.random.default_rng(seed).standard_normal(shape).astype(dtype)

    @property
    def start(self) -> Float64Array:
        """The vector z of what was given."""
        parts = [self._p, self._x0.ravel(), *(c.values.ravel() for c in self._listed)]
        return np.concatenate(parts).astype(np.float64)

    def _parts(self, z: Float64Array) -> tuple[Any, Any, Any]:
        """p, x0 and the list of control values in z."""
        cut = [z[a:b].astype(self.sim.dtype) for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True)]
        values = [v.reshape(c.values.shape) for v, c in zip(cut[2:], self._listed, strict=True)]
        return cut[0], cut[1].reshape(self._x0.shape), values

    def _given(self, z: Float64Array) -> tuple[Any, Any, Any]:
        """x0, controls, p at z."""
        p, x0, values = self._parts(z)
        controls: Any = [c.with_values(v) for c, v in zip(self._listed, values, strict=True)]
        if not isinstance(self.controls, list | tuple):
            controls = controls[0] if controls else None
        return x0, controls, p

    def _total(self, x: Any) -> float:
        return float(np.sum(np.where(np.isnan(x), 0.0, x * self.xbar)))

    def pair(self, z: Float64Array) -> tuple[float, Float64Array]:
        x0, controls, p = self._given(z)
        p_bar, x0_bar, u_bar = self.sim.vjp(x0, controls, p, self.ts, self.xbar)
        bars = u_bar if isinstance(u_bar, list) else [] if u_bar is None else [u_bar]
        parts = [p_bar, x0_bar, *bars]
        return self.value(z), np.concatenate([np.ravel(v) for v in parts]).astype(np.float64)

    def value(self, z: Float64Array) -> float:
        sol = self.solution(z, False)
        return self._total(sol.x) if sol.success.all() else float("nan")

    def along(self, z: Float64Array, v: Float64Array) -> float:
        x0, controls, p = self._given(z)
        dp, dx0, changes = self._parts(v)
        du = changes if isinstance(controls, list) else changes[0] if changes else None
        return self._total(self.sim.jvp(x0, controls, p, self.ts, dp=dp if dp.size else None, dx0=dx0, du=du))

    def names(self) -> list[str]:
        states = [f"x0{list(map(int, i))}" for i in np.ndindex(self._x0.shape)]
        several = len(self._listed) > 1
        values = [
            f"u{[b] if several else ''}{list(map(int, i))}"
            for b, c in enumerate(self._listed)
            for i in np.ndindex(c.values.shape)
        ]
        return [*self.sim.model.layout.names(), *states, *values]

    @property
    def failure(self) -> str:
        return "a trajectory fails; see sol.status"

    def solution(self, z: Float64Array, dense: bool) -> Trajectories:
        x0, controls, p = self._given(z)
        return self.sim(x0, controls, p, refined(self.ts) if dense else self.ts)

    def tighter(self) -> Target | None:
        sim = self._tighter_simulator()
        return None if sim is None else SimulatorTarget(sim, self._x0, self.controls, self._p, self.ts, self._seed)


class FunctionTarget(Target):
    """A random combination of the outputs of a `casadi.Function` (the output itself if there is one number)."""

    def __init__(self, f: ca.Function, inputs: tuple[Any, ...], seed: int) -> None:
        if len(inputs) != f.n_in():
            raise DataError(f"{f.name()}: expected {f.n_in()} inputs {tuple(f.name_in())}, got {len(inputs)}")
        self._f, self._inputs = f, [np.asarray(v, np.float64).ravel(order="F") for v in inputs]
        for i, v in enumerate(self._inputs):
            if v.size != f.numel_in(i):
                raise DataError(f"{f.name_in(i)}: expected {f.numel_in(i)} numbers {f.size_in(i)}, got {v.size}")
        self._bounds = np.cumsum([0, *(v.size for v in self._inputs)])
        rng = np.random.default_rng(seed)
        single = f.n_out() == 1 and f.numel_out(0) == 1
        self._seeds = [np.ones(1) if single else rng.standard_normal(f.numel_out(i)) for i in range(f.n_out())]
        self.what = "value" if single else "random combination of the outputs"

    @property
    def start(self) -> Float64Array:
        """The inputs as one vector."""
        return np.concatenate([*self._inputs, np.zeros(0)])

    def _parts(self, z: Float64Array) -> list[Float64Array]:
        return [z[a:b] for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True)]

    def _outputs(self, z: Float64Array) -> list[Float64Array]:
        return [v.ravel(order="F") for v in call(self._f, *self._parts(z))]

    def value(self, z: Float64Array) -> float:
        return float(sum(s @ v for s, v in zip(self._seeds, self._outputs(z), strict=True)))

    def pair(self, z: Float64Array) -> tuple[float, Float64Array]:
        out = self._outputs(z)
        bars = call(self._f.reverse(1), *self._parts(z), *out, *self._seeds)
        value = float(sum(s @ v for s, v in zip(self._seeds, out, strict=True)))
        return value, np.concatenate([*(v.ravel(order="F") for v in bars), np.zeros(0)])

    def along(self, z: Float64Array, v: Float64Array) -> float:
        changes = call(self._f.forward(1), *self._parts(z), *self._outputs(z), *self._parts(v))
        return float(sum(s @ d.ravel(order="F") for s, d in zip(self._seeds, changes, strict=True)))

    def names(self) -> list[str]:
        f = self._f
        return [
            f.name_in(i) if f.numel_in(i) == 1 else f"{f.name_in(i)}[{j}]"
            for i in range(f.n_in())
            for j in range(f.numel_in(i))
        ]

    def switch(self, low: Float64Array, high: Float64Array) -> str:
        points = [[v[:, None] for v in self._parts(z)] for z in (low, high)]
        found = self._branches.switch(*points)
        return "" if found is None else f"{found.text} changes its branch"

    @cached_property
    def _branches(self) -> Branches:
        return Branches(self._f)

    def uncontrolled(self) -> str:
        kinds = sorted(set(_integrators(self._f)))
        return " and ".join(kinds)


def _integrators(f: ca.Function) -> list[str]:
    """Names of SUNDIALS' integrators that a function calls."""
    names = {"CvodesInterface": "cvodes", "IdasInterface": "idas"}
    if f.class_name() in names:
        return [names[f.class_name()]]
    if not f.is_a("MXFunction"):
        return []
    calls = [k for k in range(f.n_instructions()) if f.instruction_id(k) == ca.OP_CALL]
    return [name for k in calls for name in _integrators(f.instruction_MX(k).which_function())]


def _rows(sol: Trajectories) -> list[Float64Array]:
    """Inputs (t, x, u, p) of the model, (n, B T), at all save times of a solution."""
    B, T, nx = sol.x.shape
    t = np.broadcast_to(sol.t if sol.t.ndim == 2 else sol.t[None], (B, T))
    p = np.broadcast_to(sol.p.astype(np.float64)[:, None], (sol.p.size, B * T))
    parts = [t.reshape(1, -1), sol.x.reshape(-1, nx).T, sol.u.reshape(B * T, -1).T]
    return [*(np.asarray(v, np.float64) for v in parts), p]


def refined(ts: Any) -> Any:
    """Save times with times between them."""
    if isinstance(ts, list | tuple) and ts and np.ndim(ts[0]) == 1:
        return [refined(row) for row in ts]
    times = np.asarray(ts, np.float64)
    return np.unique(np.concatenate([times, np.linspace(times[0], times[-1], SAMPLES)])) if times.size > 1 else times
