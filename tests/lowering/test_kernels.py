"""Lane kernels against CasADi's virtual machine: operations, shapes and degenerate functions."""

from __future__ import annotations

import casadi as ca
import pytest

from lowering.cases import EDGES, OPERATIONS, function
from lowering.compare import check_kernels

#: Registers per entry go round the table, so that each width meets many constructs at few compilations; 0 is one lane.
_TURN = (1, 2, 4)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    turn = list(OPERATIONS).index(name)
    check_kernels(OPERATIONS[name](), registers=[_TURN[turn % 3], 0], tolerance=1e-11)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_parts_of_a_vector_of_one_trajectory(n: int) -> None:
    """Narrow parts read again as one wide vector: this aborted inside LLVM while they were kept in registers."""

    def parts(x: ca.MX, u: ca.MX, p: ca.MX) -> list[ca.MX]:
        two, four = ca.vertcat(2 * u, u), ca.vertcat(2 * u, u, 3 * u, p * x[0])
        return [-two, -four, ca.vertcat(two, p)[: 2 * n] - 1]

    f = function("parts", parts, [3, n], n)
    check_kernels(f, registers=[0])


@pytest.mark.parametrize("name", EDGES)
def test_degenerate(name: str) -> None:
    turn = list(EDGES).index(name)
    check_kernels(EDGES[name](), registers=[_TURN[turn % 3], 0])
