"""Constraints that cannot be met: those of fixed states before a solve, the most violated ones after it."""

from __future__ import annotations

from dataclasses import replace

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.arrays import Float64Array, call
from ..base.errors import DataError
from .definition import Definition
from .groups import NLP
from .oracle import Oracle
from .solvers import Result
from .status import SolveStatus

#: Violation of a constraint of fixed states, relative to its value if that is larger than one.
_TOLERANCE = 1e-8
#: Outcomes after which the violated constraints are named.
_LOST = (
    SolveStatus.INFEASIBLE,
    SolveStatus.RESTORATION_FAILED,
    SolveStatus.TOO_FEW_VARIABLES,
    SolveStatus.MAX_ITERATIONS,
    SolveStatus.STALLED,
    SolveStatus.SOLVER_FAILURE,
)
#: Scaled violation from which on a constraint is named, also relative to the largest, and how many are.
_LEAST, _SHARE, _NAMED = 1e-6, 1e-3, 3
#: Entries among which they are looked for.
_LOOKED_AT = 10_000
#: How the descriptions of the model's own equations begin; they are named after what the user asked for.
_MODEL = ("matching of", "differential equation of", "continuity of", "algebraic equation")


def check_ends(d: Definition) -> None:
    """Refuse fixed states at an end that violate a hard constraint, whatever the solver chooses.

    These are entries of path constraints at the initial and terminal state, and of boundary constraints, that depend
    on fixed states and fixed parameters only. With a mass matrix that is singular the initial state is partly a guess,
    and nothing is checked.

    Raises
    ------
    DataError
        With the constraint, or for one that is not finite there.
    """
    if d.mass is not None:
        return
    known_p = np.ones(d.np, dtype=bool)
    known_p[d.free] = False
    start, end = np.isfinite(d.x_start), np.isfinite(d.x_end)
    x0, xf, p = (np.where(known, v, 0.0) for known, v in ((start, d.x_start), (end, d.x_end), (known_p, d.p)))
    fixed_tf = np.array([not d.free_tf])
    nothing, v = np.zeros(d.nu + d.nz, dtype=bool), np.zeros(d.nu + d.nz)
    for c in (c for c in d.path if c.soft is None):
        for which, t, known_t, x, known in (
            ("initial", d.t0, np.ones(1, bool), x0, start),
            ("terminal", d.tf, fixed_tf, xf, end),
        ):
            rows = _decided(c.function, known_t, known, nothing, known_p)
            found = _violated(c.function, (t, x, v, p), rows, c.lb, c.ub)
            if found:
                raise DataError(f"{which}: the {which} state violates {c.name}: {found}")
    for e in (e for e in d.boundary if e.soft is None):
        rows = _decided(e.function, start, end, fixed_tf, known_p)
        found = _violated(e.function, (x0, xf, d.tf, p), rows, e.lb, e.ub)
        if found:
            raise DataError(f"{e.name}: the fixed states of initial() and terminal() violate it: {found}")


def _decided(f: ca.Function, *known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Entries (m,) of a function that depend on known entries of its arguments only."""
    decided = np.ones(f.numel_out(0), dtype=bool)
    for i, here in enumerate(known):
        rows, columns = (np.array(a, dtype=np.int64) for a in f.jac_sparsity(0, i).get_triplet())
        decided[rows[~here[columns]]] = False
    return decided


def _violated(
    f: ca.Function,
    arguments: tuple[Float64Array | float, ...],
    rows: NDArray[np.bool_],
    lb: Float64Array,
    ub: Float64Array,
) -> str:
    """What is wrong with the worst of some entries of a constraint; empty where nothing is."""
    if not rows.any():
        return ""
    g = f(*arguments).full()[:, 0]
    broken = np.flatnonzero(rows & ~np.isfinite(g))
    if broken.size:
        j = int(broken[0])
        return (
            f"entry {j} is {g[j]:g} there; write the constraint so that it is finite there (x <= exp(c) instead of "
            "log(x) <= c), or change the state"
        )
    g[~rows] = 0.0
    worst = np.where(rows, np.maximum(lb - g, g - ub) / np.maximum(1.0, np.abs(g)), -np.inf)
    j = int(worst.argmax())
    if worst[j] <= _TOLERANCE:
        return ""
    return f"entry {j} is {g[j]:g}, allowed is [{lb[j]:g}, {ub[j]:g}]; no solution exists"


def with_violations(nlp: NLP, oracle: Oracle, result: Result, free_tf: bool) -> Result:
    """A failed result whose message names the most violated constraints.

    Parameters
    ----------
    nlp, oracle
        The program and its functions.
    result
        What the solver returned.
    free_tf
        Whether the final time is free; then the times of the description are those of the guess.
    """
    if result.status not in _LOST or not np.isfinite(result.w).all():
        return result
    named = _most_violated(nlp, oracle, result.w)
    if not named:
        return result
    times = "; times are those of the guess of tf" if free_tf else ""
    text = f"{result.message}; most violated (scaled{times}): {', '.join(named)}"
    if all(name.startswith(_MODEL) for name in named):
        text += "; these are equations of the model: within the bounds it may not reach what is asked of the ends"
    return replace(result, message=text)


def _most_violated(nlp: NLP, oracle: Oracle, w: Float64Array) -> list[str]:
    """The worst entry of each of the most violated constraints and bounds, with its violation."""
    g = call(oracle.constraints, w / nlp.scale_w, nlp.q)[0]
    outside = np.maximum(nlp.lbg * nlp.scale_g - g, g - nlp.ubg * nlp.scale_g)
    out_of_bounds = np.maximum(nlp.lbw - w, w - nlp.ubw) / nlp.scale_w
    violation = np.nan_to_num(np.concatenate([outside, out_of_bounds]), nan=np.inf, posinf=np.inf)
    least = max(_LEAST, _SHARE * float(np.max(violation, initial=0.0)))
    found: dict[str, str] = {}
    for i in np.argsort(-violation, kind="stable")[:_LOOKED_AT].tolist():
        if violation[i] < least or len(found) == _NAMED:
            break
        text = nlp.describe_row(i) if i < nlp.n_g else f"bound of {nlp.describe_variable(i - nlp.n_g)}"
        kind = next((start for start in _MODEL if text.startswith(start)), text.split(" at t = ")[0])
        found.setdefault(kind, f"{text} by {violation[i]:.2g}")
    return sorted(found.values(), key=lambda text: text.startswith(_MODEL))
