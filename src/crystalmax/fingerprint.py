"""Whether two crystals have the same structure, whatever their cells, orientations and small relaxations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt

from crystalmax.crystal import Crystal, formula
from crystalmax.surroundings import CUTOFF, surroundings

RANKS = (1, 2, 3, 4, 6, 8, 12, 20)
"""Of the neighbours of each species that are looked at, from the nearest on; packings of spheres differ from the
thirteenth on, hexagonal and cubic close packing from the nineteenth."""

REACH = 2.5
"""Distances beyond this times the cube root of the volume per atom count as this."""

TOLERANCE = 0.06
"""Largest difference of mean distances, in the same unit, and of occupancies, between descriptions of one structure."""

_STEPS = 100  # in the unit of distances, so that the largest, `REACH`, fits into a byte


@dataclass(frozen=True)
class Fingerprint:
    """Formula, and mean distances of neighbours of these `RANKS` of each species around each species.

    Distances are in units of the cube root of the volume per atom, so that a slightly other lattice constant changes
    little; means over sites are the same for every cell; and they are continuous, where a hash of rounded numbers would
    tear equal crystals apart. Behind them stand occupancies, of sites that are shared or partly empty.
    """

    formula: str
    distances: Float[np.ndarray, " numbers"]

    @classmethod
    def of(cls, crystal: Crystal) -> "Fingerprint":
        """The fingerprint of a crystal in any cell, whether its source gives charges or not."""
        uncharged = crystal.without_charges()
        nearest = _nearest(uncharged)
        order = sorted(range(len(uncharged.kinds)), key=uncharged.kinds.__getitem__)
        means = [nearest[uncharged.species == kind][:, order].mean(axis=0) for kind in order]
        # Of one arrangement and formula there are many, as spinels whose cations have changed places in part.
        shares = [one.occupancy for kind in order for one in uncharged.kinds[kind] if round(one.occupancy, 3) < 1]
        return cls(formula(crystal), np.concatenate([*means, shares], axis=None))

    @property
    def hundredths(self) -> UInt[np.ndarray, " numbers"]:
        """The distances in hundredths, a byte each: what is kept of many structures."""
        steps: UInt[np.ndarray, " numbers"] = np.rint(self.distances * _STEPS).astype(np.uint8)
        return steps

    def equals(self, other: "Fingerprint") -> bool:
        """Whether both are of one structure."""
        return (
            self.formula == other.formula
            and len(self.distances) == len(other.distances)
            and float(np.abs(self.distances - other.distances).max()) <= TOLERANCE
        )


def fingerprint_of(crystal: Crystal) -> Fingerprint:
    """`Fingerprint.of` as a function of a module, which every engine can send to its workers by name."""
    return Fingerprint.of(crystal)


def are_close(
    these: UInt[np.ndarray, "structures numbers"], other: UInt[np.ndarray, " numbers"]
) -> Bool[np.ndarray, " structures"]:
    """Whether distances in hundredths are of the same structure, where the formula is the same."""
    candidates = np.arange(len(these))
    for at in range(0, len(other), max(len(other) // 6, 1)):  # of many structures, the first leave few
        candidates = candidates[_agree(these[candidates, at], other[at])]
    close = np.zeros(len(these), dtype=bool)
    close[candidates] = _agree(these[candidates], other).all(axis=1)
    return close


def _agree(these: UInt[np.ndarray, "..."], other: UInt[np.ndarray, "..."] | np.uint8) -> Bool[np.ndarray, "..."]:
    return np.asarray(np.abs(these.astype(np.int16) - other.astype(np.int16)) <= TOLERANCE * _STEPS)


def occur_in(these: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> Bool[np.ndarray, " these"]:
    """For each of these structures, whether it is also among the others."""
    of_formula: dict[str, list[Fingerprint]] = {}
    for other in others:
        of_formula.setdefault(other.formula, []).append(other)
    return np.array([any(map(one.equals, of_formula.get(one.formula, ()))) for one in these], dtype=bool)


def _nearest(crystal: Crystal) -> Float[np.ndarray, "sites kinds neighbours"]:
    """Scaled distances of neighbours of each species, from the nearest on."""
    around, n_kinds = surroundings(crystal), len(crystal.kinds)
    scale = (crystal.volume / float(around.atoms.sum())) ** (1 / 3)
    owner = around.center * n_kinds + crystal.species[around.neighbor]
    order = np.lexsort((around.distance, owner))
    owner, distance = owner[order], around.distance[order] / scale
    counts = np.bincount(owner, minlength=crystal.n_sites * n_kinds)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = place < RANKS[-1]
    # What is not found is beyond, so that nothing jumps when an atom comes into sight.
    nearest = np.full((crystal.n_sites * n_kinds, RANKS[-1]), CUTOFF / scale)
    nearest[owner[near], place[near]] = distance[near]
    chosen: Float[np.ndarray, "pairs neighbours"] = np.minimum(nearest[:, np.array(RANKS) - 1], REACH)
    return chosen.reshape(crystal.n_sites, n_kinds, len(RANKS))
