"""Elementary functions on lanes."""
