"""Checks of derivatives against each other, with reasons where they differ."""
