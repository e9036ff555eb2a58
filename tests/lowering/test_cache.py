"""The cache of compiled kernels: found again, never trusted blindly, and no error where it cannot be written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.lowering import cache, kernels
from lowering.cases import function
from lowering.compare import W, aligned, call

SCRIPT = """
import casadi as ca, numpy as np
from ctrlode_casadi.lowering.batched import compile
x, p = ca.MX.sym("x", 3), ca.MX.sym("p", 3)
g = compile(ca.Function("f", [x, p], [ca.tanh(x * p)], ["x", "p"], ["y"]))
y = g(np.ones((5, 3)), np.array([0.1, 0.2, 0.3]))
assert np.allclose(y, np.tanh([0.1, 0.2, 0.3]), rtol=1e-14)
(k,) = g._kernels.values()
print(k.from_cache, k.compile_seconds)
"""


def example() -> ca.Function:
    """A small function."""
    return function("cached", lambda x, p: ca.sin(x * p), [2], 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache that this process has not read from."""
    monkeypatch.setenv("CTRLODE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_MADE", {})
    return tmp_path


def again(monkeypatch: pytest.MonkeyPatch) -> kernels.LaneKernels:
    """Kernels of the example as a new process would get them."""
    monkeypatch.setattr(kernels, "_MADE", {})
    return kernels.lane_kernels(example(), "p", lanes=W)


def assert_right(k: kernels.LaneKernels) -> None:
    """The value kernel computes the example."""
    x, p, uni, y = aligned((2, W)), aligned((2,)), aligned((k.n_uni,)), aligned((2, W))
    x[...], p[...] = np.linspace(-1, 1, 2 * W).reshape(2, W), [0.5, 2.0]
    call(k.prologue, [p], [uni])
    call(k.value, [x, uni], [y])
    np.testing.assert_allclose(y, np.sin(x * p[:, None]), rtol=1e-14)


def test_second_load_hits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = again(monkeypatch)
    assert not first.from_cache and first.compile_seconds > 0
    (entry,) = folder.glob("*.kernels")
    second = again(monkeypatch)
    assert second.from_cache and second.compile_seconds == 0
    assert (second.n_uni, second.n_tape, second.n_acc) == (first.n_uni, first.n_tape, first.n_acc)
    assert second.code_bytes == first.code_bytes < entry.stat().st_size
    assert_right(second)
    assert [p.name for p in folder.iterdir()] == [entry.name], "a temporary file was left"


def test_same_process_compiles_once(folder: Path) -> None:
    one = kernels.lane_kernels(example(), "p", lanes=W)
    assert kernels.lane_kernels(example(), "p", lanes=W) is one
    assert kernels.lane_kernels(example(), "p", lanes=2 * W) is not one
    assert kernels.lane_kernels(example(), "p", lanes=2 * W, dtype="float32") is not one
    assert kernels.lane_kernels(example(), 0, lanes=W) is not one
    assert len(list(folder.glob("*.kernels"))) == 4


def test_second_process_hits(folder: Path) -> None:
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=os.environ)
        for _ in range(2)
    ]
    first, second = (r.stdout.split() for r in runs)
    assert first[0] == "False" and float(first[1]) > 0
    assert second == ["True", "0.0"]


def _flip_code(raw: bytes) -> bytes:
    changed = bytearray(raw)
    changed[-100] ^= 0xFF
    return bytes(changed)


def _other_key(raw: bytes) -> bytes:
    header, code = raw.split(b"\n", 1)
    return json.dumps(json.loads(header) | {"key": "0" * 64}).encode() + b"\n" + code


def _old_format(raw: bytes) -> bytes:
    header, code = raw.split(b"\n", 1)
    return json.dumps(json.loads(header) | {"format": 0}).encode() + b"\n" + code


def _without_sum(raw: bytes) -> bytes:
    header, code = raw.split(b"\n", 1)
    return json.dumps({k: v for k, v in json.loads(header).items() if k != "sha256"}).encode() + b"\n" + code


@pytest.mark.parametrize(
    "damage",
    [
        _flip_code,
        _other_key,
        _old_format,
        _without_sum,
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:10],
        lambda raw: b"",
        lambda raw: b"\0" * 5000,
        lambda raw: b"[1, 2]\n" + raw,
        lambda raw: b"null\n",
        lambda raw: raw + b"tail",
    ],
    ids=["flipped", "key", "format", "no_sum", "half", "start", "empty", "zeros", "list", "null", "longer"],
)
def test_damaged_entry_is_built_again(damage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    again(monkeypatch)
    (entry,) = folder.glob("*.kernels")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    rebuilt = again(monkeypatch)
    assert not rebuilt.from_cache
    assert_right(rebuilt)
    assert json.loads(entry.read_bytes().split(b"\n", 1)[0])["key"] == entry.stem, "the entry was not repaired"
    assert again(monkeypatch).from_cache


def test_entry_of_another_function_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again(monkeypatch)
    (entry,) = folder.glob("*.kernels")
    kernels.lane_kernels(function("other", lambda x, p: ca.cos(x * p), [2], 2), "p", lanes=W)
    (foreign,) = set(folder.glob("*.kernels")) - {entry}
    entry.write_bytes(foreign.read_bytes())
    rebuilt = again(monkeypatch)
    assert not rebuilt.from_cache
    assert_right(rebuilt)


def test_folder_that_cannot_be_made_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = folder / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("CTRLODE_CACHE_DIR", str(blocked / "cache"))
    made = again(monkeypatch)
    assert not made.from_cache
    assert_right(made)


def test_failing_disk_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    assert_right(again(monkeypatch))
    assert list(folder.iterdir()) == []


def test_clear(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again(monkeypatch)
    (folder / "notes.txt").write_text("mine")
    assert cache.clear_cache() == 1
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    assert cache.clear_cache() == 0


def test_key_depends_on_every_part() -> None:
    assert cache.key_of("ab", "c") != cache.key_of("a", "bc")
    assert cache.key_of("a") == cache.key_of("a") and len(cache.key_of("a")) == 2 * hashlib.sha256().digest_size


def test_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CTRLODE_CACHE_DIR")
    assert cache.cache_directory().name == "ctrlode_casadi"
    monkeypatch.setenv("CTRLODE_CACHE_DIR", "/somewhere/else")
    assert cache.cache_directory() == Path("/somewhere/else")
