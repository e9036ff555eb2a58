"""`python -m ctrlode_casadi cache [--clear]`."""

from __future__ import annotations

from pathlib import Path


def folder_size(folder: Path) -> tuple[int, int]:
    """Return the number of files under `folder` and their size in bytes; (0, 0) where it does not exist."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return len(sizes), sum(sizes)


def describe() -> str:
    """One line: the folder of compiled code, its number of files and size."""
    from ..lowering.cache import cache_directory

    folder = cache_directory()
    count, size = folder_size(folder)
    return f"{folder}: {count} files, {size / 1e6:.1f} MB"


def clear() -> str:
    """Remove every entry and say how many there were."""
    from ..lowering.cache import cache_directory, clear_cache

    removed = clear_cache()
    return f"removed {removed} {'entry' if removed == 1 else 'entries'} from {cache_directory()}"
