"""Translates the sweeps' language (see `language`) to one LLVM module."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from llvmlite import ir

from .emit import DOUBLE, I1, I64, Registers
from .language import SweepFunction
from .translate_values import ENTRY, Value, Values, kinds_of

#: Functions with as many instructions are not inlined: the module compiles in 1.5 s instead of 2.1 s and runs as fast.
LARGE = 100


class Translator:
    """Translates entry functions and everything they call into `module`."""

    def __init__(self, dtype: str) -> None:
        self.real = DOUBLE if dtype == "float64" else ir.FloatType()
        self.module = ir.Module(name=f"sweeps_{dtype}")
        self._made: dict[str, tuple[ir.Function, list[str], list[str]]] = {}

    def llvm_type(self, kind: str) -> Any:
        """LLVM type of a kind."""
        plain = {"int": I64, "bool": I1, "float": DOUBLE, "real": self.real, "none": ir.VoidType()}
        return plain[kind] if kind in plain else plain[ENTRY[kind]].as_pointer()

    def function(self, sweep: SweepFunction, *, external: bool = False) -> tuple[ir.Function, list[str], list[str]]:
        """The translated function with its parameter kinds and result kinds."""
        name = f"{sweep.function.__module__.rpartition('.')[2]}_{sweep.__name__}"
        if name in self._made:
            return self._made[name]
        marks = dict(sweep.function.__annotations__)
        result = kinds_of(str(marks.pop("return")))
        params = [kinds_of(str(v))[0] for v in marks.values()]
        types = [self.llvm_type(k) for k in result]
        returned = types[0] if len(types) == 1 else ir.LiteralStructType(types)
        made = ir.Function(self.module, ir.FunctionType(returned, [self.llvm_type(k) for k in params]), name)
        made.linkage = "external" if external else "internal"
        for name_of, kind, arg in zip(marks, params, made.args, strict=True):
            if name_of == "a" and kind == "ints":
                # The task table is reached through `a` only, so its entries stay in registers across other stores.
                arg.add_attribute("noalias")
        self._made[name] = made, params, result
        _Body(self, sweep, made, params, result, list(marks)).translate()
        if not external and sum(len(block.instructions) for block in made.blocks) >= LARGE:
            made.attributes.add("noinline")
        return self._made[name]


class _Body(Values):
    """Translates one function."""

    def __init__(
        self, owner: Translator, sweep: SweepFunction, made: ir.Function, params: list[str], result: list[str],
        names: list[str],
    ) -> None:  # fmt: skip
        self.owner, self.sweep, self.result = owner, sweep, result
        self.globals = sweep.function.__globals__
        self.b = ir.IRBuilder(made.append_basic_block("entry"))
        self.start = made.append_basic_block("start")
        self.r = Registers(self.b, owner.real)
        self.slots: dict[str, tuple[str, Any]] = {}
        self.loops: list[tuple[Any, Any]] = []
        self.made = made
        for name, kind, arg in zip(names, params, made.args, strict=True):
            self.slots[name] = kind, self.b.alloca(arg.type, name=name)
            self.b.store(arg, self.slots[name][1])
        self.b.branch(self.start)
        self.b.position_at_end(self.start)

    def translate(self) -> None:
        """Emit the whole body."""
        tree = ast.parse(textwrap.dedent(inspect.getsource(self.sweep.function))).body[0]
        if not isinstance(tree, ast.FunctionDef):
            raise self.fail(tree, "not a function")
        self.block(tree.body)
        if not self.b.block.is_terminated:
            if self.result == ["none"]:
                self.b.ret_void()
            else:
                self.b.unreachable()

    # --- statements ----------------------------------------------------------------------------------------------

    def block(self, statements: list[ast.stmt]) -> None:
        """Emit statements; what follows a return, break or continue is dropped."""
        for statement in statements:
            if self.b.block.is_terminated:
                return
            getattr(self, f"do_{type(statement).__name__}", self.unknown)(statement)

    def do_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.value(node.value)

    def do_Pass(self, node: ast.Pass) -> None:
        """Nothing to do."""

    def do_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self.b.ret_void()
            return
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        values = [self.cast(self.value(p), k, node) for p, k in zip(parts, self.result, strict=True)]
        if len(values) == 1:
            self.b.ret(values[0])
            return
        whole = ir.Constant(self.made.function_type.return_type, ir.Undefined)
        for i, v in enumerate(values):
            whole = self.b.insert_value(whole, v, i)
        self.b.ret(whole)

    def do_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if not isinstance(target, ast.Tuple):
            value = self.value(node.value)
            for each in node.targets:
                self.store(each, value)
            return
        if isinstance(node.value, ast.Tuple):
            values = [self.value(v) for v in node.value.elts]
        else:
            whole, kinds = self.call(node.value)  # type: ignore[arg-type]
            values = [Value(k, self.b.extract_value(whole, i)) for i, k in enumerate(kinds)]
        for each, v in zip(target.elts, values, strict=True):
            self.store(each, v)

    def do_AugAssign(self, node: ast.AugAssign) -> None:
        old = self.value(node.target)
        self.store(node.target, self.binary(node.op, old, self.value(node.value), node))

    def store(self, target: ast.expr, value: Value) -> None:
        """Assign to a variable or to an entry of a pointer."""
        if isinstance(target, ast.Subscript):
            kind, at = self.entry(target)
            self.b.store(self.cast(value, kind, target), at)
            return
        if not isinstance(target, ast.Name):
            raise self.fail(target, "only variables and entries can be assigned")
        if target.id not in self.slots:
            with self.b.goto_entry_block():
                self.slots[target.id] = value.kind, self.b.alloca(self.owner.llvm_type(value.kind), name=target.id)
        kind, at = self.slots[target.id]
        self.b.store(self.cast(value, kind, target), at)

    def do_If(self, node: ast.If) -> None:
        test = self.truth(node.test)
        then, end = self.b.append_basic_block("then"), self.b.append_basic_block("end")
        other = self.b.append_basic_block("else") if node.orelse else end
        self.b.cbranch(test, then, other)
        for where, body in ((then, node.body), (other, node.orelse)):
            if where is not end:
                self.b.position_at_end(where)
                self.block(body)
                self.jump(end)
        self.b.position_at_end(end)
        self.dead_end(end)

    def dead_end(self, end: Any) -> None:
        """A block that nothing jumps to ends at once."""
        name = f'label %"{end.name}"'
        if not any(name in str(blk.terminator) for blk in self.made.blocks if blk.is_terminated):
            self.b.unreachable()

    def jump(self, where: Any) -> None:
        """Branch unless the block has ended already."""
        if not self.b.block.is_terminated:
            self.b.branch(where)

    def do_While(self, node: ast.While) -> None:
        head, body, end = (self.b.append_basic_block(n) for n in ("while", "body", "end"))
        self.b.branch(head)
        self.b.position_at_end(head)
        self.b.cbranch(self.truth(node.test), body, end)
        self.b.position_at_end(body)
        self.loops.append((head, end))
        self.block(node.body)
        self.loops.pop()
        self.jump(head)
        self.b.position_at_end(end)

    def do_Break(self, node: ast.Break) -> None:
        self.b.branch(self.loops[-1][1])

    def do_Continue(self, node: ast.Continue) -> None:
        self.b.branch(self.loops[-1][0])

    def do_For(self, node: ast.For) -> None:
        if isinstance(node.iter, ast.Tuple):
            for element in node.iter.elts:
                self.store(node.target, self.value(element))
                self.block(node.body)
            return
        args = node.iter.args  # type: ignore[attr-defined]
        bounds = [self.cast(self.value(v), "int", node) for v in args]
        first, last = (I64(0), bounds[0]) if len(bounds) == 1 else (bounds[0], bounds[1])
        step = bounds[2] if len(bounds) == 3 else I64(1)
        down = len(args) == 3 and isinstance(args[2], ast.UnaryOp)
        with self.b.goto_entry_block():
            counter = self.b.alloca(I64)
        self.b.store(first, counter)
        head, body, more, end = (self.b.append_basic_block(n) for n in ("for", "body", "next", "end"))
        self.b.branch(head)
        self.b.position_at_end(head)
        i = self.b.load(counter)
        self.b.cbranch(self.b.icmp_signed(">" if down else "<", i, last), body, end)
        self.b.position_at_end(body)
        self.store(node.target, Value("int", i))
        self.loops.append((more, end))
        self.block(node.body)
        self.loops.pop()
        self.jump(more)
        self.b.position_at_end(more)
        self.b.store(self.b.add(self.b.load(counter), step), counter)
        self.b.branch(head)
        self.b.position_at_end(end)
