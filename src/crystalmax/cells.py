"""The canonical cell: one description of a crystal, whichever cell it was written in.

The cell is made primitive, then reduced. If several reduced bases remain, since the lattice is more symmetric than the
crystal, the positions of the sites decide. Comparisons have tolerances, so noise of 1e-6 angstrom does not matter.
"""

from dataclasses import replace
from itertools import combinations, permutations, product
from math import gcd, sqrt

import numpy as np
from jaxtyping import Float, Int

from crystalmax.crystal import Crystal, Species

Whole = tuple[int, int, int]
Lattice = Float[np.ndarray, "3 3"]
Positions = Float[np.ndarray, "sites 3"]
Rows = Int[np.ndarray, " _"]

# Lengths in angstrom and sums of cosines closer than this count as equal. These are no round numbers: published cells
# are rounded to a few digits, so their differences are round, and none should lie on a threshold.
_SAME_LENGTH = 1.7e-4
_SAME_COSINES = 1.3e-4
_MOST_CELLS = 100  # if a vector leans over more cells, it is straightened first; cells of real files do not
_REACH = 2  # largest index of the plane waves by which bases are compared


def canonical(crystal: Crystal, *, tolerance: float = 0.01) -> Crystal:
    """The crystal in its canonical cell: primitive, reduced, in a standard orientation.

    All cells of one crystal (primitive, conventional, doubled; rotated, shifted, shuffled) lead to the same vectors,
    up to symmetries of the crystal: the shortest ones, by ascending length, and of these the most slanted, as in a
    Niggli cell. The lattice is right-handed, its first vector along x, its second in the xy plane. Origin and order of
    the sites stay as they come, since distances do not depend on them. Targets are copied, so they should not depend on
    the size of the cell.

    Args:
        crystal: A crystal in any cell.
        tolerance: A translation is a symmetry if it takes each site to within this distance, in angstrom, of a site
            with the same species. Sites that become one are averaged.

    Raises:
        ValueError: The cell vectors span no volume.
    """
    if crystal.volume < 1e-3:
        raise ValueError(
            f"crystal {crystal.key!r} has a cell of {crystal.volume:.1g} cubic angstrom, and cell vectors must span a "
            "volume; check its cell lengths and angles"
        )
    lattice, positions, species = _primitive(crystal.lattice, crystal.positions, crystal.species, tolerance)
    obtuse = _obtuse(lattice)
    lattice, positions = obtuse @ lattice, positions @ np.linalg.inv(obtuse)
    candidates = _shortest_bases(lattice)
    best = candidates[0]
    if len(candidates) > 1:
        weight = np.array([_weight(kind) for kind in crystal.kinds])[species]
        best = candidates[_signatures(lattice, positions, weight, candidates).argmax()]
    lattice, positions = _BASES[best] @ lattice, positions @ _INVERSES[best]
    if np.linalg.det(lattice) < 0:  # the opposite vectors, for the opposite hand
        lattice, positions = -lattice, -positions
    upright = np.linalg.cholesky(lattice @ lattice.T)
    return replace(crystal, lattice=upright, positions=positions - np.floor(positions), species=species)


# ---- primitive


def _primitive(
    lattice: Lattice, positions: Positions, species: Int[np.ndarray, " sites"], tolerance: float
) -> tuple[Lattice, Float[np.ndarray, "primitive 3"], Int[np.ndarray, " primitive"]]:
    """The smallest cell that repeats to the crystal, its sites averaged over the images that coincide."""
    counts = np.bincount(species)
    parts = gcd(*counts.tolist())  # at most this many primitive cells fit, since each has its share of every species
    if parts == 1:
        return lattice, positions, species
    kinds = [np.flatnonzero(species == kind) for kind in np.argsort(counts, kind="stable") if counts[kind]]
    steps = positions[kinds[0][1:]] - positions[kinds[0][0]]
    whole = np.rint(steps * parts)  # a translation that fits `parts` times at most is a multiple of 1 / parts
    near = (((steps - whole / parts) @ lattice) ** 2).sum(1) <= tolerance**2
    candidates = sorted({(a, b, c) for a, b, c in (whole[near] % parts).astype(np.int64).tolist()} - {(0, 0, 0)})
    if not candidates:
        return lattice, positions, species
    while True:
        group = _group(lattice, positions, kinds, candidates, parts, tolerance)
        partner = np.array(list(group.values()))
        total, largest_square = np.zeros_like(positions), 0.0
        for step, image in group.items():
            off = positions[image] - positions - np.array(step) / parts
            off -= np.rint(off)
            total += off
            largest_square = max(largest_square, float(((off @ lattice) ** 2).sum(1).max()))
        if largest_square <= tolerance**2:
            break
        tolerance /= 2  # translations that fit one by one, but not in combination, are no symmetry
    basis = np.array(_row_basis(list(group), parts)) / parts
    kept = partner.min(0) == np.arange(len(species))
    positions = positions + total / len(group)
    return basis @ lattice, positions[kept] @ np.linalg.inv(basis), species[kept]


def _group(
    lattice: Lattice, positions: Positions, kinds: list[Rows], candidates: list[Whole], parts: int, tolerance: float
) -> dict[Whole, Int[np.ndarray, " sites"]]:
    """The symmetry translations that the candidates generate, each with the site that it takes every site to."""
    here = np.arange(len(positions))
    group: dict[Whole, Int[np.ndarray, " sites"]] = {(0, 0, 0): here}
    for a, b, c in candidates:
        if (a, b, c) in group:
            continue
        if (image := _image(lattice, positions, kinds, np.array([a, b, c]) / parts, tolerance)) is None:
            continue
        known, multiple, power = list(group.items()), (a, b, c), image
        while multiple not in group:
            for (x, y, z), other in known:
                total = ((x + multiple[0]) % parts, (y + multiple[1]) % parts, (z + multiple[2]) % parts)
                group[total] = other[power]
            multiple = ((multiple[0] + a) % parts, (multiple[1] + b) % parts, (multiple[2] + c) % parts)
            power = image[power]
    return group


def _image(
    lattice: Lattice, positions: Positions, kinds: list[Rows], step: Float[np.ndarray, " 3"], tolerance: float
) -> Int[np.ndarray, " sites"] | None:
    """For each site, the site that a translation takes it to; None if the translation is no symmetry."""
    image = np.empty(len(positions), dtype=np.int64)
    for kind in kinds:
        # With many sites, most wrong translations already fail for a few of them.
        for some in (kind[:: len(kind) // 8], kind) if len(kind) > 16 else (kind,):
            off = positions[kind] - (positions[some] + step)[:, None]
            off = (off - np.rint(off)) @ lattice
            squared = np.einsum("ijk,ijk->ij", off, off)
            if squared.min(1).max() > tolerance**2:
                return None
            image[some] = kind[squared.argmin(1)]
    return image if len(set(image.tolist())) == len(image) else None


def _row_basis(steps: list[Whole], parts: int) -> list[list[int]]:
    """An upper triangular basis of the lattice that the steps and `parts` times each unit vector span."""
    rows = [list(step) for step in steps] + [[parts, 0, 0], [0, parts, 0], [0, 0, parts]]
    basis = []
    for column in range(3):
        pivot = [0, 0, 0]
        rest = []
        for row in rows:
            while row[column]:  # Euclid's algorithm on whole rows
                factor = pivot[column] // row[column]
                pivot, row = row, [p - factor * r for p, r in zip(pivot, row, strict=True)]
            if any(row):
                rest.append(row)
        basis.append(pivot if pivot[column] > 0 else [-p for p in pivot])
        rows = rest
    return basis


# ---- reduced


def _obtuse(lattice: Lattice) -> Int[np.ndarray, "3 3"]:
    """Selling's reduction: three vectors that make no acute angle with each other, nor with minus their sum.

    In plain Python, since calls of numpy would take longer than the computation.
    """
    a, b, c = lattice.tolist()
    # After its Cartesian components, each vector has its integer coordinates in the given cell.
    vectors = [[*a, 1, 0, 0], [*b, 0, 1, 0], [*c, 0, 0, 1]]
    _straighten(vectors)
    limit = 1e-9 * sum(x * x for vector in vectors for x in vector[:3])
    vectors.append([-x - y - z for x, y, z in zip(*vectors, strict=True)])
    while True:
        sharpest, i, j = max(
            (u[0] * v[0] + u[1] * v[1] + u[2] * v[2], i, j) for (i, u), (j, v) in combinations(enumerate(vectors), 2)
        )
        if sharpest <= limit:
            return np.array([vector[3:] for vector in vectors[:3]], dtype=np.int64)
        turned = vectors[i]
        vectors[i] = [-x for x in turned]
        for k in {0, 1, 2, 3} - {i, j}:
            vectors[k] = [x + y for x, y in zip(vectors[k], turned, strict=True)]


def _straighten(vectors: list[list[float]]) -> None:
    """Shorten vectors that lean over many cells, which Selling's reduction would only do one cell at a time."""
    leaning = True
    while leaning:
        leaning = False
        for u, v in permutations(vectors, 2):
            cells = round((u[0] * v[0] + u[1] * v[1] + u[2] * v[2]) / (v[0] ** 2 + v[1] ** 2 + v[2] ** 2))
            if abs(cells) > _MOST_CELLS:
                u[:] = [x - cells * y for x, y in zip(u, v, strict=True)]
                leaning = True


# Tables for all crystals. The shortest vectors of a lattice are among the seven sums of an obtuse basis, one
# for each class of vectors modulo 2 (Conway and Sloane, DOI 10.1098/rspa.1992.0047). So there are 168 triples to choose
# from, each with four choices of signs; opposite bases count once.
_SUMS = np.array([(code & 1, code >> 1 & 1, code >> 2 & 1) for code in range(1, 8)])
_TRIPLES = np.array([(u, v, w) for u, v, w in permutations(range(7), 3) if (u + 1) ^ (v + 1) != w + 1])
_SIGNS = np.array([(1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1)])
_COUPLE_SIGNS = (_SIGNS[:, [0, 0, 1]] * _SIGNS[:, [1, 2, 2]]).T
_BASES = (_SIGNS[:, :, None] * _SUMS[_TRIPLES][:, None]).reshape(-1, 3, 3)
_INVERSES = np.rint(np.linalg.inv(_BASES)).astype(np.int64)
_WAVES = np.array([wave for wave in product(range(-_REACH, _REACH + 1), repeat=3) if wave > (0, 0, 0)])
_WAVE_WEIGHTS = np.abs(_WAVES @ np.sqrt([2.0, 3.0, 5.0])) % 1
# A wave of index h in one basis has index inverse @ h, at most three times as large, in the obtuse basis.
_OBTUSE_WAVES = (_INVERSES @ _WAVES.T + 3 * _REACH).transpose(1, 0, 2)
_WAVE_ROWS = np.ravel_multi_index(tuple(_OBTUSE_WAVES), (6 * _REACH + 1,) * 3)


def _shortest_bases(lattice: Lattice) -> Int[np.ndarray, " candidates"]:
    """Rows of the table of bases with the shortest vectors, within tolerance.

    Of these, the ones with angles farthest from right angles, all acute or all obtuse; obtuse if both are possible.
    """
    vectors = _SUMS @ lattice
    gram = vectors @ vectors.T
    lengths = np.sqrt(gram.diagonal())
    first, second, third, fourth = np.argsort(lengths)[:4].tolist()
    if (first + 1) ^ (second + 1) == third + 1:  # the three lie in a plane
        third = fourth
    longest = lengths[[first, second, third]] + _SAME_LENGTH
    short = (lengths[_TRIPLES] <= longest).all(1).nonzero()[0]
    u, v, w = _TRIPLES[short].T
    cosines = gram / (lengths[:, None] * lengths)
    slant = np.stack([cosines[u, v], cosines[u, w], cosines[v, w]], 1) @ _COUPLE_SIGNS
    slanted = np.abs(slant) >= np.abs(slant).max() - _SAME_COSINES
    row, sign = (slanted & (slant <= slant[slanted].min() + _SAME_COSINES)).nonzero()
    candidates: Int[np.ndarray, " candidates"] = short[row] * 4 + sign
    return candidates


def _weight(kind: Species) -> float:
    """A number for each species, different for all species that a network distinguishes.

    It is not linear in the occupancies, or two mixed sites would count like one site of each element.
    """
    return sum(occupancy * (1 + number * sqrt(2) % 1 + 0.1 * (state or 0.0)) for number, occupancy, state in kind) ** 3


def _signatures(
    lattice: Lattice, positions: Positions, weight: Float[np.ndarray, " sites"], candidates: Rows
) -> Float[np.ndarray, " candidates"]:
    """One number for each basis, equal for two of them if a symmetry of the crystal takes one to the other.

    It is a sum of the intensities with which the crystal scatters waves of given index in that basis, which do not
    depend on shifts, inversion or the order of sites, plus a term for the metric. Noise may exchange bases with almost
    equal numbers, but these are almost equal for networks too, which sum smooth functions of distances.
    """
    bases = _BASES[candidates] @ lattice
    gram = np.abs(np.einsum("bij,bkj->bik", bases, bases)).reshape(-1, 9)
    metric = gram @ (np.sqrt([2, 3, 5, 3, 7, 11, 5, 11, 13]) % 1) / gram[0].sum()
    powers = np.exp(2j * np.pi * positions[:, :, None] * np.arange(-3 * _REACH, 3 * _REACH + 1))
    along_xy = (weight[:, None] * powers[:, 0])[:, :, None] * powers[:, 1, None]
    amplitudes = (along_xy.reshape(len(positions), -1).T @ powers[:, 2]).ravel()
    intensities = (amplitudes * amplitudes.conj()).real / (weight @ weight)
    signatures: Float[np.ndarray, " candidates"] = metric + intensities[_WAVE_ROWS[candidates]] @ _WAVE_WEIGHTS
    return signatures
