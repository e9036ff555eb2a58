"""SciPy's methods on an objective: gradient methods of `minimize`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import DataError
from .result import Outcome
from .task import Task
from .watch import Watch

#: Methods that stop at an absolute size of the gradient, and its default.
GTOL = {"L-BFGS-B": 1e-5, "BFGS": 1e-5, "CG": 1e-5}
#: The first step after a restart, relative to the parameters.
FIRST_STEP = 0.1


@dataclass(frozen=True)
class Minimize:
    """A method of `scipy.optimize.minimize`.

    Parameters
    ----------
    name
        SciPy's name.
    bounds
        Whether it keeps bounds.
    second
        What it takes of second derivatives: "hessp", "hess", or nothing.
    limit
        The option that limits its work; where that is a number of evaluations, iterations are counted here.
    """

    name: str
    bounds: bool = False
    second: str = ""
    limit: str = "maxiter"

    def check(self, task: Task) -> None:
        """Refuse what the method cannot do, and options that it does not know."""
        if task.bounded and not self.bounds:
            raise DataError(
                f"bounds: the method {self.name!r} cannot keep bounds; use 'L-BFGS-B', 'TNC', 'SLSQP', 'trust-constr', "
                f"'least_squares' or 'ipopt'"
            )
        if task.options:
            self._try(task)

    def _try(self, task: Task) -> None:
        """Run the method on a constant, to see whether it takes the options."""
        from scipy.optimize import OptimizeWarning, minimize

        n = int(task.free.sum())
        second = {"hessp": lambda z, v: np.zeros(n), "hess": lambda z: np.zeros((n, n))}
        arguments = self._arguments(task) | ({self.second: second[self.second]} if self.second else {})
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                minimize(lambda z: (0.0, np.zeros(n)), task.z0, jac=True, method=self.name, **arguments)
            except (TypeError, ValueError) as exc:
                raise DataError(f"options: {self.name} of SciPy's minimize refuses {task.options}: {exc}") from exc
        texts = [str(w.message) for w in said if issubclass(w.category, OptimizeWarning)]
        unknown = [text for text in texts if "nknown" in text]
        if unknown:
            raise DataError(
                f"options: {unknown[0]} of {self.name}; scipy.optimize.show_options('minimize', {self.name!r}) lists "
                f"those that it has"
            )

    def _arguments(self, task: Task) -> dict[str, Any]:
        """Tolerance, options and bounds of the call."""
        from scipy.optimize import Bounds

        options = dict(task.options)
        arguments: dict[str, Any] = {"tol": options.pop("tol", None), "options": options}
        options.setdefault(self.limit, task.maxiter * (1 if self.limit == "maxiter" else 100))
        if task.bounded:
            arguments["bounds"] = Bounds(*task.z_bounds)
        return arguments

    def run(self, task: Task, watch: Watch) -> Outcome:
        """Minimise; where nothing moves though the gradient is not small, once more in smaller units."""
        start, slope = watch.evaluate(task.p0)
        watch.start(start)
        watch.iterate(task.p0)
        outcome = self._descend(task, watch)
        stuck = watch.best is not None and not watch.best.fun < start
        if self.second or not stuck or not task.unfinished(task.p0, start, slope):
            return outcome
        outcome = self._descend(self._finer(task, slope), watch)
        return replace(outcome, message=f"{outcome.message.rstrip('. ')}; restarted once in smaller units")

    def _finer(self, task: Task, slope: Float64Array) -> Task:
        """The task in units in which the gradient at p0 as a first step is a tenth of the parameters.

        The first step of these methods grows with the square of the units. One that leads far away, where gradients are
        useless, leaves line searches without an answer.
        """
        size = float(np.abs(task.z0).max()) or 1.0
        step = float(np.abs(task.descent(task.p0, slope)).max())
        ratio = float(2.0 ** np.floor(0.5 * np.log2(min(FIRST_STEP * size / step, FIRST_STEP**2))))
        options = dict(task.options)
        if self.name in GTOL:
            options["gtol"] = ratio * float(options.get("gtol", options.get("tol", GTOL[self.name])))
        return replace(task, scale=ratio * task.scale, options=options)

    def _descend(self, task: Task, watch: Watch) -> Outcome:
        """One call of SciPy."""
        from scipy.optimize import minimize

        objective = task.objective

        def fun(z: Float64Array) -> tuple[float, Float64Array]:
            value, gradient = watch.evaluate(task.expand(z))
            return watch.barrier(value), task.gradient(gradient)

        def hessp(z: Float64Array, v: Float64Array) -> Float64Array:
            watch.nhev += 1
            return task.gradient(objective.hessp(task.expand(z), task.direction(np.ravel(v))))

        def hess(z: Float64Array) -> Float64Array:
            watch.nhev += 1
            return task.gradient(task.gradient(objective.hess(task.expand(z))).T)

        second = {"hessp": hessp, "hess": hess}
        arguments = self._arguments(task) | ({self.second: second[self.second]} if self.second else {})
        r = minimize(
            fun,
            task.z0,
            jac=True,
            method=self.name,
            callback=lambda z, *_: watch.iterate(task.expand(z)),
            **arguments,
        )
        return Outcome(task.expand(r.x), bool(r.success), int(r.status), str(r.message))
