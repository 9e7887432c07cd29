"""Other views of a crystal are still that crystal."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import AllPairs
from crystalmax.samples.alterations import Alteration, Rebuilt
from crystalmax.samples.augmentations import OtherCell, Supercell, ThermalDisplacement
from crystalmax.spec import build, describe
from crystals import metal, perovskite, pure, quartz
from test_corruptions import outcome, same_crystals, tensors
from test_negatives import network
from test_transforms import batches, compositions, evenly, generators

PARTS = (ThermalDisplacement(), Supercell(), Supercell(factor=3), OtherCell(), OtherCell(shears=0))


def where(batch):
    """Cartesian positions, in angstrom."""
    return (batch.positions[:, None] @ batch.lattice[batch.crystal_of_site])[:, 0]


def in_cells(vectors, lattice, crystal):
    return (vectors[:, None] @ torch.linalg.inv(lattice)[crystal])[:, 0]


def is_whole(numbers):
    return torch.allclose(numbers, numbers.round(), atol=1e-8)


def determinants(batch):
    return torch.linalg.det(batch.lattice).abs()


def test_heat_moves_sites_by_its_amplitude_along_every_axis(rng):
    batch = CrystalBatch.collate([quartz(), perovskite()] * 150)
    warm, origin = ThermalDisplacement(amplitude=0.08).altered(batch, rng)
    moves = where(warm) - where(batch)
    assert warm.pairs is None
    assert warm.lattice is batch.lattice
    assert warm.species is batch.species
    assert torch.equal(origin, torch.arange(batch.n_sites))
    assert moves.square().mean(0).sqrt().tolist() == pytest.approx([0.08] * 3, rel=0.06)
    assert moves.mean(0).tolist() == pytest.approx([0.0] * 3, abs=0.006)
    covariance = torch.corrcoef(moves.T) - torch.eye(3)
    assert covariance.abs().max() < 0.1


@given(batch=batches, rng=generators)
def test_without_heat_nothing_moves(batch, rng):
    assert torch.equal(ThermalDisplacement(amplitude=0.0).altered(batch, rng).batch.positions, batch.positions)


@given(batch=batches, rng=generators, factor=st.integers(2, 5))
def test_a_supercell_is_the_same_crystal_so_many_times(batch, rng, factor):
    larger, origin = Supercell(factor=factor).altered(batch, rng)
    assert larger.pairs is None
    assert torch.allclose(determinants(larger), factor * determinants(batch))
    assert torch.equal(origin, torch.arange(batch.n_sites).repeat_interleave(factor))
    assert torch.equal(larger.crystal_of_site, batch.crystal_of_site[origin])
    assert [{kind: n / factor for kind, n in own.items()} for own in compositions(larger)] == compositions(batch)
    crystal = larger.crystal_of_site
    assert is_whole(torch.linalg.solve(batch.lattice.mT, larger.lattice.mT))
    assert is_whole(in_cells(where(larger) - where(batch)[origin], batch.lattice, crystal))
    # Copies of a site are different sites: no two differ by a vector of the larger lattice.
    copies = where(larger).reshape(batch.n_sites, factor, 3)
    for one in range(factor):
        for other in range(one):
            step = in_cells(copies[:, one] - copies[:, other], larger.lattice, batch.crystal_of_site)
            assert ((step - step.round()).abs().amax(1) > 0.5 / factor - 1e-6).all()
    assert ((larger.positions >= -1e-9) & (larger.positions <= 1)).all()


@pytest.mark.parametrize(("factor", "number"), [(2, 7), (3, 13), (4, 35)])
def test_all_cells_of_a_size_are_drawn_equally_often(factor, number, rng):
    """There are as many as sublattices of that index: the sum of d * sigma(d) over its divisors d."""
    batch = CrystalBatch.collate([metal(*pure("Fe"))] * (60 * number))
    larger = Supercell(factor=factor).altered(batch, rng).batch
    shapes, counts = (larger.lattice @ torch.linalg.inv(batch.lattice)).round().unique(dim=0, return_counts=True)
    assert len(shapes) == number
    assert evenly(counts.tolist())


@given(batch=batches, rng=generators, shears=st.integers(0, 4))
def test_another_cell_holds_the_same_crystal(batch, rng, shears):
    other, origin = OtherCell(shears=shears).altered(batch, rng)
    assert other.pairs is None
    assert torch.equal(origin, torch.arange(batch.n_sites))
    assert other.species is batch.species
    assert torch.allclose(determinants(other), determinants(batch))
    assert is_whole(torch.linalg.solve(batch.lattice.mT, other.lattice.mT))
    assert is_whole(in_cells(where(other) - where(batch), batch.lattice, batch.crystal_of_site))


def test_without_a_cut_the_vectors_do_not_know_the_cell(batch, rng):
    """A crystal with as many sites as a supercell may have is its own, so all cells see the same neighbors."""
    geometry = AllPairs(max_sites=2)
    batch = geometry(batch)
    net = network()
    whole = batch.sites_of_crystal > 1
    vectors = [net(view).crystals[whole] for view in (batch, Rebuilt((OtherCell(shears=4),), geometry)(batch, rng))]
    assert torch.allclose(*vectors, atol=1e-5)
    shaken = Rebuilt((ThermalDisplacement(),), geometry)(batch, rng)
    assert not torch.allclose(vectors[0], net(shaken).crystals[whole], atol=1e-5)


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_the_input_stays_as_it_is_and_chance_comes_from_the_generator(part, batch):
    before = tensors(batch)
    first, second, other = (outcome(part, batch, seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, tensors(batch)[name]) for name, value in before.items())
    assert same_crystals(first, second)
    assert not same_crystals(first, other)
    assert first.keys == batch.keys
    assert first.targets is batch.targets


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_they_are_alterations_and_survive_a_description(part):
    assert isinstance(part, Alteration)
    assert build(describe(part)) == part


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThermalDisplacement(amplitude=-0.1), "amplitude is -0.1 angstrom"),
        (lambda: Supercell(factor=1), "factor is 1; a supercell has at least 2 cells"),
        (lambda: OtherCell(shears=-1), "shears is -1; give how often"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
