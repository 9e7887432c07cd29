"""Every term of the loss against loops over crystals, sites and single pairs; and who learns from what."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import SiteNet
from crystalmax.encoding import Constituents
from crystalmax.geometry import AllPairs
from crystalmax.objectives import DeepInfoMax
from crystalmax.objectives.base import Objective
from crystalmax.objectives.critics import ProjectedDot
from crystalmax.objectives.deep_infomax import PAPER_NEGATIVES, drawn, joined
from crystalmax.objectives.estimators import InfoNCE, JensenShannon
from crystalmax.objectives.regularizers import GaussianNoise, NoRegularizer
from crystalmax.samples.negatives import Corrupted, NegativeSampler, OtherCrystals
from crystalmax.samples.transforms import FalseComposition, FalsePermutation, FalsePolymorph
from crystalmax.spec import build, describe, read_recipe, seeded_weights
from crystals import some_crystals
from encoders import in_double, unchecked
from reference import deep_infomax, site_net

LEVELS = ("site", "crystal")
BETA = 0.3


class Recorded:
    """A sampler that remembers what it drew, and which batches it had encoded."""

    def __init__(self, sampler):
        self.sampler, self.batches, self.drawn = sampler, [], None

    def draw(self, truth, batch, encode, rng):
        def remembering(other):
            self.batches.append(other)
            return encode(other)

        self.drawn = self.sampler.draw(truth, batch, remembering, rng)
        return self.drawn


def objective(negatives=PAPER_NEGATIVES, seed=0, **options):
    with seeded_weights(seed):
        net = SiteNet(site_width=4, crystal_width=6, hidden=8)
        made = DeepInfoMax(
            net, negatives=negatives, critic=partial(ProjectedDot, hidden=8, common=5), beta=BETA, **options
        )
    return made.double()


def double_batch(**options):
    return in_double(AllPairs(**{"max_sites": 8, **options})(CrystalBatch.collate(some_crystals())))


def rng(seed=5):
    return torch.Generator().manual_seed(seed)


def singly(parts, n_sets):
    """For each set its constituents, one by one."""
    members = [[] for _ in range(n_sets)]
    for row, owner, weight in zip(parts.row.tolist(), parts.owner.tolist(), parts.weight.tolist(), strict=True):
        members[owner] += [parts.values[row].detach().numpy()] * round(weight)
    return members


def false_constituents(recorded, net, n_sets):
    """For each level, for each set, its false constituents; corrupted crystals are encoded once more, by loops."""
    if not recorded.batches:
        return {name: singly(parts, n_sets[name]) for name, parts in recorded.drawn.items()}
    naive = site_net.encode(net, recorded.batches[0], 1e-5)
    levels = {"site": naive.pairs_of_site, "crystal": [[naive.sites[i] for i in own] for own in naive.sites_of_crystal]}
    return {name: levels[name] for name in recorded.drawn}


def terms_by_loops(dim, samplers, noise, batch):
    """Loss and divergence of both levels; what chance decided is given."""
    naive = site_net.encode(dim.encoder, batch, 1e-5)
    truth = {
        "site": (naive.sites, naive.pairs_of_site, naive.sites_of_crystal),
        "crystal": (
            naive.crystals,
            [[naive.sites[i] for i in own] for own in naive.sites_of_crystal],
            [[c] for c in range(batch.n_crystals)],
        ),
    }
    n_sets = {name: len(summaries) for name, (summaries, _, _) in truth.items()}
    families = [false_constituents(sampler, dim.encoder, n_sets) for sampler in samplers]
    terms = {}
    for name, (summaries, true, sets_of_crystal) in truth.items():
        false = [family[name] for family in families if name in family]
        critic, regularizer = dim.critics[name], dim.regularizers[name]
        loss, divergence = deep_infomax.level_terms(
            critic, regularizer, summaries, noise[name], true, false, sets_of_crystal
        )
        terms[name], terms[f"{name}_penalty"] = loss, BETA * divergence
    return terms


def record_noise(dim):
    """What each regularizer will draw, by level; filled when the objective is called."""
    noise = {}

    def remember(name, module, arguments):
        summaries, generator = arguments
        twin = torch.Generator().set_state(generator.get_state())
        noise[name] = torch.randn(summaries.shape, generator=twin).to(summaries.dtype).numpy()

    for name, module in dim.regularizers.items():
        module.register_forward_pre_hook(partial(remember, name))
    return noise


FAMILIES = {
    "other crystals": (OtherCrystals(),),
    "false polymorph": (Corrupted(FalsePolymorph()),),
    "false composition": (Corrupted(FalseComposition()),),
    "false permutation": (Corrupted(FalsePermutation()),),
    "all four of the paper": PAPER_NEGATIVES,
}


@pytest.mark.parametrize("negatives", FAMILIES.values(), ids=FAMILIES)
def test_every_term_equals_loops_over_crystals_sites_and_pairs(negatives):
    samplers = [Recorded(sampler) for sampler in negatives]
    dim, batch = objective(samplers), double_batch()
    noise = record_noise(dim)
    terms = dim(batch, rng())
    expected = terms_by_loops(dim, samplers, noise, batch)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, abs=1e-7), name


def test_merged_pairs_give_the_loss_of_single_pairs():
    # These families draw sites, so the same seed draws the same from merged and from single pairs.
    dim = objective((Corrupted(FalseComposition()), Corrupted(FalsePermutation())))
    merged, single = dim(double_batch(), rng()), dim(double_batch(merge=False), rng())
    for name, value in merged.items():
        assert value.item() == pytest.approx(single[name].item(), abs=1e-5), name


@pytest.mark.parametrize("negatives", FAMILIES.values(), ids=FAMILIES)
def test_a_critic_that_always_says_zero_gives_2_ln_2(negatives):
    dim = objective((*negatives, OtherCrystals()))
    for parameter in dim.critics.parameters():
        nn.init.zeros_(parameter)
    terms = dim(double_batch(), rng())
    for name in LEVELS:
        assert terms[name].item() == pytest.approx(2 * math.log(2), abs=1e-14)


def test_the_penalty_is_weighted_by_beta_and_zero_without_a_regularizer():
    batch = double_batch()
    with_noise, without = objective(), objective(regularizer=NoRegularizer)
    free = objective()
    free.beta = 0.0
    terms, plain, unweighted = (dim(batch, rng()) for dim in (with_noise, without, free))
    for name in LEVELS:
        assert terms[f"{name}_penalty"].item() > 0
        assert plain[f"{name}_penalty"].item() == unweighted[f"{name}_penalty"].item() == 0
        assert terms[name].item() == unweighted[name].item() != plain[name].item()


def reached(term, dim):
    """Parameters that a term has a gradient for."""
    names, parameters = zip(*dim.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def of_levels(dim):
    terms = dim(double_batch(), rng())
    return [reached(terms[name] + terms[f"{name}_penalty"], dim) for name in LEVELS]


def test_each_parameter_learns_from_exactly_one_level():
    dim = objective()
    site, crystal = of_levels(dim)
    assert not site & crystal
    assert site | crystal == {name for name, _ in dim.named_parameters()}
    assert not any("to_site" in name or "embed" in name or "critics.site" in name for name in crystal)


class Uncut(nn.Module):
    """An encoder that ignores `greedy`."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.widths = inner, inner.widths

    def forward(self, batch, *, greedy=False):
        return self.inner(batch)


def test_without_the_cut_levels_would_share_parameters():
    with seeded_weights(0):
        dim = DeepInfoMax(Uncut(SiteNet(site_width=4, crystal_width=6, hidden=8))).double()
    site, crystal = of_levels(dim)
    assert site & crystal


@pytest.mark.parametrize("name", LEVELS)
def test_gradients_equal_finite_differences(name):
    dim, batch = objective(), double_batch()
    own = of_levels(dim)[LEVELS.index(name)]
    learning = [parameter for known, parameter in dim.named_parameters() if known in own]

    def value():
        terms = dim(batch, rng())
        return terms[name] + terms[f"{name}_penalty"]

    directions = [torch.randn(p.shape, generator=rng(11), dtype=p.dtype) for p in learning]
    gradients = torch.autograd.grad(value(), learning)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
    sides = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            for p, d in zip(learning, directions, strict=True):
                p.add_(step * d)
            sides.append(value().item())
            for p, d in zip(learning, directions, strict=True):
                p.sub_(step * d)
    assert slope == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5)
    assert abs(slope) > 1e-3


def test_the_same_seed_gives_the_same_loss_and_another_one_another():
    dim, batch = objective(), double_batch()
    first, second, other = (dim(batch, rng(seed)) for seed in (1, 1, 2))
    for name in LEVELS:
        assert first[name].item() == second[name].item() != other[name].item()


def test_a_level_without_false_samples_is_named():
    dim = objective((Corrupted(FalsePermutation(), levels=("crystal",)),))
    with pytest.raises(ValueError, match="covers the level 'site'; add OtherCrystals"):
        dim(double_batch(), rng())


class Column(ProjectedDot):
    def forward(self, summaries, constituents):
        return super().forward(summaries, constituents)[:, None]


class Total:
    chance, mean_over_false = None, True

    def __init__(self, each):
        self.each = each

    def loss(self, true, false, wholes):
        return true.values if self.each else JensenShannon().loss(true, false, wholes).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"critic": Column},
            r"^Column gives scores of shape \((\d+), 1\) for \1 constituents; give \(\1,\), one each$",
        ),
        (
            {"estimator": Total(each=False)},
            r"^Total gives losses of shape \(\) for (\d+) sets; give \(\1,\), one each$",
        ),
        ({"estimator": Total(each=True)}, r"^Total gives losses of shape \(\d+,\) for (\d+) sets; give"),
    ],
)
def test_scores_and_losses_that_would_be_spread_over_others_are_refused(options, message):
    made = DeepInfoMax(SiteNet(site_width=4, crystal_width=6, hidden=8), **options)
    with pytest.raises(ValueError, match=message):
        made(AllPairs(8)(CrystalBatch.collate(some_crystals())), rng())


def test_one_crystal_alone_has_nothing_to_be_told_from():
    batch = in_double(AllPairs(max_sites=8)(CrystalBatch.collate(some_crystals()[:1])))
    with pytest.raises(ValueError, match="need another crystal"):
        objective()(batch, rng())


def test_families_that_share_values_go_on_sharing_them_when_joined():
    batch = double_batch()
    dim = objective()
    truth = dim.encoder(batch)
    false = OtherCrystals().draw(truth, batch, dim._encode_false, rng())
    for level in truth.levels:
        both = joined([level.constituents, false[level.name]])
        assert both.values.shape == level.constituents.values.shape
        parts = [level.constituents, false[level.name]]
        expected = torch.cat([part.values[part.row] for part in parts])
        assert torch.equal(both.values[both.row], expected)
        assert torch.equal(both.owner, torch.cat([part.owner for part in parts]))
        assert torch.equal(both.weight, torch.cat([part.weight for part in parts]))
        apart = joined([level.constituents, replace(false[level.name], values=level.constituents.values.clone())])
        assert len(apart.values) == 2 * len(both.values)
        assert torch.equal(apart.values[apart.row], expected)


class Beyond(SiteNet):
    shifted = ""

    def forward(self, batch, *, greedy=False):
        return replace(encoded := super().forward(batch, greedy=greedy), levels=tuple(map(self.beyond, encoded.levels)))

    def beyond(self, level):
        if self.shifted == "crystal":
            return replace(level, crystal=level.crystal + 10**9)
        return replace(level, constituents=replace(level.constituents, row=level.constituents.row - 10**9))


@pytest.mark.parametrize(
    ("shifted", "message"),
    [
        ("row", r"^`row` of constituents has -1000000000 to -\d+, not 0 to \d+; number over the whole batch, from 0"),
        ("crystal", r"^`crystal` of level 'site' has 1000000000 to 100000000\d, not 0 to \d+; number over"),
    ],
)
def test_rows_that_there_are_not_are_refused_before_a_loop_reads_them(shifted, message):
    net = Beyond(site_width=4, crystal_width=6, hidden=8)
    net.shifted = shifted
    with pytest.raises(ValueError, match=message):
        DeepInfoMax(net)(AllPairs(8)(CrystalBatch.collate(some_crystals())), rng())


class Misspelt:
    def draw(self, truth, batch, encode, rng):
        return {"sites": truth["site"].constituents}


def test_false_samples_of_a_level_that_there_is_not_are_refused(batch):
    with seeded_weights(0):
        dim = DeepInfoMax(SiteNet(site_width=4, crystal_width=6, hidden=8), negatives=[OtherCrystals(), Misspelt()])
    with pytest.raises(KeyError, match="no level 'sites'; this encoding has site, crystal"):
        dim(batch, rng())


FAULTY = """
from dataclasses import replace
from torch import Generator
from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import SiteNet
from crystalmax.geometry import AllPairs
from crystalmax.samples.negatives import OtherCrystals
from crystalmax.testing import toy_crystals

batch = AllPairs(8)(CrystalBatch.collate(toy_crystals()))
truth = SiteNet(site_width=4, crystal_width=6, hidden=8)(batch)
site, crystal = truth.levels
owner = site.constituents.owner
for spoilt in (
    lambda: replace(site, crystal=site.crystal.float()),
    lambda: replace(site, constituents=replace(site.constituents, owner=owner[: len(owner) // 2])),
):
    try:
        OtherCrystals().draw(replace(truth, levels=(spoilt(), crystal)), batch, None, Generator())
    except (TypeError, ValueError) as error:
        print(error)
"""


def test_arrays_that_a_loop_would_read_beyond_are_refused_where_nobody_checks_shapes():
    # In a process of its own: the tests themselves run under a checker of shapes and types.
    done = subprocess.run([sys.executable, "-c", FAULTY], capture_output=True, text=True, check=True)
    of_crystal, of_owner = done.stdout.splitlines()
    assert of_crystal == "`crystal` of level 'site' is of torch.float32; make it torch.int64, by `.long()`"
    assert re.match(r"constituents have (\d+) rows, \d+ owners and \1 weights; give one of each", of_owner)


def test_it_keeps_the_protocols_and_survives_a_description():
    with seeded_weights(0):
        dim = DeepInfoMax(SiteNet(site_width=4, crystal_width=6, hidden=8), regularizer=NoRegularizer, beta=0.2)
    assert isinstance(dim, Objective)
    assert all(isinstance(sampler, NegativeSampler) for sampler in dim.negatives)
    twin = build(describe(dim))
    assert describe(twin) == describe(dim)
    assert twin.negatives == PAPER_NEGATIVES
    twin.load_state_dict(dim.state_dict())
    batch = AllPairs(max_sites=8)(CrystalBatch.collate(some_crystals()))
    for name, value in dim(batch, rng()).items():
        assert torch.equal(value, twin(batch, rng())[name])


def test_the_paper_recipe_is_the_paper():
    recipe = read_recipe("paper")
    dim = build(recipe["objective"])
    assert dim.negatives == PAPER_NEGATIVES
    assert dim.beta == 0.1
    assert [tuple(widths) for widths in dim.encoder.widths.values()] == [(10, 32), (32, 64)]
    assert isinstance(dim.regularizers["site"], GaussianNoise)
    assert (dim.critics["site"].hidden, dim.critics["site"].common) == (64, 128)
    assert build(recipe["geometry"]) == AllPairs(max_sites=50)
    assert (recipe["training"]["learning_rate"], recipe["training"]["sites_per_batch"]) == (8.12e-4, 1200)
    n_parameters = sum(np.prod(p.shape) for p in dim.parameters())
    assert 40_000 < n_parameters < 120_000


def mean_terms(dim, batch, n):
    """Mean and standard error of the losses over many draws of false samples and shortcuts."""
    dim(batch, rng(0))  # with checks of all shapes, which take two thirds of the time and would find nothing new
    with unchecked():
        draws = [[value.item() for name, value in dim(batch, rng(seed)).items() if name in LEVELS] for seed in range(n)]
    return np.mean(draws, axis=0), np.std(draws, axis=0) / n**0.5


@pytest.mark.parametrize("estimator", [JensenShannon(), InfoNCE()])
def test_shortcuts_keep_the_expectation_of_every_loss(estimator):
    batch, losses = double_batch(), []
    for options in ({}, {"constituents": 2, "families": 1}):
        dim = objective(estimator=estimator, regularizer=NoRegularizer, **options)
        with torch.no_grad():
            for parameter in dim.critics.parameters():
                parameter.mul_(3)  # scores of order one, where a biased draw would show
            losses.append(mean_terms(dim, batch, 150))
    (exact, exact_error), (found, error) = losses
    tolerance = 4 * np.hypot(exact_error, error)
    assert (np.abs(found - exact) < tolerance).all()
    assert (tolerance < 0.15 * exact).all()


def test_a_draw_follows_the_weights():
    values = torch.arange(4.0)[:, None]
    parts = Constituents(
        values, torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 2, 2]), torch.tensor([1.0, 3.0, 1.0, 1.0])
    )
    found = drawn(parts, 4000, 3, rng())
    assert torch.equal(torch.bincount(found.owner), torch.tensor([4000, 0, 4000]))
    shares = torch.bincount(found.values[found.row, 0].long(), minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.75, 0.5, 0.5]), atol=0.03, rtol=0)
    assert set(found.values[found.row, 0][found.owner == 0].tolist()) == {0.0, 1.0}


def test_a_draw_does_not_depend_on_the_order_of_the_parts():
    owner, weight = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([1.0, 1.0, 3.0, 1.0, 2.0])
    found = drawn(Constituents(torch.arange(5.0)[:, None], torch.arange(5), owner, weight), 4000, 2, rng())
    assert torch.equal(owner[found.values[found.row, 0].long()], found.owner)


def test_one_family_a_step_is_every_family_equally_often():
    dim, batch = objective(families=1), double_batch()
    seen = {name: set() for name in LEVELS}
    for seed in range(40):
        families = dim._families(dim.encoder(batch), batch, rng(seed))
        for name in LEVELS:
            assert len(families[name]) == 1
            seen[name].add(families[name][0].values.sum().item())
    assert all(len(values) >= 3 for values in seen.values())


@pytest.mark.parametrize("shortcut", ["constituents", "families"])
def test_a_shortcut_needs_at_least_one(shortcut):
    with pytest.raises(ValueError, match=f"{shortcut} is 0; draw at least 1"):
        objective(**{shortcut: 0})


def test_a_penalty_is_no_reward():
    with pytest.raises(ValueError, match=r"beta is -1\.0; give 0 for no penalty, or more"):
        DeepInfoMax(SiteNet(site_width=4, crystal_width=6, hidden=8), beta=-1.0)


def test_the_fast_recipe_is_the_paper_with_shortcuts():
    paper, fast = read_recipe("paper"), read_recipe("fast")
    assert (fast["objective"].pop("constituents"), fast["objective"].pop("families")) == (4, 1)
    assert fast == paper
