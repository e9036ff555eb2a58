"""Scales of objectives that are small: the tolerances of solvers are absolute.

An interior point solver ends where complementarity, gradients and the like are below about 1e-8. The cost is then
right to about 1e-6 divided by its own size, so a cost of 1e-6 may be off by its whole value while the solver
reports success. Large costs IPOPT scales down by itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import symbolic
from .groups import OBJECTIVE
from .scaling import is_automatic
from .solvers import Result
from .transcription import Transcription

#: Largest factor from the cost at a guess, which may be near zero by accident, and from the cost of a solution.
_MOST_AT_GUESS, _MOST = 2.0**5, 2.0**40
#: Scaled cost of a solution below which the problem is solved again from there with a larger factor.
_SMALL = 2.0**-4
#: Scaled cost that is zero: least squares that meet all data.
_ZERO = 1e-12


def with_objective_scale(t: Transcription, known: float = 0.0) -> Transcription:
    """Scale a cost that is small at the guess up, or by a factor that is known from a solution on another mesh."""
    if not is_automatic(t.plan.scaling):
        return t
    if known > t.nlp.scale_f:
        return replace(t, nlp=replace(t.nlp, scale_f=known))
    targets = zip(t.nlp.groups, symbolic.values(t.nlp, t.nlp.w0))
    value = abs(sum(float(r[group.targets == OBJECTIVE].sum()) for group, r in targets))
    if not 0.0 < value < 1.0:
        return t
    return replace(t, nlp=replace(t.nlp, scale_f=_factor(value, _MOST_AT_GUESS)))


def larger_scale(t: Transcription, result: Result) -> float | None:
    """The factor for a solution whose cost turned out to be small; None where the old one is good enough."""
    cost = abs(result.objective)
    if not is_automatic(t.plan.scaling) or not result.status.success:
        return None
    if not _ZERO < cost * t.nlp.scale_f < _SMALL:
        return None
    factor = _factor(cost, _MOST)
    return factor if factor > t.nlp.scale_f else None


def _factor(cost: float, most: float) -> float:
    """The power of two that brings a cost to about one."""
    return float(min(most, 2.0 ** np.round(-np.log2(cost))))
