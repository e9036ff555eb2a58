"""CasADi integrator objects for one interval of a control, and their evaluation.

One object serves all intervals of all trajectories: its time s runs from 0 to 1, and its parameters are

    [q; w; a; L],    [p; C] = w q,    t = a + L s,    u(t) = C [1, s, s^2, ...],

with the interval's start a, its length L, the control's coefficients C (nu, d + 1), column by column, and units w of
the free parameters. The control never jumps within a call.

Only q is differentiated. Derivatives with respect to large parameters are small; units put them under the error
control. The adjoints of a and L would be integrals of the right-hand side at interpolated states, which are noise for a
stiff model.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array
from ...base.errors import SolverError
from ...base.status import Status

#: Clones that a worker keeps; the one not used for longest goes first.
KEPT = 256

#: Memories of an integrator that are used once each before the integrator is cloned anew.
_MEMORIES = 32

#: CasADi graphs are built and cloned by one thread at a time.
building = threading.RLock()


class Settings(Protocol):
    """What is asked of an integrator's settings; `solvers.CasadiIntegrator` documents the members."""

    @property
    def plugin(self) -> str:
        """CasADi's name."""

    @property
    def parameters_as_states(self) -> bool:
        """Whether the adjoint takes parameters as states."""

    @property
    def splits(self) -> bool:
        """Whether every save time ends a call."""

    @property
    def time_dependent(self) -> bool:
        """Whether intervals of other lengths need other integrators."""

    def integrator_options(self, length: float, has_algebraic: bool = False, size: float = 1.0) -> dict[str, Any]:
        """CasADi's options."""


@dataclass(frozen=True, eq=False)
class Dynamics:
    """A right-hand side (t, x, u, p) -> xdot, or (t, x, u, p, z) -> xdot with algebraic (t, x, u, p, z) -> residual."""

    rhs: ca.Function
    algebraic: ca.Function | None = None

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """nx, nu, np, nz."""
        nz = 0 if self.algebraic is None else self.algebraic.numel_in(4)
        return self.rhs.numel_in(1), self.rhs.numel_in(2), self.rhs.numel_in(3), nz

    def scaled(self, powers: int) -> dict[str, ca.MX]:
        """The DAE of one interval in CasADi's form, with `powers` coefficients per control."""
        nx, nu, n_params, nz = self.sizes
        s, x, z = ca.MX.sym("t"), ca.MX.sym("x", nx), ca.MX.sym("z", nz)
        n = n_params + nu * powers
        q, fixed = ca.MX.sym("q", n), ca.MX.sym("fixed", n + 2)
        free, span = q * fixed[:n], fixed[n:]
        p, coefficients = free[:n_params], ca.reshape(free[n_params:], nu, powers)
        u = coefficients[:, powers - 1]
        for j in range(powers - 2, -1, -1):
            u = u * s + coefficients[:, j]
        arguments = [span[0] + span[1] * s, x, u, p, *([z] if nz else [])]
        results = [span[1] * self.rhs(*arguments)]
        if self.algebraic is not None:
            results.append(self.algebraic(*arguments))
        options: Any = {"is_diff_in": [True, True, True, True, False], "never_inline": True}
        f = ca.Function("interval", [s, x, z, q, fixed], results, options)
        theta = ca.MX.sym("p", 2 * n + 2)
        made: list[ca.MX] = f.call([s, x, z, theta[:n], theta[n:]])
        dae = {"t": s, "x": x, "p": theta, "ode": made[0]}
        return {**dae, "z": z, "alg": made[1]} if nz else dae


def units(theta: Float64Array) -> Float64Array:
    """Units w of free parameters: their size where that is more than one."""
    made: Float64Array = np.maximum(np.abs(theta), 1.0)
    return made


def parameters_as_states(dae: dict[str, ca.MX]) -> dict[str, ca.MX]:
    """The same DAE with q as states of zero derivative."""
    n = dae["p"].numel() // 2 - 1
    rest = ca.MX.sym("p", n + 2)
    x = ca.MX.sym("x", dae["x"].numel() + n)
    names = [k for k in ("ode", "alg") if k in dae]
    inputs = [dae["t"], dae["x"], dae["p"], *([dae["z"]] if "z" in dae else [])]
    f = ca.Function("f", inputs, [dae[k] for k in names])
    split = dae["x"].numel()
    arguments = [dae["t"], x[:split], ca.vertcat(x[split:], rest), *([dae["z"]] if "z" in dae else [])]
    made: dict[str, ca.MX] = dict(zip(names, f.call(arguments), strict=True))
    made["ode"] = ca.vertcat(made["ode"], ca.MX.zeros(n))
    return made | {k: dae[k] for k in ("t", "z") if k in dae} | {"x": x, "p": rest}


def make_integrator(
    dynamics: Dynamics,
    solver: Settings,
    powers: int,
    grid: Sequence[float],
    length: float = 1.0,
    size: float = 1.0,
    *,
    adjoint: bool = False,
    as_states: bool = False,
) -> ca.Function:
    """CasADi's integrator over s from 0 to 1 with outputs at `grid`.

    Parameters
    ----------
    dynamics, solver
        What to integrate and how.
    powers
        Coefficients per control.
    grid
        Output times, increasing, the last is 1.
    length
        Length of the interval, for options that are a length of time.
    size
        Size of the states, for absolute tolerances.
    adjoint
        With the adjoints of the initial state and of q for seeds of the outputs.
    as_states
        q is part of the state. For the adjoint of IDAS: as quadratures the adjoint of q would not be under error
        control.
    """
    dae = dynamics.scaled(powers)
    options = {"show_eval_warnings": False, **solver.integrator_options(length, "alg" in dae, size)}
    if adjoint:
        options["nadj"] = 1
    if as_states:
        n = sum(dae[name].numel() for name in ("x", "z") if name in dae)
        total = n + dae["p"].numel() // 2 - 1
        dae = parameters_as_states(dae)
        # The error norm is a mean over all states; those of theta have no error going forward.
        for name in ("reltol", "abstol"):
            options[name] *= float(np.sqrt(n / total))
    try:
        return ca.integrator("integrator", solver.plugin, dae, 0.0, [float(v) for v in grid], options)
    except RuntimeError as exc:
        raise SolverError(f"solver: CasADi refuses {solver!r}: {str(exc).strip().splitlines()[-1]}") from exc


class Evaluator:
    """Evaluates a Function on arrays of its own; one per thread.

    Parameters
    ----------
    make
        Makes the Function, for this evaluator alone.
    fresh
        Evaluate with new memory each time: that of SUNDIALS' adjoint keeps something of the calls before (differences
        far below the tolerance, but not the same bits).

    Attributes
    ----------
    inputs, outputs
        Flat arrays in CasADi's column-major order, by name.
    """

    def __init__(self, make: Callable[[], ca.Function], fresh: bool = False) -> None:
        self._make, self._fresh = make, fresh
        self._function = f = make()
        self.inputs = {f.name_in(i): np.zeros(f.nnz_in(i)) for i in range(f.n_in()) if f.nnz_in(i)}
        self.outputs = {f.name_out(i): np.zeros(f.nnz_out(i)) for i in range(f.n_out()) if f.nnz_out(i)}
        self._used: list[Any] = []
        self._renew()

    def _renew(self) -> None:
        """New memory. CasADi gives memory that is let go to the next one who asks, so it is kept for a while."""
        if len(self._used) == _MEMORIES:
            self._used.clear()
            with building:
                self._function = self._make()
        f = self._function
        buffer: Any  # the stubs of 3.8.2 ask for a size that set_arg and set_res do not take
        buffer, self._run = f.buffer()
        self._buffer = buffer
        self._used.append((buffer, self._run))
        for name, array in self.inputs.items():
            buffer.set_arg(f.index_in(name), array.data)
        for name, array in self.outputs.items():
            buffer.set_res(f.index_out(name), array.data)
        self._clean = True

    def __call__(self) -> str | None:
        """Evaluate; what CasADi says about a failure, None after success. Outputs not written are NaN."""
        if self._fresh and not self._clean:
            self._renew()
        self._clean = False
        for array in self.outputs.values():
            array.fill(np.nan)
        try:
            self._run()
        except RuntimeError as exc:
            return str(exc)
        return "" if self._buffer.ret() else None

    def stats(self) -> dict[str, Any]:
        """CasADi's statistics of the last evaluation; empty where it keeps none."""
        try:
            return dict(self._buffer.stats())
        except RuntimeError:
            return {}


#: The evaluators of one thread.
Kit = OrderedDict[Any, Evaluator]


class Workshop:
    """Makes functions once, and clones of them for every worker; safe for several threads.

    A clone is ``deserialize(serialize())``: one CVODES object called from two threads corrupts memory.
    """

    def __init__(self) -> None:
        self._masters: OrderedDict[Any, str | None] = OrderedDict()
        self._idle: list[Kit] = []

    @contextmanager
    def worker(self) -> Iterator[Kit]:
        """Evaluators that belong to one worker while it works."""
        with building:
            kit: Kit = self._idle.pop() if self._idle else OrderedDict()
        try:
            yield kit
        finally:
            with building:
                self._idle.append(kit)

    def evaluator(self, kit: Kit, key: Any, make: Callable[[], ca.Function], fresh: bool) -> Evaluator:
        """The worker's evaluator of a function; `make()` builds the function where none exists."""
        found = kit.get(key)
        if found is not None:
            kit.move_to_end(key)
            return found
        with building:
            if key not in self._masters:
                self._masters[key] = _serialized(dense_outputs(make()))
                if len(self._masters) > KEPT:
                    self._masters.popitem(last=False)
            text = self._masters[key]

            def clone() -> ca.Function:
                return dense_outputs(make()) if text is None else ca.Function.deserialize(text)

            kit[key] = found = Evaluator(clone, fresh)
            if len(kit) > KEPT:
                kit.popitem(last=False)
        return found


def _serialized(f: ca.Function) -> str | None:
    """A function as text; None for one that cannot be read again, such as one with a plug-in that does not offer it."""
    try:
        text = f.serialize()
        ca.Function.deserialize(text)
    except RuntimeError:
        return None
    return str(text)


def dense_outputs(f: ca.Function) -> ca.Function:
    """The function itself, or one with the same inputs whose outputs are dense."""
    if all(f.nnz_out(i) in (0, f.numel_out(i)) for i in range(f.n_out())):
        return f
    symbols = [ca.MX.sym(f.name_in(i), f.sparsity_in(i)) for i in range(f.n_in())]
    results = [ca.densify(v) for v in f.call(symbols)]
    return ca.Function(f.name(), symbols, results, f.name_in(), f.name_out())


def status_of(message: str, has_algebraic: bool) -> Status:
    """The status for what CasADi says about a failed call."""
    rows = [
        ("TOO_MUCH_WORK", Status.MAX_STEPS),
        ("IDACalcIC", Status.INCONSISTENT if has_algebraic else Status.SOLVER_FAILURE),
        ("RHSFUNC", Status.NON_FINITE),
        ("RES_", Status.NON_FINITE),
        ("ERR_FAIL", Status.STEP_TOO_SMALL),
        ("LSETUP", Status.SINGULAR),
        ("LINIT", Status.SINGULAR),
        ("LSOLVE", Status.SINGULAR),
    ]
    return next((status for text, status in rows if text in message), Status.SOLVER_FAILURE)


class _Filter:
    """A stand-in for a text stream that drops what muted threads write."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, unless this thread is muted."""
        return len(text) if threading.get_ident() in _muted else int(self.stream.write(text) or 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_muted: dict[int, int] = {}


@contextmanager
def muted() -> Iterator[None]:
    """Drop what CasADi and SUNDIALS print to `sys.stderr` in this thread: the status says it already."""
    me = threading.get_ident()
    with building:
        _muted[me] = _muted.get(me, 0) + 1
        if not isinstance(sys.stderr, _Filter):
            sys.stderr = _Filter(sys.stderr)
    try:
        yield
    finally:
        with building:
            _muted[me] -= 1
            if not _muted[me]:
                del _muted[me]
            if not _muted and isinstance(sys.stderr, _Filter):
                sys.stderr = sys.stderr.stream
