"""Controlled ordinary differential equations, also with a mass matrix, and DAEs of index 1, as CasADi functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import casadi as ca

from ..base.arrays import Float64Array, to_dm
from ..base.errors import ModelError
from .dae import checked_mass, checked_z0, is_singular, semi_explicit
from .layout import Leaf, ParameterLayout, Parametrized, Seed
from .network import Network, size
from .trace import expression

RightHandSide: TypeAlias = Callable[..., Any] | ca.Function | Network
ParametersLike: TypeAlias = "int | ParameterLayout | Parametrized | Mapping[str, Any] | None"


@runtime_checkable
class StepMaker(Protocol):
    """A solver that can write one step of a model as a `casadi.Function`."""

    def step_function(self, model: ControlledODE, dt: float) -> ca.Function:
        """Function (t, x, u, p) -> xf, the state after dt under a constant control."""


@dataclass(frozen=True, init=False, eq=False, repr=False)
class ControlledODE:
    """A model ``dx/dt = rhs(t, x, u, p)`` with output ``y = output(t, x, u, p)``.

    Parameters
    ----------
    rhs
        One of

        - a Python callable ``rhs(t, x, u, p)``: it gets CasADi MX symbols, t a scalar, x (nx,), u (nu,), and
          returns nx expressions as a vector, list or tuple. p is unflattened when `params` is a layout, else
          a vector (np,);
        - a `casadi.Function` with these four inputs and one output;
        - a network with n_in = nx + nu and n_out = nx, applied to ``[x; u]``.
    nx, nu
        Numbers of states (at least 1) and controls (0 by default).
    params
        `ParameterLayout`, dict of blocks, network, or number of parameters; none by default. A network as
        `rhs` and a `casadi.Function` know theirs.
    output
        Output map, a callable or `casadi.Function` like `rhs`, with any number of entries; the state by
        default.
    state_names, control_names, output_names
        Unique names, for plots and tables; ``x0, x1, ...``, ``u0, ...`` and ``y0, ...`` by default (the
        state's names when the output is the state).
    nz, algebraic
        For a DAE: number of algebraic variables, and ``algebraic(t, x, u, p, z)`` returning nz expressions
        that are zero on a solution. `rhs` and `output` then take z as their fifth argument, and so do the
        functions of the model. The Jacobian with respect to z must be regular (index 1).
    mass
        Constant mass matrix M (nx, nx): `rhs` then returns M dx/dt. It may be singular, which makes the model a DAE.
    z0
        Guess of the algebraic variables at the initial time, (nz,); zeros by default.

    Attributes
    ----------
    rhs : casadi.Function
        (t, x, u, p) -> xdot, an MX function; (t, x, u, p, z) -> xdot for a DAE. A regular mass matrix is already solved
        for; with a singular one there is no such function, and asking for it is a `ModelError`.
    dynamics : casadi.Function
        The same inputs -> M xdot, as given; equal to `rhs` without a mass matrix.
    output_function : casadi.Function
        The same inputs -> y.
    algebraic : casadi.Function or None
        (t, x, u, p, z) -> alg for a DAE.
    mass : ndarray or None
        The mass matrix as given.
    z0 : ndarray
        (nz,).
    is_dae : bool
        Whether there are algebraic variables or the mass matrix is singular.
    nx, nu, np, ny, nz : int
        Numbers of states, controls, parameters, outputs and algebraic variables.
    layout : ParameterLayout
        Names of the parameters; one block "p" when only their number is known.
    named_parameters : bool
        True when callables get p unflattened: `params` is a layout or a dict of blocks.
    network : Network or None
        The network when the right-hand side is one.
    has_output : bool
        False when the output is the state.
    state_names, control_names, output_names : tuple of str

    Raises
    ------
    ModelError
        When sizes, names or kinds do not fit, or an expression depends on a symbol that is not an argument.

    Examples
    --------
    >>> layout = ParameterLayout(mass=1, stiffness=1)
    >>> def oscillator(t, x, u, p):
    ...     return x[1], (u[0] - p.stiffness * x[0]) / p.mass
    >>> model = ControlledODE(oscillator, nx=2, nu=1, params=layout)
    >>> model.rhs(0, [1, 0], 3, [2, 1])
    DM([0, 1])
    """

    rhs: ca.Function
    dynamics: ca.Function
    output_function: ca.Function
    algebraic: ca.Function | None
    mass: Float64Array | None
    z0: Float64Array
    nx: int
    nu: int
    nz: int
    ny: int
    layout: ParameterLayout
    named_parameters: bool
    network: Network | None
    has_output: bool
    state_names: tuple[str, ...]
    control_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def __init__(
        self,
        rhs: RightHandSide,
        nx: int,
        nu: int = 0,
        params: ParametersLike = None,
        output: Callable[..., Any] | ca.Function | None = None,
        state_names: Sequence[str] | None = None,
        control_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        nz: int = 0,
        algebraic: Callable[..., Any] | ca.Function | None = None,
        mass: Any = None,
        z0: Any = None,
    ) -> None:
        nx, nu, nz = size("nx", nx), size("nu", nu, 0), size("nz", nz, 0)
        states = _names("state_names", state_names, nx, "x")
        controls = _names("control_names", control_names, nu, "u")
        if (nz > 0) != (algebraic is not None):
            raise ModelError(
                f"algebraic: a DAE needs both nz >= 1 and algebraic=, got nz={nz} and algebraic={algebraic!r}"
            )
        if isinstance(output, Network):
            raise ModelError(
                "output: a network's parameters need a place in the model; write a callable, "
                "output=lambda t, x, u, p: net(x, p.decoder), with params=ParameterLayout(decoder=net, ...)"
            )
        network = _checked_network(rhs, nx, nu, nz, params) if isinstance(rhs, Network) else None
        layout, named = _layout(rhs, params)
        symbols = _symbols(nx, nu, layout.n, nz)
        p = layout.unflatten(symbols["p"]) if named else symbols["p"]
        xdot = (
            network(ca.vertcat(symbols["x"], symbols["u"]) if nu else symbols["x"], symbols["p"])
            if network is not None
            else expression("rhs", rhs, symbols, p, nx, "nx")
        )
        y = symbols["x"] if output is None else expression("output", output, symbols, p, None)
        if output is None and output_names is None:
            output_names = states
        outputs = _names("output_names", output_names, y.numel(), "y")
        matrix = checked_mass(mass, nx)
        fields = {
            "dynamics": _function("dynamics", symbols, xdot, "mass_times_xdot"),
            "output_function": _function("output", symbols, y, "y"),
            "algebraic": None if algebraic is None else _algebraic(algebraic, symbols, p, nz),
            "mass": matrix,
            "z0": checked_z0(z0, nz),
            "nx": nx,
            "nu": nu,
            "nz": nz,
            "ny": y.numel(),
            "layout": layout,
            "named_parameters": named,
            "network": network,
            "has_output": output is not None,
            "state_names": states,
            "control_names": controls,
            "output_names": outputs,
        }
        if matrix is None:
            fields["rhs"] = _function("rhs", symbols, xdot, "xdot")
        elif not is_singular(matrix):
            solved = ca.mtimes(ca.sparsify(ca.inv(to_dm(matrix)), 1e-300), xdot)
            fields["rhs"] = _function("rhs", symbols, solved, "xdot")
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "rhs" and "mass" in self.__dict__:
            raise ModelError(
                "mass: the mass matrix is singular, so there is no right-hand side xdot = rhs(t, x, u, p); integrate "
                "the model with Rodas5P() or Rodas4(), or use model.dynamics, which gives M xdot"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def is_dae(self) -> bool:
        """Whether there are algebraic variables or the mass matrix is singular."""
        return self.nz > 0 or not self.has_rhs

    @property
    def has_rhs(self) -> bool:
        """Whether xdot is known: the mass matrix, if any, is regular."""
        return "rhs" in self.__dict__

    @property
    def n_visible(self) -> int:
        """Number of states that the user's functions get as x."""
        return self.nx

    @property
    def system_mass(self) -> Float64Array | None:
        """M where `rhs` gives M y' (see `system.System`); None where it gives y'."""
        return None

    @property
    def np(self) -> int:
        """Number of parameters."""
        return self.layout.n

    def init(self, seed: Seed = 0, **overrides: Any) -> Float64Array:
        """Initial parameters (np,); see `ParameterLayout.init`."""
        return self.layout.init(seed, **overrides)

    def to_dae(self) -> dict[str, ca.MX]:
        """Expressions for `casadi.integrator`: t, x, u, p, ode, and z, alg for a DAE.

        CasADi holds u constant over each interval of its output grid. With a singular mass matrix, states whose
        derivatives do not occur become z; that needs as many zero rows as zero columns in the matrix.

        Raises
        ------
        ModelError
            If a singular mass matrix cannot be brought into this form.
        """
        symbols = _symbols(self.nx, self.nu, self.np, self.nz)
        if self.mass is not None and not self.has_rhs:
            return semi_explicit(symbols, self.dynamics, self.algebraic, self.mass, self.nz)
        dae = {**symbols, "ode": self.rhs(*symbols.values())}
        if self.algebraic is not None:
            dae["alg"] = self.algebraic(*symbols.values())
        return dae

    def step(self, solver: StepMaker, dt: float) -> ca.Function:
        """One step of a solver as a `casadi.Function` (t, x, u, p) -> xf, under a constant control.

        Parameters
        ----------
        solver
            A solver of the package, such as ``RK4()``.
        dt
            Length of the step, in the unit of t.
        """
        if not isinstance(solver, StepMaker):
            raise ModelError(f"solver: expected a solver of the package, such as RK4(), got {solver!r}")
        return solver.step_function(self, dt)

    def __repr__(self) -> str:
        dae = f", nz={self.nz}" if self.nz else ""
        source = f"{self.network!r}, " if self.network is not None else ""
        return f"ControlledODE({source}nx={self.nx}, nu={self.nu}, np={self.np}, ny={self.ny}{dae})"


def _symbols(nx: int, nu: int, np: int, nz: int) -> dict[str, ca.MX]:
    sizes = {"t": 1, "x": nx, "u": nu, "p": np} | ({"z": nz} if nz else {})
    return {name: ca.MX.sym(name, n) for name, n in sizes.items()}


def _function(name: str, symbols: Mapping[str, ca.MX], result: ca.MX, out: str) -> ca.Function:
    return ca.Function(name, list(symbols.values()), [result], list(symbols), [out])


def _names(argument: str, names: Sequence[str] | None, n: int, letter: str) -> tuple[str, ...]:
    if names is None:
        return tuple(f"{letter}{i}" for i in range(n))
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{argument}: expected a sequence of {n} strings, got {names!r}")
    if len(names) != n:
        raise ModelError(f"{argument}: expected {n} names, got {len(names)}: {tuple(names)}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ModelError(f"{argument}: names must be unique, {repeated[0]!r} comes twice")
    return tuple(names)


def _checked_network(net: Network, nx: int, nu: int, nz: int, params: ParametersLike) -> Network:
    if nz:
        raise ModelError("rhs: a network cannot be the right-hand side of a DAE; write a callable rhs(t, x, u, p, z)")
    if net.n_in != nx + nu or net.n_out != nx:
        raise ModelError(
            f"rhs: a network is applied to [x; u] and gives xdot, so it must have n_in = nx + nu = {nx + nu} "
            f"and n_out = nx = {nx}; got n_in={net.n_in}, n_out={net.n_out}. For other inputs, such as t, "
            f"write a callable rhs(t, x, u, p) that calls the network"
        )
    if params is not None and params is not net and params != net.layout and params != net.n_params:
        raise ModelError(
            f"params: a network as rhs brings its own parameters; leave params out, got {params!r}. For more "
            f"parameters write a callable rhs and params=ParameterLayout(ode=net, ...)"
        )
    return net


def _layout(rhs: RightHandSide, params: ParametersLike) -> tuple[ParameterLayout, bool]:
    """The layout, and whether a callable gets p unflattened."""
    if isinstance(rhs, Network):
        return rhs.layout, False
    if isinstance(params, Mapping):
        params = ParameterLayout(params)
    if isinstance(params, ParameterLayout):
        return params, True
    if isinstance(params, Parametrized):
        return params.layout, False
    if params is None:
        n = rhs.numel_in(3) if isinstance(rhs, ca.Function) and rhs.n_in() > 3 else 0
    elif isinstance(params, int) and not isinstance(params, bool) and params >= 0:
        n = params
    else:
        raise ModelError(
            f"params: expected a ParameterLayout, a dict of blocks, a network, a number of parameters or "
            f"None, got {params!r}"
        )
    return ParameterLayout({"p": Leaf((n,))} if n else {}), False


def _algebraic(source: Callable[..., Any] | ca.Function, symbols: Mapping[str, ca.MX], p: Any, nz: int) -> ca.Function:
    residual = expression("algebraic", source, symbols, p, nz, "nz")
    rank = ca.sprank(ca.jacobian_sparsity(residual, symbols["z"]))
    if rank < nz:
        raise ModelError(
            f"algebraic: the equations cannot be solved for z, their Jacobian with respect to z has "
            f"structural "
            f"rank {rank} < nz={nz}; only DAEs of index 1 are supported, differentiate the constraint"
        )
    return _function("algebraic", symbols, residual, "alg")
