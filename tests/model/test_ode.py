"""Models: the same right-hand side written in every way, outputs, DAEs, CasADi integrators, misuse."""

from __future__ import annotations

import pickle
from typing import Any

import casadi as ca
import numpy as np
import pytest

from ctrlode_casadi.base import ModelError
from ctrlode_casadi.base.arrays import call
from ctrlode_casadi.model.layers import Chain, Dense
from ctrlode_casadi.model.layout import ParameterLayout
from ctrlode_casadi.model.ode import ControlledODE

NET = Chain(Dense(3, 4, "tanh"), Dense(4, 2))


def by_flat_callable(t: Any, x: Any, u: Any, p: Any) -> Any:
    return NET(ca.vertcat(x, u), p)


def as_function(kind: Any) -> ca.Function:
    t, x, u, p = (kind.sym(name, n) for name, n in (("t", 1), ("x", 2), ("u", 1), ("p", NET.n_params)))
    return ca.Function("plant", [t, x, u, p], [NET(ca.vertcat(x, u), p)])


@pytest.mark.parametrize(
    "model",
    [
        ControlledODE(NET, nx=2, nu=1),
        ControlledODE(NET, nx=2, nu=1, params=NET),
        ControlledODE(by_flat_callable, nx=2, nu=1, params=NET.n_params),
        ControlledODE(by_flat_callable, nx=2, nu=1, params=NET),
        ControlledODE(by_flat_callable, nx=2, nu=1, params=NET.layout),
        ControlledODE(lambda t, x, u, p: NET(ca.vertcat(x, u), p.f), nx=2, nu=1, params={"f": NET}),
        ControlledODE(as_function(ca.SX), nx=2, nu=1),
        ControlledODE(as_function(ca.MX), nx=2, nu=1, params=ParameterLayout(f=NET)),
    ],
    ids=[
        "network",
        "network+params",
        "int",
        "params=network",
        "layout",
        "dict",
        "SX function",
        "MX function",
    ],
)
def test_every_way_to_write_it_gives_the_same(model: ControlledODE) -> None:
    assert (model.nx, model.nu, model.np, model.ny, model.nz) == (2, 1, NET.n_params, 2, 0)
    assert model.rhs.name_in() == ["t", "x", "u", "p"] and model.rhs.name_out() == ["xdot"]
    assert model.rhs.is_a("MXFunction") and model.layout.n == NET.n_params
    assert [model.rhs.size_in(i) for i in range(4)] == [(1, 1), (2, 1), (1, 1), (NET.n_params, 1)]
    p, x, u = NET.init(3), np.array([0.3, -0.7]), np.array([1.1])
    np.testing.assert_allclose(call(model.rhs, 0.0, x, u, p)[0], NET(np.r_[x, u], p), rtol=1e-14)
    np.testing.assert_array_equal(call(model.output_function, 0.0, x, u, p)[0], x)


@pytest.mark.parametrize(
    "returned",
    [
        lambda x: [x[1], -x[0]],
        lambda x: (x[1], -x[0]),
        lambda x: ca.vertcat(x[1], -x[0]),
        lambda x: ca.horzcat(x[1], -x[0]),
        lambda x: [ca.vertcat(x[1], -x[0])],
        lambda x: np.array([x[1], -x[0]], dtype=object),
    ],
)
def test_forms_of_the_result(returned: Any) -> None:
    model = ControlledODE(lambda t, x, u, p: returned(x), nx=2)
    np.testing.assert_array_equal(call(model.rhs, 0, [3.0, 4.0], [], [])[0], [4.0, -3.0])


def test_numbers_and_sparse_zeros_become_dense() -> None:
    model = ControlledODE(lambda t, x, u, p: [1, x[0], ca.MX(1, 1), 0.5], nx=4)
    assert model.rhs.sparsity_out(0).is_dense()
    np.testing.assert_array_equal(call(model.rhs, 0, [3.0, 4.0, 0, 0], [], [])[0], [1, 3, 0, 0.5])
    model = ControlledODE(lambda t, x, u, p: np.array([1.0, 2.0]), nx=2)
    np.testing.assert_array_equal(call(model.rhs, 0, [3.0, 4.0], [], [])[0], [1, 2])


def test_outputs_and_names() -> None:
    layout = ParameterLayout(a=1, b=2)
    model = ControlledODE(
        lambda t, x, u, p: [p.a * x[1] + t, u[0]],
        nx=2,
        nu=1,
        params=layout,
        output=lambda t, x, u, p: [p.b[1] * x[0], x[1], u[0]],
        state_names=("h1", "h2"),
        control_names=["v"],
        output_names=("y", "z", "w"),
    )
    assert model.ny == 3 and model.output_function.name_out() == ["y"] and model.has_output
    np.testing.assert_array_equal(call(model.output_function, 0, [1, 2], 3, [4, 5, 6])[0], [6, 2, 3])
    np.testing.assert_array_equal(call(model.rhs, 7, [1, 2], 3, [4, 5, 6])[0], [15, 3])
    assert (model.state_names, model.control_names, model.output_names) == (
        ("h1", "h2"),
        ("v",),
        ("y", "z", "w"),
    )
    plain = ControlledODE(lambda t, x, u, p: x, nx=2, nu=1)
    assert (plain.state_names, plain.control_names, plain.output_names) == (
        ("x0", "x1"),
        ("u0",),
        ("x0", "x1"),
    )
    assert ControlledODE(lambda t, x, u, p: x, nx=2, output=lambda t, x, u, p: x[0]).output_names == ("y0",)


def test_known_physics_with_a_network_inside_and_seeds() -> None:
    friction = Dense(1, 1, "tanh", bias=False)
    layout = ParameterLayout(friction=friction, mass=1)
    model = ControlledODE(
        lambda t, x, u, p: [x[1], (u[0] - friction(x[1], p.friction)) / p.mass], nx=2, nu=1, params=layout
    )
    p = model.init(5, mass=2.0)
    np.testing.assert_allclose(
        call(model.rhs, 0, [1.0, 0.4], 3.0, p)[0], [0.4, (3 - np.tanh(p[0] * 0.4)) / 2], rtol=1e-15
    )
    assert model.layout.names() == ["friction.weight[0,0]", "mass"]


def test_to_dae_in_cvodes_equals_the_exact_solution() -> None:
    model = ControlledODE(lambda t, x, u, p: -p * x + u, nx=1, nu=1, params=1)
    dae = model.to_dae()
    assert set(dae) == {"t", "x", "u", "p", "ode"}
    solve = ca.integrator("solve", "cvodes", dae, 0, 2.0, {"reltol": 1e-10, "abstol": 1e-12})
    x_end = float(solve(x0=1.0, p=0.7, u=0.3)["xf"])
    assert x_end == pytest.approx(0.3 / 0.7 + (1 - 0.3 / 0.7) * np.exp(-1.4), rel=1e-8)
    free = ControlledODE(lambda t, x, u, p: -x, nx=1).to_dae()
    assert float(ca.integrator("s", "cvodes", free, 0, 1.0)(x0=1)["xf"]) == pytest.approx(np.exp(-1), rel=1e-4)


def test_index_one_dae_in_idas() -> None:
    model = ControlledODE(
        lambda t, x, u, p, z: [z[0]],
        nx=1,
        nu=0,
        params=1,
        nz=1,
        algebraic=lambda t, x, u, p, z: [z[0] + p * x[0]],
    )
    assert model.algebraic is not None and model.algebraic.name_in() == ["t", "x", "u", "p", "z"]
    dae = model.to_dae()
    assert set(dae) == {"t", "x", "u", "p", "z", "ode", "alg"}
    solve = ca.integrator("solve", "idas", dae, 0, 1.0, {"reltol": 1e-10, "abstol": 1e-12})
    assert float(solve(x0=1.0, p=0.5)["xf"]) == pytest.approx(np.exp(-0.5), rel=1e-7)


def test_step_asks_the_solver() -> None:
    class Solver:
        def step_function(self, model: ControlledODE, dt: float) -> ca.Function:
            inputs = model.rhs.mx_in()
            return ca.Function("step", inputs, [inputs[1] + dt * model.rhs(*inputs)])

    step = ControlledODE(lambda t, x, u, p: -x, nx=1).step(Solver(), 0.5)
    assert float(step(0, 1, [], [])) == 0.5


def test_models_pickle_and_are_frozen() -> None:
    model = ControlledODE(NET, nx=2, nu=1)
    again = pickle.loads(pickle.dumps(model))
    p = NET.init(0)
    np.testing.assert_array_equal(call(again.rhs, 0, [1, 2], 3, p)[0], call(model.rhs, 0, [1, 2], 3, p)[0])
    assert again.network == NET and repr(model).startswith("ControlledODE(Chain(")
    with pytest.raises(AttributeError):
        model.nx = 3


def test_a_model_of_a_network_with_lambdas_pickles() -> None:
    net = Chain(Dense(3, 4, lambda z: z / (1 + z**2)), Dense(4, 2))
    named = ParameterLayout(net=net, k=1)
    for model in (
        ControlledODE(net, nx=2, nu=1),
        ControlledODE(lambda t, x, u, p: p.k * net(ca.vertcat(x, u), p.net), nx=2, nu=1, params=named),
    ):
        again, p = pickle.loads(pickle.dumps(model)), model.init(0)
        np.testing.assert_array_equal(call(again.rhs, 0, [1, 2], 3, p)[0], call(model.rhs, 0, [1, 2], 3, p)[0])
        np.testing.assert_array_equal(again.init(1), model.init(1))


def scalar(fn: Any, **kwargs: Any) -> Any:
    return lambda: ControlledODE(fn, **({"nx": 1} | kwargs))


def decay(t: Any, x: Any, u: Any, p: Any) -> Any:
    return -x


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (scalar(decay, nx=0), "nx: expected an integer >= 1"),
        (scalar(decay, nu=-1), "nu: expected an integer >= 0"),
        (scalar(decay, nx=2.0), "nx: expected an integer"),
        (scalar(lambda t, x, u, p: [x, x]), "rhs: must return nx=1 entries, it returned 2"),
        (scalar(lambda t, x, u, p: []), "rhs: must return nx=1 entries, it returned 0"),
        (scalar(lambda t, x, u, p: None), "rhs: returned None"),
        (
            scalar(lambda t, x, u, p: "a"),
            "rhs: must return MX expressions or numbers, got entries of type str",
        ),
        (scalar(lambda t, x, u, p: ca.SX.sym("s")), "rhs: must return MX expressions.*SX"),
        (
            scalar(lambda t, x, u, p: x + ca.MX.sym("alpha")),
            "rhs: the result depends on the free symbol alpha",
        ),
        (
            scalar(lambda x, u: x),
            r"rhs: must take the 4 arguments \(t, x, u, p\), but its signature is \(x, u\)",
        ),
        (scalar(3), "rhs: expected a callable"),
        (scalar(NET), "n_in = nx \\+ nu = 1"),
        (scalar(NET, nx=2, nu=1, params=5), "a network as rhs brings its own parameters"),
        (scalar(NET, nx=2, nu=1, nz=1, algebraic=decay), "network cannot be the right-hand side of a DAE"),
        (scalar(decay, params=2.5), "params: expected a ParameterLayout"),
        (scalar(decay, params=-1), "params: expected a ParameterLayout"),
        (scalar(lambda t, x, u, p: -p.mas * x, params=ParameterLayout(mass=1)), "did you mean 'mass'"),
        (scalar(as_function(ca.MX)), "input 1 of the casadi.Function is x with 1 entries"),
        (
            scalar(as_function(ca.MX), nx=2, nu=1, params=3),
            "input 3 of the casadi.Function is p with 3 entries",
        ),
        (scalar(ca.Function("f", [ca.MX.sym("x")], [1])), "must have the 4 inputs"),
        (scalar(decay, output=lambda x: x), "output: must take the 4 arguments"),
        (
            scalar(decay, output=lambda t, x, u, p: ca.MX.sym("w")),
            "output: the result depends on the free symbol w",
        ),
        (scalar(decay, output=Dense(1, 1)), "output: a network's parameters need a place"),
        (scalar(decay, state_names=("a", "b")), "state_names: expected 1 names, got 2"),
        (scalar(decay, state_names="a"), "state_names: expected a sequence"),
        (scalar(decay, nx=2, state_names=("a", "a")), "'a' comes twice"),
        (scalar(decay, output_names=()), "output_names: expected 1 names, got 0"),
        (scalar(decay, nz=1), "both nz >= 1 and algebraic"),
        (scalar(lambda t, x, u, p, z: z, nz=1, algebraic=lambda t, x, u, p, z: x), "rank 0 < nz=1"),
        (scalar(decay, nz=1, algebraic=lambda t, x, u, p, z: z), "rhs: must take the 5 arguments"),
    ],
)
def test_misuse(build: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()


def test_errors_of_the_user_keep_their_type_and_gain_a_note() -> None:
    with pytest.raises(ZeroDivisionError) as info:
        ControlledODE(lambda t, x, u, p: x / (1 // 0), nx=1)
    assert "while calling rhs(t, x, u, p)" in info.value.__notes__[0]
    with pytest.raises(RuntimeError) as info2:
        ControlledODE(lambda t, x, u, p: x if x > 0 else -x, nx=1)
    assert "ca.if_else" in info2.value.__notes__[0]
