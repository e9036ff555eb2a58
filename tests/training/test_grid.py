"""The intervals of a transcription, and the states that it starts from."""

from __future__ import annotations

import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.training.grid import Grid, make_grid
from ctrlode_casadi.training.node_guess import measured_states, states_at_nodes, states_at_saves
from training.cases import Pendulum, blow_up


def grid_of(ts: object, controls: object, parts: object = 1) -> Grid:
    model = co.ControlledODE(lambda t, x, u, p: u - x, nx=1, nu=1)
    start = np.zeros((len(ts), 1)) if isinstance(ts, list) else np.zeros(1)
    data = [np.zeros(len(row)) for row in ts] if isinstance(ts, list) else np.zeros(len(ts))  # type: ignore[arg-type]
    obj = co.Objective(co.Simulator(model), start, controls, ts, data=data)
    return make_grid(obj.problem.batch, parts)  # type: ignore[arg-type]


def test_save_times_and_knots_are_merged() -> None:
    control = co.PiecewiseConstant(np.array([0.0, 0.5, 1.0 + 1e-16, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    grid = grid_of(np.array([0.0, 1.0, 2.0]), control)
    assert grid.times.tolist() == [0.0, 0.5, 1.0, 2.0]
    assert grid.saves.tolist() == [[0, 2, 3]]
    assert grid.controls(grid.start[:, None]).ravel().tolist() == [1.0, 2.0, 3.0]
    assert grid.controls(grid.times[grid.right][:, None]).ravel().tolist() == [1.0, 2.0, 3.0]


def test_the_polynomials_are_the_control() -> None:
    rng = np.random.default_rng(0)
    knots = np.linspace(0.0, 3.0, 7)
    control = co.CubicSpline(knots, rng.standard_normal((2, 7, 1)))
    ts = [np.array([0.0, 0.4, 2.9]), np.array([0.1, 2.2])]
    grid = grid_of(ts, [control[0], control[1]], 3)
    inside = grid.start[:, None] + np.linspace(0.0, 1.0, 5) * grid.length[:, None]
    which = grid.trajectory[grid.left]
    for b in range(2):
        some = which == b
        np.testing.assert_allclose(grid.controls(inside)[some], control[b](inside[some].ravel())[0].reshape(-1, 5, 1))
        assert grid.times[grid.saves[b, : ts[b].size]].tolist() == ts[b].tolist()
    assert grid.saves[1, 2] == -1
    assert (grid.trajectory[grid.left] == grid.trajectory[grid.right]).all()
    assert grid.size == 3 * np.unique(grid.whole).size == grid.times.size - 2


def test_intervals_are_cut_one_by_one() -> None:
    control = co.Constant(np.ones((1, 1)))
    whole = grid_of([np.array([0.0, 1.0, 2.0]), np.array([0.0, 4.0])], [control, control])
    assert whole.whole.tolist() == [0, 1, 2]
    cut = grid_of([np.array([0.0, 1.0, 2.0]), np.array([0.0, 4.0])], [control, control], np.array([1, 2, 4]))
    assert cut.times.tolist() == [0.0, 1.0, 1.5, 2.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    assert cut.whole.tolist() == [0, 1, 1, 2, 2, 2, 2]


def test_measured_states_are_found_behind_outputs() -> None:
    def model(output: object) -> co.ControlledODE:
        return co.ControlledODE(lambda t, x, u, p: -x, nx=3, params=1, output=output)  # type: ignore[arg-type]

    assert measured_states(model(None)) == {0: 0, 1: 1, 2: 2}
    assert measured_states(model(lambda t, x, u, p: [x[2], p * x[0], x[0]])) == {2: 0, 0: 2}
    assert measured_states(model(lambda t, x, u, p: x[0] + x[1])) == {}


def test_states_come_from_data_then_from_the_simulation() -> None:
    pendulum = Pendulum(output=lambda t, x, u, p: x[0])
    problem = pendulum.objective().problem
    states = states_at_saves(problem, Pendulum.GUESS, "auto")
    seen = np.isfinite(pendulum.data[..., 0])
    seen[:, 0] = False
    np.testing.assert_array_equal(states[..., 0][seen], pendulum.data[..., 0][seen])
    assert np.isnan(states[0, 3:6, 0]).all()
    simulated = pendulum.sim(pendulum.x0, pendulum.controls, Pendulum.GUESS, pendulum.ts).x
    np.testing.assert_allclose(states[..., 1], simulated[..., 1], rtol=1e-12)
    np.testing.assert_array_equal(states[:, 0], pendulum.x0)
    grid = make_grid(problem.batch, 1)
    nodes = states_at_nodes(grid, states)
    assert np.isfinite(nodes).all()
    want = np.interp(pendulum.ts[4], pendulum.ts[[2, 6]], pendulum.data[0, [2, 6], 0])
    assert nodes[grid.saves[0, 4], 0] == pytest.approx(want)


def test_a_simulation_that_explodes_is_not_used() -> None:
    problem = blow_up().problem
    states = states_at_saves(problem, np.array([2.0]), "simulation")
    assert np.isfinite(states[0, :4, 0]).all() and np.isnan(states[0, 6:, 0]).all()
    nodes = states_at_nodes(make_grid(problem.batch, 1), states)
    assert np.isfinite(nodes).all() and nodes.max() < 1e4
