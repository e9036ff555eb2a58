"""Which path runs a model: compiled lanes or CasADi's virtual machine."""

from __future__ import annotations

import threading
import warnings
from typing import Any, TypeAlias, cast

import casadi as ca
import numpy as np

from ..base.errors import UnsupportedOperation
from ..model.ode import ControlledODE
from .auto.engine import AutoEngine, stiffness_found
from .auto.solver import Auto
from .build import compiled_only, make_engine
from .casadi_path import CasadiEngine
from .engine import Engine
from .integrators.engine import IntegratorEngine, make_integrator_engine
from .integrators.solvers import CasadiIntegrator
from .rosenbrock.jacobian import Structure
from .rosenbrock.solvers import RosenbrockMethod
from .solvers import OneStep
from .tangent import tangent_function

AnyEngine: TypeAlias = Engine | CasadiEngine | IntegratorEngine


class Paths:
    """Engines of a model and of its tangent system, made when first needed; safe for several threads.

    Parameters
    ----------
    model, solver
        What to integrate and how.
    wanted
        "auto", "compiled" or "casadi".
    dtype
        Type of the states.
    n_threads
        Number of threads, None for all processors.
    """

    def __init__(
        self,
        model: ControlledODE,
        solver: OneStep | CasadiIntegrator,
        wanted: str,
        dtype: np.dtype[Any],
        n_threads: int | None,
    ) -> None:
        self._model, self._solver, self.wanted = model, solver, wanted
        self._dtype, self._threads = dtype, n_threads
        self._engines: dict[tuple[bool, int], AnyEngine] = {}
        self._lock = threading.RLock()
        #: Why the CasADi path runs, None while it does not.
        self.reason: str | None = "backend='casadi' was asked for" if wanted == "casadi" else None
        if isinstance(solver, CasadiIntegrator):
            self.reason = f"{type(solver).__name__} is an integrator of CasADi"

    @property
    def backend(self) -> str:
        """The path that runs; compiles the model if that is not known yet."""
        if self.reason is None:
            self.engine(1)
        return "compiled" if self.reason is None else "casadi"

    def engine(self, size: int, *, tangent: bool = False) -> AnyEngine:
        """The engine for a batch of this size; "auto" falls back to the CasADi path, once, with a warning."""
        key = (tangent, size)
        with self._lock:
            found = self._engines.get(key)
            if found is None:
                found = self._engines[key] = self._make(size, tangent)
            return found

    @property
    def integrator(self) -> IntegratorEngine | None:
        """The engine where the solver is an integrator of CasADi."""
        engine = self.engine(1) if isinstance(self._solver, CasadiIntegrator) else None
        return engine if isinstance(engine, IntegratorEngine) else None

    def compiled_parts(self) -> list[str]:
        """One line for each set of kernels: lanes, code, compile time."""
        lines: dict[str, None] = {}
        behind = [(key, e.stiff) for key, e in self._engines.items() if isinstance(e, AutoEngine)]
        for (tangent, _), engine in [*self._engines.items(), *behind]:
            if isinstance(engine, Engine):
                what = "tangent system" if tangent else "model"
                parts = [(what, engine.kernels)]
                if engine.linear is not None:
                    n = engine.linear.sizes
                    parts.append((f"its Jacobian, {n.n_j} entries in columns of {n.block}", engine.linear.kernels))
                for name, k in parts:
                    source = "from the cache" if k.from_cache else f"compiled in {k.compile_seconds:.2f} s"
                    size = f"{k.lanes} lanes, {k.code_bytes} bytes of code, tape {k.n_tape} per lane"
                    lines[f"{name}: {size}, {source}"] = None
        return list(lines)

    def stiffness(self) -> list[str]:
        """One line on what the automatic choice found in the last call, none for other solvers."""
        return stiffness_found(self._engines.values())

    def _make(self, size: int, tangent: bool) -> AnyEngine:
        if isinstance(self._solver, CasadiIntegrator):
            made = (engine for (of_tangent, _), engine in self._engines.items() if of_tangent == tangent)
            return next(made, None) or make_integrator_engine(self._model, self._solver, self._threads, tangent)
        function = tangent_function(self._model.rhs) if tangent else self._model.rhs
        if self.reason is None:
            try:
                return self._compile(function, size, tangent)
            except UnsupportedOperation as exc:
                if self.wanted == "compiled":
                    raise
                if isinstance(self._solver, RosenbrockMethod | Auto):
                    raise compiled_only(self._solver, exc) from exc
                self.reason = str(exc)
                warnings.warn(
                    f"the model cannot be compiled and runs on the CasADi path, which is much slower: {exc}",
                    RuntimeWarning,
                    stacklevel=4,
                )
        for (of_tangent, _), engine in self._engines.items():
            if of_tangent == tangent and isinstance(engine, CasadiEngine):
                return engine
        return CasadiEngine(function, self._solver, self._model.nx)

    def _compile(self, function: ca.Function, size: int, tangent: bool) -> Engine:
        from ..lowering.kernels import lane_kernels

        kernels = lane_kernels(function, "p", None, self._dtype.name, size)
        for (of_tangent, _), engine in self._engines.items():
            if of_tangent == tangent and isinstance(engine, Engine) and engine.kernels is kernels:
                return engine
        blocks = np.arange(function.numel_in(1)).reshape(-1, self._model.nx)
        return make_engine(
            kernels, function, cast(OneStep, self._solver), n_err=self._model.nx, n_threads=self._threads,
            structure=Structure(blocks, self._model.system_mass),
        )  # fmt: skip
