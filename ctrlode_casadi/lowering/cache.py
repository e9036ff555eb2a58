"""Cache of compiled kernels in the user's cache directory.

An entry is one file: a header line in JSON (sizes, symbols, checksum) and the object code. It is written to a temporary
name and renamed, so that readers see whole files only. A file whose checksum or key does not match is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_SUFFIX = ".kernels"
_FORMAT = 2


def cache_directory() -> Path:
    """Where compiled kernels are kept: ``$CTRLODE_CACHE_DIR``, else the platform's cache folder for the user."""
    chosen = os.environ.get("CTRLODE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    base = os.environ.get(variable)
    if base:
        return Path(base) / "ctrlode_casadi"
    below = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    try:
        return Path.home() / below / "ctrlode_casadi"
    except RuntimeError:
        # A user without a home, as in some containers: nowhere, since others could put code into a folder in /tmp.
        return Path(os.devnull) / "ctrlode_casadi"


def clear_cache() -> int:
    """Remove all compiled kernels and return how many there were."""
    removed = 0
    for path in cache_directory().glob("*" + _SUFFIX):
        with contextlib.suppress(OSError):
            path.unlink()
            removed += 1
    return removed


def key_of(*parts: str) -> str:
    """Name of an entry: a hash of everything that the code depends on."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def _checksum(data: dict[str, Any], code: bytes) -> str:
    """Of the code and the sizes that belong to it: a wrong size would overrun work arrays."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode() + code).hexdigest()


def load(key: str) -> tuple[dict[str, Any], bytes] | None:
    """(metadata, object code) of an entry, None if there is none or it is damaged."""
    try:
        raw = (cache_directory() / (key + _SUFFIX)).read_bytes()
        header, code = raw.split(b"\n", 1)
        meta = json.loads(header)
        data = meta["data"]
        sound = meta["format"] == _FORMAT and meta["key"] == key and meta["sha256"] == _checksum(data, code)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (data, code) if sound else None


def store(key: str, data: dict[str, Any], code: bytes) -> None:
    """Write an entry; a cache that cannot be written is no error."""
    meta = {"format": _FORMAT, "key": key, "sha256": _checksum(data, code), "data": data}
    with contextlib.suppress(OSError):
        folder = cache_directory()
        folder.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(json.dumps(meta).encode() + b"\n" + code)
            os.replace(temporary, folder / (key + _SUFFIX))
        except OSError:
            os.unlink(temporary)
            raise
