"""Untrained networks of recipes, and arrays that cells of a study share: the first that needs one makes it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float

from crystalmax import checkpoint
from crystalmax.learning import pretraining
from crystalmax.storage.writing import at_once

Recipe = str | Mapping[str, object]
"""Name of a shipped recipe, or what such a file holds."""

Features = Float[np.ndarray, "crystals columns"]


def untrained(recipe: Recipe, seed: int, trusted: tuple[str, ...] = ()) -> checkpoint.Model:
    """The network of a recipe with the initial weights of this seed."""
    objective, geometry = pretraining.untrained(pretraining.parts_of(recipe), seed, trusted=trusted)
    return checkpoint.Model(objective.eval(), geometry, {})


def kept(path: Path, make: Callable[[], Features]) -> Features:
    """The numbers in this file, made and saved on first use; other processes that need them wait meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with at_once(path) as file:
                np.save(file, make())
    found: Features = np.load(path)
    return found
