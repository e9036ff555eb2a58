"""The same work in JAX, diffrax and torchdiffeq, written to be fast."""
