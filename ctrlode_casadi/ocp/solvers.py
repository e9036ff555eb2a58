"""Solvers of nonlinear programs: CasADi's plugins by name, SciPy's as "scipy:...", behind one call."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from ..base.errors import SolverError, unknown_name
from .groups import NLP
from .monitor import Monitor
from .oracle import Oracle
from .status import SolveStatus, status_of

SCIPY = ("scipy:trust-constr", "scipy:SLSQP")

#: Plugins whose own options live in a dict of their name.
_NESTED = {"ipopt", "fatrop", "knitro", "snopt", "worhp", "bonmin", "madnlp", "uno", "sleqp", "alpaqa"}

_QUIET: dict[str, dict[str, Any]] = {
    "ipopt": {"ipopt": {"print_level": 0, "sb": "yes"}, "print_time": False},
    "sqpmethod": {
        "print_header": False, "print_iteration": False, "print_status": False, "print_time": False,
        "qpsol": "qrqp", "qpsol_options": {"print_iter": False, "print_header": False, "print_info": False,
                                           "error_on_fail": False},
    },
    "fatrop": {"print_time": False, "fatrop": {"print_level": 0}, "structure_detection": "none"},
}  # fmt: skip

#: How IPOPT starts from a known solution with its multipliers.
_WARM = {
    "warm_start_init_point": "yes",
    "warm_start_bound_push": 1e-9,
    "warm_start_bound_frac": 1e-9,
    "warm_start_slack_bound_push": 1e-9,
    "warm_start_slack_bound_frac": 1e-9,
    "warm_start_mult_bound_push": 1e-9,
    "mu_init": 1e-6,
}


@dataclass(frozen=True, eq=False)
class Start:
    """Where a solve begins: variables and, for a warm start, multipliers; not scaled."""

    w: Float64Array
    lam_g: Float64Array | None = None
    lam_w: Float64Array | None = None

    @property
    def warm(self) -> bool:
        """Whether there are multipliers."""
        return self.lam_g is not None


@dataclass(frozen=True, eq=False)
class Result:
    """What a solver found; not scaled.

    Attributes
    ----------
    w, objective
        The point and its cost.
    lam_g, lam_w
        Multipliers of the constraints and of the bounds: the gradient of ``f + lam_g' g + lam_w' w`` is zero.
    status, message
        Outcome, and the solver's own text.
    stats
        Iterations, seconds, and what else the solver reports.
    """

    w: Float64Array
    objective: float
    lam_g: Float64Array
    lam_w: Float64Array
    status: SolveStatus
    message: str
    stats: dict[str, Any] = field(default_factory=dict)


class History(dict[str, list[float]]):
    """What a solver reports of every iteration: name of a column to its values. It prints as one line."""

    def __repr__(self) -> str:
        n = max((len(values) for values in self.values()), default=0)
        return f"<{n} rows of {', '.join(self)}>"


def check_solver(name: object) -> str:
    """The name of a solver that exists and can be loaded.

    Raises
    ------
    SolverError
        For an unknown name, or a plugin whose library is missing.
    """
    known = [*_plugins(), *SCIPY]
    if not isinstance(name, str) or name not in known:
        raise SolverError(unknown_name("solver", name, known))
    if name not in SCIPY and name != "ipopt" and (problem := _load_error(name)):
        raise SolverError(
            f"solver: CasADi knows {name!r}, but its library cannot be loaded here ({problem}); install it, or use "
            "solver='ipopt'"
        )
    return name


@cache
def _plugins() -> tuple[str, ...]:
    listed = ca.CasadiMeta.plugins().split(";")
    return tuple(sorted(entry.split("::")[1] for entry in listed if entry.startswith("Nlpsol::")))


@cache
def _load_error(name: str) -> str:
    """Why a plugin cannot be loaded; empty if it can. Tried in another process: some libraries abort theirs."""
    done = subprocess.run(
        [sys.executable, "-c", f"import casadi; casadi.load_nlpsol({name!r})"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    found = [line for line in lines if "cannot" in line or "not found" in line or "No such" in line]
    return (found or lines or [f"exit code {done.returncode}"])[-1][:200]


def plugin_options(name: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options for `casadi.nlpsol`: quiet defaults, then the user's.

    ``"tol"``, ``"ipopt.tol"`` and ``{"ipopt": {"tol": ...}}`` mean the same; names that `nlpsol` knows itself, such as
    ``"print_time"``, go there.
    """
    merged: dict[str, Any] = {}
    for key, value in _QUIET.get(name, {"print_time": False}).items():
        merged[key] = dict(value) if isinstance(value, dict) else value
    for key, value in (options or {}).items():
        inner = key.removeprefix(f"{name}.")
        if isinstance(value, Mapping) and key == name:
            merged.setdefault(name, {}).update(value)
        elif name in _NESTED and (inner != key or key not in _generic_options(name)):
            merged.setdefault(name, {})[inner] = value
        else:
            merged[inner] = value
    return merged


@cache
def _generic_options(name: str) -> frozenset[str]:
    """Options that `nlpsol` itself knows."""
    return frozenset(ca.nlpsol_options(name))


class PluginSolver:
    """A solver of CasADi for programs of one structure.

    Parameters
    ----------
    oracle
        The scaled program.
    name
        The plugin.
    options
        The user's options.
    warm
        Whether starts come with multipliers.
    watched
        Whether every iteration is seen by the monitor, which takes 0.1 ms each; else Ctrl-C is noted, and the last
        iterate is known, at the end of the solve only.
    """

    def __init__(
        self, oracle: Oracle, nlp: NLP, name: str, options: Mapping[str, Any] | None, warm: bool, watched: bool = True
    ) -> None:
        self._nlp, self._name, self._oracle = nlp, name, oracle
        self._monitor = Monitor(nlp)
        merged = plugin_options(name, options)
        if warm and name == "ipopt":
            merged["ipopt"] = {**_WARM, **merged["ipopt"]}
        seen = {"iteration_callback": self._monitor} if watched else {}
        if name == "fatrop":
            merged.setdefault("equality", (nlp.lbg == nlp.ubg).tolist())
        quiet = {"error_on_fail": False, "show_eval_warnings": False, "calc_lam_p": False}
        merged = {**oracle.options, **quiet, **seen, **merged}
        try:
            self._solver = ca.nlpsol("ocp", name, oracle.problem, merged)
        except RuntimeError as exc:
            raise SolverError(f"solver: {name!r} refused the problem or its options: {_last_line(exc)}") from exc

    def solve(self, nlp: NLP, start: Start, watch: Callable[..., Any] | None) -> Result:
        """Solve a program of the structure; see `Monitor` for `watch`."""
        began = time.perf_counter()
        arguments: dict[str, Any] = {
            "x0": start.w / nlp.scale_w,
            "p": nlp.q,
            "lbx": nlp.lbw / nlp.scale_w,
            "ubx": nlp.ubw / nlp.scale_w,
            "lbg": nlp.lbg * nlp.scale_g,
            "ubg": nlp.ubg * nlp.scale_g,
        }
        if start.lam_g is not None and start.lam_w is not None:
            arguments["lam_g0"] = start.lam_g / nlp.scale_g * nlp.scale_f
            arguments["lam_x0"] = start.lam_w * nlp.scale_w * nlp.scale_f
        with self._monitor.watching(nlp, watch) as seen:
            try:
                found = self._solver(**arguments)
                stats = self._solver.stats()
            except (RuntimeError, KeyboardInterrupt) as exc:
                if isinstance(exc, RuntimeError) and seen.iterations == 0 and not seen.interrupted:
                    raise SolverError(f"solver: {self._name!r} failed: {_last_line(exc)}") from exc
                found, stats = None, {"return_status": _last_line(exc), "success": False}
                if isinstance(exc, KeyboardInterrupt):
                    seen.interrupted = True
        return self._result(nlp, start, found, stats, seen, time.perf_counter() - began)

    def _result(self, nlp: NLP, start: Start, found: Any, stats: dict[str, Any], seen: Any, seconds: float) -> Result:
        text = str(stats.get("return_status", ""))
        status = status_of(text, bool(stats.get("success")), str(stats.get("unified_return_status", "")))
        if seen.interrupted:
            status = SolveStatus.INTERRUPTED
        if found is None:
            scaled = seen.values or {"x": start.w / nlp.scale_w, "f": np.nan}
        else:
            scaled = {key: np.asarray(found[key].full()[:, 0]) for key in ("x", "f", "lam_g", "lam_x")}
        empty = {"lam_g": np.zeros(nlp.n_g), "lam_x": np.zeros(nlp.n_w)}
        scaled = {**empty, **scaled}
        report = {
            "iterations": int(stats.get("iter_count", seen.iterations)),
            "seconds": seconds,
            "function_seconds": sum(v for k, v in stats.items() if k.startswith("t_wall_nlp_")),
            "evaluations": {k.removeprefix("n_call_"): v for k, v in stats.items() if k.startswith("n_call_nlp_")},
            "solver": self._name,
        }
        if isinstance(stats.get("iterations"), dict):
            report["history"] = History(stats["iterations"])
        return Result(
            scaled["x"] * nlp.scale_w,
            float(np.reshape(scaled["f"], -1)[0]) / nlp.scale_f,
            scaled["lam_g"] * nlp.scale_g / nlp.scale_f,
            scaled["lam_x"] / nlp.scale_w / nlp.scale_f,
            status,
            text,
            report,
        )


def _last_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1] if lines else type(exc).__name__
