"""Ablation: each variant changes what it names and nothing else, and all are scored on the same draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from crystalmax.geometry import AllPairs
from crystalmax.objectives import DeepInfoMax
from crystalmax.objectives.regularizers import NoRegularizer
from crystalmax.spec import build, read_recipe
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.study import ablation, networks
from crystalmax.study.ablation import ADDED, LOCAL, cells, means_of_sites, rivals, variants
from crystals import perovskite, quartz, rock_salt


def families(content):
    return [family.get("transform", family)["use"] for family in content["objective"]["negatives"]]


def test_each_family_of_false_samples_is_left_out_once():
    every = ["OtherCrystals", "FalsePolymorph", "FalseComposition", "FalsePermutation"]
    for recipe in ("infomax", "paper"):
        assert families(read_recipe(recipe)) == every
        found = variants(recipe)
        words = ("other crystals", "false polymorphs", "false compositions", "false permutations")
        for name, family in zip(words, every, strict=True):
            assert families(found[f"without {name}"]) == [other for other in every if other != family]
        assert families(found["other crystals alone"]) == ["OtherCrystals"]


def test_families_are_added_to_the_first_recipe_only():
    added = ["Dopant", "SiteSwap", "Rebuilt", "Rebuilt", "Rebuilt"]
    found = {name: content for name, content in variants("infomax").items() if name.startswith("with ")}
    assert list(found) == [f"with {name}" for name in ADDED]
    assert [families(content)[-1] for content in found.values()] == added
    assert all(families(content)[:-1] == families(read_recipe("infomax")) for content in found.values())
    strained = build(found["with strain"]["objective"]).negatives[-1].transform
    assert strained.geometry == AllPairs(max_sites=50)  # that of the recipe
    assert not any(name.startswith("with ") for name in variants("paper"))


def test_noise_and_its_price_change_where_there_is_noise():
    assert not any("noise" in name for name in variants("infomax"))
    found = {name: build(content["objective"]) for name, content in variants("paper").items() if "noise" in name}
    assert {name: objective.beta for name, objective in found.items()} == {
        "noise at a tenth of its price": pytest.approx(0.01),
        "noise without a price": 0.0,
        "without noise": 0.0,
    }
    silent = [name for name, each in found.items() if each.regularizer is NoRegularizer]
    assert silent == ["without noise"]


@pytest.mark.parametrize("recipe", ["infomax", "paper"])
def test_a_variant_differs_in_nothing_else(recipe):
    plain = read_recipe(recipe)
    for name, content in variants(recipe).items():
        assert isinstance(build(content["objective"]), DeepInfoMax)
        assert {part: content[part] for part in ("geometry", "training")} == {
            part: plain[part] for part in ("geometry", "training")
        }
        changed = {part for part in plain["objective"] if content["objective"][part] != plain["objective"][part]}
        assert changed == ({"negatives"} if "noise" not in name else changed & {"beta", "regularizer"})
        assert changed


def test_the_local_level_alone_is_the_mean_over_sites():
    crystals = [rock_salt(), perovskite(), quartz()]
    model = networks.untrained("paper", 3)
    found = means_of_sites(model, CrystalDataset.from_crystals(crystals), sites_per_batch=7)
    for vector, crystal in zip(found, crystals, strict=True):
        batch = AllPairs()(CrystalDataset.from_crystals([crystal]).batch(np.arange(1)))
        with torch.inference_mode():
            np.testing.assert_allclose(vector, model.encoder(batch)["site"].summaries.mean(0), atol=1e-5)


def same_for_all():
    return np.random.default_rng(0).normal(size=(55, 4))


def test_all_variants_are_scored_on_the_same_labels_and_test_rows(study, monkeypatch):
    def without_networks(study, material):
        return [replace(method, features=same_for_all) for method in rivals(study, material)]

    study = replace(study, budget=replace(study.budget, labels=(8,), draws=(2,)))
    monkeypatch.setattr(ablation, "rivals", without_networks)
    works = [cell.work for cell in cells(study) if cell.name.startswith("ablation/salts/order/")]
    tables = [work().rows for work in works]
    assert len({table.method[0] for table in tables}) == len(tables) == 2 + 2 + 10 + 8 + 2 + 2
    for table in tables:
        assert table.mae.tolist() == tables[0].mae.tolist()
        assert table[["labels", "draw", "model", "tested"]].equals(tables[0][["labels", "draw", "model", "tested"]])
    assert tables[0].mae.nunique() == len(tables[0])  # draws and models differ


def test_a_variant_is_trained_and_scored(study):
    name = f"ablation/salts/edge/paper recipe, {LOCAL}"
    result = next(cell for cell in cells(study) if cell.name == name).work()
    assert set(result.rows.model) == {"ridge", "extra trees"}
    assert result.rows.groupby("labels").draw.nunique().to_dict() == {8: 3, 16: 2}
    assert set(result.rows.family) == {LOCAL}
    twins = [method for method in rivals(study, study.material("salts")) if method.family == LOCAL]
    assert [method.kind for method in twins] == ["pretrained", "pretrained", "untrained", "untrained"]
    assert (result.rows.structures_in_pretraining == 0).all()


def test_variants_of_the_donor_are_scored_on_what_borrows_them(study):
    name = "ablation/others/volume/infomax recipe, with vacancies"
    rows = next(cell for cell in cells(study) if cell.name == name).work().rows
    assert set(rows.dataset) == {"others"}
    assert (rows.structures_in_pretraining > 0).all()  # some of them are salts that the donor trained on
    assert rows.mae.notna().all()
