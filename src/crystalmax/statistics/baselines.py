"""Plain statistics of crystals, made without any network: the baselines that a learnt vector has to beat.

Each function returns a table with one row for each crystal, and the names of its columns. The functions in
`COMPOSITION` use only the composition, the others the structure as well; `statistics` puts all of them side by side.
Atoms count by their occupancy, and no number depends on the choice of the cell.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial

import numpy as np
from jaxtyping import Float

from crystalmax.crystal import Crystal, Occupant
from crystalmax.elements import FEATURES, N_ELEMENTS, SYMBOLS, columns, table
from crystalmax.spread import one_thread
from crystalmax.statistics import electrons
from crystalmax.statistics.bands import of_bands
from crystalmax.statistics.moduli import of_springs
from crystalmax.statistics.surroundings import CUTOFF, Surroundings, surroundings

Features = tuple[Float[np.ndarray, "crystals columns"], tuple[str, ...]]
"""A table with one row for each crystal, and the names of its columns."""

Maker = Callable[[Sequence[Crystal]], Features]
"""A function that makes such a table."""

STATISTICS = ("mean", "deviation", "min", "max", "range")
"""The statistics that `composition_statistics` computes for each elemental property."""

SHELLS: Float[np.ndarray, " shells"] = np.arange(1.0, CUTOFF - 0.9, 0.5)
"""Radii at which the density of pairs is sampled, in angstrom."""

SHELL_WIDTH = 0.4
"""Standard deviation of the Gaussian that each pair contributes to the density of pairs, in angstrom."""

DECIMALS = 7
"""Decimals that numbers of the structure are rounded to. What symmetry makes 0 would be 1e-8 or 1e-16 otherwise; if all
training crystals have that symmetry, one without it would be ten million standard deviations away."""

ORDERS = (1, 2, 4, 6)
"""Degrees of the Legendre polynomials that describe the angles between bonds."""

REFERENCE = Crystal(
    np.array([[4.1, 0.3, 0.2], [-0.5, 5.2, 0.4], [0.6, -0.3, 6.3]]),
    np.array([[0.0, 0.0, 0.0], [0.52, 0.47, 0.1], [0.1, 0.55, 0.45], [0.55, 0.05, 0.35], [0.45, 0.4, 0.72]]),
    np.arange(5),
    tuple((Occupant(z, 1.0),) for z in (11, 26, 64, 8, 16)),
)
"""A made-up crystal of s, p, d and f elements without symmetry. Its statistics give the names of the columns, and show
whether a later version still computes the same numbers."""

GRAMS_PER_CUBIC_CENTIMETRE = 1.66053907
"""One unified atomic mass unit per cubic angstrom."""


def element_fractions(crystals: Sequence[Crystal]) -> Features:
    """Fraction of the atoms that belongs to each element; vacancies are no atoms."""
    atoms = np.zeros((len(crystals), N_ELEMENTS))
    for row, crystal in zip(atoms, crystals, strict=True):
        for atomic_number, count in crystal.composition().items():
            row[atomic_number - 1] = count
    return atoms / atoms.sum(axis=1, keepdims=True), tuple(f"fraction of {symbol}" for symbol in SYMBOLS)


def composition_statistics(crystals: Sequence[Crystal]) -> Features:
    """Mean, deviation, minimum, maximum and range of each elemental property over the atoms.

    Mean and mean absolute deviation are weighted by fraction, the other three look at every element that is present.
    After Ward et al., DOI 10.1038/npjcompumats.2016.28, with fewer properties.
    """
    return _over_elements(crystals, table(), FEATURES)


def valence_statistics(crystals: Sequence[Crystal]) -> Features:
    """As `composition_statistics`, of electrons in open shells and of further elemental properties."""
    return _over_elements(crystals, electrons.table(), electrons.FEATURES)


def _of_fractions(
    crystals: Sequence[Crystal], numbers: Callable[[Float[np.ndarray, " elements"]], Mapping[str, float]]
) -> Features:
    return _first([numbers(fractions) for fractions in element_fractions(crystals or [REFERENCE])[0]], len(crystals))


charge_statistics: Maker = partial(_of_fractions, numbers=electrons.charges)
"""Whether common oxidation states balance, and what they are then (see `electrons.charges`)."""

level_statistics: Maker = partial(_of_fractions, numbers=electrons.frontier_levels)
"""The frontier levels of the free atoms (see `electrons.frontier_levels`)."""


def _first(rows: Sequence[Mapping[str, float]], n_rows: int) -> Features:
    """The first rows as a table, and the names of its columns; at least one row is needed for the names."""
    return np.array([list(row.values()) for row in rows])[:n_rows], tuple(rows[0])


def _over_elements(
    crystals: Sequence[Crystal], properties: Float[np.ndarray, "elements features"], names: Sequence[str]
) -> Features:
    """`STATISTICS` of properties of the elements."""
    fractions, _ = element_fractions(crystals)
    found = []
    for values in properties.T:
        mean = fractions @ values
        deviation = (fractions * np.abs(values - mean[:, None])).sum(axis=1)
        lowest = np.where(fractions > 0, values, np.inf).min(axis=1)
        highest = np.where(fractions > 0, values, -np.inf).max(axis=1)
        found += [mean, deviation, lowest, highest, highest - lowest]
    return np.stack(found, axis=1), tuple(f"{statistic} {name}" for name in names for statistic in STATISTICS)


def _of_structures(
    crystals: Sequence[Crystal], parts: Sequence[Callable[[Crystal, Surroundings], dict[str, float]]]
) -> Features:
    """The numbers of several parts side by side; neighbours are searched only once for each structure."""
    seen = ((crystal, surroundings(crystal)) for crystal in crystals or [REFERENCE])
    with one_thread():  # matrices are small, and threads that wait for each other take ten times as long
        rows = [{name: value for part in parts for name, value in part(*each).items()} for each in seen]
    values, names = _first(rows, len(crystals))
    return values.round(DECIMALS), names


def _arrangement(crystal: Crystal, around: Surroundings) -> dict[str, float]:
    shells = {f"pairs at {radius:.1f} A": value for radius, value in zip(SHELLS, _pair_density(around), strict=True)}
    return _bulk(crystal) | _over_sites(_of_sites(around), around.atoms) | shells


def _springs(crystal: Crystal, around: Surroundings) -> dict[str, float]:
    return _over_sites(around.swings(), around.atoms)


def _moduli(crystal: Crystal, around: Surroundings) -> dict[str, float]:
    return of_springs(around, crystal.volume)


structure_statistics: Maker = partial(_of_structures, parts=[_arrangement])
"""Simple numbers of the structure: density, packing, distances, coordination, angles and a radial histogram.

Of the elements, only atomic weights (in the density), covalent radii and differences in electronegativity enter. Sites
are weighted by the atoms on them. What a bond is, `surroundings` defines.
"""

spring_statistics: Maker = partial(_of_structures, parts=[_springs])
"""Stiffness and frequency of each site if springs held the atoms (see `Surroundings.swings`)."""

modulus_statistics: Maker = partial(_of_structures, parts=[_moduli])
"""Elastic moduli of the crystal if springs held the atoms, with relaxed sites (see `moduli`)."""


def density_statistics(crystals: Sequence[Crystal]) -> Features:
    """Sums over the atoms by volume: electrons and holes in open shells, their second moments, and the filled space.

    Second moments of electrons by volume set the mean potential of a crystal of neutral atoms (O'Keeffe and Spence,
    Acta Cryst. A 50, 33, 1994), from which computed Fermi energies are counted.
    """
    number, radius = columns("atomic_number", "radius")
    valence, holes, van_der_waals = electrons.columns("valence_electrons", "holes", "van_der_waals_radius")
    of_an_atom = {
        "atoms": np.ones(N_ELEMENTS),
        "all electrons": number,
        "valence electrons": valence,
        "holes": holes,
        "second moment of valence electrons": valence * radius**2,
        "second moment of holes": holes * radius**2,
        "cubed covalent radii": radius**3,
        "cubed van der Waals radii": van_der_waals**3,
    }
    return _by_volume(crystals, of_an_atom)


def potential_statistics(crystals: Sequence[Crystal]) -> Features:
    """The terms of computed Fermi energies: second moments of electrons by volume, and how strongly atoms hold them.

    The second moments set the mean potential (see `density_statistics`). They are given for each kind of shell, since
    the same atomic radius is used for all. The other two are means over the atoms of the energy of the highest level,
    in eV, and of the electronegativity.
    """
    radius, electronegativity = columns("radius", "electronegativity")
    s, p, d, f, level = electrons.columns(*(f"{kind}_electrons" for kind in electrons.KINDS), "highest_level")
    moments = {"s and p": s + p, "d": d, "f": f}
    of_an_atom = {f"second moment of {kind} electrons": held * radius**2 for kind, held in moments.items()}
    sums, names = _by_volume(crystals, of_an_atom)
    firmness = element_fractions(crystals)[0] @ np.stack([level, electronegativity], axis=1)
    return np.concatenate([sums, firmness], axis=1), (*names, "highest level of atoms", "electronegativity of atoms")


def band_statistics(crystals: Sequence[Crystal]) -> Features:
    """Gaps, density of states and bonding energy by extended Hueckel theory, for the primitive cell (see `bands`)."""
    with one_thread():
        values, names = _first([of_bands(crystal) for crystal in crystals or [REFERENCE]], len(crystals))
    return values.round(DECIMALS), names


def _by_volume(crystals: Sequence[Crystal], of_an_atom: Mapping[str, Float[np.ndarray, " elements"]]) -> Features:
    atoms_by_volume = np.array([sum(crystal.composition().values()) / crystal.volume for crystal in crystals])
    sums = element_fractions(crystals)[0] @ np.stack(list(of_an_atom.values()), axis=1)
    return sums * atoms_by_volume.reshape(-1, 1), tuple(f"{name} by volume" for name in of_an_atom)


COMPOSITION: Mapping[str, Maker] = {
    "fractions": element_fractions,
    "composition": composition_statistics,
    "valence": valence_statistics,
    "charges": charge_statistics,
    "levels": level_statistics,
}
"""Blocks of statistics that need the composition only, by name."""

BLOCKS: Mapping[str, Maker] = {
    **COMPOSITION,
    "structure": structure_statistics,
    "springs": spring_statistics,
    "moduli": modulus_statistics,
    "densities": density_statistics,
    "potential": potential_statistics,
    "bands": band_statistics,
}
"""All blocks of statistics, by name."""


@cache  # making them takes as long as the statistics of a small crystal
def names_of_blocks() -> Mapping[str, tuple[str, ...]]:
    """Names of the columns of `statistics`, for each of `BLOCKS`."""
    return {block: make([])[1] for block, make in BLOCKS.items()}


def statistics_widths() -> tuple[int, ...]:
    """Number of columns of `statistics` in each of `BLOCKS`."""
    return tuple(map(len, names_of_blocks().values()))


def statistics(crystals: Sequence[Crystal], blocks: Collection[str] = tuple(BLOCKS)) -> Features:
    """All of `BLOCKS`, or those that are named, side by side in the order of `BLOCKS`."""
    makers = {name: make for name, make in BLOCKS.items() if name in blocks}
    parts = {"structure": _arrangement, "springs": _springs, "moduli": _moduli}
    if asked := [name for name in parts if name in makers]:  # one search for neighbours serves them; they are adjacent
        makers[asked[0]] = partial(_of_structures, parts=[parts[name] for name in asked])
        for name in asked[1:]:
            del makers[name]
    found = [make(crystals) for make in makers.values()]
    return np.concatenate([values for values, _ in found], axis=1), tuple(name for _, names in found for name in names)


def density(crystal: Crystal) -> float:
    """Density of the structure, in gram per cubic centimetre."""
    (weight,) = columns("atomic_weight")
    elements, counts = (np.array(column) for column in zip(*crystal.composition().items(), strict=True))
    return float(counts @ weight[elements - 1] / crystal.volume * GRAMS_PER_CUBIC_CENTIMETRE)


def _bulk(crystal: Crystal) -> dict[str, float]:
    (radius,) = columns("radius")
    elements, counts = (np.array(column) for column in zip(*crystal.composition().items(), strict=True))
    return {
        "density": density(crystal),
        "volume per atom": crystal.volume / counts.sum(),
        "packing": counts @ radius[elements - 1] ** 3 * 4 / 3 * np.pi / crystal.volume,
    }


def _of_sites(around: Surroundings) -> dict[str, Float[np.ndarray, " sites"]]:
    """Numbers that describe the surroundings of each site."""
    step = np.abs(around.electronegativity[around.neighbor] - around.electronegativity[around.center])
    shares = around.species_shares
    length = around.bond_mean(around.distance)
    orders = zip(ORDERS, around.angular_order(ORDERS).T, strict=True)
    return {
        "nearest distance": around.nearest,
        "nearest relative distance": around.nearest_relative,
        "coordination": around.coordination,
        "bond length": length,
        "spread of bond lengths": np.sqrt(around.bond_mean((around.distance - length[around.center]) ** 2)),
        "electronegativity step": around.bond_mean(step),
        "neighbor species": 1 / np.maximum((shares**2).sum(axis=1), 1 / shares.shape[1]),
        "bonds to own species": shares[np.arange(len(shares)), around.species],
        **{f"angular order {degree}": order for degree, order in orders},
    }


def _over_sites(
    quantities: Mapping[str, Float[np.ndarray, " sites"]], atoms: Float[np.ndarray, " sites"]
) -> dict[str, float]:
    """Mean and deviation over the atoms, lowest and highest over the sites."""
    values, share = np.stack(list(quantities.values()), axis=1), atoms / atoms.sum()
    mean = share @ values
    deviation = np.sqrt(share @ (values - mean) ** 2)
    statistics = {"mean": mean, "deviation": deviation, "min": values.min(axis=0), "max": values.max(axis=0)}
    return {
        f"{statistic} {name}": value
        for statistic, of_quantities in statistics.items()
        for name, value in zip(quantities, of_quantities.tolist(), strict=True)
    }


def _pair_density(around: Surroundings) -> Float[np.ndarray, " shells"]:
    """Atoms per cubic angstrom at each of `SHELLS`, seen from an average atom and blurred by `SHELL_WIDTH`."""
    weight = around.atoms[around.center] * around.atoms[around.neighbor] / around.atoms.sum()
    blurred = np.exp(-0.5 * ((around.distance[:, None] - SHELLS) / SHELL_WIDTH) ** 2)
    counts: Float[np.ndarray, " shells"] = weight @ blurred / (SHELL_WIDTH * np.sqrt(2 * np.pi))
    return counts / (4 * np.pi * SHELLS**2)
