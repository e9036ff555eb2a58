"""What is measured: value and gradient of a sum of squared states of a controlled neural ODE.

A workload names the work, never how it is done. Every side (ours and the peers) builds the same function
from it: layers sizes[0]-...-sizes[-1], joined linear inputs on the save times, loss = sum of squares of all
saved states, the initial one included, divided by the number of trajectories.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from ctrlode_casadi.cli.origin_problem import make_problem


@dataclass(frozen=True)
class Workload:
    problem: str = "origin"  # "origin": data of the origin problem; "random": tanh networks of any size
    nx: int = 2
    nu: int = 1
    hidden: tuple[int, ...] = (10, 10, 10)
    activation: str = "selu"
    batch: int = 100
    steps: int = 99
    method: str = "rk4"  # "rk4": one step between save times; "tsit5": adaptive
    rtol: float = 1e-3
    atol: float = 1e-6
    dtype: str = "float64"
    threads: int = 2

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.nx + self.nu, *self.hidden, self.nx)

    @property
    def multiply_adds(self) -> int:
        """Of one evaluation of the right-hand side for one trajectory."""
        return sum(n_in * n_out for n_in, n_out in pairwise(self.sizes))

    @property
    def necessary_operations(self) -> int:
        """Floating-point operations of value and gradient that no RK4 implementation can avoid.

        Two per multiply-add, three products (forward, and two backward: states and weights), four stages.
        """
        return 3 * 2 * self.multiply_adds * 4 * self.steps * self.batch

    def but(self, **changes: object) -> Workload:
        return replace(self, **changes)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, object]) -> Workload:
        return cls(**{**fields, "hidden": tuple(fields["hidden"])})


ORIGIN = Workload()
ORIGIN_TSIT5 = ORIGIN.but(method="tsit5")


def tanh_workload(width: int, batch: int, steps: int, nx: int = 10, nu: int = 2, layers: int = 2) -> Workload:
    return Workload("random", nx, nu, (width,) * layers, "tanh", batch, steps)


@dataclass(frozen=True)
class Arrays:
    ts: np.ndarray  # (T,)
    x0: np.ndarray  # (B, nx)
    u: np.ndarray  # (B, T, nu)
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    @property
    def p(self) -> np.ndarray:
        return flatten(self.layers)


def flatten(layers: object) -> np.ndarray:
    """Per layer the weight in row-major order, then the bias."""
    return np.concatenate([np.asarray(part, float).ravel() for layer in layers for part in layer])


def make_arrays(workload: Workload) -> Arrays:
    """The numbers of a workload, in float64; the same on every side."""
    if workload.problem == "origin":
        origin = make_problem(workload.batch, workload.steps + 1)
        return Arrays(origin.knots, np.zeros((workload.batch, 2)), origin.values, origin.layers)
    rng = np.random.default_rng(0)
    layers = tuple(
        (0.3 / np.sqrt(n_in) * rng.standard_normal((n_out, n_in)), np.zeros(n_out))
        for n_in, n_out in pairwise(workload.sizes)
    )
    u = rng.standard_normal((workload.batch, workload.steps + 1, workload.nu))
    x0 = rng.standard_normal((workload.batch, workload.nx))
    return Arrays(0.1 * np.arange(workload.steps + 1), x0, u, layers)
