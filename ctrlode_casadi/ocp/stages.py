"""Stages of a multiple shooting program, for solvers that factorise one stage after another (fatrop).

Such a solver wants the variables in the order x_0, u_0, x_1, u_1, ..., the matching equations of each interval as
``x_{k+1} - F(x_k, u_k)``, followed by the other constraints of the interval's left end, and nothing else that joins two
stages. Transcriptions have this order, and write the matching equations with the other sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .groups import IntArray
from .oracle import Oracle
from .shooting import ShootingStates
from .transcription import Transcription

#: Solvers that are told the stages.
STAGED = ("fatrop",)


def forward(t: Transcription, solver: str) -> Transcription:
    """The transcription with the sign of the matching equations that a staged solver wants."""
    if solver not in STAGED or not isinstance(t.states, ShootingStates) or not t.states.defects.size:
        return t
    signs = np.ones(t.nlp.n_g)
    signs[t.states.defects] = -1.0
    return replace(t, nlp=replace(t.nlp, scale_g=signs * t.nlp.scale_g))


def solver_options(t: Transcription, oracle: Oracle, solver: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's options, and those that tell the stages unless the user says how they are found."""
    if given and "structure_detection" in given:
        return dict(given)
    return {**stage_options(t, oracle, solver), **(given or {})}


def stage_options(t: Transcription, oracle: Oracle, solver: str) -> dict[str, Any]:
    """Options of `casadi.nlpsol` that tell a staged solver the sizes of the stages.

    Empty for other solvers, and where something else joins two stages: a final time or parameters that are variables,
    controls that are linear on each interval, integral constraints, constraints on both ends, constraints on states and
    controls at the final time.
    """
    if solver not in STAGED or not isinstance(t.states, ShootingStates) or not t.states.defects.size:
        return {}
    x, gaps = t.states.places, t.states.defects
    starts, nx = x[:, 0], x.shape[1]
    unit = t.nlp.scale_w[x[1:]] * np.abs(t.nlp.scale_g[gaps])
    if not (_in_runs(x) and _in_runs(gaps) and starts[0] == 0 and np.allclose(unit, 1.0, rtol=1e-12)):
        return {}
    widths = np.diff(np.append(starts, t.nlp.n_w))
    stage = np.repeat(np.arange(starts.size), widths)
    ng = _others(t.states, oracle, stage)
    if ng is None or not _is_block_diagonal(oracle, stage):
        return {}
    sizes = {"nx": [nx] * starts.size, "nu": (widths - nx).tolist(), "ng": ng.tolist()}
    return {"structure_detection": "manual", "N": starts.size - 1, **sizes}


def _in_runs(places: IntArray) -> bool:
    """Whether the places of each row follow each other, and the rows are in order."""
    return bool((np.diff(places, axis=1) == 1).all() and (np.diff(places[:, 0]) > 0).all())


def _others(states: ShootingStates, oracle: Oracle, stage: IntArray) -> IntArray | None:
    """Number of constraints of each stage besides matching equations (N + 1,); None where one joins two stages."""
    x, gaps, sparsity = states.places, states.defects, oracle.jacobian.sparsity_out(1)
    n = sparsity.size1()
    row, col = (np.array(a, dtype=np.int64) for a in sparsity.get_triplet())
    own = np.full(n, -1)
    own[gaps] = x[1:]
    inner = col != own[row]  # all but the x_{k+1} of the matching equations
    row, at = row[inner], stage[col[inner]]
    low, high = np.full(n, stage[-1]), np.zeros(n, dtype=np.int64)
    np.minimum.at(low, row, at)
    np.maximum.at(high, row, at)
    low[gaps] = np.minimum(low[gaps], np.arange(gaps.shape[0])[:, None])
    high[gaps] = np.maximum(high[gaps], np.arange(gaps.shape[0])[:, None])
    first = np.searchsorted(low, np.arange(gaps.shape[0]))
    if np.any(low != high) or np.any(np.diff(low) < 0) or np.any(first != gaps[:, 0]):
        return None
    counts = np.bincount(low, minlength=x.shape[0])
    counts[:-1] -= gaps.shape[1]
    return counts


def _is_block_diagonal(oracle: Oracle, stage: IntArray) -> bool:
    """Whether no entry of the Hessian joins two stages."""
    i, j = oracle.hessian.sparsity_out(0).get_triplet()
    return np.array_equal(stage[np.array(i, dtype=np.int64)], stage[np.array(j, dtype=np.int64)])
