"""One pool of threads for all sweeps of the process.

Sweeps release the interpreter's lock and poll a cancel flag at every step. A call that is known to be short shares the
work with the calling thread; a long one leaves it to the pool, so that the calling thread sees Ctrl-C at once.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

#: Calls that took less than this time before (seconds) are run in the calling thread as well.
SHORT = 0.25

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_lock = threading.Lock()


def available_threads() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_workers(work: Callable[[], None], count: int, cancel: NDArray[np.int64], seconds: float | None) -> None:
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
    """
    short = seconds is not None and seconds < SHORT
    if short and count <= 1:
        work()
        return
    extra = count - 1 if short else count
    pool = _executor(max(extra, 1))
    futures: list[Future[None]] = []
    try:
        for _ in range(extra):
            futures.append(pool.submit(work))
        if short:
            work()
            # Nothing is left to do: a helper that still waits behind the work of another caller is not needed.
            futures = [future for future in futures if not future.cancel()]
        for future in futures:
            while not future.done():
                with contextlib.suppress(TimeoutError):
                    future.result(timeout=0.2)
            future.result()
    except BaseException:
        cancel[0] = 1
        _wait_for([future for future in futures if not future.cancel()])
        raise


def _wait_for(futures: list[Future[None]]) -> None:
    """Wait until the sweeps have left the caller's arrays, whatever interrupts the wait (a second Ctrl-C)."""
    while not all(future.done() for future in futures):
        with contextlib.suppress(BaseException):
            wait(futures)
