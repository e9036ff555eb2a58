"""Cascaded tanks: learn a controlled neural ODE from one measured record, then simulate a second one.

A pump fills the upper of two tanks, which drains into the lower one; the level of the lower tank is measured. When the
upper tank overflows, part of the water misses the lower tank. Known physics (Torricelli's law, overflow) stands beside
two small networks for what the physics leaves out. Structure, weight decay and starts were chosen by cross-validation
inside the estimation record; docs/choosing.md says how often the test record was scored.

Benchmark: Schoukens, Mattsson, Wigren, Noel (2016), nonlinearbenchmark.org. The initial state is the same, unknown, in
both records: it is estimated with the parameters and used again for the test record.

    python examples/cascaded_tanks.py [--data DIR] [--fast] [--figure cascaded_tanks.png]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from pathlib import Path

import casadi as ca
import numpy as np
from scipy.optimize import least_squares

import ctrlode_casadi as co

TIME_UNIT = 40.0  # seconds; makes all derivatives of order one
FULL = 10.0  # level at which the upper tank overflows and the sensor saturates, in volts of the sensor
PUBLISHED = (
    ("grey box with overflow physics", 0.18),
    ("CT-SUBNET, best run", 0.217),
    ("stable port-Hamiltonian network, best run", 0.233),
    ("GRU", 0.396),
    ("neural ODE, median run", 0.688),
    ("best linear model", 0.75),
)


# --- data ------------------------------------------------------------------------------------------------------------


def read_records(folder: str | None) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], str]:
    """(train, test, source), each record as (t, u, y)."""
    folder = folder or os.environ.get("CTRLODE_DATA")
    if folder:
        base = Path(folder)
        base = base / "cascaded_tanks" if (base / "cascaded_tanks").is_dir() else base
        if not (base / "train.csv").is_file():
            raise SystemExit(f"no train.csv in {base}; give --data a folder with train.csv and test.csv (t, u, y)")
        train, test = (np.loadtxt(base / f"{k}.csv", delimiter=",", skiprows=1).T for k in ("train", "test"))
        return tuple(train), tuple(test), f"measured records in {base}"
    try:
        import nonlinear_benchmarks

        print("data: asking nonlinear_benchmarks for the measured records (one download)", flush=True)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            train, test = nonlinear_benchmarks.Cascaded_Tanks()
        records = [(np.arange(len(r.u)) * 4.0, np.ravel(r.u), np.ravel(r.y)) for r in (train, test)]
        return records[0], records[1], "measured records from nonlinear_benchmarks"
    except Exception as error:  # no package, no network, changed format: the plant below always works
        source = f"records of a built-in plant, the measured ones cannot be had ({type(error).__name__})"
        return made_record(1), made_record(2), source


def made_record(seed: int, n: int = 1024) -> tuple[np.ndarray, ...]:
    """A record of a simulated plant of this kind: two tanks with overflow, random-phase multisine, 40 dB noise."""
    rng = np.random.default_rng(seed)
    t = 4.0 * np.arange(n)
    lines = np.arange(1, int(0.0144 * 4 * n))
    phase = rng.uniform(0, 2 * np.pi, lines.size)
    u = np.sin(2 * np.pi * np.outer(np.arange(n) / n, lines) + phase).sum(axis=1)
    u = 2.8 + 1.1 * u / np.abs(u).max() * 2.2
    x1, x2 = 5.0, 5.2
    y = np.empty(n)
    for k in range(n):
        y[k] = min(x2, FULL)
        for _ in range(40):
            spill = max(x1 - FULL, 0.0) * 20
            flow = 1.9 * np.sqrt(max(x1, 0.0))
            d1 = 1.7 * max(u[k] - 0.3, 0.0) - flow - spill
            d2 = flow - 1.9 * np.sqrt(max(x2, 0.0)) + 0.6 * spill - 20 * max(x2 - FULL - 0.3, 0.0)
            x1, x2 = x1 + d1 * 0.1 / 40, x2 + d2 * 0.1 / 40
    return t, u, y + 0.03 * rng.standard_normal(n)


# --- model -----------------------------------------------------------------------------------------------------------

upper_net = co.Chain(co.Dense(2, 4, "tanh"), co.Dense(4, 1, weight_init=co.init.glorot_uniform(gain=0.2)))
lower_net = co.Chain(co.Dense(3, 4, "tanh"), co.Dense(4, 1, weight_init=co.init.glorot_uniform(gain=0.2)))
layout = co.ParameterLayout(physics=6, start=2, upper=upper_net, lower=lower_net)

PHYSICS = ("k1", "k4", "k2", "k3", "k6", "l2")
NOMINAL = np.array([1.9, 1.6, 1.9, 1.9, 0.9, 0.3])  # of these; the parameters are logarithms of factors
START = np.array([5.0, 5.2])


def root(x: ca.MX) -> ca.MX:
    """Square root of the positive part, smooth over 0.1 V."""
    return ca.sqrt(0.5 * (x + ca.sqrt(x * x + 0.01)))


def excess(x: ca.MX, width: float = 0.05) -> ca.MX:
    """Positive part, smooth over ``width`` volts."""
    z = x / width
    return width * (0.5 * (z + ca.fabs(z)) + ca.log1p(ca.exp(-ca.fabs(z))))


def rhs(t: ca.MX, x: ca.MX, u: ca.MX, p: object) -> list[ca.MX]:
    """Levels of the two tanks in sensor volts, per time unit."""
    k1, k4, k2, k3, k6, l2 = ca.vertsplit(NOMINAL * ca.exp(p.physics))
    spill1, spill2 = 20 * excess(x[0] - FULL), 20 * excess(x[1] - FULL - l2)
    z1, z2, zu = (x[0] - 5) / 2.5, (x[1] - 5) / 2.5, (u - 2.8) / 1.2
    unknown1 = upper_net(ca.vertcat(z1, zu), p.upper)
    unknown2 = lower_net(ca.vertcat(z1, z2, zu), p.lower)
    return [
        k4 * u - k1 * root(x[0]) - spill1 + unknown1,
        k2 * root(x[0]) - k3 * root(x[1]) + k6 * spill1 - spill2 + unknown2,
    ]


def level(t: ca.MX, x: ca.MX, u: ca.MX, p: object) -> ca.MX:
    """The sensor saturates."""
    return ca.fmin(x[1], FULL)


model = co.ControlledODE(rhs, nx=2, nu=1, params=layout, output=level, state_names=("upper", "lower"))


def penalties() -> np.ndarray:
    """Weight of each squared parameter: priors on the physics, weight decay on the networks."""
    weight = np.zeros(layout.n)
    for k, name in enumerate(layout.names()):
        root_weight = 0.01 if "bias" in name else 0.06
        if name.startswith("physics"):
            root_weight = 0.03
        elif name.startswith("start"):
            root_weight = 0.02 if k == layout.slice("start").start else 0.0
        weight[k] = root_weight**2
    return weight


# --- training --------------------------------------------------------------------------------------------------------


def controls_of(t: np.ndarray, u: np.ndarray) -> co.PiecewiseConstant:
    """The pump voltage is held between samples."""
    return co.PiecewiseConstant(t / TIME_UNIT, u[:, None])


def train(t: np.ndarray, u: np.ndarray, y: np.ndarray, starts: int) -> tuple[np.ndarray, list[float]]:
    """Best of several starts by the regularised training cost, and all costs."""
    simulator = co.Simulator(model, solver=co.RK4(steps_per_interval=1))
    initial = co.InitialState(lambda d0, p: START + p.start)
    objective = co.Objective(
        simulator, initial, controls_of(t, u), t / TIME_UNIT, data=y[:, None], regularization=penalties()
    )
    found = []
    for seed in range(starts):
        p0 = layout.init(seed)
        fit = least_squares(objective.residuals, p0, jac=objective.jac, ftol=1e-5, xtol=1e-6, gtol=1e-6, max_nfev=150)
        found.append((2 * fit.cost, fit.x))
        print(f"  start {seed}: cost {2 * fit.cost:.5f} after {fit.nfev} evaluations")
    return min(found, key=lambda f: f[0])[1], [c for c, _ in found]


def simulate(p: np.ndarray, t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Free run from the learned initial state and the pump signal alone."""
    simulator = co.Simulator(model, solver=co.RK4(steps_per_interval=1))
    return simulator(START + layout.unflatten(p).start, controls_of(t, u), p, t / TIME_UNIT).y[0, :, 0]


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def draw(path: str, records: list[tuple[str, np.ndarray, np.ndarray, np.ndarray, float]]) -> None:
    """Measured and simulated levels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 5.2), sharex=True, layout="constrained")
    for axis, (name, t, y, model_y, error) in zip(axes, records, strict=True):
        axis.plot(t / 60, y, color="0.25", lw=1.1, label="measured")
        axis.plot(t / 60, model_y, color="C3", lw=1.1, label=f"simulated from the pump signal, RMSE {error:.3f} V")
        axis.plot(t / 60, y - model_y, color="C0", lw=0.7, label="error")
        axis.set(ylabel="lower level [V]", title=name)
        axis.legend(loc="upper right", ncols=3, fontsize=8, framealpha=0.9)
        axis.set_ylim(-1.5, 12.8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("time [min]")
    figure.savefig(path, dpi=110)
    print(f"figure: {path}")


def main() -> None:
    """Train, test, print, draw."""
    parser = argparse.ArgumentParser(description="Cascaded tanks benchmark")
    parser.add_argument("--data", help="folder with train.csv and test.csv (default: $CTRLODE_DATA)")
    parser.add_argument("--fast", action="store_true", help="two starts instead of eight")
    parser.add_argument("--figure", default="cascaded_tanks.png", help="where to save the figure")
    options = parser.parse_args()
    (t, u, y), (t_test, u_test, y_test), source = read_records(options.data)
    print(f"data: {source}")
    print(f"model: 2 states, {layout.n} parameters; training on {len(t)} samples")
    began = time.perf_counter()
    p, _ = train(t, u, y, starts=2 if options.fast else 8)
    seconds = time.perf_counter() - began
    fitted, predicted = simulate(p, t, u), simulate(p, t_test, u_test)
    errors = rmse(fitted, y), rmse(predicted, y_test)
    values = NOMINAL * np.exp(layout.unflatten(p).physics)
    print("physics:", " ".join(f"{k}={v:.3f}" for k, v in zip(PHYSICS, values, strict=True)))
    try:
        draw(
            options.figure,
            [("estimation record", t, y, fitted, errors[0]), ("test record", t_test, y_test, predicted, errors[1])],
        )
    except ImportError:
        print("figure: not drawn; pip install matplotlib")
    print(f"trained in {seconds:.1f} s, compilation included")
    if source.startswith("measured"):
        print("published, test RMSE [V]:", "; ".join(f"{name} {value}" for name, value in PUBLISHED))
    print(f"train RMSE: {errors[0]:.3f} V")
    print(f"test RMSE: {errors[1]:.3f} V")


if __name__ == "__main__":
    main()
