"""An objective as a node of CasADi graphs, with first and second derivatives.

A Callback must stay alive as long as any function that contains it. CasADi does not keep it, so they are listed here.
"""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np

from ..base.arrays import Float64Array
from .protocol import Differentiable

_ALIVE: list[ca.Callback] = []


class _Memory:
    """Gradient at the last point that was asked for, so that value and gradient cost one evaluation."""

    def __init__(self, objective: Differentiable) -> None:
        self.objective = objective
        self._last: tuple[Float64Array, float, Float64Array] | None = None

    def value(self, p: Float64Array) -> float:
        last = self._last
        if last is not None and np.array_equal(last[0], p):
            return last[1]
        return self.objective.value(p)

    def gradient(self, p: Float64Array) -> Float64Array:
        last = self._last
        if last is None or not np.array_equal(last[0], p):
            value, gradient = self.objective(p)
            self._last = last = (p, value, gradient)
        return last[2]


class _Node(ca.Callback):
    """Base of the three nodes: inputs p, then the outputs of the function that this one is the derivative of."""

    def __init__(self, name: str, memory: _Memory, inputs: list[str], outputs: list[str], options: Any) -> None:
        ca.Callback.__init__(self)
        self.memory = memory
        self.n = memory.objective.np_total
        self.inputs, self.outputs = inputs, outputs
        _ALIVE.append(self)
        self.construct(name, options)

    def get_n_in(self) -> int:
        return len(self.inputs)

    def get_n_out(self) -> int:
        return len(self.outputs)

    def get_name_in(self, i: int) -> str:
        return self.inputs[i]

    def get_name_out(self, i: int) -> str:
        return self.outputs[i]

    def get_sparsity_in(self, i: int) -> ca.Sparsity:
        """p (n, 1), then J (1, 1), then its Jacobian (1, n)."""
        return ca.Sparsity.dense(*((self.n, 1), (1, 1), (1, self.n))[i])

    def has_eval_buffer(self) -> bool:
        return True

    def point(self, arguments: Any) -> Float64Array:
        """A copy of the input p."""
        return np.frombuffer(arguments[0], np.float64).copy() if self.n else np.zeros(0)


class _Value(_Node):
    """J(p)."""

    def get_sparsity_out(self, i: int) -> ca.Sparsity:
        return ca.Sparsity.dense(1, 1)

    def eval_buffer(self, arguments: Any, results: Any) -> int:
        np.frombuffer(results[0], np.float64)[:] = self.memory.value(self.point(arguments))
        return 0

    def has_jacobian(self) -> bool:
        return True

    def get_jacobian(self, name: str, inames: Any, onames: Any, options: Any) -> ca.Function:
        return _Jacobian(name, self.memory, list(inames), list(onames), options)


class _Jacobian(_Node):
    """dJ/dp (1, n)."""

    def get_sparsity_out(self, i: int) -> ca.Sparsity:
        return ca.Sparsity.dense(1, self.n)

    def eval_buffer(self, arguments: Any, results: Any) -> int:
        np.frombuffer(results[0], np.float64)[:] = self.memory.gradient(self.point(arguments))
        return 0

    def has_jacobian(self) -> bool:
        return True

    def get_jacobian(self, name: str, inames: Any, onames: Any, options: Any) -> ca.Function:
        return _Hessian(name, self.memory, list(inames), list(onames), options)


class _Hessian(_Node):
    """The Hessian (n, n), and zeros for the derivative with respect to J."""

    def get_sparsity_out(self, i: int) -> ca.Sparsity:
        return ca.Sparsity.dense(self.n, self.n) if i == 0 else ca.Sparsity(self.n, 1)

    def eval_buffer(self, arguments: Any, results: Any) -> int:
        hessian = self.memory.objective.hess(self.point(arguments))
        np.frombuffer(results[0], np.float64)[:] = hessian.ravel()
        return 0


def make_function(objective: Differentiable, name: str) -> ca.Function:
    """The function (p) -> J."""
    node = _Value(f"{name}_node", _Memory(objective), ["p"], ["J"], {})
    p = ca.MX.sym("p", objective.np_total)
    return ca.Function(name, [p], [node(p)], ["p"], ["J"])
