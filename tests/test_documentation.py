"""What the README and the pages say runs, and the API page names everything that is public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ctrlode_casadi as co

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = {"activations", "init"}


def python_lines(page: Path) -> str:
    """The code blocks of a page, everything else blanked out: line numbers stay those of the page."""
    text = page.read_text(encoding="utf-8")
    code, end = "", 0
    for block in BLOCK.finditer(text):
        code += "\n" * text.count("\n", end, block.start(1)) + block.group(1)
        end = block.end(1)
    return code


@pytest.mark.parametrize("page", [page for page in PAGES if python_lines(page)], ids=lambda page: page.stem)
def test_code_blocks_run_and_print_what_they_say(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of a page share one namespace; a comment behind `print` is what it must print."""
    namespace: dict[str, object] = {}
    code = python_lines(page)
    exec(compile(code, str(page), "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    promised = re.findall(r"^print\(.*\)  +# ([^:\n]*)", code, re.MULTILINE)
    assert [line.strip() for line in printed] == [text.strip() for text in promised]


def test_api_page_names_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^   (\w+)$", page, re.MULTILINE))
    assert named == set(co.__all__) - MODULES - {"__version__"}


def test_every_public_name_has_a_docstring() -> None:
    public = set(co.__all__) - {"__version__"}
    assert not [name for name in sorted(public) if not (getattr(co, name).__doc__ or "").strip()]


def test_links_between_pages_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
