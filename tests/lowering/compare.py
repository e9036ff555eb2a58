"""The one comparison of the lowering tests: lane kernels and interpreter against CasADi's virtual machine.

`check_kernels` runs prologue, value, value_tape, adjoint and finish over blocks of lanes, as the time loops do, and
compares every trajectory with `casadi.Function` and its reverse derivative.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import numpy as np

from ctrlode_casadi.lowering.interpreter import interpret
from ctrlode_casadi.lowering.jit import host
from ctrlode_casadi.lowering.kernels import LaneKernels, lane_kernels
from ctrlode_casadi.lowering.reader import read
from ctrlode_casadi.lowering.simplify import simplify

#: SIMD width in float64 numbers.
W = host().vector_bytes // 8
TOLERANCE = {"float64": 1e-12, "float32": 2e-4}
Draw = Callable[[np.random.Generator, int, tuple[int, ...]], Any]


def aligned(shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
    """Zeros at a 64-byte boundary."""
    n = int(np.prod(shape))
    raw = np.zeros(n + 64, dtype)
    first = (-raw.ctypes.data % 64) // raw.itemsize
    return raw[first : first + n].reshape(shape)


def call(address: int, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Call ``void k(T **in, T **out)``."""
    pointers = [(ctypes.c_void_p * max(len(a), 1))(*[x.ctypes.data for x in a]) for a in (inputs, outputs)]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)(*pointers)


def vm(f: ca.Function, inputs: Sequence[Any]) -> list[Any]:
    """Outputs of a function, nonzero vectors in and out."""
    buffer, evaluate = f.buffer()
    keep = [np.array(x, np.float64).reshape(f.nnz_in(i)) for i, x in enumerate(inputs)]
    for i, x in enumerate(keep):
        buffer.set_arg(i, memoryview(x))
    outputs = [np.zeros(f.nnz_out(j)) for j in range(f.n_out())]
    for j, y in enumerate(outputs):
        buffer.set_res(j, memoryview(y))
    evaluate()
    return outputs


def vjp(f: ca.Function) -> ca.Function:
    """(inputs, seeds) -> bars, by CasADi's own reverse function."""
    ins = [ca.MX.sym(f"x{i}", f.sparsity_in(i)) for i in range(f.n_in())]
    seeds = [ca.MX.sym(f"s{j}", f.sparsity_out(j)) for j in range(f.n_out())]
    bars = f.reverse(1).call([*ins, *f.call(ins), *seeds])
    return ca.Function("vjp", [*ins, *seeds], [ca.project(b, f.sparsity_in(i)) for i, b in enumerate(bars)])


def assert_near(got: Any, want: Any, tolerance: float, what: str) -> None:
    """Entries agree to `tolerance` relative to the size of the whole array (at least one)."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    finite = np.isfinite(want)
    assert np.array_equal(finite, np.isfinite(got)), f"{what}: {got} against {want}"
    np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=what)
    if finite.any():
        scale = max(1.0, np.abs(want[finite]).max())
        error = np.abs(got[finite] - want[finite]).max() / scale
        assert error <= tolerance, f"{what}: error {error:.2e} above {tolerance:.0e}\n{got}\n{want}"


def normal(rng: np.random.Generator, i: int, shape: tuple[int, ...]) -> Any:
    """Standard normal numbers."""
    return rng.standard_normal(shape)


def uniform_between(lo: float, hi: float) -> Draw:
    """Numbers from an interval, for functions of a restricted range."""
    return lambda rng, i, shape: rng.uniform(lo, hi, shape)


def check_interpreter(f: ca.Function, draw: Draw = normal, lanes: int = 3, tolerance: float = 1e-12) -> None:
    """The program as read, and as simplified, gives what the virtual machine gives."""
    rng = np.random.default_rng(7)
    xs = [draw(rng, i, (f.nnz_in(i), lanes)) for i in range(f.n_in())]
    program = read(f)
    for stage in (program, simplify(program)):
        outputs = interpret(stage, xs)
        for lane in range(lanes):
            for j, want in enumerate(vm(f, [x[:, lane] for x in xs])):
                got = outputs[j][:, lane if outputs[j].shape[1] > 1 else 0]
                assert_near(got, want, tolerance, f"{f.name()} output {j}")


class Run:
    """One run of all kernels over a batch, block after block."""

    def __init__(self, k: LaneKernels, f: ca.Function, uniform: int, p: Any, rows: list[Any], seeds: list[Any]) -> None:
        self.k, self.f, self.uniform = k, f, uniform
        self.batch = rows[0].shape[0] if rows else seeds[0].shape[0]
        dtype = np.dtype(k.dtype)
        self.p = aligned(p.shape, dtype)
        self.p[...] = p
        self.uni = aligned((k.n_uni,), dtype)
        call(k.prologue, [self.p], [self.uni])
        self.acc = aligned((k.n_acc,), dtype)
        self.outputs = [np.zeros((self.batch, f.nnz_out(j)), dtype) for j in range(f.n_out())]
        self.taped = [np.zeros_like(o) for o in self.outputs]
        self.bars = [np.zeros_like(r) for r in rows]
        for start in range(0, self.batch, k.lanes):
            self._block(slice(start, min(start + k.lanes, self.batch)), rows, seeds)
        self.p_bar = aligned(p.shape, dtype)
        call(k.finish, [self.acc, self.uni], [self.p_bar])

    def _pack(self, rows: Any, *, repeat: bool) -> Any:
        out = aligned((rows.shape[1], self.k.lanes), np.dtype(self.k.dtype))
        out[:, : len(rows)] = rows.T
        if repeat:
            out[:, len(rows) :] = rows[-1][:, None]
        return out

    def _block(self, at: slice, rows: list[Any], seeds: list[Any]) -> None:
        k, f, dtype = self.k, self.f, np.dtype(self.k.dtype)
        packed = [self._pack(r[at], repeat=True) for r in rows]
        ins = [*packed]
        ins.insert(self.uniform, self.uni)
        before = [x.copy() for x in ins]
        outs = [aligned((f.nnz_out(j), k.lanes), dtype) for j in range(f.n_out())]
        taped = [aligned(o.shape, dtype) for o in outs]
        tape = aligned((k.n_tape, k.lanes), dtype)
        tape[...] = np.nan
        call(k.value, ins, outs)
        call(k.value_tape, ins, [*taped, tape])
        lam = [self._pack(s[at], repeat=False) for s in seeds]
        bars = [aligned(x.shape, dtype) for x in packed]
        for b in bars:
            b[...] = np.nan  # they are overwritten
        state, lam_before = [np.zeros(0)] * f.n_in(), [s.copy() for s in lam]
        state[self.uniform] = self.uni  # the adjoint reads nothing else of the inputs
        call(k.adjoint, [*state, tape, *lam], [*bars, self.acc])
        for x, y in zip([*ins, *lam], [*before, *lam_before], strict=True):
            np.testing.assert_array_equal(x, y, err_msg="an input was written to")
        count = at.stop - at.start
        for whole, part in zip([*self.outputs, *self.taped, *self.bars], [*outs, *taped, *bars], strict=True):
            whole[at] = part[:, :count].T


def check_kernels(
    f: ca.Function,
    uniform: int | str = "p",
    registers: Sequence[int] = (1,),
    dtype: str = "float64",
    draw: Draw = normal,
    tolerance: float | None = None,
    batches: Sequence[int] = (1, W - 1, W, W + 1),
) -> LaneKernels:
    """Value, taped value, bars and parameter gradient of the kernels equal the virtual machine's.

    `registers` are the vectors per entry to be tried; 0 stands for the kernels of a single trajectory.
    """
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    index = f.index_in(uniform) if isinstance(uniform, str) else uniform
    rng = np.random.default_rng(11)
    most = max(batches)
    real = np.dtype(dtype)
    p = np.asarray(draw(rng, index, (f.nnz_in(index),)), real)
    others = [i for i in range(f.n_in()) if i != index]
    rows = [np.asarray(draw(rng, i, (most, f.nnz_in(i))), real) for i in others]
    seeds = [rng.standard_normal((most, f.nnz_out(j))).astype(real) for j in range(f.n_out())]
    reverse = vjp(f)
    want_out, want_bar = [], []
    for b in range(most):
        args = [r[b] for r in rows]
        args.insert(index, p)
        want_out.append(vm(f, args))
        want_bar.append(vm(reverse, [*args, *[s[b] for s in seeds]]))
    made = None
    for count in registers:
        made = lane_kernels(f, uniform, lanes=max(count * (64 // real.itemsize), 1), dtype=dtype)
        for batch in batches:
            run = Run(made, f, index, p, [r[:batch] for r in rows], [s[:batch] for s in seeds])
            label = f"{f.name()} {dtype} lanes {made.lanes} batch {batch}:"
            for j in range(f.n_out()):
                want = np.array([w[j] for w in want_out[:batch]])
                assert_near(run.outputs[j], want, tolerance, f"{label} value of output {j}")
                assert_near(run.taped[j], want, tolerance, f"{label} taped value of output {j}")
            for bar, i in zip(run.bars, others, strict=True):
                want = np.array([w[i] for w in want_bar[:batch]])
                assert_near(bar, want, tolerance, f"{label} bar of input {i}")
            want = np.sum([w[index] for w in want_bar[:batch]], axis=0)
            assert_near(run.p_bar, want, tolerance * 4, f"{label} gradient of the uniform input")
    assert made is not None
    return made
