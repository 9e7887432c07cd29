import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.crystal import Crystal, Occupant, formula
from crystalmax.elements import FEATURES, SYMBOLS, table
from crystalmax.statistics import baselines, electrons
from crystalmax.statistics.baselines import (
    BLOCKS,
    SHELLS,
    composition_statistics,
    density_statistics,
    element_fractions,
    modulus_statistics,
    potential_statistics,
    spring_statistics,
    statistics,
    statistics_widths,
    structure_statistics,
)
from crystalmax.statistics.surroundings import CUTOFF, FADING, surroundings

ALL_FEATURES = tuple(BLOCKS.values())
Z = {symbol: z for z, symbol in enumerate(SYMBOLS, start=1)}


def pure(*symbols):
    return tuple((Occupant(Z[symbol], 1.0),) for symbol in symbols)


def cubic(a, positions, species, kinds, key="cubic"):
    return Crystal(a * np.eye(3), np.array(positions, dtype=float), np.array(species), kinds, key)


ROCK_SALT = Crystal(
    2.82 * (np.ones((3, 3)) - np.eye(3)),
    np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]),
    np.array([0, 1]),
    pure("Na", "Cl"),
    "rock salt",
)


def repeated(crystal, times):
    """The same crystal in a cell that is larger along each axis, with the sites in another order."""
    shifts = np.array(list(product(*(range(n) for n in times))), dtype=float)
    positions = ((crystal.positions[:, None] + shifts) / np.array(times)).reshape(-1, 3)
    return replace(
        crystal,
        lattice=crystal.lattice * np.array(times)[:, None],
        positions=positions,
        species=np.repeat(crystal.species, len(shifts)),
    )


def random_crystal(seed, n_sites):
    rng = np.random.default_rng(seed)
    kinds = ((Occupant(8, 1.0),), (Occupant(26, 0.5), Occupant(28, 0.5)), (Occupant(11, 0.7),))
    lattice = np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-1, 1, (3, 3))
    return Crystal(lattice, rng.random((n_sites, 3)), rng.integers(0, 3, n_sites), kinds, f"random {seed}")


SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 5)


@pytest.mark.parametrize("features", ALL_FEATURES)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n_sites=SIZES, times=st.sampled_from([(2, 1, 1), (1, 1, 2), (1, 2, 2)]))
def test_features_do_not_depend_on_the_choice_of_cell(features, seed, n_sites, times):
    rng = np.random.default_rng(seed)
    crystal = random_crystal(seed, n_sites)
    larger = repeated(crystal, times)
    order = rng.permutation(larger.n_sites)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    skewed = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]])
    other = replace(
        larger,
        lattice=skewed @ larger.lattice @ rotation,
        positions=(larger.positions[order] + rng.random(3)) @ np.linalg.inv(skewed),
        species=larger.species[order],
    )
    ours, theirs = features([crystal, other])[0]
    np.testing.assert_allclose(theirs, ours, atol=1e-6)


@pytest.mark.parametrize("features", ALL_FEATURES)
def test_one_named_finite_row_a_crystal(features):
    lone = cubic(30.0, [[0, 0, 0]], [0], pure("He"), "an atom far from its images")
    values, names = features([ROCK_SALT, lone])
    assert values.shape == (2, len(names))
    assert len(set(names)) == len(names)
    assert np.isfinite(values).all()


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n_sites=SIZES)
def test_pairs_equal_a_loop_over_all_images(seed, n_sites):
    crystal = replace(random_crystal(seed, n_sites), kinds=pure("O", "Fe", "Na"))
    around = surroundings(crystal)
    cartesian = crystal.positions % 1.0 @ crystal.lattice
    found = []
    for image in product(range(-6, 7), repeat=3):
        shift = np.array(image) @ crystal.lattice
        for i, here in enumerate(cartesian):
            for there in cartesian:
                distance = np.linalg.norm(there + shift - here)
                if 0.1 < distance < CUTOFF:
                    found.append((i, distance))
    ours = sorted(zip(around.center.tolist(), around.distance.tolist(), strict=True))
    np.testing.assert_allclose(ours, sorted(found), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(around.displacement, axis=1), around.distance)


def named(features, crystal):
    values, names = features([crystal])
    return dict(zip(names, values[0], strict=True))


def test_rock_salt_has_its_textbook_numbers():
    numbers = named(structure_statistics, ROCK_SALT)
    assert numbers["density"] == pytest.approx(2.164, abs=0.01)
    assert numbers["min nearest distance"] == pytest.approx(2.82)
    assert numbers["max nearest distance"] == pytest.approx(2.82)
    assert numbers["mean coordination"] == pytest.approx(6.0, abs=0.05)
    assert numbers["mean neighbor species"] == pytest.approx(1.0, abs=0.01)
    assert numbers["mean bonds to own species"] == pytest.approx(0.0, abs=0.01)
    step = table()[Z["Cl"] - 1, FEATURES.index("electronegativity")] - 0.93
    assert numbers["mean electronegativity step"] == pytest.approx(step, abs=0.02)
    assert numbers["deviation coordination"] < 0.01


def test_angular_order_tells_an_octahedron_from_a_tetrahedron():
    zinc_blende = replace(ROCK_SALT, positions=np.array([[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]]))
    degrees = (1, 2, 4, 6)
    expected = {"octahedron": (0, 0, 0.7638, 0.3536), "tetrahedron": (0, 0, 0.5092, 0.6285)}
    for crystal, order in zip((ROCK_SALT, zinc_blende), expected.values(), strict=True):
        found = surroundings(crystal).angular_order(degrees)
        np.testing.assert_allclose(found, [order, order], atol=0.01)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_springs_are_those_of_a_loop_over_pairs(seed, n_sites):
    crystal = random_crystal(seed, n_sites)
    around, found = surroundings(crystal), surroundings(crystal).swings()
    for site in range(n_sites):
        radius, weight = around.radius[site], around.weight[site]
        grip = around.electronegativity * around.valence
        stiffness = grip[site] * (2 * radius / CUTOFF) ** 5
        fastest = stiffness / weight
        for center, neighbor, distance in zip(around.center, around.neighbor, around.distance, strict=True):
            if center == site:
                spring = (grip[site] * grip[neighbor]) ** 0.5 * ((radius + around.radius[neighbor]) / distance) ** 5
                x = min(max((distance - FADING) / (CUTOFF - FADING), 0), 1)
                spring *= 1 - x * x * (3 - 2 * x)
                stiffness += around.atoms[neighbor] * spring
                fastest = max(fastest, spring / weight + spring / around.weight[neighbor])
        assert found["stiffness"][site] == pytest.approx(math.log(stiffness))
        assert found["frequency"][site] == pytest.approx(math.log(stiffness / weight) / 2)
        assert found["frequency of a pair"][site] == pytest.approx(math.log(fastest) / 2)


def test_lighter_atoms_on_the_same_springs_swing_faster():
    around = surroundings(ROCK_SALT)  # Na is lighter than Cl, and both have six of the other at one distance
    sodium, chlorine = (around.weight == table()[Z[name] - 1, FEATURES.index("atomic_weight")] for name in ("Na", "Cl"))
    frequency = around.swings()["frequency"]
    assert frequency[sodium].min() > frequency[chlorine].max()


@pytest.mark.parametrize(("symbol", "edge"), [("K", 5.33), ("Cs", 6.14), ("Fe", 2.87)])
def test_springs_and_moduli_change_as_smoothly_as_the_lattice_does(symbol, edge):
    """Neighbours came into sight at 9 angstrom with all of their springs: the bulk modulus of K fell by a fifth."""
    centred = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    scan = [cubic(edge * strain, centred, [0, 0], pure(symbol)) for strain in np.linspace(0.99, 1.03, 81)]
    numbers = np.concatenate([spring_statistics(scan)[0], modulus_statistics(scan)[0]], axis=1)
    assert np.abs(np.diff(numbers, axis=0)).max() < 0.02


@pytest.mark.filterwarnings("error")
def test_one_atom_alone_is_held_by_itself():
    far = cubic(30.0, [[0, 0, 0]], [0], pure("Cs"))
    assert np.isfinite(spring_statistics([far])[0]).all()
    around = surroundings(far)
    radius, weight = around.radius[0], around.weight[0]
    stiffness = around.electronegativity[0] * (2 * radius / CUTOFF) ** 5  # of one valence electron
    for name, expected in (("stiffness", stiffness), ("frequency of a pair", (stiffness / weight) ** 0.5)):
        assert around.swings()[name] == pytest.approx(math.log(expected)), name
    assert (around.nearest, around.nearest_relative) == (CUTOFF, pytest.approx(CUTOFF / (2 * radius)))


def test_densities_of_rock_salt():
    numbers = named(density_statistics, ROCK_SALT)
    radius = table()[:, FEATURES.index("radius")]
    cubes = radius[Z["Na"] - 1] ** 3 + radius[Z["Cl"] - 1] ** 3
    moment = radius[Z["Na"] - 1] ** 2 + 7 * radius[Z["Cl"] - 1] ** 2
    expected = {"atoms": 2, "all electrons": 28, "valence electrons": 8, "holes": 2}
    expected |= {"cubed covalent radii": cubes, "second moment of valence electrons": moment}
    for name, of_formula in expected.items():
        assert numbers[f"{name} by volume"] == pytest.approx(of_formula / ROCK_SALT.volume), name


def test_potential_of_rock_salt():
    numbers = named(potential_statistics, ROCK_SALT)
    radius = table()[:, FEATURES.index("radius")]
    moment = radius[Z["Na"] - 1] ** 2 + 7 * radius[Z["Cl"] - 1] ** 2
    assert numbers["second moment of s and p electrons by volume"] == pytest.approx(moment / ROCK_SALT.volume)
    assert numbers["second moment of d electrons by volume"] == 0
    assert numbers["electronegativity of atoms"] == pytest.approx((0.93 + 3.16) / 2)
    level = electrons.table()[:, electrons.FEATURES.index("highest_level")]
    assert numbers["highest level of atoms"] == pytest.approx((level[Z["Na"] - 1] + level[Z["Cl"] - 1]) / 2)


def test_electrons_of_each_kind_of_shell_have_a_moment_of_their_own():
    for element, kinds in (("Fe", ("s and p", "d")), ("Ce", ("s and p", "d", "f")), ("Ca", ("s and p",))):
        numbers = named(potential_statistics, cubic(3.0, [[0, 0, 0]], [0], pure(element)))
        for kind in ("s and p", "d", "f"):
            assert (numbers[f"second moment of {kind} electrons by volume"] > 0) == (kind in kinds), (element, kind)


def test_pairs_far_away_tend_to_the_mean_density():
    numbers = named(structure_statistics, ROCK_SALT)
    far = [value for name, value in numbers.items() if name.startswith(("pairs at 6", "pairs at 7"))]
    assert np.mean(far) == pytest.approx(2 / ROCK_SALT.volume, rel=0.2)


def test_composition_statistics_are_weighted_by_fraction():
    rutile_like = cubic(4.0, [[0, 0, 0], [0.3, 0.3, 0], [0.7, 0.7, 0]], [0, 1, 1], pure("Ti", "O"))
    numbers = named(composition_statistics, rutile_like)
    assert numbers["mean atomic_number"] == pytest.approx((22 + 8 + 8) / 3)
    assert numbers["deviation atomic_number"] == pytest.approx((28 / 3 + 2 * 14 / 3) / 3)
    assert (numbers["min atomic_number"], numbers["max atomic_number"], numbers["range atomic_number"]) == (8, 22, 14)


def test_occupancy_counts():
    mixed, vacant = (Occupant(26, 0.5), Occupant(28, 0.5)), (Occupant(8, 0.8),)
    crystal = cubic(4.2, [[0, 0, 0], [0.5, 0.5, 0.5]], [0, 1], (mixed, vacant))
    fractions = named(element_fractions, crystal)
    assert fractions["fraction of Fe"] == pytest.approx(0.5 / 1.8)
    assert fractions["fraction of O"] == pytest.approx(0.8 / 1.8)
    full = replace(crystal, kinds=(mixed, (Occupant(8, 1.0),)))
    iron = replace(crystal, kinds=((Occupant(26, 1.0),), vacant))
    rows, _ = structure_statistics([crystal, full, iron])
    assert len(np.unique(rows.round(6), axis=0)) == 3


def test_alternative_places_of_one_atom_are_not_neighbours():
    half = (Occupant(8, 0.5),)
    split = cubic(4.0, [[0, 0, 0], [0.1, 0, 0]], [0, 0], (half,))
    assert named(structure_statistics, split)["min nearest distance"] == pytest.approx(3.6)
    both = replace(split, kinds=((Occupant(8, 1.0),),))
    assert named(structure_statistics, both)["min nearest distance"] == pytest.approx(0.4)
    reach = 0.6 * 2 * table()[Z["O"] - 1, FEATURES.index("radius")]
    for apart, nearest in ((reach - 0.01, 4.01 - reach), (reach + 0.01, reach + 0.01)):
        moved = replace(split, positions=np.array([[0, 0, 0], [apart / 4, 0, 0]]))
        assert named(structure_statistics, moved)["min nearest distance"] == pytest.approx(nearest)


def test_no_crystals_give_no_rows():
    assert element_fractions([])[0].shape == (0, len(SYMBOLS))
    assert structure_statistics([])[0].shape[0] == 0


def test_statistics_are_all_of_them_side_by_side():
    crystals = [ROCK_SALT, random_crystal(0, 3)]
    values, names = statistics(crystals)
    parts = [make(crystals) for make in ALL_FEATURES]
    np.testing.assert_array_equal(values, np.concatenate([part for part, _ in parts], axis=1))
    assert statistics_widths() == tuple(part.shape[1] for part, _ in parts)
    assert len(set(names)) == len(names) == sum(statistics_widths())


def test_some_blocks_are_the_same_columns_and_nothing_else_is_made(monkeypatch):
    crystals = [ROCK_SALT, random_crystal(0, 3)]
    values, names = statistics(crystals)
    block = np.repeat(list(baselines.BLOCKS), statistics_widths())
    for chosen in ({"springs"}, {"structure", "springs"}, {"potential", "charges"}):
        some, of_some = statistics(crystals, chosen)
        kept = np.isin(block, list(chosen))
        np.testing.assert_array_equal(some, values[:, kept])
        assert of_some == tuple(np.array(names)[kept])
    looks = []
    monkeypatch.setattr(baselines, "surroundings", lambda crystal: looks.append(crystal) or surroundings(crystal))
    for chosen in ({"structure", "springs"}, {"springs", "moduli"}, {"structure", "springs", "moduli", "densities"}):
        looks.clear()
        statistics(crystals, chosen)
        assert looks == crystals
    monkeypatch.setattr(baselines, "surroundings", None)
    assert len(statistics(crystals, baselines.COMPOSITION)[0]) == 2


def test_stated_oxidation_states_change_no_column():
    places = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.0, 0.0], [0.0, 0.5, 0.5]]
    iron = cubic(4.2, places, [0, 0, 1, 1], pure("Fe", "O"))
    states = ((Occupant(26, 1.0, 2.0),), (Occupant(26, 1.0, 3.0),), (Occupant(8, 1.0, -2.0),))
    stated = replace(iron, species=np.array([0, 1, 2, 2]), kinds=states)
    mixed = replace(iron, kinds=((Occupant(26, 0.5, 2.0), Occupant(26, 0.5, 3.0)), states[2]))
    for told in (stated, mixed):
        np.testing.assert_allclose(statistics([told])[0], statistics([iron])[0], rtol=1e-12)
    beside, alike = replace(ROCK_SALT, kinds=states[:2]), replace(ROCK_SALT, species=np.zeros(2, int), kinds=pure("Fe"))
    np.testing.assert_allclose(statistics([beside])[0], statistics([alike])[0])


def test_columns_keep_their_values_without_which_models_that_were_saved_are_refused():
    numbers = named(statistics, ROCK_SALT)
    expected = {
        "mean coordination": 6.0271,
        "mean stiffness": 3.2265,
        "bulk modulus of springs": -0.1635,
        "shear modulus of springs": -0.7328,
        "middle of the gap of bands": -5.1505,
        "direct gap of bands": 7.1390,
    }
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("features", ALL_FEATURES)
def test_without_crystals_there_are_columns(features):
    values, names = features([])
    assert values.shape == (0, len(names))


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, n_sites=SIZES)
def test_bonds_are_those_of_hoppe_counted_by_occupancy(seed, n_sites):
    around = surroundings(random_crystal(seed, n_sites))
    for site in range(n_sites):
        own = around.center == site
        distance, occupancy = around.distance[own], around.atoms[around.neighbor[own]]
        first = occupancy * np.exp(1 - (distance / distance.min()) ** 6)
        bond = occupancy * np.exp(1 - (distance / (first @ distance / first.sum())) ** 6)
        np.testing.assert_allclose(around.bond[own], np.where(bond > 1e-3, bond, 0))


def test_a_shared_site_has_means_by_occupancy():
    shared = cubic(4.0, [[0, 0, 0]], [0], ((Occupant(5, 0.2), Occupant(30, 0.6)),))  # boron, and zinc with a dozen
    around = surroundings(shared)
    assert around.valence[0] == pytest.approx((3 + 3 * 8) / 4)
    for name, column in (("radius", "radius"), ("electronegativity", "electronegativity"), ("weight", "atomic_weight")):
        of = table()[:, FEATURES.index(column)]
        assert getattr(around, name)[0] == pytest.approx((of[4] + 3 * of[29]) / 4)


def test_means_and_deviations_are_over_atoms_and_extremes_over_sites():
    crystal = random_crystal(1, 4)
    around, numbers = surroundings(crystal), named(structure_statistics, crystal)
    share = around.atoms / around.atoms.sum()
    assert len(set(share)) > 1
    seen = {
        "nearest distance": "nearest",
        "nearest relative distance": "nearest_relative",
        "coordination": "coordination",
    }
    for name, attribute in seen.items():
        values = getattr(around, attribute)
        mean = share @ values
        expected = (mean, (share @ (values - mean) ** 2) ** 0.5, values.min(), values.max())
        assert [numbers[f"{of} {name}"] for of in ("mean", "deviation", "min", "max")] == pytest.approx(
            expected, abs=1e-7
        )


def test_spread_of_bonds_and_number_of_species_are_those_of_a_loop():
    crystal = random_crystal(1, 4)
    around, numbers, spread, species = surroundings(crystal), named(structure_statistics, crystal), [], []
    for site in range(4):
        own = around.center == site
        share, distance = around.bond[own] / around.bond[own].sum(), around.distance[own]
        spread.append((share @ (distance - share @ distance) ** 2) ** 0.5)
        of_species = [share[crystal.species[around.neighbor[own]] == kind].sum() for kind in range(3)]
        species.append(1 / np.square(of_species).sum())
    found = [
        numbers[f"{of} {name}"] for name in ("spread of bond lengths", "neighbor species") for of in ("min", "max")
    ]
    assert found == pytest.approx([min(spread), max(spread), min(species), max(species)])


def test_packing_and_pairs_are_those_of_a_loop():
    crystal = random_crystal(1, 4)
    around, numbers = surroundings(crystal), named(structure_statistics, crystal)
    spheres = around.atoms @ around.radius**3 * 4 / 3 * np.pi  # sites that are shared hold atoms of about one radius
    assert numbers["packing"] == pytest.approx(spheres / crystal.volume, rel=0.02)
    for at in SHELLS:
        weight = around.atoms[around.center] * around.atoms[around.neighbor] / around.atoms.sum()
        near = np.exp(-0.5 * ((around.distance - at) / 0.4) ** 2) / (0.4 * (2 * np.pi) ** 0.5)
        assert numbers[f"pairs at {at:.1f} A"] == pytest.approx((weight * near).sum() / (4 * np.pi * at**2), abs=1e-7)


def test_holes_and_van_der_waals_radii_by_volume():
    numbers, radius = named(density_statistics, ROCK_SALT), table()[:, FEATURES.index("radius")]
    other = electrons.table()[:, electrons.FEATURES.index("van_der_waals_radius")]
    expected = sum(radius[Z[symbol] - 1] ** 2 for symbol in ("Na", "Cl"))  # each lacks one electron
    assert numbers["second moment of holes by volume"] == pytest.approx(expected / ROCK_SALT.volume)
    expected = sum(other[Z[symbol] - 1] ** 3 for symbol in ("Na", "Cl"))
    assert numbers["cubed van der Waals radii by volume"] == pytest.approx(expected / ROCK_SALT.volume)


def test_formulas_that_differ_by_a_thousandth_are_not_one():
    def alloy(share):
        return formula(cubic(3.6, [[0, 0, 0]], [0], ((Occupant(28, share), Occupant(29, 1 - share)),)))

    assert alloy(0.5) != alloy(0.501)
    assert alloy(0.5) == alloy(0.5 + 1e-7)


def test_what_symmetry_makes_zero_is_zero_for_each_crystal():
    salts = [replace(ROCK_SALT, lattice=a * np.eye(3)) for a in np.linspace(4, 7, 20)]
    columns, names = structure_statistics(salts)
    orders = [name.endswith("angular order 1") for name in names]
    assert sum(orders) == 4
    assert not columns[:, orders].any()
    spread = np.ptp(spring_statistics(salts)[0], axis=0)
    assert set(spread[spread < 1e-3]) == {0.0}
