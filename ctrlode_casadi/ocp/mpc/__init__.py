"""Model predictive control and closed loops."""
