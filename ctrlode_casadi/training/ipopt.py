"""IPOPT on an objective (single shooting): value, gradient and Hessian are handed over as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array
from ..base.errors import DataError
from .least_squares import check_squares, is_squares
from .result import Outcome
from .task import Task
from .watch import MAXITER, Stop, Watch

HESSIANS = ("auto", "exact", "gauss-newton", "limited-memory")

#: Up to so many parameters "auto" takes the exact Hessian; up to so many, for sums of squares, Gauss and Newton's.
EXACT_UP_TO, GAUSS_NEWTON_UP_TO = 30, 300

#: IPOPT's own `bound_push` and `bound_frac`, and the least that is asked for.
BOUND_PUSH, LEAST_PUSH = 1e-2, 1e-8

QUIET = {
    "print_time": False,
    "show_eval_warnings": False,
    "error_on_fail": False,
    "ipopt.print_level": 0,
    "ipopt.sb": "yes",
}


@dataclass(frozen=True)
class SingleShooting:
    """The method "ipopt"."""

    def check(self, task: Task) -> None:
        """Refuse unknown options and a Hessian that the loss does not have."""
        hessian = read_hessian(task)
        if hessian == "gauss-newton":
            check_squares(task)
        check_options(ipopt_options(task, ("hessian",)))

    def run(self, task: Task, watch: Watch) -> Outcome:
        """Minimise."""
        start, _ = watch.evaluate(task.p0)
        watch.start(start)
        return _Solve(task, watch, chosen_hessian(task)).run()


def read_hessian(task: Task) -> str:
    """The option `hessian`."""
    hessian = task.options.get("hessian", "auto")
    if hessian not in HESSIANS:
        raise DataError(f"hessian: expected one of {', '.join(HESSIANS)}, got {hessian!r}")
    return str(hessian)


def chosen_hessian(task: Task) -> str:
    """The Hessian of single shooting: "auto" goes by the number of parameters, since both matrices cost that many."""
    hessian, n = read_hessian(task), task.z0.size
    if hessian != "auto":
        return hessian
    if n <= EXACT_UP_TO:
        return "exact"
    return "gauss-newton" if n <= GAUSS_NEWTON_UP_TO and is_squares(task) else "limited-memory"


def ipopt_options(task: Task, own: Sequence[str]) -> dict[str, Any]:
    """Options of `casadi.nlpsol` from those of the fit; a name without a dot is IPOPT's."""
    given = {(k if "." in k else f"ipopt.{k}"): v for k, v in task.options.items() if k not in own}
    return {**QUIET, "ipopt.max_iter": task.maxiter, **given}


def start_options(task: Task) -> dict[str, float]:
    """IPOPT moves a start away from its bounds, in units of z: by so little that no parameter within them is moved."""
    z, (lower, upper), push = task.z0, task.z_bounds, BOUND_PUSH
    for bound in (lower, upper):
        gap, size = np.abs(z - bound), np.maximum(np.abs(bound), 1.0)
        near = (gap > 0) & (gap < BOUND_PUSH * np.minimum(size, upper - lower))
        push = float((gap[near] / size[near]).min(initial=push))
    return {"bound_push": max(push, LEAST_PUSH)}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that IPOPT does not know, or that it cannot use here."""
    x = ca.MX.sym("x")
    silent = {k: v for k, v in options.items() if k != "ipopt.output_file"} | {"ipopt.print_level": 0}
    try:
        solver = ca.nlpsol("trial", "ipopt", {"x": x, "f": x * x}, silent)
        solver(x0=1.0)
    except (RuntimeError, NotImplementedError) as exc:
        text = str(exc).strip().splitlines()[-1].partition(": ")
        raise DataError(f"options: IPOPT refuses {dict(options)}: {text[2] or text[0]}") from exc
    if solver.stats()["return_status"] == "Invalid_Option":
        raise DataError(
            f"options: IPOPT cannot use {dict(options)}; a linear solver other than 'mumps' has to be installed"
        )


#: What IPOPT's return statuses mean; the rest speaks for itself.
_TEXTS = {
    "Solve_Succeeded": "Optimal to the tolerance",
    "Solved_To_Acceptable_Level": "Optimal to the acceptable tolerance",
    "Maximum_Iterations_Exceeded": "The limit of iterations was reached",
    "Infeasible_Problem_Detected": "No point that fulfils the constraints was found",
    "Restoration_Failed": "The constraints could not be fulfilled to the tolerance (restoration failed)",
    "Invalid_Number_Detected": "The functions are not finite at the start, or wherever a step leads",
}


def ended(return_status: str) -> tuple[bool, int, str]:
    """Success, status and message of a return status of IPOPT."""
    success = return_status in ("Solve_Succeeded", "Solved_To_Acceptable_Level")
    status = 0 if success else MAXITER if return_status == "Maximum_Iterations_Exceeded" else 2
    text = _TEXTS.get(return_status)
    return success, status, f"{text} (IPOPT: {return_status})" if text else f"IPOPT: {return_status}"


@dataclass(eq=False)
class _Caught:
    """What was raised inside IPOPT; set once, then everything ends."""

    error: BaseException | None = None
    nodes: list[ca.Callback] = field(default_factory=list)


class _Node(ca.Callback):
    """A Python function of dense inputs with dense (or upper triangular) outputs.

    An exception cannot pass through IPOPT: it is kept, the evaluation fails, and so do all later ones.
    """

    def __init__(
        self,
        name: str,
        caught: _Caught,
        function: Callable[..., Sequence[Any]],
        inputs: Mapping[str, ca.Sparsity],
        outputs: Mapping[str, ca.Sparsity],
    ) -> None:
        ca.Callback.__init__(self)
        self._caught, self._function = caught, function
        self._inputs, self._outputs = dict(inputs), dict(outputs)
        caught.nodes.append(self)
        self.construct(name, {})

    def get_n_in(self) -> int:
        return len(self._inputs)

    def get_n_out(self) -> int:
        return len(self._outputs)

    def get_name_in(self, i: int) -> str:
        return list(self._inputs)[i]

    def get_name_out(self, i: int) -> str:
        return list(self._outputs)[i]

    def get_sparsity_in(self, i: int) -> ca.Sparsity:
        return list(self._inputs.values())[i]

    def get_sparsity_out(self, i: int) -> ca.Sparsity:
        return list(self._outputs.values())[i]

    def has_eval_buffer(self) -> bool:
        return True

    def eval_buffer(self, arguments: Any, results: Any) -> int:
        if self._caught.error is not None:
            return 1
        try:
            values = self._function(*(_copied(a) for a in arguments))
        except BaseException as exc:  # Ctrl-C too: it is raised again when IPOPT has returned
            self._caught.error = exc
            return 1
        for target, value in zip(results, values):
            if target is not None and len(target):
                np.frombuffer(target, np.float64)[:] = value
        return 0


def _copied(buffer: Any) -> Float64Array:
    """An input as an array of its own; CasADi hands over None for one that is empty or not needed."""
    return np.frombuffer(buffer, np.float64).copy() if buffer is not None and len(buffer) else np.zeros(0)


class _Solve:
    """One run of IPOPT on the variables z of a task."""

    def __init__(self, task: Task, watch: Watch, hessian: str) -> None:
        self._task, self._watch, self._hessian = task, watch, hessian
        self._caught = _Caught()

    def run(self) -> Outcome:
        """Build the solver and solve."""
        task, caught = self._task, self._caught
        scaling = {"ipopt.obj_scaling_factor": task.gain}
        push = {f"ipopt.{name}": value for name, value in start_options(task).items()}
        options = {**scaling, **push, **ipopt_options(task, ("hessian",)), **self._functions()}
        lower, upper = task.z_bounds
        solver = ca.nlpsol("fit", "ipopt", self._oracle, options)
        try:
            found = solver(x0=task.z0, lbx=lower, ubx=upper)
        except RuntimeError:
            if caught.error is None:
                raise
        if caught.error is not None:
            raise caught.error
        success, status, message = ended(solver.stats()["return_status"])
        return Outcome(task.expand(found["x"].full()[:, 0]), success, status, message)

    def _node(self, name: str, function: Callable[..., Sequence[Any]], inputs: Any, outputs: Any) -> ca.Callback:
        return _Node(name, self._caught, function, inputs, outputs)

    def _functions(self) -> dict[str, Any]:
        """Derivatives and the callback, as options of `casadi.nlpsol`."""
        n = self._task.z0.size
        one, column, none = ca.Sparsity.dense(1, 1), ca.Sparsity.dense(n, 1), ca.Sparsity(0, 1)
        point = {"x": column, "p": none}
        self._oracle = self._node("nlp", lambda z, _: (self._value(z), ()), point, {"f": one, "g": none})
        x, q = ca.MX.sym("x", n), ca.MX.sym("p", 0)
        empty = ca.Function("nlp_jac_g", [x, q], [ca.MX(0, 1), ca.MX(0, n)], ["x", "p"], ["g", "jac_g_x"])
        found = {"x": column, "f": one, "g": none, "lam_x": column, "lam_g": none, "lam_p": none}
        functions: dict[str, Any] = {
            "no_nlp_grad": True,
            "grad_f": self._node("nlp_grad_f", self._gradient, point, {"f": one, "grad_f_x": column}),
            "jac_g": empty,
            "iteration_callback": self._node("iterate", self._iterate, found, {"stop": one}),
        }
        if self._hessian == "limited-memory":
            return {**functions, "ipopt.hessian_approximation": "limited-memory"}
        at = {**point, "lam_f": one, "lam_g": none}
        triangle = {"triu_hess_gamma_x_x": ca.Sparsity.upper(n)}
        return {**functions, "hess_lag": self._node("nlp_hess_l", self._second, at, triangle)}

    def _value(self, z: Float64Array) -> float:
        value = self._watch.evaluate(self._task.expand(z))[0]
        return value if np.isfinite(value) else float("nan")

    def _gradient(self, z: Float64Array, _: Any) -> tuple[float, Float64Array]:
        value, gradient = self._watch.evaluate(self._task.expand(z))
        return value if np.isfinite(value) else float("nan"), self._task.gradient(gradient)

    def _second(self, z: Float64Array, _p: Any, lam_f: Float64Array, _g: Any) -> tuple[NDArray[Any]]:
        """Upper triangle of the Hessian, column by column."""
        task, p = self._task, self._task.expand(z)
        self._watch.nhev += 1
        if self._hessian == "gauss-newton":
            jac = task.gradient(task.objective.jac(p))
            full = 2.0 * jac.T @ jac
        else:
            full = task.gradient(task.gradient(task.objective.hess(p)).T)
        return (lam_f[0] * full[np.tril_indices(z.size)],)

    def _iterate(self, z: Float64Array, *_: Any) -> tuple[float]:
        """Tell the watch; its wish to stop is raised by the node."""
        try:
            self._watch.iterate(self._task.expand(z))
        except Stop as stop:
            self._caught.error = stop
            return (1.0,)
        return (0.0,)
