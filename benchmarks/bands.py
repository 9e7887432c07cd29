"""Question: what are six numbers of the simplest bands worth beside all other columns, on development rows?

    OMP_NUM_THREADS=1 python benchmarks/bands.py --data DIR --jobs 2

Bands are those of extended Hueckel theory (Hoffmann, DOI 10.1063/1.1734456): one shell of Gaussian functions for each
kind of electrons of a free atom, its level that of the atom, its width a multiple of the covalent radius, and matrix
elements between shells by the rule of Wolfsberg and Helmholz (DOI 10.1063/1.1700580) from their overlap. Wave vectors
are those at which all phases are 1 or -1, so that all matrices are real. Docs: `docs/research/bands.md`.
"""

import warnings
from collections.abc import Iterable
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from joblib import Parallel, delayed
from machine import about, publish
from properties import BLIND, PROPERTIES, development, earlier, families, parser_of_properties, unseen, wanted
from threadpoolctl import threadpool_limits

from crystalmax import electrons, elements
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.small_data import SmallDataRegressor
from crystalmax.surroundings import Surroundings, surroundings

STRENGTH = 2.0
"""Of the rule of Wolfsberg and Helmholz; 1.75 is usual with wider functions."""

WIDTHS = {0: (0.9,), 1: (0.9,), 2: (0.396, 0.468, 0.54), 3: (0.2304,)}
"""Root of the mean squared radius of s, p, d (of periods 4, 5 and 6) and f functions, in covalent radii."""

EMPTY = {1: (0.4, 1.25), 2: (0.75, 0.75)}
"""Of shells that a free atom leaves empty but a crystal fills, p of metals and d of the f block: level over that of its
s shell, and width. Empty shells are wide."""

MOST_ORBITALS = 320
"""Larger cells are looked at without phases only."""

LEAST_OVERLAP = 0.05
"""Combinations of functions whose own overlap is smaller are left out."""

CAUGHT = 9.0
"""Pairs of functions whose overlap has a larger negative exponent do not overlap."""

MOST, TESTED = 1500, 300
NAMES = ("middle of the gap", "gap", "direct gap", "states at the middle", "energy of bands", "width of bands")

_CARTESIAN = {
    degree: [each for each in product(range(degree + 1), repeat=3) if sum(each) == degree] for degree in range(4)
}
_HARMONICS: dict[int, list[dict[tuple[int, int, int], float]]] = {
    0: [{(0, 0, 0): 1}],
    1: [{(1, 0, 0): 1}, {(0, 1, 0): 1}, {(0, 0, 1): 1}],
    2: [
        {(1, 1, 0): 1},
        {(1, 0, 1): 1},
        {(0, 1, 1): 1},
        {(2, 0, 0): 0.5, (0, 2, 0): -0.5},
        {(0, 0, 2): 1, (2, 0, 0): -0.5, (0, 2, 0): -0.5},
    ],
    3: [
        {(0, 0, 3): 1, (2, 0, 1): -1.5, (0, 2, 1): -1.5},
        {(1, 0, 2): 4, (3, 0, 0): -1, (1, 2, 0): -1},
        {(0, 1, 2): 4, (2, 1, 0): -1, (0, 3, 0): -1},
        {(2, 0, 1): 1, (0, 2, 1): -1},
        {(1, 1, 1): 1},
        {(3, 0, 0): 1, (1, 2, 0): -3},
        {(2, 1, 0): 3, (0, 3, 0): -1},
    ],
}
_SPHERICAL = {
    degree: np.array([[each.get(powers, 0.0) for powers in _CARTESIAN[degree]] for each in harmonics])
    for degree, harmonics in _HARMONICS.items()
}


class Functions(NamedTuple):
    """Shells of the sites of a crystal, ascending by degree, then site."""

    degree: Int[np.ndarray, " shells"]
    site: Int[np.ndarray, " shells"]
    level: Float[np.ndarray, " shells"]
    electrons: Float[np.ndarray, " shells"]
    exponent: Float[np.ndarray, " shells"]


@cache
def of_atom(z: int) -> tuple[tuple[int, float, int, float], ...]:
    """Degree, level in eV, electrons and root of the mean squared radius in angstrom of the functions of an atom."""
    row, radius = electrons.table()[z - 1], float(elements.columns("radius")[0, z - 1])
    counts = [int(row[electrons.FEATURES.index(f"{kind}_electrons")]) for kind in electrons.KINDS]
    shells = electrons.shells(z)
    highest = {degree: max([e.energy for e in shells if e.kind == degree], default=np.nan) for degree in range(4)}
    s = highest[0] if np.isfinite(highest[0]) and z != 46 else -4.0  # palladium has no s electron
    period = int(np.searchsorted([2, 10, 18, 36, 54, 86], z)) + 1
    found = [(0, s, counts[0], WIDTHS[0][0])]
    if counts[1]:
        found.append((1, highest[1], counts[1], WIDTHS[1][0]))
    elif z > 2:
        found.append((1, EMPTY[1][0] * s, 0, EMPTY[1][1]))
    if counts[2]:
        found.append((2, highest[2], counts[2], WIDTHS[2][min(max(period - 4, 0), 2)]))
    elif 57 <= z <= 70 or 89 <= z <= 102:
        found.append((2, EMPTY[2][0] * s, 0, EMPTY[2][1]))
    if counts[3]:
        found.append((3, highest[3], counts[3], WIDTHS[3][0]))
    return tuple((degree, level, held, width * radius) for degree, level, held, width in found)


def functions(crystal: Crystal) -> Functions:
    """Functions of all sites; on a shared site those of one degree are averaged by occupancy."""
    rows = []
    for site, species in enumerate(crystal.species):
        sums: dict[int, np.ndarray] = {}
        for occupant in crystal.kinds[species]:
            for degree, level, held, width in of_atom(occupant.atomic_number):
                mean = occupant.occupancy * np.array([1, level, held, width])
                sums[degree] = sums.get(degree, np.zeros(4)) + mean
        for degree, (share, level, held, width) in sums.items():
            exponent = (2 * degree + 3) / 4 / (width / share) ** 2
            rows.append((degree, site, level / share, held, exponent))
    degree, site, level, held, exponent = np.array(sorted(rows)).T
    return Functions(degree.astype(int), site.astype(int), level, held, exponent)


def overlaps(
    degrees: tuple[int, int], exponents: Float[np.ndarray, "pairs 2"], apart: Float[np.ndarray, "pairs 3"]
) -> Float[np.ndarray, "pairs first second"]:
    """Of normalised harmonic Gaussian functions at the origin with others at these displacements."""
    own = [
        _raw((degree, degree), column[:, None] + np.zeros((1, 2)), 0 * apart)
        for degree, column in zip(degrees, exponents.T, strict=True)
    ]
    first, second = (np.sqrt(np.einsum("nii->ni", each)) for each in own)
    return _raw(degrees, exponents, apart) / first[:, :, None] / second[:, None, :]


def _raw(
    degrees: tuple[int, int], exponents: Float[np.ndarray, "pairs 2"], apart: Float[np.ndarray, "pairs 3"]
) -> Float[np.ndarray, "pairs first second"]:
    axes = [_along(degrees, *exponents.T, apart[:, axis]) for axis in range(3)]
    products = [
        [np.prod([axes[axis][one[axis], other[axis]] for axis in range(3)], axis=0) for other in _CARTESIAN[degrees[1]]]
        for one in _CARTESIAN[degrees[0]]
    ]
    return _SPHERICAL[degrees[0]] @ np.moveaxis(np.array(products), 2, 0) @ _SPHERICAL[degrees[1]].T


def _along(degrees: tuple[int, int], a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Integrals along one axis of all powers up to the degrees (Obara and Saika, DOI 10.1063/1.450106, eq. 4)."""
    total = a + b
    found = np.zeros((degrees[0] + 1, degrees[1] + 1, len(x)))
    found[0, 0] = np.sqrt(np.pi / total) * np.exp(-a * b / total * x**2)
    for i, j in product(range(degrees[0] + 1), range(degrees[1] + 1)):
        if i:
            lower = (i - 1) * found[i - 2, j] if i > 1 else 0
            found[i, j] = b * x / total * found[i - 1, j] + (lower + j * found[i - 1, j - 1] * (j > 0)) / (2 * total)
        elif j:
            lower = (j - 1) * found[i, j - 2] if j > 1 else 0
            found[i, j] = -a * x / total * found[i, j - 1] + lower / (2 * total)
    return found


def matrices(crystal: Crystal, around: Surroundings, of: Functions) -> Float[np.ndarray, "waves orbitals orbitals"]:
    """Overlaps of all functions at each wave vector."""
    sizes = 2 * of.degree + 1
    first, n = np.cumsum(sizes) - sizes, int(sizes.sum())
    waves = np.array(list(product((0, 0.5), repeat=3)) if n <= MOST_ORBITALS else [(0, 0, 0)])
    fractional = around.displacement @ np.linalg.inv(crystal.lattice)
    cells = np.rint(fractional - crystal.positions[around.neighbor] + crystal.positions[around.center])
    phases = np.cos(2 * np.pi * cells @ waves.T)
    shell = np.full((4, len(crystal.species)), -1)
    shell[of.degree, of.site] = np.arange(len(of.degree))
    found = np.zeros((len(waves), n * n))
    for degrees in product(range(4), repeat=2):
        one, other = shell[degrees[0]][around.center], shell[degrees[1]][around.neighbor]
        pairs = np.flatnonzero((one >= 0) & (other >= 0))
        a, b = of.exponent[one[pairs]], of.exponent[other[pairs]]
        pairs = pairs[a * b / (a + b) * around.distance[pairs] ** 2 < CAUGHT]
        if len(pairs):
            one, other = one[pairs], other[pairs]
            exponents = np.stack([of.exponent[one], of.exponent[other]], axis=1)
            overlap = overlaps(degrees, exponents, around.displacement[pairs])
            rows = first[one][:, None, None] + np.arange(2 * degrees[0] + 1)[:, None]
            places = (rows * n + first[other][:, None, None] + np.arange(2 * degrees[1] + 1)).ravel()
            for wave, phase in zip(found, phases[pairs].T, strict=True):
                wave += np.bincount(places, (overlap * phase[:, None, None]).ravel(), n * n)
    square = found.reshape(-1, n, n)
    return (square + square.transpose(0, 2, 1)) / 2 + np.eye(n)


def bands(crystal: Crystal) -> Float[np.ndarray, " numbers"]:
    """Three energies of the gap, states around its middle, and mean and spread of what is filled; in eV."""
    around, of = surroundings(crystal), functions(crystal)
    level = np.repeat(of.level, 2 * of.degree + 1)
    energies = []
    for overlap in matrices(crystal, around, of):
        energy = STRENGTH / 2 * np.add.outer(level, level) * overlap
        np.fill_diagonal(energy, energy.diagonal() + (1 - STRENGTH) * level)  # a function with itself has its level
        size, mixed = np.linalg.eigh(overlap)
        basis = mixed[:, size > LEAST_OVERLAP] / np.sqrt(size[size > LEAST_OVERLAP])
        energies.append(np.linalg.eigvalsh(basis.T @ energy @ basis))
    held, room, n_sites = of.electrons.sum(), 2 / len(energies), len(crystal.species)
    flat = np.sort(np.concatenate(energies))
    filled = np.clip(held / room - np.arange(len(flat)), 0, 1)
    highest = int(np.flatnonzero(filled > 1e-6)[-1])
    lowest = highest + 1 if filled[highest] > 1 - 1e-6 and highest + 1 < len(flat) else highest
    middle, gap, direct, pairs = (flat[highest] + flat[lowest]) / 2, 0.0, 0.0, round(held / 2)
    if abs(held / 2 - pairs) < 1e-6 and 0 < pairs < min(map(len, energies)):  # else the last band is half full
        edges = np.array([each[pairs - 1 : pairs + 1] for each in energies])
        gap, direct = edges[:, 1].min() - edges[:, 0].max(), (edges[:, 1] - edges[:, 0]).min()
    states = room * np.exp(-((flat - middle) ** 2) / 2).sum() / np.sqrt(2 * np.pi) / n_sites
    mean = room * filled @ flat / held
    spread = (room * filled @ (flat - mean) ** 2 / held) ** 0.5
    bound = (room * filled @ flat - of.electrons @ of.level) / n_sites
    return np.array([middle, gap, direct, np.log1p(states), bound, spread])


def errors(numbers: Iterable[np.ndarray], y: np.ndarray, groups: np.ndarray, labels: int, draw: int) -> list[float]:
    """Of the regressor with these blocks of columns, and with all but the last."""
    rng = np.random.default_rng([77, draw])
    names = np.unique(groups)
    held = np.isin(groups, rng.permutation(names)[: len(names) // 3])
    train, test = rng.permutation(np.flatnonzero(~held))[:labels], np.flatnonzero(held)[:TESTED]
    found, blocks = [], list(numbers)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        for kept in (blocks, blocks[:-1]):
            X = np.hstack(kept)
            regressor = SmallDataRegressor(blocks=[block.shape[1] for block in kept], random_state=draw)
            found.append(float(np.abs(regressor.fit(X[train], y[train]).predict(X[test]) - y[test]).mean()))
    return found


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__, [target for _, target, _ in (*PROPERTIES, *BLIND)])
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--labels", type=int, nargs="*", default=[50, 250])
    options = parser.parse_args()
    result, featurizer = earlier(options.out), CrystalFeaturizer()
    for table, target, keep in wanted(options.targets):
        crystals = development(unseen(options.data / f"{table}.parquet", target, keep, options.crystals))[:MOST]
        y, groups = np.array([crystal.targets[target] for crystal in crystals]), np.array(families(crystals))
        known = featurizer.numbers(CrystalDataset.from_crystals(crystals)).astype(float)
        new = np.array([bands(crystal) for crystal in crystals])
        numbers = [*np.split(known, np.cumsum(featurizer.blocks)[:-1], axis=1), new]
        tasks = list(product(options.labels, range(options.draws)))
        found = Parallel(options.jobs)(delayed(errors)(numbers, y, groups, *task) for task in tasks)
        rows = pd.DataFrame(tasks, columns=["labels", "draw"]).assign(ratio=[one / other for one, other in found])
        result["properties"][f"{table}, {target}"] = {
            str(labels): {
                "ratio": round(float(np.exp(np.log(each.ratio).mean())), 3),
                "won": int((each.ratio < 1).sum()),
            }
            for labels, each in rows.groupby("labels")
        }
        result["commits"][target] = about()["commit"]
        print(target, result["properties"][f"{table}, {target}"], flush=True)
        publish({**result, "draws": options.draws, **about()}, options.out)


if __name__ == "__main__":
    main()
