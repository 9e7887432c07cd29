"""Encoders and objectives: mixtures change what they name, all are scored on the same draws, costs stay out of rows."""

import json
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from crystalmax import plots
from crystalmax.geometry import AllPairs
from crystalmax.neighbors import Neighbors
from crystalmax.objectives import Contrastive, DeepInfoMax, Mixture, Reconstruction
from crystalmax.spec import build, read_recipe
from crystalmax.study import encoders, figures, page, paper, runner
from crystalmax.study.encoders import ENCODERS, Way, cells, objectives, structures, ways
from crystalmax.study.summary import differences
from studies import tiny

INFOMAX = "Deep InfoMax"


def small(folder):
    """Both data sets, with one property, two draws of eight labels and few crystals to learn from."""
    study = tiny(folder)
    salts, others = study.materials
    budget = replace(study.budget, labels=(8,), draws=(3,), twins=1, encoder_crystals=24)
    return replace(study, materials=(replace(salts, properties=salts.properties[:1]), others), budget=budget)


def of_salts(study):
    """The same study without what borrows its networks."""
    return replace(study, materials=study.materials[:1])


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Without drawings of the losses of every network, which take longer than the networks do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "training_curves", lambda *_, **__: Figure())
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def done(study):
    """The whole part on the salts, in the folder of the study."""
    outcomes = paper.go_on(of_salts(study), ["encoders"])
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return pd.read_parquet(study.folder / "results.parquet")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_mixture_adds_to_a_recipe_and_changes_nothing_else(encoder):
    plain = read_recipe(ENCODERS[encoder])
    found = objectives(encoder)
    assert found.pop(INFOMAX) == plain
    told = found.pop("reconstruction")
    assert {**told, "objective": None} == {**plain, "objective": None}
    assert told["objective"]["encoder"] == plain["objective"]["encoder"]
    assert isinstance(build(told["objective"]), Reconstruction)
    parts = {}
    for name, content in found.items():
        assert {part: content[part] for part in content if part != "objective"} == {
            part: plain[part] for part in plain if part != "objective"
        }
        mixture = content["objective"]
        assert {**mixture["parts"][0], "encoder": mixture["encoder"], "later": None} == {
            **plain["objective"],
            "later": None,
        }
        made = build(mixture)
        assert isinstance(made, Mixture)
        assert made.automatic
        assert type(made.encoder).__name__ == encoder.replace("-", "")
        parts[name] = [type(objective) for objective in made.objectives]
        for each in made.objectives:
            assert each.encoder is made.encoder
            if isinstance(each, Contrastive):
                assert each.views.geometry == build(plain["geometry"])
    assert parts == {
        f"{INFOMAX}, with reconstruction": [DeepInfoMax, Reconstruction],
        f"{INFOMAX}, with contrast": [DeepInfoMax, Contrastive],
    }


def test_the_geometry_is_the_one_of_the_encoder():
    assert {name: type(build(objectives(name)[INFOMAX]["geometry"])) for name in ENCODERS} == {
        "Site-Net": AllPairs,
        "CGCNN": Neighbors,
        "MEGNet": Neighbors,
        "ALIGNN": Neighbors,
    }


def test_networks_learn_from_some_structures_for_some_epochs(study):
    donor = study.material("salts")
    every = study.parts(donor).structures
    unlimited = replace(study, budget=replace(study.budget, encoder_crystals=None))
    assert structures(unlimited, donor).tolist() == every.tolist()
    limited = replace(study, budget=replace(study.budget, epochs=None, encoder_crystals=20, encoder_epochs=2))
    rows = structures(limited, donor)
    assert len(rows) == 20
    assert set(rows) < set(every)
    assert rows.tolist() != every[:20].tolist()
    run = encoders._folder(limited, donor, Way("CGCNN", INFOMAX))
    assert json.loads((run / "run.json").read_text())["training"]["epochs"] == 2
    assert json.loads((run / "spec.json").read_text())["extra"]["crystals"] == 20


def test_all_are_scored_on_the_same_labels_and_test_rows(study, monkeypatch):
    works = [cell.work for cell in cells(of_salts(study))]
    monkeypatch.setattr(encoders, "_vectors", lambda *_: np.random.default_rng(0).normal(size=(55, 4)))
    monkeypatch.setattr(encoders, "_price", lambda *_: {})
    tables = [work().rows for work in works]
    assert len({table.method[0] for table in tables}) == len(tables) == 4 * (1 + 4)
    for table in tables:
        assert table.mae.tolist() == tables[0].mae.tolist()
        assert table[["labels", "draw", "model", "tested"]].equals(tables[0][["labels", "draw", "model", "tested"]])
    # Two of the three draws.
    assert sorted(map(tuple, tables[0][["model", "draw"]].to_numpy())) == list(
        product(("extra trees", "ridge"), (0, 1))
    )
    assert tables[0].mae.nunique() == len(tables[0])


def test_each_encoder_has_its_own_untrained_networks(done):
    assert set(done.method) == {
        name
        for encoder in ENCODERS
        for name in (f"{encoder} untrained, seed 1001", *(f"{encoder} by {each}" for each in objectives(encoder)))
    }
    assert done[done.kind == "untrained"].groupby("family").method.unique().map(list).to_dict() == {
        encoder: [f"{encoder} untrained, seed 1001"] for encoder in ENCODERS
    }
    assert done.mae.notna().all()
    assert done[(done.model == "ridge") & (done.draw == 0)].mae.nunique() == 20  # no two networks are the same
    assert (done.structures_in_pretraining == 0).all()


def test_costs_are_arrays_and_no_rows(study, done):
    folder = study.folder / "cells"
    known = {}
    for way in ways(study):
        arrays = runner.arrays_in(folder, f"encoders/salts/edge/{way.name}")
        assert ("seconds" in arrays) == bool(way.objective)
        assert arrays.get("seconds", 1) > 0
        known.setdefault(way.encoder, set()).add(int(arrays["parameters"]))
    counted = {
        name: {sum(each.numel() for each in build(objectives(name)[INFOMAX]["objective"]["encoder"]).parameters())}
        for name in ENCODERS
    }
    assert known == counted  # a mixture has heads besides, which are thrown away
    assert not {"seconds", "parameters"} & set(done)


def test_the_same_settings_give_the_same_rows(study, done, tmp_path):
    name = "encoders/salts/edge/MEGNet by Deep InfoMax, with contrast"
    again = next(cell for cell in cells(small(tmp_path)) if cell.name == name).work().rows
    before = runner.rows_in(study.folder / "cells", name).drop(columns="commit")
    pd.testing.assert_frame_equal(again, before)


def test_networks_of_the_donor_are_scored_on_what_borrows_them(study, done):
    trained = len(list((study.folder / "networks").glob("*/spec.json")))
    name = "encoders/others/volume/CGCNN by Deep InfoMax, with reconstruction"
    rows = next(cell for cell in cells(study) if cell.name == name).work().rows
    assert len(list((study.folder / "networks").glob("*/spec.json"))) == trained
    assert (rows.structures_in_pretraining > 0).all()  # some are salts that the donor trained on


def test_each_is_paired_with_its_untrained_networks_and_mixtures_with_deep_infomax(study, done):
    pairs = differences(done).query("model == 'ridge'").groupby("method").rival.unique().map(set)
    assert pairs["ALIGNN by Deep InfoMax"] == {"untrained"}
    assert pairs["ALIGNN by Deep InfoMax, with contrast"] == {"untrained", "ALIGNN by Deep InfoMax"}


def test_the_report_has_the_table_with_what_each_costs(study, done):
    text = page.write(of_salts(study)).path.read_text(encoding="utf-8")
    assert "<h2>Encoders and objectives: salts</h2>" in text
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in re.findall(r"<tr>.*</tr>", text)]
    begin = next(place for place, row in enumerate(rows) if row[-1] == "seconds per epoch")
    table = pd.DataFrame(rows[begin + 1 : begin + 21], columns=rows[begin]).set_index("method")
    assert [name.split()[0] for name in table.index[::5]] == ["Site-Net", "MEGNet", "CGCNN", "ALIGNN"]
    assert len(set(table.index)) == 4 * (1 + 4)
    assert set(table.parameters[table.index.str.startswith("Site-Net")]) == {"56,033"}
    untrained = table.index.str.endswith("untrained")
    assert (table["seconds per epoch"] != "").tolist() == (~untrained).tolist()
    assert (table.loc[~untrained, "seconds per epoch"].astype(float) > 0).all()
    arrays = runner.arrays_in(study.folder / "cells", "encoders/salts/edge/ALIGNN by Deep InfoMax")
    assert table.loc["ALIGNN by Deep InfoMax", "seconds per epoch"] == f"{arrays['seconds']:.1f}"


def test_the_figure_compares_each_with_its_own_untrained_networks():
    factors = {"untrained, seed 1": 0.9, "untrained, seed 2": 1.1, "by Deep InfoMax": 0.8}
    rows = pd.DataFrame(
        {"method": f"{encoder} {way}", "family": encoder, "property": "gap", "model": "ridge", "labels": 50}
        | {"kind": "untrained" if "seed" in way else "pretrained", "draw": draw, "mae": (1 + draw) * scale * factor}
        for (encoder, scale), (way, factor), draw in product({"A": 1, "B": 7}.items(), factors.items(), range(3))
    )
    rows.loc[rows.method == "B by Deep InfoMax", "mae"] *= 2
    unfinished = rows[rows.family == "A"].assign(property="energy", labels=100)
    _, figure = figures.encoders(pd.concat([rows, unfinished]))
    panel = figure.axes[0]
    assert len(figure.axes) == 2
    assert [text.get_text() for text in panel.get_yticklabels()] == ["B by Deep InfoMax", "A by Deep InfoMax"]
    dots = [line.get_xdata() for line in panel.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [[60, -20], [np.nan, np.nan]])
    dots = [line.get_xdata() for line in figure.axes[1].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [[np.nan, np.nan], [np.nan, -20]])
