"""One data set of a study: crystals, their properties, and what must not stand on both sides of a split."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import GroupShuffleSplit

from crystalmax.assessment import formula
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset
from crystalmax.study.fingerprint import Fingerprint

SplitBy = Literal["formula", "row"]
"""What stays on one side of every split: crystals of one formula, or each crystal for itself."""

TEST_FRACTION = 0.2
"""Part of the formulas, or rows, that is only ever predicted."""

VALID_FRACTION = 0.05
"""Part of the rest that holds no label: pre-training is watched there."""


class Property(NamedTuple):
    """A property to predict: its column and its unit."""

    name: str
    unit: str = ""


class Parts(NamedTuple):
    """Rows of a data set: pre-training and labels come from `train`, `valid` has no labels, `test` is unseen."""

    train: Int[np.ndarray, " train"]
    valid: Int[np.ndarray, " valid"]
    test: Int[np.ndarray, " test"]

    @property
    def structures(self) -> Int[np.ndarray, " rows"]:
        """Rows that pre-training may see: all but the test split."""
        return np.sort(np.concatenate([self.train, self.valid]))


@dataclass(frozen=True)
class Material:
    """One data set of a study; crystals and what is derived from them are opened when first asked for.

    Attributes:
        name: What the study calls it.
        folder: The data set on disk, already filtered.
        properties: What is predicted.
        donor: Name of the data set whose structures are pre-trained on, its own name unless it borrows vectors.
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
        """They one by one."""
        return tuple(self.data)

    @cached_property
    def formulas(self) -> tuple[str, ...]:
        """Composition of each crystal, the same for all polymorphs."""
        return tuple(formula(crystal) for crystal in self.crystals)

    @cached_property
    def fingerprints(self) -> tuple[Fingerprint, ...]:
        """Fingerprint of each crystal, the same, within a tolerance, for all descriptions of a structure."""
        return tuple(Fingerprint.of(crystal) for crystal in self.crystals)

    def values(self, name: str) -> Float[np.ndarray, " crystals"]:
        """A property of all crystals, NaN where unknown."""
        return np.array(self.data.target[:, self.data.target_names.index(name)])

    def known(self, name: str, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " _"]:
        """Those of the rows that have a value of the property."""
        found: Int[np.ndarray, " _"] = rows[np.isfinite(self.values(name)[rows])]
        return found

    def parts(self, by: SplitBy, seed: int = 0) -> Parts:
        """The split of the study, the same for all properties."""
        groups = np.array(self.formulas) if by == "formula" else np.arange(len(self.data))
        rest, test = _cut(np.arange(len(self.data)), groups, TEST_FRACTION, seed)
        train, valid = _cut(rest, groups, VALID_FRACTION, seed)
        return Parts(train, valid, test)

    def __getstate__(self) -> dict[str, object]:
        # To other processes goes the path; each opens what it needs.
        return {name: vars(self)[name] for name in self.__dataclass_fields__}


def _cut(
    rows: Int[np.ndarray, " rows"], groups: np.ndarray, fraction: float, seed: int
) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
    """The rows without and with this fraction of their groups."""
    split = GroupShuffleSplit(1, test_size=fraction, random_state=seed)
    kept, cut = next(split.split(rows, groups=groups[rows]))
    return rows[kept], rows[cut]
