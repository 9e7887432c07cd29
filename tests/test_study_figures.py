"""Figures of the study: what is planted in the rows is what is drawn."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from crystalmax.plots import svg
from crystalmax.study import figures
from crystalmax.study.transfer import STARTS


def texts(figure):
    return svg(figure, "figure")


def test_curves_draw_the_watched_losses_and_the_line_where_there_is_one():
    rows = pd.DataFrame(
        {"method": method, "level": level, "crystals": half, "epoch": epoch, "loss": epoch + (half == "train") * 9}
        | {"penalty": 0.1 * (method == "paper recipe"), "chance": 1.386 if method == "paper recipe" else np.nan}
        for method, level, half, epoch in product(
            ("infomax recipe", "paper recipe"), ("crystal", "site"), ("train", "valid"), (1, 2, 3)
        )
    )
    caption, figure = figures.curves(rows)
    assert "no label" in caption
    drawn = texts(figure)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert len(panels) == 2 + 4  # no price where there is no noise
    losses = [panel.lines[0].get_ydata().tolist() for panel in panels if "loss" in panel.get_title(loc="left")]
    assert losses == [[1, 2, 3]] * 4
    assert drawn.count("chance") == 2


def trials():
    return pd.DataFrame(
        {"property": name, "labels": labels, "draw": draw, "method": start, "mae": (1 + draw) * factor}
        for name, labels, draw in product(("gap_eV", "energy_eV_per_atom"), (50, 1000), range(3))
        for factor, (start, _) in zip((1.0, 0.9, 1.1), STARTS.values(), strict=True)
    )


def test_transfer_compares_trials_with_the_same_labels():
    _, figure = figures.transfer(trials(), {"energy_eV_per_atom": "eV/atom", "gap_eV": "eV"})
    drawn = texts(figure)
    assert all(start in drawn for start, _ in STARTS.values())
    errors, changes = figure.axes[0], figure.axes[2]
    assert errors.get_title(loc="left") == "energy"
    # Trials differ by a factor of three, but the change against the random start is the same in each.
    assert sorted({round(value) for line in changes.lines[:-1] for value in line.get_ydata()}) == [-10, 10]
    assert sorted(errors.lines[0].get_ydata()) == [1, 2, 3]


def test_transfer_shows_what_there_is():
    rows = trials()
    rows = rows[(rows.property == "gap_eV") & (rows.method != "from the other property") & (rows.labels == 50)]
    _, figure = figures.transfer(rows, {"energy_eV_per_atom": "eV/atom", "gap_eV": "eV"})
    assert len(figure.axes) == 2
    assert "from the other property" not in texts(figure)


def test_transfer_does_without_trials_from_random_weights():
    rows = trials()
    _, figure = figures.transfer(rows[rows.method != STARTS["random"][0]], {"gap_eV": "eV"})
    assert STARTS["random"][0] not in texts(figure)
    assert len(figure.axes[0].lines) > 0


def test_ablation_draws_changes_against_the_recipe_on_the_same_draw():
    factors = {
        ("paper recipe", "pretrained"): 1.0,
        ("paper recipe, without noise", "pretrained"): 1.2,
        ("paper recipe, local level only", "pretrained"): 0.8,
        ("untrained, seed 1001", "untrained"): 1.4,
        ("untrained, seed 1002", "untrained"): 1.6,
        ("untrained, seed 1001, local level only", "untrained"): 9.0,
        ("infomax recipe", "pretrained"): 7.0,
    }
    rows = pd.DataFrame(
        {"method": method, "kind": kind, "property": "gap_eV", "model": "ridge", "labels": labels, "draw": draw}
        | {"mae": factor * (1 + draw)}
        for ((method, kind), factor), labels, draw in product(factors.items(), (50, 100), range(4))
    )
    _, figure = figures.ablation(rows, "paper")
    texts(figure)
    (panel,) = figure.axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    for line in (line for line in panel.lines if line.get_marker() == "o"):
        found = dict(zip(names, line.get_xdata(), strict=True))
        assert found == pytest.approx({"without noise": 20, "local level only": -20, "untrained": 50})


def test_maps_have_a_row_for_each_network_and_a_column_for_each_colour():
    rng = np.random.default_rng(0)
    arrays = {
        name: {
            "t-SNE": rng.normal(size=(40, 2)),
            "halogen": rng.integers(0, 2, 40),
            "metal": rng.integers(0, 5, 40),
            "gap_eV": np.where(np.arange(40) < 3, np.nan, rng.normal(size=40)),
        }
        for name in ("untrained", "infomax recipe")
    }
    caption, figure = figures.maps(arrays, {"gap_eV": "eV"}, "t-SNE")
    assert caption.startswith("t-SNE")
    drawn = texts(figure)
    panels = [panel for panel in figure.axes if panel.collections and panel.get_subplotspec() is not None]
    dots = [panel.collections[0].get_offsets() for panel in panels if len(panel.collections[0].get_offsets()) == 40]
    assert len(dots) == 2 * 3
    np.testing.assert_array_equal(dots[0], arrays["untrained"]["t-SNE"])
    np.testing.assert_array_equal(dots[3], arrays["infomax recipe"]["t-SNE"])
    assert all(words in drawn for words in ("no halogen", "lanthanide or actinide", "infomax recipe", ">eV<"))


def test_shift_draws_medians_with_untrained_twins_as_one():
    methods = {
        ("infomax recipe", "pretrained", "ridge"): 1.0,
        ("infomax recipe without shared structures", "pretrained", "ridge"): 2.0,
        ("untrained, seed 1001", "untrained", "ridge"): 3.0,
        ("untrained, seed 1002", "untrained", "ridge"): 5.0,
        ("composition and structure statistics", "baseline", "ridge"): 6.0,
        ("nothing", "trivial", "median"): 9.0,
        ("from random weights", "untrained", "fine-tuned"): 7.0,
        ("from Deep InfoMax", "pretrained", "fine-tuned"): 8.0,
    }
    rows = pd.DataFrame(
        {"method": method, "kind": kind, "model": model, "labels": labels, "draw": draw, "mae": factor + (draw - 1) / 9}
        for ((method, kind, model), factor), labels, draw in product(methods.items(), (50, 100), range(3))
    )
    _, figure = figures.shift(rows, "cm-1")
    drawn = texts(figure)
    frozen, tuned = figure.axes
    assert [panel.get_title(loc="left") for panel in (frozen, tuned)] == ["ridge", "fine-tuned"]
    medians = {line.get_label(): line.get_ydata().tolist() for panel in (frozen, tuned) for line in panel.lines}
    expected = {"infomax recipe": 1, "infomax recipe without shared structures": 2, "untrained": 4}
    expected |= {"composition and structure statistics": 6, "from random weights": 7, "from Deep InfoMax": 8}
    expected |= {"nothing": 9}  # in both panels
    assert {name: pytest.approx([value] * 2) for name, value in expected.items()} == medians
    assert "cm-1" in drawn
