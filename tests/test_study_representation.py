"""Every method gets the same labels, the same scaling and the same models; and what was planted is found."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from crystalmax.study import runner
from crystalmax.study.models import downstream_models
from crystalmax.study.overlap import counts, same_formula, same_structure
from crystalmax.study.representation import Method, cells, drawn, method_of, methods, score
from crystalmax.study.vectors import Vectors, read_vectors
from studies import tiny


@pytest.fixture
def salts(study):
    return study.material("salts")


class Recorder(RegressorMixin, BaseEstimator):
    """Learns nothing and remembers everything that it was given."""

    seen: ClassVar[list] = []

    def __init__(self, *, random_state=None):
        self.random_state = random_state

    def fit(self, X, y):
        self.seen.append(("fit", X.copy(), y.copy(), self.random_state))
        self.fitted_ = True
        return self

    def predict(self, X):
        self.seen.append(("predict", X.copy(), None, self.random_state))
        return np.zeros(len(X))


def recorded(study, material, method, draws):
    Recorder.seen = []
    result = score(study, material, "edge", method, draws, models={"recorder": Recorder()})
    fits, predictions = Recorder.seen[::2], Recorder.seen[1::2]
    assert [what for what, *_ in fits + predictions] == ["fit"] * len(draws) + ["predict"] * len(draws)
    return result, list(zip(fits, predictions, strict=True))[::-1]  # the last draw is scored first


def planted(name, values, kind="baseline", family=""):
    return Method(name, kind, lambda: values, family)


def test_every_method_gets_the_same_labels_the_same_rows_and_the_same_seeds(study, salts):
    rng = np.random.default_rng(0)
    # The first column is the number of the row, so that it tells what was given where.
    tagged = np.arange(len(salts.data), dtype=float)[:, None]
    one = planted("one", np.hstack([tagged, rng.normal(size=(len(tagged), 3))]))
    other = planted("other", np.hstack([tagged, 1e6 * rng.exponential(size=(len(tagged), 9))]), "pretrained")
    draws = drawn(study, salts, "edge", 8, 3)
    found = [recorded(study, salts, method, draws) for method in (one, other)]
    tested, edges = study.tested(salts, "edge"), salts.values("edge")
    for number in range(3):
        labelled = study.labelled(salts, "edge", 8, number)
        fits, predictions = zip(*(seen[number] for _, seen in found), strict=True)
        assert fits[0][3] == fits[1][3] is not None
        for _, given, values, _ in fits:
            np.testing.assert_array_equal(values, edges[labelled])
            np.testing.assert_allclose(given.mean(axis=0), 0, atol=1e-9)
            np.testing.assert_allclose(given.std(axis=0), 1, atol=1e-9)
            np.testing.assert_allclose(given[:, 0], (labelled - labelled.mean()) / labelled.std())
        for _, given, _, _ in predictions:
            # Test rows are scaled by what the labelled rows had, never by their own.
            np.testing.assert_allclose(given[:, 0], (tested - labelled.mean()) / labelled.std())
    assert [result.rows.mae.tolist() for result, _ in found] == 2 * [[np.abs(edges[tested]).mean()] * 3]


def test_columns_in_other_units_change_nothing(study, salts):
    values = np.random.default_rng(0).normal(size=(len(salts.data), 4))
    draws = drawn(study, salts, "edge", 16, 2)
    plain, scaled = (
        score(study, salts, "edge", planted("one", values * unit + shift), draws).rows.mae
        for unit, shift in ((1.0, 0.0), (2.0**20, 0.0))
    )
    np.testing.assert_allclose(plain, scaled, rtol=1e-6)


def test_every_method_is_given_every_model(study, salts):
    draws = drawn(study, salts, "edge", 8, 1)
    values = np.random.default_rng(0).normal(size=(len(salts.data), 2))
    rows = pd.concat(
        score(study, salts, "edge", planted(kind, values, kind), draws).rows
        for kind in ("pretrained", "untrained", "baseline", "joint")
    )
    assert rows.groupby("method").model.apply(list).map(tuple).nunique() == 1
    assert set(rows.model) == set(downstream_models(1))
    # The same numbers under another name are scored the same: nothing depends on who is judged.
    assert rows.groupby("model").mae.nunique().eq(1).all()


def test_planted_features_are_found_and_noise_is_not(study, salts):
    rng = np.random.default_rng(0)
    edges = salts.values("edge")
    draws = drawn(study, salts, "edge", 16, 2)
    truth = planted("truth", np.stack([edges, rng.normal(size=len(edges))], axis=1))
    noise = planted("noise", rng.normal(size=(len(edges), 2)))
    nothing = method_of(study, salts, "nothing")
    found = {
        method.name: score(study, salts, "edge", method, draws).rows.groupby("model").mae.mean()
        for method in (truth, noise, nothing)
    }
    trivial = found["nothing"]["median"]
    assert found["truth"]["least squares"] < 1e-9
    assert (found["truth"] < 0.7 * trivial).all()
    assert (found["noise"] > 0.9 * trivial).all()


def test_draws_are_nested_and_never_touch_the_test_crystals(study, salts):
    tested = study.tested(salts, "edge")
    parts = study.parts(salts)
    for draw in range(3):
        few, many = (study.labelled(salts, "edge", labels, draw) for labels in (8, 16))
        np.testing.assert_array_equal(many[:8], few)
        assert set(many) <= set(parts.train)
        assert not set(many) & {*tested, *parts.valid}
    assert not np.array_equal(study.labelled(salts, "edge", 8, 0), study.labelled(salts, "edge", 8, 1))
    with pytest.raises(ValueError, match="labels of edge to draw from, fewer than 10000"):
        study.labelled(salts, "edge", 10_000, 0)


def test_formulas_stay_together_and_rows_need_not(study):
    others = study.material("others")
    by_formula, by_row = others.parts("formula"), others.parts("row")
    for parts in (by_formula, by_row):
        assert sorted(np.concatenate(parts)) == list(range(len(others.data)))
    assert not same_formula(others, by_formula.test, others, by_formula.structures).any()


def test_overlap_is_counted_by_structure_and_by_formula(study):
    salts, others = study.material("salts"), study.material("others")
    everything, all_salts = np.arange(len(others.data)), np.arange(len(salts.data))
    assert same_structure(others, everything, salts, all_salts).sum() == 12
    assert same_formula(others, everything, salts, all_salts).sum() == 18
    found = counts(others, everything[:20], everything[20:], (salts, all_salts[1:]))
    assert (found["tested"], found["structures_in_pretraining"], found["formulas_in_pretraining"]) == (20, 11, 17)
    assert found["formulas_in_labels"] == 0
    assert counts(others, everything, everything)["structures_in_labels"] == len(everything)
    assert counts(others, everything, everything)["formulas_in_pretraining"] == 0


def test_the_methods_are_ours_their_twins_and_plain_rivals(study, salts):
    found = {method.name: method for method in methods(study, salts)}
    kinds = pd.Series({name: method.kind for name, method in found.items()})
    assert kinds.value_counts().to_dict() == {
        "baseline": 5,
        "pretrained": 3,
        "joint": 4,
        "untrained": study.budget.twins,
        "trivial": 1,
    }
    families = {method.family for method in found.values() if method.kind in ("pretrained", "untrained")}
    assert families == {"infomax"}
    donor, rows = found["infomax recipe"].pretraining
    assert donor.name == "salts"
    assert not set(rows) & set(study.parts(salts).test)
    assert found["untrained, seed 1001"].pretraining is None


def test_twins_are_other_networks_and_the_union_is_both(study, salts):
    twins = [method_of(study, salts, f"untrained, seed {seed}").features() for seed in (1001, 1002)]
    assert twins[0].shape == twins[1].shape
    assert not np.allclose(*twins)
    union = method_of(study, salts, "composition and structure statistics").features()
    alone = [method_of(study, salts, f"{name} statistics").features() for name in ("composition", "structure")]
    np.testing.assert_array_equal(union, np.concatenate(alone, axis=1))


def test_cells_cover_every_method_number_of_labels_and_property(study):
    names = [cell.name for cell in cells(study)]
    assert len(names) == len(set(names)) == 3 + 15 * 2 * 2
    assert names[:3] == ["networks/salts/infomax", "networks/salts/paper", "networks/salts/intrinsic"]
    assert "representation/salts/order/16/element fractions" in names
    assert not any("others" in name for name in names)


def test_a_cell_says_what_it_compared_and_what_was_seen(study):
    wanted = "representation/salts/edge/8/element fractions"
    runner.run([cell for cell in cells(study) if cell.name == wanted], study.folder / "cells")
    rows = runner.rows_of(study.folder / "cells", prefix="representation/salts/edge/8/element")
    assert len(rows) == 3 * 5
    assert set(rows.kind) == {"baseline"}
    first = rows.iloc[0]
    assert (first.part, first.dataset, first.property, first.split) == ("representation", "salts", "edge", "formula")
    assert (first.labels, first.formulas_in_labels, first.structures_in_pretraining) == (8, 0, 0)
    arrays = runner.arrays_in(study.folder / "cells", wanted)
    errors = np.abs(arrays["predictions"] - arrays["measured"]).mean(axis=1)
    np.testing.assert_allclose(sorted(errors), sorted(rows.mae), rtol=1e-5)
    np.testing.assert_array_equal(arrays["tested"], study.tested(study.material("salts"), "edge"))


def vectors_of(material, folder, name, *, without=(), value=1.0):
    table = pd.DataFrame({"key": material.keys, "a": value * np.arange(len(material.data)), "b": 1.0, "refusal": ""})
    table.loc[list(without), ["a", "b"]] = np.nan
    table.sample(frac=1, random_state=0).to_parquet(folder / name)
    return folder / name


def test_vectors_from_elsewhere_are_matched_by_name_whatever_their_order(study, salts, tmp_path):
    path = vectors_of(salts, tmp_path, "ours.parquet", without=[3])
    values = read_vectors([path], salts.keys)
    assert values[:3, 0].tolist() == [0, 1, 2]
    assert np.isnan(values[3]).all()
    assert read_vectors([path], study.material("others").keys) is None
    assert read_vectors([path, vectors_of(study.material("others"), tmp_path, "b.parquet")], salts.keys).shape[1] == 2
    assert read_vectors([], salts.keys) is None
    pd.read_parquet(path).assign(note="").to_csv(tmp_path / "ours.csv", index=False)
    np.testing.assert_array_equal(read_vectors([tmp_path / "ours.csv"], salts.keys), values)


def test_vectors_from_elsewhere_stand_beside_their_twin(study, salts, tmp_path):
    trained, *untrained = (vectors_of(salts, tmp_path, f"{name}.parquet") for name in ("trained", "first", "second"))
    with_twin = tiny(tmp_path / "a", vectors=(Vectors("peer", (trained,), tuple(untrained)),))
    alone = tiny(tmp_path / "b", vectors=(Vectors("peer", (trained,)),))
    kinds = [
        {each.name: (each.kind, each.family) for each in methods(one, one.material("salts")) if "peer" in each.name}
        for one in (with_twin, alone)
    ]
    assert kinds[0] == {
        "peer": ("pretrained", "peer"),
        "peer, untrained 1": ("untrained", "peer"),
        "peer, untrained 2": ("untrained", "peer"),
        "peer and statistics": ("joint", ""),
    }
    assert kinds[1] == {"peer": ("baseline", "peer")}
    assert not any("peer" in each.name for each in methods(with_twin, with_twin.material("others")))


def test_a_crystal_that_one_method_cannot_describe_is_left_out_for_all(study, salts, tmp_path):
    tested, pool = study.tested(salts, "edge"), study.pool(salts, "edge")
    gone = [int(tested[0]), int(pool[0])]
    path = vectors_of(salts, tmp_path, "gaps.parquet", without=gone)
    smaller = tiny(tmp_path / "study", vectors=(Vectors("peer", (path,)),))
    np.testing.assert_array_equal(smaller.tested(smaller.material("salts"), "edge"), tested[1:])
    np.testing.assert_array_equal(smaller.pool(smaller.material("salts"), "edge"), pool[1:])


def test_tables_of_vectors_without_names_are_refused(tmp_path):
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match="no column 'key'"):
        read_vectors([tmp_path / "bare.parquet"], ["x"])
    pd.DataFrame({"key": ["x", "x"], "a": [1.0, 2.0]}).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(ValueError, match="names 'x' twice"):
        read_vectors([Path(tmp_path / "twice.csv")], ["x"])


def test_shared_formulas_are_counted_among_tested_crystals(study):
    others = study.material("others")
    tested, pool = np.arange(1), np.concatenate([np.arange(1)] * 3)
    assert counts(others, tested, pool)["formulas_in_labels"] == 1
