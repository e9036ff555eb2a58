"""`python -m ctrlode_casadi`, and the problem that its benchmark measures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ctrlode_casadi as co
from ctrlode_casadi.cli import origin_problem as origin
from ctrlode_casadi.cli.main import main


def selu(z: np.ndarray) -> np.ndarray:
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return scale * np.where(z > 0.0, z, alpha * np.expm1(np.minimum(z, 0.0)))


def loss_by_numpy(problem: origin.OriginProblem) -> float:
    """RK4 on the knots, written out: the loss of the origin problem without any of the package's numerics."""

    def field(x: np.ndarray, u: np.ndarray) -> np.ndarray:
        z = np.concatenate([x, u], axis=1)
        for weight, bias in problem.layers[:-1]:
            z = selu(z @ weight.T + bias)
        weight, bias = problem.layers[-1]
        return z @ weight.T + bias

    h = problem.knots[1]
    x = np.zeros((len(problem.values), 2))
    total = 0.0
    for k in range(len(problem.knots) - 1):
        left, right = problem.values[:, k], problem.values[:, k + 1]
        middle = 0.5 * (left + right)
        k1 = field(x, left)
        k2 = field(x + 0.5 * h * k1, middle)
        k3 = field(x + 0.5 * h * k2, middle)
        k4 = field(x + h * k3, right)
        x = x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        total += np.sum(x**2)
    return total / len(x)


def test_the_origin_problem_is_the_published_one() -> None:
    problem = origin.make_problem()
    assert problem.p.shape == (282,)
    assert loss_by_numpy(problem) == pytest.approx(origin.REFERENCE_LOSS, rel=1e-7)


def test_more_trajectories_keep_the_weights_and_the_first_hundred() -> None:
    few, normal, many = (origin.make_problem(batch) for batch in (3, 100, 250))
    assert np.array_equal(few.p, many.p)
    assert np.array_equal(few.values, many.values[:3])
    assert np.array_equal(normal.values, many.values[:100])
    assert many.values.shape == (250, 100, 1)


def test_our_loss_and_gradient_are_the_published_ones() -> None:
    problem = origin.make_problem()
    simulator = origin.make_simulator(co.RK4(steps_per_interval=1))
    value, gradient = origin.make_objective(problem, simulator)(problem.p)
    assert value == pytest.approx(loss_by_numpy(problem), rel=1e-12)
    assert np.linalg.norm(gradient) == pytest.approx(origin.REFERENCE_GRADIENT_NORM, rel=1e-7)


def test_info_names_versions_machine_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "ctrlode_casadi",
        co.__version__,
        "casadi",
        "llvmlite",
        "lanes per vector",
        "threads",
        "cache",
    ):
        assert word in printed


def test_cache_is_listed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CTRLODE_CACHE_DIR", str(tmp_path))
    (tmp_path / "one.kernels").write_bytes(b"12345")
    (tmp_path / "a-file-of-somebody-else").write_bytes(b"")
    assert main(["cache"]) == 0
    assert f"{tmp_path}: 2 files" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert "removed 1 entry" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a-file-of-somebody-else"]


def test_bench_prints_a_row_for_each_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--trajectories", "3", "--repeats", "1", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[2:5]] == [
        "RK4 on the knots",
        "RK4 on the knots",
        "Tsit5 1e-3 1e-6",
    ]
    tangent = float(lines[5].split("tangent sweep: ")[1].split(";")[0])
    assert tangent < 1e-9


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["bench", "--repeats", "0"]])
def test_wrong_usage_exits_with_status_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage" in capsys.readouterr().err
