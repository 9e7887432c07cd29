"""Crystals as arrays, and many of them end to end."""

import math
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import N_KIND_COLUMNS, Crystal, CrystalBatch, Occupant, Pairs, kind_table
from crystalmax.elements import N_ELEMENTS
from crystalmax.geometry import AllPairs
from crystals import deficient_perovskite, metal, mixed, oblique, perovskite, pure, quartz, random_crystals, rock_salt


def test_a_crystal_knows_its_volume_and_composition():
    assert rock_salt(a=4.0).volume == pytest.approx(16.0)
    assert rock_salt().composition() == {11: 1.0, 17: 1.0}
    assert quartz().composition() == {14: 3.0, 8: 6.0}
    assert deficient_perovskite().composition() == pytest.approx({20: 0.3, 38: 0.7, 22: 1.0, 8: 2.4})


def test_ordered_means_every_site_full_of_one_element():
    assert perovskite().is_ordered
    assert not deficient_perovskite().is_ordered
    assert not metal(mixed(Fe=0.5, Ni=0.5)).is_ordered
    assert not metal(mixed(O=0.8)).is_ordered


def test_a_crystal_is_not_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        rock_salt().key = "other"


def test_a_species_row_is_occupancies_then_charge_then_whether_it_is_known():
    rows = kind_table(
        [
            (Occupant(26, 1.0),),
            (Occupant(26, 0.5), Occupant(28, 0.5)),
            (Occupant(8, 0.8, -2.0),),
            (Occupant(25, 0.25, 2.0), Occupant(25, 0.75, 4.0)),
            (Occupant(26, 0.5, 3.0), Occupant(28, 0.5)),
            (Occupant(26, 1.0, 0.0),),
        ]
    )
    assert rows.shape == (6, N_KIND_COLUMNS) == (6, N_ELEMENTS + 2)
    assert rows[0, 25] == 1.0
    assert rows[0].sum() == 1.0
    assert (rows[1, 25], rows[1, 27]) == (0.5, 0.5)
    assert rows[2, 7] == np.float32(0.8)
    assert rows[2, N_ELEMENTS:].tolist() == [-2.0, 1.0]
    assert rows[3, 24] == 1.0
    assert rows[3, N_ELEMENTS:].tolist() == [3.5, 1.0]
    assert rows[4, N_ELEMENTS:].tolist() == [0.0, 0.0]
    assert rows[5, N_ELEMENTS:].tolist() == [0.0, 1.0]
    assert kind_table([]).shape == (0, N_KIND_COLUMNS)


@given(crystals=st.lists(random_crystals(), min_size=1, max_size=5))
def test_a_batch_holds_every_crystal(crystals):
    batch = CrystalBatch.collate(crystals)
    assert batch.n_crystals == len(crystals)
    assert batch.n_sites == sum(crystal.n_sites for crystal in crystals)
    assert batch.sites_of_crystal.tolist() == [crystal.n_sites for crystal in crystals]
    assert batch.keys == tuple(crystal.key for crystal in crystals)
    for i, crystal in enumerate(crystals):
        own = batch.crystal_of_site == i
        np.testing.assert_array_equal(batch.lattice[i], crystal.lattice)
        np.testing.assert_array_equal(batch.positions[own], crystal.positions)
        np.testing.assert_array_equal(batch.kinds[batch.species[own]], kind_table(crystal.kinds)[crystal.species])


def test_equal_species_of_different_crystals_share_a_row():
    batch = CrystalBatch.collate([perovskite(), quartz(), deficient_perovskite(), perovskite()])
    # Sr, Ti, O, Si, and from the deficient one Ca0.3Sr0.7 and O0.8.
    assert len(batch.kinds) == 6
    assert len(batch.kinds.unique(dim=0)) == 6
    assert batch.species[2] == batch.species[-1] == batch.species[5 + 3]
    assert batch.positions.dtype == batch.lattice.dtype == torch.float64


def test_order_of_crystals_decides_no_row_of_the_species_table():
    one, other = [perovskite(), quartz()], [quartz(), perovskite()]
    assert torch.equal(CrystalBatch.collate(one).kinds, CrystalBatch.collate(other).kinds)


def test_missing_targets_are_nan():
    crystals = [replace(rock_salt(), targets={"gap": 8.5}), replace(quartz(), targets={"hardness": 7.0})]
    targets = CrystalBatch.collate(crystals).targets
    assert targets["gap"][0] == 8.5
    assert targets["hardness"][1] == 7.0
    assert targets["gap"][1].isnan()
    assert targets["hardness"][0].isnan()


def test_a_batch_moves_with_everything_in_it():
    batch = AllPairs(max_sites=8)(CrystalBatch.collate([replace(oblique(), targets={"gap": 1.0}), rock_salt()]))
    moved = batch.to("meta")
    for part in (moved, moved.pairs):
        for column in fields(part):
            value = getattr(part, column.name)
            tensors = value.values() if isinstance(value, dict) else [value]
            assert all(tensor.device.type == "meta" for tensor in tensors if isinstance(tensor, torch.Tensor))
    assert moved.device.type == "meta"
    assert moved.targets
    assert CrystalBatch.collate([rock_salt()]).to("cpu").pairs is None


def test_distance_is_the_length_of_the_displacement():
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([[2.0, 3.0, 6.0]]), torch.ones(1))
    assert pairs.distance.item() == pytest.approx(math.sqrt(4 + 9 + 36))


def test_shapes_that_do_not_fit_are_refused_where_shapes_are_checked():
    with pytest.raises(TypeError):
        Crystal(np.eye(3), np.zeros((2, 3)), np.array([0]), pure("Fe"))
