"""The weights that come with the package."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "weights"
"""A run folder without its logs: vectors that tell plain statistics of a crystal (see docs/weights.md)."""


def folder_of(run: str | Path) -> Path:
    """Where a run lies; `shipped` is the name of these weights."""
    return SHIPPED if str(run) == "shipped" else Path(run)
