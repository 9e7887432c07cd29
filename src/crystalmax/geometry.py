"""Geometries, which make the pairs of sites in a batch of crystals.

All crystals of a batch are done in one vectorised pass, on the device of the batch, in float64; the result is float32.
"""

from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from crystalmax import native
from crystalmax.crystal import CrystalBatch, Pairs
from crystalmax.segments import offsets, ranges

Lattices = Float[Tensor, "crystals 3 3"]
Pairwise = Int[Tensor, " pairs"]

# Noise must not decide ties: axes that differ by less than this fraction, and shears this close to 1/2, are ties.
_TIE = 1e-3
_SAME_DISTANCE = 1e-5  # angstrom
_RESOLUTION = 2.0**-20  # angstrom; distances are sorted in these units, as integers
_FARTHEST = 2**30  # in these units


@runtime_checkable
class Geometry(Protocol):
    """Makes the pairs of a batch: returns the same batch with `pairs`, rows grouped by center."""

    def __call__(self, batch: CrystalBatch) -> CrystalBatch:
        """The same batch with its pairs."""


@dataclass(frozen=True)
class AllPairs:
    """Each site of the cell with all other sites of a near-cubic supercell, each at its nearest image.

    A crystal with more than `max_sites` sites is its own supercell. The choice of cell does not matter where crystals
    come in their canonical cell (`cells.canonical`).

    Differs: the pair of a site with itself, at distance 0, is left out (DOI 10.1039/d4dd00202d includes it).

    Attributes:
        max_sites: Sites in a supercell at most.
        merge: Whether pairs of the same two sites at the same distance share a row, which counts them and keeps the
            displacement of one of them.
    """

    max_sites: int = 50
    merge: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.max_sites, int) or self.max_sites < 2:  # the loop in C takes no other numbers
            what = f"max_sites is {self.max_sites!r}; a site needs room for a neighbor"
            raise ValueError(f"{what}, so give a whole number, at least 2")

    def __call__(self, batch: CrystalBatch) -> CrystalBatch:
        """The same batch with all pairs."""
        on_cpu = batch.device.type == "cpu" and native.usable()
        return replace(batch, pairs=self._native(batch) if self.merge and on_cpu else self._in_torch(batch))

    def _native(self, batch: CrystalBatch) -> Pairs:
        sizes = batch.sites_of_crystal
        entries = sizes * torch.div(self.max_sites, sizes.clamp_min(1), rounding_mode="floor").clamp_min(1)
        most, rows = int(entries.max()), int((sizes * entries).sum())
        center, neighbor = torch.empty(rows, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
        displacement, count = torch.empty(rows, 3), torch.empty(rows)
        work = torch.empty(13 * most + 1, dtype=torch.float64)  # per entry, as `all_pairs` in pairs.c says
        where = [array.double().contiguous() for array in (batch.lattice, batch.positions)]
        columns = (center, neighbor, displacement, count)
        found = native.run("all_pairs", *where, sizes.cumsum(0), batch.n_crystals, self.max_sites, most, work, *columns)
        return Pairs(*(column[:found] for column in columns))

    def _in_torch(self, batch: CrystalBatch) -> Pairs:
        lattice, positions = batch.lattice.double(), batch.positions.double()
        repeats = near_cubic(lattice, batch.sites_of_crystal, self.max_sites)
        supercell = shortest_basis(repeats.double() @ lattice)
        into = lattice @ torch.linalg.inv(supercell)  # from coordinates in the cell to those in the supercell
        cells, n_cells = _cells(repeats, into)
        sites = transformed(positions, into, batch.crystal_of_site)
        center, neighbor, cell = _all_pairs(batch, n_cells)
        steps = sites.index_select(1, neighbor) - sites.index_select(1, center) + cells.index_select(1, cell)
        found = FoundPairs(center, neighbor, nearest_images(steps, supercell, batch.crystal_of_site[center]))
        if not self.merge:
            return found.as_pairs(torch.ones_like(center))
        return merged(batch, found, found.displacement.square().sum(0).sqrt())


class FoundPairs(NamedTuple):
    """Pairs during the search: displacements are in angstrom and float64, with one axis in each row."""

    center: Pairwise
    neighbor: Pairwise
    displacement: Float[Tensor, "3 pairs"]

    def take(self, rows: Shaped[Tensor, " _"]) -> "FoundPairs":
        """The pairs in these rows, or where a mask is true."""
        return FoundPairs(self.center[rows], self.neighbor[rows], self.displacement[:, rows])

    def as_pairs(self, count: Pairwise) -> Pairs:
        """The pairs as networks need them, each with a count of how many it stands for."""
        return Pairs(self.center, self.neighbor, self.displacement.T.float().contiguous(), count.float())


def near_cubic(lattice: Lattices, n_sites: Int[Tensor, " crystals"], max_sites: int) -> Int[Tensor, "crystals 3 3"]:
    """Supercells close to a cube: upper triangular matrices that take cell vectors to supercell vectors.

    An axis is the part of a cell vector that is orthogonal to the vectors after it. The shortest axis is repeated once
    more, as long as the number of sites stays within `max_sites`. Then whole cell vectors are added, so that vectors
    come close to these axes. Signs of the cell vectors do not matter.
    """
    gram = lattice @ lattice.mT
    _, bb, cc = gram.diagonal(dim1=1, dim2=2).unbind(1)
    ab, ac, bc = gram[:, 0, 1], gram[:, 0, 2], gram[:, 1, 2]
    face = bb * cc - bc**2
    axes = torch.stack([torch.linalg.det(lattice).abs() / face.sqrt(), (face / cc).sqrt(), cc.sqrt()], 1)
    repeats = torch.ones_like(axes, dtype=torch.int64)
    growing = torch.ones_like(n_sites, dtype=torch.bool)
    while growing.any():
        length = repeats * axes
        tied = length <= length.amin(1, keepdim=True) * (1 + _TIE)
        first = tied & (tied.cumsum(1) == 1)
        growing = growing & ((repeats + first).prod(1) * n_sites <= max_sites)
        repeats = repeats + first * growing[:, None]
    shears = {(0, 1): (ac * bc - ab * cc) / face, (0, 2): (ab * bc - ac * bb) / face, (1, 2): -bc / cc}
    matrix = torch.diag_embed(repeats)
    for (row, column), shear in shears.items():
        exact = repeats[:, row] * shear
        matrix[:, row, column] = (exact.sign() * (exact.abs() + 0.5 + _TIE).floor()).long()
    return matrix


def shortest_basis(lattice: Lattices) -> Lattices:
    """Three shortest vectors that span the same lattice, by Selling's reduction, as `cells.canonical` does for one."""
    vectors = torch.cat([lattice, -lattice.sum(1, keepdim=True)], 1)
    couples = torch.tensor(list(combinations(range(4), 2)), device=lattice.device)
    one_hot = torch.eye(4).to(lattice)
    # Multiple of vector i that each vector is given if i and j make an acute angle: -2 for i, 0 for j, 1 for others.
    share = 1 - 3 * one_hot[couples[:, 0]] - one_hot[couples[:, 1]]
    limit = 1e-9 * lattice.square().sum((1, 2))
    while True:
        products = (vectors @ vectors.mT)[:, couples[:, 0], couples[:, 1]]
        sharpest, which = products.max(1)
        acute = sharpest > limit
        if not acute.any():
            break
        turned = vectors.gather(1, couples[which, 0][:, None, None].expand(-1, 1, 3))
        vectors = vectors + share[which][:, :, None] * turned * acute[:, None, None]
    bits = (torch.arange(8)[:, None] >> torch.arange(3)) & 1
    sums = bits.to(lattice) @ vectors[:, :3]
    first, second, third, fourth = sums.norm(dim=2).argsort(1)[:, 1:5].unbind(1)  # the shortest is the empty sum
    rows = torch.stack([first, second, torch.where(third == first ^ second, fourth, third)], 1)
    return sums.gather(1, rows[:, :, None].expand(-1, -1, 3))


def transformed(
    vectors: Float[Tensor, "rows 3"], matrices: Lattices, owner: Int[Tensor, " rows"]
) -> Float[Tensor, "3 rows"]:
    """Each row vector times the matrix of its owner, with one axis in each row of the result, which gathers faster."""
    return (vectors[:, None] @ matrices[owner])[:, 0].T.contiguous()


def _cells(
    repeats: Int[Tensor, "crystals 3 3"], into: Lattices
) -> tuple[Float[Tensor, "3 cells"], Int[Tensor, " crystals"]]:
    """The cells of each supercell, with the cell itself first, in coordinates of the supercell, and their number."""
    whole, owner = grids(repeats.diagonal(dim1=1, dim2=2))
    return transformed(whole.to(into), into, owner), repeats.diagonal(dim1=1, dim2=2).prod(1)


def grids(counts: Int[Tensor, "crystals 3"]) -> tuple[Int[Tensor, "cells 3"], Int[Tensor, " cells"]]:
    """All triples of integers from 0 to below these counts, and the crystal of each."""
    n_cells = counts.prod(1)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), n_cells)
    place = ranges(torch.zeros_like(n_cells), n_cells)
    _, n_b, n_c = counts[owner].unbind(1)
    return torch.stack([place // (n_b * n_c), place // n_c % n_b, place % n_c], 1), owner


def site_pairs(batch: CrystalBatch, centers: Int[Tensor, " some"]) -> tuple[Pairwise, Pairwise]:
    """All pairs of these sites with the sites of their crystals, themselves included, sorted by center."""
    sizes, crystal = batch.sites_of_crystal, batch.crystal_of_site[centers]
    seen = sizes[crystal]
    return torch.repeat_interleave(centers, seen), ranges(offsets(sizes)[crystal], seen)


def _all_pairs(batch: CrystalBatch, n_cells: Int[Tensor, " crystals"]) -> tuple[Pairwise, Pairwise, Pairwise]:
    """Center, neighbor and row of the neighbor's cell, by center, for all pairs but those of a site with itself."""
    center, neighbor = site_pairs(batch, torch.arange(batch.n_sites, device=batch.device))
    crystal = batch.crystal_of_site[center]
    # The first cell is the one of the sites themselves, where a site would be paired with itself.
    itself = (center == neighbor).long()
    images = n_cells[crystal] - itself
    cell = ranges(offsets(n_cells)[crystal] + itself, images)
    return torch.repeat_interleave(center, images), torch.repeat_interleave(neighbor, images), cell


def nearest_images(steps: Float[Tensor, "3 pairs"], lattice: Lattices, crystal: Pairwise) -> Float[Tensor, "3 pairs"]:
    """The shortest of all vectors that differ from each step by a vector of its crystal's lattice, in angstrom.

    Args:
        steps: Fractional coordinates, one axis a row.
        lattice: Shortest bases: there the nearest image is at most one cell from the one that rounding finds.
        crystal: The crystal that each step is in.
    """
    rows = lattice.permute(1, 2, 0).contiguous().index_select(2, crystal)
    vector = ((steps - steps.round())[:, None] * rows).sum(0)
    along = (vector * rows).sum(1)
    # Of the 26 neighboring images, 13 and their opposites. The better of two opposites changes the square by this:
    moves = torch.tensor([move for move in product((-1, 0, 1), repeat=3) if move > (0, 0, 0)], device=lattice.device)
    ways = moves.to(lattice) @ lattice
    squares = ways.square().sum(2).T.contiguous()
    gain, taken = torch.zeros_like(vector[0]), torch.full_like(crystal, -1)
    for number, signs in enumerate(moves.tolist()):
        reach = sum(sign * part for sign, part in zip(signs, along, strict=True) if sign)
        change = squares[number].index_select(0, crystal) - 2 * reach.abs()
        taken = torch.where(change < gain, number, taken)
        gain = torch.minimum(change, gain)
    far = (taken >= 0).nonzero()[:, 0]
    way = ways[crystal[far], taken[far]].T
    toward = (way * vector[:, far]).sum(0).sign()
    return vector.index_add(1, far, -toward * way)


def merged(
    batch: CrystalBatch, found: FoundPairs, distance: Float[Tensor, " pairs"], tolerance: float = _SAME_DISTANCE
) -> Pairs:
    """One pair for each distinct distance between two sites, with the count of equal ones; by center and neighbor.

    Args:
        batch: The batch of the sites.
        found: Pairs in any order.
        distance: Distance of each pair, in angstrom.
        tolerance: Consecutive distances that differ by at most this count as equal.
    """
    # Neighbors are numbered within their crystals, or for large batches the key would not fit into 64 bits.
    sizes = batch.sites_of_crystal
    within = found.neighbor - offsets(sizes)[batch.crystal_of_site[found.center]]
    both = found.center * sizes.max() + within
    key, order = torch.sort(both * _FARTHEST + (distance / _RESOLUTION).long())
    fresh = torch.ones_like(key, dtype=torch.bool)
    fresh[1:] = key.diff() > tolerance / _RESOLUTION
    start = fresh.nonzero()[:, 0]
    count = torch.diff(start, append=start.new_tensor([len(key)]))
    return found.take(order[start + count // 2]).as_pairs(count)  # the one in the middle is closest to all
