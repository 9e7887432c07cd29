"""A crystal as arrays, and many crystals end to end.

`Crystal` (numpy) is what is read, canonicalised and stored; `CrystalBatch` (torch) is what networks see.
Nothing here knows files, symmetry or networks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalmax.elements import N_ELEMENTS, SYMBOLS

N_KIND_COLUMNS = N_ELEMENTS + 2
"""Width of a species table: occupancies of hydrogen to lawrencium, mean oxidation state, whether that is known."""


class Occupant(NamedTuple):
    """One element on a site: its atomic number, its occupancy in (0, 1] and, if the source gave one, its charge."""

    atomic_number: int
    occupancy: float
    oxidation_state: float | None = None


Species = tuple[Occupant, ...]
"""The occupants of a site, sorted by atomic number; occupancies sum to 1, or less if there are vacancies."""


@dataclass(frozen=True)
class Crystal:
    """One crystal: a cell, sites in it, and what occupies them.

    Attributes:
        lattice: Cell vectors as rows, in angstrom.
        positions: Fractional coordinates.
        species: For each site, its row of `kinds`.
        kinds: The distinct species of this crystal.
        key: A name that is unique within its source.
        targets: Measured or computed properties by name; NaN where unknown.
    """

    lattice: Float[np.ndarray, "3 3"]
    positions: Float[np.ndarray, "sites 3"]
    species: Int[np.ndarray, " sites"]
    kinds: tuple[Species, ...]
    key: str = ""
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_sites(self) -> int:
        """Number of sites in the cell."""
        return len(self.species)

    @property
    def volume(self) -> float:
        """Volume of the cell in cubic angstrom."""
        return float(abs(np.linalg.det(self.lattice)))

    @property
    def is_ordered(self) -> bool:
        """Whether every site is fully occupied by one element."""
        return all(len(kind) == 1 and kind[0].occupancy == 1.0 for kind in self.kinds)

    def composition(self) -> dict[int, float]:
        """Atoms in the cell by atomic number; vacancies do not count."""
        atoms: dict[int, float] = {}
        for kind, count in zip(self.kinds, np.bincount(self.species, minlength=len(self.kinds)), strict=True):
            for number, occupancy, _ in kind:
                atoms[number] = atoms.get(number, 0.0) + float(count) * occupancy
        return atoms

    def without_charges(self) -> "Crystal":
        """The same crystal without oxidation states, so that species that differ in nothing else become one."""
        if all(occupant.oxidation_state is None for kind in self.kinds for occupant in kind):
            return self
        number, kinds = of_species(map(_elements_of, self.kinds))
        return replace(self, species=number[self.species], kinds=kinds)


def formula(crystal: Crystal) -> str:
    """Composition per atom, in a form that is the same for all cells and polymorphs."""
    atoms = crystal.composition()
    total = sum(atoms.values())
    return " ".join(f"{SYMBOLS[z - 1]}{atoms[z] / total:.4f}" for z in sorted(atoms))


def of_species(species: Iterable[Species]) -> tuple[Int[np.ndarray, " sites"], tuple[Species, ...]]:
    """The distinct species in order of appearance, after the number of the species on each site."""
    kinds: dict[Species, int] = {}
    rows = [kinds.setdefault(kind, len(kinds)) for kind in species]
    return np.array(rows, dtype=np.int64), tuple(kinds)


def _elements_of(kind: Species) -> Species:
    amounts: dict[int, float] = {}
    for atomic_number, occupancy, _ in kind:
        amounts[atomic_number] = amounts.get(atomic_number, 0.0) + occupancy
    return tuple(Occupant(element, round(amount, 6)) for element, amount in amounts.items())


def kind_table(kinds: Sequence[Species]) -> Float[np.ndarray, "kinds columns"]:
    """Species as rows: occupancy of each element (column Z - 1), mean oxidation state, whether that state is known.

    An unknown oxidation state is 0 and flagged 0, so that it can be told from a neutral atom.
    """
    rows = np.zeros((len(kinds), N_KIND_COLUMNS), dtype=np.float32)
    for row, kind in zip(rows, kinds, strict=True):
        for occupant in kind:
            row[occupant.atomic_number - 1] += occupant.occupancy
        if all(occupant.oxidation_state is not None for occupant in kind):
            charge = sum(occupant.occupancy * (occupant.oxidation_state or 0.0) for occupant in kind)
            row[-2:] = charge / sum(occupant.occupancy for occupant in kind), 1.0
    return rows


@dataclass(frozen=True)
class Pairs:
    """Directed pairs of sites, grouped by center.

    Attributes:
        center: Site at the origin of the pair.
        neighbor: Site at its end (as a unique site; the image is in the displacement).
        displacement: From center to neighbor, in angstrom.
        count: How many equivalent pairs this row stands for.
    """

    center: Int[Tensor, " pairs"]
    neighbor: Int[Tensor, " pairs"]
    displacement: Float[Tensor, "pairs 3"]
    count: Float[Tensor, " pairs"]

    @property
    def distance(self) -> Float[Tensor, " pairs"]:
        """Length of the displacement, in angstrom."""
        return (self.displacement**2).sum(-1).sqrt()

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs on another device."""
        return Pairs(**{name: column.to(device) for name, column in vars(self).items()})


@dataclass(frozen=True)
class CrystalBatch:
    """Many crystals as flat arrays, one after another without padding; other attributes are as in `Crystal`.

    Attributes:
        kinds: The species table, one row a species: see `kind_table`.
        crystal_of_site: The crystal that owns each site, ascending.
        pairs: Pairs of sites, once a geometry has made them.
    """

    lattice: Float[Tensor, "crystals 3 3"]
    positions: Float[Tensor, "sites 3"]
    species: Int[Tensor, " sites"]
    kinds: Float[Tensor, "kinds columns"]
    crystal_of_site: Int[Tensor, " sites"]
    pairs: Pairs | None = None
    targets: Mapping[str, Float[Tensor, " crystals"]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    @property
    def n_crystals(self) -> int:
        """Number of crystals."""
        return len(self.lattice)

    @property
    def n_sites(self) -> int:
        """Number of sites of all crystals together."""
        return len(self.species)

    @property
    def sites_of_crystal(self) -> Int[Tensor, " crystals"]:
        """Number of sites of each crystal."""
        return torch.bincount(self.crystal_of_site, minlength=self.n_crystals)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.lattice.device

    @classmethod
    def collate(cls, crystals: Sequence[Crystal]) -> "CrystalBatch":
        """Crystals end to end. Their species tables are joined, so equal species of different crystals share a row."""
        table = {kind: row for row, kind in enumerate(sorted({k for c in crystals for k in c.kinds}, key=repr))}
        to_table = [np.array([table[kind] for kind in c.kinds], dtype=np.int64) for c in crystals]
        sizes = torch.tensor([c.n_sites for c in crystals])
        names = {name: None for c in crystals for name in c.targets}
        return cls(
            lattice=torch.from_numpy(np.stack([c.lattice for c in crystals]).astype(np.float64)),
            positions=torch.from_numpy(np.concatenate([c.positions for c in crystals]).astype(np.float64)),
            species=torch.from_numpy(np.concatenate([m[c.species] for m, c in zip(to_table, crystals, strict=True)])),
            kinds=torch.from_numpy(kind_table(list(table))),
            crystal_of_site=torch.repeat_interleave(torch.arange(len(crystals)), sizes),
            targets={
                name: torch.tensor([c.targets.get(name, np.nan) for c in crystals], dtype=torch.float64)
                for name in names
            },
            keys=tuple(c.key for c in crystals),
        )

    def to(self, device: torch.device | str) -> "CrystalBatch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor | Pairs)
        }
        return replace(self, **moved, targets={name: values.to(device) for name, values in self.targets.items()})


def property_of(batch: CrystalBatch, name: str, use: str) -> Float[Tensor, " crystals"]:
    """A property of the crystals of a batch, NaN where it is unknown.

    Raises:
        ValueError: The data set has no such property; the message says for what `use` it was wanted.
    """
    if name not in batch.targets:
        known = ", ".join(batch.targets) or "none"
        raise ValueError(f"the data set has no property {name!r} to {use}; its properties: {known}")
    return batch.targets[name]


def pairs_of(batch: CrystalBatch) -> Pairs:
    """The pairs of a batch that has some."""
    if batch.pairs is None:
        raise ValueError("this batch has no pairs; apply a geometry such as Neighbors() or AllPairs() to it first")
    return batch.pairs
