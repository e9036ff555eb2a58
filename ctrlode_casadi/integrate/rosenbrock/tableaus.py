"""Rosenbrock methods as data.

With a Jacobian J = dF/dx and the total time derivative T = dF/dt + dF/du u'(t), both at the start of the step, the
system M x' = F(t, x) and the stages k_i = U_i / h of Hairer & Wanner II (IV.7, eq. 7.25):

    (M / gamma - h J) k_i = F(t + c_i h, x + h sum_j a_ij k_j) + M sum_j C_ij k_j + gamma_i h T

Step x' = x + h sum_i b_i k_i, error estimate h sum_i e_i k_i, dense output as in `tableaus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..tableaus import Array, Tableau


@dataclass(frozen=True, eq=False, kw_only=True)
class RosenbrockTableau(Tableau):
    """One Rosenbrock method; `A`, `b`, `c`, `e` and `P` of the base class belong to the stages above.

    Attributes
    ----------
    C
        Coupling of the stages outside F, (S, S), strictly lower triangular.
    gamma
        Diagonal coefficient, the same in all stages: one factorisation serves a step.
    gammas
        Weights of the time derivative, (S,).
    """

    C: Array
    gamma: float
    gammas: Array


def _make(
    name: str, order: int, gamma: float, rows: list[list[float]], couplings: list[list[float]], c: list[float],
    gammas: list[float], dense: list[list[float]],
) -> RosenbrockTableau:  # fmt: skip
    """A stiffly accurate method whose last stages add one k after the other to the row before them.

    `rows` are the rows of A up to the first stage at the end of the step; `dense` has the rows h_2, h_3, ... of
    x(t + theta h) = (1 - theta) x + theta (x' + (1 - theta) (h_2 + theta (h_3 + ...))).
    """
    stages = len(c)
    a, coupling = np.zeros((stages, stages)), np.zeros((stages, stages))
    for i, row in enumerate(rows, start=1):
        a[i, : len(row)] = row
    for i in range(len(rows) + 1, stages):
        a[i, : i - 1], a[i, i - 1] = a[i - 1, : i - 1], 1.0
    for i, row in enumerate(couplings, start=1):
        coupling[i, : len(row)] = row
    b = a[-1].copy()
    b[-1] = 1.0
    h = np.array([[*row, *[0.0] * (stages - len(row))] for row in dense])
    weights = np.zeros((stages, len(dense) + 1))
    weights[:, 0] = b
    weights[:, :-1] += h.T
    weights[:, 1:] -= h.T
    return RosenbrockTableau(
        name, order, a, b, np.array(c), np.eye(stages)[None, -1], order - 1, weights, C=coupling, gamma=gamma,
        gammas=np.array(gammas),
    )  # fmt: skip


@cache
def rodas4() -> RosenbrockTableau:
    """RODAS, order 4(3), six stages, dense output of order 3 (Hairer & Wanner II, IV.7 and VI.4)."""
    rows = [
        [1.544],
        [0.9466785280815826, 0.2557011698983284],
        [3.314825187068521, 2.896124015972201, 0.9986419139977817],
        [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895],
    ]
    couplings = [
        [-5.6688],
        [-2.430093356833875, -0.2063599157091915],
        [-0.1073529058151375, -9.594562251023355, -20.47028614809616],
        [7.496443313967647, -10.24680431464352, -33.99990352819905, 11.7089089320616],
        [8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054],
    ]
    dense = [
        [10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823, 1.025137723295662],
        [-0.6762803392801253, 6.087714651680015, 16.43084320892478, 24.76722511418386, -6.594389125716872],
    ]
    gammas = [0.25, -0.1043, 0.1035, -0.03620000000000023, 0.0, 0.0]
    return _make("Rodas4", 4, 0.25, rows, couplings, [0.0, 0.386, 0.21, 0.63, 1.0, 1.0], gammas, dense)


@cache
def rodas5p() -> RosenbrockTableau:
    """Rodas5P, order 5(4), eight stages, dense output of order 4 (Steinebach, BIT 63, 2023, article 27)."""
    rows = [
        [3.0],
        [2.849394379747939, 0.45842242204463923],
        [-6.954028509809101, 2.489845061869568, -10.358996098473584],
        [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
        [-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946],
    ]
    couplings = [
        [-14.155112264123755],
        [-17.97296035885952, -2.859693295451294],
        [147.12150275711716, -1.41221402718213, 71.68940251302358],
        [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
        [24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471],
        [
            30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623,
            -28.087943162872662,
        ],
        [
            37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002,
            -54.66780262877968, -9.48861652309627,
        ],
    ]  # fmt: skip
    nodes = [0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0]
    gammas = [
        0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069,
        0.0, 0.0, 0.0,
    ]  # fmt: skip
    dense = [
        [
            25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204, 0.524948541321073,
            1.1241088310450404, 0.4272876194431874, -0.17202221070155493,
        ],
        [
            -9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796, 20.176138334709044,
            15.98066361424651, -6.789040303419874, -6.710236069923372,
        ],
        [
            11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643, -52.072871366152654,
            -59.78993625266729, -0.15582684282751913, 4.883087185713722,
        ],
    ]  # fmt: skip
    return _make("Rodas5P", 5, 0.21193756319429014, rows, couplings, nodes, gammas, dense)
