"""What lies around each site of a crystal: neighbours within a radius, bonds among them, and their angles.

This serves the plain statistics of `baselines`. Networks see pairs through a geometry instead.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from crystalmax.crystal import Crystal
from crystalmax.elements import columns
from crystalmax.statistics import electrons

PairIndex = Int[np.ndarray, " pairs"]
OfPairs = Float[np.ndarray, " pairs"]
OfSites = Float[np.ndarray, " sites"]

CUTOFF = 9.0
"""Radius within which neighbours are searched, in angstrom."""

EXCLUSION = 0.6
"""Two partly occupied sites closer than this times the sum of their radii are never occupied at once: no neighbours."""

OVERLAP = 0.1
"""Sites closer than this, in angstrom, are one place, whatever their occupancy, and no neighbours."""

SOFTENING = 5
"""The stiffness of a spring falls with this power of the distance."""

FADING = 6.0
"""Distance in angstrom beyond which springs fade out smoothly, to nothing at `CUTOFF`."""

NEGLIGIBLE = 1e-3
"""Bonds with a smaller weight are left out."""


@dataclass(frozen=True)
class Surroundings:
    """Sites and all pairs of them within `CUTOFF`, periodic images included, grouped by center.

    Attributes:
        atoms: Total occupancy of each site.
        species: Number of the species on each site.
        radius: Covalent radius of each site, averaged over its occupants, in angstrom.
        electronegativity: The same average, on Pauling's scale.
        weight: The same average of the atomic weight.
        valence: The same average of the electrons in open shells, 1 to 8.
        center: Site at the origin of each pair.
        neighbor: Site at its end.
        displacement: From center to neighbor, in angstrom.
        distance: Its length.
        bond: Weight of each pair as a bond; the weights at a site sum to its coordination number.
    """

    atoms: OfSites
    species: Int[np.ndarray, " sites"]
    radius: OfSites
    electronegativity: OfSites
    weight: OfSites
    valence: OfSites
    center: PairIndex
    neighbor: PairIndex
    displacement: Float[np.ndarray, "pairs 3"]
    distance: OfPairs
    bond: OfPairs

    @property
    def coordination(self) -> OfSites:
        """Sum of the bonds of each site."""
        return sums(self.bond, self.center, len(self.atoms))

    @property
    def nearest(self) -> OfSites:
        """Distance of the nearest neighbour of each site; a site without one counts as having one at `CUTOFF`."""
        return _lowest(self.distance, self.center, np.full(len(self.atoms), CUTOFF))

    @property
    def nearest_relative(self) -> OfSites:
        """The same relative to the sum of both radii, where a missing neighbour is like the site itself."""
        return _lowest(self.relative_distance, self.center, CUTOFF / (2 * self.radius))

    @property
    def relative_distance(self) -> OfPairs:
        """Distance of each pair relative to the sum of both radii."""
        relative: OfPairs = self.distance / (self.radius[self.center] + self.radius[self.neighbor])
        return relative

    @property
    def species_shares(self) -> Float[np.ndarray, "sites kinds"]:
        """Share of the bonds of each site that goes to each species of the crystal."""
        goes_to = np.eye(int(self.species.max()) + 1)[self.species[self.neighbor]]
        return np.stack([self.bond_mean(to_kind) for to_kind in goes_to.T], axis=1)

    def bond_mean(self, values: OfPairs) -> OfSites:
        """Mean over the bonds of each site; 0 where there are none."""
        total = sums(self.bond * values, self.center, len(self.atoms))
        averages: OfSites = total / np.maximum(self.coordination, NEGLIGIBLE)
        return averages

    @property
    def spring(self) -> OfPairs:
        """Stiffness of the spring between each pair, in a unit that is the same for all crystals.

        It grows with electronegativity and valence electrons and falls with distance: Gordy's rule (J. Chem. Phys. 14,
        305, 1946) with valence electrons in place of the bond order, another power of the distance, which is measured
        in sums of both radii, and a smooth end at `CUTOFF`. See docs/research/springs.md.
        """
        grip = np.sqrt(self.electronegativity * self.valence)
        inside = np.clip((CUTOFF - self.distance) / (CUTOFF - FADING), 0, 1)
        fading = inside**2 * (3 - 2 * inside)
        stiffness: OfPairs = grip[self.center] * grip[self.neighbor] * self.relative_distance**-SOFTENING * fading
        return stiffness

    @property
    def itself(self) -> OfSites:
        """Stiffness of one more spring at each site, to a site like it at `CUTOFF`, so that every site is held."""
        stiffness: OfSites = self.electronegativity * self.valence * (CUTOFF / (2 * self.radius)) ** -SOFTENING
        return stiffness

    def swings(self) -> dict[str, OfSites]:
        """Logarithms of the stiffness that holds each site, and of its frequency on all springs and on the stiffest.

        A site is held by the `spring` of each of its pairs, and by `itself`.
        """
        spring, itself = self.spring, self.itself
        stiffness = itself + sums(self.atoms[self.neighbor] * spring, self.center, len(self.atoms))
        pairs = spring * (1 / self.weight[self.center] + 1 / self.weight[self.neighbor])
        return {
            "stiffness": np.log(stiffness),
            "frequency": np.log(stiffness / self.weight) / 2,
            "frequency of a pair": np.log(-_lowest(-pairs, self.center, -itself / self.weight)) / 2,
        }

    def angular_order(self, degrees: tuple[int, ...]) -> Float[np.ndarray, "sites degrees"]:
        """Bond-orientational order of each site, between 0 and 1, for each degree.

        The square root of the mean Legendre polynomial of the angles between all pairs of bonds, which by the addition
        theorem equals the invariants of Steinhardt, Nelson and Ronchetti (DOI 10.1103/PhysRevB.28.784). Degree 1 is the
        length of the mean of all bond directions, 0 where they balance.
        """
        pairs = np.flatnonzero(self.bond)
        center = self.center[pairs]
        counts = np.bincount(center, minlength=len(self.atoms))
        slot = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = (len(self.atoms), int(counts.max(initial=0)))
        weight, direction = np.zeros(shape), np.zeros((*shape, 3))
        weight[center, slot] = self.bond[pairs] / self.coordination[center]
        direction[center, slot] = self.displacement[pairs] / self.distance[pairs, None]
        cosine = np.clip(direction @ direction.transpose(0, 2, 1), -1, 1)
        polynomials = [np.polynomial.legendre.legval(cosine, [0] * degree + [1]) for degree in degrees]
        squares = np.einsum("si,dsij,sj->sd", weight, np.stack(polynomials), weight)
        order: Float[np.ndarray, "sites degrees"] = np.sqrt(np.maximum(squares, 0))
        return order


def surroundings(crystal: Crystal) -> Surroundings:
    """Look around every site of a crystal, out to `CUTOFF`; oxidation states make no other species."""
    crystal = crystal.without_charges()
    atoms, radius, electronegativity, weight, valence = _of_kinds(crystal)[crystal.species].T
    center, neighbor, displacement, distance = _pairs(crystal)
    reach = EXCLUSION * (radius[center] + radius[neighbor])
    alternatives = (distance < reach) & (atoms[center] + atoms[neighbor] < 1 + 1e-6)
    kept = np.flatnonzero(~alternatives & (distance > OVERLAP))
    return Surroundings(
        atoms=atoms,
        species=crystal.species,
        radius=radius,
        electronegativity=electronegativity,
        weight=weight,
        valence=valence,
        center=center[kept],
        neighbor=neighbor[kept],
        displacement=displacement[kept],
        distance=distance[kept],
        bond=_bonds(center[kept], distance[kept], atoms[neighbor[kept]], len(atoms)),
    )


def _of_kinds(crystal: Crystal) -> Float[np.ndarray, "kinds 5"]:
    """Occupancy of each species, then radius, electronegativity, weight and valence electrons of an atom of it."""
    valence = np.minimum(electrons.columns("valence_electrons"), 8)
    values = np.concatenate([columns("radius", "electronegativity", "atomic_weight"), valence]).T
    rows = []
    for kind in crystal.kinds:
        occupancy = np.array([occupant.occupancy for occupant in kind])
        of_occupants = values[[occupant.atomic_number - 1 for occupant in kind]]
        rows.append([occupancy.sum(), *np.average(of_occupants, axis=0, weights=occupancy)])
    return np.array(rows)


def _pairs(crystal: Crystal) -> tuple[PairIndex, PairIndex, Float[np.ndarray, "pairs 3"], OfPairs]:
    """Center, neighbor, displacement and distance of all pairs within `CUTOFF`; each site with itself included."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    lattice = np.ascontiguousarray(crystal.lattice)
    sites = np.ascontiguousarray(crystal.positions @ lattice)
    center, neighbor, image, distance = find_points_in_spheres(sites, sites, CUTOFF, np.ones(3, dtype=int), lattice)
    grouped = np.argsort(center, kind="stable")
    center, neighbor = center[grouped].astype(np.int64), neighbor[grouped].astype(np.int64)
    return center, neighbor, sites[neighbor] + image[grouped] @ lattice - sites[center], distance[grouped]


def _bonds(center: PairIndex, distance: OfPairs, occupancy: OfPairs, n_sites: int) -> OfPairs:
    """Weight of each pair as a bond; the sum over a site is the effective coordination number of Hoppe.

    A neighbour at distance d of a site with mean bond length m has the weight exp(1 - (d / m)^6) times its occupancy
    (Z. Kristallogr. 150, 23, 1979). No cutoff: coordination changes smoothly when atoms move.
    """
    nearest = _lowest(distance, center, np.full(n_sites, CUTOFF))
    first = occupancy * np.exp(1 - (distance / nearest[center]) ** 6)
    length = sums(first * distance, center, n_sites) / np.maximum(sums(first, center, n_sites), NEGLIGIBLE)
    bond = occupancy * np.exp(1 - (distance / length[center]) ** 6)
    return np.where(bond > NEGLIGIBLE, bond, 0.0)


def sums(values: OfPairs, center: PairIndex, n_sites: int) -> OfSites:
    """Sum of the values at each site; 0 where there are none."""
    return np.bincount(center, weights=values, minlength=n_sites).astype(np.float64)


def _lowest(values: OfPairs, center: PairIndex, default: OfSites) -> OfSites:
    lowest = default.copy()
    np.minimum.at(lowest, center, values)
    return lowest
