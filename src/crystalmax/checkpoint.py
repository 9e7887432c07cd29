"""Trained models on disk: plain data and safetensors, never a pickle.

A run folder holds

    spec.json             the objective, the geometry and the training, as components
    weights.safetensors   its weights
    history.jsonl         one line an epoch and part of the split
    run.json              recipe, seed, data and versions that it began with
    losses.svg            the same as a picture
    last.ckpt             what a resumed run needs; csv and tensorboard are logs

How crystals become numbers travels with the weights: the geometry in the spec, the element table as a hash. A model
whose element table is not the installed one is refused, since its numbers would mean something else.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from crystalmax import __version__, elements
from crystalmax.encoding import Encoder
from crystalmax.geometry import Geometry
from crystalmax.spec import build, describe

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """A trained objective and how its crystals become pairs.

    `extra` is other plain data stored with it, for example how many labels it has seen.
    """

    objective: nn.Module
    geometry: Geometry
    extra: Mapping[str, Any]

    @property
    def encoder(self) -> Encoder:
        """The encoder inside the objective."""
        encoder = self.objective.encoder
        assert isinstance(encoder, Encoder)  # an Objective has one, by its protocol
        return encoder


def save(model: Model, folder: Path) -> None:
    """Write a model to a folder, weights first, so that a folder with a spec is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "format": FORMAT,
        "crystalmax": __version__,
        "element_table": elements.features_hash(),
        "objective": describe(model.objective),
        "geometry": describe(model.geometry),
        "extra": dict(model.extra),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.objective.state_dict().items()}
    partial = folder / "weights.partial"
    save_file(weights, partial)
    os.replace(partial, folder / "weights.safetensors")
    write_json(folder / "spec.json", spec)


def load(folder: Path, *, trusted: tuple[str, ...] = ()) -> Model:
    """Read a model from a folder.

    Args:
        folder: A run or model folder.
        trusted: Packages, besides crystalmax, that parts of the model may come from.

    Raises:
        ValueError: The folder holds no model, one of another format, one made with another element table, or weights
            that do not fit its spec.
    """
    spec = _read_spec(folder)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
        objective = build(spec["objective"], trusted=trusted)
        geometry = build(spec["geometry"], trusted=trusted)
    if not isinstance(objective, nn.Module) or not isinstance(geometry, Geometry):
        raise ValueError(f"{folder}/spec.json names parts that are not an objective and a geometry")
    try:
        objective.load_state_dict(load_file(folder / "weights.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights in {folder} cannot be loaded: {error}") from None
    return Model(objective.eval(), geometry, spec["extra"])


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data so that a reader sees all of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(partial, path)


def _read_spec(folder: Path) -> dict[str, Any]:
    path = folder / "spec.json"
    try:
        spec = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no trained model ({error}); make one with `crystalmax pretrain`") from None
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        found = spec.get("format") if isinstance(spec, dict) else None
        raise ValueError(f"{path} has format {found}, but this version of crystalmax reads format {FORMAT}")
    if spec["element_table"] != elements.features_hash():
        raise ValueError(
            f"the model in {folder} was trained with another element table ({spec['element_table']}) than this "
            f"version has ({elements.features_hash()}); install crystalmax {spec['crystalmax']} or train it again"
        )
    return spec
