"""What the message-passing encoders share: embedding of species and distances, constituents of levels, read-out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalmax import elements
from crystalmax.crystal import CrystalBatch, Pairs
from crystalmax.elements import N_ELEMENTS
from crystalmax.encoders.distances import DistanceBasis
from crystalmax.encoders.interpolation import Part, taken
from crystalmax.encoding import Constituents, Level, Widths
from crystalmax.layers import perceptron
from crystalmax.segments import distinct, gather, segment_mean

N_SPECIES_FEATURES = len(elements.FEATURES) + 1
_QUANTUM = 1e-6  # angstrom; distances are rounded to this grid, so that equal ones are recognised


class SumOfParts(nn.Module):
    """A linear map of a concatenation [a_i, b_j, ...], computed as a sum of linear maps of the tables of its parts.

    The tables have far fewer rows than the concatenation, so this is much cheaper.

    Args:
        widths: Widths of the parts.
        width_out: Width of the result.
    """

    def __init__(self, widths: Sequence[int], width_out: int) -> None:
        super().__init__()
        self.widths, self.width_out = tuple(widths), width_out
        self.maps = nn.ModuleList(nn.Linear(width, width_out, bias=not number) for number, width in enumerate(widths))

    def forward(self, *parts: Part) -> Float[Tensor, "rows out"]:
        """One row for each row of the concatenation."""
        terms = [taken(layer(table), at) for layer, (table, at) in zip(self.maps, parts, strict=True)]
        return sum(terms[1:], terms[0])


def species_features(
    kinds: Float[Tensor, "kinds columns"], table: Float[Tensor, "elements properties"]
) -> Float[Tensor, "kinds features"]:
    """Features of each species as in the paper: those of its elements, weighted by occupancy, and oxidation state."""
    return torch.cat([kinds[:, :N_ELEMENTS] @ table, kinds[:, N_ELEMENTS : N_ELEMENTS + 1]], dim=-1)


def deaf_to_charges(layer: nn.Module) -> None:
    """Set the weights of the oxidation state, the last feature of a species, to 0 at the start.

    A network that is trained on structures without oxidation states then ignores them. With random weights, which such
    structures would never change, the oxidation states of other structures would add noise.
    """
    with torch.no_grad():
        layer.get_parameter("weight")[:, -1] = 0


class SpeciesVectors(nn.Module):
    """A vector for each species: a map of its features, plus a learnt vector for each element, weighted by occupancy.

    A shared or partly empty site thus has a vector between those of its elements and of nothing.

    Args:
        width: Length of a vector.
    """

    table: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("table", torch.tensor(elements.standardised()).float(), persistent=False)
        self.of_features = nn.Linear(N_SPECIES_FEATURES, width)
        deaf_to_charges(self.of_features)
        self.of_elements = nn.Linear(N_ELEMENTS, width, bias=False)

    def forward(self, kinds: Float[Tensor, "kinds columns"]) -> Float[Tensor, "kinds width"]:
        """The vector of each row of a species table."""
        features = species_features(kinds, self.table)
        vectors: Tensor = self.of_features(features) + self.of_elements(kinds[:, :N_ELEMENTS])
        return vectors


class Ends(NamedTuple):
    """The distinct ends of pairs in a batch, each a (species, distance), and the end that each pair has.

    `features` are those of the species; `distances` are expanded in the basis.
    """

    of_pair: Int[Tensor, " pairs"]
    features: Float[Tensor, "ends features"]
    distances: Float[Tensor, "ends width"]

    def constituents(self, pairs: Pairs) -> Constituents:
        """Constituents of sites: the features of each neighbor, and its distance."""
        values = torch.cat([self.features, self.distances], dim=-1)
        return Constituents(values, self.of_pair, pairs.center, pairs.count)


def ends(batch: CrystalBatch, pairs: Pairs, species: SpeciesVectors, basis: DistanceBasis) -> Ends:
    """The distinct ends of the pairs of a batch. Distances are rounded to 1e-6 angstrom."""
    n_kinds = len(batch.kinds)
    steps = (pairs.distance.double() / _QUANTUM).round().long()
    keys, of_pair = distinct(steps * n_kinds + gather(batch.species, pairs.neighbor))
    distance = ((keys // n_kinds).double() * _QUANTUM).to(batch.kinds.dtype)
    return Ends(of_pair, gather(species_features(batch.kinds, species.table), keys % n_kinds), basis(distance))


def two_levels(distance: DistanceBasis, site_width: int, crystal_width: int) -> Mapping[str, Widths]:
    """Widths of levels "site", of neighbors and their distances, and "crystal", of sites."""
    return {
        "site": Widths(N_SPECIES_FEATURES + distance.width, site_width),
        "crystal": Widths(site_width, crystal_width),
    }


def crystal_level(
    batch: CrystalBatch, sites: Float[Tensor, "sites width"], crystals: Float[Tensor, "crystals wide"]
) -> Level:
    """The level whose sets are crystals and whose members are their sites, each counting once."""
    every_site = torch.arange(batch.n_sites, device=batch.device)
    members = Constituents(sites, every_site, batch.crystal_of_site, torch.ones_like(sites[:, 0]))
    return Level("crystal", members, crystals, torch.arange(batch.n_crystals, device=batch.device))


class MeanOverSites(nn.Module):
    """From the sites of a crystal to its vector: a layer, the mean over sites, another layer, a linear map.

    Args:
        site_width: Width of a site vector.
        crystal_width: Width of a crystal vector.
        hidden: Width of the layers.
    """

    def __init__(self, site_width: int, crystal_width: int, hidden: int) -> None:
        super().__init__()
        self.site_width, self.crystal_width, self.hidden = site_width, crystal_width, hidden
        self.before = perceptron([site_width, 2 * hidden])
        self.after = nn.Sequential(*perceptron([2 * hidden, hidden]), nn.Linear(hidden, crystal_width))

    def forward(self, sites: Float[Tensor, "sites width"], batch: CrystalBatch) -> Float[Tensor, "crystals wide"]:
        """One vector a crystal."""
        crystals: Tensor = self.after(segment_mean(self.before(sites), batch.crystal_of_site, batch.n_crystals))
        return crystals
