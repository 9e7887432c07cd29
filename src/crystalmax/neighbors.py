"""A geometry of neighbors within a radius, in which each periodic image is a neighbor of its own."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import FoundPairs, Lattices, grids, merged, shortest_basis, site_pairs, transformed
from crystalmax.segments import gather, offsets, ranges

# Cells are published with round numbers, so shells lie at round distances: no threshold should be one. In angstrom.
_SLACK = 1.7e-4
_TIE = 1.3e-3
_ITSELF = 1e-3
_SAME = 2e-6
_ROOM = 2.0  # the first search uses a sphere in which this many times the wanted number of neighbors is expected


@dataclass(frozen=True)
class Neighbors:
    """Each site with all sites within a radius, where every periodic image is a neighbor of its own.

    A site without neighbors in the radius has its nearest one, and all at the same distance, however far. The choice of
    cell does not matter: in a supercell, each copy of a site has the same neighbors.

    Attributes:
        cutoff: The radius, in angstrom.
        max_neighbors: Only this many nearest neighbors, and all at the same distance as the last of them, since a
            choice among these would depend on the order of sites. All within the radius unless given.
        merge: Whether pairs of the same two sites at the same distance share a row, which counts them and keeps the
            displacement of one of them. Angles need pairs that are not merged.
    """

    cutoff: float = 6.0
    max_neighbors: int | None = None
    merge: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.cutoff < math.inf:
            raise ValueError(f"cutoff is {self.cutoff}; give a radius above 0, in angstrom, that is finite")
        if self.max_neighbors is not None and self.max_neighbors < 1:
            raise ValueError(f"max_neighbors is {self.max_neighbors}; give at least 1, or leave it out to take all")

    def __call__(self, batch: CrystalBatch) -> CrystalBatch:
        """The same batch with the pairs of neighbors."""
        basis = shortest_basis(batch.lattice.double())
        into = batch.lattice.double() @ torch.linalg.inv(basis)
        sites = (batch.positions.double()[:, None] @ gather(into, batch.crystal_of_site))[:, 0]
        # Images of a site itself are as near as the shortest cell vector, so no nearest neighbor is farther.
        reach = basis.norm(dim=2).amin(1).clamp_min(self.cutoff) + _SLACK
        found = self._nearest(batch, sites, basis, reach)
        if not self.merge:
            return replace(batch, pairs=found.as_pairs(torch.ones_like(found.center)))
        return replace(batch, pairs=merged(batch, found, found.displacement.norm(dim=0), _SAME))

    def _nearest(
        self, batch: CrystalBatch, sites: Float[Tensor, "sites 3"], basis: Lattices, reach: Float[Tensor, " crystals"]
    ) -> FoundPairs:
        """Pairs of each site and its neighbors, grouped by center."""
        everything = torch.arange(batch.n_crystals, device=batch.device)
        if self.max_neighbors is None:
            return self._chosen(batch.n_sites, _within(batch, sites, basis, everything, reach))
        # If few are wanted: search nearby first, and farther only in crystals where these are too few.
        room = 3 / (4 * math.pi) * torch.linalg.det(basis).abs() / batch.sites_of_crystal
        first = torch.minimum((_ROOM * (self.max_neighbors + 1) * room) ** (1 / 3), reach)
        near = _within(batch, sites, basis, everything, first)
        certain = near.displacement.norm(dim=0) < gather(first, batch.crystal_of_site[near.center]) - _TIE
        n_certain = torch.bincount(near.center[certain], minlength=batch.n_sites)
        poor = torch.zeros_like(everything).index_add(0, batch.crystal_of_site, (n_certain < self.max_neighbors).long())
        again = (poor > 0) & (first < reach)
        if not again.any():
            return self._chosen(batch.n_sites, near)
        kept = near.take(~again[batch.crystal_of_site[near.center]])
        far = _within(batch, sites, basis, again.nonzero()[:, 0], reach)
        both = FoundPairs(*(torch.cat([old, new], dim=-1) for old, new in zip(kept, far, strict=True)))
        return self._chosen(batch.n_sites, both)

    def _chosen(self, n_sites: int, found: FoundPairs) -> FoundPairs:
        """The pairs, of these, of neighbors to keep; sorted by center and distance."""
        distance = found.displacement.norm(dim=0)
        order = torch.argsort(distance)
        order = order[torch.argsort(found.center[order], stable=True)]
        center, distance = found.center[order], distance[order]
        begin = offsets(torch.bincount(center, minlength=n_sites))
        limit = (distance[begin[:-1]] + _TIE).clamp_min(self.cutoff + _SLACK)
        if self.max_neighbors is not None:
            last = torch.minimum(begin[:-1] + self.max_neighbors, begin[1:]) - 1
            limit = torch.minimum(limit, distance[last] + _TIE)
        return found.take(order[distance <= gather(limit, center)])


def _within(
    batch: CrystalBatch,
    sites: Float[Tensor, "sites 3"],
    basis: Lattices,
    crystals: Int[Tensor, " some"],
    radius: Float[Tensor, " crystals"],
) -> FoundPairs:
    """Pairs of each site and all sites within a radius, in angstrom, for some of the crystals.

    Sites have coordinates in a shortest basis, with which few images have to be tried.
    """
    sizes = batch.sites_of_crystal
    center, neighbor = site_pairs(batch, ranges(offsets(sizes)[crystals], sizes[crystals]))
    crystal = batch.crystal_of_site[center]
    # First the image that rounding finds, then those in all other cells.
    step = gather(sites, neighbor) - gather(sites, center)
    vector = ((step - step.round())[:, None] @ gather(basis, crystal))[:, 0].T.contiguous()
    image, n_images = _images(basis[crystals], radius[crystals])
    row = torch.zeros_like(sizes).index_copy(0, crystals, torch.arange(len(crystals), device=sizes.device))
    of_pair = row[crystal]
    pair = torch.repeat_interleave(torch.arange(len(center), device=center.device), n_images[of_pair])
    displacement = vector.index_select(1, pair)
    displacement += image.index_select(1, ranges(offsets(n_images)[:-1][of_pair], n_images[of_pair]))
    square = displacement.square().sum(0)
    near = (square <= gather(radius, crystal)[pair] ** 2) & (square > _ITSELF**2)
    kept = near.nonzero()[:, 0]
    return FoundPairs(center[pair[kept]], neighbor[pair[kept]], displacement[:, kept])


def _images(
    basis: Lattices, radius: Float[Tensor, " crystals"]
) -> tuple[Float[Tensor, "3 images"], Int[Tensor, " crystals"]]:
    """Lattice vectors that can lead to an image within the radius, in angstrom, and their number for each crystal."""
    # The distance of lattice planes is 1 over the norm of a column of the inverse.
    apart = torch.linalg.inv(basis).norm(dim=1)
    n_cells = (radius[:, None] * apart + 0.5).floor().long()
    cell, owner = grids(2 * n_cells + 1)
    return transformed((cell - n_cells[owner]).to(basis), basis, owner), (2 * n_cells + 1).prod(1)
