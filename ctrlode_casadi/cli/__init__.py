"""Command line: what is installed, the origin benchmark, the cache."""
