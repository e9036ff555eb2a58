"""Emission context: types, loops and memory access of one lane kernel.

Layout: a varying value with n entries is ``[n][L]`` with ``L = width * registers`` lanes innermost. One entry is
therefore ``registers`` SIMD vectors of ``width`` numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from .vecmath.functions import VectorMath

I32 = ir.IntType(32)
I64 = ir.IntType(64)
POINTER = ir.PointerType()


@dataclass(frozen=True)
class Target:
    """What a kernel is emitted for.

    Parameters
    ----------
    dtype : str
        "float64" or "float32".
    width : int
        Numbers in a SIMD vector.
    registers : int
        Vectors per entry; ``width * registers`` lanes.
    avx512 : bool
        Whether AVX-512 instructions may be used.
    row_width : int
        Numbers in a SIMD vector over the entries of one trajectory; 0 where lanes are trajectories.
    """

    dtype: str
    width: int
    registers: int
    avx512: bool
    row_width: int = 0

    @property
    def lanes(self) -> int:
        """Lanes per block."""
        return self.width * self.registers

    @property
    def accumulators(self) -> int:
        """64-byte vectors that stay in registers beside their operands: 32 registers of AVX-512, else 8 pairs.

        Measured: 24 with AVX-512; with AVX2, 6 is 1.5 times faster than 12.
        """
        return 24 if self.avx512 else 6

    @property
    def itemsize(self) -> int:
        """Bytes per number."""
        return 8 if self.dtype == "float64" else 4


@dataclass(frozen=True)
class Memory:
    """Entries in memory: ``varying`` ones have all lanes, uniform ones a single number.

    ``offset`` counts entries.
    """

    pointer: ir.Value
    offset: int
    varying: bool


class Context:
    """An IR builder with the types, loops and loads of a target."""

    def __init__(self, module: ir.Module, target: Target, math: VectorMath) -> None:
        self.module, self.target, self.math = module, target, math
        self.scalar: ir.Type = ir.DoubleType() if target.dtype == "float64" else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, target.width)
        self.b: ir.IRBuilder
        #: Functions of products by shape (`shared_products`); None where products are written in place.
        self.products: dict[Any, ir.Function] | None = None
        #: Functions that are called (`calls`), by callee and form of their operands.
        self.callees: dict[Any, ir.Function] = {}

    # constants -------------------------------------------------------------------------------------------------
    def index(self, value: int) -> ir.Constant:
        """An i64 constant."""
        return ir.Constant(I64, int(value))

    def number(self, value: float) -> ir.Constant:
        """A scalar constant."""
        x = float(value) if self.target.dtype == "float64" else float(np.float32(value))
        return ir.Constant(self.scalar, x)

    def splat_constant(self, value: float) -> ir.Constant:
        """A vector constant that repeats one number."""
        return ir.Constant(self.vector, [self.number(value)] * self.target.width)

    def table(self, values: np.ndarray, integer: bool = False) -> ir.Value:
        """A constant array in the module."""
        element = I64 if integer else self.scalar
        kind = ir.ArrayType(element, len(values))
        entries = [ir.Constant(I64, int(v)) if integer else self.number(v) for v in values]
        name = self.module.get_unique_name("table")
        g = ir.GlobalVariable(self.module, kind, name)
        g.linkage, g.global_constant = "internal", True
        g.initializer = ir.Constant(kind, entries)
        return g

    # loops -----------------------------------------------------------------------------------------------------
    @contextmanager
    def loop(self, count: int | ir.Value, step: int = 1) -> Iterator[ir.Value]:
        """``for i in range(0, count, step)``; the count must be positive."""
        b = self.b
        stop = self.index(count) if isinstance(count, int) else count
        before = b.block
        head = b.append_basic_block("loop")
        done = ir.Block(b.function, name=b.function.scope.deduplicate("done"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(self.index(0), before)
        yield i
        following = b.add(i, self.index(step))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, stop), head, done)
        b.function.blocks.append(done)
        b.position_at_end(done)

    @contextmanager
    def entries(self, count: int) -> Iterator[int | ir.Value]:
        """A loop over entries, or straight code when there is one."""
        if count == 1:
            yield 0
        else:
            with self.loop(count) as i:
                yield i

    @contextmanager
    def entries_by(self, count: int, step: int) -> Iterator[int | ir.Value]:
        """A loop over blocks of entries, or straight code when there is one block."""
        if count == step:
            yield 0
        else:
            with self.loop(count, step) as i:
                yield i

    # index arithmetic ------------------------------------------------------------------------------------------
    def affine(self, i: int | ir.Value, scale: int, shift: int) -> ir.Value:
        """``i * scale + shift`` as i64, folded where it is known."""
        if isinstance(i, int):
            return self.index(i * scale + shift)
        out = i if scale == 1 else self.b.mul(i, self.index(scale))
        return out if shift == 0 else self.b.add(out, self.index(shift))

    def address(self, pointer: ir.Value, at: ir.Value) -> ir.Value:
        """Address of the scalar ``pointer[at]``."""
        place = self.b.gep(pointer, [at], inbounds=True, source_etype=self.scalar)
        place.type = POINTER  # llvmlite gives the address of an alloca or a global the array's pointer type
        return place

    # loads and stores ------------------------------------------------------------------------------------------
    def load_scalar(self, pointer: ir.Value, at: ir.Value) -> ir.Value:
        """``pointer[at]``."""
        return self.b.load(self.address(pointer, at), typ=self.scalar, align=self.target.itemsize)

    def store_scalar(self, value: ir.Value, pointer: ir.Value, at: ir.Value) -> None:
        """``pointer[at] = value``."""
        self.b.store(value, self.address(pointer, at), align=self.target.itemsize)

    def load_vector(self, pointer: ir.Value, at: ir.Value) -> ir.Value:
        """The vector that starts at ``pointer[at]``."""
        return self.b.load(self.address(pointer, at), typ=self.vector, align=self.target.itemsize)

    def store_vector(self, value: ir.Value, pointer: ir.Value, at: ir.Value) -> None:
        """Store a vector at ``pointer[at]``."""
        self.b.store(value, self.address(pointer, at), align=self.target.itemsize)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """A vector that repeats a scalar."""
        b, undef = self.b, ir.Constant(self.vector, ir.Undefined)
        one = b.insert_element(undef, scalar, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, self.target.width), [ir.Constant(I32, 0)] * self.target.width)
        return b.shuffle_vector(one, undef, mask)

    def load_entry(self, memory: Memory, entry: ir.Value, register: int) -> ir.Value:
        """One vector of an entry (a uniform entry is repeated over the lanes)."""
        if memory.varying:
            return self.load_vector(memory.pointer, self.lane_offset(memory, entry, register))
        at = self.b.add(entry, self.index(memory.offset)) if memory.offset else entry
        return self.splat(self.load_scalar(memory.pointer, at))

    def store_entry(self, value: ir.Value, memory: Memory, entry: ir.Value, register: int) -> None:
        """Store one vector of an entry."""
        self.store_vector(value, memory.pointer, self.lane_offset(memory, entry, register))

    def lane_offset(self, memory: Memory, entry: ir.Value, register: int) -> ir.Value:
        """Position of a vector of an entry, counted in numbers."""
        lanes, width = self.target.lanes, self.target.width
        shift = memory.offset * lanes + register * width
        if isinstance(entry, ir.Constant):
            return self.index(entry.constant * lanes + shift)
        return self.b.add(self.b.mul(entry, self.index(lanes)), self.index(shift))

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        """``x * y + z`` with one rounding."""
        kind = x.type
        name = "llvm.fma." + _suffix(kind)
        fn = self.module.globals.get(name) or ir.Function(self.module, ir.FunctionType(kind, [kind] * 3), name)
        return self.b.call(fn, [x, y, z])

    def lane_sum(self, v: ir.Value) -> ir.Value:
        """Sum of the numbers of a vector, in a fixed tree order."""
        b, width = self.b, self.target.width
        while width > 1:
            half = width // 2
            low = [ir.Constant(I32, k) for k in range(half)]
            high = [ir.Constant(I32, k + half) for k in range(half)]
            kind = ir.VectorType(I32, half)
            undef = ir.Constant(v.type, ir.Undefined)
            v = b.fadd(
                b.shuffle_vector(v, undef, ir.Constant(kind, low)), b.shuffle_vector(v, undef, ir.Constant(kind, high))
            )
            width = half
        return b.extract_element(v, ir.Constant(I32, 0))


def _suffix(kind: ir.Type) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{'f64' if isinstance(kind.element, ir.DoubleType) else 'f32'}"
    return "f64" if isinstance(kind, ir.DoubleType) else "f32"
