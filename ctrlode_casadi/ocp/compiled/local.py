"""Derivatives of one element: CasADi's expressions, prepared for rows of elements.

A variable that all elements of a group share (a final time, the weights of a network) is a *uniform* input of the
compiled code, like the problem's parameters: one number for all lanes instead of a copy for every element.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array
from ...lowering.calls import read_program
from ...lowering.value_kernels import compile_seconds
from ..groups import Group, IntArray

#: More colours than this are evaluated one after another by one short function instead of by one long function.
MOST_COLOURS = 16
#: The same holds for a long function: colours times estimated seconds to compile what is differentiated.
LONGEST_DERIVATIVE = 2.0
#: Nonzeros of the largest pattern whose star colouring is tried.
LARGEST_STAR = 20_000


@dataclass(frozen=True, eq=False)
class Compressed:
    """A matrix of local derivatives as it is evaluated.

    Attributes
    ----------
    function
        ``(uniform, own, s[, lam]) -> column``, see `Local`; with `seeds` the uniform input ends with a direction.
    seeds
        (colours, n) directions to evaluate one after another; None where the function gives all entries at once.
    row, col
        Local row and column of each nonzero.
    places
        Where each nonzero stands in the results: colour * numel(column) + entry.
    """

    function: ca.Function
    seeds: Float64Array | None
    row: IntArray
    col: IntArray
    places: IntArray


class Local:
    """Value and derivatives of a group's function.

    All functions take ``uniform`` (q, then the shared variables), ``own`` (the other variables) and ``s``.

    Parameters
    ----------
    group
        The group, of at least one element.

    Attributes
    ----------
    own, shared
        Local numbers of the variables that differ between elements, and of those that do not.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        same = (group.variables == group.variables[:1]).all(axis=0)
        if group.size == 1 or (same.all() and group.constants.shape[1] == 0):
            same[:] = False
        self.own, self.shared = np.flatnonzero(~same), np.flatnonzero(same)
        f = group.function
        self.n, self.m = f.numel_in(0), f.numel_out(0)
        self._v, self._s, self._q = (ca.MX.sym(name, f.numel_in(i)) for i, name in enumerate(("v", "s", "q")))
        self._lam = ca.MX.sym("lam", self.m)
        self._r = ca.densify(ca.vec(f.call([self._v, self._s, self._q], f.is_a("MXFunction"), False)[0]))

    @cached_property
    def value(self) -> ca.Function:
        """``(uniform, own, s) -> r``."""
        return self._lanes("value", self._r)

    @cached_property
    def jacobian(self) -> Compressed:
        """dr/dv on its sparsity, by columns or by rows, whichever takes fewer sweeps."""
        sparsity = self._plain("r", [], self._r).jac_sparsity(0, 0)
        row, col = _triplet(sparsity)
        forward, reverse = sparsity.uni_coloring(sparsity.T), sparsity.T.uni_coloring(sparsity)
        if _at_once(min(forward.size2(), reverse.size2()), self.value):
            jacobian = ca.project(ca.jacobian(self._r, self._v), sparsity)
            return Compressed(self._lanes("jacobian", _nonzeros(jacobian)), None, row, col, np.arange(row.size))
        if forward.size2() <= 2 * reverse.size2():
            direction = ca.MX.sym("direction", self.n)
            product = ca.jtimes(self._r, self._v, direction)
            return self._by_colour("jacobian_column", product, direction, forward, (row, col), [])
        direction = ca.MX.sym("direction", self.m)
        product = ca.jtimes(self._r, self._v, direction, True)
        made = self._by_colour("jacobian_row", product, direction, reverse, (col, row), [])
        return Compressed(made.function, made.seeds, row, col, made.places)

    @cached_property
    def hessian(self) -> Compressed:
        """Upper triangle of the second derivative of ``lam' r``; its function has the further input lam."""
        gradient = ca.gradient(ca.dot(self._lam, self._r), self._v)
        function = self._plain("gradient", [self._lam], gradient)
        sparsity = function.jac_sparsity(0, 0)
        sparsity = sparsity + sparsity.T
        upper = ca.triu(sparsity)
        row, col = _triplet(upper)
        if _at_once(_symmetric_colours(sparsity), function):
            hessian = ca.project(ca.hessian(ca.dot(self._lam, self._r), self._v)[0], upper)
            return Compressed(
                self._lanes("hessian", _nonzeros(hessian), self._lam), None, row, col, np.arange(row.size)
            )
        direction = ca.MX.sym("direction", self.n)
        product = ca.jtimes(gradient, self._v, direction)
        colours = sparsity.uni_coloring(sparsity)
        return self._by_colour("hessian_column", product, direction, colours, (row, col), [self._lam])

    def _by_colour(
        self,
        name: str,
        product: ca.MX,
        direction: ca.MX,
        colours: ca.Sparsity,
        entries: tuple[IntArray, IntArray],
        more: list[ca.MX],
    ) -> Compressed:
        """One product of the matrix with a direction; ``entries`` are its nonzeros (entry of product, of direction)."""
        line, seeded = entries
        member, colour = _triplet(colours)
        seeds = np.zeros((colours.size2(), direction.numel()))
        seeds[colour, member] = 1.0
        of = np.zeros(direction.numel(), np.int64)
        of[member] = colour
        column = ca.densify(product)
        places = of[seeded] * column.numel() + line
        function = self._lanes(name, column, *more, direction=direction)
        return Compressed(function, seeds, line, seeded, places)

    def _plain(self, name: str, more: list[ca.MX], result: ca.MX) -> ca.Function:
        return ca.Function(name, [self._v, self._s, self._q, *more], [result])

    def _lanes(self, name: str, result: ca.MX, *more: ca.MX, direction: ca.MX | None = None) -> ca.Function:
        """The result as a function ``(uniform, own, s, *more)`` of rows."""
        last = [] if direction is None else [direction]
        n_q, n_shared = self._q.numel(), self.shared.size
        plain = self._plain(name, [*more, *last], result)
        uniform = ca.MX.sym("uniform", n_q + n_shared + sum(d.numel() for d in last))
        own, s = ca.MX.sym("own", self.own.size), ca.MX.sym("s", self._s.numel())
        order = np.argsort(np.concatenate([self.own, self.shared]), kind="stable")
        v = ca.vertcat(own, uniform[n_q : n_q + n_shared])[order.tolist()]
        extra = [ca.MX.sym(a.name(), a.numel()) for a in more]
        called = plain.call([v, s, uniform[:n_q], *extra, *([uniform[n_q + n_shared :]] if last else [])], True, False)
        return ca.Function(name, [uniform, own, s, *extra], called, {"cse": True})


def _symmetric_colours(sparsity: ca.Sparsity) -> int:
    """Number of colours that CasADi will need for a symmetric matrix.

    Its star colouring of a dense pattern takes seconds from 300 variables on, so large patterns are not tried.
    """
    colours = int(sparsity.uni_coloring(sparsity).size2())
    if colours > MOST_COLOURS and sparsity.nnz() <= LARGEST_STAR:
        return int(sparsity.star_coloring().size2())
    return colours


def _at_once(colours: int, differentiated: ca.Function) -> bool:
    """Whether all colours go into one function."""
    if colours > MOST_COLOURS:
        return False
    return colours * compile_seconds(read_program(differentiated)) <= LONGEST_DERIVATIVE


def _nonzeros(m: ca.MX) -> ca.MX:
    """The nonzeros of a matrix as a dense column."""
    return ca.densify(ca.vec(m if m.is_dense() else m.nz[:]))


def _triplet(sparsity: ca.Sparsity) -> tuple[IntArray, IntArray]:
    """Rows and columns of the nonzeros, in CasADi's order."""
    row, col = sparsity.get_triplet()
    return np.array(row, dtype=np.int64), np.array(col, dtype=np.int64)
