"""What the README says is what continuous integration runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import ctrlode_casadi as co

ROOT = Path(__file__).resolve().parent.parent
TEST_COMMAND = re.compile(r"python3 -m venv [^\n`']*-m pytest[^\n`']*")


def commands(path: Path) -> list[str]:
    """The whole line of every test command: environment, installation, tests."""
    return TEST_COMMAND.findall(path.read_text(encoding="utf-8"))


def test_readme_and_ci_run_the_same_test_command() -> None:
    readme, ci = commands(ROOT / "README.md"), commands(ROOT / ".ci" / "run")
    assert len(readme) == 1
    assert readme == ci


def test_ci_is_strict_and_names_no_place() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert not re.search(r"https?://|/home/|/root/|/opt/|index-url", text)


def test_the_version_stands_in_one_place() -> None:
    version = re.compile(r"^(?:__version__|version) *= *\"", re.MULTILINE)
    found = [
        path.relative_to(ROOT).as_posix()
        for path in [ROOT / "pyproject.toml", *sorted((ROOT / "ctrlode_casadi").rglob("*.py"))]
        if version.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["ctrlode_casadi/__init__.py"]


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "ctrlode_casadi" / "py.typed").is_file()


def test_type_checkers_see_every_public_name_from_its_own_module() -> None:
    """Names load lazily; the imports under TYPE_CHECKING must say the same."""
    tree = ast.parse((ROOT / "ctrlode_casadi" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == co._HOME | co._TABLES | {name: home.rpartition(".")[0] for name, home in co._MODULES.items()}
