"""Explicit Runge-Kutta methods as data.

Notation as in Hairer, Norsett & Wanner I (II.1): stages k_i = f(t + c_i h, x + h sum_j a_ij k_j), step
x' = x + h sum_i b_i k_i, error estimate h sum_i e_i k_i, dense output x(t + theta h) = x + h sum_i k_i w_i(theta) with
w_i(theta) = sum_j P[i, j] theta**(j + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tableau:
    """One explicit Runge-Kutta method.

    Attributes
    ----------
    name, order
        Name of the method and order of its step.
    A, b, c
        Coefficients, (S, S), (S,), (S,); A is strictly lower triangular. Stages that serve the error estimate or the
        dense output only have b = 0.
    e
        Weights of the error estimate, (1, S), or (2, S) for DOP853 (fifth- and third-order estimates); None for a
        method without one.
    error_order
        Order of the embedded solution; the error of a step behaves like h**(error_order + 1).
    P
        Dense output, (S, degree), or None.
    extra
        Number of trailing stages that only the dense output needs.
    fsal
        True when the last stage of a trial is the first stage of the next step.
    stability
        For methods whose last two stages of a trial both lie at its end: h |lambda| from which on a step counts as
        limited by stability, a little less than the length of the real stability interval. None for other methods.
    """

    name: str
    order: int
    A: Array
    b: Array
    c: Array
    e: Array | None = None
    error_order: int | None = None
    P: Array | None = None
    extra: int = 0
    fsal: bool = False
    stability: float | None = None

    @property
    def stages(self) -> int:
        """Number of stages, those for the dense output included."""
        return self.b.size

    @property
    def trial(self) -> int:
        """Stages evaluated in a trial step with error estimate."""
        return self.stages - self.extra

    @property
    def main(self) -> int:
        """Stages that the step itself needs."""
        return int(np.flatnonzero(self.b)[-1]) + 1


def _make(name: str, order: int, rows: list[list[float]], b: list[float], c: list[float], **options: Any) -> Tableau:
    """Tableau from the lower triangle's rows."""
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(rows, start=1):
        a[i, : len(row)] = row
    return Tableau(name, order, a, np.array(b, dtype=float), np.array(c, dtype=float), **options)


@cache
def euler() -> Tableau:
    """Explicit Euler method, order 1."""
    return _make("Euler", 1, [], [1.0], [0.0])


@cache
def midpoint() -> Tableau:
    """Explicit midpoint rule, order 2 (Runge 1895)."""
    return _make("Midpoint", 2, [[0.5]], [0.0, 1.0], [0.0, 0.5])


@cache
def heun() -> Tableau:
    """Heun's method, order 2: the explicit trapezoidal rule."""
    return _make("Heun", 2, [[1.0]], [0.5, 0.5], [0.0, 1.0])


@cache
def rk4() -> Tableau:
    """The classical Runge-Kutta method, order 4 (Kutta 1901)."""
    return _make("RK4", 4, [[0.5], [0.0, 0.5], [0.0, 0.0, 1.0]], [1 / 6, 1 / 3, 1 / 3, 1 / 6], [0.0, 0.5, 0.5, 1.0])


def _from_scipy(name: str, source: Any, order: int, stability: float | None = None) -> Tableau:
    """A first-same-as-last pair from the public class attributes of a `scipy.integrate` method."""
    n = source.n_stages
    a = np.zeros((n + 1, n + 1))
    a[:n, : source.A.shape[1]] = source.A[:n]
    a[n, :n] = source.B
    return Tableau(
        name, order, a, np.append(source.B, 0.0), np.append(source.C, 1.0), np.array(source.E)[None, :],
        source.error_estimator_order, np.array(source.P), fsal=True, stability=stability,
    )  # fmt: skip


@cache
def bs3() -> Tableau:
    """Bogacki & Shampine, Appl. Math. Lett. 2 (1989), order 3(2); coefficients from `scipy.integrate.RK23`."""
    from scipy.integrate import RK23

    return _from_scipy("BS3", RK23, 3)


@cache
def dopri5() -> Tableau:
    """Dormand & Prince, J. Comp. Appl. Math. 6 (1980), order 5(4); coefficients from `scipy.integrate.RK45`.

    Real stability interval 3.307; 3.25 is what Hairer's DOPRI5 tests for.
    """
    from scipy.integrate import RK45

    return _from_scipy("Dopri5", RK45, 5, 3.25)


@cache
def tsit5() -> Tableau:
    """Tsitouras, Comput. Math. Appl. 62 (2011) 770-775, order 5(4), with its free interpolant of order 4.

    Real stability interval 3.507.
    """
    b = [0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0.0]
    rows = [
        [0.161],
        [-0.008480655492356989, 0.335480655492357],
        [2.8971530571054935, -6.359448489975075, 4.3622954328695815],
        [5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525],
        [5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383],
        b[:6],
    ]
    e = [
        -0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
        0.5823571654525552, -0.45808210592918697, 0.015151515151515152,
    ]  # fmt: skip
    dense = [
        [1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0.0, 0.13169999999999998, -0.2234, 0.1017],
        [0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253],
        [0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902],
        [0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661],
        [0.0, 1.5, -4.0, 2.5],
    ]
    return _make(
        "Tsit5", 5, rows, b, [0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0],
        e=np.array([e]), error_order=4, P=np.array(dense), fsal=True, stability=3.45,
    )  # fmt: skip


def _dop853_dense(source: Any, b: Array) -> Array:
    """SciPy's nested form y + theta (F0 + (1 - theta) (F1 + theta (F2 + ...))) as polynomial weights per stage."""
    stages = b.size
    first, last = np.eye(stages)[0], np.eye(stages)[source.n_stages]
    terms = [b, first - b, 2 * b - (last + first), *source.D]
    poly = np.zeros((stages, len(terms) + 1))
    for i, term in enumerate(reversed(terms)):
        poly[:, 0] += term
        shifted = np.zeros_like(poly)
        shifted[:, 1:] = poly[:, :-1]
        poly = shifted if i % 2 == 0 else poly - shifted
    return poly[:, 1:]


@cache
def dop853() -> Tableau:
    """Hairer, Norsett & Wanner I, II.5 and II.6, order 8(5,3), dense output of order 7; `scipy.integrate.DOP853`.

    Twelve stages, a thirteenth at the end of the step and three more for the dense output.
    """
    from scipy.integrate import DOP853

    source: Any = DOP853
    n = source.n_stages
    total = n + 1 + len(source.C_EXTRA)
    a, b, c = np.zeros((total, total)), np.zeros(total), np.zeros(total)
    a[:n, :n], a[n, :n], a[n + 1 :, :] = source.A[:n, :n], source.B, source.A_EXTRA
    b[:n] = source.B
    c[:n], c[n], c[n + 1 :] = source.C, 1.0, source.C_EXTRA
    e = np.zeros((2, total))
    e[0, : n + 1], e[1, : n + 1] = source.E5, source.E3
    return Tableau("DOP853", 8, a, b, c, e, 7, _dop853_dense(source, b), extra=total - n)
