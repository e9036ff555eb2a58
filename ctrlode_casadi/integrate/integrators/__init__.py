"""CasADi's integrators as solvers of the package."""
