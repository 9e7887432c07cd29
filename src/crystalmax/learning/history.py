"""Losses of a training: sums over an epoch, the line that is logged at its end, and the history in the run folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from crystalmax.learning.saving import HISTORY
from crystalmax.objectives.base import BESIDE


def count(sums: dict[str, float], terms: Mapping[str, Tensor], n_crystals: int) -> None:
    """Add the terms of a batch, means over its crystals, to sums over crystals; with no crystals, only their names."""
    sums["crystals"] = sums.get("crystals", 0.0) + n_crystals
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + (value.item() * n_crystals if n_crystals else 0.0)


def read_history(run: Path) -> list[Any]:
    """The history in a run folder: the rows that `training.train` returned, if nobody has changed the file."""
    return [json.loads(line) for line in (run / HISTORY).read_text(encoding="utf-8").splitlines()]


def terms_of(row: Mapping[str, Any], *, penalties: bool = True) -> dict[str, Any]:
    """The terms of the loss in a row of the history, with or without penalties."""
    return {name: row[name] for name in row if name not in BESIDE and (penalties or not name.endswith("_penalty"))}


def sentence(rows: Sequence[Mapping[str, Any]], epochs: int, chance: float | None) -> str:
    """A line for the log about the last epoch."""
    last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    parts = []
    for row in last:
        losses = ", ".join(f"{name} {value:.3f}" for name, value in terms_of(row, penalties=False).items())
        parts.append(f"{row['split']} {losses}")
    line = "" if chance is None else f" (knowing nothing: {chance:.3f})"
    rate = max(row.get("crystals_per_second", 0.0) for row in last)
    return f"epoch {last[0]['epoch']}/{epochs}: {'; '.join(parts)}{line}; {rate:.0f} crystals/s"
