"""SciPy's constrained minimisers behind the same call as CasADi's plugins."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import SolverError
from .groups import NLP
from .monitor import Iteration
from .oracle import Oracle
from .solvers import Result, Start
from .status import SolveStatus


class _Stop(Exception):
    """Raised by the callback to end a minimisation."""


@dataclass
class _State:
    """The latest iterate and counters."""

    x: Float64Array
    iterations: int = 0
    interrupted: bool = False
    evaluations: dict[str, int] = field(default_factory=dict)


class ScipySolver:
    """``scipy.optimize.minimize`` with trust-constr or SLSQP on the scaled program.

    Parameters
    ----------
    oracle
        The scaled program.
    name
        "scipy:trust-constr" or "scipy:SLSQP".
    options
        Options of ``minimize``; ``tol`` and ``maxiter`` among them.
    """

    def __init__(self, oracle: Oracle, name: str, options: Mapping[str, Any] | None) -> None:
        self._oracle, self._name = oracle, name
        self._method = name.removeprefix("scipy:")
        defaults: dict[str, Any] = {"maxiter": 1000}
        if self._method == "trust-constr":
            defaults |= {"gtol": 1e-8, "xtol": 1e-12, "barrier_tol": 1e-9}
        else:
            defaults |= {"ftol": 1e-10}
        self._options = defaults | dict(options or {})

    def solve(self, nlp: NLP, start: Start, watch: Callable[[Iteration], Any] | None) -> Result:
        """Solve a program; see `PluginSolver.solve`."""
        from scipy.optimize import minimize

        began = time.perf_counter()
        lower, upper = nlp.lbw / nlp.scale_w, nlp.ubw / nlp.scale_w
        program = _Program(self._oracle, nlp, lower < upper, np.clip(start.w / nlp.scale_w, lower, upper))
        state = _State(program.base.copy())
        x0 = program.base[program.free]
        options = dict(self._options)
        tol = options.pop("tol", None)
        keywords: dict[str, Any] = {"jac": True, "bounds": list(zip(lower[program.free], upper[program.free]))}
        if self._method == "trust-constr":
            keywords |= {"hess": program.hessian, "constraints": program.trust_constr()}
        else:
            keywords |= {"constraints": program.slsqp()}

        def note(x: Float64Array, *_: Any) -> bool:
            state.x = program.full(x)
            state.iterations += 1
            if watch is not None and watch(program.iteration(state)):
                raise _Stop
            return False

        found: Any = None
        try:
            found = minimize(
                program.objective, x0, method=self._method, callback=note, options=options, tol=tol, **keywords
            )
        except (_Stop, KeyboardInterrupt):
            state.interrupted = True
        except (ValueError, TypeError) as exc:
            raise SolverError(f"solver: {self._name!r} refused the problem or its options: {exc}") from exc
        return self._result(nlp, program, state, found, time.perf_counter() - began)

    def _result(self, nlp: NLP, program: _Program, state: _State, found: Any, seconds: float) -> Result:
        x = state.x if found is None else program.full(found.x)
        status, text = _status(found, program.violation(x))
        lam_g, lam_w = program.given(found) if self._method == "trust-constr" and found else program.estimated(x)
        objective = float(self._oracle.objective(x, nlp.q)) / nlp.scale_f
        stats = {
            "iterations": state.iterations if found is None else int(found.nit),
            "seconds": seconds,
            "function_seconds": program.seconds,
            "evaluations": dict(program.counts),
            "solver": self._name,
        }
        lam_g, lam_w = lam_g * nlp.scale_g / nlp.scale_f, lam_w / nlp.scale_w / nlp.scale_f
        return Result(x * nlp.scale_w, objective, lam_g, lam_w, status, text, stats)


class _Program:
    """The program as SciPy wants it: without fixed variables, equations and inequalities apart."""

    def __init__(self, oracle: Oracle, nlp: NLP, free: np.ndarray, base: Float64Array) -> None:
        self._oracle, self._nlp, self.free, self.base = oracle, nlp, free, base
        self.lower, self.upper = nlp.lbg * nlp.scale_g, nlp.ubg * nlp.scale_g
        self.equal = self.lower == self.upper
        self.seconds = 0.0
        self.counts: dict[str, int] = {"f": 0, "g": 0, "hess": 0}
        self._last: tuple[Float64Array, Float64Array, Any] | None = None

    def full(self, x: Float64Array) -> Float64Array:
        """All scaled variables from those that are free."""
        out = self.base.copy()
        out[self.free] = x
        return out

    def _timed(self, kind: str, f: ca.Function, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = f(*arguments)
        self.seconds += time.perf_counter() - began
        self.counts[kind] += 1
        return result

    def objective(self, x: Float64Array) -> tuple[float, Float64Array]:
        f, gradient = self._timed("f", self._oracle.gradient, self.full(x), self._nlp.q)
        return float(f), gradient.full()[self.free, 0]

    def constraints(self, x: Float64Array) -> tuple[Float64Array, Any]:
        """Values and sparse Jacobian; the last answer is kept."""
        if self._last is None or not np.array_equal(self._last[0], x):
            g, jacobian = self._timed("g", self._oracle.jacobian, self.full(x), self._nlp.q)
            matrix = jacobian.sparse().tocsr()[:, np.flatnonzero(self.free)]
            self._last = (x.copy(), g.full().reshape(-1), matrix)
        return self._last[1], self._last[2]

    def hessian(self, x: Float64Array) -> Any:
        return self._lagrangian(x, 1.0, np.zeros(self.lower.size))

    def _lagrangian(self, x: Float64Array, lam_f: float, lam_g: Float64Array) -> Any:
        from scipy.sparse import triu

        upper = self._timed("hess", self._oracle.hessian, self.full(x), self._nlp.q, lam_f, lam_g).sparse().tocsr()
        which = np.flatnonzero(self.free)
        full = upper + triu(upper, 1).T
        return full[which][:, which]

    def trust_constr(self) -> list[Any]:
        from scipy.optimize import NonlinearConstraint

        if not self.lower.size:
            return []
        return [
            NonlinearConstraint(
                lambda x: self.constraints(x)[0],
                self.lower,
                self.upper,
                jac=lambda x: self.constraints(x)[1],
                hess=lambda x, v: self._lagrangian(x, 0.0, np.asarray(v)),
            )
        ]

    def slsqp(self) -> list[dict[str, Any]]:
        below = np.flatnonzero(np.isfinite(self.lower) & ~self.equal)
        above = np.flatnonzero(np.isfinite(self.upper) & ~self.equal)
        same = np.flatnonzero(self.equal)
        parts: list[dict[str, Any]] = []
        for kind, rows, sign, bound in (
            ("eq", same, 1.0, self.lower), ("ineq", below, 1.0, self.lower), ("ineq", above, -1.0, self.upper),
        ):  # fmt: skip
            if rows.size:
                parts.append(self._part(kind, rows, sign, bound[rows]))
        return parts

    def _part(self, kind: str, rows: np.ndarray, sign: float, bound: Float64Array) -> dict[str, Any]:
        return {
            "type": kind,
            "fun": lambda x: sign * (self.constraints(x)[0][rows] - bound),
            "jac": lambda x: sign * self.constraints(x)[1][rows].toarray(),
        }

    def violation(self, x: Float64Array) -> float:
        g = self.constraints(x[self.free])[0]
        return float(max(np.max(self.lower - g, initial=0.0), np.max(g - self.upper, initial=0.0)))

    def iteration(self, state: _State) -> Iteration:
        f = float(self._oracle.objective(state.x, self._nlp.q)) / self._nlp.scale_f
        return Iteration(state.iterations - 1, f, self.violation(state.x), state.x * self._nlp.scale_w)

    def given(self, found: Any) -> tuple[Float64Array, Float64Array]:
        """Multipliers of constraints and bounds as trust-constr returns them, scaled."""
        lam_w = np.zeros(self.base.size)
        lam_w[self.free] = found.v[-1]
        return (np.asarray(found.v[0]) if self.lower.size else np.zeros(0)), lam_w

    def estimated(self, x: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Multipliers of active constraints and bounds by least squares, scaled; not all methods give theirs."""
        from scipy.optimize import lsq_linear

        n = self.lower.size
        g, jacobian = self.constraints(x[self.free])
        gradient = self.objective(x[self.free])[1]
        lower, upper = self._nlp.lbw / self._nlp.scale_w, self._nlp.ubw / self._nlp.scale_w
        near = 1e-6
        at_bound = [(x - lower < near, upper - x < near), (g - self.lower < near, self.upper - g < near)]
        (bounds,) = np.nonzero((at_bound[0][0] | at_bound[0][1])[self.free])
        (rows,) = np.nonzero(at_bound[1][0] | at_bound[1][1])
        lam_g, lam_w = np.zeros(n), np.zeros(x.size)
        if rows.size + bounds.size == 0:
            return lam_g, lam_w
        matrix = np.hstack([jacobian[rows].T.toarray(), np.eye(gradient.size)[:, bounds]])
        places = np.flatnonzero(self.free)[bounds]
        low = np.concatenate([at_bound[1][0][rows], at_bound[0][0][places]])
        high = np.concatenate([at_bound[1][1][rows], at_bound[0][1][places]])
        limits = (np.where(low, -np.inf, 0.0), np.where(high, np.inf, 0.0))
        limits = (np.minimum(limits[0], -1e-300), np.maximum(limits[1], 1e-300))
        lam = lsq_linear(matrix, -gradient, bounds=limits).x
        lam_g[rows], lam_w[places] = lam[: rows.size], lam[rows.size :]
        return lam_g, lam_w


def _status(found: Any, violation: float) -> tuple[SolveStatus, str]:
    if found is None:
        return SolveStatus.INTERRUPTED, "stopped"
    text = str(found.message)
    if violation > 1e-5:
        return (SolveStatus.MAX_ITERATIONS if "maxi" in text.lower() else SolveStatus.INFEASIBLE), text
    if found.success:
        return SolveStatus.SUCCESS, text
    return (SolveStatus.MAX_ITERATIONS if "iteration" in text.lower() else SolveStatus.STALLED), text
