"""`python -m ctrlode_casadi`: see :mod:`ctrlode_casadi.cli.main`."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
