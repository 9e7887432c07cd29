"""Distribution shift: the overlap is found and left out, and all vectors are scored on the same draws."""

from dataclasses import replace

import numpy as np

from crystalmax.study import shift
from crystalmax.study.shift import cells, rivals, without


def test_what_both_data_sets_have_is_left_out(study):
    salts, others = study.material("salts"), study.material("others")
    seen = study.parts(salts).structures
    # `others` has the first twelve salts as they are, and the next six in another structure.
    assert set(seen) - set(without(study, others, "shared structures")) == set(seen) & set(range(12))
    assert set(seen) - set(without(study, others, "shared formulas")) == set(seen) & set(range(18))


def test_networks_without_the_overlap_have_seen_none_of_it(study):
    found = {}
    for overlap in ("shared structures", "shared formulas"):
        name = f"shift/others/volume/infomax recipe without {overlap}"
        found[overlap] = next(cell for cell in cells(study) if cell.name == name).work().rows
    assert (found["shared structures"].structures_in_pretraining == 0).all()
    assert (found["shared formulas"].formulas_in_pretraining == 0).all()
    assert (found["shared structures"].pretrained_on > found["shared formulas"].pretrained_on).all()
    assert (found["shared structures"].mae.to_numpy() != found["shared formulas"].mae.to_numpy()).any()


def test_labels_of_a_borrower_come_from_all_that_is_not_tested(study):
    parts = study.parts(study.material("others"))
    assert len(parts.valid) == 0
    assert sorted([*parts.train, *parts.test]) == list(range(38))
    assert len(study.parts(study.material("salts")).valid) > 0


def same_for_all():
    return np.random.default_rng(0).normal(size=(38, 4))


def test_all_vectors_are_scored_on_the_same_labels_and_test_rows(study, monkeypatch):
    def without_networks(study, material):
        methods = [method for method in rivals(study, material) if method.kind != "trivial"]
        return [replace(method, features=same_for_all, models={}) for method in methods]

    monkeypatch.setattr(shift, "rivals", without_networks)
    study = replace(study, budget=replace(study.budget, labels=(8,), draws=(2,)))
    found = [cell.work().rows for cell in cells(study) if len(cell.name.split("/")) == 4]
    tables = [rows[rows.model.isin(shift.MODELS)].reset_index(drop=True) for rows in found]
    assert len({table.method[0] for table in tables}) == len(tables) == 3 + 2 + 2 + 4
    for table in tables:
        assert table.mae.tolist() == tables[0].mae.tolist()
        assert table[["labels", "draw", "model", "tested"]].equals(tables[0][["labels", "draw", "model", "tested"]])
    assert tables[0].mae.nunique() == len(tables[0])


def test_fine_tuning_starts_from_the_donor_and_from_nothing(study):
    names = [cell.name for cell in cells(study) if len(cell.name.split("/")) == 6]
    assert {name.split("/")[3] for name in names} == {"random", "pretrained"}
    assert all(name.startswith("shift/others/volume/") for name in names)
    assert len(names) == 4


def test_without_a_borrower_there_is_nothing_to_do(study):
    assert cells(replace(study, materials=(study.material("salts"),))) == []
