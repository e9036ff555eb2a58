"""Bounds in all forms, and what bad input gets before anything compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import Bounds

import ctrlode_casadi as co
from ctrlode_casadi.training.bounds import read_bounds
from ctrlode_casadi.training.task import automatic_scale
from training.cases import Pendulum, falling, run

BOUNDED = [
    "L-BFGS-B", "TNC", "SLSQP", "trust-constr", "least_squares", "trf", "dogbox", "gauss-newton",
    "levenberg-marquardt", "ipopt", "multiple-shooting", "collocation",
]  # fmt: skip


@pytest.mark.parametrize("method", BOUNDED)
def test_an_active_bound(method: str) -> None:
    """The value is a parabola in p with its minimum at -1.5."""
    found = run(falling(), [-1.0], method, bounds=[(-1.2, 0.5)])
    far = 3e-3 if method == "trust-constr" else 1e-5  # an interior method that stops on a small gradient
    assert found.success and found.x[0] == pytest.approx(-1.2, abs=far)
    assert found.x[0] >= -1.2


@pytest.mark.parametrize(
    "method", ["L-BFGS-B", "SLSQP", "trf", "lm", "BFGS", "ipopt", "multiple-shooting", "collocation"]
)
def test_equal_bounds_fix_a_parameter(method: str) -> None:
    """The others find their optimum, also with methods that have no bounds."""
    pendulum = Pendulum()
    obj = pendulum.objective()
    guess = np.array([1.0, 0.4, 0.5])
    bounds = Bounds([-np.inf, 0.4, -np.inf], [np.inf, 0.4, np.inf])
    found = run(
        obj, guess, method, bounds=bounds, **({"tol": 1e-10} if method in ("BFGS", "L-BFGS-B", "SLSQP") else {})
    )
    assert found.x[1] == 0.4
    np.testing.assert_allclose(found.jac[[0, 2]], 0.0, atol=1e-5)
    assert abs(found.jac[1]) > 1e-5


NAMES = ["a", "b"]


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds([0.0, -np.inf], [1.0, 2.0]),
        (np.array([0.0, -np.inf]), np.array([1.0, 2.0])),
        [(0.0, None), (None, 2.0)],
        ([0.0, None], [None, 2.0]),
    ],
)
def test_forms_of_bounds(bounds: Any) -> None:
    lb, ub = read_bounds(bounds, NAMES)
    assert lb[0] == 0.0 and ub[1] == 2.0


def test_scalar_sides_and_pairs_of_other_lengths() -> None:
    lb, ub = read_bounds((0.0, None), ["a", "b", "c"])
    assert lb.tolist() == [0.0] * 3 and np.isinf(ub).all()
    lb, ub = read_bounds(((0, 1), (2, 3), (4, 5)), ["a", "b", "c"])
    assert (lb.tolist(), ub.tolist()) == ([0, 2, 4], [1, 3, 5])
    lb, ub = read_bounds([(-1, 1), (-2, 2)], NAMES)
    assert (lb.tolist(), ub.tolist()) == ([-1, -2], [1, 2])
    lb, ub = read_bounds((np.array([-1.0, -2.0]), np.array([1.0, 2.0])), NAMES)
    assert (lb.tolist(), ub.tolist()) == ([-1, -2], [1, 2])


def test_scaling_goes_by_blocks() -> None:
    layout = co.ParameterLayout(net=co.Dense(2, 2), rate=1, stiffness=1, small=3)
    start = np.array([0.3, -0.2, 1e-5, 0.5, 0.0, 0.0, 3e-5, 1.1e6, 1e-4, 2e-4, -9e-4, 1e3])
    scale = automatic_scale(layout, start)
    assert (scale[:6] == 1.0).all()
    assert scale[6:].tolist() == [2.0**-15, 2.0**20, *[2.0**-10] * 3, 2.0**10]


def test_parameters_in_their_own_units() -> None:
    """The same path of iterates for p and for p in other units, if the units are told."""
    plain = run(falling(), [-1.0], "L-BFGS-B")
    scaled = run(falling(), [-1.0], "L-BFGS-B", p_scale=[0.125])
    assert plain.x[0] == pytest.approx(-1.5, abs=1e-4) and scaled.x[0] == pytest.approx(-1.5, abs=1e-4)
    assert plain.nfev != scaled.nfev


def test_no_start_means_the_initial_parameters_of_a_seed() -> None:
    net = co.Chain(co.Dense(1, 3, "tanh"), co.Dense(3, 1))
    model = co.ControlledODE(net, nx=1)
    ts = np.linspace(0.0, 1.0, 5)
    obj = co.Objective(co.Simulator(model, solver=co.RK4()), co.Free([1.0]), None, ts, data=np.exp(-ts))
    found = run(obj, None, "L-BFGS-B", maxiter=1, seed=7)
    assert found.history["fun"][0] == obj.value(obj.append_free(model.init(7)))
    assert found.p[0].weight.shape == (3, 1)
    assert found.x.shape == (11,)


BAD: dict[str, tuple[Callable[[co.Objective], Any], str]] = {
    "obj": (lambda obj: co.fit(obj.sim, [1.0]), "obj: expected an Objective, got Simulator"),  # type: ignore[arg-type]
    "method": (lambda obj: run(obj, [1.0], "LBFGS"), "method: unknown name 'LBFGS'; did you mean 'BFGS'"),
    "method type": (lambda obj: run(obj, [1.0], 3), "method: unknown name 3"),  # type: ignore[arg-type]
    "not yet": (lambda obj: run(obj, [1.0], "adam"), "method: 'adam' is not available yet; there are CG, BFGS"),
    "checkpoint": (lambda obj: run(obj, [1.0], "BFGS", checkpoint="run.npz"), "checkpoint: .*not available yet"),
    "shape": (lambda obj: run(obj, [1.0, 2.0], "BFGS"), r"p0: expected a vector of 1 entries, got shape \(2,\)"),
    "nan": (
        lambda obj: run(obj, [np.nan], "BFGS"),
        r"p0: all entries must be finite, got nan for parameter 0 \(p\[0\]\)",
    ),
    "integers": (lambda obj: run(obj, np.array([1]), "BFGS"), "p0: expected an array of float64"),
    "outside": (
        lambda obj: run(obj, [1.0], "trf", bounds=(-1, 0)),
        r"p0: must lie within the bounds, got 1 outside \[-1, 0\]",
    ),
    "crossed": (lambda obj: run(obj, [1.0], "trf", bounds=(2, 0)), "bounds: the lower bound must not lie above"),
    "length": (lambda obj: run(obj, [1.0], "trf", bounds=([0, 0], [1, 1])), r"bounds: expected 1 lower bounds.*\(2,\)"),
    "pairs": (
        lambda obj: run(obj, [1.0], "trf", bounds=[(0, 1)] * 3),
        "bounds: expected bounds of 1 parameters, got 3",
    ),
    "bound nan": (lambda obj: run(obj, [1.0], "trf", bounds=(np.nan, 1)), "bounds: .*must not be NaN"),
    "bound text": (
        lambda obj: run(obj, [1.0], "trf", bounds="wide"),
        "bounds: expected bounds of 1 parameters, got str",
    ),
    "all fixed": (lambda obj: run(obj, [1.0], "trf", bounds=(1, 1)), "bounds: nothing is left to fit"),
    "no bounds": (lambda obj: run(obj, [1.0], "BFGS", bounds=(0, 2)), "bounds: the method 'BFGS' cannot keep bounds"),
    "lm bounds": (lambda obj: run(obj, [1.0], "lm", bounds=(0, 2)), "bounds: the method 'lm' cannot keep bounds"),
    "maxiter": (lambda obj: run(obj, [1.0], "BFGS", maxiter=0), "maxiter: expected an integer of at least 1"),
    "callback": (lambda obj: run(obj, [1.0], "BFGS", callback=3), "callback: expected a callable"),
    "seed": (lambda obj: run(obj, None, "BFGS", seed="a"), "seed: expected an integer"),
    "p_scale": (lambda obj: run(obj, [1.0], "BFGS", p_scale=[-1.0]), "p_scale: must be positive"),
    "option": (lambda obj: run(obj, [1.0], "L-BFGS-B", ftoll=1e-3), "options: .*ftoll"),
    "option lsq": (lambda obj: run(obj, [1.0], "trf", ftoll=1e-3), "options: least_squares has no option 'ftoll'"),
    "option ipopt": (lambda obj: run(obj, [1.0], "ipopt", tool=1e-3), "options: IPOPT refuses .*tool"),
    "option value": (lambda obj: run(obj, [1.0], "ipopt", tol=-1.0), "options: IPOPT refuses"),
    "missing solver": (lambda obj: run(obj, [1.0], "ipopt", linear_solver="ma27"), "options: IPOPT cannot use .*ma27"),
    "algorithm": (lambda obj: run(obj, [1.0], "least_squares", algorithm="newton"), "algorithm: expected one of trf"),
    "jacobian": (lambda obj: run(obj, [1.0], "trf", jacobian="sparse"), "jacobian: expected 'auto'"),
    "hessian": (lambda obj: run(obj, [1.0], "ipopt", hessian="bfgs"), "hessian: expected one of auto, exact"),
    "wrong method": (lambda obj: run(obj, [1.0], "collocation", steps=2), "options: 'steps' does not belong to"),
    "degree": (lambda obj: run(obj, [1.0], "collocation", degree=0), "degree: expected an integer of at least 1"),
    "scheme": (lambda obj: run(obj, [1.0], "collocation", scheme="gauss"), "scheme: unknown name 'gauss'"),
    "accuracy": (lambda obj: run(obj, [1.0], "collocation", accuracy=0), "accuracy: expected a positive number"),
    "states": (lambda obj: run(obj, [1.0], "collocation", states="zero"), "states: expected 'auto', 'data'"),
    "states shape": (
        lambda obj: run(obj, [1.0], "collocation", states=np.zeros((3, 2))),
        r"states: expected shape \(B, T",
    ),
    "state bounds": (
        lambda obj: run(obj, [1.0], "collocation", state_bounds=(1, 0)),
        "state_bounds: lower above upper",
    ),
    "state bounds one": (
        lambda obj: run(obj, [1.0], "collocation", state_bounds=0.0),
        r"state_bounds: expected a pair",
    ),
    "start outside": (
        lambda obj: run(obj, [1.0], "collocation", state_bounds=(0.5, 2)),
        "state_bounds: the given initial state y of trajectory 0 is 0.2",
    ),
    "path": (lambda obj: run(obj, [1.0], "collocation", path=lambda t, x, u, p: x), "path: expected .function, lb, ub"),
    "path constant": (
        lambda obj: run(obj, [1.0], "collocation", path=(lambda t, x, u, p: t, 0, 1)),
        "path: the constraint depends on neither states nor parameters",
    ),
    "backend": (lambda obj: run(obj, [1.0], "collocation", backend="jax"), "backend: unknown name 'jax'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_before_anything_compiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    action, message = BAD[name]
    obj = falling()

    def compiled(*_: Any) -> None:
        raise AssertionError("something was compiled or evaluated")

    monkeypatch.setattr("ctrlode_casadi.fitting.machine.Machine.engine", compiled)
    with pytest.raises(co.CtrlodeError, match=f"(?s){message}"):
        action(obj)


def test_ambiguous_bounds_are_refused() -> None:
    with pytest.raises(co.DataError, match="can mean"):
        read_bounds(([0.0, 1.0], [2.0, 3.0]), NAMES)


def test_least_squares_needs_squares() -> None:
    obj = Pendulum().objective(loss="mae_smooth")
    with pytest.raises(
        co.UnsupportedOperation, match="method: 'least_squares' needs a sum of squares; loss='mae_smooth'"
    ):
        run(obj, Pendulum.GUESS, "least_squares")
    with pytest.raises(co.UnsupportedOperation, match="callable regularization"):
        run(Pendulum().objective(regularization=lambda p: p[0] ** 2), Pendulum.GUESS, "lm")
    with pytest.raises(co.UnsupportedOperation, match="sum of squares"):
        run(obj, Pendulum.GUESS, "ipopt", hessian="gauss-newton")


def test_levenberg_marquardt_needs_enough_rows() -> None:
    model = co.ControlledODE(lambda t, x, u, p: p[0] + p[1] * t, nx=1, params=2)
    obj = co.Objective(co.Simulator(model), 0.0, None, [0.0, 1.0], data=np.array([np.nan, 1.0]))
    with pytest.raises(co.DataError, match="method: 'lm' needs at least as many residuals as parameters, got 1 and 2"):
        run(obj, [0.0, 0.0], "lm")
    assert run(obj, [0.0, 0.0], "levenberg-marquardt").fun < 1e-10


def test_multiple_shooting_needs_explicit_steps() -> None:
    pendulum = Pendulum(solver=co.Rodas5P())
    with pytest.raises(co.UnsupportedOperation, match="use method='collocation'"):
        run(pendulum.objective(), Pendulum.GUESS, "multiple-shooting")


@pytest.mark.parametrize("method", ["multiple-shooting", "collocation"])
def test_transcriptions_are_for_models_without_events(method: str) -> None:
    ts = np.linspace(0.0, 1.0, 5)
    model = co.ControlledODE(lambda t, x, u, p: p, nx=1, params=1)
    back = co.Event(lambda t, x, u, p: x[0] - 1.0, lambda t, x, u, p: [0.0])
    obj = co.Objective(co.Simulator(model, events=[back]), 0.5, None, ts, data=ts)
    with pytest.raises(co.UnsupportedOperation, match="is for models without events"):
        run(obj, [1.0], method)


def test_multiple_shooting_has_no_daes() -> None:
    ts = np.linspace(0.0, 1.0, 5)
    dae = co.ControlledODE(lambda t, x, u, p, z: z * p, nx=1, nz=1, params=1, algebraic=lambda t, x, u, p, z: z + x)
    obj = co.Objective(co.Simulator(dae, solver=co.Rodas5P()), 0.5, None, ts, data=ts)
    with pytest.raises(co.UnsupportedOperation, match="use method='collocation'"):
        run(obj, [1.0], "multiple-shooting")


def test_free_initial_states_belong_to_the_start() -> None:
    obj = Pendulum().objective(co.Free(np.zeros(2)))
    with pytest.raises(co.DataError, match=r"expected a vector of 5 entries = np 3 \+ 2 free initial states"):
        run(obj, Pendulum.GUESS, "BFGS")
