"""torchdiffeq: `rk4` on the knots (its 3/8 rule, so its numbers differ a little), or dopri5 with one step
size for all trajectories (its only batching).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchdiffeq import odeint

from workloads import Workload, make_arrays

PACKAGES = ("torch", "torchdiffeq")
ACTIVATIONS = {"selu": torch.nn.SELU, "tanh": torch.nn.Tanh}


class Field(torch.nn.Module):
    """The network driven by joined linear inputs on an even grid."""

    def __init__(self, workload: Workload, ts: torch.Tensor, u: torch.Tensor) -> None:
        super().__init__()
        modules: list[torch.nn.Module] = []
        for n_in, n_out in zip(workload.sizes[:-1], workload.sizes[1:]):
            modules += [torch.nn.Linear(n_in, n_out), ACTIVATIONS[workload.activation]()]
        self.network = torch.nn.Sequential(*modules[:-1])
        self.width = ts[1] - ts[0]
        self.last = len(ts) - 2
        self.u = u

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        place = t / self.width
        left = min(max(int(place), 0), self.last)
        u = torch.lerp(self.u[:, left], self.u[:, left + 1], place - left)
        return self.network(torch.cat([x, u], dim=1))


class Side:
    def __init__(self, workload: Workload) -> None:
        torch.set_num_threads(workload.threads)
        dtype = getattr(torch, workload.dtype)
        torch.set_default_dtype(dtype)
        arrays = make_arrays(workload)
        self.ts, self.x0, u = (torch.as_tensor(array, dtype=dtype) for array in (arrays.ts, arrays.x0, arrays.u))
        self.batch = workload.batch
        self.field = Field(workload, self.ts, u)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.as_tensor(arrays.p, dtype=dtype), self.field.parameters())
        if workload.method == "rk4":
            self.options: dict[str, Any] = {"method": "rk4"}
        else:
            self.options = {"method": "dopri5", "rtol": workload.rtol, "atol": workload.atol}

    def run(self) -> Any:
        self.field.zero_grad()
        loss = (odeint(self.field, self.x0, self.ts, **self.options) ** 2).sum() / self.batch
        loss.backward()
        return loss

    def result(self, returned: Any) -> tuple[float, np.ndarray]:
        gradient = torch.cat([part.grad.ravel() for part in self.field.parameters()])
        return returned.item(), gradient.double().numpy()
