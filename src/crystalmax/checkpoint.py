"""Trained models on disk: plain data and safetensors, never a pickle.

A run folder holds

    spec.json             the objective, the geometry and the training, as components
    weights.safetensors   its weights
    history.jsonl         one line an epoch and part of the split
    run.json              recipe, seed, data and versions at its begin
    losses.svg            the same as a picture
    seen.npz              which structures it has learnt from (see `seen`)
    last.ckpt             what a resumed run needs; csv and tensorboard are logs
    run.lock              held by the job that writes the folder

The spec has the size and the SHA-256 of the weights and a hash of itself: weights that are not those that were saved
are refused, and so is a spec that was changed by hand.

How crystals become numbers travels with the weights: the geometry in the spec, the element table as a hash. A model
whose element table is not the installed one is refused, since its numbers would mean something else.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from crystalmax import __version__, elements
from crystalmax.encoding import Encoder
from crystalmax.geometry import Geometry
from crystalmax.objectives.base import Objective
from crystalmax.shipped import folder_of
from crystalmax.spec import build, describe, seeded_weights
from crystalmax.storage.writing import at_once, checksum_of, folder_at_once, hash_of, is_changed, is_listing, read_json

log = logging.getLogger(__name__)

FORMAT = 1
SPEC, WEIGHTS = "spec.json", "weights.safetensors"
START = "start"
"""Folder within a run that holds the model it started from, if there was one."""
MAX_SPEC_BYTES = 2**24
"""A larger spec is refused unread."""
MAX_HEADER_BYTES = 2**20
"""Most bytes for names and shapes in the file of weights."""
_AGAIN = "train the model again, or get another copy of it"


@dataclass(frozen=True)
class Model:
    """A trained objective and how its crystals become pairs.

    `extra` is further plain data stored with it, such as the number of its crystals; `folder` is where it was read.
    """

    objective: Objective
    geometry: Geometry
    extra: Mapping[str, Any]
    folder: Path | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder inside the objective."""
        return self.objective.encoder

    @property
    def labels_of(self) -> tuple[str, ...]:
        """Properties whose labels the encoder has learnt from, in its own run or in one that it started from."""
        parts = (part.labels_of for part in self.objective.modules() if isinstance(part, Objective))
        return tuple(sorted({*chain.from_iterable(parts), *self.extra.get("labels_of", ())}))


def save(model: Model, folder: str | Path) -> None:
    """Write a model to a folder, which appears when complete; in an old one, weights are replaced before the spec."""
    # Copies, since weights may be shared, such as those of an encoder that two parts of an objective keep.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.objective.state_dict().items()}
    weights = safetensors.torch.save(copies)
    spec = {
        "format": FORMAT,
        "crystalmax": __version__,
        "element_table": elements.features_hash(),
        "objective": describe(model.objective),
        "geometry": describe(model.geometry),
        "extra": dict(model.extra),
        "files": {WEIGHTS: checksum_of(weights)},
    }
    whole = nullcontext(folder) if (folder := Path(folder)).exists() else folder_at_once(folder)
    with whole as into, at_once(into / SPEC) as file:
        file.write((json.dumps({**spec, "content_hash": hash_of(spec)}, indent=1) + "\n").encode())
        file.flush()  # a disk that is full says so before the weights are replaced
        with at_once(into / WEIGHTS) as file_of_weights:
            file_of_weights.write(weights)


def load(folder: str | Path, *, trusted: tuple[str, ...] = ()) -> Model:
    """Read a model from a folder.

    Args:
        folder: A run or model folder, or `shipped` for the weights that come with the package.
        trusted: Packages, besides crystalmax, that parts of the model may come from.

    Raises:
        ValueError: The folder holds no model, one of another format, one that was damaged or changed, one made with
            another element table, or weights that do not fit its spec.
    """
    spec = read_spec(folder := folder_of(folder))
    with seeded_weights(0):  # initial weights are drawn and then replaced
        objective = build(spec["objective"], trusted=trusted)
        geometry = build(spec["geometry"], trusted=trusted)
    if not isinstance(objective, Objective) or not isinstance(geometry, Geometry):
        raise ValueError(f"{folder}/{SPEC} names parts that are not an objective and a geometry")
    try:
        objective.load_state_dict(_read_weights(folder / WEIGHTS, spec["files"][WEIGHTS], objective))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights in {folder} cannot be loaded: {error}") from None
    if told := stopped(folder, spec):
        log.warning("%s", told)
    return Model(objective.eval(), geometry, spec["extra"], folder)


def stopped(folder: Path, spec: Mapping[str, Any]) -> str:
    """A warning for weights whose training was stopped before its end; empty for others."""
    if spec["extra"].get("finished") is not False:
        return ""
    remedy = "go on with it by --resume, or take its weights as they are"
    return f"the training of {folder} was stopped before its end; {remedy}"


def read_spec(folder: str | Path) -> dict[str, Any]:
    """The description of a model, as `save` wrote it.

    Raises:
        ValueError: The folder holds no model, or one that this version cannot read.
    """
    path = Path(folder) / SPEC
    try:
        spec = read_json(path, MAX_SPEC_BYTES)
    except ValueError as error:
        remedy = "give a folder that `crystalmax pretrain` wrote, or for `predict` one that `fit` or `finetune` did"
        raise ValueError(f"{folder} holds no trained model ({error}); {remedy}") from None
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        found = spec.get("format") if isinstance(spec, dict) else None
        raise ValueError(f"{path} has format {found}, but this version of crystalmax reads format {FORMAT}")
    needed = {"crystalmax": str, "element_table": str, "objective": dict, "geometry": dict, "extra": dict}
    for name, kind in needed.items():
        if not isinstance(spec.get(name), kind):
            raise ValueError(f"{path} has no sound entry {name!r}; {_AGAIN}")
    if not is_listing(spec.get("files")) or WEIGHTS not in spec["files"]:
        raise ValueError(f"{path} lists files in a way that {WEIGHTS} cannot be compared with; {_AGAIN}")
    if spec["element_table"] != elements.features_hash():
        raise ValueError(
            f"the model in {folder} was trained with another element table ({spec['element_table']}) than this "
            f"version has ({elements.features_hash()}); install crystalmax {spec['crystalmax']} or train it again"
        )
    if is_changed(spec):
        raise ValueError(f"{path} is not as it was saved; {_AGAIN}")
    return spec


def _read_weights(path: Path, written: Mapping[str, Any], objective: nn.Module) -> dict[str, torch.Tensor]:
    most = sum(tensor.nbytes for tensor in objective.state_dict().values()) + MAX_HEADER_BYTES
    if not 0 < (found := path.stat().st_size) <= most:  # 0 are also what a link to a device has
        raise ValueError(f"{path} has {found:,} bytes, but the parts in {SPEC} can need 1 to {most:,}; {_AGAIN}")
    content = path.read_bytes()
    if checksum_of(content)["sha256"] != written["sha256"]:
        had = f"it has {len(content):,} bytes and had {written['bytes']:,}, or others"
        raise ValueError(f"{path} is not as it was saved: {had}; {_AGAIN}")
    return safetensors.torch.load(content)
