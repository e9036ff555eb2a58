"""What the generated code depends on besides the function and the machine."""

from __future__ import annotations

from importlib.metadata import version

#: Counts changes of the generated code; raise it with every change of an emitter.
CODE_VERSION = 10

FINGERPRINT = f"{CODE_VERSION}|llvmlite {version('llvmlite')}|casadi {version('casadi')}"
