"""Functions and derivatives of a fit's program for the solver, with the Hessian of choice."""

from __future__ import annotations

import warnings
from dataclasses import replace

import casadi as ca

from ..base.errors import UnsupportedOperation
from ..ocp import symbolic
from ..ocp.compiled import nlp as compiled
from ..ocp.groups import NLP, OBJECTIVE
from ..ocp.oracle import Oracle

#: Scalar operations in one pass over all intervals below which compilation costs more than it saves.
WORTH_COMPILING = 1_000_000


def make_oracle(nlp: NLP, hessian: str, backend: str, threads: int | None) -> Oracle:
    """Functions for IPOPT.

    Parameters
    ----------
    nlp
        The program.
    hessian
        "exact" for the Lagrangian's; "gauss-newton" for that of the objective alone, without the second derivatives of
        the equations, which are small where the residuals are; "limited-memory" for IPOPT's own approximation.
    backend
        "compiled", "casadi", or "auto": compiled where everything has a compiled form.
    threads
        For the compiled one.
    """
    if backend == "casadi":
        return _symbolic(nlp, hessian)
    try:
        return _compiled(nlp, hessian, threads)
    except UnsupportedOperation as exc:
        if backend == "compiled":
            raise
        text = f"fit: the program is evaluated by CasADi, which is slower. {exc}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
        return _symbolic(nlp, hessian)


def chosen_backend(backend: str, rhs: ca.Function, evaluations: int) -> str:
    """The backend for a number of right-hand sides per pass: small programs are not worth compiling."""
    if backend != "auto":
        return backend
    try:
        operations = rhs.expand().n_instructions()
    except RuntimeError:  # a callback, an interpolant or a solver inside
        return backend
    return "casadi" if operations * evaluations < WORTH_COMPILING else backend


def _compiled(nlp: NLP, hessian: str, threads: int | None) -> Oracle:
    """Compiled functions."""
    if hessian != "gauss-newton":
        return compiled.oracle(nlp, "ipopt", hessian, threads)
    first = compiled.oracle(nlp, "ipopt", "limited-memory", threads)
    second = compiled.oracle(_objective_alone(nlp), "ipopt", "exact", threads)
    options = {k: v for k, v in first.options.items() if k != "ipopt.hessian_approximation"}
    options["hess_lag"] = second.hessian
    return replace(first, options=options, hessian=second.hessian, keep=(*first.keep, *second.keep))


def _symbolic(nlp: NLP, hessian: str) -> Oracle:
    """CasADi's functions."""
    full = symbolic.oracle(nlp)
    if hessian == "exact":
        return full
    options = {k: v for k, v in full.options.items() if k != "hess_lag"}
    if hessian == "limited-memory":
        return replace(full, options={**options, "ipopt.hessian_approximation": hessian})
    second = symbolic.oracle(_objective_alone(nlp)).hessian
    return replace(full, options={**options, "hess_lag": second}, hessian=second)


def _objective_alone(nlp: NLP) -> NLP:
    """The program without the groups of its equations."""
    return replace(nlp, groups=tuple(g for g in nlp.groups if (g.targets == OBJECTIVE).all()))
