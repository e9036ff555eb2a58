"""Lane kernels against CasADi's virtual machine: operations, shapes and degenerate functions."""

from __future__ import annotations

import pytest

from lowering.cases import EDGES, OPERATIONS
from lowering.compare import check_kernels

#: Registers per entry go round the table, so that each width meets many constructs at few compilations; 0 is one lane.
_TURN = (1, 2, 4)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    turn = list(OPERATIONS).index(name)
    check_kernels(OPERATIONS[name](), registers=[_TURN[turn % 3], 0], tolerance=1e-11)


@pytest.mark.parametrize("name", EDGES)
def test_degenerate(name: str) -> None:
    turn = list(EDGES).index(name)
    check_kernels(EDGES[name](), registers=[_TURN[turn % 3], 0])
