"""One solve from start to end: transcription, checks, solver, accuracy; what can be used again is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..base.arrays import Float64Array, call
from ..base.errors import DataError, SolverError, UnsupportedOperation, unknown_name
from ..integrate.solvers import RungeKutta
from ..model.ode import ControlledODE
from . import kinks, symbolic
from .definition import Definition
from .free_time import may_help, solve_with_fixed_times
from .groups import NLP
from .guess import Guess, make_guess
from .infeasible import with_violations
from .mesh import make_mesh
from .monitor import Iteration
from .objective_scale import larger_scale, with_objective_scale
from .oracle import Oracle
from .refinement import Refinement, refinement_of
from .restarts import USUAL, Search, Way, moved, worst_error
from .scaling import WIDE
from .simulation import FIRST_CHOICE, check_integrator
from .solution import OptimalControlSolution
from .solvers import PluginSolver, Result, Start, check_solver
from .stages import forward, solver_options
from .time_limit import TimeLimit
from .transcription import METHODS, Plan, Transcription, transcribe

BACKENDS = ("auto", "compiled", "casadi")

#: Error of the states at the solution, relative to their size, below which the automatic integrator is accepted.
_STEP_TOLERANCE = 1e-8
_MOST_STEPS = 16

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
    if d.is_dae and method != "collocation":
        what = f"algebraic variables (nz={d.nz})" if d.nz else "a singular mass matrix"
        raise UnsupportedOperation(
            f"method: {method!r} integrates with explicit steps, which a model with {what} does not have; use "
            "method='collocation'"
        )
    cut = make_mesh(intervals, mesh, degree)
    if control is None:
        control = "collocation" if method == "collocation" else "constant"
    solver: RungeKutta = FIRST_CHOICE
    if integrator is not None:
        solver = check_integrator(integrator, float(cut.lengths.max()) * (d.tf - d.t0))
    if not isinstance(scaling, (bool, Mapping)):
        raise DataError(f"scaling: expected True, False or a dict of typical sizes, got {scaling!r}")
    sizes = WIDE if scaling is True and method != "collocation" else scaling
    return Plan(method, cut, control, scheme, solver, sizes)


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
    limit
        Time that is left for all solves.
    """

    model: ControlledODE
    definition: Definition
    solver: str
    options: Mapping[str, Any]
    backend: str
    watch: Callable[[Iteration], Any] | None
    limit: TimeLimit = field(default_factory=TimeLimit)


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
        request = replace(request, limit=TimeLimit(request.solver, request.options))
        if plan.method == "single-shooting" and _has_states(guess):
            request, guess = self._follow_states(request, plan, guess)
        once, has_freedom = partial(self._once, request), partial(self._has_freedom, request)
        equations = any(c.soft is None and bool(np.any(c.lb == c.ub)) for c in request.definition.path)
        solution = Search(once, has_freedom, plan, guess, request.solver, request.options, equations).solve()
        if plan.method == "collocation":
            return solution if refinement is None else self._refine(request, plan, solution, refinement)
        return self._halve_steps(request, plan, solution) if choose_steps else solution

    def _refine(
        self, request: Request, plan: Plan, solution: OptimalControlSolution, refinement: Refinement
    ) -> OptimalControlSolution:
        """Solve on finer meshes until the error is small."""
        rounds = 0
        while solution.success and rounds < refinement.rounds and not request.limit.over:
            mesh = refinement.next_mesh(solution)
            if mesh is None:
                break
            rounds, plan = rounds + 1, replace(plan, mesh=mesh)
            solution = self._once(request, plan, solution, Way(scale_f=solution.nlp.scale_f))
        solution.stats["refinements"] = rounds
        solution.stats["mesh_error"] = worst_error(solution)
        return solution

    def _halve_steps(self, request: Request, plan: Plan, solution: OptimalControlSolution) -> OptimalControlSolution:
        """Solve with shorter Runge-Kutta steps until the error is small."""
        while solution.success and not request.limit.over and solution.integration_error() > _STEP_TOLERANCE:
            steps = (plan.integrator.steps_per_interval or 1) * 2
            if steps > _MOST_STEPS:
                break
            plan = replace(plan, integrator=replace(plan.integrator, steps_per_interval=steps))
            solution = self._once(request, plan, solution, Way(scale_f=solution.nlp.scale_f))
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

    def _once(self, request: Request, plan: Plan, guess: Any, way: Way = USUAL) -> OptimalControlSolution:
        """Solve on one mesh, and again where the cost was too small for the solver's tolerances."""
        began = time.perf_counter()
        rows = make_guess(request.definition, guess)
        prepared = self._prepare(request, plan, rows, way.scale_f)
        t = prepared.transcription
        if way.moved:
            rows = moved(request.definition, rows)
        nlp = replace(t.nlp, w0=t.pack(rows))
        start = Start(nlp.w0)
        if isinstance(guess, OptimalControlSolution) and guess.fits(t) and not way.moved:
            start = guess.start()
        check_finite_start(nlp, prepared.oracle, start.w)
        first = request
        if way.iterations is not None:
            first = replace(request, options={**request.options, "max_iter": way.iterations})
        _solver(prepared, first, nlp, start.warm)
        setup = time.perf_counter() - began
        result = _solve(prepared, first, nlp, start)
        if way.other_times and may_help(t, result):
            result = solve_with_fixed_times(t, nlp, rows, result, partial(_solve, prepared, request))
        result.stats.setdefault("attempts", 1)
        scale_f = larger_scale(t, result)
        if scale_f is not None:
            prepared, nlp, result = _rescaled(request, prepared, nlp, result, scale_f)
            self._prepared[_key(request, plan)] = prepared
        kink = kinks.hint(t, result.status, result.w, nlp.q)
        if kink:
            result = replace(result, message=f"{result.message}; {kink}")
        result = with_violations(nlp, prepared.oracle, result, bool(t.tf.size))
        result.stats["setup_seconds"] = setup
        result.stats["backend"] = prepared.backend
        return OptimalControlSolution(request.model, prepared.transcription, nlp, prepared.oracle, result)

    def _has_freedom(self, request: Request, plan: Plan, guess: Any) -> bool:
        """Whether there are at least as many variables as equations."""
        nlp = self._prepare(request, plan, make_guess(request.definition, guess)).transcription.nlp
        return int(np.sum(nlp.lbg == nlp.ubg)) <= int(np.sum(nlp.lbw < nlp.ubw))

    def _prepare(self, request: Request, plan: Plan, guess: Guess, scale_f: float = 0.0) -> _Prepared:
        key = _key(request, plan)
        if key not in self._prepared:
            if len(self._prepared) >= _KEPT:
                self._prepared.pop(next(iter(self._prepared)))
            t = forward(with_objective_scale(transcribe(request.definition, plan, guess), scale_f), request.solver)
            oracle, name = make_oracle(t.nlp, request.backend, request.solver, repeated=False)
            self._prepared[key] = _Prepared(t, oracle, name, {})
        return self._prepared[key]


def _key(request: Request, plan: Plan) -> tuple[Any, ...]:
    """What a transcription and its functions depend on."""
    return (
        plan.method, plan.mesh.key, plan.control, plan.scheme, plan.integrator, repr(plan.scaling),
        request.backend, request.solver,
    )  # fmt: skip


def _solve(prepared: _Prepared, request: Request, nlp: NLP, start: Start) -> Result:
    """One run of the solver."""
    solver = _solver(prepared, request, nlp, start.warm)
    return request.limit.run(lambda watch: solver.solve(nlp, start, watch), request.watch)


def _rescaled(
    request: Request, prepared: _Prepared, nlp: NLP, result: Result, scale_f: float
) -> tuple[_Prepared, NLP, Result]:
    """A solution with another factor of the objective, from the old one; the old one where that fails."""
    t = replace(prepared.transcription, nlp=replace(prepared.transcription.nlp, scale_f=scale_f))
    oracle, name = make_oracle(t.nlp, request.backend, request.solver, repeated=False)
    fine, program = _Prepared(t, oracle, name, {}), replace(nlp, scale_f=scale_f)
    again = _solve(fine, request, program, Start(result.w, result.lam_g, result.lam_w))
    for key in ("attempts", "seconds"):
        again.stats[key] = again.stats.get(key, 1) + result.stats[key]
    if not again.status.success:
        result.stats.update(attempts=again.stats["attempts"], seconds=again.stats["seconds"])
        return prepared, nlp, result
    return fine, program, again


def _solver(prepared: _Prepared, request: Request, nlp: NLP, warm: bool) -> Any:
    """The solver of a request, made when it is first needed."""
    key = (request.solver, repr(sorted(request.options.items(), key=lambda item: item[0])), warm)
    if key not in prepared.solvers:
        options = solver_options(prepared.transcription, prepared.oracle, request.solver, request.options)
        prepared.solvers[key] = make_solver(prepared.oracle, nlp, request.solver, options, warm)
    return prepared.solvers[key]


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
