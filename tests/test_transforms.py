"""What each false sample keeps of the truth, and where it takes the rest from."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import AllPairs
from crystalmax.samples.transforms import (
    FalseComposition,
    FalsePermutation,
    FalsePolymorph,
    Transform,
    donor_crystals,
    donor_sites,
)
from crystalmax.spec import build, describe
from crystals import metal, oblique, perovskite, pure, quartz, random_crystals, rock_salt

TRANSFORMS = (FalseComposition(), FalsePolymorph(), FalsePermutation())

batches = st.lists(random_crystals(), min_size=2, max_size=5).map(
    lambda crystals: AllPairs(max_sites=8)(CrystalBatch.collate(crystals))
)
generators = st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


def compositions(batch):
    """How often each species occurs, crystal by crystal."""
    owners, species = batch.crystal_of_site.tolist(), batch.species.tolist()
    counts = [Counter() for _ in range(batch.n_crystals)]
    for owner, kind in zip(owners, species, strict=True):
        counts[owner][kind] += 1
    return counts


def neighborhoods(batch):
    """For each site its neighbors' species and how often each row counts."""
    pairs = batch.pairs
    rows = zip(pairs.center.tolist(), batch.species[pairs.neighbor].tolist(), pairs.count.tolist(), strict=True)
    seen = [Counter() for _ in range(batch.n_sites)]
    for center, kind, count in rows:
        seen[center][kind] += count
    return seen


def same_geometry(a, b):
    columns = ((x.pairs.center, x.pairs.neighbor, x.pairs.displacement, x.pairs.count) for x in (a, b))
    return all(torch.equal(left, right) for left, right in zip(*columns, strict=True))


@given(batch=batches, rng=generators)
def test_a_false_polymorph_keeps_species_and_neighbors(batch, rng):
    false = FalsePolymorph()(batch, rng)
    assert torch.equal(false.species, batch.species)
    assert compositions(false) == compositions(batch)
    assert neighborhoods(false) == neighborhoods(batch)


@given(batch=batches, rng=generators)
def test_each_site_of_a_false_polymorph_sees_the_distances_of_one_site_of_another_crystal(batch, rng):
    false = FalsePolymorph()(batch, rng)
    crystal = batch.crystal_of_site[batch.pairs.center]
    vectors = [
        {*map(tuple, batch.pairs.displacement[batch.pairs.center == site].tolist())} for site in range(batch.n_sites)
    ]
    for site in range(batch.n_sites):
        own = batch.pairs.center == site
        seen = [*map(tuple, false.pairs.displacement[own].tolist())]
        others = [donor for donor in range(batch.n_sites) if batch.crystal_of_site[donor] != crystal[own][0]]
        donors = [donor for donor in others if {*seen} <= vectors[donor]]
        assert donors
        # No distance twice as long as there are enough.
        assert any(len({*seen}) == min(len(seen), len(vectors[donor])) for donor in donors)


@given(batch=batches, rng=generators)
def test_all_sites_of_a_false_polymorph_have_one_donor(batch, rng):
    false = FalsePolymorph()(batch, rng)
    of_pair = batch.crystal_of_site[batch.pairs.center]
    vectors = [{*map(tuple, batch.pairs.displacement[of_pair == c].tolist())} for c in range(batch.n_crystals)]
    for c in range(batch.n_crystals):
        seen = {*map(tuple, false.pairs.displacement[of_pair == c].tolist())}
        assert any(seen <= vectors[donor] for donor in range(batch.n_crystals) if donor != c)


def test_a_false_polymorph_reaches_all_distances_of_a_donor_site_equally_often(rng):
    batch = AllPairs(max_sites=50)(CrystalBatch.collate([metal(*pure("Fe")), metal(*pure("K"), a=5.3)] * 300))
    pairs = batch.pairs
    of_potassium = pairs.displacement[pairs.center == 1]
    first_of_iron = torch.searchsorted(pairs.center, torch.arange(0, batch.n_sites, 2))
    counts = torch.zeros(len(of_potassium))
    for _ in range(5):
        seen = FalsePolymorph()(batch, rng).pairs.displacement[first_of_iron]
        counts += (seen[:, None] == of_potassium).all(-1).sum(0)
    assert len(of_potassium) == 5
    assert evenly(counts.tolist())


@given(batch=batches, rng=generators)
def test_a_false_composition_keeps_the_geometry_and_takes_species_of_one_other_crystal(batch, rng):
    false = FalseComposition()(batch, rng)
    assert same_geometry(false, batch)
    true, fake = compositions(batch), compositions(false)
    for c in range(batch.n_crystals):
        donors = [donor for donor in range(batch.n_crystals) if donor != c and fake[c].keys() <= true[donor].keys()]
        assert donors
        # Sites of the donor are taken once before any is taken twice.
        n, sizes = batch.sites_of_crystal[c].item(), batch.sites_of_crystal.tolist()
        assert any(
            all(
                true[d][kind] * (n // sizes[d]) <= taken <= true[d][kind] * -(-n // sizes[d])
                for kind, taken in fake[c].items()
            )
            for d in donors
        )


@given(batch=batches, rng=generators)
def test_a_false_permutation_keeps_composition_and_geometry(batch, rng):
    false = FalsePermutation()(batch, rng)
    assert same_geometry(false, batch)
    assert compositions(false) == compositions(batch)


def test_a_false_permutation_reaches_every_order_equally_often(rng):
    kinds = pure("Sr", "Ti", "O")
    three_sites = perovskite(kinds=kinds)
    three_sites = replace(three_sites, positions=three_sites.positions[:3], species=three_sites.species[:3])
    batch = AllPairs(max_sites=4)(CrystalBatch.collate([three_sites] * 600))
    species = FalsePermutation()(batch, rng).species.reshape(-1, 3)
    orders, counts = species.unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert evenly(counts.tolist())


def evenly(counts, expected=None):
    """Whether counts could come from these chances (by default all equal), at one in a thousand."""
    expected = expected or [sum(counts) / len(counts)] * len(counts)
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in zip(counts, expected, strict=True))
    return statistic < chi2.ppf(0.999, len(counts) - 1)


def test_the_chi_square_test_can_fail():
    assert evenly([100, 110, 95])
    assert not evenly([100, 160, 95])


def test_donors_are_the_other_crystals_equally_often(rng):
    batch = CrystalBatch.collate([rock_salt(), quartz(), perovskite(), oblique()])
    counts = torch.zeros(4, 4)
    for _ in range(600):
        counts[torch.arange(4), donor_crystals(batch, rng)] += 1
    assert (counts.diagonal() == 0).all()
    for row, own in zip(counts.tolist(), range(4), strict=True):
        assert evenly([count for donor, count in enumerate(row) if donor != own])


def test_donor_sites_are_the_sites_of_the_donor_equally_often(rng):
    batch = CrystalBatch.collate([quartz(), oblique()])
    counts = torch.zeros(13, 13)
    for _ in range(400):
        counts[torch.arange(13), donor_sites(batch, rng)] += 1
    assert (counts[:9, :9] == 0).all()
    assert (counts[9:, 9:] == 0).all()
    for row in [*counts[:9, 9:].tolist(), *counts[9:, :9].tolist()]:
        assert evenly(row)


@given(batch=batches, rng=generators)
def test_donor_sites_are_used_once_before_any_is_used_twice(batch, rng):
    donors = donor_sites(batch, rng)
    for c in range(batch.n_crystals):
        taken = donors[batch.crystal_of_site == c]
        (donor,) = batch.crystal_of_site[taken].unique().tolist()
        assert donor != c
        n, n_donor = batch.sites_of_crystal[c].item(), batch.sites_of_crystal[donor].item()
        assert len(taken.unique()) == min(n, n_donor)
        assert torch.bincount(taken).max() == -(-n // n_donor)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_the_input_stays_as_it_is_and_chance_comes_from_the_generator(transform, batch):
    species, displacement = batch.species.clone(), batch.pairs.displacement.clone()
    first, second, other = (transform(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(batch.species, species)
    assert torch.equal(batch.pairs.displacement, displacement)
    assert torch.equal(first.species, second.species)
    assert torch.equal(first.pairs.displacement, second.pairs.displacement)
    changed = [not torch.equal(first.species, other.species), not same_geometry(first, other)]
    assert any(changed)
    for name in ("lattice", "kinds", "crystal_of_site"):
        assert getattr(first, name) is getattr(batch, name)
    assert first.keys == batch.keys


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: type(t).__name__)
def test_they_are_transforms_and_survive_a_description(transform):
    assert isinstance(transform, Transform)
    assert build(describe(transform)) == transform


def test_one_crystal_alone_has_no_donor(rng):
    batch = CrystalBatch.collate([metal(*pure("Fe"))])
    with pytest.raises(ValueError, match="another crystal to come from, but this batch has 1"):
        donor_crystals(batch, rng)


def test_a_false_polymorph_needs_pairs(rng):
    with pytest.raises(ValueError, match="has no pairs; apply a geometry"):
        FalsePolymorph()(CrystalBatch.collate([rock_salt(), quartz()]), rng)
