"""Several data sets as one, without a copy, and how often each is drawn from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from operator import index
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Float, Int

from crystalmax.crystal import Crystal, CrystalBatch
from crystalmax.segments import ranges
from crystalmax.storage.dataset import Columns, CrystalDataset, Dataset, Rows, Values, targets_of
from crystalmax.storage.writing import hash_of


@dataclass(frozen=True)
class JoinedDataset:
    """Data sets one after another: the rows of the second follow those of the first.

    Each stays where it is, in memory or on disk.
    """

    sets: tuple[CrystalDataset, ...]
    more: tuple[Columns, ...] = ()

    def __post_init__(self) -> None:
        if not self.sets:
            raise ValueError("no data set was given; give at least one")

    @cached_property
    def ends(self) -> Int[np.ndarray, " sets"]:
        """Where the rows of each data set end."""
        return np.cumsum([len(one) for one in self.sets])

    @cached_property
    def n_sites(self) -> Int[np.ndarray, " crystals"]:
        """Number of sites of each crystal."""
        return np.concatenate([one.n_sites for one in self.sets])

    @property
    def content_hash(self) -> str:
        """A hash of the content hashes of the data sets, in their order; empty after `with_targets`."""
        return "" if self.more else hash_of({"sets": [one.content_hash for one in self.sets]})

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, row: SupportsIndex) -> Crystal:
        row = index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"these data sets have {len(self)} crystals; there is no crystal {row}")
        return self.crystals(np.array([row % len(self)]))[0]

    def __iter__(self) -> Iterator[Crystal]:
        return (crystal for one in self.sets for crystal in one)

    def crystals(self, rows: Rows) -> list[Crystal]:
        """These crystals."""
        crystals: list[Crystal] = []
        number = self._number(rows)
        for stretch in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(number)) + 1):
            if len(stretch):
                of_set = int(number[stretch[0]])
                crystals += self.sets[of_set].crystals(rows[stretch] - self._begin(of_set))
        return crystals

    def with_targets(self, names: Sequence[str], values: Values) -> "JoinedDataset":
        """The same crystals, with more targets in their batches, and without a content hash."""
        return replace(self, more=(*self.more, Columns(tuple(names), values)))

    def groups(self, rows: Rows) -> list[Rows]:
        """These rows, split by the data set that they belong to."""
        number = self._number(rows)
        return [rows[number == each] for each in range(len(self.sets))]

    def batch(self, rows: Int[np.ndarray, " batch"]) -> CrystalBatch:
        """These crystals as one batch; a property that a data set does not have is unknown for its crystals."""
        number = self._number(rows)
        used = np.unique(number).tolist()
        parts = [self.sets[each].batch(rows[number == each] - self._begin(each)) for each in used]
        # Back from the order of data sets to that of the rows.
        order = torch.from_numpy(np.argsort(np.argsort(number, kind="stable")))
        sizes = torch.cat([part.sites_of_crystal for part in parts])
        sites = ranges((sizes.cumsum(0) - sizes)[order], sizes[order])
        # Equal species of different data sets must share a row, or one would be taken for a false sample of the other.
        kinds, species = torch.unique(torch.cat([part.kinds for part in parts]), dim=0, return_inverse=True)
        of_part = torch.split(species, [len(part.kinds) for part in parts])
        species = torch.cat([rows_of[part.species] for part, rows_of in zip(parts, of_part, strict=True)])
        keys = [key for part in parts for key in part.keys]
        names = chain(*(one.target_names for one in self.sets), *(part.targets for part in parts))
        return CrystalBatch(
            lattice=torch.cat([part.lattice for part in parts])[order],
            positions=torch.cat([part.positions for part in parts])[sites],
            species=species[sites],
            kinds=kinds,
            crystal_of_site=torch.repeat_interleave(torch.arange(len(rows)), sizes[order]),
            targets={name: _joined(name, parts)[order] for name in dict.fromkeys(names)} | targets_of(self.more, rows),
            keys=tuple(keys[place] for place in order.tolist()),
        )

    def _number(self, rows: Rows) -> Rows:
        return np.searchsorted(self.ends, rows, side="right")

    def _begin(self, number: int) -> int:
        return int(self.ends[number - 1]) if number else 0


def _joined(name: str, parts: Sequence[CrystalBatch]) -> Float[torch.Tensor, " batch"]:
    """A property of all batches, unknown in those that do not have it."""
    unknown = (part.lattice.new_full((part.n_crystals,), torch.nan) for part in parts)
    return torch.cat([part.targets.get(name, nan) for part, nan in zip(parts, unknown, strict=True)])


def order(data: Dataset, rows: Rows, weights: Sequence[float], seed: int, epoch: int) -> Rows:
    """The rows of an epoch in random order: all of them once, or with weights, a share of each data set (`drawn`)."""
    if weights:
        groups = data.groups(rows) if isinstance(data, JoinedDataset) else [rows]
        rows = drawn(groups, weights, seed, epoch)
    return np.random.default_rng([seed, epoch]).permutation(rows)


def drawn(groups: Sequence[Rows], weights: Sequence[float], seed: int, epoch: int) -> Rows:
    """Rows of an epoch with weights: as many as all groups have, of which each group has a share by its weight.

    Each group is gone through in a random order, and then in another. An epoch goes on where the last one stopped, so
    no crystal of a group comes a second time before all others of the group have come once.
    """
    if len(weights) != len(groups):
        raise ValueError(f"{len(weights)} weights were given for {len(groups)} data sets; give one a data set")
    for number, rows in enumerate(groups, 1):
        if not len(rows):
            raise ValueError(f"data set {number} has no crystal to train on, so it can have no weight; leave it out")
    ends = np.rint(np.cumsum(weights) / np.sum(weights) * sum(map(len, groups))).astype(int)
    return np.concatenate(
        [
            _walk(rows, epoch * share, share, [seed, number])
            for number, (rows, share) in enumerate(zip(groups, np.diff(ends, prepend=0).tolist(), strict=True))
        ]
    )


def _walk(rows: Rows, begin: int, length: int, key: list[int]) -> Rows:
    """A piece of the endless sequence of these rows in random order, then in another random order, and so on."""
    first, last = begin // len(rows), (begin + length) // len(rows)
    # The 1 tells these draws from those of other keys, whose missing numbers count as 0.
    orders = [np.random.default_rng([*key, time, 1]).permutation(rows) for time in range(first, last + 1)]
    return np.concatenate(orders)[begin - first * len(rows) :][:length]
