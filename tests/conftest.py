"""Shared by all tests: the cache of compiled code, deterministic random numbers, the hypothesis profile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Compiling a model inside an example may take longer than hypothesis' default deadline of 200 ms.
settings.register_profile("ctrlode", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ctrlode")


@pytest.fixture(scope="session", autouse=True)
def compiled_code_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run's own cache, shared by its workers: the user's is neither read nor filled, a model compiles once."""
    base = tmp_path_factory.getbasetemp()
    # A worker of pytest-xdist has a folder of its own inside the run's.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTRLODE_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed: a test's numbers do not depend on which tests ran before."""
    return np.random.default_rng(20_240_229)


def pytest_configure() -> None:
    """A shell runs background jobs with SIGINT ignored, which the tests of interruption must not inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
