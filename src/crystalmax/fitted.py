"""A model from few labels on disk: what it was fitted to, from which it is fitted again in seconds. Never a pickle.

A folder holds

    fit.json              the property, the columns, settings, a checksum of the numbers and a hash of itself
    labels.safetensors    numbers, value and group of each labelled crystal
    encoder/              a model folder, if vectors are among the columns
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy
from jaxtyping import Float, Int
from safetensors import SafetensorError

from crystalmax import __version__, checkpoint
from crystalmax.baselines import formula
from crystalmax.checkpoint import Model
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset
from crystalmax.elements import SYMBOLS
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.prediction import error_of_median, table_of
from crystalmax.records import Record
from crystalmax.small_data import SmallDataRegressor, check_coverage
from crystalmax.writing import (
    check_free,
    checksum_of,
    folder_at_once,
    hash_of,
    is_changed,
    is_listing,
    read_json,
    write_json,
)

log = logging.getLogger(__name__)

FORMAT = 1
SPEC, NUMBERS, ENCODER = "fit.json", "labels.safetensors", "encoder"
SHAPES = {"numbers": 2, "values": 1, "groups": 1}
"""What the file of numbers holds, and how many axes each has."""

_MANY = 3000
"""Of more labels a fit takes minutes: its time grows with the cube of their number, its memory with the square."""

_AGAIN = "fit it again with `crystalmax fit`, or get another copy of it"


@dataclass(frozen=True)
class Fitted:
    """A property, learnt from these crystals.

    Attributes:
        target: Name of the property.
        numbers: What describes each labelled crystal.
        values: Its value.
        groups: Crystals of one formula share a number.
        model: The network whose vectors are the first columns, if there are any.
        seed: Of the regressor.
    """

    target: str
    numbers: Float[np.ndarray, "labels columns"]
    values: Float[np.ndarray, " labels"]
    groups: Int[np.ndarray, " labels"]
    model: Model | None = None
    seed: int = 0

    @property
    def featurizer(self) -> CrystalFeaturizer:
        """Makes the columns."""
        return featurizer_of(self.model)

    @cached_property
    def regressor(self) -> SmallDataRegressor:
        """Fitted when first asked for; the same numbers and versions give the same."""
        groups = self.groups if len(np.unique(self.groups)) > 1 else None
        if (n := len(self.values)) > _MANY:
            told = "fitting to %s labels takes minutes and about %.1f GB of memory; fewer, drawn at random, take less"
            log.info(told, f"{n:,}", 0.5 + 60e-9 * n**2)
        regressor = SmallDataRegressor(blocks=self.featurizer.blocks, random_state=self.seed)
        return regressor.fit(self.numbers, self.values, groups)


def featurizer_of(model: Model | None) -> CrystalFeaturizer:
    """Statistics alone, or behind the vectors of a network."""
    return CrystalFeaturizer(None) if model is None else CrystalFeaturizer(model.encoder, geometry=model.geometry)


def fit(crystals: Sequence[Crystal], target: str, *, model: Model | None = None, seed: int = 0) -> Fitted:
    """Learn a property that canonical crystals carry, each of them; crystals of one formula are left out together.

    Args:
        crystals: Canonical crystals, each with a value of the property.
        target: Name of the property.
        model: The network whose vectors stand before the statistics; none for statistics alone.
        seed: Of the regressor.
    """
    numbers = featurizer_of(model).numbers(CrystalDataset.from_crystals(crystals))
    values = np.array([crystal.targets[target] for crystal in crystals])
    names, groups = np.unique([formula(crystal) for crystal in crystals], return_inverse=True)
    what, n_left_out = ("formulas", len(names)) if len(names) > 1 else ("labels of one formula", len(values))
    if n_left_out < 9:
        log.warning("intervals of 90 %% need nine %s; with %d they are too narrow", what, n_left_out)
    return Fitted(target, numbers, values, groups.astype(np.int64), model, seed)


def predict(records: Iterable[Record], fitted: Fitted, *, coverage: float = 0.9) -> pd.DataFrame:
    """A row a record: `key`, `prediction`, `low` and `high` of its interval, `refusal` where there are none, `note`.

    The note also names elements that no labelled crystal has: an interval promises nothing of them.
    """
    check_coverage(coverage)  # before anything is read
    first = fitted.featurizer.get_feature_names_out().tolist().index(f"fraction of {SYMBOLS[0]}")
    known = np.flatnonzero(fitted.numbers[:, first : first + len(SYMBOLS)].max(axis=0)) + 1

    def noted(record: Record) -> Record:
        numbers = sorted(record.crystal.composition()) if record.crystal else []
        new = [SYMBOLS[number - 1] for number in numbers if number not in known]
        return replace(record, notes=(*record.notes, f"no labelled crystal has {', '.join(new)}")) if new else record

    def ends(data: CrystalDataset) -> Float[np.ndarray, "crystals 3"]:
        return fitted.regressor.predict_with_interval(fitted.featurizer.numbers(data), coverage)

    return table_of(map(noted, records), ["prediction", "low", "high"], ends)


def holds_fit(folder: Path) -> bool:
    """Whether `save` wrote this folder."""
    return (folder / SPEC).is_file()


def save(fitted: Fitted, folder: Path) -> tuple[float, float]:
    """Write a folder; its description comes last, so that a folder with one is whole.

    Returns:
        The mean absolute error of labels that were left out, and that of always answering the median.

    Raises:
        FileExistsError: The folder exists already.
        ValueError: Labels are too few.
    """
    check_free(folder)
    error = fitted.regressor.error_  # before anything is written, as labels may be too few
    content = safetensors.numpy.save({name: np.ascontiguousarray(getattr(fitted, name)) for name in SHAPES})
    spec = {
        "format": FORMAT,
        "crystalmax": __version__,
        "target": fitted.target,
        "columns": fitted.featurizer.get_feature_names_out().tolist(),
        "encoder": fitted.model is not None,
        "seed": fitted.seed,
        "files": {NUMBERS: checksum_of(content)},
    }
    with folder_at_once(folder) as partial:
        if fitted.model is not None:
            checkpoint.save(fitted.model, partial / ENCODER)
        (partial / NUMBERS).write_bytes(content)
        write_json(partial / SPEC, {**spec, "content_hash": hash_of(spec)})
    return error, error_of_median(fitted.values)


def load(folder: Path, *, trusted: tuple[str, ...] = ()) -> Fitted:
    """Read what `save` wrote.

    Raises:
        ValueError: The folder holds no such model, a damaged one, or one whose columns this version does not make.
    """
    spec = read_spec(folder)
    if not (folder / NUMBERS).is_file():
        raise ValueError(f"{folder / NUMBERS} is missing; {_AGAIN}")
    content = (folder / NUMBERS).read_bytes()
    if hashlib.sha256(content).hexdigest() != spec["files"][NUMBERS]["sha256"]:
        raise ValueError(f"{folder / NUMBERS} is not as it was saved; {_AGAIN}")
    try:
        arrays = safetensors.numpy.load(content)
    except SafetensorError as error:
        raise ValueError(f"{folder / NUMBERS} cannot be read ({error}); {_AGAIN}") from None
    if {name: array.ndim for name, array in arrays.items()} != SHAPES:
        raise ValueError(f"{folder / NUMBERS} does not hold {', '.join(SHAPES)}; {_AGAIN}")
    model = checkpoint.load(folder / ENCODER, trusted=trusted) if spec["encoder"] else None
    if featurizer_of(model).get_feature_names_out().tolist() != spec["columns"]:
        raise ValueError(
            f"the model in {folder} was fitted by crystalmax {spec['crystalmax']} to columns that this version "
            f"does not make; {_AGAIN}"
        )
    return Fitted(spec["target"], arrays["numbers"], arrays["values"], arrays["groups"], model, spec["seed"])


def read_spec(folder: Path) -> dict[str, Any]:
    """What a folder consists of, as `save` wrote it.

    Raises:
        ValueError: The folder holds no fitted model, or one that this version cannot read.
    """
    path = folder / SPEC
    try:
        spec = read_json(path, checkpoint.MAX_SPEC_BYTES)
    except ValueError as error:
        raise ValueError(f"{folder} holds no fitted model ({error}); make one with `crystalmax fit`") from None
    kinds = {"format": int, "crystalmax": str, "target": str, "columns": list, "encoder": bool, "seed": int}
    if (
        not isinstance(spec, dict)
        or any(not isinstance(spec.get(name), kind) for name, kind in kinds.items())
        or not is_listing(spec.get("files"))
        or NUMBERS not in spec["files"]
    ):
        raise ValueError(f"{path} does not describe a fitted model; {_AGAIN}")
    if spec["format"] != FORMAT:
        raise ValueError(f"{path} has format {spec['format']}, but this version of crystalmax reads format {FORMAT}")
    if is_changed(spec):
        raise ValueError(f"{path} is not as it was saved; {_AGAIN}")
    return spec
