"""From crystals to the files of a report, twice the same, and the answer of the demonstration."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.tree import ExtraTreeRegressor

from crystalmax.demo import overall
from crystalmax.encoders import SiteNet
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.geometry import AllPairs
from crystalmax.judging import evaluation
from crystalmax.judging.assessment import (
    COMPOSITION,
    SMALL_DATA,
    VECTORS,
    Assessment,
    assess,
    feature_sets,
    figures,
    formula,
    report_assessment,
    tables,
)
from crystalmax.judging.evaluation import TWIN_SEEDS, FeatureSet, LabelBudgets, RepeatedFolds, evaluate
from crystalmax.judging.verdict import verdict
from crystalmax.spec import seeded_weights
from crystalmax.statistics import baselines
from crystals import conventional_rock_salt, perovskite, pure, rock_salt


def some_labelled():
    """Thirteen crystals; two have the same formula, one has no label, and of one it is not a number."""
    salts = [rock_salt(a, kinds) for a, kinds in [(5.64, ("Na", "Cl")), (6.29, ("K", "Cl")), (4.21, ("Mg", "O"))]]
    salts += [rock_salt(a, kinds) for a, kinds in [(4.03, ("Li", "F")), (5.99, ("Pb", "S")), (4.81, ("Ca", "O"))]]
    oxides = [perovskite(a, pure(*kinds)) for a, *kinds in [(3.9, "Sr", "Ti", "O"), (4.0, "Ba", "Ti", "O")]]
    oxides += [perovskite(a, pure(*kinds)) for a, *kinds in [(4.1, "K", "Mg", "F"), (3.8, "La", "Al", "O")]]
    crystals = [*salts, *oxides, rock_salt(5.1), rock_salt(5.2, ("Ag", "Cl"))]
    values = [*np.random.default_rng(0).normal(size=11), np.nan]
    labelled = [replace(one, targets={"band_gap": value}) for one, value in zip(crystals, values, strict=True)]
    return [rock_salt(5.3, ("Ag", "Br")), *labelled]


CRYSTALS = some_labelled()


@pytest.fixture
def quick(monkeypatch):
    """Two models that are fast, one of them with a random state."""
    models = {"ridge": Ridge(), "tree": ExtraTreeRegressor()}
    monkeypatch.setattr(evaluation, "default_models", lambda: models)


def featurizer(**options):
    with seeded_weights(0):
        encoder = SiteNet(site_width=3, crystal_width=4, hidden=4)
    return CrystalFeaturizer(encoder, geometry=AllPairs(max_sites=8), **options)


def features():
    return feature_sets(CRYSTALS, featurizer(statistics=False))


def evaluated(out):
    """What the command `evaluate` does."""
    found = assess(CRYSTALS, "band_gap", features(), unit="eV", plan=RepeatedFolds(2, n_draws=2))
    report_assessment(found, str(out), unit="eV", facts={"crystals": len(CRYSTALS)})
    return found


def test_feature_sets_hold_ours_its_twins_and_plain_rivals():
    with_statistics = featurizer()
    found = feature_sets(CRYSTALS, with_statistics)
    assert with_statistics.statistics
    assert found[VECTORS].values.shape[1] == with_statistics.blocks[0]
    assert found["vectors and all statistics"].models[SMALL_DATA].blocks == with_statistics.blocks
    of_parts = {"element fractions": "fractions", "composition statistics": "composition"}
    assert found["all statistics"].models[SMALL_DATA].blocks == with_statistics.blocks[1:]
    widths_of_composition = with_statistics.blocks[1 : 1 + len(baselines.COMPOSITION)]
    assert tuple(found[COMPOSITION].models[SMALL_DATA].blocks) == widths_of_composition
    for name, part in {**of_parts, "structure statistics": "structure"}.items():
        np.testing.assert_allclose(found[name].values, baselines.statistics(CRYSTALS, [part])[0], rtol=1e-6)
    composition = baselines.statistics(CRYSTALS, baselines.COMPOSITION)[0]
    np.testing.assert_allclose(found[COMPOSITION].values, composition, rtol=1e-6)
    kinds = {name: each.kind for name, each in found.items()}
    assert kinds[VECTORS] == "pretrained"
    assert list(kinds.values()).count("untrained") == len(TWIN_SEEDS) == 3
    assert all(len(each.values) == len(CRYSTALS) and np.isfinite(each.values).all() for each in found.values())
    twins = [each.values for each in found.values() if each.kind in ("pretrained", "untrained")]
    assert len({values.tobytes() for values in twins}) == 4
    parts = [found[name].values for name in (VECTORS, "all statistics")]
    np.testing.assert_array_equal(found["vectors and all statistics"].values, np.concatenate(parts, axis=1))


def test_a_caution_stands_before_the_verdict(quick):
    cautious = {name: replace(each, caution="Beware." if name == VECTORS else "") for name, each in features().items()}
    plain, warned = (
        assess(CRYSTALS, "band_gap", sets, plan=RepeatedFolds(2, n_draws=2)).verdict.sentence
        for sets in (features(), cautious)
    )
    assert warned == f"Beware. {plain}"


def test_one_formula_for_all_cells_and_polymorphs():
    assert formula(rock_salt()) == formula(conventional_rock_salt()) == formula(rock_salt(7.0))
    assert formula(rock_salt()) != formula(rock_salt(kinds=("K", "Cl")))


def test_the_same_command_gives_the_same_files_which_need_no_network(quick, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "figure_4.png").touch()  # of a report of more labels, which has a figure more
    found = evaluated(tmp_path / "a")
    evaluated(tmp_path / "b")
    files, again = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab")
    figures = [f"figure_{number}.{suffix}" for number in (1, 2, 3) for suffix in ("png", "svg")]
    assert set(files) == {"report.html", "results.parquet", "ranking.csv", "comparison.csv", *figures}
    assert [name for name in files if files[name] != again[name]] == []
    page = files["report.html"].decode()
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?\s*(https?:)?//|url\(\s*["']?http|@import""", page)
    assert found.verdict.sentence in page
    assert f"<dt>crystals</dt><dd>{len(CRYSTALS)}</dd>" in page
    assert "Band gap: every method at " in page
    table = pd.read_parquet(tmp_path / "a" / "results.parquet")
    assert len(table) == (10 * 2 + 3 + 1) * 2
    pd.testing.assert_frame_equal(table, found.scores.table)
    for name in ("ranking", "comparison"):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a" / f"{name}.csv"), getattr(found.verdict, name))
    ours = table[table.model == SMALL_DATA]
    assert set(ours.features) == {COMPOSITION, "all statistics", "vectors and all statistics"}
    assert found.scores.measured.tolist() == [crystal.targets["band_gap"] for crystal in CRYSTALS[1:-1]]


def test_crystals_of_one_formula_stay_together(quick):
    groups = []

    class Watching(RepeatedFolds):
        def draws(self, groups_of_rows):
            groups.append(groups_of_rows)
            return super().draws(groups_of_rows)

    for by_formula in (True, False):
        assess(CRYSTALS, "band_gap", features(), plan=Watching(2, n_draws=2), by_formula=by_formula)
    together, apart = groups
    assert together[0] == together[10]
    assert len(set(together.tolist())) == 10
    assert len(set(apart.tolist())) == 11


def test_equal_labels_are_refused():
    equal = [replace(crystal, targets={"hue": 2.5}) for crystal in CRYSTALS]
    with pytest.raises(ValueError, match=r"all 13 values of 'hue' are 2\.5; give some that differ"):
        assess([*equal, rock_salt()], "hue", {}, plan=RepeatedFolds(2, n_draws=2))
    with pytest.raises(ValueError, match="no crystal has a value of 'colour'; correct the name"):
        assess([*equal, rock_salt()], "colour", {}, plan=RepeatedFolds(2, n_draws=2))


def noisy(**plain):
    """Labels, and sets of one number each that tells them with noise of this size."""
    rng, y = np.random.default_rng(1), np.random.default_rng(0).normal(size=80)
    kinds = {VECTORS: "pretrained", "untrained": "untrained"}
    sizes = {VECTORS: 0.3, "untrained": 0.8, **plain}
    return y, {
        name: FeatureSet(y[:, None] + size * rng.normal(size=(80, 1)), kinds.get(name, "baseline"))
        for name, size in sizes.items()
    }


def test_advice_knows_the_unit_and_what_is_composition(quick):
    y, sets = noisy(**{COMPOSITION: 0.05, "structure statistics": 0.5})
    crystals = [replace(rock_salt(), targets={"gap": value}) for value in y.tolist()]
    found = assess(crystals, "gap", sets, unit="eV", plan=LabelBudgets((40,), n_draws=3), by_formula=False)
    assert found.verdict.advice.startswith(f"Use {COMPOSITION} with ridge (mean absolute error ")
    assert " eV at 40 labels" in found.verdict.advice
    assert "Structure does not help here" in found.verdict.advice
    assert all(caption.startswith("Gap. ") for caption, _ in tables(found))


@pytest.fixture(scope="module")
def planted():
    """Vectors are the best that there is with 40 labels, and the worst with 10."""
    y, sets = noisy(plain=0.5)
    found = evaluate(sets, y, models={"ridge": Ridge()}, plan=LabelBudgets((10, 40), n_draws=3))
    ours_of_few = (found.table.features == VECTORS) & (found.table.labels == 10)
    found.table.loc[ours_of_few, "mae"] = 9.0
    return Assessment("dft_GLLB-SC_gap", found, verdict(found, VECTORS))


def test_figures_are_of_the_best_method_with_most_labels(planted):
    drawn, scores = figures(planted, "eV"), planted.scores
    assert [caption.split(":")[1].split(";")[0].split(",")[0] for caption, _ in drawn] == [
        " error on test crystals against the number of labels",
        " every method at 40 labels",
        " pre-trained vectors against their untrained twins",
        " predictions of the best method",
    ]
    assert all(caption.startswith("Dft GLLB-SC gap: ") for caption, _ in drawn)
    caption, figure = drawn[-1]
    assert f"the best method, {VECTORS} with ridge, at 40 labels" in caption
    predicted = scores.predictions[((scores.table.features == VECTORS) & (scores.table.labels == 40)).to_numpy()]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), predicted.mean(axis=0))
    assert figure.axes[0].get_xlabel() == "measured eV"
    assert drawn[1][1].axes[0].get_xlabel() == "mean absolute error in eV, 40 labels"


def test_one_sentence_answers_for_all_properties(quick):
    found = assess(CRYSTALS, "band_gap", features(), plan=RepeatedFolds(2, n_draws=2))

    def with_outcome(target, outcome):
        return Assessment(target, found.scores, replace(found.verdict, outcome=outcome))

    same, helped = with_outcome("refractive_index", "no difference"), with_outcome("mohs_hardness", "helped")
    assert overall([same, same]) == "Did pre-training help? Not that these few labels can show, for any property."
    assert overall([same, helped]) == "Did pre-training help? Refractive index: no difference; Mohs hardness: helped."
