"""The list of structures that a model has learnt from, to tell whether other structures were among them.

It is the file `seen.npz` of a run folder, with arrays of a hash of each formula, the distances of each fingerprint in
hundredths of their unit, and the ranks of the neighbours that these distances are of.
"""

import hashlib
import zipfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt

from crystalmax.checkpoint import Model
from crystalmax.crystal import Crystal
from crystalmax.fingerprint import RANKS, Fingerprint, are_close
from crystalmax.storage.writing import at_once

FILE = "seen.npz"
MOST = 200_000
"""For more structures than this, no list is kept."""
MAX_BYTES = 2**28
"""A larger list is refused unread."""


@dataclass(frozen=True)
class Seen:
    """A list of structures, in no particular order.

    Attributes:
        formula: Hash of the formula of each structure.
        end: End of the distances of each structure in `distance`.
        distance: Distances of the fingerprints, one after another, in hundredths.
    """

    formula: UInt[np.ndarray, " structures"]
    end: Int[np.ndarray, " structures"]
    distance: UInt[np.ndarray, " distances"]

    @classmethod
    def of(cls, crystals: Iterable[Crystal]) -> "Seen":
        """The list of these crystals."""
        formulas, distances = array("Q"), []
        for crystal in crystals:  # one at a time, since they may be many
            fingerprint = Fingerprint.of(crystal)
            formulas.append(_hash(fingerprint.formula))
            distances.append(fingerprint.hundredths)
        ends = np.cumsum([len(each) for each in distances], dtype=np.int64)
        return cls(np.array(formulas, dtype=np.uint64), ends, np.concatenate([np.empty(0, dtype=np.uint8), *distances]))

    @classmethod
    def load(cls, folder: str | Path | None) -> "Seen | None":
        """The list of a run folder; None if there is none, or one of an earlier version with other distances.

        Raises:
            ValueError: It is damaged, or too large to be such a list.
        """
        if folder is None or not (path := Path(folder) / FILE).is_file():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                n_bytes = sum(part.file_size for part in archive.infolist())
            if n_bytes > MAX_BYTES:
                raise ValueError(f"{n_bytes:,} bytes are more than {MAX_BYTES:,}")
            with np.load(path, allow_pickle=False) as arrays:
                if "ranks" not in arrays or not np.array_equal(arrays["ranks"], RANKS):
                    return None
                formula = arrays["formula"].astype(np.uint64)
                end, distance = arrays["end"].astype(np.int64), arrays["distance"].astype(np.uint8)
            fits = formula.ndim == end.ndim == distance.ndim == 1 and len(formula) == len(end)
            if not fits or np.any(np.diff(end, prepend=0) < 0) or end.max(initial=0) != len(distance):
                raise ValueError("its arrays do not fit together")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no list of structures ({error}); remove it, or get another copy") from None
        return cls(formula, end, distance)

    def save(self, folder: Path) -> None:
        """Keep the list in a run folder."""
        with at_once(folder / FILE) as file:
            np.savez_compressed(file, ranks=np.array(RANKS), **asdict(self))

    def __add__(self, other: "Seen") -> "Seen":
        """Both lists as one."""
        return Seen(
            np.concatenate([self.formula, other.formula]),
            np.concatenate([self.end, other.end + len(self.distance)]),
            np.concatenate([self.distance, other.distance]),
        )

    def __len__(self) -> int:
        return len(self.formula)

    def knows(self, crystals: Sequence[Crystal]) -> tuple[Bool[np.ndarray, " crystals"], Bool[np.ndarray, " crystals"]]:
        """For each crystal, whether its structure is on the list, and whether its formula is."""
        rows: dict[int, list[int]] = {}
        for row, formula in enumerate(self.formula.tolist()):
            rows.setdefault(formula, []).append(row)
        found = [Fingerprint.of(crystal) for crystal in crystals]
        same_formula = [rows.get(_hash(each.formula), []) for each in found]
        same_structure = [self._have(known, each.hundredths) for each, known in zip(found, same_formula, strict=True)]
        return np.array(same_structure, dtype=bool), np.array([bool(known) for known in same_formula], dtype=bool)

    def _have(self, known: list[int], distances: UInt[np.ndarray, " distances"]) -> bool:
        """Whether one of the structures in these rows has these distances."""
        rows = np.array(known, dtype=np.int64)
        begins = np.where(rows > 0, self.end[rows - 1], 0)
        begins = begins[self.end[rows] - begins == len(distances)]
        return bool(are_close(self.distance[begins[:, None] + np.arange(len(distances))], distances).any())


def seen_before(model: Model | None, crystals: Sequence[Crystal]) -> str:
    """A sentence that says how many of these crystals a model has learnt from, and with which labels."""
    if model is None or (seen := Seen.load(model.folder)) is None:
        return "which structures the vectors were learnt from is not known"
    structures, formulas = (int(known.sum()) for known in seen.knows(crystals))
    if not formulas:
        return f"none of the {len(crystals):,} crystals, nor their formulas, was among the structures learnt from"
    return (
        f"{structures:,} of the {len(crystals):,} crystals were among the structures that the vectors were learnt from "
        f"({_how(model)}), and {formulas:,} share a formula with one"
    )


def caution(model: Model | None, crystals: Sequence[Crystal]) -> str:
    """A warning for errors of a model on labelled crystals; empty, unless the model has learnt from labels.

    Raises:
        ValueError: It was fine-tuned, or it has learnt from labels of crystals of which some are among these.
    """
    if model is None or not model.labels_of:
        return ""
    place, learnt = model.folder or "the model", f"learnt {_how(model)}"
    if "target" in model.extra:  # as `finetune` writes it
        raise ValueError(
            f"{place} was fine-tuned: it has {learnt}, so errors with its vectors would say nothing of other crystals; "
            "give the run that it was tuned from, or predict with it, by `crystalmax predict`"
        )
    if (seen := Seen.load(model.folder)) is None:
        return f"The vectors were {learnt}, of which crystals is not known: if of these, their errors are no evidence."
    if among := [crystal.key for crystal, known in zip(crystals, seen.knows(crystals)[0], strict=True) if known]:
        raise ValueError(
            f"{place} has {learnt}, and {len(among):,} of the {len(crystals):,} crystals, such as {among[0]!r}, were "
            "among those that it learnt from, so errors on them would be no evidence; leave them out, or give a run "
            "that was trained without labels"
        )
    return f"The vectors were {learnt}, of other crystals than these."


def _how(model: Model) -> str:
    return f"with labels of {', '.join(map(repr, model.labels_of))}" if model.labels_of else "without labels"


def _hash(formula: str) -> int:
    return int.from_bytes(hashlib.blake2b(formula.encode(), digest_size=8).digest(), "little")
