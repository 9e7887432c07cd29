"""The page about extending lists every part that ships, and says of collisions what was measured."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from crystalmax.samples.alterations import Rebuilt
from crystalmax.samples.corruptions import Strain, Vacancy
from crystalmax.samples.negatives import Corrupted, WithoutCollisions
from crystalmax.spec import PUBLIC_MODULES, build

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
DATA = ("perov_5", "carbon_24", "matbench_phonons")
# What parts are given and return, and the layer that they are made of.
NO_PARTS = {
    *(
        "Altered",
        "Constituents",
        "Crystal",
        "CrystalBatch",
        "CrystalDataset",
        "Dense",
        "Encoding",
        "FoundPairs",
        "Level",
        "Pairs",
        "Scores",
    ),
    "Widths",
}


def table(heading):
    """First column and the others of the first table below a heading."""
    below = PAGE.split(f"\n{heading}\n")[1]
    lines = re.search(r"(\|.*\n)+", below)[0].splitlines()[2:]
    rows = [line.strip("|").split("|") for line in lines]
    return {first.strip(" `"): [other.strip() for other in others] for first, *others in rows}


def shipped():
    modules = [__import__(name, fromlist=["_"]) for name in PUBLIC_MODULES]
    classes = {found for module in modules for found in vars(module).values() if isinstance(found, type)}
    ours = {found for found in classes if found.__module__.startswith("crystalmax.")}
    named = {found.__name__ for found in ours if not getattr(found, "_is_protocol", False)}
    return {name for name in named if not name.startswith("_")} - NO_PARTS


def test_every_part_that_ships_is_listed_and_can_be_named_in_a_recipe():
    listed = {name for (parts,) in table("## What there is").values() for name in re.findall(r"`(\w+)`", parts)}
    assert listed == shipped()
    for name in listed:
        assert build({"use": name, "later": True}).__name__ == name


def test_the_recipe_of_a_defect_can_be_built():
    (block,) = (text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "Rebuilt" in text)
    (family,) = build(tomllib.loads(block)["objective"]["negatives"])
    assert family == WithoutCollisions(Corrupted(Rebuilt((Vacancy(rate=0.1), Strain()))))


@pytest.mark.parametrize("column", range(len(DATA)), ids=DATA)
def test_collisions_are_what_was_measured(column):
    stored = json.loads((ROOT / "benchmarks" / "results" / f"collisions_{DATA[column]}.json").read_text("utf-8"))
    shown = table("### Collisions")
    assert shown.keys() == stored["collisions"].keys()
    for family, rates in stored["collisions"].items():
        numbers = [f"{100 * rates[level]:.2g}" if rates[level] < 0.995 else "100" for level in ("site", "crystal")]
        assert shown[family][column] == " / ".join(numbers), family
