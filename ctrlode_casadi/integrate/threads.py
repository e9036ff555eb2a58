"""One pool of threads for all sweeps of the process.

Sweeps release the interpreter's lock and poll a cancel flag at every step. A call that is known to be short shares the
work with the calling thread; a long one leaves it to the pool, so that the calling thread sees Ctrl-C at once. Should a
call take much longer than the last one (adaptive steps where the model has become stiff), a watching thread stops its
sweeps, and it starts again as a long one.

A call may have a limit of time (`time_limit`). It is a property of the calling thread; when it runs out, all sweeps
that the thread waits for are stopped, and later ones do not start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

#: Calls that took less than this time before (seconds) are run in the calling thread as well.
SHORT = 0.25

#: Calls that took less are not shared with other threads, which take as long to wake up (measured: 256 trajectories of
#: a falling ball take 0.14 ms on one thread and 0.17 ms on two).
TINY = 3e-4

#: When the calls of this thread must end, in seconds of `time.perf_counter`; None for no limit.
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()
_watcher: threading.Thread | None = None
#: Short calls that run: the thread's number -> (the flag that stops its sweeps, when it began).
_running: dict[int, tuple[NDArray[np.int64], float]] = {}


def _executor(size: int) -> ThreadPoolExecutor:
    """The pool, made when first needed and replaced by a larger one when more threads are asked for."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            # Work already queued on a smaller pool finishes there.
            _pool = ThreadPoolExecutor(max_workers=size, thread_name_prefix="ctrlode")
            _pool_size = size
        return _pool


def _forget_pool() -> None:
    """In a forked child the threads do not exist: start anew."""
    global _pool, _pool_size, _lock, _watcher
    _pool, _pool_size, _lock, _watcher = None, 0, threading.Lock(), None
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _watch() -> None:
    """Stop the sweeps of short calls that take long; ends after a minute without any."""
    idle = 0
    while idle < 60 / SHORT:
        time.sleep(SHORT)
        idle = 0 if _running else idle + 1
        late = time.perf_counter() - 2 * SHORT
        for flag, began in list(_running.values()):
            if began < late:
                flag[0] = 1


def _work_here(work: Callable[[], None], cancel: NDArray[np.int64]) -> None:
    """Run `work` in the calling thread under the eyes of the watcher."""
    global _watcher
    if _watcher is None or not _watcher.is_alive():
        with _lock:
            if _watcher is None or not _watcher.is_alive():
                _watcher = threading.Thread(target=_watch, name="ctrlode-watch", daemon=True)
                _watcher.start()
    me = threading.get_ident()
    _running[me] = cancel, time.perf_counter()
    try:
        work()
    finally:
        del _running[me]


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Stop the sweeps that this thread waits for after so many seconds; None adds no limit."""
    if seconds is None:
        yield
        return
    mine, outer = time.perf_counter() + seconds, _deadline.get()
    token = _deadline.set(mine if outer is None else min(mine, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


class _Limited(Protocol):
    @property
    def time_limit(self) -> float | None:
        """Seconds that one call may take."""


_Method = TypeVar("_Method", bound=Callable[..., Any])


def limited(method: _Method) -> _Method:
    """A method whose calls end after its object's `time_limit`."""

    @functools.wraps(method)
    def call(self: _Limited, *args: Any, **options: Any) -> Any:
        with time_limit(self.time_limit):
            return method(self, *args, **options)

    return cast(_Method, call)


def time_left() -> float | None:
    """Seconds until the limit of this thread's call, not below zero; None without a limit."""
    deadline = _deadline.get()
    return None if deadline is None else max(deadline - time.perf_counter(), 0.0)


def time_is_up() -> bool:
    """Whether the limit of this thread's call has passed."""
    return time_left() == 0.0


def run_workers(work: Callable[[], None], count: int, cancel: NDArray[np.int64], seconds: float | None) -> bool:
    """Run `work` in `count` threads at once and wait.

    Parameters
    ----------
    work
        Draws its tasks from a shared counter until none is left.
    count
        Number of threads.
    cancel
        Flag that the sweeps poll; set when the calling thread is interrupted or a worker fails.
    seconds
        How long such a call took before, None if unknown.

    Returns
    -------
    bool
        False if the call took so much longer than before that its sweeps were stopped: call again with None. True with
        the flag set if the limit of time passed.
    """
    if time_left() is not None:
        seconds = None
    if time_is_up():
        cancel[0] = 1
    short = seconds is not None and seconds < SHORT
    count = 1 if seconds is not None and seconds < TINY else count
    if short and count <= 1:
        _work_here(work, cancel)
        return not cancel[0]
    extra = count - 1 if short else count
    pool = _executor(max(extra, 1))
    futures: list[Future[None]] = []
    try:
        for _ in range(extra):
            futures.append(pool.submit(work))
        if short:
            _work_here(work, cancel)
            # Nothing is left to do: a helper that still waits behind the work of another caller is not needed.
            futures = [future for future in futures if not future.cancel()]
        for future in futures:
            while not future.done():
                left = time_left()
                if left == 0.0:
                    cancel[0] = 1
                with contextlib.suppress(TimeoutError):
                    future.result(timeout=min(left, 0.2) if left else 0.2)
            future.result()
    except BaseException:
        cancel[0] = 1
        _wait_for([future for future in futures if not future.cancel()])
        raise
    return not cancel[0] or time_is_up()


def _wait_for(futures: list[Future[None]]) -> None:
    """Wait until the sweeps have left the caller's arrays, whatever interrupts the wait (a second Ctrl-C)."""
    while not all(future.done() for future in futures):
        with contextlib.suppress(BaseException):
            wait(futures)
