"""Shared fixtures: the folder of measured data, deterministic random numbers, hypothesis profile."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Compiling a model inside an example may take longer than hypothesis' default deadline of 200 ms.
settings.register_profile(
    "ctrlode", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ctrlode")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed: a test's numbers do not depend on which tests ran before."""
    return np.random.default_rng(20_240_229)


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The folder of measured data (CTRLODE_DATA): a missing file is an error where the variable is set."""
    folder = os.environ.get("CTRLODE_DATA")
    if not folder:
        pytest.skip("CTRLODE_DATA is not set: the measured data are not on this machine")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"CTRLODE_DATA={folder} is not a folder")
    return path
