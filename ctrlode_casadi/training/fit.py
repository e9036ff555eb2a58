"""`fit`: one call for all methods that train an objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..base.errors import DataError, ModelError, UnsupportedOperation, unknown_name
from ..fitting.objective import Objective
from .ipopt import SingleShooting
from .least_squares import LeastSquares
from .minimize import Minimize
from .result import Outcome, make_result
from .task import Task, make_task
from .transcribed import Transcribed
from .watch import INTERRUPTED, Stop, Watch

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult


class Method(Protocol):
    """A row of the table of methods."""

    def check(self, task: Task) -> None:
        """Refuse, before anything compiles, what the method cannot do."""

    def run(self, task: Task, watch: Watch) -> Outcome:
        """Minimise."""


#: Name -> method.
METHODS: dict[str, Method] = {
    "CG": Minimize("CG"),
    "BFGS": Minimize("BFGS"),
    "Newton-CG": Minimize("Newton-CG", second="hessp"),
    "L-BFGS-B": Minimize("L-BFGS-B", bounds=True),
    "TNC": Minimize("TNC", bounds=True, limit="maxfun"),
    "SLSQP": Minimize("SLSQP", bounds=True),
    "dogleg": Minimize("dogleg", second="hess"),
    "trust-ncg": Minimize("trust-ncg", second="hessp"),
    "trust-krylov": Minimize("trust-krylov", second="hessp"),
    "trust-exact": Minimize("trust-exact", second="hess"),
    "trust-constr": Minimize("trust-constr", bounds=True, second="hessp"),
    "least_squares": LeastSquares(),
    "trf": LeastSquares("trf"),
    "dogbox": LeastSquares("dogbox"),
    "lm": LeastSquares("lm"),
    "gauss-newton": LeastSquares("dogbox"),
    "levenberg-marquardt": LeastSquares("trf", unbounded="lm"),
    "ipopt": SingleShooting(),
    "multiple-shooting": Transcribed("multiple-shooting"),
    "collocation": Transcribed("collocation"),
}

#: Methods that other versions of the package have or will have.
_ABSENT = ("adam", "adamw", "sgd")


def fit(
    obj: Objective,
    p0: Any,
    method: str = "L-BFGS-B",
    maxiter: int = 500,
    bounds: Any = None,
    progress: bool = True,
    callback: Callable[[Any], Any] | None = None,
    checkpoint: None = None,
    seed: int = 0,
    **options: Any,
) -> OptimizeResult:
    """Minimise an objective.

    Parameters
    ----------
    obj
        The objective.
    p0
        Start (np_total,), as `Objective.append_free` makes it; None for the model's initial parameters with `seed`.
    method
        One of

        - ``"L-BFGS-B"`` (default), ``"BFGS"``, ``"CG"``, ``"TNC"``, ``"SLSQP"``: gradients;
        - ``"Newton-CG"``, ``"trust-ncg"``, ``"trust-krylov"``, ``"trust-constr"``: Hessian products too;
        - ``"dogleg"``, ``"trust-exact"``: whole Hessians, for few parameters;
        - ``"least_squares"`` (the same as ``"trf"``, or the option ``algorithm=``), ``"dogbox"``, ``"lm"``: sums of
          squares; ``"levenberg-marquardt"`` is ``"lm"``, with bounds ``"trf"``; ``"gauss-newton"`` is ``"dogbox"``;
        - ``"ipopt"``: interior points, by single shooting;
        - ``"multiple-shooting"``, ``"collocation"``: the states between the data are variables too, tied by equations
          and solved for with IPOPT. They start from the data, so that a start at which simulations diverge will do,
          and take bounds and path constraints on hidden states.
    maxiter
        Limit on iterations.
    bounds
        Bounds on the parameters: `scipy.optimize.Bounds`, a pair (lb, ub), or a list of pairs. Equal bounds fix a
        parameter.
    progress
        Whether a line is printed to stderr every few seconds.
    callback
        ``callback(intermediate_result)`` after every iteration, with x, fun, jac (None where the method has none), nit,
        nfev, grad_norm and elapsed. It may raise StopIteration to end the fit.
    checkpoint
        Must be None; files of checkpoints are not written.
    seed
        For initial parameters where `p0` is None.
    **options
        The method's own options, those of SciPy or IPOPT (``gtol=1e-8``, ``tol=1e-10``), and

        - ``p_scale``: units of the parameters (np_total,), or one for all; None for no units. By default ("auto") one,
          except for blocks of the parameter vector that start far from order one (below 0.01 or above 100), which have
          a power of two. Numbers of one block that start more than a factor of 1000 apart have a unit each;
        - ``jacobian`` of least squares: "dense", "operator", or "auto", which is dense up to 1000 parameters;
        - ``hessian`` of IPOPT: "exact", "gauss-newton", "limited-memory" or "auto";
        - those of the transcribed methods: see docs/fitting.

    Returns
    -------
    scipy.optimize.OptimizeResult
        x (np_total,), fun, jac, nit, nfev, njev, nhev, success, status, message, and method, history (dict of arrays
        nit, fun, grad_norm, nfev, elapsed), elapsed (seconds), p (the model's parameters, unflattened). fun and jac
        are value and gradient of the objective at x. Where a method ends worse, the best point seen, p0 included, is
        returned. The transcribed methods also have nlp_x, nlp_fun, states and more, see docs/fitting. Ctrl-C
        also returns it, with status 98; a callback's StopIteration has 99, the limit of iterations 1, a p0 at which
        the objective is not finite 97.

    Raises
    ------
    DataError
        For p0, bounds, options or a method that do not fit, before anything is compiled.
    UnsupportedOperation
        For least squares with an objective that is no sum of squares.

    Examples
    --------
    >>> import numpy as np, ctrlode_casadi as co
    >>> model = co.ControlledODE(lambda t, x, u, p: -p * x, nx=1, params=1)
    >>> ts = np.linspace(0.0, 1.0, 11)
    >>> obj = co.Objective(co.Simulator(model), 1.0, None, ts, data=np.exp(-2.0 * ts))
    >>> result = co.fit(obj, [1.0], "least_squares", progress=False)
    >>> round(float(result.x[0]), 4)
    2.0
    """
    if not isinstance(obj, Objective):
        raise ModelError(f"obj: expected an Objective, got {type(obj).__name__}")
    name = _method_name(method)
    if checkpoint is not None:
        raise UnsupportedOperation(
            f"checkpoint: files of checkpoints are not available yet, got {checkpoint!r}; leave it None, and keep "
            f"intermediate_result.x in a callback"
        )
    if callback is not None and not callable(callback):
        raise DataError(f"callback: expected a callable or None, got {type(callback).__name__}")
    task = make_task(obj, p0, name, maxiter, bounds, seed, options)
    row = METHODS[name]
    row.check(task)
    watch = Watch(obj, name, task.maxiter, bool(progress), callback)
    try:
        outcome = row.run(task, watch)
    except Stop as stop:
        outcome = Outcome(None, False, stop.status, stop.message)
    except KeyboardInterrupt:
        outcome = Outcome(None, False, INTERRUPTED, "interrupted; the best point seen is returned")
    result = make_result(task, watch, outcome)
    watch.report(end="; " + result.message)
    return result


def _method_name(method: object) -> str:
    """The method's name as the table has it, in any case."""
    names = {name.lower(): name for name in METHODS}
    wanted = str(method).lower()
    if isinstance(method, str) and wanted in names:
        return names[wanted]
    if wanted in _ABSENT:
        raise DataError(f"method: {method!r} is not available yet; there are {', '.join(METHODS)}")
    raise DataError(unknown_name("method", method, METHODS))
