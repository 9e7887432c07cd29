"""One data set of a study: its crystals, its properties, and its split."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.model_selection import GroupShuffleSplit

from crystalmax.crystal import Crystal
from crystalmax.fingerprint import Fingerprint
from crystalmax.storage.dataset import CrystalDataset

SplitBy = Literal["formula", "row", "fold"]
"""How data are split: by formula, so that its crystals stay together; by row; or by the official test fold 0."""

TEST_FRACTION = 0.2
"""Fraction of the formulas, or rows, in the test split."""

VALID_FRACTION = 0.05
"""Fraction of the rest for the validation loss of pre-training; no labels are drawn from it."""

FINGERPRINTS = "fingerprints.parquet"
"""File with the fingerprints of all crystals, beside the arrays of a data set."""


class Property(NamedTuple):
    """A property to predict: the name of its column, and its unit."""

    name: str
    unit: str = ""


class Parts(NamedTuple):
    """The split of a data set: `train` for pre-training and labels, `valid` for validation losses, `test` for errors.

    If the networks come from another data set, `valid` is empty.
    """

    train: Int[np.ndarray, " train"]
    valid: Int[np.ndarray, " valid"]
    test: Int[np.ndarray, " test"]

    @property
    def structures(self) -> Int[np.ndarray, " rows"]:
        """Rows that pre-training may see: all but the test split."""
        return np.sort(np.concatenate([self.train, self.valid]))


@dataclass(frozen=True)
class Material:
    """One data set of a study; crystals and what is derived from them are read on first use.

    Attributes:
        name: Its name in the study.
        folder: The data set on disk, already filtered.
        properties: The properties that are predicted.
        donor: Name of the data set that networks are pre-trained on; often its own.
        folds: Property that holds the number of the official test fold; empty where there are no such folds.
    """

    name: str
    folder: Path
    properties: tuple[Property, ...]
    donor: str
    folds: str = ""

    @cached_property
    def data(self) -> CrystalDataset:
        """The crystals."""
        return CrystalDataset.open(self.folder)

    @cached_property
    def crystals(self) -> tuple[Crystal, ...]:
        """The same crystals one by one, read once."""
        return tuple(self.data)

    @cached_property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """Fingerprint of each crystal, which is the same for all descriptions of a structure, within a tolerance."""
        table = pd.read_parquet(self.folder / FINGERPRINTS)
        return tuple(Fingerprint(*row) for row in zip(table.formula, table.distances, strict=True))

    @property
    def formulas(self) -> tuple[str, ...]:
        """Composition of each crystal, the same for all polymorphs."""
        return tuple(fingerprint.formula for fingerprint in self.fingerprints)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Name of each crystal."""
        return self.data.keys(np.arange(len(self.data)))

    def values(self, name: str) -> Float[np.ndarray, " crystals"]:
        """A property of all crystals, NaN where unknown."""
        return self.data.values(name)

    def known(self, name: str, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " _"]:
        """The rows, of these, that have a value of the property."""
        found: Int[np.ndarray, " _"] = rows[np.isfinite(self.values(name)[rows])]
        return found

    def parts(self, by: SplitBy, seed: int = 0) -> Parts:
        """The split of the data set, the same for all properties; a ValueError if there are too few crystals."""
        rows = np.arange(len(self.data))
        groups = np.array(self.formulas) if by == "formula" else rows
        if (found := len(np.unique(groups))) < 3:
            what = "formulas" if by == "formula" else "crystals"
            raise ValueError(f"{self.name} has {found} {what}, and a split needs three; give more, or split by row")
        if by == "fold":
            is_test = self.values(self.folds) == 0 if self.folds else np.zeros(len(rows), dtype=bool)
            if not 0 < (n_tested := int(is_test.sum())) < len(rows) - 1:
                cut = f"{self.name} has {n_tested} of {len(rows)} crystals in test fold 0"
                raise ValueError(f"{cut}; name the right column as `folds` in the settings, or split by row")
            rest, test = rows[~is_test], rows[is_test]
        else:
            rest, test = _cut(rows, groups, TEST_FRACTION, seed)
        if self.donor != self.name:
            return Parts(rest, rest[:0], test)  # no loss is watched here
        train, valid = _cut(rest, groups, VALID_FRACTION, seed)
        return Parts(train, valid, test)

    def __getstate__(self) -> dict[str, object]:
        # Other processes get the path only, and open the data set themselves.
        return {name: vars(self)[name] for name in self.__dataclass_fields__}


def _cut(
    rows: Int[np.ndarray, " rows"], groups: np.ndarray, fraction: float, seed: int
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
    """Split rows by group: the rows that remain, and those of this fraction of the groups."""
    split = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
    kept, cut = next(split.split(rows, groups=groups[rows]))
    return rows[kept], rows[cut]
