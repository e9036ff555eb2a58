"""What both JAX peers share: precision, parameters, the network, the compiled value and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads import Workload, flatten, make_arrays

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"selu": jax.nn.selu, "tanh": jnp.tanh}


class JaxSide:
    """A workload in JAX; a subclass gives `loss(layers)`."""

    def __init__(self, workload: Workload) -> None:
        jax.config.update("jax_enable_x64", workload.dtype == "float64")
        self.workload = workload
        self.activation = ACTIVATIONS[workload.activation]
        arrays = make_arrays(workload)
        dtype = jnp.dtype(workload.dtype)
        self.ts, self.x0, self.u = (jnp.asarray(array, dtype) for array in (arrays.ts, arrays.x0, arrays.u))
        self.layers = [(jnp.asarray(w, dtype), jnp.asarray(b, dtype)) for w, b in arrays.layers]
        self.call = jax.jit(jax.value_and_grad(self.loss))

    def loss(self, layers: Any) -> jax.Array:
        raise NotImplementedError

    def network(self, layers: Any, z: jax.Array) -> jax.Array:
        """z (..., n_in) -> (..., n_out)."""
        for weight, bias in layers[:-1]:
            z = self.activation(z @ weight.T + bias)
        weight, bias = layers[-1]
        return z @ weight.T + bias

    def run(self) -> Any:
        return jax.block_until_ready(self.call(self.layers))

    def result(self, returned: Any) -> tuple[float, np.ndarray]:
        return float(returned[0]), flatten(returned[1])
