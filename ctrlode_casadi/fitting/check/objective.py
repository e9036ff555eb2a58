"""`check_gradient` for objectives, simulators and plain functions."""

from __future__ import annotations

from typing import Any

import casadi as ca

from ...base.errors import DataError
from ...integrate.simulator import Simulator
from ..objective import Objective
from .report import GradientReport, check_target
from .targets import FunctionTarget, SimulatorTarget


def check_gradient(
    target: Objective | Simulator | ca.Function,
    *where: Any,
    directions: int = 3,
    coordinates: int = 3,
    seed: int = 0,
) -> GradientReport:
    """Compare adjoint, forward sweep and extrapolated finite differences, and say why they differ.

    Parameters
    ----------
    target
        An `Objective`, a `Simulator`, or any `casadi.Function`, with integrators inside too.
    where
        The point: p (np_total,) of an objective; x0, controls, p, ts of a simulator; all inputs of a function. Of a
        simulation or a function with several outputs, a random combination of the outputs is checked, with respect to
        p, x0 and the control values, or to all inputs.
    directions
        Number of random directions of unit length.
    coordinates
        How many single entries to add, those where the largest disagreement was found in a quick scan.
    seed
        For the random directions and combinations.

    Returns
    -------
    GradientReport
        Print it. ``agrees`` says whether all is well; each direction has its reason: a kink (with the operation that
        changes its branch), events that change within the steps of the differences, a tolerance that is too loose, a
        step sequence that changes, a quadrature without error control, a bad scale of a parameter.

    Raises
    ------
    DataError
        If `target` is something else, or the inputs do not fit.

    Examples
    --------
    >>> x = ca.MX.sym("x", 2)
    >>> check_gradient(ca.Function("f", [x], [ca.sin(x[0]) * x[1]]), [0.3, 2.0]).agrees
    True
    """
    if isinstance(target, Objective):
        if len(where) != 1:
            raise DataError(f"check_gradient(objective, p): expected one vector p, got {len(where)} arguments")
        return target.check_gradient(where[0], directions, coordinates, seed)
    if isinstance(target, Simulator):
        if len(where) != 4:
            raise DataError(f"check_gradient(simulator, x0, controls, p, ts): got {len(where)} arguments after it")
        simulation = SimulatorTarget(target, *where, seed)
        return check_target(simulation, simulation.start, directions, coordinates, seed)
    if isinstance(target, ca.Function):
        function = FunctionTarget(target, where, seed)
        return check_target(function, function.start, directions, coordinates, seed)
    raise DataError(f"target: expected an Objective, a Simulator or a casadi.Function, got {type(target).__name__}")
