"""Error classes are what SciPy users catch, and messages help."""

from __future__ import annotations

import pickle

import pytest

from ctrlode_casadi import base
from ctrlode_casadi.base.errors import unknown_name


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (base.ModelError, ValueError),
        (base.ControlError, ValueError),
        (base.DataError, ValueError),
        (base.SolverError, RuntimeError),
        (base.UnsupportedOperation, NotImplementedError),
        (base.MissingExtra, ImportError),
    ],
)
def test_classes(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, base.CtrlodeError) and issubclass(error, builtin)


def test_warning_class() -> None:
    assert issubclass(base.IntegrationWarning, RuntimeWarning)


def test_missing_extra_has_the_pip_line_and_pickles() -> None:
    error = base.MissingExtra("sol.plot()", "matplotlib", "plot")
    assert "pip install 'ctrlode_casadi[plot]'" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_unknown_name_suggests_the_nearest() -> None:
    assert "did you mean 'Tsit5'?" in unknown_name("solver", "tist5", ["Tsit5", "RK4"])
    assert "did you mean" not in unknown_name("solver", "qqqqqq", ["Tsit5", "RK4"])


def test_every_status_has_a_sentence() -> None:
    assert [int(s) for s in base.Status] == list(range(11))
    for status in base.Status:
        assert status.message.endswith(".")
