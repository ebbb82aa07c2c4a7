"""Where things are in the working tree."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]

MODELS = ROOT / "tests" / "support" / "models"
"""Where the scripts stand that make tiny models."""
