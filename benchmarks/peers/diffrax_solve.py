"""Adaptive Tsit5 in diffrax: one `diffeqsolve` per trajectory, vmapped, recursive checkpointing adjoint."""

from __future__ import annotations

from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from peers.jax_side import JaxSide

PACKAGES = ("diffrax", "jax", "jaxlib", "equinox")


class Side(JaxSide):
    def squares(self, layers: Any, start: jax.Array, values: jax.Array) -> jax.Array:
        """Sum of squares of one trajectory's saved states."""

        def field(t: jax.Array, x: jax.Array, arguments: Any) -> jax.Array:
            weights, knot_values = arguments
            u = diffrax.LinearInterpolation(self.ts, knot_values).evaluate(t)
            return self.network(weights, jnp.concatenate([x, u]))

        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=self.ts[0],
            t1=self.ts[-1],
            dt0=None,
            y0=start,
            args=(layers, values),
            saveat=diffrax.SaveAt(ts=self.ts),
            stepsize_controller=diffrax.PIDController(rtol=self.workload.rtol, atol=self.workload.atol),
            adjoint=diffrax.RecursiveCheckpointAdjoint(),
            max_steps=4096,
        )
        return jnp.sum(solution.ys**2)

    def loss(self, layers: Any) -> jax.Array:
        if self.workload.batch == 1:
            return self.squares(layers, self.x0[0], self.u[0])
        each = jax.vmap(self.squares, in_axes=(None, 0, 0))(layers, self.x0, self.u)
        return jnp.sum(each) / self.workload.batch
