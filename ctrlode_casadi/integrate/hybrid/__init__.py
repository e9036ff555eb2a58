"""Events: simulation in phases between them, and its derivatives."""
