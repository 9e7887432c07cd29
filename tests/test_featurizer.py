"""Vectors of crystals: what they must not depend on, what they must depend on, and scikit-learn's manners."""

import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from string import Template

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from crystalmax.checkpoint import Model, save
from crystalmax.encoders import SiteNet
from crystalmax.encoding import Encoding
from crystalmax.featurizer import CrystalFeaturizer, untrained
from crystalmax.geometry import AllPairs
from crystalmax.objectives import DeepInfoMax
from crystalmax.reading.structures import Refused
from crystalmax.spec import describe, seeded_weights
from crystals import (
    conventional_rock_salt,
    crystal,
    metal,
    mixed,
    perovskite,
    pure,
    random_crystals,
    rewritten,
    rock_salt,
    rotated,
    shifted,
    shuffled,
    some_crystals,
    supercell,
)
from encoders import Dropping


def network(seed=0, **widths):
    with seeded_weights(seed):
        return SiteNet(**{"site_width": 4, "crystal_width": 6, "hidden": 8, **widths})


FULL_SIZE = CrystalFeaturizer(network(site_width=32, crystal_width=64, hidden=64), statistics=False)
SMALL = CrystalFeaturizer(network(), geometry=AllPairs(max_sites=12), statistics=False)
EACH = {one.key: one for one in some_crystals()}


def difference(one, other):
    return np.abs(FULL_SIZE.transform([one]) - FULL_SIZE.transform([other])).max()


@pytest.mark.parametrize("key", EACH)
@given(data=st.data())
def test_a_vector_does_not_depend_on_how_the_crystal_is_written(key, data):
    assert difference(EACH[key], data.draw(rewritten(EACH[key]))) < 1e-5


@given(data=st.data(), one=random_crystals())
def test_a_crystal_without_any_symmetry_has_one_vector_too(data, one):
    assert difference(one, data.draw(rewritten(one))) < 1e-5


@pytest.mark.parametrize("key", EACH)
def test_not_on_the_cell_the_origin_the_orientation_or_the_order(key):
    rng = np.random.default_rng(0)
    one = EACH[key]
    others = [
        supercell(one, (2, 2, 1)),
        shifted(one, rng.uniform(-5, 5, 3)),
        rotated(one, rng),
        shuffled(one, rng.permutation(one.n_sites)),
        replace(one, lattice=one.lattice * [1, 1, -1]),
    ]
    assert max(difference(one, other) for other in others) < 1e-5


def test_primitive_and_conventional_cells_have_one_vector():
    assert difference(rock_salt(), conventional_rock_salt()) < 1e-5
    assert difference(rock_salt(), supercell(conventional_rock_salt(), (1, 2, 1))) < 1e-5


def test_an_explicit_occupancy_of_one_changes_nothing():
    explicit = Structure(Lattice.cubic(3.905), [{"Sr": 1.0}, {"Ti": 1.0}, *[{"O": 1.0}] * 3], perovskite().positions)
    plain = Structure(Lattice.cubic(3.905), ["Sr", "Ti", "O", "O", "O"], perovskite().positions)
    assert difference(explicit, plain) == 0
    assert difference(explicit, perovskite()) < 1e-5


def test_mixtures_and_vacancies_have_their_own_vectors():
    kinds = [*pure("Fe", "Ni"), mixed(Fe=0.5, Ni=0.5), mixed(Fe=0.4, Ni=0.6), *pure("O"), mixed(O=0.8)]
    vectors = FULL_SIZE.transform([metal(kind) for kind in kinds])
    apart = np.abs(vectors[:, None] - vectors[None]).max(-1) + np.eye(len(kinds))
    assert apart.min() > 1e-3


def test_different_crystals_have_different_vectors():
    others = [*some_crystals(), rock_salt(a=5.70), perovskite(kinds=pure("Ti", "Sr", "O"))]
    vectors = FULL_SIZE.transform(others)
    apart = np.abs(vectors[:, None] - vectors[None]).max(-1) + np.eye(len(others))
    assert apart.min() > 1e-3


@pytest.mark.parametrize("sites_per_batch", [1, 7, 10_000])
def test_a_vector_depends_on_neither_company_nor_batches(sites_per_batch):
    crystals = some_crystals()
    together = clone(FULL_SIZE).set_params(sites_per_batch=sites_per_batch).transform(crystals[::-1] * 2)
    alone = np.concatenate([FULL_SIZE.transform([one]) for one in crystals])
    np.testing.assert_allclose(together, np.tile(alone[::-1], (2, 1)), atol=1e-5)


def test_rows_are_in_the_order_of_the_input():
    crystals = some_crystals()
    order = [3, 0, 5, 1, 4, 2]
    np.testing.assert_allclose(
        SMALL.transform([crystals[i] for i in order]), SMALL.transform(crystals)[order], atol=1e-6
    )
    assert SMALL.transform([]).shape == (0, 6)


CIF = """data_rock_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na 0 0 0
Cl1 Cl 0.5 0.5 0.5
"""


def test_all_kinds_of_structures_may_be_mixed(tmp_path):
    path = tmp_path / "salt.cif"
    path.write_text(CIF)
    structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    one = conventional_rock_salt()
    atoms = Atoms("Na4Cl4", scaled_positions=one.positions, cell=one.lattice, pbc=True)
    vectors = FULL_SIZE.transform([rock_salt(), structure, atoms, CIF, path, str(path)])
    assert np.abs(vectors - vectors[0]).max() < 1e-5
    assert FULL_SIZE.refusals_ == {}


def broken():
    """Two good crystals around ones that cannot be."""
    flat = crystal("flat", np.zeros((3, 3)), [[0, 0, 0]], [0], pure("Fe"))
    crowded = crystal("crowded", 3 * np.eye(3), [[0, 0, 0], [0.01, 0, 0]], [0, 0], pure("Fe"))
    return [rock_salt(), flat, Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]]), crowded, "nowhere.cif", perovskite()]


def test_what_cannot_be_read_becomes_nan_with_its_reason(caplog):
    featurizer = clone(SMALL).set_params(on_error="nan")
    vectors = featurizer.transform(broken())
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, True, True, True, False]
    np.testing.assert_allclose(vectors[[0, 5]], SMALL.transform([rock_salt(), perovskite()]), atol=1e-6)
    assert set(featurizer.refusals_) == {1, 2, 3, 4}
    for row, words in {1: "volume|collapsed", 2: "period", 3: "apart", 4: "nowhere.cif"}.items():
        assert re.search(words, featurizer.refusals_[row])
    assert "4 of 6 structures were refused" in caplog.text
    featurizer.transform([rock_salt()])
    assert featurizer.refusals_ == {}


def test_a_list_of_none_within_a_list_is_refused():
    featurizer = clone(SMALL).set_params(on_error="nan")
    assert np.isnan(featurizer.transform([rock_salt(), []])[1]).all()
    assert "it holds 0 structures" in featurizer.refusals_[1]


@pytest.mark.parametrize("row", [1, 2, 3, 4])
def test_what_cannot_be_read_raises_naming_the_row(row):
    structures = [rock_salt(), broken()[row]]
    with pytest.raises(Refused, match=r"row 1.*; .*\.$"):
        SMALL.transform(structures)


@pytest.mark.parametrize("one", ["a.cif", Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]])])
def test_one_structure_is_no_list_of_its_letters_or_sites(one):
    with pytest.raises(ValueError, match=f"a list, not as one {type(one).__name__}"):
        SMALL.transform(one)


def test_a_table_of_one_column_is_that_column_and_others_are_refused():
    structures = [Structure(Lattice.cubic(a), ["Na"], [[0, 0, 0]]) for a in (4, 5)]
    table = pd.DataFrame({"structure": structures, "density": [1.0, 2.0]}, index=[7, 5])
    both = ColumnTransformer([("vectors", SMALL, ["structure"]), ("plain", "passthrough", ["density"])])
    found = both.fit_transform(table)
    np.testing.assert_array_equal(found[:, :-1], SMALL.transform(structures))
    with pytest.raises(ValueError, match="a list, not as one DataFrame; give its column with the structures"):
        SMALL.transform(table)


def test_structures_may_come_from_a_generator():
    np.testing.assert_array_equal(SMALL.transform(one for one in some_crystals()), SMALL.transform(some_crystals()))
    pipeline, y = make_pipeline(SMALL, Ridge()), np.arange(float(len(some_crystals())))
    np.testing.assert_array_equal(
        pipeline.fit(iter(some_crystals()), y).predict(iter(some_crystals())),
        pipeline.fit(some_crystals(), y).predict(some_crystals()),
    )


def test_an_unknown_way_with_errors_is_named():
    with pytest.raises(ValueError, match="on_error"):
        clone(SMALL).set_params(on_error="ignore").transform([rock_salt()])


def test_columns_have_names_and_pandas_gets_a_frame():
    names = [f"crystalmax_{i:03d}" for i in range(6)]
    assert SMALL.get_feature_names_out().tolist() == names
    table = clone(SMALL).set_output(transform="pandas").fit_transform(some_crystals())
    assert isinstance(table, pd.DataFrame)
    assert table.columns.tolist() == names
    np.testing.assert_array_equal(table, SMALL.transform(some_crystals()))


def test_a_clone_and_a_pickle_give_the_same_vectors(tmp_path):
    expected = SMALL.transform(some_crystals())
    joblib.dump(SMALL, tmp_path / "featurizer.joblib")
    copies = [clone(SMALL), pickle.loads(pickle.dumps(SMALL)), joblib.load(tmp_path / "featurizer.joblib")]
    for copy in copies:
        np.testing.assert_array_equal(copy.transform(some_crystals()), expected)
        assert copy.geometry == SMALL.geometry


def test_it_works_in_a_pipeline():
    crystals = [rock_salt(a) for a in np.linspace(4.5, 6.5, 12)]
    y = [one.volume for one in crystals]
    pipeline = make_pipeline(SMALL, Ridge(alpha=1e-6))
    predicted = pipeline.fit(crystals[::2], y[::2]).predict(crystals[1::2])
    assert np.abs(predicted - y[1::2]).mean() < 0.1 * np.std(y)
    assert clone(pipeline).fit(crystals, y).score(crystals, y) > 0.99


CHECKS = (
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_valid_tag_types,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sklearn_finds_nothing_wrong(check):
    check("CrystalFeaturizer", clone(SMALL))


def test_a_run_folder_is_read_with_its_geometry(tmp_path):
    made = DeepInfoMax(network())
    save(Model(made, AllPairs(max_sites=9), {}), tmp_path)
    featurizer = CrystalFeaturizer.from_pretrained(tmp_path, on_error="nan")
    assert featurizer.geometry == AllPairs(max_sites=9)
    assert featurizer.on_error == "nan"
    direct = CrystalFeaturizer(made.encoder, geometry=AllPairs(max_sites=9), statistics=False)
    np.testing.assert_array_equal(featurizer.transform(some_crystals()), direct.transform(some_crystals()))


def test_an_untrained_twin_has_the_same_shape_and_the_weights_of_its_seed():
    twins = [clone(SMALL).set_params(on_error="nan").untrained_twin(seed) for seed in (1, 1, 2)]
    vectors = [twin.transform(some_crystals()) for twin in twins]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])
    assert describe(twins[0].encoder) == describe(SMALL.encoder)
    assert twins[0].geometry == SMALL.geometry
    assert twins[0].on_error == "nan"


class Borrowed(torch.nn.Module):
    """An encoder from outside the package."""

    def __init__(self, *, part=None):
        super().__init__()
        self.part = part
        self.inner = network()
        self.widths = self.inner.widths

    def forward(self, batch, *, greedy=False):
        encoding = self.inner(batch, greedy=greedy)
        return Encoding(encoding.levels)


def test_vectors_are_those_of_an_encoder_that_does_not_learn_whose_state_stays_as_it_is():
    encoder = Dropping(site_width=4, crystal_width=6, hidden=8)
    learning = CrystalFeaturizer(encoder, geometry=AllPairs(max_sites=12), statistics=False).transform(some_crystals())
    assert encoder.training
    done = CrystalFeaturizer(encoder.eval(), geometry=AllPairs(max_sites=12), statistics=False)
    np.testing.assert_array_equal(learning, done.transform(some_crystals()))
    assert (done.untrained_twin(1).transform(some_crystals()) != 0).all()


def test_vectors_that_are_not_finite_are_told_of(caplog):
    encoder = SiteNet(site_width=4, crystal_width=6, hidden=8)
    torch.nn.init.constant_(next(encoder.parameters()), math.inf)
    found = CrystalFeaturizer(encoder, geometry=AllPairs(max_sites=12), statistics=False).transform(some_crystals())
    assert np.isnan(found).any()
    n = len(found)
    assert f"SiteNet gives {n} of {n} crystals vectors that are not finite" in caplog.text


def test_an_encoder_from_elsewhere_with_parts_from_elsewhere_has_a_twin_too():
    twin = untrained(Borrowed(part=Template("of another package")), seed=1)
    assert isinstance(twin, Borrowed)
    assert twin.part.template == "of another package"


def test_vectors_are_single_precision_and_carry_no_graph():
    vectors = SMALL.transform([rock_salt()])
    assert vectors.dtype == np.float32
    assert vectors.shape == (1, 6)
    assert all(parameter.grad is None for parameter in SMALL.encoder.parameters())


def test_without_arguments_it_gives_shipped_vectors_and_statistics():
    crystals = some_crystals()
    numbers = CrystalFeaturizer().transform(crystals)
    vectors = CrystalFeaturizer.from_pretrained().transform(crystals)
    statistics = CrystalFeaturizer(None).transform(crystals)
    np.testing.assert_array_equal(numbers, np.concatenate([vectors, statistics], axis=1))
    np.testing.assert_array_equal(CrystalFeaturizer(statistics=False).transform(crystals), vectors)
    assert CrystalFeaturizer().blocks == (vectors.shape[1], *CrystalFeaturizer(None).blocks)
    assert sum(CrystalFeaturizer().blocks) == numbers.shape[1] == len(CrystalFeaturizer().get_feature_names_out())
    twin = CrystalFeaturizer().untrained_twin(3).transform(crystals)
    np.testing.assert_array_equal(twin[:, vectors.shape[1] :], statistics)
    assert not np.allclose(twin, numbers)


def test_what_can_give_nothing_is_refused():
    with pytest.raises(ValueError, match="there is nothing to give"):
        CrystalFeaturizer(None, statistics=False).transform(some_crystals())
    with pytest.raises(ValueError, match="encoder is 'runs/mine'; give 'shipped', None or an encoder"):
        CrystalFeaturizer().set_params(encoder="runs/mine").transform(some_crystals())
    with pytest.raises(ValueError, match="give 'shipped', None or an encoder, or call `from_pretrained`"):
        CrystalFeaturizer().set_params(encoder=Path("runs/mine")).transform(some_crystals())
