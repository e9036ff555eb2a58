"""Random expression graphs: compiled code, interpreter and CasADi's virtual machine agree in value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import casadi as ca
import pytest
from hypothesis import given, note, settings, strategies as st

from lowering.compare import W, check_interpreter, check_kernels, vjp

#: Smooth or piecewise operations whose results stay of order one, so that agreement to 1e-12 means agreement.
UNARY: dict[str, Callable[[ca.MX], ca.MX]] = {
    "tanh": ca.tanh,
    "sin": ca.sin,
    "bump": lambda a: ca.exp(-(a**2)),
    "root": lambda a: ca.sqrt(1 + a**2),
    "relu": lambda a: ca.if_else(a > 0, a, 0.1 * a),
    "expm1": lambda a: ca.expm1(-ca.fabs(a)) * a,
    "log1p": lambda a: ca.log1p(a**2),
    "atan": ca.atan,
    "negative": lambda a: -a,
    "clip": lambda a: ca.fmin(ca.fmax(a, -1), 1.5),
    "affine": lambda a: 0.5 * a - 0.25,
    "softmax": lambda a: ca.exp(a - ca.logsumexp(a)),
    "normalised": lambda a: a / (1 + ca.norm_2(a)),
    "reversed": lambda a: a[::-1],
    "doubled": lambda a: ca.vertcat(a, 2 * a[0]),
    "rotated": lambda a: ca.vec(a[[*range(1, a.numel()), 0]]),
    "every_other": lambda a: a[::2],
    "sum": ca.sum1,
    "largest": ca.mmax,
    "running_sum": lambda a: ca.cumsum(a) / a.numel(),
    "self_product": lambda a: ca.vec(a @ a.T)[: min(6, a.numel() ** 2)] / 2,
    "set": lambda a: _changed(a),
}
BINARY: dict[str, Callable[[ca.MX, ca.MX], ca.MX]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b / 2,
    "div": lambda a, b: a / (2 + ca.sin(b)),
    "larger": ca.fmax,
    "angle": lambda a, b: ca.atan2(a, 1.5 + b**2),
    "choice": lambda a, b: ca.if_else(a > b, a, ca.sin(b)),
}


def _changed(a: ca.MX) -> ca.MX:
    out = ca.MX(a)
    out[0] = out[-1] * out[0]
    out[-1] += 0.5
    return out


def _inner(kind: Any) -> ca.Function:
    x, y = kind.sym("x", 2), kind.sym("y", 2)
    return ca.Function("inner", [x, y], [ca.vertcat(x[0] * ca.cos(y[1]), x[1] - y[0]), ca.dot(x, y)])


CALLS = {"sx": _inner(ca.SX), "mx": _inner(ca.MX), "map": _inner(ca.SX).map(2)}


def _fit(v: ca.MX, n: int) -> ca.MX:
    """A vector of n entries made of the entries of v."""
    return v if v.numel() == n else ca.vec(v[[i % v.numel() for i in range(n)]])


@st.composite
def functions(draw: st.DrawFn) -> ca.Function:
    """A function (x, u, p) of a random graph with one to three outputs."""
    nx, nu, n_p = draw(st.integers(1, 5)), draw(st.integers(0, 3)), draw(st.integers(1, 20))
    x, u, p = ca.MX.sym("x", nx), ca.MX.sym("u", nu), ca.MX.sym("p", n_p)
    values = [x, p, *([u] if nu else [])]
    pick = st.integers(0, 10_000)

    def old() -> ca.MX:
        return values[draw(pick) % len(values)]

    for _ in range(draw(st.integers(2, 9))):
        form = draw(
            st.sampled_from(["unary", "unary", "binary", "binary", "layer", "product", "concat", "call", "slice"])
        )
        if form == "unary":
            made = UNARY[draw(st.sampled_from(sorted(UNARY)))](old())
        elif form == "binary":
            a, b = old(), old()
            b = b if b.numel() == 1 else _fit(b, a.numel())
            made = BINARY[draw(st.sampled_from(sorted(BINARY)))](a, b)
        elif form == "layer":
            z, rows = old(), draw(st.integers(1, 9))
            flat = _fit(p, rows * z.numel())
            w = ca.reshape(flat, z.numel(), rows).T if draw(st.booleans()) else ca.reshape(flat, rows, z.numel())
            made = ca.tanh(w @ z / z.numel() + _fit(p, rows))
        elif form == "product":
            a, b = _fit(old(), 6), _fit(old(), 6)
            made = ca.vec(ca.reshape(a, 2, 3) @ ca.reshape(b, 3, 2)) / 3
        elif form == "concat":
            made = ca.vertcat(old(), old())
        elif form == "call":
            name = draw(st.sampled_from(sorted(CALLS)))
            f = CALLS[name]
            a, b = (ca.reshape(_fit(old(), f.nnz_in(0)), *f.size_in(0)) for _ in range(2))
            made = ca.vec(f(a, b)[draw(st.integers(0, 1))])
        else:
            v = old()
            first = draw(st.integers(0, v.numel() - 1))
            made = v[first : draw(st.integers(first + 1, v.numel()))]
        values.append(made if made.numel() <= 40 else made[:40])
    outputs = [values[-1], *(old() for _ in range(draw(st.integers(0, 2))))]
    return ca.Function("random", [x, u, p], outputs, ["x", "u", "p"], [f"y{j}" for j in range(len(outputs))])


def _check(f: ca.Function, registers: int) -> None:
    note(f.str(True))
    check_interpreter(f)
    check_interpreter(vjp(f))
    check_kernels(f, registers=[registers], tolerance=2e-12, batches=(1, W - 1, W, W + 1))


@given(f=functions(), registers=st.sampled_from([0, 1, 2]))
@settings(max_examples=30)
def test_random_program(f: ca.Function, registers: int) -> None:
    _check(f, registers)


@pytest.mark.slow
@given(f=functions(), registers=st.sampled_from([0, 1, 2, 4]))
@settings(max_examples=300)
def test_many_random_programs(f: ca.Function, registers: int) -> None:
    _check(f, registers)
