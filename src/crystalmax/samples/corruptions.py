"""False samples that look like defects: closer to the true crystals than those of the paper, so harder to tell apart.

Dopants and swaps are transforms, since pairs stay as they are. Vacancies, interstitials and strain are alterations:
`Corrupted(Rebuilt([Vacancy()], geometry))` makes their pairs anew. A change of a site is one of all its images. Every
crystal is changed, wherever that is possible.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from crystalmax import elements
from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import nearest_images, shortest_basis
from crystalmax.samples.alterations import Altered, same_sites, with_sites
from crystalmax.segments import distinct, gather, rank_within, uniform

By = Literal["table", "charge"]
_SAME_CHARGE = 0.5
_NOBLE_GASES = 18  # their group

Sites = Int[Tensor, " chosen"]


@dataclass(frozen=True)
class Dopant:
    """Some sites with another element: a transform; distances stay.

    By the periodic table, one occupant of the site, drawn by occupancy, is replaced by an element next to it in the
    table, which keeps its charge. Lanthanides count as one place of the table, and so do actinides; all adjacent
    places, and its own if it holds other elements, are drawn equally often. By charge, the site takes a species of the
    batch with other elements, and an oxidation state that differs by at most 0.5. Where there is none, the table is
    used.

    Attributes:
        rate: Share of the sites of each crystal, rounded, and at least one site.
        by: "table" or "charge".
    """

    rate: float = 0.2
    by: str = "table"

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        if self.by not in get_args(By):
            raise ValueError(f"dopants are drawn by {self.by!r}; give one of {', '.join(get_args(By))}")

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        """The same pairs between sites of which some are doped."""
        chosen = _some_sites(batch, self.rate, rng).nonzero()[:, 0]
        host = gather(batch.species, chosen)
        kinds, dopant = _by_table(batch.kinds, host, rng)
        if self.by == "charge":
            likes = gather(_of_like_charge(batch.kinds), host)
            dopant = torch.where(likes.any(1), _drawn(likes.double(), rng), dopant)
        return replace(batch, kinds=kinds, species=batch.species.index_copy(0, chosen, dopant))


@dataclass(frozen=True)
class SiteSwap:
    """Two sites of each crystal with different species change places: a transform; composition and distances stay.

    A crystal with one species stays as it is.
    """

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        """The same pairs between sites of which two are swapped."""
        first = _first_of_each(uniform(batch.n_sites, rng, batch.device), batch)
        alike = batch.species == gather(gather(batch.species, first), batch.crystal_of_site)
        second = _first_of_each(
            (uniform(batch.n_sites, rng, batch.device) + alike) / 2, batch
        )  # those unlike the first come before others
        both = torch.cat([first, second])
        swapped = gather(batch.species, torch.cat([second, first]))
        return replace(batch, species=batch.species.index_copy(0, both, swapped))


@dataclass(frozen=True)
class Vacancy:
    """Without some sites: an alteration. The last site of a crystal stays.

    Attributes:
        rate: Share of the sites of each crystal, rounded, and at least one site.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def altered(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """The sites that remain."""
        kept = (~_some_sites(batch, self.rate, rng, spare=1)).nonzero()[:, 0]
        return Altered(with_sites(batch, kept), kept)


@dataclass(frozen=True)
class Interstitial:
    """One more site in each crystal, in a void, with a species of that crystal: an alteration.

    Attributes:
        tries: Number of random places that are tried; the one farthest from its nearest site is taken.
    """

    tries: int = 16

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries is {self.tries}; an interstitial needs at least 1 place to be tried")

    def altered(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """All sites of each crystal, then the new one."""
        places = torch.rand(batch.n_crystals, self.tries, 3, generator=rng, device=rng.device, dtype=torch.float64)
        places = places.to(batch.positions)
        best = _room(batch, places).argmax(1)
        place = places[torch.arange(batch.n_crystals, device=batch.device), best]
        twin = _first_of_each(uniform(batch.n_sites, rng, batch.device), batch)
        # A new site begins as a copy of another one, behind the sites of its crystal.
        order = torch.argsort(torch.cat([batch.crystal_of_site, gather(batch.crystal_of_site, twin)]), stable=True)
        source = torch.cat([torch.arange(batch.n_sites, device=batch.device), twin])[order]
        is_new = order >= batch.n_sites
        more = with_sites(batch, source)
        positions = more.positions.index_copy(0, is_new.nonzero()[:, 0], place)
        return Altered(replace(more, positions=positions), source.masked_fill(is_new, -1))


@dataclass(frozen=True)
class Strain:
    """Each cell, with all sites in it, stretched and sheared at random: an alteration.

    A small strain, up to 0.01 or so, gives a view of the same crystal; a large one, a false sample.

    Attributes:
        smallest: Least norm of the strain, a symmetric matrix; 0.05 is 5 % along one axis, or 3 % along all.
        largest: Greatest norm of the strain; norms are drawn uniformly between the two.
    """

    smallest: float = 0.05
    largest: float = 0.15

    def __post_init__(self) -> None:
        if not 0 <= self.smallest <= self.largest < 1:
            raise ValueError(
                f"a strain between {self.smallest} and {self.largest} is impossible; give two numbers in ascending "
                "order, from 0 to less than 1"
            )

    def altered(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """The same sites in strained cells."""
        shape = torch.randn(batch.n_crystals, 3, 3, generator=rng, device=rng.device, dtype=torch.float64)
        shape = shape + shape.mT
        chance = torch.rand(batch.n_crystals, 1, 1, generator=rng, device=rng.device, dtype=torch.float64)
        norm = self.smallest + (self.largest - self.smallest) * chance
        strain = (norm * shape / torch.linalg.matrix_norm(shape, keepdim=True)).to(batch.lattice)
        return same_sites(replace(batch, lattice=batch.lattice + batch.lattice @ strain))


# ---- which sites


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; give the share of sites to be changed, above 0 and at most 1")


def _some_sites(batch: CrystalBatch, rate: float, rng: Generator, *, spare: int = 0) -> Bool[Tensor, " sites"]:
    """A share of the sites of each crystal: at least one, unless that leaves fewer than `spare` untouched."""
    sizes = batch.sites_of_crystal
    wanted = (rate * sizes).round().long().clamp_min(1).minimum(sizes - spare)
    rank = rank_within(uniform(batch.n_sites, rng, batch.device), batch.crystal_of_site, sizes)
    return rank < gather(wanted, batch.crystal_of_site)


def _first_of_each(keys: Float[Tensor, " sites"], batch: CrystalBatch) -> Int[Tensor, " crystals"]:
    """The site of each crystal with the smallest key in [0, 1)."""
    return (rank_within(keys, batch.crystal_of_site, batch.sites_of_crystal) == 0).nonzero()[:, 0]


# ---- dopants


@cache
def near_in_table() -> Float[np.ndarray, "elements elements"]:
    """Probability that each element (row) is replaced by each other (column); rows sum to 1; read-only."""
    row, group = elements.columns("row", "group")
    steps = np.abs(row[:, None] - row) + np.abs(group[:, None] - group)
    noble = group == _NOBLE_GASES  # which nothing else is like
    near = (steps <= 1) & (noble[:, None] == noble) & ~np.eye(len(row), dtype=bool)
    same_place = (steps == 0) & near
    weight = near / (1 + same_place.sum(1))  # a place with several elements is one place
    weight = np.where(same_place, 1 / np.maximum(same_place.sum(1, keepdims=True), 1), weight)
    share: Float[np.ndarray, "elements elements"] = weight / weight.sum(1, keepdims=True)
    share.flags.writeable = False
    return share


def _by_table(
    kinds: Float[Tensor, "kinds columns"], host: Sites, rng: Generator
) -> tuple[Float[Tensor, "more columns"], Sites]:
    """The species table with the doped species appended, and the new species of each doped site."""
    n = elements.N_ELEMENTS
    leaves = _drawn(gather(kinds[:, :n], host), rng)
    comes = _drawn(gather(torch.from_numpy(np.array(near_in_table())).to(kinds.device), leaves), rng)
    keys, number = distinct((host * n + leaves) * n + comes)
    leaves, comes = keys // n % n, keys % n
    doped, each = gather(kinds, keys // n**2), torch.arange(len(keys), device=kinds.device)
    occupancy = doped[each, leaves]
    doped[each, leaves] = 0
    doped[each, comes] += occupancy
    return torch.cat([kinds, doped]), number + len(kinds)


def _of_like_charge(kinds: Float[Tensor, "kinds columns"]) -> Bool[Tensor, "kinds kinds"]:
    """Whether two species have like charges, both known, and no element in common."""
    occupancy, charge, known = kinds[:, : elements.N_ELEMENTS], kinds[:, -2], kinds[:, -1] > 0
    near = (charge[:, None] - charge).abs() <= _SAME_CHARGE
    return near & known[:, None] & known & (occupancy @ occupancy.T == 0)


def _drawn(weight: Float[Tensor, "rows columns"], rng: Generator) -> Int[Tensor, " rows"]:
    """A column of each row, drawn by weight."""
    ends = weight.double().cumsum(1)
    chance = uniform(len(weight), rng, weight.device)
    return (ends <= chance[:, None] * ends[:, -1:]).sum(1)


# ---- interstitials


def _room(batch: CrystalBatch, places: Float[Tensor, "crystals tries 3"]) -> Float[Tensor, "crystals tries"]:
    """Distance from each place, in fractional coordinates, to the nearest site of its crystal, in angstrom."""
    lattice = batch.lattice.double()
    basis = shortest_basis(lattice)
    into = lattice @ torch.linalg.inv(basis)
    sites = (batch.positions.double()[:, None] @ into[batch.crystal_of_site])[:, 0]
    n_tries = places.shape[1]
    steps = (places.double() @ into)[batch.crystal_of_site] - sites[:, None]
    crystal = batch.crystal_of_site.repeat_interleave(n_tries)
    squares = nearest_images(steps.reshape(-1, 3).T.contiguous(), basis, crystal).square().sum(0)
    nearest = squares.new_full((batch.n_crystals, n_tries), torch.inf)
    owner = batch.crystal_of_site[:, None].expand(-1, n_tries)
    return nearest.scatter_reduce(0, owner, squares.reshape(-1, n_tries), "amin").sqrt()
