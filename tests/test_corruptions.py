"""What each defect changes, and what it leaves alone."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch, Occupant
from crystalmax.elements import ATOMIC_NUMBERS, N_ELEMENTS, SYMBOLS
from crystalmax.geometry import AllPairs
from crystalmax.samples.alterations import Alteration
from crystalmax.samples.corruptions import Dopant, Interstitial, SiteSwap, Strain, Vacancy, near_in_table
from crystalmax.samples.transforms import Transform
from crystalmax.spec import build, describe
from crystals import crystal, metal, mixed, oblique, perovskite, pure, rock_salt
from test_transforms import batches, compositions, evenly, generators, same_geometry

TRANSFORMS = (Dopant(), Dopant(rate=0.5, by="charge"), SiteSwap())
ALTERATIONS = (Vacancy(), Vacancy(rate=0.6), Interstitial(tries=3), Strain(), Strain(smallest=0.0, largest=0.01))

rates = st.floats(0.01, 1.0)


def occupancies(batch):
    return batch.kinds[batch.species][:, :N_ELEMENTS]


def charged(**charges):
    """One full site for each element, with its charge."""
    return tuple((Occupant(ATOMIC_NUMBERS[symbol], 1.0, charge),) for symbol, charge in charges.items())


def symbols(batch):
    return [SYMBOLS[column] for column in occupancies(batch).argmax(1).tolist()]


# ---- dopants


@given(batch=batches, rng=generators, rate=rates, by=st.sampled_from(["table", "charge"]))
def test_a_dopant_takes_so_many_sites_of_each_crystal_and_no_distance_changes(batch, rng, rate, by):
    doped = Dopant(rate=rate, by=by)(batch, rng)
    assert same_geometry(doped, batch)
    changed = (batch.kinds[batch.species] != doped.kinds[doped.species]).any(1)
    sizes = batch.sites_of_crystal
    wanted = [max(1, round(rate * size)) for size in sizes.tolist()]
    found = torch.bincount(batch.crystal_of_site[changed], minlength=len(sizes)).tolist()
    assert found == pytest.approx(wanted, abs=0 if all(abs(rate * n % 1 - 0.5) > 1e-3 for n in sizes.tolist()) else 1)


@given(batch=batches, rng=generators)
def test_a_dopant_gives_one_occupant_s_place_and_charge_to_an_element_near_it(batch, rng):
    doped = Dopant(rate=0.7)(batch, rng)
    before, after = occupancies(batch).double(), occupancies(doped).double()
    assert torch.allclose(before.sum(1), after.sum(1))
    assert torch.equal(batch.kinds[batch.species][:, N_ELEMENTS:], doped.kinds[doped.species][:, N_ELEMENTS:])
    for site in (before != after).any(1).nonzero()[:, 0].tolist():
        change = after[site] - before[site]
        (leaves,), (comes,) = ((sign * change > 0).nonzero()[:, 0].tolist() for sign in (-1, 1))
        assert near_in_table()[leaves, comes] > 0
        assert change[leaves] == -before[site, leaves]
        assert change[comes] == pytest.approx(before[site, leaves].item())


def test_all_places_next_to_an_element_are_drawn_equally_often(rng):
    batch = CrystalBatch.collate([metal(*pure("Fe"))] * 900)
    found, counts = np.unique(symbols(Dopant()(batch, rng)), return_counts=True)
    assert found.tolist() == ["Co", "Mn", "Ru"]
    assert evenly(counts.tolist())


def test_which_occupant_leaves_is_drawn_by_occupancy(rng):
    batch = CrystalBatch.collate([metal(mixed(Na=0.25, F=0.75))] * 1200)
    after = occupancies(Dopant()(batch, rng))
    sodium_left = int((after[:, ATOMIC_NUMBERS["Na"] - 1] == 0).sum())
    assert evenly([sodium_left, 1200 - sodium_left], [300, 900])


def test_a_dopant_may_join_one_of_its_element(rng):
    batch = CrystalBatch.collate([metal(mixed(Na=0.5, K=0.5))] * 100)
    after = occupancies(Dopant()(batch, rng))
    assert torch.allclose(after.sum(1), torch.ones(100).to(after))
    assert (after == 1).any()


def test_the_table_knows_who_is_next_to_whom():
    share = near_in_table()
    assert share.sum(1) == pytest.approx(1.0)
    assert (np.diag(share) == 0).all()
    assert not share.flags.writeable  # it is made once for all
    assert ((share > 0) == (share > 0).T).all()

    def near(symbol):
        return {SYMBOLS[column] for column in share[ATOMIC_NUMBERS[symbol] - 1].nonzero()[0]}

    assert near("Na") == {"Li", "K", "Mg"}
    assert near("O") == {"N", "F", "S"}
    assert near("Ar") == {"Ne", "Kr"}
    assert near("F") == {"O", "Cl"}
    lanthanides = set(SYMBOLS[56:71])
    assert near("Gd") >= lanthanides - {"Gd"}
    assert near("Hf") == {"Zr", "Ta"} | lanthanides
    of_place = share[ATOMIC_NUMBERS["Hf"] - 1, 56:71].sum()
    assert of_place == pytest.approx(1 / 3)
    assert share[ATOMIC_NUMBERS["Gd"] - 1, 56:71].sum() == pytest.approx(share[ATOMIC_NUMBERS["Gd"] - 1].max())


def test_a_dopant_by_charge_has_a_like_charge_and_another_element(rng):
    kinds = charged(Fe=2.0, Mg=2.0, Na=1.0, O=-2.0, S=-2.0)
    chain = crystal("chain", 9 * np.eye(3), [[0, 0, n / 5] for n in range(5)], range(5), kinds)
    batch = CrystalBatch.collate([chain] * 300)
    doped = Dopant(rate=0.2, by="charge")(batch, rng)
    swaps = {pair for pair in zip(symbols(batch), symbols(doped), strict=True) if len({*pair}) == 2}
    assert {pair for pair in swaps if pair[0] != "Na"} == {("Fe", "Mg"), ("Mg", "Fe"), ("O", "S"), ("S", "O")}
    # Nothing else has one positive charge, so sodium goes by the table.
    assert {pair for pair in swaps if pair[0] == "Na"} == {("Na", "Li"), ("Na", "K"), ("Na", "Mg")}
    assert torch.equal(doped.kinds[doped.species][:, -2], batch.kinds[batch.species][:, -2])


def test_like_charges_differ_by_a_half_at_most_and_are_of_other_elements(rng):
    kinds = (*charged(Fe=2.0, Mg=2.5, Zr=3.125), (Occupant(ATOMIC_NUMBERS["Fe"], 1.0, 2.25),))
    chain = crystal("chain", 9 * np.eye(3), [[0, 0, n / 4] for n in range(4)], range(4), kinds)
    batch = CrystalBatch.collate([chain] * 100)
    doped = Dopant(rate=1.0, by="charge")(batch, rng)
    became = dict(zip(symbols(batch), np.reshape(symbols(doped), (-1, 4)).T.tolist(), strict=False))
    assert set(became["Fe"]) == {"Mg"}
    assert set(became["Mg"]) == {"Fe"}
    assert set(became["Zr"]) == {"Ti", "Y", "Nb", "Hf"}  # by the table
    assert set(doped.species.reshape(-1, 4)[:, 1].tolist()) == set(batch.species[[0, 3]].tolist())


def test_without_charges_the_table_decides():
    batch = CrystalBatch.collate([perovskite(), rock_salt()])
    one, other = (Dopant(by=by)(batch, torch.Generator().manual_seed(3)) for by in ("table", "charge"))
    assert torch.equal(one.kinds[one.species], other.kinds[other.species])


# ---- swaps


@given(batch=batches, rng=generators)
def test_a_swap_exchanges_two_unlike_sites_of_each_crystal_that_has_them(batch, rng):
    swapped = SiteSwap()(batch, rng)
    assert same_geometry(swapped, batch)
    assert swapped.kinds is batch.kinds
    assert compositions(swapped) == compositions(batch)
    changed = torch.bincount(batch.crystal_of_site[swapped.species != batch.species], minlength=batch.n_crystals)
    assert changed.tolist() == [2 if len(species) > 1 else 0 for species in compositions(batch)]


def test_every_unlike_couple_is_swapped_equally_often(rng):
    line = crystal("line", 8 * np.eye(3), [[0, 0, n / 3] for n in range(3)], range(3), pure("Li", "O", "Fe"))
    batch = CrystalBatch.collate([line] * 600)
    orders, counts = SiteSwap()(batch, rng).species.reshape(-1, 3).unique(dim=0, return_counts=True)
    assert len(orders) == 3
    assert evenly(counts.tolist())


# ---- vacancies


@given(batch=batches, rng=generators, rate=rates)
def test_vacancies_take_so_many_sites_and_leave_the_others_as_they_were(batch, rng, rate):
    left, origin = Vacancy(rate=rate).altered(batch, rng)
    assert left.pairs is None
    assert (origin.diff() > 0).all()
    for name in ("positions", "species", "crystal_of_site"):
        assert torch.equal(getattr(left, name), getattr(batch, name)[origin])
    sizes = batch.sites_of_crystal.tolist()
    gone = [size - rest for size, rest in zip(sizes, left.sites_of_crystal.tolist(), strict=True)]
    for size, number in zip(sizes, gone, strict=True):
        assert number <= size - 1
        assert abs(number - min(max(1, rate * size), size - 1)) <= 0.5
    assert left.lattice is batch.lattice


def test_every_site_is_vacated_equally_often(rng):
    batch = CrystalBatch.collate([perovskite()] * 1000)
    kept = Vacancy(rate=0.4).altered(batch, rng).origin % 5
    assert len(kept) == 3000
    assert evenly((1000 - torch.bincount(kept)).tolist(), [400.0] * 5)


# ---- interstitials


def nearest_site(one, place):
    """The distance from a place to the nearest site, over all images within five cells."""
    cells = np.array(list(product(range(-5, 6), repeat=3)))
    steps = (one.positions[:, None] + cells - place).reshape(-1, 3) @ one.lattice
    return np.sqrt((steps**2).sum(1)).min()


@given(batch=batches, rng=generators)
def test_an_interstitial_is_one_more_site_behind_the_others_of_its_crystal(batch, rng):
    more, origin = Interstitial(tries=2).altered(batch, rng)
    assert more.pairs is None
    assert torch.equal(more.sites_of_crystal, batch.sites_of_crystal + 1)
    old, new = origin >= 0, (origin < 0).nonzero()[:, 0]
    assert torch.equal(origin[old], torch.arange(batch.n_sites))
    assert torch.equal(new, more.sites_of_crystal.cumsum(0) - 1)
    for name in ("positions", "species", "crystal_of_site"):
        assert torch.equal(getattr(more, name)[old], getattr(batch, name))
    for site, own in zip(new.tolist(), compositions(batch), strict=True):
        assert more.species[site].item() in own
    assert ((more.positions[new] >= 0) & (more.positions[new] < 1)).all()


def test_an_interstitial_goes_to_the_place_with_most_room(crystals):
    tries, skew = 5, 3.0 * np.array([[1, 0, 0], [3, 1, 0], [0, -3, 1]])
    crystals = [*crystals, *(crystal(str(n), skew, [[0.1 * n, 0.2, 0.3]], [0], pure("Po")) for n in range(6))]
    batch = CrystalBatch.collate(crystals)
    places = torch.rand(
        batch.n_crystals, tries, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    ).numpy()
    more, origin = Interstitial(tries=tries).altered(batch, torch.Generator().manual_seed(9))
    found = more.positions[origin < 0].numpy()
    for one, candidates, place in zip(crystals, places, found, strict=True):
        rooms = [nearest_site(one, candidate) for candidate in candidates]
        assert candidates[np.argmax(rooms)] == pytest.approx(place)


def test_an_interstitial_is_of_each_species_as_often_as_sites_are(rng):
    more, origin = Interstitial(tries=1).altered(CrystalBatch.collate([perovskite()] * 1000), rng)
    assert evenly(torch.bincount(more.species[origin < 0]).tolist(), [200, 200, 600])


def test_with_many_tries_an_interstitial_finds_the_void(rng):
    cubic = crystal("cubic", 3 * np.eye(3), [[0.1, 0.2, 0.3]], [0], pure("Po"))
    more, _ = Interstitial(tries=3000).altered(CrystalBatch.collate([cubic]), rng)
    assert more.positions[1].tolist() == pytest.approx([0.6, 0.7, 0.8], abs=0.1)


# ---- strain


@given(batch=batches, rng=generators, bounds=st.lists(st.floats(0, 0.5), min_size=2, max_size=2).map(sorted))
def test_strain_is_symmetric_within_its_bounds_and_keeps_fractional_coordinates(batch, rng, bounds):
    strained, origin = Strain(*bounds).altered(batch, rng)
    assert strained.pairs is None
    assert torch.equal(origin, torch.arange(batch.n_sites))
    assert strained.positions is batch.positions
    assert strained.species is batch.species
    strain = torch.linalg.solve(batch.lattice, strained.lattice) - torch.eye(3)
    assert torch.allclose(strain, strain.mT, atol=1e-9)
    norms = torch.linalg.matrix_norm(strain)
    assert ((norms >= bounds[0] - 1e-9) & (norms <= bounds[1] + 1e-9)).all()
    assert (torch.linalg.det(strained.lattice) * torch.linalg.det(batch.lattice) > 0).all()


def test_norms_of_strains_are_drawn_evenly_for_each_crystal(rng):
    batch = CrystalBatch.collate([rock_salt()] * 500)
    strain = torch.linalg.solve(batch.lattice, Strain(0.1, 0.3).altered(batch, rng).batch.lattice) - torch.eye(3)
    norms = torch.linalg.matrix_norm(strain)
    assert torch.allclose(norms.sort().values, torch.linspace(0.1, 0.3, 500).to(norms), atol=0.02)
    assert (strain.reshape(500, 9).mean(0).abs() < 0.02).all()


# ---- all of them


def tensors(batch):
    return {
        name: value.clone() for name, value in {**vars(batch), **vars(batch.pairs)}.items() if torch.is_tensor(value)
    }


def outcome(part, batch, seed):
    rng = torch.Generator().manual_seed(seed)
    return part(batch, rng) if isinstance(part, Transform) else part.altered(batch, rng).batch


def same_crystals(one, other):
    sites = [(batch.kinds[batch.species], batch.positions, batch.lattice) for batch in (one, other)]
    return all(len(a) == len(b) and torch.equal(a, b) for a, b in zip(*sites, strict=True))


@pytest.mark.parametrize("part", [*TRANSFORMS, *ALTERATIONS], ids=repr)
def test_the_input_stays_as_it_is_and_chance_comes_from_the_generator(part, batch):
    before = tensors(batch)
    first, second, other = (outcome(part, batch, seed) for seed in (1, 1, 2))
    assert all(torch.equal(value, tensors(batch)[name]) for name, value in before.items())
    assert same_crystals(first, second)
    assert not same_crystals(first, other)
    assert not same_crystals(first, batch)
    assert first.keys == batch.keys
    assert first.targets is batch.targets


@pytest.mark.parametrize("part", [*TRANSFORMS, *ALTERATIONS], ids=repr)
def test_they_have_their_roles_and_survive_a_description(part):
    assert isinstance(part, Transform) != isinstance(part, Alteration)
    assert build(describe(part)) == part


@pytest.mark.parametrize("part", [*TRANSFORMS, *ALTERATIONS], ids=repr)
def test_there_is_no_loop_over_crystals(part):
    """A batch of 400 crystals calls torch no more often than one of 4, but for loops that end when all are done."""

    def calls(n):
        batch = AllPairs(max_sites=4)(CrystalBatch.collate([oblique(), rock_salt()] * (n // 2)))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            outcome(part, batch, 0)
        return sum(event.count for event in profile.key_averages() if event.key.startswith("aten::"))

    assert calls(400) < 1.2 * calls(4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dopant(rate=0.0), "rate is 0.0; give the share"),
        (lambda: Dopant(by="mass"), "drawn by 'mass'; give one of table, charge"),
        (lambda: Vacancy(rate=1.5), "rate is 1.5; give the share"),
        (lambda: Interstitial(tries=0), "tries is 0; an interstitial needs"),
        (lambda: Strain(smallest=0.2, largest=0.1), "a strain between 0.2 and 0.1 is impossible"),
        (lambda: Strain(smallest=0.2, largest=1.0), "a strain between 0.2 and 1.0 is impossible"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
