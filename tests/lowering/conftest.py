"""Compiled code of a test run goes to a folder of its own: the user's cache is neither read nor filled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before = os.environ.get("CTRLODE_CACHE_DIR")
    folder = tmp_path_factory.mktemp("kernels")
    os.environ["CTRLODE_CACHE_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["CTRLODE_CACHE_DIR"]
    else:
        os.environ["CTRLODE_CACHE_DIR"] = before
