"""True samples: other views of the same crystals, as alterations for `Rebuilt`.

Atoms move with heat, and the choice of a cell is arbitrary. A small `Strain` is a view too. Supercells and other cells
matter for geometries such as `AllPairs`, where the cell decides which images of a site are counted; with others, they
change nothing.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from crystalmax.crystal import CrystalBatch
from crystalmax.samples.alterations import Altered, same_sites, with_sites


@dataclass(frozen=True)
class ThermalDisplacement:
    """Each site displaced by a normally distributed vector; all its images move alike.

    Attributes:
        amplitude: Root mean square along each axis, in angstrom. 0.05 to 0.1 are common at room temperature.
    """

    amplitude: float = 0.05

    def __post_init__(self) -> None:
        if self.amplitude < 0:
            raise ValueError(f"amplitude is {self.amplitude} angstrom; give a root mean square, 0 or more")

    def altered(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """The same sites, displaced."""
        normal = torch.randn(batch.n_sites, 3, generator=rng, device=rng.device, dtype=torch.float64)
        inverse = torch.linalg.inv(batch.lattice)[batch.crystal_of_site]
        moves = (self.amplitude * normal.to(batch.positions))[:, None] @ inverse.to(batch.positions)
        return same_sites(replace(batch, positions=batch.positions + moves[:, 0]))


@dataclass(frozen=True)
class Supercell:
    """Each crystal in a cell that is larger by a factor, drawn from all cells of that size.

    Attributes:
        factor: How many cells make the new one; copies of a site follow each other.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"factor is {self.factor}; a supercell has at least 2 cells")

    def altered(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """So many copies of each site in the larger cells."""
        matrices, cells = (table.to(batch.lattice) for table in _supercells(self.factor))
        which = torch.randint(len(matrices), (batch.n_crystals,), generator=rng, device=rng.device).to(batch.device)
        matrix = matrices[which]
        origin = torch.arange(batch.n_sites, device=batch.device).repeat_interleave(self.factor)
        copies = with_sites(batch, origin)
        places = copies.positions + cells[which].to(batch.positions)[batch.crystal_of_site].reshape(-1, 3)
        positions = _in_cell(places, matrix, copies.crystal_of_site)
        return Altered(replace(copies, lattice=matrix @ batch.lattice, positions=positions), origin)


@dataclass(frozen=True)
class OtherCell:
    """Each crystal in another cell of the same size: sheared along its own vectors, its edges renamed or reversed.

    Attributes:
        shears: How many times a cell vector, or its opposite, is added to another one.
    """

    shears: int = 2

    def __post_init__(self) -> None:
        if self.shears < 0:
            raise ValueError(f"shears is {self.shears}; give how often cells are sheared, 0 or more")

    def altered(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """The same sites in other cells."""
        shape = (batch.n_crystals,)
        moves = torch.randint(12, (self.shears, *shape), generator=rng, device=rng.device).to(batch.device)
        names = torch.rand(*shape, 3, generator=rng, device=rng.device).argsort(1).to(batch.device)
        signs = 2 * torch.randint(2, (*shape, 3), generator=rng, device=rng.device).to(batch.lattice) - 1
        matrix = signs[:, :, None] * torch.eye(3).to(batch.lattice)[names]
        for move in moves:
            matrix = _shears().to(batch.lattice)[move] @ matrix
        positions = _in_cell(batch.positions, matrix, batch.crystal_of_site)
        return same_sites(replace(batch, lattice=matrix @ batch.lattice, positions=positions))


def _in_cell(
    positions: Float[Tensor, "sites 3"], matrix: Float[Tensor, "crystals 3 3"], crystal: Int[Tensor, " sites"]
) -> Float[Tensor, "sites 3"]:
    """Fractional coordinates in cells with the vectors `matrix @ lattice`, from 0 to 1."""
    inside: Float[Tensor, "sites 3"] = (positions[:, None] @ torch.linalg.inv(matrix).to(positions)[crystal])[:, 0]
    return inside - inside.floor()


@cache
def _supercells(factor: int) -> tuple[Float[Tensor, "shapes 3 3"], Float[Tensor, "shapes factor 3"]]:
    """All sublattices of index `factor` as matrices in Hermite normal form, and the cells that each has in it."""
    sides = [(a, b, c) for a, b, c in product(range(1, factor + 1), repeat=3) if a * b * c == factor]
    shapes = [
        ([[a, i, j], [0, b, k], [0, 0, c]], list(product(range(a), range(b), range(c))))
        for a, b, c in sides
        for i, j, k in product(range(b), range(c), range(c))
    ]
    matrices, cells = zip(*shapes, strict=True)
    return torch.tensor(matrices, dtype=torch.float64), torch.tensor(cells, dtype=torch.float64)


@cache
def _shears() -> Float[Tensor, "12 3 3"]:
    """The identity with one 1 or -1 beside its diagonal."""
    matrices = torch.eye(3, dtype=torch.float64).repeat(12, 1, 1)
    for number, ((row, column), sign) in enumerate(product(permutations(range(3), 2), (1.0, -1.0))):
        matrices[number, row, column] = sign
    return matrices
