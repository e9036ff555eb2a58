"""What a controller or estimator reports about its steps."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ...base.arrays import Float64Array
from ..status import SolveStatus


class ControllerWarning(RuntimeWarning):
    """A controller or estimator could not solve its problem as posed and went on with something else."""


#: Where the result of a step can come from, best first.
SOURCES = ("solve", "suboptimal", "relaxed", "shifted", "held", "predicted")


@dataclass(frozen=True)
class StepRecord:
    """One step of a controller or estimator.

    Attributes
    ----------
    t
        Time of the step.
    status
        How the last solve of the step ended.
    source
        Where the result comes from. "solve": an optimal solution. "suboptimal": a feasible point at which the
        limit of iterations or time was reached. "relaxed": one of the problem with softened
        constraints. "shifted": the last good plan. "held": no plan was left, the last control was held.
        "predicted": the estimator's own prediction.
    seconds
        Wall-clock time of the whole step.
    solver_seconds
        Wall-clock time inside the solver, all attempts together.
    iterations
        Iterations, all attempts together.
    attempts
        Number of solves.
    objective
        Cost of the plan, NaN where there is none.
    message
        Why the result is not that of an ordinary solve; empty otherwise.
    """

    t: float
    status: SolveStatus
    source: str
    seconds: float
    solver_seconds: float
    iterations: int
    attempts: int
    objective: float
    message: str = ""

    @property
    def success(self) -> bool:
        """Whether the problem was solved as it was posed."""
        return self.source == "solve"


class StepStats:
    """Records of the latest steps and counts of all of them.

    Parameters
    ----------
    keep
        How many records are kept; older ones only count.

    Notes
    -----
    ``stats[-1]`` is the record of the last step and ``len(stats)`` the number of records kept.
    """

    def __init__(self, keep: int = 10_000) -> None:
        self._records: deque[StepRecord] = deque(maxlen=keep)
        self._counts: Counter[str] = Counter()

    def add(self, record: StepRecord) -> None:
        """Append the record of a step."""
        self._records.append(record)
        self._counts[record.source] += 1

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> StepRecord:
        return self._records[index]

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(tuple(self._records))

    def latest(self, n: int) -> tuple[StepRecord, ...]:
        """The last n records, oldest first."""
        return tuple(islice(self._records, max(0, len(self._records) - n), None))

    @property
    def n_steps(self) -> int:
        """Number of steps, those without a record included."""
        return sum(self._counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many steps had each source; see `StepRecord`."""
        return {source: self._counts[source] for source in SOURCES if self._counts[source]}

    @property
    def n_failed(self) -> int:
        """Steps whose problem was not solved as it was posed."""
        return self.n_steps - self._counts["solve"]

    @property
    def seconds(self) -> Float64Array:
        """Seconds of each step."""
        return np.array([r.seconds for r in self._records], dtype=np.float64)

    @property
    def solver_seconds(self) -> Float64Array:
        """Seconds inside the solver."""
        return np.array([r.solver_seconds for r in self._records], dtype=np.float64)

    @property
    def iterations(self) -> NDArray[np.int64]:
        """Iterations of each step."""
        return np.array([r.iterations for r in self._records], dtype=np.int64)

    @property
    def status(self) -> list[SolveStatus]:
        """Status of each step."""
        return [r.status for r in self._records]

    @property
    def sources(self) -> list[str]:
        """Source of each step's result."""
        return [r.source for r in self._records]

    def summary(self) -> dict[str, float]:
        """Number of steps and failures, median and largest time and number of iterations of the steps kept.

        The first step is cold: it has no plan to start from, and code is compiled in it.
        """
        result: dict[str, float] = {"steps": self.n_steps, "failed": self.n_failed}
        for name, values in (
            ("seconds", self.seconds),
            ("solver_seconds", self.solver_seconds),
            ("iterations", self.iterations),
        ):
            result[f"{name}_median"] = float(np.median(values)) if values.size else float("nan")
            result[f"{name}_max"] = float(np.max(values)) if values.size else float("nan")
        return result

    def __str__(self) -> str:
        s = self.summary()
        if not s["steps"]:
            return "no steps yet"
        parts = ", ".join(f"{n} {source}" for source, n in self.counts.items())
        return (
            f"{s['steps']:.0f} steps ({parts}); median {1e3 * s['seconds_median']:.3g} ms, "
            f"largest {1e3 * s['seconds_max']:.3g} ms; median {s['iterations_median']:.3g} iterations"
        )

    def __repr__(self) -> str:
        return f"StepStats({self})"
