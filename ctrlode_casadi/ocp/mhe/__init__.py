"""Moving-horizon estimation."""
