"""Optimal control: problems, transcriptions, NLP functions and solvers."""
