"""Is a solution what it says? Its control is simulated with a tight adaptive solver, and optimality is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call, call_rows
from ..integrate.rosenbrock.solvers import Rodas5P
from ..integrate.simulator import Simulator
from ..integrate.solvers import DOP853
from ..model.ode import ControlledODE
from .definition import Definition, along_rows, point_symbols
from .points import quadratures
from .reduction import Reduction
from .solved import Solved
from .transcription import Transcription

_POINTS = 10
#: Violation of control bounds from which on the reader is told where it comes from.
_BOUND_TOLERANCE = 1e-6
_OVERSHOOT = (
    "sol.controls is a polynomial on each interval, within the control bounds at the collocation points only; "
    'control="linear" keeps them everywhere, sol.resample() clips to them'
)


@dataclass(frozen=True, eq=False)
class Verification:
    """How good a solution is.

    Attributes
    ----------
    defect
        (N,) for each interval of the mesh: largest difference, over the states and relative to their size, between the
        solution at the interval's end and a simulation from the solution at its start.
    violation
        Name of each constraint to its largest violation along these simulations, at ten points per interval; in the
        constraint's own unit.
    objective
        Cost of the control simulated over the whole horizon from the initial state.
    objective_error
        Its difference to the solution's objective, relative to ``max(1, |objective|)``.
    end_error
        Difference of the terminal states of that simulation and the solution, relative to the states' size. For an
        unstable plant it may be large although the defects are small.
    optimality
        Largest entry of the gradient of the Lagrangian, for the scaled NLP.
    complementarity
        Largest product of a multiplier and the distance to its bound, for the scaled NLP.
    success
        Whether all simulations reached their end.
    notes
        Remarks, printed after the numbers.
    """

    defect: Float64Array
    violation: dict[str, float]
    objective: float
    objective_error: float
    end_error: float
    optimality: float
    complementarity: float
    success: bool
    notes: tuple[str, ...] = ()

    @property
    def max_defect(self) -> float:
        """Largest defect."""
        return float(self.defect.max())

    @property
    def max_violation(self) -> float:
        """Largest violation of a constraint."""
        return max(self.violation.values(), default=0.0)

    def __str__(self) -> str:
        lines = [
            f"simulation           {'reached the end' if self.success else 'failed'}",
            f"defect               {self.max_defect:.2e} (interval {int(self.defect.argmax())})",
            f"objective            {self.objective:.10g} (differs by {self.objective_error:.1e})",
            f"terminal states      differ by {self.end_error:.1e}",
            f"optimality           {self.optimality:.1e}",
            f"complementarity      {self.complementarity:.1e}",
        ]
        lines += [f"violation            {value:.1e}  {name}" for name, value in self.violation.items()]
        lines += [f"note                 {text}" for text in self.notes]
        return "\n".join(lines)


def verify(solution: Solved, rtol: float = 1e-10) -> Verification:
    """Simulate a solution's control and measure defects, violations, cost and optimality.

    Parameters
    ----------
    solution
        What `OptimalControlProblem.solve` returned.
    rtol
        Tolerance of the simulations.
    """
    t = solution.transcription
    d = t.definition
    breaks = solution.t0 + t.plan.mesh.breaks * (solution.tf - solution.t0)
    at_breaks = np.array([int(np.argmin(np.abs(solution.t - b))) for b in breaks])
    starts, moving = solution.x[at_breaks], _Moving(t.reduction, solution.x)
    sim, n = _simulator(d, float(rtol)), breaks.size - 1
    extra = sim.model.nx - d.nx
    ts = [np.linspace(breaks[k], breaks[k + 1], _POINTS + 1) for k in range(n)]
    controls = None if solution.controls is None else [solution.controls] * n
    near = solution.trajectory.z[at_breaks[:-1] + 1] if d.nz else None  # at the first point of each interval
    pieces = sim(np.hstack([starts[:-1], np.zeros((n, extra))]), controls, solution.p, ts, near)
    first = None if near is None else near[:1]
    whole = sim(np.append(starts[0], np.zeros(extra)), solution.controls, solution.p, breaks, first)
    defect = np.nanmax(moving.difference(pieces.x[:, -1, : d.nx], starts[1:]), axis=1)
    end = whole.x[0, -1]
    objective = _cost(d, starts[0], end, solution)
    optimality, complementarity = _stationarity(solution)
    violation = _violations(t, solution, pieces, starts, whole.x[0, -1, d.nx :])
    return Verification(
        defect,
        violation,
        objective,
        abs(objective - solution.objective) / max(1.0, abs(solution.objective)),
        float(np.max(moving.difference(end[: d.nx], starts[-1]))),
        optimality,
        complementarity,
        bool(pieces.success.all() and whole.success.all()),
        (_OVERSHOOT,) if t.control.kind == "collocation" and violation["control bounds"] > _BOUND_TOLERANCE else (),
    )


class _Moving:
    """Differences of states that have a derivative, relative to their size; the others jump where the control does."""

    def __init__(self, reduction: Reduction, x: Float64Array) -> None:
        self._reduction = reduction
        states = self._of(x)
        self._size = np.maximum(np.abs(states).max(axis=0), 1e-3 * (1.0 + np.abs(states).max()))

    def _of(self, x: Float64Array) -> Float64Array:
        r = self._reduction
        return x if r.algebraic.size == 0 else np.concatenate([r.states(x), x[..., r.removed]], axis=-1)

    def difference(self, a: Float64Array, b: Float64Array) -> Float64Array:
        """Differences of states (..., nx)."""
        return np.asarray(np.abs(self._of(a) - self._of(b)) / self._size)


def _simulator(d: Definition, rtol: float) -> Simulator:
    """A simulator of the states and all integrals."""
    integrands, _ = quadratures(d)
    extra = 0 if integrands is None else integrands.numel_out(0)
    t, x, v, p = point_symbols(d)
    rates = ca.vertcat(d.rhs(t, x, v, p), *([] if integrands is None else [integrands(t, x, v, p)]))
    equations = ca.MX(0, 1) if d.algebraic is None else d.algebraic(t, x, v, p)
    own = ca.Function("own", [t, x, v, p], [rates, equations])

    def part(i: int) -> Any:
        return lambda t, s, u, p, *z: own(t, s[: d.nx], ca.vertcat(u, *z) if d.nz else u, p)[i]

    mass = None
    if d.mass is not None:
        mass = np.eye(d.nx + extra)
        mass[: d.nx, : d.nx] = d.mass
    model = ControlledODE(
        part(0),
        d.nx + extra,
        d.nu,
        params=d.np or None,
        nz=d.nz,
        algebraic=part(1) if d.nz else None,
        mass=mass,
        z0=d.z0 if d.nz else None,
    )
    solver = Rodas5P if d.is_dae else DOP853
    return Simulator(model, solver(rtol=rtol, atol=1e-3 * rtol))


def _cost(d: Definition, x0: Float64Array, end: Float64Array, solution: Solved) -> float:
    total = float(end[d.nx]) if d.lagrange is not None else 0.0
    if d.mayer is not None:
        total += float(d.mayer(x0, end[: d.nx], solution.tf, solution.p))
    return total


def _violations(
    transcription: Transcription, solution: Solved, pieces: object, starts: Float64Array, integrals: Float64Array
) -> dict[str, float]:
    """Largest violation of each constraint."""
    d, reduction = transcription.definition, transcription.reduction
    begin, fixed = starts[:1], d.x_start
    if d.mass is not None:
        begin, fixed = reduction.states(begin), reduction.problem.x_start
    x = pieces.x[:, :, : d.nx].reshape(-1, d.nx)  # type: ignore[attr-defined]
    times = np.asarray(pieces.t).reshape(-1)  # type: ignore[attr-defined]
    u = np.zeros((times.size, 0)) if solution.controls is None else pieces.u.reshape(-1, d.nu)  # type: ignore[attr-defined]
    found = {
        "state bounds": _outside(x, d.x_lb, d.x_ub),
        "control bounds": _outside(u, d.u_lb, d.u_ub),
        "initial state": _outside(begin, _known(fixed, -np.inf), _known(fixed, np.inf)),
        "terminal state": _outside(starts[-1:], _known(d.x_end, -np.inf), _known(d.x_end, np.inf)),
    }
    rows = np.column_stack([times, x, u])
    if d.nz:
        z = pieces.z.reshape(-1, d.nz)  # type: ignore[attr-defined]
        found["algebraic bounds"] = _outside(z, d.z_lb, d.z_ub)
        rows = np.hstack([rows, z])
    for c in d.path:
        f = along_rows(d, _one(c.function))
        found[c.name] = _outside(call_rows(f, rows, solution.p), c.lb, c.ub)
    for e in d.boundary:
        value = call(e.function, starts[0], starts[-1], solution.tf, solution.p)[0]
        found[e.name] = _outside(value[None], e.lb, e.ub)
    first = int(d.lagrange is not None)
    for i in d.integrals:
        found[i.name] = _outside(integrals[first : first + i.lb.size][None], i.lb, i.ub)
        first += i.lb.size
    return found


def _one(function: ca.Function) -> Callable[..., list[ca.MX]]:
    return lambda *arguments: [function(*arguments)]


def _known(values: Float64Array, otherwise: float) -> Float64Array:
    return np.where(np.isnan(values), otherwise, values)


def _outside(values: Float64Array, lb: Float64Array, ub: Float64Array) -> float:
    return float(max(np.max(lb - values, initial=0.0), np.max(values - ub, initial=0.0)))


def _stationarity(solution: Solved) -> tuple[float, float]:
    """Largest entries of the gradient of the Lagrangian and of the products of multipliers and distances to bounds."""
    nlp, oracle = solution.nlp, solution.oracle
    x = solution.w / nlp.scale_w
    lam_g = solution.multipliers.constraints / nlp.scale_g * nlp.scale_f
    lam_w = solution.multipliers.variables * nlp.scale_w * nlp.scale_f
    gradient = call(oracle.gradient, x, nlp.q)[1]
    g, jacobian = oracle.jacobian(x, nlp.q)
    residual = gradient + (jacobian.T @ ca.DM(lam_g)).full()[:, 0] + lam_w
    free = nlp.lbw < nlp.ubw
    products = [
        np.abs(lam_w[free]) * _distance(x, nlp.lbw / nlp.scale_w, nlp.ubw / nlp.scale_w, lam_w)[free],
        np.abs(lam_g) * _distance(g.full()[:, 0], nlp.lbg * nlp.scale_g, nlp.ubg * nlp.scale_g, lam_g),
    ]
    largest = max((float(p.max(initial=0.0)) for p in products), default=0.0)
    return float(np.max(np.abs(residual[free]), initial=0.0)), largest


def _distance(values: Float64Array, lb: Float64Array, ub: Float64Array, lam: Float64Array) -> Float64Array:
    """Distance to the bound that a multiplier belongs to, zero where there is no such bound."""
    bound = np.where(lam > 0, ub, lb)
    return np.where(np.isfinite(bound), np.abs(values - np.where(np.isfinite(bound), bound, 0.0)), 0.0)
