"""Losses of a training: their sums over an epoch, the line that is logged at its end, and the file of a run folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

HISTORY = "history.jsonl"
"""File with one line an epoch and part of the split."""

BESIDE = ("epoch", "split", "crystals", "crystals_per_second")
"""What is counted or said beside losses, under names that no term of a loss can have."""


def count(sums: dict[str, float], terms: Mapping[str, Tensor], n_crystals: int) -> None:
    """Add the terms of a batch, which are means over so many crystals, to sums; of no crystal, only their names."""
    sums["crystals"] = sums.get("crystals", 0.0) + n_crystals
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + (value.item() * n_crystals if n_crystals else 0.0)


def read_history(run: Path) -> list[Any]:
    """What a run folder keeps of all epochs: the rows that `training.train` returns, or whatever else the lines say."""
    return [json.loads(line) for line in (run / HISTORY).read_text(encoding="utf-8").splitlines()]


def terms_of(row: Mapping[str, Any], *, penalties: bool = True) -> dict[str, Any]:
    """The terms of the loss in a row, with or without its penalties."""
    return {name: row[name] for name in row if name not in BESIDE and (penalties or not name.endswith("_penalty"))}


def sentence(rows: Sequence[Mapping[str, Any]], epochs: int, chance: float | None) -> str:
    """The last epoch in one line."""
    last = [row for row in rows if row["epoch"] == rows[-1]["epoch"]]
    parts = []
    for row in last:
        losses = ", ".join(f"{name} {value:.3f}" for name, value in terms_of(row, penalties=False).items())
        parts.append(f"{row['split']} {losses}")
    line = "" if chance is None else f" (knowing nothing: {chance:.3f})"
    rate = max(row.get("crystals_per_second", 0.0) for row in last)
    return f"epoch {last[0]['epoch']}/{epochs}: {'; '.join(parts)}{line}; {rate:.0f} crystals/s"
