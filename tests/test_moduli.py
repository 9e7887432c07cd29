"""Elastic moduli of springs: what pulls at a crystal in a computer, and what textbooks say of simple lattices."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from crystalmax.crystal import Crystal, Occupant
from crystalmax.statistics import moduli
from crystalmax.statistics.moduli import of_springs
from crystalmax.statistics.surroundings import CUTOFF, surroundings
from crystals import crystal, metal, oblique, perovskite, pure, quartz, rock_salt, rotated

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def numbers(one):
    return of_springs(surroundings(one), one.volume)


def energy(around, strain, moved):
    """Of all springs of a strained cell whose sites have moved, per cell."""
    along = around.displacement / around.distance[:, None]
    longer = np.einsum("pi,ij,pj->p", along, strain, along) * around.distance
    longer += ((moved[around.neighbor] - moved[around.center]) * along).sum(axis=1)
    strength = around.atoms[around.center] * around.atoms[around.neighbor] * around.spring
    own = around.itself @ (moved**2).sum(axis=1)
    every_way = (2 * (strain**2).sum() + np.trace(strain) ** 2) / 15
    return (strength @ longer**2 / 2 + own + around.itself.sum() * CUTOFF**2 * every_way / 2) / 2


def strained(number):
    strain = np.zeros((3, 3))
    i, j = VOIGT[number]
    strain[i, j] += 0.5
    strain[j, i] += 0.5
    return strain


@pytest.mark.parametrize("one", [quartz(), perovskite()], ids=lambda one: one.key)
def test_stiffness_is_the_energy_that_is_least_wherever_the_sites_go(one):
    around = surroundings(one)
    clamped, relaxing = moduli._stiffness(around)

    def least(strain):
        start = np.zeros(3 * one.n_sites)
        found = minimize(lambda moved: energy(around, strain, moved.reshape(-1, 3)), start, method="BFGS", tol=1e-9)
        return found.fun

    for first, second in combinations_with_replacement(range(6), 2):
        if first == second or first == 0:
            strain = strained(first) + (strained(second) if second != first else 0)
            at = np.eye(6)[first] + (np.eye(6)[second] if second != first else 0)
            still = energy(around, strain, np.zeros((one.n_sites, 3)))
            assert at @ clamped @ at / 2 == pytest.approx(still)
            assert at @ (clamped - relaxing) @ at / 2 == pytest.approx(least(strain), rel=1e-4)


@pytest.mark.parametrize("one", [quartz(), oblique()], ids=lambda one: one.key)
def test_moduli_are_the_means_of_hill_and_anisotropy_that_of_ranganathan_and_ostoja_starzewski(one):
    clamped, relaxing = moduli._stiffness(surroundings(one))
    stiffness = (clamped - relaxing) / one.volume
    (a, b, c), (p, q, r) = (
        (of[:3, :3].trace(), of[0, 1] + of[0, 2] + of[1, 2], of[3:, 3:].trace())
        for of in (stiffness, np.linalg.inv(stiffness))
    )
    bulk, shear = ((a + 2 * b) / 9, 1 / (p + 2 * q)), ((a - b + 3 * c) / 15, 15 / (4 * p - 4 * q + 3 * r))
    found, k, g = numbers(one), np.mean(bulk), np.mean(shear)
    assert found["bulk modulus of springs"] == pytest.approx(np.log(k))
    assert found["shear modulus of springs"] == pytest.approx(np.log(g))
    assert found["Poisson's ratio of springs"] == pytest.approx((3 * k - 2 * g) / (2 * (3 * k + g)))
    assert found["relaxing of springs"] == pytest.approx(np.log(k / (clamped[:3, :3].sum() / 9 / one.volume)))
    anisotropy = bulk[0] / bulk[1] + 5 * shear[0] / shear[1] - 6
    assert found["anisotropy of springs"] == pytest.approx(np.log(1 + anisotropy))


def test_sites_between_their_neighbours_do_not_relax_and_those_of_quartz_do():
    assert numbers(rock_salt())["relaxing of springs"] == pytest.approx(0, abs=1e-6)
    assert numbers(quartz())["relaxing of springs"] < -0.05


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_moduli_do_not_depend_on_the_direction_one_looks_from(seed, n_sites):
    rng = np.random.default_rng(seed)
    kinds = (*pure("O"), (Occupant(26, 0.5), Occupant(28, 0.5)), (Occupant(11, 0.7),))
    lattice = np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-1, 1, (3, 3))
    one = Crystal(lattice, rng.random((n_sites, 3)), rng.integers(0, 3, n_sites), kinds, "random")
    found, turned = numbers(one), numbers(rotated(one, rng))
    np.testing.assert_allclose(list(turned.values()), list(found.values()), atol=1e-6)
    assert -1 < found["Poisson's ratio of springs"] < 0.5
    assert found["relaxing of springs"] < 1e-9
    assert found["anisotropy of springs"] >= 0


def test_forces_along_lines_between_centres_make_a_quarter_of_poisson_unless_sites_relax():
    # Cauchy: what is equal to 3/5 for Voigt's mean of moduli, whichever the springs, where every site is a centre.
    stiffness, _ = moduli._stiffness(surroundings(metal(pure("Cu")[0], a=3.6)))
    bulk, shear = moduli._voigt(stiffness)
    assert shear / bulk == pytest.approx(0.6)
    assert stiffness[0, 1] == pytest.approx(stiffness[5, 5])


def test_a_stretched_crystal_is_softer_and_more_electrons_make_it_harder():
    hard, stretched, ionic = (
        numbers(metal(pure("W")[0], a=3.16)),
        numbers(metal(pure("W")[0], a=3.5)),
        numbers(rock_salt()),
    )
    assert hard["bulk modulus of springs"] > stretched["bulk modulus of springs"]
    assert hard["bulk modulus of springs"] > ionic["bulk modulus of springs"] + 2


def test_sites_of_large_cells_stay(monkeypatch):
    around, n_sites = surroundings(quartz()), quartz().n_sites
    for most, relax in ((n_sites, True), (n_sites - 1, False)):
        monkeypatch.setattr(moduli, "MOST_RELAXED", most)
        assert moduli._stiffness(around)[1].any() == relax


def test_a_lone_atom_is_held_by_what_is_as_far_as_one_sees():
    around = surroundings(crystal("lone", 30 * np.eye(3), [[0, 0, 0]], [0], pure("He")))
    found = of_springs(around, 27000.0)
    assert found["bulk modulus of springs"] == pytest.approx(np.log(around.itself[0] * CUTOFF**2 / 18 / 27000))
    assert found["anisotropy of springs"] == pytest.approx(0)
