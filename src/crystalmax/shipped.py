"""The weights that come with the package."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "weights"
"""A run folder without its logs: vectors that tell plain statistics of a crystal (see docs/weights.md)."""
