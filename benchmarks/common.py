"""The machine header and the tables of the benchmark scripts."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from ctrlode_casadi.base.processors import available_threads
from ctrlode_casadi.cli import info

RESULTS = Path(__file__).resolve().parent / "results"


def cpu_model() -> str:
    """The name that the operating system gives to the CPU, and LLVM's name of its generation."""
    generation, _ = info.cpu()
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} ({generation})"
    return f"{platform.processor() or platform.machine()} ({generation})"


def machine() -> dict[str, str]:
    _, features = info.cpu()
    return {
        "cpu": cpu_model(),
        "cores": str(available_threads()),
        "register": f"{8 * info.register_bytes(features)} bits",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def print_machine() -> None:
    for name, value in machine().items():
        print(f"{name:<10} {value}")
    print(flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, so that a run can be put into the docs as it is."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    print(line(header))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))
    print(flush=True)


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1.0 else f"{1e3 * seconds:.0f}"


def save_json(name: str, content: object) -> Path:
    """Write a run's raw numbers to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "run": content}, indent=1) + "\n")
    return path


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options that all scripts share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=7, help="turns of each side; medians are over all calls")
    made.add_argument("--quick", action="store_true", help="fewer sizes and rounds: to see that it works")
    return made


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
