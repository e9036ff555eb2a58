"""Goddard rocket: the greatest height that a given mass of fuel can reach, with free final time.

The best thrust is full, then singular (in between, to balance speed against drag), then zero. Two collocation methods
solve the problem: a control that is linear on each interval of an even mesh, and one on a mesh that has been refined
where the error is, around the switches. Beside them stands the singular thrust that theory gives at the same states.

Problem 10 of Dolan, More, Munson (2004), "Benchmarking optimization software with COPS 3.0", ANL/MCS-TM-273; published
optimum 1.01283. Singular surface: Bryson, Ho (1975), "Applied optimal control", ch. 8.

    python examples/goddard_rocket.py [--fast] [--figure goddard_rocket.png]
"""

from __future__ import annotations

import argparse

import casadi as ca
import numpy as np

import ctrlode_casadi as co

DRAG, DECAY, EXHAUST = 310.0, 500.0, 0.5  # in units of the launch radius, mass and gravity
FULL_THRUST, EMPTY = 3.5, 0.6
PUBLISHED = 1.01283


def drag(h: ca.MX, v: ca.MX) -> ca.MX:
    """Air drag at a distance h from the centre of the earth."""
    return DRAG * v**2 * ca.exp(-DECAY * (h - 1))


def rhs(t: ca.MX, x: ca.MX, u: ca.MX, p: object) -> list[ca.MX]:
    """Distance from the centre of the earth, speed and mass."""
    h, v, m = ca.vertsplit(x)
    return [v, (u[0] - drag(h, v)) / m - 1 / h**2, -u[0] / EXHAUST]


model = co.ControlledODE(rhs, nx=3, nu=1, state_names=("height", "speed", "mass"), control_names=("thrust",))


def rocket() -> co.OptimalControlProblem:
    """The problem: greatest final height, from rest to an empty tank."""
    ocp = co.OptimalControlProblem(model, tf=co.Free(0.2, 0.05, 1.0))
    ocp.minimize(mayer=lambda x0, xf, tf, p: -xf[0])
    ocp.bounds(x=([1.0, 0.0, EMPTY], [None, None, 1.0]), u=(0.0, FULL_THRUST))
    ocp.initial([1.0, 0.0, 1.0])
    ocp.terminal([None, None, EMPTY])
    return ocp


def guess() -> dict[str, np.ndarray]:
    """Slow ascent at half thrust."""
    s = np.linspace(0.0, 1.0, 21)
    return {"x": np.stack([1 + 0.01 * s, 0.4 * s * (1 - s) + 0.01, 1 - 0.4 * s], axis=1), "u": np.array([1.75])}


def singular() -> ca.Function:
    """The thrust that stays on the singular surface, as a function of the state.

    On the surface, the field without thrust f, that of the thrust g and their Lie bracket are linearly dependent: the
    costate is normal to all three, as the final time is free. The thrust keeps their determinant zero.
    """
    x, u = ca.MX.sym("x", 3), ca.MX.sym("u")
    f = ca.vertcat(*rhs(0.0, x, ca.MX(1, 1), None))
    g = ca.vertcat(*rhs(0.0, x, ca.MX(1, 1) + 1, None)) - f
    bracket = ca.jtimes(g, x, f) - ca.jtimes(f, x, g)
    surface = ca.det(ca.horzcat(f, g, bracket))
    rate = ca.jtimes(surface, x, f + g * u)
    thrust = -ca.substitute(rate, u, 0) / ca.jacobian(rate, u)
    return ca.Function("thrust", [x], [thrust])


def arc(sol: co.OptimalControlSolution, n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, states and thrust on a fine grid, and the singular thrust where the best thrust is between its bounds."""
    t = np.linspace(0.0, sol.tf, n)
    x, u = sol.resample(t)
    law = singular()(x.T).full()[0]
    inside = (u[:, 0] > 0.02 * FULL_THRUST) & (u[:, 0] < 0.98 * FULL_THRUST)
    return t, x, u[:, 0], np.where(inside, law, np.nan)


def draw(path: str, fine: co.OptimalControlSolution) -> None:
    """States, thrust with the singular arc, and the refined mesh."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9.5, 5.6), sharex=True, layout="constrained")
    t, x, u, law = arc(fine)
    panels = (("height - 1", 1e3 * (x[:, 0] - 1), " [1e-3]"), ("speed", x[:, 1], ""), ("mass", x[:, 2], ""))
    for axis, (name, values, unit) in zip(axes.flat, panels, strict=False):
        axis.plot(t, values, color="C0")
        axis.set_ylabel(name + unit)
    axis = axes[1, 1]
    axis.plot(t, law, color="C1", lw=5, alpha=0.45, label="singular thrust of theory")
    axis.plot(t, u, color="C0", lw=1.3, label="best thrust")
    breaks = fine.multipliers.t
    axis.plot(breaks, np.full(breaks.size, -0.25), "|", color="0.3", ms=7, label="refined mesh")
    axis.set(ylabel="thrust", ylim=(-0.5, 3.8))
    axis.legend(fontsize=8)
    on_arc = t[np.isfinite(law)]
    for axis in axes.flat:
        axis.axvspan(on_arc[0], on_arc[-1], color="C1", alpha=0.1, lw=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("time")
    axes[0, 0].set_title(f"largest height {-fine.objective:.6f}", fontsize=10)
    axes[0, 1].set_title("shaded: singular arc", fontsize=10)
    figure.savefig(path, dpi=100)
    print(f"figure: {path}")


def main() -> None:
    """Solve on two meshes, compare, verify, draw."""
    parser = argparse.ArgumentParser(description="Goddard rocket")
    parser.add_argument("--fast", action="store_true", help="coarser meshes")
    parser.add_argument("--figure", default="goddard_rocket.png", help="where to save the figure")
    options = parser.parse_args()
    ocp, intervals = rocket(), 25 if options.fast else 50
    even = ocp.solve("collocation", intervals, control="linear", guess=guess())
    fine = ocp.solve("collocation", 20, control="linear", guess=even, refine=1e-5 if options.fast else 1e-7)
    print(f"published height: {PUBLISHED}")
    for name, sol in ((f"{intervals} even intervals", even), (f"{fine.multipliers.t.size - 1} refined", fine)):
        print(
            f"{name}: {sol.status.name}, height {-sol.objective:.8f} at t = {sol.tf:.5f}, "
            f"{sol.stats['iterations']} iterations, mesh error {sol.mesh_errors().max():.1e}"
        )
        print(sol.verify())
    t, _, u, law = arc(fine)
    on_arc = np.isfinite(law)
    middle = on_arc & (t > np.quantile(t[on_arc], 0.15)) & (t < np.quantile(t[on_arc], 0.85))
    print(f"singular arc from t = {t[on_arc][0]:.4f} to {t[on_arc][-1]:.4f}")
    print(f"thrust on it differs from the singular law by {np.abs(u - law)[middle].max():.3f} of {FULL_THRUST}")
    try:
        draw(options.figure, fine)
    except ImportError:
        print("figure: not drawn; pip install matplotlib")


if __name__ == "__main__":
    main()
