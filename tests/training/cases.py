"""Problems that the tests of fits share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import casadi as ca
import numpy as np

import ctrlode_casadi as co


@dataclass(frozen=True)
class Published:
    """A parameter estimation problem with a published optimum."""

    rhs: Callable[..., Any]
    x0: tuple[float, ...]
    times: np.ndarray
    data: np.ndarray
    guess: np.ndarray
    lb: float
    ub: float
    value: float
    rtol: float

    def objective(self) -> co.Objective:
        """The sum of squares; the first row of data is missing where nothing was measured at the start."""
        model = co.ControlledODE(self.rhs, nx=len(self.x0), params=self.guess.size)
        sim = co.Simulator(model, solver=co.Tsit5(rtol=1e-8, atol=1e-10))
        return co.Objective(sim, np.array(self.x0), None, self.times, data=self.data, loss="sse")


def with_start(times: list[float], rows: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Times from 0 on, and data with a missing first row."""
    return np.array([0.0, *times]), np.vstack([np.full(len(rows[0]), np.nan), rows])


def gasoil() -> Published:
    """Catalytic cracking of gas oil: COPS 3.0, problem 12 (Tjoa & Biegler 1991)."""
    times = "0 .025 .05 .075 .1 .125 .15 .175 .2 .225 .25 .3 .35 .4 .45 .5 .55 .65 .75 .85 .95"
    oil = "1 .8105 .6208 .5258 .4345 .3903 .3342 .3034 .2735 .2405 .2283 .2071 .1669 .153 .1339 .1265 .12 .099 .087 "
    gasoline = "0 .2 .2886 .301 .3215 .3123 .2716 .2551 .2258 .1959 .1789 .1457 .1198 .0909 .0719 .0561 .046 .028 .019 "
    data = np.array([[float(v) for v in row.split()] for row in (oil + ".077 .069", gasoline + ".014 .01")]).T
    return Published(
        lambda t, x, u, p: [-(p[0] + p[2]) * x[0] ** 2, p[0] * x[0] ** 2 - p[1] * x[1]],
        (1.0, 0.0),
        np.array([float(v) for v in times.split()]),
        data,
        np.array([5.0, 5.0, 1.0]),
        0.0,
        50.0,
        5.2366e-3,
        1e-3,
    )


def predator() -> Published:
    """Predator and prey: PSOPT, example predator."""
    rows = [
        [0.58462429, 1.653802752],
        [1.480323792, 1.898433328],
        [1.941197515, 0.791087389],
        [1.266090393, 0.402385741],
        [0.68499583, 0.435968041],
        [0.435253441, 0.725707829],
        [0.404814065, 1.244405746],
        [0.822427034, 2.052562952],
        [1.771604896, 1.426515341],
        [1.754832745, 0.548344791],
    ]
    times, data = with_start([float(i) for i in range(1, 11)], rows)
    return Published(
        lambda t, x, u, p: [-p[0] * x[0] + p[1] * x[0] * x[1], p[2] * x[1] - p[3] * x[0] * x[1]],
        (0.4, 1.0),
        times,
        data,
        np.array([0.8, 0.8, 1.5, 1.5]),
        -1.0,
        5.0,
        2.753366e-2,
        2e-3,
    )


def pinene() -> Published:
    """Isomerisation of alpha-pinene: COPS 3.0, problem 13 (Box et al. 1973). Parameters of order 1e-5."""
    rows = [
        [88.35, 7.3, 2.3, 0.4, 1.75],
        [76.4, 15.6, 4.5, 0.7, 2.8],
        [65.1, 23.1, 5.3, 1.1, 5.8],
        [50.4, 32.9, 6.0, 1.5, 9.3],
        [37.5, 42.7, 6.0, 1.9, 12.0],
        [25.9, 49.1, 5.9, 2.2, 17.0],
        [14.0, 57.4, 5.1, 2.6, 21.0],
        [4.5, 63.1, 3.8, 2.9, 25.7],
    ]
    times, data = with_start([1230.0, 3060.0, 4920.0, 7800.0, 10680.0, 15030.0, 22620.0, 36420.0], rows)

    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        lost, dimer = p[3] * x[2], p[4] * x[4]
        return [-(p[0] + p[1]) * x[0], p[0] * x[0], p[1] * x[0] - p[2] * x[2] - lost + dimer, p[2] * x[2], lost - dimer]

    guess = np.array([5e-5, 3e-5, 2e-5, 2e-4, 5e-5])
    return Published(rhs, (100.0, 0.0, 0.0, 0.0, 0.0), times, data, guess, 0.0, 1e-2, 19.8721, 1e-4)


def methanol() -> Published:
    """Methanol to hydrocarbons: COPS 3.0, problem 14 (Floudas et al. 1999). One parameter ends at its bound."""
    times = "0 .05 .065 .08 .123 .233 .273 .354 .397 .418 .502 .553 .681 .75 .916 .937 1.122"
    rows = [
        ".7085 .5971 .5537 .3684 .1712 .1198 .0747 .0529 .0415 .0261 .0208 .0085 .0053 .0019 .0018 .0006",
        ".1621 .1855 .1989 .2845 .3491 .3098 .3576 .3347 .3388 .3557 .3483 .3836 .3611 .3609 .3485 .3698",
        ".0811 .0965 .1198 .1535 .2097 .2628 .2467 .2884 .2757 .3167 .2954 .2950 .2937 .2831 .2846 .2899",
    ]
    data = np.array([[np.nan, *(float(v) for v in row.split())] for row in rows]).T

    def rhs(t: Any, x: Any, u: Any, p: Any) -> list[Any]:
        shared = (p[1] + p[4]) * x[0] + x[1]
        return [
            -(2 * p[1] - p[0] * x[1] / shared + p[2] + p[3]) * x[0],
            p[0] * x[0] * (p[1] * x[0] - x[1]) / shared + p[2] * x[0],
            p[0] * x[0] * (x[1] + p[4] * x[0]) / shared + p[3] * x[0],
        ]

    times_ = np.array([float(v) for v in times.split()])
    return Published(rhs, (1.0, 0.0, 0.0), times_, data, np.ones(5), 0.0, 100.0, 9.02229e-3, 1e-3)


PUBLISHED = {"gasoil": gasoil, "predator": predator, "pinene": pinene, "methanol": methanol}


def falling() -> co.Objective:
    """A hidden state h = 1 + p t drives the measured one; the data want p = -1.5, where h turns negative at t = 2/3."""
    model = co.ControlledODE(
        lambda t, x, u, p: [x[1] - x[0], p], nx=2, params=1, output=lambda t, x, u, p: x[0], state_names=("y", "h")
    )
    sim = co.Simulator(model, solver=co.RK4(steps_per_interval=1))
    ts = np.linspace(0.0, 1.0, 11)
    start = np.array([0.2, 1.0])
    return co.Objective(sim, start, None, ts, data=sim(start, None, np.array([-1.5]), ts).y)


def blow_up(start: float = 1.0) -> co.Objective:
    """x' = p x**2 ends in infinity at t = 1 / (p x0); the data have p = 0.9, just inside."""
    model = co.ControlledODE(lambda t, x, u, p: p * x**2, nx=1, params=1)
    ts = np.linspace(0.0, 1.0, 11)
    sim = co.Simulator(model, solver=co.Tsit5(rtol=1e-8, atol=1e-10, max_steps=2000))
    return co.Objective(sim, start, None, ts, data=start / (1.0 - 0.9 * start * ts), loss="sse")


class Pendulum:
    """Three records of a driven pendulum with unknown stiffness, damping and gain, with noise and missing data."""

    TRUE = np.array([1.3, 0.4, 0.8])
    GUESS = np.array([1.0, 0.1, 0.5])

    def __init__(self, kind: str = "linear", output: Callable[..., Any] | None = None, solver: Any = None) -> None:
        rng = np.random.default_rng(3)
        knots, self.ts = np.linspace(0.0, 4.0, 9), np.linspace(0.0, 4.0, 18)
        values = rng.uniform(-1.0, 1.0, (3, 9, 1))
        kinds = {"hold": co.PiecewiseConstant, "linear": co.PiecewiseLinear, "spline": co.CubicSpline}
        self.controls = kinds[kind](knots, values)
        self.model = co.ControlledODE(
            lambda t, x, u, p: [x[1], p[2] * u[0] - p[0] * ca.sin(x[0]) - p[1] * x[1]],
            nx=2,
            nu=1,
            params=3,
            output=output,
        )
        self.sim = co.Simulator(self.model, solver=solver or co.RK4(steps_per_interval=2))
        self.x0 = np.array([[0.3, 0.0], [-0.5, 0.2], [0.1, -0.4]])
        y = self.sim(self.x0, self.controls, self.TRUE, self.ts).y
        self.data = y + 0.02 * rng.standard_normal(y.shape)
        self.data[0, 3:6] = np.nan
        self.data[1, 7, 0] = np.nan

    def objective(self, x0: Any = None, ragged: bool = False, **options: Any) -> co.Objective:
        start = self.x0 if x0 is None else x0
        if not ragged:
            return co.Objective(self.sim, start, self.controls, self.ts, data=self.data, **options)
        n = (18, 10, 14)
        return co.Objective(
            self.sim,
            start,
            [self.controls[b] for b in range(3)],
            [self.ts[:k] for k in n],
            data=[self.data[b, :k] for b, k in enumerate(n)],
            **options,
        )


def run(obj: co.Objective, p0: Any, method: str, **options: Any) -> Any:
    """A silent fit."""
    return co.fit(obj, p0, method, progress=False, **options)
