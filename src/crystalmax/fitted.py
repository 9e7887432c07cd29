"""Models from few labels on disk: saved is what they were fitted to. Loaded, they are fitted again; no pickles.

A folder holds

    fit.json              the property, the columns, settings, a checksum of the numbers and a hash of itself
    labels.safetensors    numbers, value and group of each labelled crystal, and numbers of a reference
    encoder/              a model folder, if vectors are among the columns
    networks/             another, if predictions of fine-tuned networks are the last column
"""

import logging
import math
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
from crystalmax.crystal import Crystal, formula
from crystalmax.elements import SYMBOLS
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.few_labels.small_data import SmallDataRegressor, check_coverage
from crystalmax.objectives.supervised import Ensemble
from crystalmax.prediction import error_of_median, table_of
from crystalmax.reading.records import Record
from crystalmax.regressor import CrystalRegressor
from crystalmax.regressor import predict as predicted
from crystalmax.seen import caution
from crystalmax.statistics.baselines import REFERENCE
from crystalmax.storage import writing
from crystalmax.storage.dataset import CrystalDataset

log = logging.getLogger(__name__)

FORMAT = 2
SPEC, NUMBERS, ENCODER, NETWORKS = "fit.json", "labels.safetensors", "encoder", "networks"
SHAPES = {"numbers": 2, "values": 1, "groups": 1, "reference": 1}
"""Arrays in the file of numbers, and their numbers of axes."""

_MANY = 3000
"""With more labels than this a fit takes minutes; time grows with the cube of their number, memory with the square."""

_AGAIN = "fit it again with `crystalmax fit`, or get another copy of it"


@dataclass(frozen=True)
class Fitted:
    """A property, learnt from these crystals.

    Attributes:
        target: Name of the property.
        numbers: Columns that describe each labelled crystal; with `networks`, the last is their held-out prediction.
        values: Value of each labelled crystal.
        groups: A number for each, which crystals of one formula share.
        model: The network whose vectors are the first columns, if there are any.
        seed: Seed of the regressor.
        networks: Networks that were fine-tuned to the labels, if there are any.
    """

    target: str
    numbers: Float[np.ndarray, "labels columns"]
    values: Float[np.ndarray, " labels"]
    groups: Int[np.ndarray, " labels"]
    model: checkpoint.Model | None = None
    seed: int = 0
    networks: checkpoint.Model | None = None

    @property
    def featurizer(self) -> CrystalFeaturizer:
        """Makes all columns but that of fine-tuned networks."""
        return featurizer_of(self.model)

    @property
    def reference(self) -> Float[np.ndarray, " columns"]:
        """The columns of a fixed crystal, to notice if another version computes columns of one name differently."""
        numbers: Float[np.ndarray, " columns"] = self.featurizer.numbers(CrystalDataset.from_crystals([REFERENCE]))[0]
        return numbers

    @cached_property
    def regressor(self) -> SmallDataRegressor:
        """The regressor, fitted on first use; the same numbers and package versions give the same one."""
        groups = self.groups if len(np.unique(self.groups)) > 1 else None
        if (n := len(self.values)) > _MANY:
            told = "fitting to %s labels takes minutes and about %.1f GB of memory; fewer, drawn at random, take less"
            log.info(told, f"{n:,}", 0.5 + 60e-9 * n**2)
        regressor = SmallDataRegressor(
            blocks=self.featurizer.blocks, told=int(self.networks is not None), random_state=self.seed
        )
        return regressor.fit(self.numbers, self.values, groups)

    def numbers_of(self, data: CrystalDataset, n_jobs: int | None = None) -> Float[np.ndarray, "crystals columns"]:
        """The columns of other crystals, made by `n_jobs` processes."""
        numbers: Float[np.ndarray, "crystals columns"] = featurizer_of(self.model, n_jobs).numbers(data)
        if self.networks is None:
            return numbers
        assert isinstance(self.networks.objective, Ensemble)  # or `load` would have refused it
        said = predicted(self.networks.objective, self.networks.geometry, data)
        return np.column_stack([numbers, said])


def featurizer_of(model: checkpoint.Model | None, n_jobs: int | None = None) -> CrystalFeaturizer:
    """Makes statistics, after the vectors of a network if there is one."""
    if model is None:
        return CrystalFeaturizer(None, n_jobs=n_jobs)
    return CrystalFeaturizer(model.encoder, geometry=model.geometry, n_jobs=n_jobs)


def fit(
    crystals: Sequence[Crystal],
    target: str,
    *,
    model: checkpoint.Model | None = None,
    networks: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
) -> Fitted:
    """Learn a property from canonical crystals; crystals of one formula stay in one fold.

    Args:
        crystals: Canonical crystals, each with a value of the property.
        target: Name of the property.
        model: The network whose vectors come before the statistics; None for statistics alone.
        networks: Whether copies of that network are fine-tuned, as one more member of the regressor; takes minutes.
        seed: Seed of the regressor and of the copies.
        n_jobs: Processes that compute statistics, as in `CrystalFeaturizer`.

    Raises:
        ValueError: There is no network to fine-tune, labels are too few for it, or as `seen.caution` of the model.
    """
    if networks and model is None:
        raise ValueError("networks start from the one that makes the vectors: give a model, without `--no-vectors`")
    if told := caution(model, crystals):
        log.warning("%s", told)
    numbers = featurizer_of(model, n_jobs).numbers(CrystalDataset.from_crystals(crystals))
    values = np.array([crystal.targets[target] for crystal in crystals])
    _, groups = np.unique([formula(crystal) for crystal in crystals], return_inverse=True)
    _check_promise(groups, 0.9)
    found = Fitted(target, numbers, values, groups.astype(np.int64), model, seed)
    if model is None or not networks:
        return found
    tuned = CrystalRegressor(model.encoder, geometry=model.geometry, beside=False, seed=seed)
    tuned.fit_crystals(crystals, target)
    copies = checkpoint.Model(tuned.objective_, tuned.geometry, {"target": target, "labels": len(crystals)})
    return replace(found, numbers=np.column_stack([numbers, tuned.held_out_]), networks=copies)


def predict(
    records: Iterable[Record], fitted: Fitted, *, coverage: float = 0.9, n_jobs: int | None = None
) -> pd.DataFrame:
    """A row for each record: `key`, `prediction`, `low` and `high` of its interval, `refusal` otherwise, `note`.

    The note also names elements that no labelled crystal has, since intervals hold nothing for them.
    """
    check_coverage(coverage)  # before anything is read
    _check_promise(fitted.groups, coverage)
    first = fitted.featurizer.get_feature_names_out().tolist().index(f"fraction of {SYMBOLS[0]}")
    known = np.flatnonzero(fitted.numbers[:, first : first + len(SYMBOLS)].max(axis=0)) + 1

    def noted(record: Record) -> Record:
        numbers = sorted(record.crystal.composition()) if record.crystal else []
        new = [SYMBOLS[number - 1] for number in numbers if number not in known]
        return replace(record, notes=(*record.notes, f"no labelled crystal has {', '.join(new)}")) if new else record

    def ends(data: CrystalDataset) -> Float[np.ndarray, "crystals 3"]:
        return fitted.regressor.predict_with_interval(fitted.numbers_of(data, n_jobs), coverage)

    return table_of(map(noted, records), ["prediction", "low", "high"], ends)


def _check_promise(groups: Int[np.ndarray, " labels"], coverage: float) -> None:
    """Warn if labels are too few for intervals of this coverage: n formulas guarantee n / (n + 1) at most."""
    n_groups = len(np.unique(groups))
    what, n_left_out = ("formulas", n_groups) if n_groups > 1 else ("labels of one formula", len(groups))
    if (least := math.ceil(coverage / (1 - coverage) - 1e-9)) > n_left_out:
        told = "intervals of %g %% need %d %s; with %d they are too narrow"
        log.warning(told, 100 * coverage, least, what, n_left_out)


def holds_fit(folder: Path) -> bool:
    """Whether `save` wrote this folder."""
    return (folder / SPEC).is_file()


def save(fitted: Fitted, folder: str | Path) -> tuple[float, float]:
    """Write a model to a new folder.

    Returns:
        The mean absolute error for held-out labels, and that of always predicting the median.

    Raises:
        FileExistsError: The folder exists already.
        ValueError: Labels are too few.
    """
    writing.check_free(folder := Path(folder))
    error = fitted.regressor.error_  # before anything is written, as labels may be too few
    if fitted.networks is not None:
        log.info("fine-tuned networks have a share of %.0f %% in predictions", 100 * fitted.regressor.shares_[-1])
    content = safetensors.numpy.save({name: np.ascontiguousarray(getattr(fitted, name)) for name in SHAPES})
    spec = {
        "format": FORMAT,
        "crystalmax": __version__,
        "target": fitted.target,
        "columns": fitted.featurizer.get_feature_names_out().tolist(),
        "encoder": fitted.model is not None,
        "networks": fitted.networks is not None,
        "seed": fitted.seed,
        "files": {NUMBERS: writing.checksum_of(content)},
    }
    with writing.folder_at_once(folder) as partial:
        for model, name in ((fitted.model, ENCODER), (fitted.networks, NETWORKS)):
            if model is not None:
                checkpoint.save(model, partial / name)
        (partial / NUMBERS).write_bytes(content)
        writing.write_json(partial / SPEC, {**spec, "content_hash": writing.hash_of(spec)})
    return error, error_of_median(fitted.values)


def load(folder: str | Path, *, trusted: tuple[str, ...] = ()) -> Fitted:
    """Read what `save` wrote.

    Raises:
        ValueError: The folder holds no such model, a damaged one, or one whose columns this version does not make.
    """
    spec = read_spec(folder := Path(folder))
    if not (folder / NUMBERS).is_file():
        raise ValueError(f"{folder / NUMBERS} is missing; {_AGAIN}")
    content = (folder / NUMBERS).read_bytes()
    if writing.checksum_of(content)["sha256"] != spec["files"][NUMBERS]["sha256"]:
        raise ValueError(f"{folder / NUMBERS} is not as it was saved; {_AGAIN}")
    try:
        arrays = safetensors.numpy.load(content)
    except SafetensorError as error:
        raise ValueError(f"{folder / NUMBERS} cannot be read ({error}); {_AGAIN}") from None
    if {name: array.ndim for name, array in arrays.items()} != SHAPES:
        raise ValueError(f"{folder / NUMBERS} does not hold {', '.join(SHAPES)}; {_AGAIN}")
    model = checkpoint.load(folder / ENCODER, trusted=trusted) if spec["encoder"] else None
    networks = checkpoint.load(folder / NETWORKS, trusted=trusted) if spec["networks"] else None
    if networks is not None and not isinstance(networks.objective, Ensemble):
        raise ValueError(f"{folder / NETWORKS} holds no fine-tuned networks; {_AGAIN}")
    found = Fitted(spec["target"], arrays["numbers"], arrays["values"], arrays["groups"], model, spec["seed"], networks)
    same_names = found.featurizer.get_feature_names_out().tolist() == spec["columns"]
    if not same_names or not np.allclose(arrays["reference"], found.reference, rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"the model in {folder} was fitted by crystalmax {spec['crystalmax']} to columns that this version "
            f"does not make; {_AGAIN}"
        )
    return found


def read_spec(folder: str | Path) -> dict[str, Any]:
    """The description of a model, as `save` wrote it.

    Raises:
        ValueError: The folder holds no fitted model, or one that this version cannot read.
    """
    path = Path(folder) / SPEC
    try:
        spec = writing.read_json(path, checkpoint.MAX_SPEC_BYTES)
    except ValueError as error:
        raise ValueError(f"{folder} holds no fitted model ({error}); make one with `crystalmax fit`") from None
    kinds = {"format": int, "crystalmax": str, "target": str, "columns": list, "seed": int}
    kinds |= {"encoder": bool, "networks": bool}
    if (
        not isinstance(spec, dict)
        or any(not isinstance(spec.get(name), kind) for name, kind in kinds.items())
        or not writing.is_listing(spec.get("files"))
        or NUMBERS not in spec["files"]
    ):
        raise ValueError(f"{path} does not describe a fitted model; {_AGAIN}")
    if spec["format"] != FORMAT:
        raise ValueError(f"{path} has format {spec['format']}, but this version reads format {FORMAT}; {_AGAIN}")
    if writing.is_changed(spec):
        raise ValueError(f"{path} is not as it was saved; {_AGAIN}")
    return spec
