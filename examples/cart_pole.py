"""Cart-pole: swing the pole up in two seconds with the least effort, on a track with ends and with a limited force.

Collocation solves the problem of Kelly (2017) from a straight line between the ends. With a weak motor, whose bound is
active, on a track that ends at the target, a straight line leads to a point that is locally infeasible; a sketch of a
swing to both sides does not. That solution leads to a second, cheaper optimum of the first problem: the cart moves away
first. Each control is then replayed, in an open loop, by an adaptive simulator.

Kelly (2017), "An introduction to trajectory optimization", SIAM Review 59(4), 849-904, sec. 6: parameters
and guess. Published optimum: OpenMDAO's dymos, test_cartpole_opt.py, on a coarse mesh.

    python examples/cart_pole.py [--fast] [--figure cart_pole.png]
"""

from __future__ import annotations

import argparse
import time

import casadi as ca
import numpy as np

import ctrlode_casadi as co

CART, POLE = 1.0, 0.3  # masses, kg
LENGTH, GRAVITY = 0.5, 9.81  # m, m/s^2
DURATION = 2.0  # s
TARGET = (1.0, np.pi, 0.0, 0.0)
PUBLISHED = 58.8839489745  # N^2 s
LINE = {"x": [np.zeros(4), TARGET], "u": [0.0]}
SWING = {  # a sketch at five even times: a little away, back below the cart, up
    "x": np.stack([[0.0, -0.1, 0.5, 0.9, 1.0], [0.0, 0.3, -1.0, 1.5, np.pi], np.zeros(5), np.zeros(5)], axis=1),
    "u": [0.0],
}


def rhs(t: ca.MX, x: ca.MX, u: ca.MX, p: object) -> list[ca.MX]:
    """Position [m] and angle from hanging [rad], then their rates."""
    s, c = ca.sin(x[1]), ca.cos(x[1])
    push = u[0] + POLE * LENGTH * x[3] ** 2 * s
    mass = CART + POLE * s**2
    return [
        x[2],
        x[3],
        (push + POLE * GRAVITY * s * c) / mass,
        -((CART + POLE) * GRAVITY * s + push * c) / (LENGTH * mass),
    ]


model = co.ControlledODE(rhs, nx=4, nu=1, state_names=("position", "angle", "speed", "rate"), control_names=("force",))


def problem(force: float, track: float) -> co.OptimalControlProblem:
    """Least integral of the squared force, with |force| and |position| bounded."""
    ocp = co.OptimalControlProblem(model, tf=DURATION)
    ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2)
    ocp.bounds(x=([-track, None, None, None], [track, None, None, None]), u=(-force, force))
    ocp.initial(np.zeros(4))
    ocp.terminal(TARGET)
    return ocp


def replay(sol: co.OptimalControlSolution) -> co.Trajectories:
    """The control alone, from rest, with error control."""
    simulator = co.Simulator(model, solver=co.Tsit5(rtol=1e-9, atol=1e-9))
    return simulator(np.zeros(4), sol.controls, None, np.linspace(0.0, DURATION, 201))


def draw(path: str, runs: list[tuple[str, co.OptimalControlSolution, co.Trajectories]]) -> None:
    """Pictures of the motion, states and forces."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 5.4), layout="constrained")
    for k, (axis, (name, sol, _)) in enumerate(zip(axes[0], runs, strict=True)):
        for t in np.linspace(0.0, DURATION, 17):
            (x,), _ = sol.resample(t)
            tip = x[0] + LENGTH * np.sin(x[1]), -LENGTH * np.cos(x[1])
            shade = plt.get_cmap("viridis_r")(0.1 + 0.9 * t / DURATION)
            axis.plot((x[0], tip[0]), (0, tip[1]), color=shade, lw=1.2)
            axis.plot(*tip, "o", color=shade, ms=6)
            axis.plot(x[0], 0, "s", color=shade, ms=5)
        axis.axhline(0, color="0.6", lw=0.8, zorder=0)
        axis.set_title(f"{name}\ncost {sol.objective:.2f}", fontsize=10, color=f"C{k}")
        axis.set(xlim=(-0.8, 1.8), ylim=(-0.62, 0.62), aspect="equal", xlabel="position [m], light to dark in time")
    for axis, j, name in ((axes[1, 0], 0, "position [m]"), (axes[1, 1], 1, "angle [rad]")):
        for k, (_, sol, run) in enumerate(runs):
            axis.plot(run.t, run.x[0, :, j], color=f"C{k}")
            axis.plot(sol.t[::12], sol.x[::12, j], ".", color=f"C{k}", ms=5)
        axis.axhline(TARGET[j], color="0.7", lw=0.8, zorder=0)
        axis.set(xlabel="time [s]", ylabel=name)
    axes[1, 1].text(0.05, 0.9, "dots: optimum, lines: replay", transform=axes[1, 1].transAxes, fontsize=8)
    fine = np.linspace(0.0, DURATION, 400)
    for k, (name, sol, _) in enumerate(runs):
        axes[1, 2].plot(fine, sol.resample(fine)[1], color=f"C{k}", label=name)
    axes[1, 2].set(xlabel="time [s]", ylabel="force [N]", ylim=(-15, 17))
    axes[1, 2].legend(fontsize=8, loc="upper right")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)
    print(f"figure: {path}")


def main() -> None:
    """Solve, verify, replay, print, draw."""
    parser = argparse.ArgumentParser(description="Swing-up of a cart-pole")
    parser.add_argument("--fast", action="store_true", help="a coarser mesh")
    parser.add_argument("--figure", default="cart_pole.png", help="where to save the figure")
    options = parser.parse_args()
    settings = {"method": "collocation", "intervals": 25 if options.fast else 60, "degree": 4, "control": "linear"}
    began = time.perf_counter()
    first = problem(force=20.0, track=2.0).solve(guess=LINE, **settings)
    weak = problem(force=8.0, track=1.0).solve(guess=SWING, **settings)
    second = problem(force=20.0, track=2.0).solve(guess=weak, **settings)
    seconds = time.perf_counter() - began
    runs = []
    for name, sol in (("20 N, 2 m", first), ("20 N, 2 m, second optimum", second), ("8 N, 1 m", weak)):
        run = replay(sol)
        low, high = sol.x[:, 0].min(), sol.x[:, 0].max()
        miss = np.abs(run.x[0, -1] - TARGET).max()
        print(
            f"{name}: {sol.status.name}, cost {sol.objective:.4f} in {sol.stats['iterations']} iterations; "
            f"largest force {np.abs(sol.u).max():.2f} N, position {low:.2f} to {high:.2f} m; "
            f"the replay ends {miss:.1e} from the target"
        )
        runs.append((name, sol, run))
    print(f"published: {PUBLISHED:.4f}, ours {first.objective:.4f} ({100 * (first.objective / PUBLISHED - 1):+.2f} %)")
    print(f"verification of the first:\n{first.verify()}")
    print(f"three solves in {seconds:.2f} s")
    try:
        draw(options.figure, runs)
    except ImportError:
        print("figure: not drawn; pip install matplotlib")


if __name__ == "__main__":
    main()
