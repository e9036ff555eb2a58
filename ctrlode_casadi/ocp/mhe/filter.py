"""The extended Kalman filter behind the arrival cost of a moving-horizon estimator."""

from __future__ import annotations

from dataclasses import dataclass

import casadi as ca
import numpy as np

from ...base.arrays import Float64Array, call


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (n,) and covariance (n, n)."""

    mean: Float64Array
    covariance: Float64Array

    def whitening(self) -> Float64Array:
        """A with ``A' A`` the inverse of the covariance, upper or lower triangular.

        A covariance that has lost its rank to round-off keeps directions 1e-12 of the largest as uncertain.
        """
        return whitening(self.covariance)


def whitening(covariance: Float64Array) -> Float64Array:
    """A with ``A' A`` the inverse of a covariance."""
    try:
        return np.linalg.inv(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
        floor = max(1e-12 * float(np.max(np.abs(values), initial=0.0)), 1e-300)
        return np.asarray((vectors / np.sqrt(np.maximum(values, floor))).T)


class ExtendedKalmanFilter:
    """Prediction and update of a mean and its covariance, linearised at the mean.

    Parameters
    ----------
    interval
        ``(t, z, u, p) -> (z', dz'/dz, dz'/dxi)``.
    output
        ``(t, z, u, p) -> (h, dh/dz)``.
    drift
        Covariance (n, n) that is added in every prediction, besides the process noise.
    """

    def __init__(self, interval: ca.Function, output: ca.Function, drift: Float64Array) -> None:
        self._interval, self._output, self._drift = interval, output, drift

    def predict(self, t: float, z: Gaussian, u: Float64Array, p: Float64Array) -> Gaussian:
        """One sampling interval ahead."""
        mean, by_state, by_noise = call(self._interval, t, z.mean, u, p)
        n = mean.size
        a, g = by_state.reshape(n, n), by_noise.reshape(n, -1)
        covariance = a @ z.covariance @ a.T + g @ g.T + self._drift
        return Gaussian(mean, 0.5 * (covariance + covariance.T))

    def update(
        self, t: float, z: Gaussian, y: Float64Array, noise: Float64Array, u: Float64Array, p: Float64Array
    ) -> Gaussian:
        """With a measurement (ny,), NaN where missing, and its noise covariance (ny, ny); Joseph's form."""
        h, by_state = call(self._output, t, z.mean, u, p)
        seen = np.isfinite(y)
        if not seen.any():
            return z
        c, r = by_state.reshape(y.size, z.mean.size)[seen], noise[np.ix_(seen, seen)]
        gain = np.linalg.solve(c @ z.covariance @ c.T + r, c @ z.covariance).T
        rest = np.eye(z.mean.size) - gain @ c
        covariance = rest @ z.covariance @ rest.T + gain @ r @ gain.T
        return Gaussian(z.mean + gain @ (y[seen] - h[seen]), 0.5 * (covariance + covariance.T))
