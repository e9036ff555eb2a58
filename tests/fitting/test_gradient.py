"""Values and gradients against complex steps of a NumPy integration: parameters, initial states, encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ctrlode_casadi as co
from fitting.reference import NP, Experiment, P, complex_step

SIZES = (1, 7, 8, 9)


@pytest.mark.parametrize("size", SIZES)
def test_gradient_of_the_parameters(size: int) -> None:
    e = Experiment(size)
    value, gradient = e.objective()(P)

    def plain(p: np.ndarray) -> Any:
        return np.mean(e.residuals(p) ** 2)

    assert value == pytest.approx(plain(P), rel=1e-13)
    np.testing.assert_allclose(gradient, complex_step(plain, P), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shared", [True, False])
def test_gradient_of_free_initial_states(size: int, shared: bool) -> None:
    e = Experiment(size)
    guess = e.x0[0] if shared else e.x0
    obj = e.objective(co.Free(guess))
    n_free = guess.size
    assert obj.np_total == NP + n_free
    theta = obj.append_free(P)
    np.testing.assert_array_equal(theta[NP:], guess.ravel())
    theta[NP:] += 0.1

    def plain(theta: np.ndarray) -> Any:
        x0 = np.broadcast_to(theta[NP:].reshape(guess.shape), (size, 2))
        return np.mean(e.residuals(theta[:NP], x0) ** 2)

    value, gradient = obj(theta)
    assert value == pytest.approx(plain(theta), rel=1e-13)
    np.testing.assert_allclose(gradient, complex_step(plain, theta), rtol=1e-11, atol=1e-13)
    assert obj.names()[NP] == ("x0.x0" if shared or size == 1 else "x0[0].x0")


def test_a_mask_keeps_known_entries_of_the_initial_state() -> None:
    e = Experiment(3)
    obj = e.objective(co.Free(e.x0, mask=[False, True]))
    assert obj.np_total == NP + 3
    theta = obj.append_free(P)
    theta[NP:] = [0.1, 0.2, 0.3]
    np.testing.assert_array_equal(obj.initial_states(theta), np.column_stack([e.x0[:, 0], theta[NP:]]))

    def plain(theta: np.ndarray) -> Any:
        return np.mean(e.residuals(theta[:NP], np.column_stack([e.x0[:, 0], theta[NP:]])) ** 2)

    np.testing.assert_allclose(obj.grad(theta), complex_step(plain, theta), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_gradient_through_a_computed_initial_state(size: int) -> None:
    e = Experiment(size)
    start = co.InitialState(lambda d0, p: [p[0] * d0[0], d0[1] ** 2 + p[3]])
    obj = e.objective(start)

    def plain(p: np.ndarray) -> Any:
        x0 = np.column_stack([p[0] * e.data[:, 0, 0], e.data[:, 0, 1] ** 2 + p[3]])
        return np.mean(e.residuals(p, x0) ** 2)

    value, gradient = obj(P)
    assert value == pytest.approx(plain(P), rel=1e-13)
    np.testing.assert_allclose(gradient, complex_step(plain, P), rtol=1e-11, atol=1e-13)


def test_an_initial_state_computed_from_other_inputs() -> None:
    e = Experiment(4)
    rows = e.rng.standard_normal((4, 3))
    obj = e.objective(co.InitialState(lambda d0, p: [d0[0] * p[1], d0[1] * d0[2]], inputs=rows))

    def plain(p: np.ndarray) -> Any:
        x0 = np.column_stack([rows[:, 0] * p[1], rows[:, 1] * rows[:, 2]])
        return np.mean(e.residuals(p, x0) ** 2)

    np.testing.assert_allclose(obj.grad(P), complex_step(plain, P), rtol=1e-11, atol=1e-13)


def composed(size: int) -> tuple[co.Objective, np.ndarray]:
    """Encoder network -> initial state -> controlled ODE with a network -> decoder network."""
    encoder = co.Chain(co.Dense(2, 6, "tanh"), co.Dense(6, 3))
    inner = co.Chain(co.Dense(4, 8, "tanh"), co.Dense(8, 3))
    decoder = co.Chain(co.Dense(3, 6, "tanh"), co.Dense(6, 2))
    layout = co.ParameterLayout(encoder=encoder, ode=inner, decoder=decoder)
    import casadi as ca

    model = co.ControlledODE(
        lambda t, x, u, p: inner(ca.vertcat(x, u), p.ode) - 0.3 * x,
        nx=3,
        nu=1,
        params=layout,
        output=lambda t, x, u, p: decoder(x, p.decoder),
    )
    e = Experiment(size)
    sim = co.Simulator(model, solver=co.RK4(steps_per_interval=1), threads=1)
    start = co.InitialState(lambda d0, p: encoder(d0, p.encoder))
    return co.Objective(sim, start, e.controls, e.ts, data=e.data), layout.init(3)


@pytest.mark.parametrize("size", [1, 9])
def test_gradient_of_composed_networks(size: int) -> None:
    """Every block has a gradient, equal to the tangent sweep's and to extrapolated differences."""
    obj, p = composed(size)
    rng = np.random.default_rng(1)
    gradient = obj.grad(p)
    layout = obj.sim.model.layout
    for block in ("encoder", "ode", "decoder"):
        v = np.zeros(p.size)
        part = layout.slice(block)
        v[part] = rng.standard_normal(part.stop - part.start)
        v /= np.linalg.norm(v)
        assert abs(gradient @ v) > 1e-6
        assert obj.derivative_along(p, v) == pytest.approx(gradient @ v, rel=1e-10)

        def central(h: float, v: np.ndarray = v) -> float:
            return (obj.value(p + h * v) - obj.value(p - h * v)) / (2 * h)

        extrapolated = (64 * central(2e-3) - 20 * central(4e-3) + central(8e-3)) / 45
        assert extrapolated == pytest.approx(gradient @ v, rel=1e-8)


@pytest.mark.parametrize("solver", [co.Tsit5(rtol=1e-9, atol=1e-11), co.DOP853(rtol=1e-9, atol=1e-11)])
def test_gradient_with_adaptive_steps(solver: Any) -> None:
    e = Experiment(9)
    sim = co.Simulator(e.model, solver=solver, threads=1)
    obj = co.Objective(sim, co.Free(e.x0), e.controls, e.ts, data=e.data)
    report = obj.check_gradient(obj.append_free(P), directions=2, coordinates=1)
    assert report.exact_error < 1e-11
    assert report.difference_error < 1e-6


def test_checkpoints_do_not_change_the_gradient() -> None:
    e = Experiment(9)
    sim = co.Simulator(e.model, solver=co.RK4(), sensitivity=co.Adjoint(checkpoints=3), threads=1)
    obj = co.Objective(sim, e.x0, e.controls, e.ts, data=e.data)
    np.testing.assert_allclose(obj.grad(P), e.objective().grad(P), rtol=1e-13)


def test_single_precision() -> None:
    e, single = Experiment(9), Experiment(9, dtype="float32")
    obj = single.objective(regularization=0.1)
    value, gradient = obj(P)
    want, exact = e.objective(regularization=0.1)(P)
    assert gradient.dtype == np.float64
    assert value == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(gradient, exact, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(obj.grad(P.astype(np.float32)), obj.grad(P.astype(np.float32).astype(float)))
