"""Reverse and forward derivatives of one trajectory, call by call, through CasADi's integrators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ...base.arrays import Float64Array
from ..results import Sweep
from .consistency import Consistency
from .objects import Evaluator, Kit, muted, units
from .plan import Call, Track


class Integrator(Protocol):
    """What the derivatives of a trajectory ask of the engine; `IntegratorEngine` documents the members."""

    nx: int
    nu: int
    n_params: int
    nz: int
    seed_size: float
    consistency: Consistency | None

    def evaluator(
        self, kit: Kit, call: Call, powers: int, state: Float64Array, kind: str, directions: int = 0
    ) -> Evaluator:
        """The integrator for a call from `state`."""

    def forward(
        self, kit: Kit, track: Track, state: Float64Array, out: Float64Array, sweep: Sweep, b: int
    ) -> Float64Array:
        """States at the start of every call."""


def reverse_trajectory(
    engine: Integrator, kit: Kit, track: Track, x: Float64Array, starts: Float64Array, seeds: Float64Array
) -> tuple[Float64Array, Float64Array, list[Float64Array], Float64Array] | None:
    """Adjoints of p (np,), x0 (nx,), the control's coefficients on each call's piece, (nu, powers) each, and u (T, nu).

    Seeds of algebraic variables become seeds of x, p and the u reported there by the implicit function theorem. The
    adjoint equation is linear: before each call seeds are scaled, so that the absolute tolerance is a hundredth of the
    relative one times the largest seed, whatever the scale of the objective and of the states. None where CasADi's
    adjoint fails.

    Parameters
    ----------
    x
        States (T, nx + nz) of the forward sweep.
    starts
        States at the start of every call.
    seeds
        (T, nx), or (T, nx + nz).
    """
    nx, nu, n_params = engine.nx, engine.nu, engine.n_params
    lam, p_bar, saves_bar = np.zeros(nx), np.zeros(n_params), np.zeros((len(track.times), nu))
    bars: list[Float64Array] = [np.zeros((nu, track.powers))] * len(track.calls)
    for k in range(len(track.calls) - 1, -1, -1):
        call, theta_bar = track.calls[k], np.zeros(track.theta.shape[1] - 2)
        seed = np.zeros((len(call.grid), nx))
        seed[-1] = lam
        for i, m in enumerate(range(call.first, call.last)):
            seed[i] += _differential(engine, track, m, x[m], seeds[m], p_bar, saves_bar[m])
        scale = float(np.abs(seed).max()) / engine.seed_size
        if scale > 0.0:
            evaluate = engine.evaluator(kit, call, track.powers, starts[k], "adjoint")
            fill(engine, evaluate.inputs, starts[k], track.theta[k])
            evaluate.inputs["adj_xf"].reshape(len(call.grid), -1)[:, :nx] = seed / scale
            with muted():
                message = evaluate()
            found = evaluate.outputs["adj_x0"]
            part = found[nx:] if found.size > nx else evaluate.outputs["adj_p"][: theta_bar.size]
            if message is not None or not (np.isfinite(found).all() and np.isfinite(part).all()):
                return None
            lam = scale * found[:nx]
            theta_bar += scale * part / units(track.theta[k, :-2])
        p_bar += theta_bar[:n_params]
        bars[k] = theta_bar[n_params:].reshape(track.powers, nu).T @ track.maps[k].T
    lam = lam + _differential(engine, track, 0, x[0], seeds[0], p_bar, saves_bar[0])
    return p_bar, lam, bars, saves_bar


def fill(engine: Integrator, inputs: dict[str, Float64Array], start: Float64Array, theta: Float64Array) -> None:
    """Initial state and parameters of a call; q is part of the state for the adjoint of IDAS."""
    nx, n = engine.nx, theta.size - 2
    w = units(theta[:n])
    inputs["x0"][:nx], inputs["p"][-2:], inputs["p"][-2 - n : -2] = start[:nx], theta[n:], w
    (inputs["x0"][nx:] if inputs["x0"].size > nx else inputs["p"][:n])[:] = theta[:n] / w
    if engine.nz:
        inputs["z0"][:] = start[nx:]


def _differential(
    engine: Integrator,
    track: Track,
    m: int,
    x: Float64Array,
    seed: Float64Array,
    p_bar: Float64Array,
    u_bar: Float64Array,
) -> Float64Array:
    """The seed of x for a seed of (x, z) at save time m; adds the rest to p_bar and u_bar."""
    nx = engine.nx
    if engine.consistency is None or seed.size == nx or not seed[nx:].any():
        return seed[:nx]
    u = track.saved[m, : engine.nu]
    by_x, by_u, by_p = engine.consistency.adjoint(track.times[m], x[:nx], u, track.p, x[nx:], seed[nx:])
    p_bar += by_p
    u_bar += by_u
    return seed[:nx] + by_x


def tangent_trajectory(
    engine: Integrator,
    kit: Kit,
    tracks: Sequence[Track],
    start: Float64Array,
    change: tuple[Any, Any],
    out: Float64Array,
) -> None:
    """Write changes of the states into `out` (n, T, nx + nz) for n directions.

    The variational equation is linear: before each call every direction is scaled so that the largest change of a
    state or of a parameter in its units is one, which gives absolute tolerances a meaning.

    Parameters
    ----------
    tracks
        One for each direction; they differ in the changes of the controls.
    start
        x0 and the guess of the algebraic variables, (nx + nz,).
    change
        dp (n, np) and dx0 (n, nx); further columns of dx0 belong to the guess.
    """
    from ..results import new_sweep

    track, n, nx, nz = tracks[0], len(tracks), engine.nx, engine.nz
    dp, dx = np.asarray(change[0], float), np.ascontiguousarray(change[1][:, :nx], float)
    states, sweep = np.full((out.shape[1], nx + nz), np.nan), new_sweep(1)
    starts = engine.forward(kit, track, start, states, sweep, 0)
    if np.isfinite(states[0]).all():
        out[:, 0] = np.concatenate([dx, _saved_change(engine, tracks, 0, states, dx, dp)], axis=1)
    for k, call in enumerate(track.calls):
        if not np.isfinite(starts[k]).all():
            return
        dtheta = np.concatenate([dp, np.stack([other.change[k] for other in tracks])], axis=1)
        dz = _algebraic(engine, track, k, starts[k], dx, dtheta)
        dq = dtheta / units(track.theta[k, :-2])
        scale = np.abs(np.concatenate([dx, dq], axis=1)).max(axis=1, keepdims=True)
        scale[scale == 0.0] = 1.0
        evaluate = engine.evaluator(kit, call, track.powers, starts[k], "forward", n)
        fill(engine, evaluate.inputs, starts[k], track.theta[k])
        evaluate.inputs["fwd_x0"][:] = (dx / scale).ravel()
        evaluate.inputs["fwd_p"].reshape(n, -1)[:, : dq.shape[1]] = dq / scale
        if nz:
            evaluate.inputs["fwd_z0"][:] = (dz / scale).ravel()
        with muted():
            message = evaluate()
        rows = evaluate.outputs["fwd_xf"].reshape(n, -1, nx) * scale[:, :, None]
        if message is not None or not np.isfinite(rows).all():
            return
        for i, m in enumerate(range(call.first, call.last)):
            if not np.isfinite(states[m]).all():
                return
            at_save = _saved_change(engine, tracks, m, states, rows[:, i], dp)
            out[:, m] = np.concatenate([rows[:, i], at_save], axis=1)
        dx = np.ascontiguousarray(rows[:, -1])


def _algebraic(
    engine: Integrator, track: Track, k: int, start: Float64Array, dx: Float64Array, dtheta: Float64Array
) -> Float64Array:
    """Changes of the algebraic variables at the start of call k, (n, nz)."""
    if engine.consistency is None:
        return np.zeros((len(dx), 0))
    nx, nu, n = engine.nx, engine.nu, engine.n_params
    point = (track.calls[k].start, start[:nx], track.control(k, 0.0, nu), track.theta[k, :n], start[nx:])
    return engine.consistency.tangent(point, dx, dtheta[:, n : n + nu], dtheta[:, :n])


def _saved_change(
    engine: Integrator, tracks: Sequence[Track], m: int, states: Float64Array, dx: Float64Array, dp: Float64Array
) -> Float64Array:
    """Changes of the algebraic variables at save time m, (n, nz)."""
    if engine.consistency is None:
        return np.zeros((len(dx), 0))
    track, nx, nu = tracks[0], engine.nx, engine.nu
    point = (track.times[m], states[m, :nx], track.saved[m, :nu], track.p, states[m, nx:])
    return engine.consistency.tangent(point, dx, np.stack([other.saved[m, nu:] for other in tracks]), dp)
