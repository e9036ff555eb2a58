"""Watching a solver: the last iterate is kept, users see progress, and Ctrl-C stops at the next iteration."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .groups import NLP


@dataclass(frozen=True, eq=False)
class Iteration:
    """What an iteration callback sees.

    Attributes
    ----------
    number
        0 for the starting point.
    objective
        Cost.
    violation
        Largest violation of a constraint or bound, scaled.
    w
        Variables of the NLP, not scaled.
    """

    number: int
    objective: float
    violation: float
    w: Float64Array


@dataclass
class Seen:
    """What has happened so far."""

    iterations: int = 0
    interrupted: bool = False
    values: dict[str, Float64Array] | None = None
    error: BaseException | None = None


class Monitor(ca.Callback):
    """Iteration callback of `casadi.nlpsol`.

    A user's callback gets an `Iteration`; if it returns True the solver stops. What it raises is raised again after
    the solver has returned.
    """

    def __init__(self, nlp: NLP) -> None:
        super().__init__()
        self._n_w, self._n_g, self._n_q = nlp.n_w, nlp.n_g, nlp.n_q
        self._nlp, self._seen = nlp, Seen()
        self._watch: Callable[[Iteration], Any] | None = None
        self.construct("monitor", {})

    def get_n_in(self) -> int:
        return int(ca.nlpsol_n_out())

    def get_n_out(self) -> int:
        return 1

    def get_name_in(self, i: int) -> str:
        return str(ca.nlpsol_out(i))

    def get_name_out(self, i: int) -> str:
        return "stop"

    def get_sparsity_in(self, i: int) -> ca.Sparsity:
        name = ca.nlpsol_out(i)
        size = {"f": 1, "x": self._n_w, "lam_x": self._n_w, "g": self._n_g, "lam_g": self._n_g, "lam_p": self._n_q}
        return ca.Sparsity.dense(size[name], 1) if name in size else ca.Sparsity(0, 0)

    def eval(self, arg: Sequence[ca.DM]) -> list[float]:
        seen = self._seen
        values = {ca.nlpsol_out(i): a.full().reshape(-1) for i, a in enumerate(arg)}
        seen.values = values
        stop = seen.interrupted
        try:
            if self._watch is not None and not stop:
                stop = bool(self._watch(self._iteration(seen.iterations, values)))
        except BaseException as exc:  # raised again in `watching`: CasADi would swallow it
            seen.error, stop = exc, True
        seen.iterations += 1
        seen.interrupted = seen.interrupted or stop
        return [1.0 if stop else 0.0]

    def _iteration(self, number: int, values: dict[str, Float64Array]) -> Iteration:
        nlp, g, x = self._nlp, values["g"], values["x"]
        worst = max(
            np.max(nlp.lbg * nlp.scale_g - g, initial=0.0),
            np.max(g - nlp.ubg * nlp.scale_g, initial=0.0),
            np.max(nlp.lbw / nlp.scale_w - x, initial=0.0),
            np.max(x - nlp.ubw / nlp.scale_w, initial=0.0),
        )
        return Iteration(number, float(values["f"][0]) / nlp.scale_f, float(worst), x * nlp.scale_w)

    @contextmanager
    def watching(self, nlp: NLP, watch: Callable[[Iteration], Any] | None) -> Iterator[Seen]:
        """Watch one solve; Ctrl-C ends it at the next iteration, a second one at once."""
        self._nlp, self._watch, self._seen = nlp, watch, Seen()
        with _interrupts(self._seen):
            yield self._seen
        if self._seen.error is not None:
            raise self._seen.error


@contextmanager
def _interrupts(seen: Seen) -> Iterator[None]:
    """Turn the first Ctrl-C into a flag; only the main thread may do that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        if seen.interrupted:
            raise KeyboardInterrupt
        seen.interrupted = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
