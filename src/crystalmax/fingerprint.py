"""Whether two crystals have the same structure, whatever their cells, orientations and small relaxations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt

from crystalmax.crystal import Crystal, formula
from crystalmax.statistics.surroundings import CUTOFF, surroundings

RANKS = (1, 2, 3, 4, 6, 8, 12, 20)
"""Which neighbours of each species are compared, by rank from the nearest on. Packings of spheres differ from the 13th
neighbour on, hexagonal and cubic close packing from the 19th."""

REACH = 2.5
"""Longer distances count as this one; in units of the cube root of the volume per atom."""

TOLERANCE = 0.06
"""Fingerprints that differ by at most this, in mean distances of that unit and in occupancies, are of one structure."""

_STEPS = 100  # in the unit of distances, so that the largest, `REACH`, fits into a byte


@dataclass(frozen=True)
class Fingerprint:
    """Formula, and for every two species the mean distances of the second's `RANKS` neighbours around the first.

    Distances are in units of the cube root of the volume per atom, so that a small change of the lattice constant
    changes little. Means over sites are the same for every cell. They change continuously, whereas a hash of rounded
    numbers could differ for equal crystals. After the distances come the occupancies of shared or partly empty sites.
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
        # Structures may differ in nothing else, as spinels with different degrees of inversion.
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
    """`Fingerprint.of` as a plain function, which every engine of joblib can pickle by its name."""
    return Fingerprint.of(crystal)


def are_close(
    these: UInt[np.ndarray, "structures numbers"], other: UInt[np.ndarray, " numbers"]
) -> Bool[np.ndarray, " structures"]:
    """Which of these structures are the same as the other; all have one formula, and distances in hundredths."""
    candidates = np.arange(len(these))
    for at in range(0, len(other), max(len(other) // 6, 1)):  # a few columns rule out most structures
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
    # A neighbour that is not found counts as at the cutoff, so that distances change continuously as atoms move.
    nearest = np.full((crystal.n_sites * n_kinds, RANKS[-1]), CUTOFF / scale)
    nearest[owner[near], place[near]] = distance[near]
    chosen: Float[np.ndarray, "pairs neighbours"] = np.minimum(nearest[:, np.array(RANKS) - 1], REACH)
    return chosen.reshape(crystal.n_sites, n_kinds, len(RANKS))
