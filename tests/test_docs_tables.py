"""Tables in the documentation say what the results say."""

import importlib.util
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "table.py"
CONSTRAINTS = (SCRIPT.parent.parent / "constraints.txt").read_text(encoding="utf-8").split()
NAMES = {
    *(
        "claims",
        "stages",
        "featurisers",
        "pairs",
        "threads",
        "processes",
        "few_labels",
        "intervals",
        "vectors",
        "starts",
    ),
    *(
        "rivals",
        "held",
        "searched",
        "blocks",
        "blocks_at_length",
        "blocks_of_seeds",
        "blocks_with_moduli",
        "large",
        "continued",
        "rules",
        "levers",
        "levers_at_length",
    ),
    *("blind", "blind_anew", "blind_paired", "blind_vectors", "blind_starts"),
    *("later", "later_paired", "later_vectors"),
    *("moduli", "moduli_vectors", "moduli_starts"),
    *("commands", "training", "networks"),
    *("fine_tuning", "put_to_the_test", "rankings", "official", "grid", "encoders", "measured"),
}


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def planted(table, tmp_path, monkeypatch):
    """One measured data set: 1,000 a second and 4,000 a second in a row are 800 a second."""
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    rates = {
        "CIF text to raw arrays": 4000.0,
        "raw to canonical arrays": 1000.0,
        "arrays to pairs": 1e9,
        "data set to vectors": 16000.0,
    }
    found = {"data": "perov_5.parquet", "crystals_per_cpu_second": rates, "peak_GB": 0.5, "commit": "abc"}
    (tmp_path / "speed_perov_5.json").write_text(json.dumps(found))
    return table


def lines(text):
    return {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (x.split("|") for x in text.split("\n")[2:-1])
    }


def test_pages_say_what_the_results_say(table):
    pages = table.pages()
    assert {"speed.md", "peers.md"} <= {page.name for page in pages}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert table.refreshed(text) == text, f"{page.name} is out of date: run `python benchmarks/table.py`"


@pytest.mark.skipif(f"matplotlib=={matplotlib.__version__}" not in CONSTRAINTS, reason="another one draws otherwise")
def test_the_picture_of_few_labels_shows_what_the_results_say(table):
    picture = importlib.import_module("few_labels_picture")
    kept = (SCRIPT.parent.parent / "docs" / "images" / "few_labels.svg").read_text(encoding="utf-8")
    drawn = picture.svg(picture.draw(), "few labels")
    words, places = (
        [re.findall(pattern, text) for text in (kept, drawn)]
        for pattern in (r">([^<>]+)</(?:text|tspan)>", r"[ ML](-?\d+\.\d+)(?= )")
    )
    assert words[0] == words[1]
    assert len(places[0]) > 200
    np.testing.assert_allclose(*np.array(places, dtype=float), atol=0.01, err_msg="draw it anew")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_table_stands_on_a_page(table, name):
    assert any(f"<!-- table: {name} -->" in page.read_text(encoding="utf-8") for page in table.pages())
    assert set(table.TABLES) == NAMES


@pytest.mark.parametrize(
    "name", sorted(name for name in NAMES if name.startswith(("blind", "continued", "later", "moduli")))
)
def test_properties_on_pages_of_research_stand_there_in_words(table, name):
    rows = lines(table.TABLES[name]())
    assert rows
    assert not [row for row in rows if "_" in row]


def test_another_number_in_the_results_changes_the_page(planted):
    page = "before\n<!-- table: claims -->\nold\n<!-- end of table -->\nafter"
    text = planted.refreshed(page)
    assert text.startswith("before\n<!-- table: claims -->\n| crystals")
    assert text.endswith("|\n<!-- end of table -->\nafter")
    assert planted.refreshed(text) == text
    path = planted.RESULTS / "speed_perov_5.json"
    path.write_text(path.read_text().replace("16000.0", "16001.0"))
    assert planted.refreshed(text) != text


def test_steps_in_a_row_take_the_time_of_all(planted):
    rows = lines(planted.claims())
    missing = "not measured"
    assert rows["CIF text to arrays in the canonical cell"] == [
        "< 18",
        "1,500",
        f"800 / {missing} / {missing}",
        "`abc`",
    ]
    assert rows["CIF text to vector"][2].startswith("762 /")  # 1 / (1/4000 + 1/1000 + 1/16000)


def test_what_reaches_its_goal_is_bold_and_what_was_not_measured_is_said(planted):
    rows = lines(planted.claims())
    assert rows["data set to vectors"][2].startswith("**16,000** /")
    assert rows["parsed structure to canonical cell and pairs"][2].startswith("1,000 /")
    assert rows["training, losses exact"][2] == "not measured"
    assert rows["peak memory, GB"][2].startswith("**0.50** /")


def test_the_newer_name_of_a_step_counts(planted):
    assert planted.rate({"old": 1.0, "new": 2.0}, (("new",), ("old",))) == 2.0
    assert planted.rate({"old": 1.0}, (("new",), ("old",))) == 1.0
    assert planted.rate({}, (("new",), ("old",))) is None


def test_an_unknown_table_is_an_error(planted):
    with pytest.raises(KeyError, match="speeds"):
        planted.refreshed("<!-- table: speeds -->\n<!-- end of table -->")
