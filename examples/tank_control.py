"""Cascaded tanks under control: the model learned from one record plans, controls and estimates.

The model of `cascaded_tanks.py` is trained briefly. Optimal control then brings the lower tank to a new level, without
and with a limit on the upper tank; without, the fast way is to let it overflow into the lower one. Predictive control
then follows changing levels on a plant that is not the model: a weaker pump, other outlets, overflow with sharp edges,
no networks. Both levels are measured, with noise; an unknown inflow to each tank, which stands for all model errors, is
estimated.

    python examples/tank_control.py [--data DIR] [--fast] [--figure tank_control.png]
"""

from __future__ import annotations

import argparse
import time

import casadi as ca
import cascaded_tanks as tanks
import numpy as np

import ctrlode_casadi as co

LIMIT = 9.0  # level of the upper tank that must not be exceeded, in volts of the sensor; it overflows at 10
PUMP = (0.5, 6.4)  # volts, the range of the training record
DT = 8.0 / tanks.TIME_UNIT  # sampling time
NOISE = 0.03  # volts
LEVELS = ((0.0, 5.0), (2.0, 6.2), (10.0, 3.5), (17.0, 5.5))  # (time, level wanted from then on)
DURATION = 24.0

layout = co.ParameterLayout(physics=6, start=2, upper=tanks.upper_net, lower=tanks.lower_net, inflow=2, target=1)


def rhs(t: ca.MX, x: ca.MX, u: ca.MX, p: object) -> ca.MX:
    """The learned model with an unknown inflow to each tank."""
    return ca.vertcat(*tanks.rhs(t, x, u, p)) + p.inflow


model = co.ControlledODE(
    rhs, nx=2, nu=1, params=layout, state_names=("upper", "lower"),
    control_names=("pump",),
)  # fmt: skip


def plant(k: np.ndarray) -> co.ControlledODE:
    """The true tanks: the physics with a pump 6 % weaker, outlets 5 % off and sharp edges of the overflow."""
    pump, outlet1, outlet2, caught = 0.94 * k[1], 1.05 * k[0], 0.97 * k[3], 0.6

    def true_rhs(t: ca.MX, x: ca.MX, u: ca.MX, p: object) -> list[ca.MX]:
        flow, spill = outlet1 * ca.sqrt(ca.fmax(x[0], 1e-3)), 20 * ca.fmax(x[0] - tanks.FULL, 0)
        last = outlet2 * ca.sqrt(ca.fmax(x[1], 1e-3)) + 20 * ca.fmax(x[1] - tanks.FULL - 0.3, 0)
        return [pump * u[0] - flow - spill, flow - last + caught * spill]

    return co.ControlledODE(true_rhs, nx=2, nu=1, state_names=("upper", "lower"))


def wanted(t: float) -> float:
    """The level wanted at a time."""
    return [level for begin, level in LEVELS if t >= begin - 1e-9][-1]


def problem(p: np.ndarray, horizon: float, limited: bool, soft: float | None = None) -> co.OptimalControlProblem:
    """Lower level near its target, little pumping to and fro, the upper level below its limit."""
    ocp = co.OptimalControlProblem(model, tf=horizon, p=p)
    ocp.minimize(lagrange=lambda t, x, u, p: (x[1] - p.target) ** 2 + 0.02 * (u[0] - 2.8) ** 2)
    ocp.bounds(x=(0.05, 14.0), u=PUMP)
    if limited:
        ocp.path(lambda t, x, u, p: x[0], ub=LIMIT, soft=soft, name="no overflow")
    return ocp


def plans(p: np.ndarray, intervals: int) -> list[tuple[str, co.OptimalControlSolution]]:
    """From level 4 to level 8, without and with the limit."""
    found = []
    for name, limited in (("no limit", False), (f"upper level below {LIMIT:g} V", True)):
        ocp = problem(p, 5.0, limited)
        ocp.initial([4.0, 4.0])
        sol = ocp.solve("collocation", intervals, control="linear", guess={"x": [5.0, 5.0], "u": [2.8]})
        check = sol.verify()
        print(
            f"plan, {name}: {sol.status.name}, cost {sol.objective:.3f}, highest upper level "
            f"{sol.x[:, 0].max():.2f} V, {sol.stats['iterations']} iterations; "
            f"defect {check.max_defect:.1e}, violation {check.max_violation:.1e}"
        )
        found.append((name, sol))
    return found


def control(p: np.ndarray, true: co.ControlledODE, steps: int) -> co.ClosedLoop:
    """Predictive control of the true tanks from noisy levels."""
    mpc = co.MPC(problem(p, 15 * DT, limited=True, soft=50.0), intervals=15, preview={"target": wanted})
    mhe = co.MHE(
        model, dt=DT, window=15, measurement_noise=NOISE, process_noise=0.02, x0=[5.0, 5.0], x0_noise=0.5, p=p,
        estimate=["inflow"], p_noise=0.5, p_drift=0.05, x_bounds=(0.05, 14.0), p_bounds=(-3.0, 3.0),
    )  # fmt: skip
    return co.closed_loop(
        mpc,
        true,
        x0=[5.3, 4.8],
        steps=steps,
        noise=NOISE,
        observer=mhe,
        updates=lambda t, x, rng: {"inflow": layout.unflatten(mhe.p).inflow},
    )


def report(loop: co.ClosedLoop) -> None:
    """Tracking, limits and time per step."""
    t, lower, upper = loop.t, loop.x[0, :, 1], loop.x[0, :, 0]
    error = lower - [wanted(s) for s in t]
    # Away from changes: the preview moves the levels before the change.
    settled = np.array([all(s >= b + 4.0 or s < b - 2.0 for b, _ in LEVELS) for s in t])
    seconds = [1e3 * r.seconds for r in loop.records]
    sources = sorted({r.source for r in loop.records})
    print(f"loop: {len(loop.records)} steps, {loop.status[0].name}, sources {', '.join(sources)}")
    rms = [np.sqrt(np.mean(e**2)) for e in (error, error[settled])]
    print(f"tracking error, RMS: {rms[0]:.3f} V; settled: {rms[1]:.3f} V")
    print(
        f"highest upper level: {upper.max():.3f} V, limit {LIMIT:g} V; "
        f"above it in {np.sum(upper > LIMIT)} of {t.size} samples"
    )
    print(f"time per step of the controller: median {np.median(seconds):.1f} ms, largest {np.max(seconds):.1f} ms")


def draw(path: str, found: list[tuple[str, co.OptimalControlSolution]], loop: co.ClosedLoop) -> None:
    """Plans on the left, the loop on the right; levels above, pump below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    minutes = tanks.TIME_UNIT / 60
    figure, axes = plt.subplots(
        2, 2, figsize=(11, 5.8), sharex="col", layout="constrained", width_ratios=(1, 1.7), height_ratios=(1.8, 1)
    )
    for (_, sol), style, name in zip(found, ("--", "-"), (", no limit", ""), strict=True):
        t = np.linspace(0.0, sol.tf, 300)
        x, u = sol.resample(t)
        axes[0, 0].plot(minutes * t, x[:, 0], style, color="C1", label=f"upper{name}")
        axes[0, 0].plot(minutes * t, x[:, 1], style, color="C0", label=f"lower{name}")
        axes[1, 0].plot(minutes * t, u[:, 0], style, color="C2")
    axes[0, 0].set_title("optimal control of the learned model", fontsize=10)
    t = minutes * loop.t
    axes[0, 1].plot(t[:-1], loop.measured, ".", color="0.6", ms=3)
    axes[0, 1].plot(t, loop.x[0, :, 1], color="C0", label="lower")
    axes[0, 1].plot(t, loop.x[0, :, 0], color="C1", label="upper")
    axes[0, 1].step(t, [wanted(s) for s in loop.t], "k--", where="post", lw=0.9, label="wanted")
    axes[1, 1].step(t, loop.u[0, :, 0], color="C2", where="post")
    axes[0, 1].set_title("predictive control of other tanks", fontsize=10)
    for axis in axes[0]:
        axis.axhline(LIMIT, color="C3", lw=0.8)
        axis.set(ylabel="level [V]", ylim=(2, 14))
        axis.legend(fontsize=8, ncols=2, loc="upper right")
    for axis in axes[1]:
        axis.set(xlabel="time [min]", ylabel="pump [V]", ylim=(0, 7))
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)
    print(f"figure: {path}")


def main() -> None:
    """Train, plan, control, print, draw."""
    parser = argparse.ArgumentParser(description="Optimal and predictive control of a learned model of two tanks")
    parser.add_argument("--data", help="folder with train.csv and test.csv (default: $CTRLODE_DATA)")
    parser.add_argument("--fast", action="store_true", help="a short record for training, a shorter loop")
    parser.add_argument("--figure", default="tank_control.png", help="where to save the figure")
    options = parser.parse_args()
    (t, u, y), _, source = tanks.read_records(options.data)
    n = 300 if options.fast else len(t)
    print(f"data: {source}")
    began = time.perf_counter()
    learned, _ = tanks.train(t[:n], u[:n], y[:n], starts=1)
    print(f"trained in {time.perf_counter() - began:.1f} s, compilation included")
    p = np.concatenate([learned, np.zeros(2), [8.0]])
    found = plans(p, intervals=20 if options.fast else 40)
    true = plant(tanks.NOMINAL * np.exp(tanks.layout.unflatten(learned).physics))
    loop = control(p, true, steps=round((6.0 if options.fast else DURATION) / DT))
    report(loop)
    try:
        draw(options.figure, found, loop)
    except ImportError:
        print("figure: not drawn; pip install matplotlib")


if __name__ == "__main__":
    main()
