"""Training: one entry for all optimisers, by single shooting on an objective or by transcription into an NLP."""

from __future__ import annotations
