"""What every encoder has to do: no way of writing a crystal matters, levels are cut, Deep InfoMax learns on it."""

import inspect
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.cells import canonical
from crystalmax.checkpoint import load
from crystalmax.crystal import CrystalBatch, Occupant
from crystalmax.encoders import ALIGNN, CGCNN, GaussianBasis, MEGNet, SiteNet
from crystalmax.encoding import Encoder
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.learning.pretraining import pretrain
from crystalmax.neighbors import Neighbors
from crystalmax.spec import build, describe, read_recipe
from crystalmax.storage.dataset import CrystalDataset
from crystals import (
    metal,
    mixed,
    other_basis,
    perovskite,
    pure,
    random_crystals,
    rock_salt,
    rotated,
    shifted,
    shuffled,
    some_crystals,
    supercell,
)
from encoders import made

ROOT = Path(__file__).parent.parent
SINGLE = Neighbors(4.0, max_neighbors=6, merge=False)

# Radii in angstrom, roughly: prototypes get edges that suit what stands in them.
CATIONS = {"Li": 0.8, "Na": 1.0, "K": 1.4, "Mg": 0.7, "Ca": 1.0, "Sr": 1.2, "Ba": 1.4, "Ti": 0.6, "Zr": 0.7, "Fe": 0.8}
ANIONS = {"O": 1.4, "F": 1.3, "S": 1.8, "Cl": 1.8}


@dataclass(frozen=True)
class Case:
    """An encoder, and what it is meant for.

    Attributes:
        part: Its class.
        small: Options that make it small.
        geometry: One where cells do not matter.
        recipe: What trains it.
        trained: Options of the encoder in place of those in the recipe.
    """

    part: type
    small: dict[str, Any]
    geometry: Geometry
    recipe: str
    trained: dict[str, Any] = field(default_factory=dict)

    def network(self, seed=0, **options):
        return made(self.part, seed, **{"site_width": 4, "crystal_width": 6, "hidden": 8, **self.small, **options})

    def batch(self, crystals):
        return self.geometry(CrystalBatch.collate(crystals))


CASES = {
    "SiteNet": Case(SiteNet, {}, Neighbors(4.0), "paper"),
    "SiteNet of blocks": Case(SiteNet, {"blocks": 3, "heads": 2}, Neighbors(4.0), "paper", {"blocks": 2, "heads": 4}),
    "CGCNN": Case(CGCNN, {"convolutions": 2}, SINGLE, "cgcnn"),
    "MEGNet": Case(MEGNet, {"blocks": 2}, Neighbors(3.5, merge=False), "megnet"),
    "ALIGNN": Case(ALIGNN, {"convolutions": (2, 2)}, SINGLE, "alignn", {"hidden": 32}),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def ways_of_writing(crystal, seed=0):
    """The same crystal rotated, shifted, with its sites in another order, in another and in a larger cell."""
    rng = np.random.default_rng(seed)
    shear = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    yield rotated(crystal, rng)
    yield shifted(crystal, rng.uniform(-1, 1, 3))
    yield shuffled(crystal, rng.permutation(crystal.n_sites))
    yield other_basis(crystal, shear)
    yield rotated(supercell(crystal, (2, 1, 1)), rng)


def check_invariance(net, prepared, crystals):
    """No vector of a crystal changes by 1e-5, however it is written, and whatever company it has."""
    with torch.no_grad():
        together = net(prepared(crystals)).crystals
        for vector, crystal in zip(together, crystals, strict=True):
            for other in ways_of_writing(crystal):
                again = net(prepared([other])).crystals[0]
                torch.testing.assert_close(again, vector, atol=1e-5, rtol=0)


@EVERY
def test_neither_cell_nor_rotation_nor_order_nor_company_matters(case):
    check_invariance(case.network(), case.batch, some_crystals())


@EVERY
@settings(max_examples=5)
@given(crystals=st.lists(random_crystals(max_sites=4), min_size=2, max_size=3))
def test_nor_do_they_for_crystals_without_symmetry(case, crystals):
    check_invariance(case.network(), case.batch, crystals)


@pytest.mark.parametrize("depth", [{}, {"blocks": 2, "heads": 2}], ids=str)
def test_nor_do_they_for_all_pairs_of_canonical_cells(depth):
    case = Case(SiteNet, depth, AllPairs(max_sites=12), "paper")
    check_invariance(case.network(), lambda crystals: case.batch(list(map(canonical, crystals))), some_crystals())


@EVERY
def test_a_mixture_is_neither_of_its_elements_and_a_vacancy_counts(case):
    kinds = [*pure("Fe", "Ni"), mixed(Fe=0.5, Ni=0.5), *pure("O"), mixed(O=0.8)]
    vectors = case.network()(case.batch([metal(kind) for kind in kinds])).crystals
    distances = torch.cdist(vectors, vectors) + torch.eye(len(kinds))
    assert distances.min() > 1e-3


@EVERY
def test_oxidation_states_say_nothing_until_it_is_learnt_what_they_say(case):
    """Else a network that never saw any, as the one that ships, makes noise of those of a file that states some."""
    charged = ((Occupant(11, 1.0, 1.0),), (Occupant(17, 1.0, -1.0),))
    net = case.network()
    plain, stated = net(case.batch([rock_salt(), replace(rock_salt(), kinds=charged)])).crystals
    torch.testing.assert_close(plain, stated, atol=1e-6, rtol=0)
    ends = ("embed_site.0.weight", "of_features.weight")
    weights = [weight for name, weight in net.named_parameters() if name.endswith(ends)]
    for gradient in torch.autograd.grad(stated.square().sum(), weights):
        assert gradient[:, -1].any()


def reached(net, number):
    """Names of the weights that a number sends gradient to."""
    names, weights = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(number, weights, allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(names, found, strict=True) if gradient is not None}


@EVERY
def test_the_cut_stops_every_gradient_and_changes_no_number(case):
    net, batch = case.network(), case.batch(some_crystals())
    cut, whole = net(batch, greedy=True), net(batch)
    below = set()
    for one, other in zip(cut.levels, whole.levels, strict=True):
        assert torch.equal(one.summaries, other.summaries)
        own = reached(net, one.summaries.sum())
        assert own
        assert not own & below
        assert not one.constituents.values.requires_grad
        below |= own
        assert below <= reached(net, other.summaries.square().sum())
    assert below == {name for name, _ in net.named_parameters()}


@EVERY
def test_it_is_an_encoder_that_a_description_gives_again(case):
    net, batch = case.network(seed=3, distance=GaussianBasis(width=5)), case.batch(some_crystals())
    assert isinstance(net, Encoder)
    assert inspect.getattr_static(net, "widths")  # Python 3.12's protocols see no more than this
    twin = build(describe(net))
    assert describe(twin) == describe(net)
    twin.load_state_dict(net.state_dict())
    encoding = net(batch)
    assert torch.equal(twin(batch).crystals, encoding.crystals)
    assert [level.name for level in encoding.levels] == list(net.widths)
    for level in encoding.levels:
        assert (level.constituents.values.shape[1], level.summaries.shape[1]) == tuple(net.widths[level.name])
    with pytest.raises(KeyError, match=f"no level 'bond'; this encoding has {', '.join(net.widths)}"):
        encoding["bond"]


@EVERY
def test_without_pairs_it_says_what_to_do(case):
    with pytest.raises(ValueError, match="has no pairs; apply a geometry such as Neighbors"):
        case.network()(CrystalBatch.collate(some_crystals()))


@pytest.fixture(scope="module")
def thousand():
    """Rock salts and perovskites of many elements."""
    rng, crystals = np.random.default_rng(0), []
    for number in range(1000):
        (a, b), x = rng.choice(list(CATIONS), 2, replace=False), rng.choice(list(ANIONS))
        edge = 2 * (CATIONS[b] + ANIONS[x]) * rng.uniform(0.97, 1.03)
        key = f"crystal {number}"
        crystals.append(rock_salt(edge, (b, x), key) if number % 2 else perovskite(edge, pure(a, b, x), key))
    return CrystalDataset.from_crystals(crystals)


@EVERY
def test_two_epochs_on_a_thousand_crystals_teach_every_level(case, thousand, tmp_path):
    recipe = read_recipe(case.recipe)
    recipe["objective"]["encoder"] |= case.trained
    recipe["training"]["sites_per_batch"] = 200  # many steps
    history = pretrain(thousand, tmp_path / "run", recipe=recipe, epochs=2)
    model = load(tmp_path / "run")
    assert isinstance(model.encoder, case.part)
    corrupted = [each for each in recipe["objective"]["negatives"] if each["use"] == "Corrupted"]
    covered = {level for each in corrupted for level in each.get("levels", ("site", "crystal"))}
    assert covered == set(model.encoder.widths)
    first, second = (row for row in history if row["split"] == "valid")
    for level in model.encoder.widths:
        assert second[level] < first[level]
        assert second[level] < model.objective.chance - 0.03


def test_the_page_says_how_little_real_crystals_change():
    page = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    table = page.split("as the featurizer gives them")[1].split("\n\n")[0].splitlines()[2:]
    results = [ROOT / "benchmarks" / "results" / f"invariance_{data}.json" for data in ("mp", "amcsd")]
    measured = [json.loads(result.read_text(encoding="utf-8")) for result in results]
    assert all(result["crystals"] >= 100 for result in measured)
    names = {"SiteNet": "infomax", "SiteNet, 3 blocks of 4 heads": "blocks"}
    seen = set()
    for row in table:
        encoder, *cells = (cell.strip() for cell in row.replace("`", "").strip("|").split("|"))
        seen.add(names.get(encoder, encoder.lower()))
        found = [result["encoders"][names.get(encoder, encoder.lower())] for result in measured]
        for cell, numbers in zip(cells, [found, [each.get("in_cells_as_they_come") for each in found]], strict=True):
            shown = [each["largest_difference"] for each in numbers if each]
            assert cell == " / ".join(f"{1e6 * number:.1f}" for number in shown)
            assert all(number < 1e-5 for number in shown)
    assert all(seen == set(result["encoders"]) for result in measured)


@pytest.mark.parametrize("width", ["hidden", "site_width", "pair_width"])
def test_widths_of_nothing_are_refused(width):
    with pytest.raises(ValueError, match="columns maps nothing; give widths of 1 or more"):
        ALIGNN(**{width: 0})
