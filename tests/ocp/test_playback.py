"""What is played back between the points: controls within their bounds, the same values as at the points."""

from __future__ import annotations

import numpy as np
import pytest

import ctrlode_casadi as co


def sliding() -> co.OptimalControlProblem:
    """A control that chatters between its bounds: states are steered to zero at next to no price."""
    model = co.ControlledODE(lambda t, x, u, p: [x[1], u[0]], nx=2, nu=1)
    ocp = co.OptimalControlProblem(model, t0=0.3, tf=3.1)
    ocp.minimize(lagrange=lambda t, x, u, p: x[0] ** 2 + 0.01 * x[1] ** 2 + 1e-6 * u[0] ** 2)
    ocp.bounds(u=(-1.0, 1.0))
    ocp.initial([1.0, 1.0])
    return ocp


@pytest.mark.parametrize("scheme", ["radau", "legendre"])
def test_a_collocation_polynomial_is_clipped_to_the_bounds(scheme: str) -> None:
    sol = sliding().solve(method="collocation", intervals=7, degree=4, scheme=scheme, backend="casadi")
    t = np.linspace(sol.t0, sol.tf, 1001)
    played, own = sol.resample(t)[1], sol.controls(t)[0]
    assert np.abs(own).max() > 1.5
    np.testing.assert_array_equal(np.abs(played).max(), 1.0)
    inside = (np.abs(own) < 1.0)[:, 0]
    breaks = np.isclose(t[:, None], sol.t[None, :]).any(axis=1)
    np.testing.assert_allclose(played[inside & ~breaks], own[inside & ~breaks], rtol=0, atol=1e-9)
    report = sol.verify()
    assert report.violation["control bounds"] > 0.5
    assert 'control="linear" keeps them everywhere' in str(report)


@pytest.mark.parametrize("control", ["collocation", "linear", "constant"])
@pytest.mark.parametrize("scheme", ["radau", "legendre"])
def test_resampling_at_the_points_returns_them(scheme: str, control: str) -> None:
    ocp = sliding()
    sol = ocp.solve(method="collocation", intervals=7, degree=3, scheme=scheme, control=control, backend="casadi")
    x, u = sol.resample(sol.t)
    np.testing.assert_allclose(x, sol.x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(u, sol.u, rtol=0, atol=5e-8)  # the solver's own tolerance at bounds
    if control == "linear":
        t = np.linspace(sol.t0, sol.tf, 401)
        assert np.abs(sol.controls(t)).max() <= 1.0 + 5e-8
        assert "note" not in str(sol.verify())


def test_algebraic_variables_at_breaks_are_those_of_the_control_there() -> None:
    """Two roots: at a break before a jump the polynomial of the interval that follows lies near the wrong one."""
    model = co.ControlledODE(
        lambda t, x, u, p, z: [x[1], z - 0.8], nx=2, nu=1, nz=1, algebraic=lambda t, x, u, p, z: z**2 - u - 1.001,
        z0=[0.5],
    )  # fmt: skip
    ocp = co.OptimalControlProblem(model, tf=3.0)
    ocp.minimize(lagrange=lambda t, x, u, p: x[0] ** 2 + 0.01 * x[1] ** 2)
    ocp.bounds(u=(-1.0, 1.0), z=(0.0, None))
    ocp.initial([1.0, 1.0])
    sol = ocp.solve(method="collocation", intervals=5, degree=2, backend="casadi")
    assert sol.success and np.ptp(sol.u) > 1.9
    z, u = sol.resample_z(sol.t[1:]), sol.resample(sol.t[1:])[1]
    np.testing.assert_allclose(z, sol.z[1:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(z**2, u + 1.001, rtol=0, atol=1e-12)


def test_set_points_may_be_arrays_of_integers_and_objects() -> None:
    model = co.ControlledODE(
        lambda t, x, u, p: [x[1], p.gain * u[0]], nx=2, nu=1, params=co.ParameterLayout(gain=1, other=(2,))
    )
    start = {"gain": 2, "other": [0.0, 1.0]}

    def problem(integers: bool) -> co.OptimalControlSolution:
        def kind(*values: int | None) -> object:
            if not integers:
                return [None if v is None else float(v) for v in values]
            return np.array(values, dtype=object if None in values else np.int64)

        ocp = co.OptimalControlProblem(model, tf=1.0, p=start)
        ocp.minimize(lagrange=lambda t, x, u, p: u[0] ** 2 + (p.gain - 1.0) ** 2)
        ocp.free_parameters(kind(1), kind(3), block="gain")
        ocp.initial(kind(0, 0))
        ocp.terminal(kind(1, None))
        ocp.bounds(x=(kind(-1, -1), kind(2, None)))
        guess = {"x": np.ones((3, 2), np.int64), "u": kind(1), "t": np.array([0, 1, 2]), "p": start}
        if not integers:
            guess = {"x": np.ones((3, 2)), "u": [1.0], "t": [0.0, 1.0, 2.0], "p": [2.0, 0.0, 1.0]}
        return ocp.solve(intervals=5, backend="casadi", guess=guess)

    ints, floats = problem(True), problem(False)
    assert ints.success and ints.objective == floats.objective
    np.testing.assert_array_equal(ints.nlp.w0, floats.nlp.w0)


@pytest.mark.parametrize("value", [np.array([True, False]), np.array([1.0, 0.0], np.float32), np.array(["a", "b"])])
def test_other_types_are_still_refused(value: np.ndarray) -> None:
    with pytest.raises(co.DataError, match="x0: expected"):
        sliding().initial(value)
