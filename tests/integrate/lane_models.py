"""Hand-written lane kernels (the lowering layer's contract) for tests of the sweeps alone.

`oscillator`: a driven nonlinear oscillator x1' = x2, x2' = -p0 sin(x1) - p1 x2 + p2 u + 0.1 t, any lane count and type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numba as nb
import numpy as np
from numba import types

from numba.extending import intrinsic


@intrinsic
def reals(typingctx, address, one):
    """Pointer to entries of the type of `one`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(one)(types.intp, one), codegen


@nb.njit
def ints(address):
    """Pointer to int64 entries."""
    return reals(address, np.int64(0))


SIGNATURE = types.void(types.intp, types.intp)


@dataclass(frozen=True)
class Kernels:
    """Fields of the lowering layer's LaneKernels that the sweeps use."""

    lanes: int
    dtype: str
    n_uni: int
    n_tape: int
    n_acc: int
    prologue: int
    value: int
    value_tape: int
    adjoint: int
    finish: int
    keep: tuple[object, ...] = ()


def oscillator_rhs(t, x, u, p):
    """The same right-hand side in NumPy, for reference integrations (also with complex numbers)."""
    return np.array([x[1], -p[0] * np.sin(x[0]) - p[1] * x[1] + p[2] * u[0] + 0.1 * t])


def make_kernels(functions, lanes, dtype, n_uni, n_tape, n_acc):
    """Compile (prologue, value, value_tape, adjoint, finish) to addresses."""
    made = [nb.cfunc(SIGNATURE)(f) if f is not None else None for f in functions]
    return Kernels(lanes, dtype, n_uni, n_tape, n_acc, *(f.address if f else 0 for f in made), keep=tuple(made))


@cache
def oscillator(lanes: int = 8, dtype: str = "float64") -> Kernels:
    """Kernels of the oscillator: nx 2, nu 1, np 3."""
    L, one = lanes, np.dtype(dtype).type(1.0)

    def prologue(ins, outs):
        p, uni = reals(ints(ins)[0], one), reals(ints(outs)[0], one)
        for j in range(3):
            uni[j] = p[j]

    def value(ins, outs):
        t, x, u, p = (reals(ints(ins)[0], one), reals(ints(ins)[1], one), reals(ints(ins)[2], one), reals(ints(ins)[3], one))
        f = reals(ints(outs)[0], one)
        for i in range(L):
            f[i] = x[L + i]
            f[L + i] = -p[0] * math.sin(x[i]) - p[1] * x[L + i] + p[2] * u[i] + 0.1 * t[i]

    def value_tape(ins, outs):
        t, x, u, p = (reals(ints(ins)[0], one), reals(ints(ins)[1], one), reals(ints(ins)[2], one), reals(ints(ins)[3], one))
        f, tape = reals(ints(outs)[0], one), reals(ints(outs)[1], one)
        for i in range(L):
            f[i] = x[L + i]
            f[L + i] = -p[0] * math.sin(x[i]) - p[1] * x[L + i] + p[2] * u[i] + 0.1 * t[i]
            tape[i], tape[L + i], tape[2 * L + i] = x[i], x[L + i], u[i]

    def adjoint(ins, outs):
        p, tape, lam = reals(ints(ins)[3], one), reals(ints(ins)[4], one), reals(ints(ins)[5], one)
        tb, xb, ub, acc = (reals(ints(outs)[0], one), reals(ints(outs)[1], one), reals(ints(outs)[2], one), reals(ints(outs)[3], one))
        for i in range(L):
            a, b = lam[i], lam[L + i]
            xb[i] = -p[0] * math.cos(tape[i]) * b
            xb[L + i] = a - p[1] * b
            ub[i] = p[2] * b
            tb[i] = 0.1 * b
            acc[i] += -math.sin(tape[i]) * b
            acc[L + i] += -tape[L + i] * b
            acc[2 * L + i] += tape[2 * L + i] * b

    def finish(ins, outs):
        acc, p_bar = reals(ints(ins)[0], one), reals(ints(outs)[0], one)
        for j in range(3):
            for i in range(L):
                p_bar[j] += acc[j * L + i]

    return make_kernels((prologue, value, value_tape, adjoint, finish), lanes, dtype, 3, 3, 3 * lanes)
