"""One solve from start to end: transcription, checks, solver, accuracy; what can be used again is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.arrays import Float64Array, call
from ..base.errors import DataError, SolverError, UnsupportedOperation, unknown_name
from ..integrate.solvers import RungeKutta
from ..model.ode import ControlledODE
from . import symbolic
from .definition import Definition
from .groups import NLP, OBJECTIVE
from .guess import Guess, make_guess
from .mesh import make_mesh
from .monitor import Iteration
from .oracle import Oracle
from .refinement import Refinement, refinement_of
from .simulation import FIRST_CHOICE, check_integrator
from .solution import OptimalControlSolution
from .solvers import PluginSolver, Result, Start, check_solver
from .status import SolveStatus
from .transcription import METHODS, Plan, Transcription, transcribe

BACKENDS = ("auto", "compiled", "casadi")

#: Error of the states at the solution, relative to their size, below which the automatic integrator is accepted.
_STEP_TOLERANCE = 1e-8
_MOST_STEPS = 16

#: Error of an interval, relative to the states' size, from which on a collocation is tried from another start.
_DOUBTFUL = 1e-2
#: Transcriptions kept with their solvers.
_KEPT = 8

#: Scalar operations in f and g from which on compiled functions win, compilation included (one to three seconds the
#: first time, a fraction of a second from the cache): for one solve, and for many.
_WORTH_ONCE, _WORTH_REPEATED = 100_000, 10_000

#: Options of IPOPT for a start that is nearly a solution but has no multipliers.
_NEAR = {"mu_init": 1e-4, "bound_push": 1e-6, "bound_frac": 1e-6}


def plan_of(
    d: Definition,
    method: str,
    intervals: Any,
    control: str | None,
    degree: Any,
    scheme: str,
    integrator: Any,
    mesh: Any,
    scaling: bool | Mapping[str, Any],
) -> Plan:
    """Settings of a transcription, checked and completed."""
    if method not in METHODS:
        raise DataError(unknown_name("method", method, METHODS))
    cut = make_mesh(intervals, mesh, degree)
    if control is None:
        control = "collocation" if method == "collocation" else "constant"
    solver: RungeKutta = FIRST_CHOICE
    if integrator is not None:
        solver = check_integrator(integrator, float(cut.lengths.max()) * (d.tf - d.t0))
    if not isinstance(scaling, (bool, Mapping)):
        raise DataError(f"scaling: expected True, False or a dict of typical sizes, got {scaling!r}")
    return Plan(method, cut, control, scheme, solver, scaling)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A transcription with its functions, and the solvers made for it."""

    transcription: Transcription
    oracle: Oracle
    backend: str
    solvers: dict[Any, Any]


@dataclass(frozen=True, eq=False)
class Request:
    """What does not change while a problem is solved on several meshes.

    Attributes
    ----------
    model, definition
        The model and the problem.
    solver, options
        Name of the solver and the user's options.
    backend
        One of `BACKENDS`.
    watch
        Iteration callback.
    """

    model: ControlledODE
    definition: Definition
    solver: str
    options: Mapping[str, Any]
    backend: str
    watch: Callable[[Iteration], Any] | None


class Drive:
    """Solves one problem, again and again."""

    def __init__(self) -> None:
        self._prepared: dict[Any, _Prepared] = {}

    def solve(
        self, request: Request, plan: Plan, guess: Any, choose_steps: bool, refine: float | Refinement | None
    ) -> OptimalControlSolution:
        """Solve, then refine until steps and mesh are fine enough."""
        check_solver(request.solver)
        if request.backend not in BACKENDS:
            raise SolverError(unknown_name("backend", request.backend, BACKENDS))
        refinement = refinement_of(refine)
        if refinement is not None and plan.method != "collocation":
            raise DataError(f"refine: needs method='collocation', got {plan.method!r}")
        if plan.method == "collocation":
            solution = self._collocate(request, plan, guess)
            return solution if refinement is None else self._refine(request, plan, solution, refinement)
        if plan.method == "single-shooting" and _has_states(guess):
            request, guess = self._follow_states(request, plan, guess)
        solution = self._once(request, plan, guess)
        return self._halve_steps(request, plan, solution) if choose_steps else solution

    def _collocate(self, request: Request, plan: Plan, guess: Any) -> OptimalControlSolution:
        """Solve; where the polynomials do not follow the differential equation, start again from a calmer control.

        With one value per collocation point a coarse mesh can have optima that only exploit the quadrature, with
        controls that jump within an interval. They show in the error of the mesh. A control that is linear on each
        interval cannot do that; the optimum with it is then the better start.
        """
        solution = self._once(request, plan, guess)
        if plan.control != "collocation" or not _is_doubtful(solution, request.options):
            return solution
        calm = self._once(request, replace(plan, control="linear"), guess)
        if not calm.success:
            return solution
        again = self._once(request, plan, calm)
        if not again.success or (solution.success and _worst(again) > _worst(solution)):
            return solution
        again.stats["restarted"] = True
        return again

    def _refine(
        self, request: Request, plan: Plan, solution: OptimalControlSolution, refinement: Refinement
    ) -> OptimalControlSolution:
        """Solve on finer meshes until the error is small."""
        rounds = 0
        while solution.success and rounds < refinement.rounds:
            mesh = refinement.next_mesh(solution)
            if mesh is None:
                break
            rounds, plan = rounds + 1, replace(plan, mesh=mesh)
            solution = self._once(request, plan, solution)
        solution.stats["refinements"] = rounds
        solution.stats["mesh_error"] = _worst(solution)
        return solution

    def _halve_steps(self, request: Request, plan: Plan, solution: OptimalControlSolution) -> OptimalControlSolution:
        """Solve with shorter Runge-Kutta steps until the error is small."""
        while solution.success and solution.integration_error() > _STEP_TOLERANCE:
            steps = (plan.integrator.steps_per_interval or 1) * 2
            if steps > _MOST_STEPS:
                break
            plan = replace(plan, integrator=replace(plan.integrator, steps_per_interval=steps))
            solution = self._once(request, plan, solution)
        return solution

    def _follow_states(self, request: Request, plan: Plan, guess: Any) -> tuple[Request, Any]:
        """Controls to start single shooting from, by a guess of states, which has no place among its variables.

        Multiple shooting starts from the states and finds the controls; the guess stays where that fails.
        """
        lifted = replace(request, solver="ipopt", options={"max_iter": 200}, watch=None)
        found = self._once(lifted, replace(plan, method="multiple-shooting"), guess)
        if not found.success:
            return request, guess
        near = _NEAR if request.solver == "ipopt" else {}
        return replace(request, options=near | dict(request.options)), found

    def _once(self, request: Request, plan: Plan, guess: Any) -> OptimalControlSolution:
        """Solve on one mesh."""
        began = time.perf_counter()
        rows = make_guess(request.definition, guess)
        prepared = self._prepare(request, plan, rows)
        t = prepared.transcription
        nlp = replace(t.nlp, w0=t.pack(rows))
        start = Start(nlp.w0)
        if isinstance(guess, OptimalControlSolution) and guess.fits(t):
            start = guess.start()
        check_finite_start(nlp, prepared.oracle, start.w)
        key = (request.solver, repr(sorted(request.options.items(), key=lambda item: item[0])), start.warm)
        if key not in prepared.solvers:
            prepared.solvers[key] = make_solver(prepared.oracle, nlp, request.solver, request.options, start.warm)
        setup = time.perf_counter() - began
        result: Result = prepared.solvers[key].solve(nlp, start, request.watch)
        result.stats["setup_seconds"] = setup
        result.stats["backend"] = prepared.backend
        return OptimalControlSolution(request.model, t, nlp, prepared.oracle, result)

    def _prepare(self, request: Request, plan: Plan, guess: Guess) -> _Prepared:
        key = (
            plan.method, plan.mesh.key, plan.control, plan.scheme, plan.integrator, repr(plan.scaling),
            request.backend, request.solver,
        )  # fmt: skip
        if key not in self._prepared:
            if len(self._prepared) >= _KEPT:
                self._prepared.pop(next(iter(self._prepared)))
            t = _with_objective_scale(transcribe(request.definition, plan, guess))
            oracle, name = make_oracle(t.nlp, request.backend, request.solver, repeated=False)
            self._prepared[key] = _Prepared(t, oracle, name, {})
        return self._prepared[key]


def _with_objective_scale(t: Transcription) -> Transcription:
    """Scale a small objective up: solvers' tolerances are absolute. Large ones IPOPT scales down by itself."""
    if t.plan.scaling is not True:
        return t
    targets = zip(t.nlp.groups, symbolic.values(t.nlp, t.nlp.w0))
    value = abs(sum(float(r[group.targets == OBJECTIVE].sum()) for group, r in targets))
    if not 0.0 < value < 1.0:
        return t
    return replace(t, nlp=replace(t.nlp, scale_f=2.0 ** min(5, round(-np.log2(value)))))


def make_oracle(nlp: NLP, backend: str, solver: str, repeated: bool = True) -> tuple[Oracle, str]:
    """The functions of a program, and the name of the backend that evaluates them.

    "auto" takes compiled code where the program is large enough to pay for the compilation, there is code for every
    operation, and the solver takes functions from outside. `repeated` says that the program will be solved many times.

    Raises
    ------
    UnsupportedOperation
        For "compiled" where that is not possible.
    """
    least = _WORTH_REPEATED if repeated else _WORTH_ONCE
    if backend == "compiled" or (backend == "auto" and symbolic.operations(nlp) >= least):
        from .compiled import nlp as compiled

        try:
            return compiled.oracle(nlp, "ipopt" if solver.startswith("scipy:") else solver), "compiled"
        except UnsupportedOperation:
            if backend == "compiled":
                raise
    return symbolic.oracle(nlp, solver), "casadi"


def make_solver(
    oracle: Oracle, nlp: NLP, name: str, options: Mapping[str, Any] | None, warm: bool, watched: bool = True
) -> Any:
    """A solver by name; see `PluginSolver`."""
    if name.startswith("scipy:"):
        from .scipy_solvers import ScipySolver

        return ScipySolver(oracle, name, options)
    return PluginSolver(oracle, nlp, name, options, warm, watched)


def check_finite_start(nlp: NLP, oracle: Oracle, w: Float64Array) -> None:
    """Refuse a starting point where the model is infinite or NaN, and say where.

    Raises
    ------
    DataError
        With the interval and the state or constraint.
    """
    x = w / nlp.scale_w
    f, g = call(oracle.objective, x, nlp.q)[0], call(oracle.constraints, x, nlp.q)[0]
    if np.isfinite(f).all() and np.isfinite(g).all():
        return
    for group, r in zip(nlp.groups, symbolic.values(nlp, w)):
        bad = np.argwhere(~np.isfinite(r))
        if bad.size:
            i, j = (int(v) for v in bad[0])
            row = int(group.targets[i, j])
            what = "the cost" if row < 0 else nlp.describe_row(row)
            near = nlp.describe_variable(int(group.variables[i, 0]))
            raise DataError(
                f"guess: the model is {r[i, j]} at the guess, in {what} ({group.name} {i}, near {near}; "
                f"{bad.shape[0]} of {r.size} values there are not finite). Give a guess where the model is defined, "
                "or bounds that keep it there"
            )
    raise DataError("guess: the problem is not finite at the guess")


def _has_states(guess: Any) -> bool:
    """Whether a guess says how the states change."""
    shape = np.shape(guess["x"]) if isinstance(guess, Mapping) and guess.get("x") is not None else ()
    return len(shape) == 2 and shape[0] > 1


def _worst(solution: OptimalControlSolution) -> float:
    """Largest error of an interval."""
    return float(solution.mesh_errors().max())


def _is_doubtful(solution: OptimalControlSolution, options: Mapping[str, Any]) -> bool:
    """Whether another start may lead to something better; not where the user set the limit that was met."""
    if solution.success:
        return _worst(solution) > _DOUBTFUL
    if solution.status is SolveStatus.MAX_ITERATIONS:
        return not any("max" in key and "iter" in key for key in options) and "ipopt" not in options
    return solution.status not in (SolveStatus.INTERRUPTED, SolveStatus.TIME_LIMIT)


def watcher(callback: Callable[[Iteration], Any] | None, progress: bool) -> Callable[[Iteration], Any] | None:
    """The iteration callback of a solve: the user's, and a printed line if asked for."""
    if callback is not None and not callable(callback):
        raise DataError(f"callback: expected a callable, got {type(callback).__name__}")
    if not progress:
        return callback

    def show(it: Iteration) -> Any:
        print(f"{it.number:5d}  objective {it.objective:.10g}  violation {it.violation:.2e}", flush=True)
        return callback(it) if callback is not None else False

    return show
