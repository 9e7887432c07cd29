"""Whether two crystals have the same structure, whatever their cells, orientations and small relaxations."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from crystalmax.crystal import Crystal
from crystalmax.surroundings import surroundings

NEAREST = 8
"""Neighbours of each species that are looked at."""

REACH = 2.5
"""Distances beyond this times the cube root of the volume per atom count as this."""

TOLERANCE = 0.06
"""Largest difference of mean distances, in the same unit, between two descriptions of one structure."""


@dataclass(frozen=True)
class Fingerprint:
    """Composition, and mean distances of the nearest neighbours of each species around each species.

    Distances are in units of the cube root of the volume per atom, so that a slightly other lattice constant changes
    little; means over sites are the same for every cell; and they are continuous, where a hash of rounded numbers would
    tear equal crystals apart.
    """

    composition: tuple[tuple[int, float], ...]
    distances: Float[np.ndarray, " numbers"]

    @classmethod
    def of(cls, crystal: Crystal) -> "Fingerprint":
        """The fingerprint of a crystal in any cell."""
        atoms = crystal.composition()
        total = sum(atoms.values())
        scale = (crystal.volume / total) ** (1 / 3)
        around = surroundings(crystal)
        n_sites, n_kinds = crystal.n_sites, len(crystal.kinds)
        # Slots of each site and neighbouring species, filled from the nearest pair on.
        owner = around.center * n_kinds + crystal.species[around.neighbor]
        order = np.lexsort((around.distance, owner))
        owner, distance = owner[order], around.distance[order] / scale
        counts = np.bincount(owner, minlength=n_sites * n_kinds)
        slot = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        nearest = np.full((n_sites * n_kinds, NEAREST), REACH)
        near = slot < NEAREST
        nearest[owner[near], slot[near]] = np.minimum(distance[near], REACH)
        of_sites = nearest.reshape(n_sites, n_kinds * NEAREST)
        kinds = sorted(range(n_kinds), key=lambda kind: crystal.kinds[kind])
        means = [of_sites[crystal.species == kind].mean(axis=0).reshape(n_kinds, NEAREST)[kinds] for kind in kinds]
        composition = tuple((number, round(atoms[number] / total, 4)) for number in sorted(atoms))
        return cls(composition, np.concatenate(means, axis=None))

    def equals(self, other: "Fingerprint") -> bool:
        """Whether both are of one structure."""
        return (
            self.composition == other.composition
            and len(self.distances) == len(other.distances)
            and float(np.abs(self.distances - other.distances).max()) <= TOLERANCE
        )


def occur_in(these: tuple[Fingerprint, ...], others: tuple[Fingerprint, ...]) -> Bool[np.ndarray, " these"]:
    """For each of these structures, whether it is also among the others."""
    by_composition: dict[object, list[Fingerprint]] = {}
    for other in others:
        by_composition.setdefault(other.composition, []).append(other)
    return np.array([any(map(one.equals, by_composition.get(one.composition, ()))) for one in these], dtype=bool)
