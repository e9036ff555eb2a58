"""The origin problem: 100 controlled trajectories of a neural ODE 3-10-10-10-2 with selu.

Inputs are random numbers on 100 knots over 10 s, joined linearly; both states start at zero; the loss is the
sum of squares of all saved states divided by the number of trajectories. `bench` and benchmarks/origin.py
share this definition, so that both measure the same work.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import casadi as ca

    import ctrlode_casadi as co

SIZES = (3, 10, 10, 10, 2)
REFERENCE_TRAJECTORIES = 100
REFERENCE_LOSS = 4.7058037e-06  # RK4 on the knots, 100 trajectories, float64; JAX gives the same digits
REFERENCE_GRADIENT_NORM = 0.17876882


@dataclass(frozen=True)
class OriginProblem:
    """Arrays of the origin problem.

    Attributes
    ----------
    knots : ndarray (K,)
        Times of the control's knots in seconds, also the save times.
    values : ndarray (B, K, 1)
        Control values at the knots.
    layers : tuple of (weight (n_out, n_in), bias (n_out,))
        The network's parameters, layer by layer.
    """

    knots: np.ndarray
    values: np.ndarray
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def p(self) -> np.ndarray:
        """Flat parameters (282,): per layer the weight in row-major order, then the bias."""
        return np.concatenate([part.ravel() for layer in self.layers for part in layer])


def make_problem(trajectories: int = REFERENCE_TRAJECTORIES, knots: int = 100, seed: int = 1111) -> OriginProblem:
    """Draw the problem; the weights and the first 100 trajectories are the same for every batch size.

    Parameters
    ----------
    trajectories : int
        B, number of input trajectories.
    knots : int
        K, number of knots over 10 s.
    seed : int
        Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((REFERENCE_TRAJECTORIES, knots))
    layers = []
    for n_in, n_out in pairwise(SIZES):
        limit = 0.1 * np.sqrt(6.0 / (n_in + n_out))  # Glorot's uniform distribution with gain 0.1
        layers.append((rng.uniform(-limit, limit, (n_out, n_in)), np.zeros(n_out)))
    if trajectories > REFERENCE_TRAJECTORIES:
        more = rng.standard_normal((trajectories - REFERENCE_TRAJECTORIES, knots))
        values = np.concatenate([values, more])
    return OriginProblem(np.linspace(0.0, 10.0, knots), values[:trajectories, :, None], tuple(layers))


def sum_of_squares(t: ca.MX, x: ca.MX, u: ca.MX, y: ca.MX, d: ca.MX, p: ca.MX) -> ca.MX:
    """Loss at one save time: the squared length of the state."""
    import casadi as ca

    return ca.sumsqr(x)


def make_simulator(
    solver: Any, *, dtype: str = "float64", threads: int | None = None, activation: str = "selu"
) -> co.Simulator:
    """Return a simulator of the origin problem's network.

    Parameters
    ----------
    solver : solver
        For example ``co.RK4(steps_per_interval=1)`` or ``co.Tsit5(rtol=1e-3, atol=1e-6)``.
    dtype : {"float64", "float32"}
        Precision of the integration.
    threads : int, optional
        Default: every core of this process.
    activation : str
        Activation of the three hidden layers.
    """
    import ctrlode_casadi as co

    hidden = [co.Dense(n_in, n_out, activation) for n_in, n_out in pairwise(SIZES[:-1])]
    net = co.Chain(*hidden, co.Dense(SIZES[-2], SIZES[-1]))
    model = co.ControlledODE(net, nx=2, nu=1)
    return co.Simulator(model, solver=solver, dtype=dtype, threads=threads)


def make_objective(problem: OriginProblem, simulator: co.Simulator) -> co.Objective:
    """Return the loss of the origin problem as a function of the parameters."""
    import ctrlode_casadi as co

    dtype = simulator.dtype
    controls = co.PiecewiseLinear(problem.knots, problem.values.astype(dtype), dtype=dtype)
    return co.Objective(simulator, np.zeros(2, dtype), controls, problem.knots, data=None, loss=sum_of_squares)
