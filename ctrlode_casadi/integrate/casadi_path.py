"""The same Runge-Kutta formulas, one trajectory at a time through CasADi's virtual machine.

For models that the compiled path refuses. Plain and slow: a few microseconds per evaluation and Python around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.status import Status
from .batch import Batch, ControlBars, PieceArrays
from .results import Gradient, Sweep, new_sweep, stop_at_limit, whole_or_nothing
from .solvers import OneStep, _Embedded
from .sweeps.slots import STEPS_PER_KNOT
from .threads import time_is_up

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Step:
    """One accepted step with what its adjoint needs."""

    t: float
    h: float
    end: float
    piece: int
    x: Array
    saves: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Control:
    """The control of one trajectory."""

    breaks: Array
    stops: NDArray[np.int64]
    anchors: Array
    coefficients: Array

    @classmethod
    def of(cls, pieces: PieceArrays, b: int) -> _Control:
        """Trajectory b of a chunk."""
        parts = (pieces.breaks, pieces.stops, pieces.anchors, pieces.coefficients)
        return cls(*(v[b if v.shape[0] > 1 else 0] for v in parts))

    def find(self, t: float) -> int:
        """Last piece that starts at or before t."""
        return int(np.clip(np.searchsorted(self.breaks, t, side="right") - 1, 0, self.anchors.size - 1))

    def piece_at(self, q: int, t: float) -> int:
        """Piece of a stage at t in a step that starts on piece q."""
        while q < self.anchors.size - 1 and not self.stops[q + 1] and t >= self.breaks[q + 1]:
            q += 1
        return q

    def target(self, q: int, end: float) -> float:
        """Next time at which a step from piece q must end."""
        for k in range(q + 1, self.anchors.size):
            if self.stops[k]:
                return min(float(self.breaks[k]), end)
        return end

    def powers(self, q: int, t: float) -> Array:
        """Powers of the local time."""
        return (t - self.anchors[q]) ** np.arange(self.coefficients.shape[2])

    def value(self, q: int, t: float) -> Array:
        """u on piece q at time t."""
        return self.coefficients[q] @ self.powers(q, t)


class CasadiEngine:
    """Offers `simulate` and `vjp` of `Engine` for a right-hand side (t, x, u, p) -> xdot, in double precision."""

    def __init__(self, rhs: ca.Function, solver: OneStep, n_err: int | None = None) -> None:
        self.rhs, self.solver, self.table = rhs, solver, solver.tableau
        self.nx, self.nu, self.n_params = rhs.numel_in(1), rhs.numel_in(2), rhs.numel_in(3)
        self.n_err = self.nx if n_err is None else n_err
        self._adjoint: ca.Function | None = None

    def simulate(self, batch: Batch, x0: NDArray[Any], p: NDArray[Any]) -> tuple[NDArray[Any], Sweep]:
        """States (B, T, nx) and the sweep's report."""
        sweep = new_sweep(batch.size)
        x = np.full((batch.size, batch.n_save, self.nx), np.nan)
        for b, control in self._controls(batch):
            if time_is_up():
                break
            self._integrate(batch, b, control, x0[b].astype(float), p.astype(float), x[b], sweep)
        if time_is_up():
            stop_at_limit(sweep)
        return x.astype(batch.dtype), sweep

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
        """Discrete adjoint of the recorded steps; every start state is kept whatever `checkpoints` says."""
        sweep, p = new_sweep(batch.size), p.astype(float)
        states = np.full((batch.size, batch.n_save, self.nx), np.nan)
        p_bar, x0_bar = np.zeros(self.n_params), np.zeros((batch.size, self.nx))
        bars = [np.zeros((1 if batch.shared_controls else z - a, *batch.pieces(a, z).coefficients.shape[1:]))
                for a, z in batch.chunks()]  # fmt: skip
        for b, control in self._controls(batch):
            if time_is_up():
                break
            steps = self._integrate(batch, b, control, x0[b].astype(float), p, states[b], sweep)
            if sweep.status[b] != Status.SUCCESS:
                continue
            chunk = next(k for k, (a, z) in enumerate(batch.chunks()) if a <= b < z)
            bar = bars[chunk][0 if batch.shared_controls else b - batch.chunks()[chunk][0]]
            ts = batch.ts[b if batch.ts.shape[0] > 1 else 0]
            lam = np.zeros(self.nx)
            for step in reversed(steps):
                lam = self._reverse(step, control, p, lam, ts, seeds[b].astype(float), p_bar, bar)
            x0_bar[b] = lam + seeds[b, 0]
        if x is not None:
            x[...] = states
        control_bars = [ControlBars(v) for v in bars] if want_u else None
        return whole_or_nothing(Gradient(p_bar.astype(batch.dtype), x0_bar.astype(batch.dtype), control_bars, sweep))

    def _controls(self, batch: Batch) -> Iterator[tuple[int, _Control]]:
        for start, stop in batch.chunks():
            pieces = batch.pieces(start, stop)
            for b in range(start, stop):
                yield b, _Control.of(pieces, b - start)

    def _f(self, t: float, x: Array, u: Array, p: Array) -> Array:
        return np.asarray(self.rhs(t, x, u, p)).ravel()

    # --- forward -------------------------------------------------------------------------------------------------

    def _integrate(
        self, batch: Batch, b: int, control: _Control, x: Array, p: Array, out: Array, sweep: Sweep
    ) -> list[_Step]:
        row = b if batch.ts.shape[0] > 1 else 0
        ts = batch.ts[row, : batch.counts[row]]
        with np.errstate(all="ignore"):
            run = self._adaptive if self.solver.adaptive else self._fixed
            steps, status, saved, rejected, calls = run(ts, control, x, p, out)
        out[saved:] = np.nan
        sweep.status[b], sweep.reached[b], sweep.n_steps[b] = status, saved, len(steps)
        sweep.n_rejected[b], sweep.n_rhs[b] = rejected, calls
        return steps

    def _stages(self, count: int, control: _Control, step: _Step, p: Array) -> tuple[Array, Array]:
        """Derivatives k (S, nx) and states X (S, nx) of the first `count` stages."""
        tab = self.table
        k, states = np.zeros((tab.stages, self.nx)), np.zeros((tab.stages, self.nx))
        for i in range(count):
            t = step.end if tab.c[i] == 1.0 else step.t + tab.c[i] * step.h
            states[i] = step.x + step.h * (tab.A[i, :i] @ k[:i])
            k[i] = self._f(t, states[i], control.value(control.piece_at(step.piece, t), t), p)
        return k, states

    def _fixed(self, ts: Array, control: _Control, x: Array, p: Array, out: Array) -> tuple[Any, ...]:
        out[0], steps = x, []
        inner = control.breaks[1:-1]
        for j in range(1, ts.size):
            knots = inner[(inner > ts[j - 1]) & (inner < ts[j])]
            points = np.concatenate([[ts[j - 1]], knots, [ts[j]]])
            for left, right in itertools.pairwise(points):
                n = self.solver.steps_per_interval or (
                    max(1, int(np.ceil((right - left) / self.solver.dt * (1 - 1e-12)))) if self.solver.dt else 1
                )
                h = (right - left) / n
                for i in range(n):
                    end = right if i + 1 == n else left + (i + 1) * h
                    last = right == ts[j] and i + 1 == n
                    step = _Step(left + i * h, h, end, control.find(left), x, (j, j + 1) if last else (j, j))
                    k, _ = self._stages(self.table.main, control, step, p)
                    x = x + h * (self.table.b @ k)
                    steps.append(step)
            out[j] = x
        good = np.isfinite(out[: ts.size]).all(axis=1)
        saved = ts.size if good.all() else int(np.argmin(good))
        return steps, Status.SUCCESS if good.all() else Status.NON_FINITE, saved, 0, len(steps) * self.table.main

    def _norm(self, error: Array, x: Array, y: Array) -> float:
        solver, n = cast(_Embedded, self.solver), self.n_err
        scale = np.asarray(solver.atol) + solver.rtol * np.maximum(np.abs(x[:n]), np.abs(y[:n]))
        return float(np.sqrt(np.mean((error[:n] / scale) ** 2)))

    def _error(self, step: _Step, k: Array, new: Array) -> float:
        rows = cast(Array, self.table.e)  # every embedded method has error weights
        parts = [self._norm(step.h * (e @ k), step.x, new) for e in rows]
        if len(parts) == 1 or parts[0] == 0.0:
            return parts[0]
        return parts[0] ** 2 / float(np.sqrt(parts[0] ** 2 + 0.01 * parts[1] ** 2))

    def _first_step(self, ts: Array, control: _Control, x: Array, p: Array) -> float:
        q = control.find(ts[0])

        def value(t: float, y: Array) -> Array:
            return self._f(t, y, control.value(control.piece_at(q, t), t), p)

        f0, span = value(ts[0], x), control.target(q, ts[-1]) - ts[0]
        d0, d1 = self._norm(x, x, x), self._norm(f0, x, x)
        h0 = min(1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1, span)
        d2 = self._norm(value(ts[0] + h0, x + h0 * f0) - f0, x, x) / h0
        order = (self.table.error_order or 0) + 1
        h1 = max(1e-6, h0 * 1e-3) if max(d1, d2) <= 1e-15 else (0.01 / max(d1, d2)) ** (1 / order)
        h = min(100 * h0, h1)
        least = 2.3e-14 * max(abs(ts[0]), 1e-6 * (ts[-1] - ts[0]))
        return max(h if h > 0 else 1e-6, float(least))

    def _adaptive(self, ts: Array, control: _Control, x: Array, p: Array, out: Array) -> tuple[Any, ...]:
        solver, tab = cast(_Embedded, self.solver), self.table
        order, beta = (tab.error_order or 0) + 1, 0.2 / ((tab.error_order or 0) + 1)
        steps: list[_Step] = []
        out[0], t, saved, rejected = x, float(ts[0]), 1, 0
        if ts.size == 1:
            return steps, Status.SUCCESS, 1, 0, 0
        calls = 0 if solver.dt0 else 2
        h, old, again, bad = solver.dt0 or self._first_step(ts, control, x, p), 1e-4, False, False
        first = q = control.find(t)
        while saved < ts.size:
            if time_is_up():
                return steps, Status.TIME_LIMIT, saved, rejected, calls
            if h < 2.3e-15 * max(abs(t), 1e-6 * (ts[-1] - ts[0])):
                return steps, Status.NON_FINITE if bad else Status.STEP_TOO_SMALL, saved, rejected, calls
            if len(steps) + rejected >= solver.max_steps + STEPS_PER_KNOT * (q - first):
                return steps, Status.MAX_STEPS, saved, rejected, calls
            rest = control.target(q, float(ts[-1])) - t
            cut = 1.01 * h >= rest
            size, end = (rest, control.target(q, float(ts[-1]))) if cut else (h, t + h)
            due = saved + int(np.sum(ts[saved:] <= end + 1.8e-15 * abs(end)))
            step = _Step(t, size, end, q, x, (saved, due))
            k, _ = self._stages(tab.trial, control, step, p)
            new = x + size * (tab.b @ k)
            calls += tab.trial - (1 if steps and tab.fsal else 0)
            error = self._error(step, k, new) if np.isfinite(new).all() else np.nan
            if not error <= 1.0:
                bad, again, rejected = not np.isfinite(error), True, rejected + 1
                h = size * max(0.2, 0.9 * error ** (-1 / order) if np.isfinite(error) else 0.0)
                continue
            factor = 10.0
            if error > 0:
                factor = min(10.0, max(0.2, 0.9 * error ** (0.75 * beta - 1 / order) * old**beta))
            factor = min(1.0, factor) if again else factor
            if cut and rest < h:
                h = size * factor if factor < 1 else max(h, size * factor)
            else:
                h, old = size * factor, max(error, 1e-4)
            if due > saved:
                self._save(step, control, p, new, ts, out)
            steps.append(step)
            x, t, saved, again, bad = new, end, due, False, False
            while q < control.anchors.size - 1 and control.breaks[q + 1] <= t:
                q += 1
        return steps, Status.SUCCESS, saved, rejected, calls

    def _inner(self, step: _Step, ts: Array) -> list[int]:
        return [m for m in range(*step.saves) if ts[m] < step.end - 1.8e-15 * abs(step.end)]

    def _weights(self, step: _Step, t: float) -> Array:
        weights = cast(Array, self.table.P)  # every embedded method has dense output
        return weights @ ((t - step.t) / step.h) ** np.arange(1, weights.shape[1] + 1)

    def _save(self, step: _Step, control: _Control, p: Array, new: Array, ts: Array, out: Array) -> None:
        inner = self._inner(step, ts)
        k = self._stages(self.table.stages if inner else 0, control, step, p)[0]
        for m in range(*step.saves):
            out[m] = step.x + step.h * (self._weights(step, ts[m]) @ k) if m in inner else new

    # --- reverse -------------------------------------------------------------------------------------------------

    def _reverse(
        self, step: _Step, control: _Control, p: Array, lam: Array, ts: Array, seeds: Array, p_bar: Array, bar: Array
    ) -> Array:
        """Lambda at the start of a step; adds to the adjoints of parameters and control coefficients."""
        tab, inner = self.table, self._inner(step, ts)
        count = tab.stages if inner else tab.main
        _, states = self._stages(count, control, step, p)
        lam, start = lam + sum(seeds[m] for m in range(*step.saves) if m not in inner), np.zeros(self.nx)
        k_bar = step.h * np.outer(tab.b, lam)
        for m in inner:
            start += seeds[m]
            k_bar += step.h * np.outer(self._weights(step, ts[m]), seeds[m])
        if self._adjoint is None:
            self._adjoint = self.rhs.reverse(1)
        for i in range(count - 1, -1, -1):
            t = step.end if tab.c[i] == 1.0 else step.t + tab.c[i] * step.h
            q = control.piece_at(step.piece, t)
            args = (t, states[i], control.value(q, t), p)
            _, x_bar, u_bar, p_part = (np.asarray(v).ravel() for v in self._adjoint(*args, self.rhs(*args), k_bar[i]))
            bar[q] += np.outer(u_bar, control.powers(q, t))
            p_bar += p_part
            k_bar[:i] += step.h * np.outer(tab.A[i, :i], x_bar)
            lam = lam + x_bar
        return lam + start
