"""CasADi's integrators as frozen settings: CVODES, IDAS, and CasADi's own erk and rosenbrock."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...base.arrays import Float64Array
from ...base.errors import SolverError, unknown_name
from ..sensitivity import Adjoint, ContinuousAdjoint, Forward, Sensitivity
from ..solvers import Solver, _count, _positive

if TYPE_CHECKING:
    import casadi as ca

    from ...model.ode import ControlledODE

#: Options of CasADi's integrators that are a length of time.
_TIMES = ("step0", "max_step_size", "min_step_size", "step_size")
#: Options of IDAS that CVODES has too.
_COMMON = ("reltol", "abstol", "max_num_steps", "step0", "max_step_size", "interpolation_type", "steps_per_checkpoint",
           "linear_solver", "linear_solver_options", "newton_scheme", "max_krylov", "nonlin_conv_coeff", "expand",
           "max_multistep_order")  # fmt: skip
#: What the package sets itself: it builds the integrator's grid, scales its time and asks for derivatives.
_RESERVED = ("nadj", "nfwd", "t0", "tf", "grid", "output_t0", "control_group_size", "transition", "augmented_options")


@dataclass(frozen=True, kw_only=True)
class CasadiIntegrator(Solver):
    """Base of all integrators of CasADi.

    1. `plugin` is CasADi's name; `tolerance_options` its options for the fields of the settings.
    2. `splits` says whether every save time ends a call: methods of fixed steps, whose steps are counted between
       neighbouring points of the save times and the control's knots merged. Others have outputs inside a call.
    3. `exact_adjoint` says whether CasADi's reverse mode is the derivative of the numbers computed. SUNDIALS solves
       the adjoint differential equation instead, to the tolerance.
    4. `parameters_as_states`: its adjoint integrates states that do not change in place of parameters, and ends a
       call at every save time.
    5. Settings are checked on construction and never change.

    Parameters
    ----------
    options
        More options of CasADi's integrator, by CasADi's names, as in ``casadi.doc_integrator("cvodes")``; they win
        over the fields. Lengths of time are in the unit of t.
    """

    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    plugin: ClassVar[str] = ""
    exact_adjoint: ClassVar[bool] = True
    parameters_as_states: ClassVar[bool] = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.options, Mapping) or not all(isinstance(key, str) for key in self.options):
            raise SolverError(f"{name}(options=...): expected a dict of options by name, got {self.options!r}")
        taken = [key for key in self.options if key in _RESERVED]
        if taken:
            raise SolverError(f"{name}(options=...): {taken[0]!r} is set by the package, leave it out")
        object.__setattr__(self, "options", dict(self.options))

    @property
    def splits(self) -> bool:
        """Whether every save time ends a call of the integrator."""
        return not self.adaptive

    @property
    def time_dependent(self) -> bool:
        """Whether an option is a length of time, so that intervals of other lengths need other integrators."""
        return any(key in _TIMES for key in self.casadi_options())

    def fraction_options(self, has_algebraic: bool) -> dict[str, Any]:
        """Lengths of time as fractions of a call's length."""
        return {}

    def casadi_options(self) -> dict[str, Any]:
        """CasADi's options, lengths of time in the unit of t."""
        return dict(self.options)

    def size_of(self, state: Float64Array) -> float:
        """What absolute tolerances of the method's own are multiplied with, for a call from this state."""
        return 1.0

    def integrator_options(self, length: float, has_algebraic: bool = False, size: float = 1.0) -> dict[str, Any]:
        """CasADi's options for a call of this length, whose time runs from 0 to 1; see `size_of`."""
        scaled = {k: float(v) / length if k in _TIMES else v for k, v in self.casadi_options().items()}
        if "step0" in scaled:
            scaled["step0"] = min(scaled["step0"], 1.0)
        return {**self.fraction_options(has_algebraic), **scaled}

    def derivative(self, wanted: Sensitivity) -> Sensitivity:
        """How `vjp` computes with this solver; `SolverError` for what it cannot give."""
        name = type(self).__name__
        if isinstance(wanted, Forward):
            return wanted
        if isinstance(wanted, ContinuousAdjoint):
            if self.exact_adjoint:
                raise SolverError(
                    f"sensitivity: ContinuousAdjoint belongs to SUNDIALS (CVODES, IDAS); {name} has an exact "
                    f"discrete adjoint, use sensitivity='adjoint'"
                )
            return wanted
        if isinstance(wanted, Adjoint) and wanted.checkpoints is not None:
            cure = (
                "the number of steps between two of CasADi's own checkpoints is an option, "
                f"{name}(options={{'steps_per_checkpoint': 20}})"
                if not self.exact_adjoint
                else "leave it out"
            )
            raise SolverError(
                f"sensitivity: Adjoint(checkpoints={wanted.checkpoints}) is for solvers of this package, not for "
                f"CasADi's {self.plugin}; {cure}"
            )
        return Adjoint() if self.exact_adjoint else ContinuousAdjoint()

    def step_function(self, model: ControlledODE, dt: float) -> ca.Function:
        """One call over a length dt as a `casadi.Function` (t, x, u, p) -> xf, under a constant control."""
        from .expressions import integrator_step

        return integrator_step(self, model, dt)


@dataclass(frozen=True, kw_only=True)
class _Toleranced(CasadiIntegrator):
    """An integrator with error control.

    Parameters
    ----------
    rtol, atol
        Relative and absolute tolerance of the local error. CasADi takes one number for all states: scale states of
        very different size.
    max_steps
        Limit on the steps between two neighbouring points of the save times and knots.
    dt0
        First step of every control interval; chosen by the integrator when None.
    """

    rtol: float = 1e-6
    atol: float = 1e-8
    max_steps: int = 10_000
    dt0: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        _positive(name, "rtol", self.rtol)
        if not isinstance(self.atol, numbers.Real):
            raise SolverError(f"{name}(atol=...): CasADi takes one number for all states, got {self.atol!r}")
        _positive(name, "atol", self.atol)
        _count(name, "max_steps", self.max_steps)
        if self.dt0 is not None:
            _positive(name, "dt0", self.dt0)

    @property
    def adaptive(self) -> bool:
        """Whether the step size is controlled by an error estimate."""
        return True

    def casadi_options(self) -> dict[str, Any]:
        """CasADi's options, lengths of time in the unit of t."""
        made = {"reltol": float(self.rtol), "abstol": float(self.atol), "max_num_steps": int(self.max_steps)}
        if self.dt0 is not None:
            made["step0"] = float(self.dt0)
        return {**made, **self.options}


@dataclass(frozen=True, kw_only=True)
class CVODES(_Toleranced):
    """SUNDIALS' CVODES through CasADi: variable order and step, for stiff (BDF) and other models (Adams).

    Parameters
    ----------
    rtol, atol
        Relative and absolute tolerance of the local error, one number for all states.
    max_steps
        Limit on the steps between two neighbouring points of the save times and knots.
    dt0
        First step of every control interval; chosen by CVODES when None.
    method
        "bdf" (default), orders 1 to 5, for stiff models; "adams", orders 1 to 12, for models that are not.
    options
        More options of ``casadi.integrator(..., "cvodes", ...)``.

    Notes
    -----
    Gradients are those of the adjoint differential equation, solved to the same tolerances (`ContinuousAdjoint`).
    Integrals over the adjoint are under error control (``quad_err_con``); without, as CasADi sets it by default, a
    gradient can be wrong at any tolerance.

    Source: Hindmarsh et al., SUNDIALS, ACM TOMS 31 (2005) 363-396.

    Examples
    --------
    >>> CVODES(rtol=1e-8, atol=1e-10).order
    5
    """

    method: str = "bdf"

    plugin: ClassVar[str] = "cvodes"
    exact_adjoint: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in ("bdf", "adams"):
            raise SolverError(unknown_name("CVODES(method=...)", self.method, ("bdf", "adams")))

    @property
    def order(self) -> int:
        """Largest order of the method."""
        return 5 if self.method == "bdf" else 12

    def casadi_options(self) -> dict[str, Any]:
        """CasADi's options, lengths of time in the unit of t."""
        method = {"linear_multistep_method": self.method}
        return {"quad_err_con": True, "disable_internal_warnings": True, **method, **super().casadi_options()}


@dataclass(frozen=True, kw_only=True)
class IDAS(_Toleranced):
    """SUNDIALS' IDAS through CasADi: backward differentiation formulas for stiff models and DAEs of index 1.

    Parameters
    ----------
    rtol, atol, max_steps, dt0, options
        As in `CVODES`; options of ``casadi.integrator(..., "idas", ...)``.

    Notes
    -----
    Gradients are those of the adjoint differential equation (`ContinuousAdjoint`). That of an ODE is integrated by
    CVODES with the same settings. For that of a DAE parameters are states with zero derivative, so that their adjoint
    is under error control: ``quad_err_con`` makes IDAS abort. Where IDAS cannot start the adjoint of a stiff DAE
    (`Status.SOLVER_FAILURE`), ``sensitivity="forward"`` or `Rosenbrock` can.
    """

    plugin: ClassVar[str] = "idas"
    exact_adjoint: ClassVar[bool] = False
    integrates_dae: ClassVar[bool] = True
    parameters_as_states: ClassVar[bool] = True

    @property
    def order(self) -> int:
        """Largest order of the method."""
        return 5

    def fraction_options(self, has_algebraic: bool) -> dict[str, Any]:
        """Lengths of time as fractions of a call's length."""
        # The search for initial slopes takes a step of a thousandth of this. CasADi's default is too long for stiff
        # models (IDA_CONV_FAIL), a step at round-off gives wrong slopes (IDA_ERR_FAIL). Measured on the published
        # initial-value problems of the tests at three tolerances: 1e-7 to 1e-10 served all ODEs, 1e-6 all DAEs.
        return {"first_time": 1e-6 if has_algebraic else 1e-8}

    def casadi_options(self) -> dict[str, Any]:
        """CasADi's options, lengths of time in the unit of t."""
        return {"disable_internal_warnings": True, **super().casadi_options()}

    def for_odes(self) -> CVODES:
        """CVODES with the same settings, as far as it knows them."""
        known = {k: v for k, v in self.options.items() if k in _COMMON}
        return CVODES(rtol=self.rtol, atol=self.atol, max_steps=self.max_steps, dt0=self.dt0, options=known)


@dataclass(frozen=True, kw_only=True)
class _OneStepMethod(_Toleranced):
    """CasADi's own one-step methods: adaptive, or with `steps_per_interval` equal steps.

    Parameters
    ----------
    steps_per_interval
        Number of equal steps between neighbouring points of the save times and knots merged; None (default) for
        error control.
    """

    steps_per_interval: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps_per_interval is not None:
            _count(type(self).__name__, "steps_per_interval", self.steps_per_interval)

    @property
    def adaptive(self) -> bool:
        """Whether the step size is controlled by an error estimate."""
        return self.steps_per_interval is None and "step_size" not in self.options

    @property
    def order(self) -> int:
        """Order of a step."""
        return 5

    def fraction_options(self, has_algebraic: bool) -> dict[str, Any]:
        """Lengths of time as fractions of a call's length."""
        if self.steps_per_interval:
            # A little more than 1/n: rounding must not make n + 1 steps.
            return {"step_size": (1.0 + 1e-9) / self.steps_per_interval}
        # CasADi's limit of 1e-14 would be too large a part of a long stiff trajectory.
        return {"min_step_size": 1e-22}


@dataclass(frozen=True, kw_only=True)
class ERK(_OneStepMethod):
    """CasADi's explicit Runge-Kutta pair of order 5(4) (`erk`), with exact discrete derivatives.

    Parameters
    ----------
    rtol, atol, max_steps, dt0
        As in `CVODES`.
    steps_per_interval
        Number of equal steps between neighbouring points of the save times and knots merged; None (default) for
        error control.
    options
        More options of ``casadi.integrator(..., "erk", ...)``.
    """

    plugin: ClassVar[str] = "erk"


@dataclass(frozen=True, kw_only=True)
class Rosenbrock(_OneStepMethod):
    """CasADi's Rosenbrock method of order 5 (`rosenbrock`): stiff models, DAEs of index 1, exact derivatives.

    Parameters
    ----------
    rtol, atol, max_steps, dt0, steps_per_interval, options
        As in `ERK`; options of ``casadi.integrator(..., "rosenbrock", ...)``.
    """

    plugin: ClassVar[str] = "rosenbrock"
    integrates_dae: ClassVar[bool] = True
