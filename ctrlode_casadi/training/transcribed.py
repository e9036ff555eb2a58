"""The methods "multiple-shooting" and "collocation": states at nodes are variables of a nonlinear program too."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import cast

import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import IntegrationWarning
from ..integrate.solvers import RungeKutta
from ..ocp.monitor import Iteration
from ..ocp.solvers import PluginSolver, Result, Start
from ..ocp.status import SolveStatus
from .collocation import Collocation
from .draft import Draft
from .grid import make_grid
from .ipopt import ended, start_options
from .node_guess import states_at_nodes, states_at_saves
from .oracles import chosen_backend, make_oracle
from .result import NEGLIGIBLE, Outcome
from .scheme import Read, Scheme
from .settings import Settings, read_settings
from .shooting import Shooting
from .task import Task
from .watch import INTERRUPTED, Stop, Watch

#: How often the discretisation is refined at most.
ROUNDS = 6
#: How often a round is given up because its equations are wrong where it leads.
STRAYS = 4
#: Options of IPOPT after the first round, which begins near an optimum: a large barrier would lead away from it.
RESUMED = {"mu_init": 1e-6}
#: A simulation whose value differs by more than this, relatively, is worth a word in the message.
NOTABLE = 1e-3


@dataclass(frozen=True)
class Transcribed:
    """One of the two methods, by name."""

    name: str

    def check(self, task: Task) -> None:
        """Refuse options that do not fit."""
        read_settings(self.name, task)

    def run(self, task: Task, watch: Watch) -> Outcome:
        """Solve, and refine the discretisation until it is accurate."""
        settings = read_settings(self.name, task)
        scheme = self._scheme(task, settings)
        problem = task.objective.problem
        grid = make_grid(problem.batch, settings.subintervals)
        states = states_at_nodes(grid, states_at_saves(problem, task.p0, settings.states))
        theta, rounds, strays = task.p0, 0, 0
        while True:
            rounds += 1
            round_ = _Round(task, watch, settings, Draft(task, settings.limits, grid, states, theta), scheme)
            found = round_.solve(first=rounds == 1, watched=strays < STRAYS)
            theta = round_.theta(found.w)
            if round_.strayed:
                strays += 1
                states, theta = round_.before_straying(found.w)
                continue
            if not found.status.success:
                break
            finer = scheme.refine(round_.draft, round_.reader(found.w), theta)
            if finer is None or rounds - strays == ROUNDS:
                break
            grid, states = finer
        return round_.outcome(found, scheme.error, rounds)

    def _scheme(self, task: Task, settings: Settings) -> Scheme:
        if self.name == "collocation":
            return Collocation(settings.rule, settings.accuracy)
        solver = cast(RungeKutta, task.objective.problem.machine.solver)
        return Shooting(solver, settings.steps, settings.accuracy)


class _Round:
    """One program on one grid: written, solved, read."""

    def __init__(self, task: Task, watch: Watch, settings: Settings, draft: Draft, scheme: Scheme) -> None:
        self.draft = draft
        self._task, self._watch, self._settings, self._scheme = task, watch, settings, scheme
        draft.add_objective()
        scheme.add(draft)
        self._nlp, self._places = draft.finish()
        self._stop: Stop | None = None
        self._last: Iteration | None = None
        self._good: Float64Array | None = None
        self.strayed = False
        self._report_start = True

    def solve(self, first: bool, watched: bool) -> Result:
        """Run IPOPT; `watched` ends it at an iterate where the equations are wrong."""
        self._report_start, self._watched = first, watched
        settings, task = self._settings, self._task
        problem = task.objective.problem
        backend = chosen_backend(settings.backend, problem.functions.rhs, self._scheme.evaluations)
        oracle = make_oracle(self._nlp, settings.hessian, backend, problem.machine.threads)
        left = {"max_iter": max(task.maxiter - max(self._watch.nit, 0), 1)}
        options = {**start_options(task), **({} if first else RESUMED), **left, **settings.solver_options}
        solver = PluginSolver(oracle, self._nlp, "ipopt", options, warm=False)
        return solver.solve(self._nlp, Start(self._nlp.w0), self._iteration)

    def _iteration(self, at: Iteration) -> bool:
        """Tell the watch of an iteration; its wish to stop is kept, so that the solver returns its iterate."""
        self._last = at
        if at.number == 0 and not self._report_start:
            self._good = at.w.copy()
            return False
        try:
            self._watch.iterate(self.theta(at.w), at.objective, violation=at.violation)
        except Stop as stop:
            self._stop = stop
            return True
        if self._watched and at.number > 0:
            self.strayed = self._scheme.strayed(self.draft, self.reader(at.w), self.theta(at.w))
        if not self.strayed:
            self._good = at.w.copy()
        return self.strayed

    def before_straying(self, w: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Node states and parameters of the last iterate before the one that strayed, to go on with; else of w."""
        good = w if self._good is None else self._good
        return self.reader(good)(self.draft.nodes), self.theta(good)

    def reader(self, w: Float64Array) -> Read:
        """Values of variables from their places in the draft."""
        return lambda places: w[self._places[places]]

    def theta(self, w: Float64Array) -> Float64Array:
        """Parameters (np_total,)."""
        task, places = self._task, self.draft.theta
        theta = task.p0.copy()
        free = places >= 0
        theta[free] = w[self._places[places[free]]]
        return np.clip(theta, task.lb, task.ub)

    def outcome(self, found: Result, error: float, rounds: int) -> Outcome:
        """The end of the fit: parameters, and what a simulation with them gives."""
        task, theta = self._task, self.theta(found.w)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IntegrationWarning)
            fun, _ = self._watch.evaluate(theta)
        status, message = _ending(found, self._stop)
        message += _about(task, fun, found.objective)
        success, p, comment = self._against_start(theta, fun, found)
        message += comment
        accuracy = self._settings.accuracy
        if success and accuracy is not None and error > accuracy:
            message += f" The discretisation error {error:.1e} is above accuracy={accuracy:g} after {rounds} rounds."
        grid, nodes = self.draft.grid, self.reader(found.w)(self.draft.nodes)
        states = np.where((grid.saves >= 0)[..., None], nodes[grid.saves], np.nan)
        nx = task.objective.sim.model.nx
        algebraic = {"z": states[..., nx:]} if task.objective.sim.model.nz else {}
        extra = {
            "nlp_x": theta,
            "nlp_fun": found.objective,
            "defect": float("nan") if self._last is None else self._last.violation,
            "discretisation_error": error,
            "rounds": rounds,
            "states": states[..., :nx],
            **algebraic,
            "stats": found.stats,
        }
        return Outcome(p, success, status, message, extra, keep=True)

    def _against_start(self, theta: Float64Array, fun: float, found: Result) -> tuple[bool, Float64Array, str]:
        """Success, the parameters to return, and a sentence: p0 where nothing better was found.

        Constraints on states count more than values: what was found is kept then. So it is where the program's own
        value is better than that of p0, and only a simulation, which amplifies small defects, is not.
        """
        task, limits, success = self._task, self._settings.limits, found.status.success
        constrained = np.isfinite([limits.lb, limits.ub]).any() or len(limits.path) > 0
        if constrained:
            return success, theta, ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IntegrationWarning)
            start = task.objective.value(task.p0)
        self._watch.nfev += 1
        slack = max(NOTABLE * abs(start), NEGLIGIBLE * task.size)
        if not np.isfinite(start) or fun <= start or (success and found.objective < start - slack):
            return success, theta, ""
        text = f" By simulation {fun:.6g} is no better than {start:.6g} at p0"
        text += ": p0 is returned, nlp_x is the last iterate."
        return success and fun <= start + slack, task.p0.copy(), text


def _ending(found: Result, stop: Stop | None) -> tuple[int, str]:
    """Status and message of the solve."""
    if stop is not None:
        return stop.status, f"{stop.message}."
    if found.status is SolveStatus.INTERRUPTED:
        return INTERRUPTED, "Interrupted."
    _, status, message = ended(found.message)
    return status, f"{message}."


def _about(task: Task, fun: float, nlp_fun: float) -> str:
    """A sentence where a simulation with the parameters does not give what the program promises."""
    if not np.isfinite(fun):
        return f" But the simulation with these parameters fails: {task.objective.last_failure}"
    if abs(fun - nlp_fun) > max(NOTABLE * abs(nlp_fun), NEGLIGIBLE * task.size):
        return (
            f" The value of the program is {nlp_fun:.6g}, that of a simulation from the initial states {fun:.6g}: the "
            f"system amplifies small defects, or the discretisation is coarse."
        )
    return ""
