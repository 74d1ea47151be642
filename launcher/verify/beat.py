"""The text that the smoke proves and that every beat of a verified service asks again."""

from __future__ import annotations

BEAT = "beat"
"""Its name in reports."""
BEAT_TEXT = "still here"
"""Short, and nobody's."""
