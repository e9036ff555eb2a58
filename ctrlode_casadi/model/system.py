"""A DAE as one system M y' = F(t, y, u, p) with y = (x, z): the form that stiff solvers integrate."""

from __future__ import annotations

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .ode import ControlledODE


class System(ControlledODE):
    """A model whose states are those of a DAE and its algebraic variables; `rhs` gives M y', `system_mass` is M.

    Its output is that of the DAE. Made by `system_of`.
    """

    def __init__(self, model: ControlledODE) -> None:
        nx, nz = model.nx, model.nz
        t, y = ca.MX.sym("t"), ca.MX.sym("x", nx + nz)
        u, p = ca.MX.sym("u", model.nu), ca.MX.sym("p", model.np)
        arguments = [t, y[:nx], u, p, y[nx:]] if nz else [t, y, u, p]
        names = ["t", "x", "u", "p"]
        solved = model.has_rhs
        value = (model.rhs if solved else model.dynamics)(*arguments)
        if model.algebraic is not None:
            value = ca.vertcat(value, model.algebraic(*arguments))
        rhs = ca.Function("rhs", [t, y, u, p], [value], names, ["xdot"])
        mass = np.zeros((nx + nz, nx + nz))
        mass[:nx, :nx] = np.eye(nx) if solved or model.mass is None else model.mass
        output = ca.Function("output", [t, y, u, p], [model.output_function(*arguments)], names, ["y"])
        fields = {name: value for name, value in model.__dict__.items() if name != "_system"}
        fields |= {
            "rhs": rhs, "dynamics": rhs, "output_function": output, "algebraic": None, "mass": None,
            "z0": np.zeros(0), "nx": nx + nz, "nz": 0, "network": None, "has_output": model.has_output or nz > 0,
            "state_names": (*model.state_names, *(f"z{i}" for i in range(nz))), "_mass": mass,
            "_visible": nx,
        }  # fmt: skip
        for name, part in fields.items():
            object.__setattr__(self, name, part)

    @property
    def is_dae(self) -> bool:
        """True."""
        return True

    @property
    def n_visible(self) -> int:
        """Number of states of the DAE without its algebraic variables."""
        return int(self.__dict__["_visible"])

    @property
    def system_mass(self) -> Float64Array:
        """M, (nx, nx)."""
        found: Float64Array = self.__dict__["_mass"]
        return found


def system_of(model: ControlledODE) -> ControlledODE:
    """The model as M y' = F(t, y, u, p) with y = (x, z); the model itself where it is no DAE."""
    if not model.is_dae or isinstance(model, System):
        return model
    found: System | None = model.__dict__.get("_system")
    if found is None:
        found = System(model)
        object.__setattr__(model, "_system", found)
    return found
