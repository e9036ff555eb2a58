"""The vector-Jacobian program of a function: built by CasADi's AD, read, simplified and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import casadi as ca

from .accumulate import Leaf, Outer, find_pieces
from .branches import share_branches
from .program import Program
from .reader import read
from .simplify import derivative_exp_from_expm1, simplify
from .split import Split, split, uniform_values
from .views import Views, find_views


def vjp_function(function: ca.Function, uniform: int) -> ca.Function:
    """(inputs, seeds) -> (outputs, bars of the varying inputs, bar of the uniform input), made by CasADi's AD."""
    ins = [ca.MX.sym(function.name_in(i), function.sparsity_in(i)) for i in range(function.n_in())]
    outs = function.call(ins, function.is_a("MXFunction"), False)
    seeds = [ca.MX.sym(f"seed{j}", o.sparsity()) for j, o in enumerate(outs)]
    stacked = ca.vertcat(*[_nonzeros(o) for o in outs])
    seed = ca.vertcat(*[_nonzeros(s) for s in seeds])
    order = [i for i in range(len(ins)) if i != uniform] + [uniform]
    bars = [ca.project(ca.jtimes(stacked, ins[i], seed, True), ins[i].sparsity()) for i in order]
    return ca.Function("vjp", [*ins, *seeds], [*outs, *bars], {"cse": True})


def _nonzeros(x: ca.MX) -> ca.MX:
    return x if x.is_column() and x.is_dense() else ca.vec(x.nz[:])


@dataclass(frozen=True)
class Derivative:
    """A vector-Jacobian program with its parts."""

    program: Program
    views: Views
    parts: Split
    pieces: tuple[Leaf | Outer, ...]
    n_in: int
    n_out: int
    uniform: int

    @property
    def primal(self) -> tuple[int, ...]:
        """Values of F's outputs."""
        return self.program.outputs[: self.n_out]

    @property
    def bars(self) -> tuple[int, ...]:
        """Values of the bars of F's varying inputs."""
        return self.program.outputs[self.n_out :]


def differentiate(function: ca.Function, uniform: int) -> Derivative:
    """Read, simplify and split the vector-Jacobian function of ``function``."""
    n_in, n_out = function.n_in(), function.n_out()
    program = simplify(read(vjp_function(function, uniform)))
    primal_values = program.needed_for(program.outputs[:n_out])
    program = derivative_exp_from_expm1(program, set(range(len(program.sizes))) - primal_values)
    program = share_branches(program, program.needed_for(program.outputs[:n_out]))
    p = program.inputs[uniform]
    varying = frozenset(range(len(program.sizes))) - uniform_values(program, [p])
    pieces = tuple(find_pieces(program, program.outputs[-1], varying))
    roots = [*program.outputs[n_out:-1], *_piece_values(pieces)]
    needed = program.needed_for([*program.outputs[:-1], *roots])
    program = program.with_instructions(
        [i for i in program.instructions if i.output in needed],
        outputs=program.outputs[:-1],
        output_names=program.output_names[:-1],
    )
    parts = split(program, [p], program.inputs[n_in:], program.outputs[:n_out], roots)
    views = find_views(program, parts.tape, pieces)
    return Derivative(program, views, parts, pieces, n_in, n_out, uniform)


def _piece_values(pieces: Sequence[Leaf | Outer]) -> list[int]:
    values = []
    for piece in pieces:
        values += [piece.value] if isinstance(piece, Leaf) else [piece.left[0], piece.right[0]]
    return values
