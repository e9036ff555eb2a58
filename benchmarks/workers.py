"""Alternating measurement: each side lives in a process of its own, and only one of them runs at a time.

In one process the thread pools of two libraries would disturb each other; one after the other, a slow
minute of the machine would hit one side only. So the sides take turns: a few calls here, a few there, many
rounds.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType

import numpy as np

from workloads import Workload

SIDES = {
    "ours": "ours",
    "jax scan": "peers.jax_scan",
    "diffrax": "peers.diffrax_solve",
    "torchdiffeq": "peers.torch_solve",
}


@dataclass
class Worker:
    """One side in a process of its own; a context manager.

    Attributes after `start`: `first` seconds of the first call (compilation included), `value`, `gradient`,
    `versions`, and after `measure` the collected `times` in seconds.
    """

    side: str
    workload: Workload
    times: list[float] = field(default_factory=list)
    first: float = float("nan")
    value: float = float("nan")
    gradient: np.ndarray = field(default_factory=lambda: np.empty(0))
    versions: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Worker:
        command = [sys.executable, str(Path(__file__)), self.side, json.dumps(self.workload.to_dict())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        answer = self._read()
        self.first, self.value, self.versions = answer["first"], answer["value"], answer["versions"]
        self.gradient = np.array(answer["gradient"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of side {self.side!r} ended early; see its messages above")
        return json.loads(line)

    def ask(self, repeats: int) -> dict:
        """Run `repeats` calls; returns their times and the process's peak memory in bytes."""
        self._process.stdin.write(f"{repeats}\n")
        self._process.stdin.flush()
        return self._read()

    @property
    def label(self) -> str:
        return f"{self.side} ({self.workload.dtype}, {self.workload.threads} threads)"

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def alternate(workers: list[Worker], rounds: int, seconds_per_turn: float = 0.1) -> None:
    """Let the workers take turns; each turn is long enough to be timed and starts with an untimed call."""
    repeats = []
    for worker in workers:
        warm = min(worker.ask(3)["times"])
        repeats.append(max(1, min(200, round(seconds_per_turn / max(warm, 1e-9)))))
    for _ in range(rounds):
        for worker, count in zip(workers, repeats):
            worker.times += worker.ask(1 + count)["times"][1:]


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two gradients over the length of the second."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(side: str, workload: Workload) -> None:
    """The worker process: build, answer with the first result, then time as many calls as a line asks for."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not get into the answers
    if workload.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    module = importlib.import_module(SIDES[side])
    start = time.perf_counter()
    built = module.Side(workload)
    returned = built.run()
    first = time.perf_counter() - start
    value, gradient = built.result(returned)
    versions = {name: metadata_version(name) for name in module.PACKAGES}
    answer = {"first": first, "value": value, "gradient": gradient.tolist(), "versions": versions}
    channel.write(json.dumps(answer) + "\n")
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            built.run()
            times.append(time.perf_counter() - start)
        channel.write(json.dumps({"times": times, "peak_memory": peak_memory()}) + "\n")


def metadata_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return getattr(importlib.import_module(name), "__version__", "unknown")


if __name__ == "__main__":
    serve(sys.argv[1], Workload.from_dict(json.loads(sys.argv[2])))
