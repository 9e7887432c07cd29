"""What lies around each site of a crystal: neighbours within a radius, bonds among them, and their angles.

This serves the plain statistics of `baselines`. Networks see pairs through a geometry instead.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from crystalmax.crystal import Crystal
from crystalmax.elements import FEATURES, table

CUTOFF = 9.0
"""Radius within which neighbours are searched, in angstrom."""

EXCLUSION = 0.6
"""Partly occupied sites nearer than this times the sum of their radii are alternatives, not neighbours."""

OVERLAP = 0.1
"""Sites nearer than this, in angstrom, are taken as one place and no neighbours, whatever their occupancy."""

NEGLIGIBLE = 1e-3
"""Bonds that count less than this are dropped."""

_ENTRIES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Surroundings:
    """Sites and all pairs of them within `CUTOFF`, periodic images included, grouped by center.

    Attributes:
        atoms: Total occupancy of each site.
        species: Number of the species on each site.
        radius: Covalent radius of each site, averaged over its occupants, in angstrom.
        electronegativity: The same average, on Pauling's scale.
        center: Site at the origin of each pair.
        neighbor: Site at its end.
        displacement: From center to neighbor, in angstrom.
    """

    atoms: Float[np.ndarray, " sites"]
    species: Int[np.ndarray, " sites"]
    radius: Float[np.ndarray, " sites"]
    electronegativity: Float[np.ndarray, " sites"]
    center: Int[np.ndarray, " pairs"]
    neighbor: Int[np.ndarray, " pairs"]
    displacement: Float[np.ndarray, "pairs 3"]
    distance: Float[np.ndarray, " pairs"]

    def nearest(self, *, relative: bool = False) -> Float[np.ndarray, " sites"]:
        """Distance of the nearest neighbour of each site, or of the nearest relative to the sum of both radii.

        A site without neighbours counts as having one like itself at `CUTOFF`.
        """
        lowest = CUTOFF / (2 * self.radius) if relative else np.full(len(self.radius), CUTOFF)
        scale = self.radius[self.center] + self.radius[self.neighbor] if relative else 1.0
        np.minimum.at(lowest, self.center, self.distance / scale)
        return lowest


@dataclass(frozen=True)
class Bonds:
    """The pairs that count as bonds, grouped by center, and how much each counts."""

    n_sites: int
    center: Int[np.ndarray, " bonds"]
    neighbor: Int[np.ndarray, " bonds"]
    direction: Float[np.ndarray, "bonds 3"]
    distance: Float[np.ndarray, " bonds"]
    weight: Float[np.ndarray, " bonds"]

    @property
    def coordination(self) -> Float[np.ndarray, " sites"]:
        """Sum of the weights of the bonds of each site."""
        return _sums(self.weight, self.center, self.n_sites)

    def mean(self, values: Float[np.ndarray, " bonds"]) -> Float[np.ndarray, " sites"]:
        """Weighted mean over the bonds of each site; 0 where there are none."""
        total = _sums(self.weight * values, self.center, self.n_sites)
        averages: Float[np.ndarray, " sites"] = total / np.maximum(self.coordination, NEGLIGIBLE)
        return averages


def surroundings(crystal: Crystal) -> Surroundings:
    """Look around every site of a crystal, out to `CUTOFF`."""
    atoms, radius, electronegativity = _of_kinds(crystal)[crystal.species].T
    center, neighbor, displacement, distance = _pairs(crystal)
    reach = EXCLUSION * (radius[center] + radius[neighbor])
    alternatives = (distance < reach) & (atoms[center] + atoms[neighbor] < 1 + 1e-6)
    kept = ~alternatives & (distance > OVERLAP)
    return Surroundings(
        atoms=atoms,
        species=crystal.species,
        radius=radius,
        electronegativity=electronegativity,
        center=center[kept],
        neighbor=neighbor[kept],
        displacement=displacement[kept],
        distance=distance[kept],
    )


def _of_kinds(crystal: Crystal) -> Float[np.ndarray, "kinds 3"]:
    """Occupancy, covalent radius and electronegativity of each species; the last two averaged over its occupants."""
    values = table()[:, [FEATURES.index("radius"), FEATURES.index("electronegativity")]]
    rows = []
    for kind in crystal.kinds:
        occupancy = np.array([occupant.occupancy for occupant in kind])
        of_occupants = values[[occupant.atomic_number - 1 for occupant in kind]]
        rows.append([occupancy.sum(), *np.average(of_occupants, axis=0, weights=occupancy)])
    return np.array(rows)


def _pairs(
    crystal: Crystal,
) -> tuple[
    Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Float[np.ndarray, "pairs 3"], Float[np.ndarray, " pairs"]
]:
    """Center, neighbor, displacement and distance of all pairs within `CUTOFF`, in blocks of bounded memory."""
    wrapped = (crystal.positions % 1.0) @ crystal.lattice
    images = _images(crystal.lattice)
    block = max(1, _ENTRIES_AT_ONCE // (crystal.n_sites * len(images)))
    found = [
        _pairs_from(np.arange(start, min(start + block, crystal.n_sites)), wrapped, images)
        for start in range(0, crystal.n_sites, block)
    ]
    center, neighbor, displacement = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return center, neighbor, displacement, np.linalg.norm(displacement, axis=1)


def _images(lattice: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "images 3"]:
    """Translations that can bring two sites of the cell within `CUTOFF`, in angstrom."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    # Fractional coordinates of two wrapped sites differ by less than one, hence one cell more than the cutoff spans.
    reach = np.floor(CUTOFF / spacing).astype(int) + 1
    steps = [np.arange(-n, n + 1) for n in reach]
    translations: Float[np.ndarray, "images 3"] = (
        np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3) @ lattice
    )
    # Two sites of the cell are at most its longest diagonal apart; a translation beyond that and the cutoff is useless.
    diagonals = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]) @ lattice
    useful = np.linalg.norm(translations, axis=1) <= CUTOFF + np.linalg.norm(diagonals, axis=1).max()
    kept: Float[np.ndarray, "images 3"] = translations[useful]
    return kept


def _pairs_from(
    centers: Int[np.ndarray, " centers"],
    wrapped: Float[np.ndarray, "sites 3"],
    images: Float[np.ndarray, "images 3"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Float[np.ndarray, "pairs 3"]]:
    direct = wrapped[None, :, :] - wrapped[centers][:, None, :]
    # |direct + image|^2 expanded, so that the only large product is one matrix multiplication.
    squared = (direct**2).sum(axis=-1)[..., None] + 2 * direct @ images.T + (images**2).sum(axis=-1)
    center, neighbor, image = np.nonzero(squared < CUTOFF**2)
    itself = (centers[center] == neighbor) & (np.abs(images[image]).sum(axis=1) == 0)
    center, neighbor, image = center[~itself], neighbor[~itself], image[~itself]
    return centers[center], neighbor, direct[center, neighbor] + images[image]


def bonds(around: Surroundings) -> Bonds:
    """Weigh neighbours by distance so that the weights sum to the effective coordination number of Hoppe.

    A neighbour at distance d of a site with mean bond length m counts exp(1 - (d / m)^6) times its occupancy
    (Z. Kristallogr. 150, 23, 1979). No cutoff: coordination changes smoothly when atoms move.
    """
    center = around.center
    sites = len(around.atoms)
    occupancy = around.atoms[around.neighbor]
    nearest = around.nearest()
    first = occupancy * np.exp(1 - (around.distance / nearest[center]) ** 6)
    length = _sums(first * around.distance, center, sites) / np.maximum(_sums(first, center, sites), NEGLIGIBLE)
    weight = occupancy * np.exp(1 - (around.distance / length[center]) ** 6)
    kept = weight > NEGLIGIBLE
    return Bonds(
        n_sites=sites,
        center=center[kept],
        neighbor=around.neighbor[kept],
        direction=around.displacement[kept] / around.distance[kept, None],
        distance=around.distance[kept],
        weight=weight[kept],
    )


def species_shares(around: Surroundings, bonded: Bonds) -> Float[np.ndarray, "sites kinds"]:
    """Share of the bonds of each site that goes to each species of the crystal."""
    kinds = int(around.species.max()) + 1
    cell = bonded.center * kinds + around.species[bonded.neighbor]
    weight = _sums(bonded.weight, cell, bonded.n_sites * kinds).reshape(-1, kinds)
    shares: Float[np.ndarray, "sites kinds"] = weight / np.maximum(bonded.coordination, NEGLIGIBLE)[:, None]
    return shares


def angular_order(around: Surroundings, bonded: Bonds, degrees: tuple[int, ...]) -> Float[np.ndarray, "sites degrees"]:
    """Bond-orientational order of each site, between 0 and 1, for each degree.

    The square root of the mean Legendre polynomial of the angles between all pairs of bonds, which by the addition
    theorem equals the invariants of Steinhardt, Nelson and Ronchetti (DOI 10.1103/PhysRevB.28.784). Degree 1 says how
    far the bonds are from balancing each other.
    """
    counts = np.bincount(bonded.center, minlength=bonded.n_sites)
    slot = np.arange(len(bonded.center)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (bonded.n_sites, int(counts.max(initial=0)))
    weight, direction = np.zeros(shape), np.zeros((*shape, 3))
    weight[bonded.center, slot] = bonded.weight / bonded.coordination[bonded.center]
    direction[bonded.center, slot] = bonded.direction
    cosine = np.clip(direction @ direction.transpose(0, 2, 1), -1, 1)
    squares = [np.einsum("si,sij,sj->s", weight, _legendre(degree, cosine), weight) for degree in degrees]
    order: Float[np.ndarray, "sites degrees"] = np.sqrt(np.maximum(np.stack(squares, axis=1), 0))
    return order


def _legendre(degree: int, x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    values: Float[np.ndarray, "*shape"] = np.polynomial.legendre.legval(x, [0] * degree + [1])
    return values


def _sums(
    values: Float[np.ndarray, " rows"], owner: Int[np.ndarray, " rows"], n_owners: int
) -> Float[np.ndarray, " owners"]:
    totals: Float[np.ndarray, " owners"] = np.zeros(n_owners)
    totals += np.bincount(owner, weights=values, minlength=n_owners)
    return totals
