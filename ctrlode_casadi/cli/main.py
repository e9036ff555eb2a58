"""Argument parsing of `python -m ctrlode_casadi info | bench | cache`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..base.errors import CtrlodeError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; every sub-command sets `run`, a function of the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m ctrlode_casadi", description="Exact gradients of controlled neural ODEs."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="info | bench | cache")

    info = commands.add_parser("info", help="versions, CPU features, lanes, threads, cache, extras")
    info.set_defaults(run=_info)

    bench = commands.add_parser("bench", help="the origin problem: time per gradient, compile time, agreement")
    bench.add_argument("--trajectories", type=_positive, default=100, help="number of input trajectories")
    bench.add_argument("--repeats", type=_positive, default=20, help="timed calls; the median is printed")
    bench.add_argument("--threads", type=_positive, default=None, help="default: every core of this process")
    bench.set_defaults(run=_bench)

    cache = commands.add_parser("cache", help="where compiled code is kept, and how much")
    cache.add_argument("--clear", action="store_true", help="remove every entry")
    cache.set_defaults(run=_cache)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (1 where the package refused, with its message)."""
    arguments = build_parser().parse_args(argv)
    try:
        print(arguments.run(arguments))
    except CtrlodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _info(arguments: argparse.Namespace) -> str:
    from .info import describe

    return describe()


def _bench(arguments: argparse.Namespace) -> str:
    from .bench import report

    return report(arguments.trajectories, arguments.repeats, arguments.threads)


def _cache(arguments: argparse.Namespace) -> str:
    from .cache import clear, describe

    return clear() if arguments.clear else describe()
