"""Splitting a vector-Jacobian program into prologue, forward and reverse parts.

Three cuts are made. *Uniform* values depend on the parameters only: they are computed once per call. *Primal* values do
not depend on the seeds: the forward kernel computes them. What the reverse kernel needs of them goes onto the *tape*;
which values are taped is a minimum vertex cut, where a value may also be computed again if only cheap operations lie
between it and the tape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .ops import ELEMENTWISE
from .program import Program

_CHEAP_MOVEMENT = frozenset({"gather", "concat"})
_UNBOUNDED = 1 << 28


@dataclass(frozen=True)
class Split:
    """Parts of a program; every field holds value numbers.

    Parameters
    ----------
    uniform : set
        Values that depend on uniform inputs and constants only.
    forward, reverse : set
        Varying values that the forward (reverse) kernel computes.
    tape : tuple
        Primal values that the reverse kernel reads from the tape.
    """

    uniform: frozenset[int]
    forward: frozenset[int]
    reverse: frozenset[int]
    tape: tuple[int, ...]


def uniform_values(program: Program, uniform_inputs: Iterable[int]) -> set[int]:
    """Values that do not vary between lanes."""
    found = set(uniform_inputs)
    for ins in program.instructions:
        if all(i in found for i in ins.inputs):
            found.add(ins.output)
    return found


def is_cheap(op: str) -> bool:
    """Whether computing the operation again costs no more than a load."""
    return op in _CHEAP_MOVEMENT or (op in ELEMENTWISE and ELEMENTWISE[op].cheap)


def split(
    program: Program,
    uniform_inputs: Iterable[int],
    seeds: Iterable[int],
    primal: Sequence[int],
    roots: Sequence[int],
) -> Split:
    """Split a program.

    Parameters
    ----------
    program : Program
        Computes the primal outputs and, from them and the seeds, the values ``roots``.
    uniform_inputs, seeds : iterable of int
        Inputs that do not vary between lanes; inputs that only the reverse kernel has.
    primal, roots : sequence of int
        What the forward and the reverse kernel are for.
    """
    uniform = uniform_values(program, uniform_inputs)
    adjoint = program.depends_on(seeds)
    late = {v for v in program.needed_for(roots, stop=uniform) if v in adjoint}
    needed = {v for v in roots if v not in adjoint and v not in uniform}
    for v in late:
        if v in program.producer:
            needed |= {i for i in program.producer[v].inputs if i not in adjoint and i not in uniform}
    tape = minimum_cut(program, needed, uniform)
    forward = program.needed_for([*primal, *tape], stop=uniform) - uniform
    again = program.needed_for(needed, stop=uniform | tape) - uniform - tape
    reverse = (late | again) - uniform
    return Split(frozenset(uniform), frozenset(forward), frozenset(reverse), tuple(sorted(tape)))


def minimum_cut(program: Program, needed: set[int], uniform: set[int]) -> set[int]:
    """Cheapest set of values from which every needed value follows by cheap operations.

    Minimum vertex cut by maximum flow (SciPy), the weight of a value being its length.
    """
    reach = program.needed_for(needed, stop=uniform) - uniform
    stop = {v for v in reach if v not in program.producer or not is_cheap(program.producer[v].op)}
    reach = program.needed_for(needed, stop=uniform | stop) - uniform
    if not stop & reach:
        return set()
    nodes = sorted(reach)
    number = {v: i for i, v in enumerate(nodes)}
    source, sink = 2 * len(nodes), 2 * len(nodes) + 1
    edges: dict[tuple[int, int], int] = {}
    for v in nodes:
        i = number[v]
        edges[2 * i, 2 * i + 1] = max(program.sizes[v], 1)
        if v in stop:
            edges[source, 2 * i] = _UNBOUNDED
        else:
            for a in program.producer[v].inputs:
                if a in number:
                    edges[2 * number[a] + 1, 2 * i] = _UNBOUNDED
        if v in needed:
            edges[2 * i + 1, sink] = _UNBOUNDED
    reachable = _source_side(edges, source, sink, 2 * len(nodes) + 2)
    return {v for v in nodes if 2 * number[v] in reachable and 2 * number[v] + 1 not in reachable}


def _source_side(edges: dict[tuple[int, int], int], source: int, sink: int, n: int) -> set[int]:
    """Nodes on the source's side of a minimum cut: those still reachable in the residual graph."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    rows, cols = (np.array(q, dtype=np.int32) for q in zip(*edges, strict=True))
    capacity = csr_array((np.array(list(edges.values()), dtype=np.int32), (rows, cols)), shape=(n, n))
    flow = maximum_flow(capacity, source, sink).flow
    residual = csr_array(capacity - flow)
    residual.eliminate_zeros()
    order = breadth_first_order(residual, source, return_predecessors=False)
    return {int(i) for i in order}
