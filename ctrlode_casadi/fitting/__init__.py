"""Fitting: objectives of simulated trajectories with exact derivatives."""

from __future__ import annotations
