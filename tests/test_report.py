import re
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn import config_context
from sklearn.linear_model import Ridge

from crystalmax import plots
from crystalmax.judging.evaluation import FeatureSet, LabelBudgets, RepeatedFolds, evaluate
from crystalmax.judging.report import comparison_table, ranking_table, write_report
from crystalmax.judging.verdict import Verdict, verdict


def scores_of(plan):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(80, 3))
    y = truth.sum(axis=1) + 5

    def noisy(noise, kind):
        return FeatureSet(truth + noise * rng.normal(size=truth.shape), kind)

    features = {f"untrained {i}": noisy(1.0, "untrained") for i in range(3)}
    features |= {"vectors": noisy(0.3, "pretrained"), "plain": noisy(0.5, "baseline"), "both": noisy(0.2, "joint")}
    return evaluate(features, y, models={"ridge": Ridge(), "stiff": Ridge(30.0)}, plan=plan)


@pytest.fixture(scope="module")
def scores():
    return scores_of(LabelBudgets((10, 40), n_draws=3))


HISTORY = pd.DataFrame(
    [
        (epoch, split, 1.3 - 0.1 * epoch, 1.4 - 0.05 * epoch)
        for epoch in range(5)
        for split in ("training", "validation")
    ],
    columns=["epoch", "split", "site", "crystal"],
)


def figures_of(scores):
    rng = np.random.default_rng(0)
    vectors, values = rng.normal(size=(30, 6)), np.where(np.arange(30) % 5, np.arange(30.0), np.nan)
    return {
        "curves": plots.learning_curves(scores.table, error="mean absolute error, eV"),
        "methods": plots.errors_of_methods(scores.table, labels=int(scores.table.labels.max())),
        "paired": plots.paired_differences(scores.table, "vectors"),
        "predictions": plots.predicted_and_measured(scores.measured, scores.predictions[0], quantity="gap, eV"),
        "map": plots.map_of_vectors(vectors, values, quantity="gap, eV"),
        "training": plots.training_curves(HISTORY),
    }


def test_figures_are_drawn_without_global_state(scores):
    before = dict(mpl.rcParams)
    with config_context(transform_output="pandas"):  # as some set for all that they do
        figures = figures_of(scores)
    for figure in figures.values():
        assert isinstance(figure, Figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        assert np.ptp(np.asarray(canvas.buffer_rgba())[..., 3]) > 0
    assert dict(mpl.rcParams) == before


def test_rows_of_structures_that_could_not_be_read_are_left_out_of_figures():
    figure = plots.predicted_and_measured([1.0, 2.0, np.nan, 4.0], [1.5, np.nan, 3.0, 4.5])
    assert figure.axes[0].get_title(loc="left") == "mean absolute error 0.5"
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [1.0, 4.5])
    with pytest.raises(ValueError, match="no row with both a measured and a predicted value"):
        plots.predicted_and_measured([1.0, np.nan], [np.nan, 2.0])
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    vectors[2] = np.nan
    assert len(plots.map_of_vectors(vectors, np.arange(6.0)).axes[0].collections[0].get_offsets()) == 5


def test_columns_of_tables_are_compared_in_their_order():
    measured = pd.Series([1.0, 2.0, 4.0], index=[2, 1, 0])
    figure = plots.predicted_and_measured(measured, pd.Series([1.0, 2.0, 4.5]))
    assert figure.axes[0].get_title(loc="left") == "mean absolute error 0.167"


def test_curves_of_many_recipes_look_different(scores):
    ours = scores.table[scores.table.kind == "pretrained"]
    recipes = [ours.assign(features=f"recipe {n}") for n in range(7)]
    panel = plots.learning_curves(pd.concat([scores.table, *recipes])).axes[0]
    looks = [(line.get_color(), line.get_linestyle()) for line in panel.lines if line.get_marker() == "o"]
    assert len(looks) > 8
    assert len(set(looks)) == len(looks)


def test_learning_curves_show_medians_and_average_the_twins(scores):
    panel = plots.learning_curves(scores.table).axes[0]
    texts = {text.get_text() for text in panel.texts}
    assert {"vectors", "plain", "both", "untrained"} < texts
    assert not any("untrained 0" in text for text in texts)
    dashed = next(line for line in panel.lines if line.get_color() == plots.BLUE and line.get_linestyle() == "--")
    of_twins = scores.table.query("kind == 'untrained' and model == 'ridge'")
    expected = of_twins.groupby(["labels", "draw"]).mae.mean().groupby("labels").median()
    np.testing.assert_allclose(dashed.get_ydata(), expected)


def test_a_method_without_one_number_of_labels_has_a_shorter_curve(scores):
    table = scores.table
    most = table[(table.features != "plain") | (table.labels != table.labels.min())]
    panel = plots.learning_curves(most).axes[0]
    lengths = sorted(len(line.get_xdata()) for line in panel.lines if line.get_marker() == "o")
    assert lengths[0] == table.labels.nunique() - 1 < lengths[1]


def test_names_at_the_ends_of_curves_do_not_overlap(scores):
    figure = plots.learning_curves(scores.table)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for panel in figure.axes:
        boxes = sorted((text.get_window_extent() for text in panel.texts), key=lambda box: box.y0)
        assert len(boxes) > 3
        assert all(lower.y1 <= upper.y0 + 2.5 for lower, upper in pairwise(boxes))


def test_paired_differences_are_percent_of_the_twins(scores):
    panel = plots.paired_differences(scores.table, "vectors").axes[0]
    shown = np.concatenate([np.asarray(line.get_ydata()) for line in panel.lines if line.get_linestyle() == "None"])
    pairs = scores.table.query("features == 'vectors'").set_index(["model", "labels", "draw"]).mae
    twins = scores.table.query("kind == 'untrained'").groupby(["model", "labels", "draw"]).mae.mean()
    np.testing.assert_allclose(np.sort(shown), np.sort(100 * (pairs / twins - 1)))


def test_folds_have_figures_too():
    table = scores_of(RepeatedFolds(n_draws=2)).table
    methods, paired = plots.errors_of_methods(table, labels=64), plots.paired_differences(table, "vectors")
    assert methods.axes[0].get_xlabel() == "mean absolute error, 64 labels"
    assert [text.get_text() for text in paired.axes[0].get_xticklabels()] == ["64"]


def test_a_method_that_explodes_is_told_at_the_edge_and_does_not_squeeze_the_rest(scores):
    table = scores.table.copy()
    table.loc[(table.features == "plain") & (table.model == "ridge"), "mae"] *= 100
    panel = plots.errors_of_methods(table, labels=40).axes[0]
    trivial = table.query("kind == 'trivial' and labels == 40").mae.median()
    exploded = table.query("features == 'plain' and model == 'ridge' and labels == 40").mae.median()
    assert panel.get_xlim()[1] == pytest.approx(2 * trivial)
    assert [text.get_text() for text in panel.texts] == [f"\N{RIGHTWARDS ARROW} median {exploded:.3g}"]
    assert plots.errors_of_methods(scores.table, labels=40).axes[0].get_xlim()[1] < 2 * trivial


def test_long_numbers_along_an_axis_do_not_run_into_each_other(scores):
    measured = np.linspace(-300_000, 0)
    methods = plots.errors_of_methods(
        scores.table.assign(mae=np.linspace(80_000, 260_000, len(scores.table))), labels=40
    )
    for figure in (methods, plots.predicted_and_measured(measured, measured)):
        FigureCanvasAgg(figure).draw()
        (left, right), panel = figure.axes[0].get_xlim(), figure.axes[0]
        shown = [
            tick.label1.get_window_extent() for tick in panel.xaxis.get_major_ticks() if left <= tick.get_loc() <= right
        ]
        assert len(shown) > 2
        assert all(one.x1 < other.x0 for one, other in pairwise(shown))


@pytest.mark.parametrize(("least", "scale"), [(1e-3, "log"), (2.0, "linear"), (0.0, "linear"), (-1e-3, "linear")])
def test_values_over_many_decades_are_shown_on_axes_of_logarithms(least, scale):
    measured = np.array([least, 3.0, 50.0, 900.0])
    panel = plots.predicted_and_measured(measured, measured + 0.1).axes[0]
    assert (panel.get_xscale(), panel.get_yscale()) == (scale, scale)


def test_training_curves_show_what_knowing_nothing_costs():
    with_line, without = (plots.training_curves(HISTORY, chance=chance) for chance in (1.386, None))
    assert [len(panel.lines) for panel in with_line.axes] == [3, 3]
    assert [len(panel.lines) for panel in without.axes] == [2, 2]
    np.testing.assert_allclose(with_line.axes[0].lines[-1].get_ydata(), 1.386)


class Page(HTMLParser):
    """Collects tags and attributes, and refuses text that was meant as markup."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]


@pytest.fixture(scope="module")
def page(scores, tmp_path_factory):
    found = verdict(scores, "vectors", unit="eV")
    path = write_report(
        tmp_path_factory.mktemp("report") / "new folder" / "report.html",
        "Gap <of> few & labels",
        found,
        tables=[ranking_table(found, unit="eV"), comparison_table(found)],
        figures=[(f"Figure {name}.", figure) for name, figure in figures_of(scores).items()],
        facts={"labels": 1265, "source": "<script>alert(1)</script>"},
    )
    return path.read_text(encoding="utf-8"), found


def test_report_needs_nothing_beside_itself(page):
    text, _ = page
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert "link" not in parsed.tags
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    assert "url(http" not in text
    assert "@import" not in text
    assert parsed.tags.count("svg") == 6


def test_report_says_the_verdict_and_escapes_what_it_is_given(page):
    text, found = page
    assert found.sentence in text
    assert f'class="verdict {found.outcome.replace(" ", "-")}"' in text
    assert "Gap &lt;of&gt; few &amp; labels" in text
    assert "&lt;script&gt;" in text
    assert "<dd>1,265</dd>" in text


def test_ink_of_figures_follows_the_page(page):
    assert "currentColor" in page[0]
    drawings = "".join(re.findall(r"<svg.*?</svg>", page[0], flags=re.DOTALL))
    assert plots.INK not in drawings


def test_identifiers_of_figures_are_distinct(page):
    drawings = re.findall(r"<svg.*?</svg>", page[0], flags=re.DOTALL)
    clips = [set(re.findall(r'<clipPath id="([^"]+)"', drawing)) for drawing in drawings]
    assert sum(map(len, clips)) == len(set().union(*clips)) > 0


def test_numbers_are_set_to_three_digits(tmp_path):
    frame = pd.DataFrame({"name": ["a", "b"], "error": [1234.56, 0.012345], "n": [10000, 2]})
    path = write_report(tmp_path / "r.html", "Title", None, tables=[("Errors.", frame)])
    text = path.read_text(encoding="utf-8")
    assert '<td class="number">1,235</td>' in text
    assert '<td class="number">0.0123</td>' in text
    assert '<td class="number">10,000</td>' in text
    assert '<td class="text">a</td>' in text
    assert "verdict helped" not in text


def test_tables_of_a_verdict_hold_its_numbers(scores):
    found = verdict(scores, "vectors")
    assert isinstance(found, Verdict)
    ranking = ranking_table(found)[1]
    assert list(ranking.columns) == ["features", "model", "10 labels", "40 labels"]
    best = found.ranking.query("labels == 40").iloc[0]
    shown = ranking[(ranking.features == best.features) & (ranking.model == best.model)]["40 labels"].item()
    assert shown.startswith(f"{best['median']:.3g} [")
    comparison = comparison_table(found)[1]
    assert comparison["difference, %"].tolist() == [f"{100 * r:+.1f}" for r in found.comparison.relative]
