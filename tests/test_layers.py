"""Imports point down the layers of docs/design.md, function-level imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "ctrlode_casadi"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

# A layer may import the layers named here (and itself). `top` is the package's own __init__ and __main__.
_NUMERICAL = {"base", "model", "controls", "lowering", "integrate", "fitting", "ocp", "training"}
ALLOWED: dict[str, set[str]] = {
    "base": set(),
    "model": {"base"},
    "controls": {"base"},
    "lowering": {"base"},
    "integrate": {"base", "model", "controls", "lowering"},
    "fitting": {"base", "model", "controls", "lowering", "integrate"},
    "ocp": _NUMERICAL - {"ocp", "training"},
    "training": _NUMERICAL - {"training"},
    "exchange": _NUMERICAL,
    "plotting": _NUMERICAL,
    "cli": _NUMERICAL | {"exchange", "plotting", "top"},
    "top": _NUMERICAL | {"exchange", "plotting", "cli"},
}
OPTIMISERS = ("scipy.optimize", "cyipopt")
HEAVY = {"numba", "llvmlite", "matplotlib", "torch", "jax", "dask", "pandas", "xarray"}


def module_name(path: Path) -> str:
    parts = (PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    parts = module.split(".")
    return "top" if len(parts) == 1 or parts[1] == "__main__" else parts[1]


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def runs_later(node: ast.AST) -> bool:
    """Is this code not executed when the module is loaded?"""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def import_nodes(tree: ast.AST, function_level: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif function_level or not runs_later(node):
            yield from import_nodes(node, function_level)


def targets(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names that an import statement loads; `from a import b` gives `a.b` for a module b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parts = module.split(".")
        anchor = parts[: len(parts) - node.level + (1 if is_package else 0)]
        base = ".".join([*anchor, *([node.module] if node.module else [])])
    for alias in node.names:
        full = f"{base}.{alias.name}"
        yield full if full in MODULES or not base.startswith(PACKAGE) else base


def imports_of(module: str, function_level: bool = True) -> list[tuple[str, int]]:
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return [
        (target, node.lineno)
        for node in import_nodes(tree, function_level)
        for target in targets(node, module, path.name == "__init__.py")
    ]


def in_package(name: str) -> bool:
    return name == PACKAGE or name.startswith(PACKAGE + ".")


def test_every_module_belongs_to_a_known_layer() -> None:
    unknown = {module for module in MODULES if layer_of(module) not in ALLOWED}
    assert not unknown, f"new top-level folders need a row in ALLOWED: {sorted(unknown)}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module: str) -> None:
    layer = layer_of(module)
    wrong = [
        f"{MODULES[module].name}:{line} imports {target}"
        for target, line in imports_of(module)
        if in_package(target) and layer_of(target) not in ALLOWED[layer] | {layer}
    ]
    assert not wrong, f"layer {layer} may import {sorted(ALLOWED[layer])} only"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_optimisers_stay_in_the_upper_layers(module: str) -> None:
    if layer_of(module) in {"fitting", "ocp", "training", "exchange", "cli", "top"}:
        return
    found = [f"line {line}: {target}" for target, line in imports_of(module) if target.startswith(OPTIMISERS)]
    assert not found


def test_no_import_cycle() -> None:
    """Every edge counts, function-level imports too; only the package's lazy __init__ may name all layers."""
    graph = {
        module: {
            target
            for target, _ in imports_of(module)
            if target in MODULES and target not in {module, PACKAGE} and module != PACKAGE
        }
        for module in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1]))


def test_allowed_is_itself_without_cycle_below_the_top() -> None:
    below = {layer: uses for layer, uses in ALLOWED.items() if layer not in {"top", "cli"}}
    order = list(TopologicalSorter(below).static_order())
    assert order.index("base") == 0
    assert order.index("lowering") < order.index("integrate") < order.index("fitting") < order.index("ocp")
    assert order.index("ocp") < order.index("training")
    assert "controls" not in ALLOWED["model"] and "model" not in ALLOWED["controls"]
    assert ALLOWED["lowering"] == {"base"}


def test_the_walker_sees_function_level_and_relative_imports() -> None:
    """The test of the test: a hidden import is found, one for type checking alone is not a load-time edge."""
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import one\n"
        "def f():\n    from ..fitting import two\n"
        "class C:\n    import three\n"
    )
    tree = ast.parse(source)
    module = f"{PACKAGE}.model.network"
    everything = {t for node in import_nodes(tree, True) for t in targets(node, module, False)}
    at_load = {t for node in import_nodes(tree, False) for t in targets(node, module, False)}
    assert {"one", "three", f"{PACKAGE}.fitting"} <= everything
    assert at_load == {"typing.TYPE_CHECKING", "three"}


def test_heavy_packages_are_not_loaded_by_what_the_package_loads_at_start() -> None:
    """Follow load-time imports from the package's __init__: none of them may reach a heavy package."""
    if PACKAGE not in MODULES:
        pytest.fail(f"{PACKAGE}/__init__.py is missing")
    seen: set[str] = set()
    queue = [PACKAGE]
    found: list[str] = []
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        seen.add(module)
        for target, line in imports_of(module, function_level=False):
            if target.split(".")[0] in HEAVY or target.startswith("scipy.optimize"):
                found.append(f"{module}:{line} imports {target}")
            parts = target.split(".")
            queue += [name for n in range(1, len(parts) + 1) if (name := ".".join(parts[:n])) in MODULES]
    assert not found
