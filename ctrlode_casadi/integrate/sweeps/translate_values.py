"""Expressions of the sweeps' language as LLVM values."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from llvmlite import ir

from .emit import DOUBLE, I1, I64, PRIMITIVES, Registers, declare
from .emit_linear import LINEAR
from .language import Primitive, SweepFunction

_KINDS = {
    "Int": "int", "Bool": "bool", "Float": "float", "Real": "real", "Ints": "ints", "Floats": "floats",
    "Reals": "reals", "None": "none",
}  # fmt: skip
ENTRY = {"ints": "int", "floats": "float", "reals": "real"}
_EMITTERS = PRIMITIVES | LINEAR
_RANK = {"bool": 0, "int": 1, "real": 2, "float": 3}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}


class TranslationError(Exception):
    """A sweep function uses something outside the language; a mistake in this package, not of its user."""


@dataclass(frozen=True)
class Value:
    """An LLVM value with its kind in the language; `literal` marks a number written in the source."""

    kind: str
    ir: Any
    literal: bool = False


def kinds_of(annotation: str) -> list[str]:
    """Kinds of an annotation; several for a tuple."""
    inner = annotation.removeprefix("tuple[").removesuffix("]") if annotation.startswith("tuple[") else annotation
    return [_KINDS[name.strip()] for name in inner.split(",")]


class Owner(Protocol):
    """The translation that an expression belongs to."""

    real: Any

    def llvm_type(self, kind: str) -> Any:
        """LLVM type of a kind."""

    def function(self, sweep: SweepFunction) -> tuple[ir.Function, list[str], list[str]]:
        """A translated function with its parameter and result kinds."""


class Values:
    """Translates expressions at the position of the builder `b`."""

    owner: Owner
    sweep: SweepFunction
    globals: dict[str, Any]
    b: ir.IRBuilder
    r: Registers
    slots: dict[str, tuple[str, Any]]

    def fail(self, node: ast.AST, why: str) -> TranslationError:
        """Error that names function and line."""
        return TranslationError(f"{self.sweep.__name__}, line {getattr(node, 'lineno', '?')}: {why}")

    def unknown(self, node: Any) -> Any:
        """Refuse a construct outside the language."""
        raise self.fail(node, f"{type(node).__name__} is not part of the sweeps' language")

    def value(self, node: ast.expr) -> Value:
        """Value of an expression."""
        return getattr(self, f"of_{type(node).__name__}", self.unknown)(node)

    def truth(self, node: ast.expr) -> Any:
        """An expression as a condition."""
        return self.cast(self.value(node), "bool", node)

    def cast(self, value: Value, kind: str, node: ast.AST) -> Any:
        """LLVM value converted to another kind."""
        b, v = self.b, value.ir
        if value.kind == kind or ({value.kind, kind} == {"real", "float"} and self.owner.real is DOUBLE):
            return v
        if kind == "bool":
            zero = v.type(0) if value.kind == "int" else v.type(0.0)
            return b.icmp_signed("!=", v, zero) if value.kind == "int" else b.fcmp_unordered("!=", v, zero)
        if kind == "int" and value.kind == "bool":
            return b.zext(v, I64)
        if kind in ("float", "real") and value.kind in ("int", "bool"):
            return b.sitofp(b.zext(v, I64) if value.kind == "bool" else v, self.owner.llvm_type(kind))
        if (value.kind, kind) == ("real", "float"):
            return b.fpext(v, DOUBLE)
        if (value.kind, kind) == ("float", "real"):
            return b.fptrunc(v, self.owner.real)
        raise self.fail(node, f"cannot use {value.kind} as {kind}")

    def constant(self, value: object, node: ast.AST) -> Value:
        """A Python number as a value."""
        if isinstance(value, bool):
            return Value("bool", I1(int(value)))
        if isinstance(value, int):
            return Value("int", I64(value), True)
        if isinstance(value, float):
            return Value("float", DOUBLE(value), True)
        raise self.fail(node, f"{value!r} is not a number")

    def of_Constant(self, node: ast.Constant) -> Value:
        return self.constant(node.value, node)

    def of_Name(self, node: ast.Name) -> Value:
        if node.id in self.slots:
            kind, at = self.slots[node.id]
            return Value(kind, self.b.load(at))
        if node.id in self.globals:
            return self.constant(self.globals[node.id], node)
        raise self.fail(node, f"unknown name {node.id}")

    def of_Attribute(self, node: ast.Attribute) -> Value:
        module = self.globals.get(node.value.id) if isinstance(node.value, ast.Name) else None
        if not isinstance(module, ModuleType):
            raise self.fail(node, "attributes are read from modules only")
        return self.constant(getattr(module, node.attr), node)

    def entry(self, node: ast.Subscript) -> tuple[str, Any]:
        """Kind and address of an entry of a pointer."""
        pointer = self.value(node.value)
        index = self.cast(self.value(node.slice), "int", node)
        return ENTRY[pointer.kind], self.b.gep(pointer.ir, [index])

    def of_Subscript(self, node: ast.Subscript) -> Value:
        kind, at = self.entry(node)
        return Value(kind, self.b.load(at))

    def of_UnaryOp(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return Value("bool", self.b.not_(self.truth(node.operand)))
        v = self.value(node.operand)
        return Value(v.kind, self.b.neg(v.ir) if v.kind == "int" else self.b.fneg(v.ir), v.literal)

    def of_BinOp(self, node: ast.BinOp) -> Value:
        return self.binary(node.op, self.value(node.left), self.value(node.right), node)

    def common(self, x: Value, y: Value, node: ast.AST, least: str = "int") -> tuple[str, Any, Any]:
        """Both values in their common kind; numbers in the source take the kind of the other operand."""
        a, z = x, y
        kind = max(a.kind, z.kind, least, key=lambda k: _RANK[k])
        if kind == "float" and "real" in (a.kind, z.kind) and (a.literal or z.literal):
            kind = "real"
        return kind, self.cast(a, kind, node), self.cast(z, kind, node)

    def binary(self, op: ast.operator, x: Value, y: Value, node: ast.AST) -> Value:
        """Arithmetic. Integer quotients and remainders are of non-negative numbers."""
        b = self.b
        kind, u, v = self.common(x, y, node, "float" if isinstance(op, (ast.Div, ast.Pow)) else "int")
        if isinstance(op, ast.Pow):
            return Value("float", b.call(declare(b.module, "llvm.pow.f64", DOUBLE, [DOUBLE, DOUBLE]), [u, v]))
        table: dict[type, tuple[Any, Any]] = {
            ast.Add: (b.add, b.fadd), ast.Sub: (b.sub, b.fsub), ast.Mult: (b.mul, b.fmul), ast.Div: (None, b.fdiv),
            ast.FloorDiv: (b.sdiv, None), ast.Mod: (b.srem, None), ast.BitAnd: (b.and_, None),
            ast.RShift: (b.ashr, None),
        }  # fmt: skip
        emit = table[type(op)][0 if kind == "int" else 1]
        if emit is None:
            raise self.fail(node, f"{type(op).__name__} of {kind}")
        return Value(kind, emit(u, v), x.literal and y.literal)

    def of_Compare(self, node: ast.Compare) -> Value:
        kind, u, v = self.common(self.value(node.left), self.value(node.comparators[0]), node)
        op = _COMPARE[type(node.ops[0])]
        if kind == "int":
            return Value("bool", self.b.icmp_signed(op, u, v))
        compare = self.b.fcmp_unordered if op == "!=" else self.b.fcmp_ordered
        return Value("bool", compare(op, u, v))

    def of_BoolOp(self, node: ast.BoolOp) -> Value:
        with self.b.goto_entry_block():
            result = self.b.alloca(I1)
        end = self.b.append_basic_block("end")
        for i, part in enumerate(node.values):
            test = self.truth(part)
            self.b.store(test, result)
            if i + 1 == len(node.values):
                self.b.branch(end)
                break
            more = self.b.append_basic_block("more")
            if isinstance(node.op, ast.And):
                self.b.cbranch(test, more, end)
            else:
                self.b.cbranch(test, end, more)
            self.b.position_at_end(more)
        self.b.position_at_end(end)
        return Value("bool", self.b.load(result))

    def of_IfExp(self, node: ast.IfExp) -> Value:
        """Both sides are evaluated only when chosen."""
        test = self.truth(node.test)
        then, other, end = (self.b.append_basic_block(n) for n in ("then", "else", "end"))
        self.b.cbranch(test, then, other)
        ends = []
        for where, part in ((then, node.body), (other, node.orelse)):
            self.b.position_at_end(where)
            ends.append((self.value(part), self.b.block))
        (x, after_x), (y, after_y) = ends
        kind = x.kind if x.kind == y.kind else max(x.kind, y.kind, key=lambda k: _RANK[k])
        if kind == "float" and "real" in (x.kind, y.kind) and (x.literal or y.literal):
            kind = "real"
        with self.b.goto_entry_block():
            result = self.b.alloca(self.owner.llvm_type(kind))
        for v, after in ((x, after_x), (y, after_y)):
            self.b.position_at_end(after)
            self.b.store(self.cast(v, kind, node), result)
            self.b.branch(end)
        self.b.position_at_end(end)
        return Value(kind, self.b.load(result))

    # --- calls ---------------------------------------------------------------------------------------------------

    def of_Call(self, node: ast.Call) -> Value:
        result, kinds = self.call(node)
        return Value(kinds[0], result)

    def call(self, node: ast.Call) -> tuple[Any, list[str]]:
        """Result of a call with its kinds."""
        if isinstance(node.func, ast.Attribute):
            return self.numeric(node.func.attr, node)
        if not isinstance(node.func, ast.Name):
            raise self.fail(node, "only names can be called")
        target = self.globals.get(node.func.id)
        if isinstance(target, Primitive):
            marks = dict(target.function.__annotations__)
            result = kinds_of(str(marks.pop("return")))
            kinds = [kinds_of(str(v))[0] for v in marks.values()]
            return _EMITTERS[target.__name__](self.r, *self.arguments(node, kinds)), result
        if isinstance(target, SweepFunction):
            made, kinds, result = self.owner.function(target)
            return self.b.call(made, self.arguments(node, kinds)), result
        return self.numeric(node.func.id, node)

    def arguments(self, node: ast.Call, kinds: list[str]) -> list[Any]:
        """Arguments converted to the parameters' kinds."""
        if len(node.args) != len(kinds) or node.keywords:
            raise self.fail(node, f"expected {len(kinds)} positional arguments")
        return [self.cast(self.value(v), k, node) for v, k in zip(node.args, kinds, strict=True)]

    def numeric(self, name: str, node: ast.Call) -> tuple[Any, list[str]]:
        """Built-in functions and those of `math`."""
        b, values = self.b, [self.value(v) for v in node.args]
        if name in ("min", "max"):
            best = values[0]
            for other in values[1:]:
                kind, u, v = self.common(best, other, node)
                less = (b.icmp_signed if kind == "int" else b.fcmp_ordered)("<" if name == "min" else ">", v, u)
                best = Value(kind, b.select(less, v, u))
            return best.ir, [best.kind]
        if name == "int":
            return b.fptosi(values[0].ir, I64), ["int"]
        x = values[0]
        elem = x.ir.type if x.kind == "real" else DOUBLE
        bits = 64 if elem is DOUBLE or isinstance(elem, ir.DoubleType) else 32
        known = {"abs": "fabs", "isfinite": "fabs", "sqrt": "sqrt", "ceil": "ceil", "exp": "exp", "log": "log"}
        if name not in known:
            raise self.fail(node, f"unknown function {name}")
        made = declare(b.module, f"llvm.{known[name]}.f{bits}", elem, [elem])
        size = b.call(made, [self.cast(x, x.kind if x.kind == "real" else "float", node)])
        if name == "isfinite":
            return b.fcmp_ordered("<", size, elem(math.inf)), ["bool"]
        return size, [x.kind if x.kind == "real" else "float"]
