"""``co.compile``: any CasADi function as a NumPy function of batches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import casadi as ca
import numpy as np
from numpy.typing import NDArray

from ..base.errors import DataError, ModelError
from ..base.processors import available_threads
from .arguments import Argument, Shape, batch_size, checked_argument
from .blocks import Batch, evaluate, pull_back
from .kernels import LaneKernels, lane_kernels, lanes_for, simd_width
from .reader import read

Array = NDArray[Any]

#: From this number of SIMD vectors on, a batch counts as large: its lanes are chosen once.
_MANY = 64


class CompiledFunction:
    """A CasADi function that works on batches; made by `compile`.

    Attributes
    ----------
    name_in, name_out : tuple of str
        Names of the inputs and outputs.
    """

    def __init__(
        self,
        f: ca.Function,
        lanes: int | None = None,
        dtype: str = "float64",
        threads: int | None = None,
    ) -> None:
        if not isinstance(f, ca.Function):
            raise ModelError(
                f"f: expected a casadi.Function, got {type(f).__name__}; for a model pass model.rhs, for expressions "
                f"casadi.Function('f', [inputs], [outputs])"
            )
        self._f, self._dtype = f, _float_name(dtype)
        self._width = simd_width(self._dtype)
        self._lanes = _checked_lanes(lanes, self._width)
        self._threads = _checked_threads(threads)
        self.name_in, self.name_out = tuple(f.name_in()), tuple(f.name_out())
        self._in = [Shape.of(f.sparsity_in(i)) for i in range(f.n_in())]
        self._out = [Shape.of(f.sparsity_out(j)) for j in range(f.n_out())]
        read(f)  # an operation without a lowering is refused here
        self._wrapped: dict[tuple[bool, ...], ca.Function] = {}
        self._kernels: dict[tuple[tuple[bool, ...], int], LaneKernels] = {}
        self._tangent: CompiledFunction | None = None
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its settings; the copy compiles, or finds its code in the cache, when first used."""
        return CompiledFunction, (self._f, self._lanes, self._dtype, self._threads)

    def __repr__(self) -> str:
        return f"CompiledFunction({self._f}, dtype={self._dtype!r})"

    def __call__(self, *inputs: Any) -> Array | tuple[Array, ...]:
        """Outputs (B, m), or (m,) when every input is shared: one array, or a tuple if there are several outputs."""
        arguments = self._arguments(inputs)
        size = batch_size(self.name_in, arguments)
        outputs = self._empty([o.n for o in self._out], 1 if size is None else size)
        if size != 0:
            evaluate(self._start(arguments, size), outputs)
        return _unwrap([o[0] if size is None else o for o in outputs])

    def vjp(self, *inputs: Any, seeds: Any) -> Array | tuple[Array, ...]:
        """Vector-Jacobian product, ``seeds^T df/dinputs`` for each row.

        Parameters
        ----------
        *inputs : array_like
            As for a call.
        seeds : array_like, or sequence of array_like or None
            For a function with one output, its seed: (B, m), or (m,) for the same in every row. Otherwise one per
            output, None for zero.

        Returns
        -------
        ndarray or tuple of ndarray
            One per input in the shape of the input; for a shared input the sum over the batch.
        """
        arguments = self._arguments(inputs)
        lam = self._per_part("seeds", seeds, self.name_out, self._out)
        names = (*self.name_in, *(f"seeds of {n}" for n in self.name_out))
        size = batch_size(names, [*arguments, *lam])
        count = 1 if size is None else size
        rows = [np.broadcast_to(s.values, (count, s.values.shape[-1])) for s in lam]
        sizes = [a.values.shape[-1] for a in arguments]
        p_bar = np.zeros(sum(n for n, a in zip(sizes, arguments, strict=True) if a.batch is None), self._dtype)
        bars = self._empty([n for n, a in zip(sizes, arguments, strict=True) if a.batch is not None], count)
        if size != 0:
            pull_back(self._start(arguments, size), rows, bars, p_bar)
        shared, varying, made = 0, iter(bars), []
        for a, of, n in zip(arguments, self._in, sizes, strict=True):
            bar = p_bar[shared : shared + n] if a.batch is None else next(varying)
            shared += n if a.batch is None else 0
            made.append(a.like_given(bar, of))
        return _unwrap(made)

    def jvp(self, *inputs: Any, tangents: Any) -> Array | tuple[Array, ...]:
        """Jacobian-vector product, ``df/dinputs tangents`` for each row.

        Parameters
        ----------
        *inputs : array_like
            As for a call.
        tangents : array_like, or sequence of array_like or None
            For a function with one input, its tangent: (B, n), or (n,) for the same in every row. Otherwise one per
            input, None for zero. A tangent may be per row where its input is shared, and the other way round.

        Returns
        -------
        ndarray or tuple of ndarray
            Tangents of the outputs, in the shapes that a call returns.
        """
        directions = self._per_part("tangents", tangents, self.name_in, self._in)
        arguments = self._arguments(inputs)
        with self._lock:
            if self._tangent is None:
                self._tangent = CompiledFunction(_tangent_function(self._f), self._lanes, self._dtype, self._threads)
        return self._tangent(*[a.values for a in (*arguments, *directions)])

    def explain(self) -> str:
        """What was compiled: lanes, registers, float type, code size, time, and whether it came from the cache."""
        lanes = "by batch size" if self._lanes is None else str(self._lanes)
        lines = [f"{self._f}", f"  {self._dtype}, lanes {lanes}, up to {self._threads} threads"]
        if not self._kernels:
            lines.append("  nothing compiled yet: kernels are made at the first call")
        for (pattern, _), k in self._kernels.items():
            shared = ", ".join(n for n, s in zip(self.name_in, pattern, strict=True) if s) or "nothing"
            origin = "from the cache" if k.from_cache else f"compiled in {k.compile_seconds:.2f} s"
            form = f"{k.registers} x {k.width}" if k.lanes > 1 else "vectors over the entries"
            lines.append(
                f"  shared {shared}: {k.lanes} lanes ({form}), {k.code_bytes / 1024:.1f} KiB of code, {origin}"
            )
        if self._tangent is not None:
            lines += ["tangents:", *("  " + line for line in self._tangent.explain().splitlines()[2:])]
        return "\n".join(lines)

    def _arguments(self, inputs: Sequence[Any]) -> list[Argument]:
        if len(inputs) != len(self.name_in):
            raise DataError(
                f"{self._f.name()}: expected {len(self.name_in)} inputs ({', '.join(self.name_in)}), got {len(inputs)}"
            )
        return [checked_argument(*part, self._dtype) for part in zip(self.name_in, inputs, self._in, strict=True)]

    def _per_part(self, what: str, values: Any, names: Sequence[str], shapes: Sequence[Shape]) -> list[Argument]:
        """Seeds or tangents: one for each name, None is zero."""
        parts = [values] if len(names) == 1 and not _is_single(values) else values
        if not isinstance(parts, (list, tuple)) or len(parts) != len(names):
            got = f"{len(parts)}" if isinstance(parts, (list, tuple)) else type(parts).__name__
            raise DataError(
                f"{what}: expected a list of {len(names)} arrays, one each for {', '.join(names)} (None for zero), "
                f"got {got}"
            )
        made = []
        for name, x, of in zip(names, parts, shapes, strict=True):
            x = np.zeros(of.n, self._dtype) if x is None else x
            made.append(checked_argument(f"{what} of {name}", x, of, self._dtype))
        return made

    def _empty(self, sizes: Sequence[int], rows: int) -> list[Array]:
        return [np.empty((rows, n), self._dtype) for n in sizes]

    def _start(self, arguments: Sequence[Argument], size: int | None) -> Batch:
        shared = [a.values for a in arguments if a.batch is None]
        p = np.concatenate(shared) if shared else np.zeros(0, self._dtype)
        rows = [a.values for a in arguments if a.batch is not None]
        count = 1 if size is None else size
        pattern = tuple(a.batch is None for a in arguments)
        return Batch.start(self._compiled(pattern, count), p, rows, count, self._threads)

    def _compiled(self, pattern: tuple[bool, ...], size: int) -> LaneKernels:
        with self._lock:
            if pattern not in self._wrapped:
                self._wrapped[pattern] = _with_one_uniform_input(self._f, pattern)
            wrapped = self._wrapped[pattern]
            lanes = self._lanes
            if lanes is None:
                lanes = lanes_for(min(size, _MANY * self._width), wrapped.nnz_in(0), self._dtype)
            found = self._kernels.get((pattern, lanes))
            if found is None:
                found = self._kernels[pattern, lanes] = lane_kernels(wrapped, 0, lanes=lanes, dtype=self._dtype)
        return found


def compile(
    f: ca.Function, lanes: int | None = None, dtype: str = "float64", threads: int | None = None
) -> CompiledFunction:
    """Compile a CasADi function to SIMD code for batches.

    Parameters
    ----------
    f : casadi.Function
        Any function of MX or SX expressions, calls to other functions included.
    lanes : int, optional
        Rows that one call of the machine code works on: 1 or a multiple of the SIMD width; chosen from the size of the
        batch by default (a new choice compiles again, once).
    dtype : str
        "float64" or "float32"; inputs must have this type (Python numbers and lists may hold integers).
    threads : int, optional
        How many threads a large batch may use; all processors by default. Results do not depend on it.

    Returns
    -------
    CompiledFunction
        ``y = g(*inputs)``, ``g.vjp(*inputs, seeds=...)``, ``g.jvp(*inputs, tangents=...)``, ``g.explain()``,
        ``g.name_in``, ``g.name_out``.

    Raises
    ------
    ModelError
        If ``f`` is no casadi.Function.
    UnsupportedOperation
        If an instruction has no lowering; the message prints it.
    DataError
        From a call, if an array does not fit; from here, if an option does not.

    Notes
    -----
    An input with n nonzeros is *shared* by all rows, shape (n,), or *batched*, shape (B, n); any mixture will do.

    1. A scalar input (n = 1) is shared as a number or (1,), and batched as (B,) or (B, 1).
    2. A trailing axis of length one may be added: (n, 1), (B, n, 1).
    3. A dense matrix r x c (r and c above one) may also come as (r, c) or (B, r, c). As a flat vector its entries are
       in CasADi's column-major order, as are the nonzeros of a sparse one.
    4. Outputs are (B, m), the m nonzeros of each; where every input is shared there is no batch axis: (m,).
    5. One output is returned as an array, several as a tuple. A batch of no rows gives empty outputs.

    Examples
    --------
    >>> import casadi as ca, numpy as np
    >>> x, p = ca.MX.sym("x", 2), ca.MX.sym("p")
    >>> g = compile(ca.Function("f", [x, p], [p * ca.sumsqr(x)], ["x", "p"], ["y"]))
    >>> g(np.array([[1.0, 2.0], [3.0, 4.0]]), 2.0)
    array([[10.],
           [50.]])
    """
    return CompiledFunction(f, lanes, dtype, threads)


def _with_one_uniform_input(f: ca.Function, pattern: Sequence[bool]) -> ca.Function:
    """``(p, batched inputs) -> outputs as columns of nonzeros``; p holds the shared inputs one after the other."""
    p = ca.MX.sym("p", sum(f.nnz_in(i) for i, s in enumerate(pattern) if s))
    inputs, rows, first = [], [], 0
    for i, shared in enumerate(pattern):
        sparsity = f.sparsity_in(i)
        if shared:
            part = p[first : first + sparsity.nnz()]
            first += sparsity.nnz()
            dense = sparsity.is_dense()
            inputs.append(ca.reshape(part, sparsity.size1(), sparsity.size2()) if dense else ca.MX(sparsity, part))
        else:
            inputs.append(ca.MX.sym(f"x{i}", sparsity))
            rows.append(inputs[-1])
    outputs = f.call(inputs, f.is_a("MXFunction"), False)
    return ca.Function(f.name(), [p, *rows], [_column(y) for y in outputs])


def _column(y: ca.MX) -> ca.MX:
    return y if y.is_column() and y.is_dense() else ca.vec(y.nz[:])


def _tangent_function(f: ca.Function) -> ca.Function:
    """(inputs, tangents) -> tangents of the outputs, by CasADi's forward mode."""
    inputs = [ca.MX.sym(n, f.sparsity_in(i)) for i, n in enumerate(f.name_in())]
    tangents = [ca.MX.sym("d_" + n, f.sparsity_in(i)) for i, n in enumerate(f.name_in())]
    outputs = f.call(inputs, f.is_a("MXFunction"), False)
    moved = ca.forward(outputs, inputs, [tangents])[0]
    results = [ca.project(d, f.sparsity_out(j)) for j, d in enumerate(moved)]
    names = [f"{'d_' * k}{n}" for k in (0, 1) for n in f.name_in()]
    return ca.Function("d_" + f.name(), [*inputs, *tangents], results, names, [f"d_{n}" for n in f.name_out()])


def _unwrap(parts: list[Array]) -> Array | tuple[Array, ...]:
    return parts[0] if len(parts) == 1 else tuple(parts)


def _is_single(values: Any) -> bool:
    """Whether seeds are already a list of one array (and not a list of numbers)."""
    return isinstance(values, (list, tuple)) and len(values) == 1 and (values[0] is None or np.ndim(values[0]) > 0)


def _float_name(dtype: Any) -> str:
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in ("float64", "float32"):
        raise DataError(f"dtype: expected 'float64' or 'float32', got {dtype!r}")
    return name


def _checked_lanes(lanes: int | None, width: int) -> int | None:
    if lanes is None or lanes == 1 or (isinstance(lanes, (int, np.integer)) and lanes > 0 and lanes % width == 0):
        return lanes
    raise DataError(f"lanes: expected 1 or a positive multiple of {width} on this machine, got {lanes!r}; leave it out")


def _checked_threads(threads: int | None) -> int:
    if threads is None:
        return available_threads()
    if not isinstance(threads, (int, np.integer)) or threads < 1:
        raise DataError(f"threads: expected a positive number or None for all processors, got {threads!r}")
    return int(threads)
