"""`python -m ctrlode_casadi info`: what is installed and what the machine offers."""

from __future__ import annotations

import importlib.util
import platform
from importlib import metadata

from ..base.processors import available_threads

CORE = ("numpy", "scipy", "casadi", "numba", "llvmlite")

# Extra -> modules to look for (never imported here).
EXTRAS: dict[str, tuple[str, ...]] = {
    "plot": ("matplotlib", "tqdm"),
    "data": ("pandas", "xarray"),
    "onnx": ("onnx",),
    "io": ("safetensors", "h5py"),
    "sklearn": ("sklearn",),
    "distributed": ("dask", "distributed"),
    "examples": ("nonlinear_benchmarks", "matplotlib"),
}

# The instruction sets that decide the width of a vector register, widest first: bytes per register.
REGISTER_BYTES = (("avx512f", 64), ("avx", 32), ("sse2", 16), ("neon", 16))


def cpu() -> tuple[str, list[str]]:
    """Return LLVM's name of this CPU and the names of its features, sorted."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return binding.get_host_cpu_name(), sorted(name for name, present in features.items() if present)


def register_bytes(features: list[str]) -> int:
    """Width of the widest vector register in bytes; 16 where no known feature is present."""
    return next((width for name, width in REGISTER_BYTES if name in features), 16)


def extras() -> dict[str, bool]:
    """Which optional extras have all their modules installed."""
    return {
        name: all(importlib.util.find_spec(module) is not None for module in modules)
        for name, modules in EXTRAS.items()
    }


def describe() -> str:
    """Return the report as text, one fact a line."""
    from .. import __version__
    from ..lowering.jit import host
    from . import cache

    name, features = cpu()
    vector_bytes = host().vector_bytes
    vector = [feature for feature in features if feature.startswith(("avx", "fma", "sse4", "neon", "sve"))]
    present = extras()
    rows = [
        ("ctrlode_casadi", __version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((package, metadata.version(package)) for package in CORE),
        ("cpu", name),
        ("vector features", " ".join(vector) or "none known"),
        ("registers", f"{8 * register_bytes(features)} bits"),
        ("lanes per vector", f"{vector_bytes // 8} float64, {vector_bytes // 4} float32"),
        ("threads", str(available_threads())),
        ("cache", cache.describe()),
        ("extras present", " ".join(extra for extra, there in present.items() if there) or "none"),
        ("extras absent", " ".join(extra for extra, there in present.items() if not there) or "none"),
    ]
    return "\n".join(f"{label:<20} {value}" for label, value in rows)
