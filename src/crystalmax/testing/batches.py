"""Contracts of parts that take and return batches: geometries and transforms."""

from dataclasses import fields, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from crystalmax.crystal import CrystalBatch, Occupant, pairs_of
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.samples.alterations import Alteration, Rebuilt
from crystalmax.samples.transforms import Transform
from crystalmax.segments import demand_rows, gather, segment_mean, segment_sum
from crystalmax.testing.claims import (
    check_description,
    contract,
    demand,
    demand_close,
    demand_role,
    demand_type,
    left_alone,
    own_chance,
    rewritten,
    same,
    toy_crystals,
)

_DRAWS = 5


@contract
def check_geometry(geometry: Geometry) -> None:
    """Raise if a geometry makes pairs that encoders cannot use, or that depend on how a crystal is described."""
    name = type(geometry).__name__
    demand_role(geometry, Geometry)
    check_description(geometry)
    crystals = toy_crystals()
    batch = CrystalBatch.collate(crystals)
    with left_alone(batch, name, "return a new batch with dataclasses.replace(batch, pairs=...)"):
        found = geometry(batch)
    demand_type(found, CrystalBatch, name)
    _check_pairs(found, name)
    for field in fields(CrystalBatch):
        kept = field.name == "pairs" or same(getattr(found, field.name), getattr(batch, field.name))
        demand(kept, f"{name} changed `{field.name}`; a geometry adds pairs and nothing else")
    _check_displacements(found, name)
    halves = [moments(geometry(CrystalBatch.collate(half))) for half in (crystals[:3], crystals[3:])]
    what = f"{name} gives a crystal other pairs in other company; keep crystals apart"
    demand_close(moments(found), torch.cat(halves), what)
    for how, others, order in rewritten(crystals):
        again = moments(geometry(CrystalBatch.collate(others)))
        demand_close(
            again, moments(found)[order], f"{name} gives other distances after {how}; make pairs from distances alone"
        )


def _check_displacements(batch: CrystalBatch, name: str) -> None:
    pairs = pairs_of(batch)
    steps = gather(batch.positions, pairs.neighbor) - gather(batch.positions, pairs.center)
    inverse = gather(torch.linalg.inv(batch.lattice), gather(batch.crystal_of_site, pairs.center))
    cells = (pairs.displacement.double()[:, None] @ inverse)[:, 0] - steps
    demand(
        bool((cells - cells.round()).abs().max() < 1e-4),
        f"{name} has displacements that do not lead from the center to an image of the neighbor; a displacement is "
        "(positions[neighbor] + whole cells - positions[center]) @ lattice, in angstrom",
    )


@contract
def check_transform(transform: Transform | Alteration, geometry: Geometry | None = None) -> None:
    """Raise if a transform changes its input, draws from other generators, or makes a batch that encoders cannot use.

    Args:
        transform: A transform of a batch with pairs, or an alteration.
        geometry: Makes the pairs; `AllPairs(max_sites=20)` unless given.
    """
    name, geometry = type(transform).__name__, AllPairs(max_sites=20) if geometry is None else geometry
    demand_role(transform, Alteration if hasattr(transform, "altered") else Transform)
    check_description(transform)
    transform = Rebuilt((transform,), geometry) if isinstance(transform, Alteration) else transform
    batch = geometry(CrystalBatch.collate(toy_crystals()))
    advice = "make new tensors, and return dataclasses.replace(batch, ...)"
    changed = False
    for seed in range(_DRAWS):
        with left_alone(batch, name, advice), own_chance(name):
            found = transform(batch, Generator().manual_seed(seed))
        demand_type(found, CrystalBatch, name)
        demand(
            found.n_crystals == batch.n_crystals,
            f"{name} made {found.n_crystals} crystals of {batch.n_crystals}; keep them all, in their order, since each "
            "is held against its true one",
        )
        _check_pairs(found, name)
        again = transform(batch, Generator().manual_seed(seed))
        demand(same(found, again), f"{name} gives other results for the same generator; draw all numbers from `rng`")
        changed = changed or not same(_seen(found), _seen(batch))
    what = f"{name} changed nothing in {_DRAWS} draws that encoders see, which is pairs and species; a corruption must"
    demand(changed, f"{what} differ from the truth, and so a view; change cells or positions by an alteration")
    carbon = [replace(each, species=0 * each.species, kinds=((Occupant(6, 1.0),),)) for each in toy_crystals()]
    try:
        found = transform(geometry(CrystalBatch.collate(carbon)), Generator().manual_seed(0))
    except Exception as error:
        what = f"{name} fails on crystals of one element ({error}); return the batch as it is where nothing can change"
        raise AssertionError(what) from error
    _check_pairs(found, name)


def _seen(batch: CrystalBatch) -> dict[str, object]:
    """What encoders see of a batch; not how its table of species is ordered, nor cells that its pairs ignore."""
    return {"pairs": batch.pairs, "crystals": batch.crystal_of_site, "sites": gather(batch.kinds, batch.species)}


def _check_pairs(batch: CrystalBatch, name: str) -> None:
    demand(batch.pairs is not None, f"{name} returned a batch without pairs; encoders need them")
    pairs = pairs_of(batch)
    owner = batch.crystal_of_site
    demand(len(owner) == batch.n_sites and bool((owner.diff() >= 0).all()), f"{name} left sites not grouped by crystal")
    kinds = len(batch.kinds)
    in_table = bool(((batch.species >= 0) & (batch.species < kinds)).all())
    demand(in_table, f"{name} has species that are no row of `kinds`; append new species to that table")
    grouped = bool((pairs.center.diff() >= 0).all())
    what = f"pairs from {name} are not grouped by center; sort them by `center`, as loops over sites rely on it"
    demand(grouped, what)
    for what in ("center", "neighbor"):
        demand_rows(getattr(pairs, what), batch.n_sites, f"`{what}` of pairs from {name}")
    within = torch.equal(gather(owner, pairs.center), gather(owner, pairs.neighbor))
    demand(within, f"{name} pairs sites of different crystals; look for neighbors within each crystal")
    lonely = batch.n_sites - len(torch.unique(pairs.center))
    what = f"{name} leaves {lonely} of {batch.n_sites} sites without a pair; give each at least its nearest"
    demand(lonely == 0, what)
    sound = bool((pairs.distance > 0).all() and pairs.displacement.isfinite().all() and (pairs.count > 0).all())
    demand(sound, f"{name} has pairs of length 0, or not finite, or with a count of 0; leave them out")


def moments(batch: CrystalBatch) -> Float[Tensor, "sites moments"]:
    """For each site, means of functions of distance over its pairs, and the number of pairs."""
    pairs = pairs_of(batch)
    terms = torch.stack([pairs.distance, 5 * (pairs.distance / 2).sin(), 5 * (-pairs.distance).exp()], 1).double()
    total = segment_sum(pairs.count.double(), pairs.center, batch.n_sites)
    means = segment_mean(terms, pairs.center, batch.n_sites, pairs.count.double())
    return torch.cat([means, total[:, None]], 1)
