"""Is a solution what it says? Its control is simulated with a tight adaptive solver, and optimality is measured."""

from __future__ import annotations

from dataclasses import dataclass

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array, call, call_rows
from ..integrate.simulator import Simulator
from ..integrate.solvers import DOP853
from ..model.ode import ControlledODE
from .definition import Definition
from .points import quadratures
from .solved import Solved

_POINTS = 10


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
    """

    defect: Float64Array
    violation: dict[str, float]
    objective: float
    objective_error: float
    end_error: float
    optimality: float
    complementarity: float
    success: bool

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
    starts = solution.x[at_breaks]
    size = np.maximum(np.abs(solution.x).max(axis=0), 1e-3 * (1.0 + np.abs(solution.x).max()))
    sim, n = _simulator(d, float(rtol)), breaks.size - 1
    extra = sim.model.nx - d.nx
    ts = [np.linspace(breaks[k], breaks[k + 1], _POINTS + 1) for k in range(n)]
    controls = None if solution.controls is None else [solution.controls] * n
    pieces = sim(np.hstack([starts[:-1], np.zeros((n, extra))]), controls, solution.p, ts)
    whole = sim(np.append(starts[0], np.zeros(extra)), solution.controls, solution.p, breaks)
    defect = np.nanmax(np.abs(pieces.x[:, -1, : d.nx] - starts[1:]) / size, axis=1)
    end = whole.x[0, -1]
    objective = _cost(d, starts[0], end, solution)
    optimality, complementarity = _stationarity(solution)
    return Verification(
        defect,
        _violations(d, solution, pieces, starts, whole.x[0, -1, d.nx :]),
        objective,
        abs(objective - solution.objective) / max(1.0, abs(solution.objective)),
        float(np.max(np.abs(end[: d.nx] - starts[-1]) / size)),
        optimality,
        complementarity,
        bool(pieces.success.all() and whole.success.all()),
    )


def _simulator(d: Definition, rtol: float) -> Simulator:
    """A simulator of the states and all integrals."""
    integrands, _ = quadratures(d)

    def rhs(t: ca.MX, z: ca.MX, u: ca.MX, p: ca.MX) -> ca.MX:
        x = z[: d.nx]
        rates = [d.rhs(t, x, u, p)] + ([] if integrands is None else [integrands(t, x, u, p)])
        return ca.vertcat(*rates)

    extra = 0 if integrands is None else integrands.numel_out(0)
    model = ControlledODE(rhs, d.nx + extra, d.nu, params=d.np or None)
    return Simulator(model, DOP853(rtol=rtol, atol=1e-3 * rtol))


def _cost(d: Definition, x0: Float64Array, end: Float64Array, solution: Solved) -> float:
    total = float(end[d.nx]) if d.lagrange is not None else 0.0
    if d.mayer is not None:
        total += float(d.mayer(x0, end[: d.nx], solution.tf, solution.p))
    return total


def _violations(
    d: Definition, solution: Solved, pieces: object, starts: Float64Array, integrals: Float64Array
) -> dict[str, float]:
    """Largest violation of each constraint."""
    x = pieces.x[:, :, : d.nx].reshape(-1, d.nx)  # type: ignore[attr-defined]
    times = np.asarray(pieces.t).reshape(-1)  # type: ignore[attr-defined]
    u = np.zeros((times.size, 0)) if solution.controls is None else pieces.u.reshape(-1, d.nu)  # type: ignore[attr-defined]
    found = {
        "state bounds": _outside(x, d.x_lb, d.x_ub),
        "control bounds": _outside(u, d.u_lb, d.u_ub),
        "initial state": _outside(starts[:1], _known(d.x_start, -np.inf), _known(d.x_start, np.inf)),
        "terminal state": _outside(starts[-1:], _known(d.x_end, -np.inf), _known(d.x_end, np.inf)),
    }
    z, p = ca.MX.sym("z", 1 + d.nx + d.nu), ca.MX.sym("p", d.np)
    rows = np.column_stack([times, x, u])
    for c in d.path:
        f = ca.Function("path", [z, p], [c.function(z[0], z[1 : 1 + d.nx], z[1 + d.nx :], p)])
        found[c.name] = _outside(call_rows(f, rows, solution.p), c.lb, c.ub)
    for e in d.boundary:
        value = call(e.function, starts[0], starts[-1], solution.tf, solution.p)[0]
        found[e.name] = _outside(value[None], e.lb, e.ub)
    first = int(d.lagrange is not None)
    for i in d.integrals:
        found[i.name] = _outside(integrals[first : first + i.lb.size][None], i.lb, i.ub)
        first += i.lb.size
    return found


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
