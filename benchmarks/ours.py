"""Our side of a workload."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import ctrlode_casadi as co
from ctrlode_casadi.cli.origin_problem import sum_of_squares
from workloads import Workload, make_arrays

PACKAGES = ("ctrlode_casadi", "casadi", "numba", "llvmlite")


class Side:
    def __init__(self, workload: Workload) -> None:
        arrays = make_arrays(workload)
        sizes = workload.sizes
        hidden = [co.Dense(n_in, n_out, workload.activation) for n_in, n_out in pairwise(sizes[:-1])]
        net = co.Chain(*hidden, co.Dense(sizes[-2], sizes[-1]))
        model = co.ControlledODE(net, nx=workload.nx, nu=workload.nu)
        if workload.method == "rk4":
            solver = co.RK4(steps_per_interval=1)
        else:
            solver = co.Tsit5(rtol=workload.rtol, atol=workload.atol)
        simulator = co.Simulator(model, solver=solver, dtype=workload.dtype, threads=workload.threads)
        values, x0 = (np.asarray(a, workload.dtype) for a in (arrays.u, arrays.x0))
        controls = co.PiecewiseLinear(arrays.ts, values, dtype=workload.dtype)
        self.objective = co.Objective(simulator, x0, controls, arrays.ts, data=None, loss=sum_of_squares)
        self.p = arrays.p

    def run(self) -> Any:
        return self.objective(self.p)

    def result(self, returned: Any) -> tuple[float, np.ndarray]:
        value, gradient = returned
        return float(value), np.asarray(gradient, float)
