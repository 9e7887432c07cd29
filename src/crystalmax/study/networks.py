"""Networks without training, and numbers that cells of a study share: whichever asks first has them made."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import nn

from crystalmax import checkpoint, pretraining
from crystalmax.dataset import CrystalDataset
from crystalmax.vectors import encode
from crystalmax.writing import at_once, hash_of

Recipe = str | Mapping[str, object]
"""Name of a shipped recipe, or what such a file holds."""

Features = Float[np.ndarray, "crystals columns"]


def untrained(recipe: Recipe, seed: int, trusted: tuple[str, ...] = ()) -> checkpoint.Model:
    """The network of a recipe with the initial weights of this seed."""
    objective, geometry = pretraining.untrained(pretraining.parts_of(recipe), seed, trusted=trusted)
    return checkpoint.Model(objective.eval(), geometry, {})


def encoded(folder: Path, model: checkpoint.Model, data: CrystalDataset, accelerator: str) -> Features:
    """Crystal vectors of a data set by the encoder of a model, kept on disk."""
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)  # it was built from a recipe
    weights = b"".join(tensor.cpu().numpy().tobytes() for tensor in encoder.state_dict().values())
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    path = folder / f"{hash_of([data.content_hash, hashlib.sha256(weights).hexdigest()])[:16]}.npy"
    return kept(path, lambda: encode(encoder.to(device), model.geometry, data))


def kept(path: Path, make: Callable[[], Features]) -> Features:
    """Numbers that are made once; another process that needs the same waits for them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with at_once(path) as file:
                np.save(file, make())
    found: Features = np.load(path)
    return found
