"""Compiled NLP functions as CasADi functions, on buffers.

CasADi refers to a Callback without owning it: whoever holds a solver must hold its `Callbacks`. Nothing in the process
keeps them alive beyond that, so a program that makes many solvers does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array

#: Nonzeros; None for an input of zeros or an output nobody needs.
Buffer: TypeAlias = memoryview | None
#: Fills an output from the inputs.
Fill: TypeAlias = Callable[[Sequence[Float64Array], Float64Array], None]


class Functions(Protocol):
    """A compiled program; `compiled.CompiledNLP` says what each part is."""

    n_w: int
    n_g: int
    n_q: int
    jacobian_sparsity: ca.Sparsity
    hessian_sparsity: ca.Sparsity

    def objective(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """f."""

    def constraints(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """g."""

    def gradient(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """Gradient of f."""

    def jacobian(self, w: Float64Array, q: Float64Array, out: Float64Array) -> None:
        """Nonzeros of the Jacobian of g."""

    def hessian(self, w: Float64Array, q: Float64Array, lam_f: float, lam_g: Float64Array, out: Float64Array) -> None:
        """Nonzeros of the Hessian of the Lagrangian."""


class Node(ca.Callback):
    """A function of the program.

    Parameters
    ----------
    name
        Name of the function.
    inputs, outputs
        Sparsity of each, by name.
    fill
        For each output, what fills it.
    """

    def __init__(
        self, name: str, inputs: dict[str, ca.Sparsity], outputs: dict[str, ca.Sparsity], fill: Sequence[Fill]
    ) -> None:
        ca.Callback.__init__(self)
        self._names = list(inputs), list(outputs)
        self._sparsities = list(inputs.values()), list(outputs.values())
        self._zeros = [np.zeros(s.nnz()) for s in inputs.values()]
        self._fill = fill
        self.construct(name, {})

    def get_n_in(self) -> int:
        """Number of inputs."""
        return len(self._names[0])

    def get_n_out(self) -> int:
        """Number of outputs."""
        return len(self._names[1])

    def get_name_in(self, i: int) -> str:
        """Name of input i."""
        return self._names[0][i]

    def get_name_out(self, i: int) -> str:
        """Name of output i."""
        return self._names[1][i]

    def get_sparsity_in(self, i: int) -> ca.Sparsity:
        """Sparsity of input i."""
        return self._sparsities[0][i]

    def get_sparsity_out(self, i: int) -> ca.Sparsity:
        """Sparsity of output i."""
        return self._sparsities[1][i]

    def has_eval_buffer(self) -> bool:
        """Buffers are passed in place, not copied."""
        return True

    def eval_buffer(self, arg: Sequence[Buffer], res: Sequence[Buffer]) -> int:
        """Fill the outputs that are asked for."""
        inputs = [z if a is None or not z.size else np.frombuffer(a) for a, z in zip(arg, self._zeros, strict=True)]
        for buffer, fill in zip(res, self._fill, strict=True):
            if buffer is not None and len(buffer):
                fill(inputs, np.frombuffer(buffer))
        return 0


@dataclass(frozen=True, eq=False)
class Callbacks:
    """The functions of a program in the forms that solvers ask for.

    Attributes
    ----------
    problem
        ``(x, p) -> (f, g)``.
    objective, constraints, gradient, jacobian, hessian
        As in `oracle.Oracle`.
    both
        ``(x, p) -> (f, grad f, g, jac g)``.
    symmetric
        The Hessian with both triangles.
    """

    problem: Node
    objective: Node
    constraints: Node
    gradient: Node
    jacobian: Node
    hessian: Node
    both: Node
    symmetric: Node


def callbacks(nlp: Functions) -> Callbacks:
    """The CasADi functions of a compiled program."""
    upper = nlp.hessian_sparsity
    full, mirror = _mirrored(upper)
    memory = np.empty(upper.nnz())

    def both_triangles(a: Sequence[Float64Array], out: Float64Array) -> None:
        nlp.hessian(a[0], a[1], a[2][0], a[3], memory)
        np.take(memory, mirror, out=out, mode="clip")

    point = {"x": _column(nlp.n_w), "p": _column(nlp.n_q)}
    seeds = {"lam_f": _column(1), "lam_g": _column(nlp.n_g)}
    made: dict[str, tuple[ca.Sparsity, Fill]] = {
        "f": (_column(1), lambda a, out: nlp.objective(a[0], a[1], out)),
        "g": (_column(nlp.n_g), lambda a, out: nlp.constraints(a[0], a[1], out)),
        "grad_f_x": (_column(nlp.n_w), lambda a, out: nlp.gradient(a[0], a[1], out)),
        "jac_g_x": (nlp.jacobian_sparsity, lambda a, out: nlp.jacobian(a[0], a[1], out)),
        "triu_hess_gamma_x_x": (upper, lambda a, out: nlp.hessian(a[0], a[1], a[2][0], a[3], out)),
        "hess_gamma_x_x": (full, both_triangles),
    }

    def node(name: str, outputs: Sequence[str], **more: Any) -> Node:
        return Node(name, point | more, {o: made[o][0] for o in outputs}, [made[o][1] for o in outputs])

    return Callbacks(
        problem=node("nlp", ["f", "g"]),
        objective=node("nlp_f", ["f"]),
        constraints=node("nlp_g", ["g"]),
        gradient=node("nlp_grad_f", ["f", "grad_f_x"]),
        jacobian=node("nlp_jac_g", ["g", "jac_g_x"]),
        hessian=node("nlp_hess_l", ["triu_hess_gamma_x_x"], **seeds),
        both=node("nlp_jac_fg", ["f", "grad_f_x", "g", "jac_g_x"]),
        symmetric=node("nlp_hess_l", ["hess_gamma_x_x"], **seeds),
    )


def _column(n: int) -> ca.Sparsity:
    return ca.Sparsity.dense(n, 1)


def _mirrored(upper: ca.Sparsity) -> tuple[ca.Sparsity, np.ndarray]:
    """The symmetric pattern, and for each of its nonzeros the one of the upper triangle."""
    numbered = ca.DM(upper, np.arange(1.0, upper.nnz() + 1.0))
    full = ca.triu2symm(numbered)
    return full.sparsity(), np.array(full.nonzeros(), dtype=np.intp) - 1
