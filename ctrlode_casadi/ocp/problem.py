"""Optimal control problems: what users write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import DataError, ModelError
from ..fitting.initial import Free
from ..model.ode import ControlledODE
from . import checks
from .definition import Definition, EndConstraint, IntegralConstraint, PointConstraint, Soft
from .drive import Drive, Request, plan_of, watcher
from .guess import make_guess
from .infeasible import check_ends
from .refinement import Refinement
from .solution import OptimalControlSolution
from .symbolic import expressions
from .transcription import transcribe


class OptimalControlProblem:
    """Minimise a cost over controls, free parameters and the final time, subject to a model and constraints.

    Parameters
    ----------
    model
        `ControlledODE`. DAEs of index 1, with algebraic variables or a singular mass matrix, are solved by
        collocation.
    t0
        Initial time.
    tf
        Final time, or ``Free(guess, lb, ub)``.
    p
        Parameters of the model (np,), flat or as a mapping for a layout. Those that are free may be left out.

    Raises
    ------
    ModelError, DataError
        When a part is of the wrong kind, shape or value.

    Notes
    -----
    All functions get CasADi symbols; p is unflattened where the model has named parameters. To maximise, change the
    sign. For a DAE, functions of (t, x, u, p) may take z as their fifth argument, as the model's own. A problem may be
    used by several threads; they wait for each other.

    Examples
    --------
    A cart of unit mass is moved by one metre in one second, at rest at both ends, with the least force squared; the
    optimal cost is 12.

    >>> import ctrlode_casadi as co
    >>> cart = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1)
    >>> ocp = co.OptimalControlProblem(cart, tf=1.0)
    >>> ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2)
    >>> ocp.initial([0.0, 0.0])
    >>> ocp.terminal([1.0, 0.0])
    >>> sol = ocp.solve(method="collocation", intervals=10)
    >>> round(sol.objective, 6)
    12.0
    """

    def __init__(self, model: ControlledODE, t0: float = 0.0, tf: float | Free = 1.0, p: Any = None) -> None:
        if not isinstance(model, ControlledODE):
            raise ModelError(f"model: expected a ControlledODE, got {type(model).__name__}")
        self._model = model
        self._t0 = checks.number("t0", t0)
        self._free_tf = isinstance(tf, Free)
        if isinstance(tf, Free):
            self._tf, self._tf_lb, self._tf_ub = checks.free_time(tf, self._t0)
        else:
            self._tf = self._tf_lb = self._tf_ub = checks.number("tf", tf)
            if self._tf <= self._t0:
                raise DataError(f"tf: must be larger than t0={self._t0:g}, got {self._tf:g}")
        self._p = None if p is None else np.array(model.layout.check(p), dtype=np.float64)
        if self._p is not None and not np.isfinite(self._p).all():
            raise DataError("p: all parameters must be finite")
        self._p_lb, self._p_ub = np.full(model.np, -np.inf), np.full(model.np, np.inf)
        self._is_free = np.zeros(model.np, dtype=bool)
        self._x_lb, self._x_ub = np.full(model.nx, -np.inf), np.full(model.nx, np.inf)
        self._u_lb, self._u_ub = np.full(model.nu, -np.inf), np.full(model.nu, np.inf)
        self._z_lb, self._z_ub = np.full(model.nz, -np.inf), np.full(model.nz, np.inf)
        self._inside: int | None = None
        self._x_start, self._x_end = np.full(model.nx, np.nan), np.full(model.nx, np.nan)
        self._lagrange: ca.Function | None = None
        self._mayer: ca.Function | None = None
        self._path: list[PointConstraint] = []
        self._boundary: list[EndConstraint] = []
        self._integrals: list[IntegralConstraint] = []
        self._lock = threading.RLock()
        self._drive = Drive()

    @property
    def model(self) -> ControlledODE:
        """The model."""
        return self._model

    # --- what is wanted --------------------------------------------------------------------------------------------

    def minimize(self, lagrange: Callable[..., Any] | None = None, mayer: Callable[..., Any] | None = None) -> None:
        """Set the cost ``integral of lagrange(t, x, u, p) dt + mayer(x0, xf, tf, p)``; it replaces an earlier one."""
        if lagrange is None and mayer is None:
            raise DataError("minimize: give lagrange=, mayer=, or both")
        with self._changing():
            self._lagrange = None if lagrange is None else checks.along("lagrange", lagrange, self._model, 1)
            self._mayer = None if mayer is None else checks.at_ends("mayer", mayer, self._model, 1)

    def bounds(self, x: Any = None, u: Any = None, inside: int | None = None, z: Any = None) -> None:
        """Bound states, controls and algebraic variables along the whole horizon.

        Parameters
        ----------
        x, u, z
            Pairs (lb, ub) of numbers or arrays; None, in the pair or as an entry, where there is no bound.
        inside
            For shooting: number of points inside each interval where the states' bounds hold too.
        """
        m = self._model
        with self._changing():
            if x is not None:
                self._x_lb, self._x_ub = checks.bounds("x", *checks.pair("x", x), m.nx, m.state_names)
            if u is not None:
                self._u_lb, self._u_ub = checks.bounds("u", *checks.pair("u", u), m.nu, m.control_names)
            if z is not None:
                self._z_lb, self._z_ub = checks.algebraic_bounds(z, m)
            self._inside = checks.count_or_none("inside", inside)

    def initial(self, x0: Any) -> None:
        """Fix the initial state (nx,); entries that are None or NaN are free.

        With a singular mass matrix, entries of states without derivatives are guesses: they follow from the equations.
        """
        with self._changing():
            self._x_start = checks.fixed_states("x0", x0, self._model.nx)

    def terminal(self, xf: Any, soft: float | Soft | None = None) -> None:
        """Fix the terminal state (nx,); entries that are None or NaN are free.

        With `soft` it may be missed, at a price: a weight of the sum of absolute deviations, or a `Soft`.
        """
        target = checks.fixed_states("xf", xf, self._model.nx)
        price = checks.soft(soft)
        with self._changing():
            self._boundary = [c for c in self._boundary if c.name != "terminal state"]
            self._x_end = target if price is None else np.full(self._model.nx, np.nan)
            (which,) = np.nonzero(np.isfinite(target))
            if price is not None and which.size:
                chosen = which.tolist()
                f = checks.at_ends("terminal state", lambda x0, xf, tf, p: xf[chosen], self._model)
                self._boundary.append(EndConstraint(f, target[which], target[which], price, "terminal state"))

    def path(
        self,
        constraint: Callable[..., Any],
        lb: Any = None,
        ub: Any = None,
        inside: int | None = None,
        soft: float | Soft | None = None,
        name: str | None = None,
    ) -> None:
        """Impose ``lb <= constraint(t, x, u, p) <= ub`` along the horizon; for a DAE also (t, x, u, p, z).

        Parameters
        ----------
        constraint
            Function that returns m expressions.
        lb, ub
            Numbers or (m,); None where there is no bound.
        inside
            For shooting: number of points inside each interval, besides its ends. Collocation imposes the constraint
            at all collocation points.
        soft
            Price of a violation: a weight of its integral, or a `Soft`; the constraint is hard by default.
        name
            For messages.
        """
        name = name or f"path constraint {len(self._path)}"
        f = checks.along(name, constraint, self._model)
        made = checks.point_constraint(name, f, self._model, (lb, ub), inside, soft)
        with self._changing():
            self._path.append(made)

    def boundary(
        self,
        constraint: Callable[..., Any],
        lb: Any = 0.0,
        ub: Any = 0.0,
        soft: float | Soft | None = None,
        name: str | None = None,
    ) -> None:
        """Impose ``lb <= constraint(x0, xf, tf, p) <= ub``, an equation by default."""
        name = name or f"boundary constraint {len(self._boundary)}"
        f = checks.at_ends(name, constraint, self._model)
        checks.refuse_constant(name, f, checks.choices(self._model, 0, 1, 2))
        low, high = checks.two_bounds(name, lb, ub, f.numel_out(0))
        with self._changing():
            self._boundary.append(EndConstraint(f, low, high, checks.soft(soft), name))

    def periodic(self, states: Any = None) -> None:
        """Make states end where they began: all of them, or those of the given indices or names."""
        which = (
            list(range(self._model.nx))
            if states is None
            else [checks.state_index(s, self._model.state_names) for s in np.atleast_1d(states)]
        )
        names = ", ".join(self._model.state_names[i] for i in which)
        self.boundary(lambda x0, xf, tf, p: xf[which] - x0[which], name=f"periodicity of {names}")

    def integral(self, integrand: Callable[..., Any], lb: Any = None, ub: Any = None, name: str | None = None) -> None:
        """Impose ``lb <= integral of integrand(t, x, u, p) dt <= ub`` over the horizon."""
        name = name or f"integral constraint {len(self._integrals)}"
        f = checks.along(name, integrand, self._model)
        low, high = checks.two_bounds(name, lb, ub, f.numel_out(0))
        with self._changing():
            self._integrals.append(IntegralConstraint(f, low, high, name))

    def free_parameters(self, lb: Any = None, ub: Any = None, block: str | None = None) -> None:
        """Make the model's parameters variables of the problem.

        Parameters
        ----------
        lb, ub
            Numbers or one per parameter; None where there is no bound.
        block
            (Dotted) name of a block of the layout; all parameters by default. Their values in p are the guess.
        """
        if self._model.np == 0:
            raise DataError("free_parameters: the model has no parameters")
        where = slice(0, self._model.np) if block is None else self._model.layout.slice(block)
        names = self._model.layout.names()[where]
        low, high = checks.bounds("p", lb, ub, len(names), names)
        with self._changing():
            self._p_lb[where], self._p_ub[where], self._is_free[where] = low, high, True

    # --- solving ---------------------------------------------------------------------------------------------------

    def solve(
        self,
        method: str = "multiple-shooting",
        intervals: int = 50,
        control: str | None = None,
        solver: str = "ipopt",
        guess: Mapping[str, Any] | OptimalControlSolution | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        degree: Any = 3,
        scheme: str = "radau",
        integrator: Any = None,
        mesh: Any = None,
        refine: float | Refinement | None = None,
        scaling: bool | Mapping[str, Any] = True,
        backend: str = "auto",
        callback: Callable[..., Any] | None = None,
        progress: bool = False,
    ) -> OptimalControlSolution:
        """Solve the problem.

        Parameters
        ----------
        method
            "single-shooting", "multiple-shooting" or "collocation".
        intervals
            Number of equal intervals.
        control
            "constant" or "linear" on each interval; "collocation" is one value per collocation point, and the default
            of that method. Shooting's default is "constant".
        solver
            "ipopt", another NLP plugin of CasADi, "scipy:trust-constr" or "scipy:SLSQP".
        guess
            Dict with any of x (M, nx) or (nx,), u (M, nu) or (nu,), z (M, nz) or (nz,), p, tf; rows stand on an even
            grid over the horizon, or at times t (M,); p as in the constructor. Or an earlier solution: on the same mesh
            its multipliers are used too.
        options
            Options of the solver: ``{"max_iter": 500}`` or ``{"ipopt.max_iter": 500}``.
        degree
            Collocation points per interval; one number, or one for each interval.
        scheme
            "radau" or "legendre" points.
        integrator
            For shooting: explicit solver with fixed steps, such as ``RK4(steps_per_interval=2)``. By default DOP853,
            with as many steps as make the states' error smaller than 1e-8 of their size at the solution.
        mesh
            Fractions of the horizon (N + 1,) from 0 to 1, instead of equal intervals.
        refine
            For collocation: tolerance of the states' error relative to their size, or a `Refinement`; intervals are
            split, or get a higher degree, until it is met.
        scaling
            True (from bounds and guess), False, or a dict of typical sizes of x, u, z, p, tf and objective.
        backend
            "auto", "compiled" or "casadi": who evaluates the functions of the NLP.
        callback
            Called with an `Iteration` in every iteration; the solve stops when it returns True.
        progress
            Print a line per iteration.

        Returns
        -------
        OptimalControlSolution
            Also when the solver fails: it holds the last iterate, and `status` says why.

        Raises
        ------
        DataError, SolverError
            For settings that do not fit, an initial state that violates a bound, or a model that is not finite at the
            guess.
        """
        with self._lock:
            definition = self.definition()
            plan = plan_of(definition, method, intervals, control, degree, scheme, integrator, mesh, scaling)
            request = Request(
                self._model, definition, solver, dict(options or {}), backend, watcher(callback, progress)
            )
            start = checks.flat_guess(guess, self._model.layout)
            return self._drive.solve(request, plan, start, integrator is None, refine)

    def nlp(
        self,
        method: str = "multiple-shooting",
        intervals: int = 50,
        control: str | None = None,
        guess: Mapping[str, Any] | OptimalControlSolution | None = None,
        *,
        degree: Any = 3,
        scheme: str = "radau",
        integrator: Any = None,
        mesh: Any = None,
    ) -> tuple[dict[str, ca.MX], dict[str, Float64Array]]:
        """The problem as expressions for any solver of CasADi, not scaled.

        Returns
        -------
        nlp
            ``{"x", "p", "f", "g"}``; p is (t0, tf, the model's parameters).
        arguments
            ``{"x0", "p", "lbx", "ubx", "lbg", "ubg"}``, so that ``casadi.nlpsol("s", "ipopt", nlp)(**arguments)``
            solves it.
        """
        with self._lock:
            definition = self.definition()
            plan = plan_of(definition, method, intervals, control, degree, scheme, integrator, mesh, False)
            start = make_guess(definition, checks.flat_guess(guess, self._model.layout))
            program = transcribe(definition, plan, start).nlp
        arguments = {
            "x0": program.w0, "p": program.q, "lbx": program.lbw, "ubx": program.ubw,
            "lbg": program.lbg, "ubg": program.ubg,
        }  # fmt: skip
        return expressions(program), arguments

    def definition(self) -> Definition:
        """The problem as data, checked as a whole.

        Raises
        ------
        DataError
            For missing parameters or cost, or a fixed state outside its bounds.
        """
        m, (free,) = self._model, np.nonzero(self._is_free)
        p = np.full(m.np, np.nan) if self._p is None else self._p.copy()
        missing = np.setdiff1d(np.flatnonzero(np.isnan(p)), free)
        if missing.size:
            raise DataError(
                f"p: the model has np={m.np} parameters; pass p= to OptimalControlProblem, or make them free with "
                "free_parameters()"
            )
        if self._lagrange is None and self._mayer is None:
            raise DataError("minimize: the problem has no cost; call ocp.minimize(lagrange=..., mayer=...)")
        dynamics, algebraic = checks.equations(m)
        definition = Definition(
            dynamics, m.state_names, m.control_names, tuple(m.layout.names()), self._t0, self._tf, self._tf_lb,
            self._tf_ub, self._free_tf, p, free, self._p_lb[free], self._p_ub[free], self._x_lb, self._x_ub,
            self._u_lb, self._u_ub, self._inside, self._x_start, self._x_end, self._lagrange, self._mayer,
            tuple(self._path), tuple(self._boundary), tuple(self._integrals), algebraic=algebraic,
            algebraic_names=tuple(f"z{i}" for i in range(m.nz)), z_lb=self._z_lb, z_ub=self._z_ub, z0=m.z0,
            mass=None if m.has_rhs else m.mass,
        )  # fmt: skip
        checks.check_fixed(definition, "initial", self._x_start)
        checks.check_fixed(definition, "terminal", self._x_end)
        check_ends(definition)
        return definition

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _changing(self) -> Any:
        """The lock; what was prepared for the old problem is forgotten."""
        self._drive = Drive()
        return self._lock
