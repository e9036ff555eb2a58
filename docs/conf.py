"""Sphinx configuration: `python -m sphinx -W -b html docs docs/_build/html`."""

from __future__ import annotations

import ctrlode_casadi

project = "ctrlode_casadi"
author = "the ctrlode_casadi developers"
copyright = "2026, the ctrlode_casadi developers"
version = release = ctrlode_casadi.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
templates_path = ["_templates"]
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# Members of the package's own bases are shown, those of these built-in ones are not.
autodoc_default_options = {
    "members": True,
    "inherited-members": "ABC,BaseException,Enum,int",
    "special-members": "__call__",
}
numpydoc_show_class_members = False
exclude_patterns = ["_build", "_templates"]
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
