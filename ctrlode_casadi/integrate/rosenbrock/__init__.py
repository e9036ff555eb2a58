"""Rosenbrock methods: settings, coefficients, Jacobians, DAEs."""
