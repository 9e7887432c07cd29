"""Contrastive, reconstructing and mixed objectives: equations against loops, gradients where they belong."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from crystalmax.checkpoint import Model, load, save
from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import SiteNet
from crystalmax.geometry import AllPairs
from crystalmax.objectives import Contrastive, DeepInfoMax, Mixture, Reconstruction, Regression
from crystalmax.objectives.base import Objective
from crystalmax.objectives.contrasts import BarlowTwins, Contrast, NTXent, VICReg
from crystalmax.samples.alterations import Rebuilt
from crystalmax.samples.corruptions import Strain, Vacancy
from crystalmax.spec import build, describe, seeded_weights
from crystalmax.statistics import baselines
from crystalmax.statistics.intrinsic import (
    Composition,
    Coordination,
    Density,
    Intrinsic,
    RadialDistribution,
    SpaceGroup,
    Statistics,
)
from crystalmax.storage.dataset import CrystalDataset
from crystals import some_crystals

CONTRASTS = (NTXent(), BarlowTwins(), VICReg())
INTRINSICS = (Composition(), Density(), RadialDistribution(), Coordination(), SpaceGroup())


@dataclass(frozen=True)
class Shaken:
    """Displacements a little off, another time each time."""

    size: float = 0.02

    def __call__(self, batch, rng):
        pairs = batch.pairs
        noise = torch.randn(pairs.displacement.shape, generator=rng).to(pairs.displacement)
        return replace(batch, pairs=replace(pairs, displacement=pairs.displacement + self.size * noise))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def views(n=6, width=4):
    one = torch.randn(n, width, generator=rng(), dtype=torch.float64)
    return one, one + 0.3 * torch.randn(n, width, generator=rng(1), dtype=torch.float64)


def encoder(seed=0):
    with seeded_weights(seed):
        return SiteNet(site_width=4, crystal_width=6, hidden=16)


def some_batch(**targets):
    crystals = [replace(c, targets={k: v[i] for k, v in targets.items()}) for i, c in enumerate(some_crystals())]
    return AllPairs(max_sites=12)(CrystalBatch.collate(crystals))


def test_ntxent_equals_its_equation():
    one, other = (view.numpy() for view in views())
    both, n, total = np.concatenate([one, other]), len(one), 0.0

    def alike(i, j):
        return math.exp(both[i] @ both[j] / np.linalg.norm(both[i]) / np.linalg.norm(both[j]) / 0.5)

    for i in range(2 * n):
        total -= math.log(alike(i, (i + n) % (2 * n)) / sum(alike(i, j) for j in range(2 * n) if j != i))
    assert NTXent(temperature=0.5)(*views()).item() == pytest.approx(total / (2 * n))


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan])
def test_what_divides_is_above_zero(value):
    with pytest.raises(ValueError, match="give one above 0"):
        NTXent(temperature=value)  # views that are alike would be pushed apart
    with pytest.raises(ValueError, match="give a deviation above 0"):
        RadialDistribution(smearing=value)  # no neighbor would be seen


def test_barlow_twins_equal_their_equation():
    one, other = (view.numpy() for view in views())
    a, b = ((view - view.mean(0)) / view.std(0) for view in (one, other))
    total = 0.0
    for i in range(4):
        for j in range(4):
            c = sum(a[k, i] * b[k, j] for k in range(len(a))) / len(a)
            total += (1 - c) ** 2 if i == j else 0.1 * c**2
    assert BarlowTwins(redundancy=0.1)(*views()).item() == pytest.approx(total / 4, rel=1e-5)


def test_vicreg_equals_its_equation():
    one, other = (view.numpy() for view in views())
    total = 2.0 * np.mean((one - other) ** 2)
    for view in (one, other):
        total += 3.0 * np.mean([max(0.0, 1 - math.sqrt(column.var(ddof=1) + 1e-4)) for column in view.T])
        covariance = np.cov(view.T)
        total += 0.5 * sum(covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert VICReg(2.0, 3.0, 0.5)(*views()).item() == pytest.approx(total)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_contrast_prefers_partners_and_collapse_is_dear(contrast):
    one, other = views(n=40)
    one, other = (view / view.std(0) for view in (one, other))
    assert isinstance(contrast, Contrast)
    assert contrast(one, other) < contrast(one, other.roll(1, 0))
    assert contrast(one, other) < contrast(torch.zeros_like(one) + 1e-3, torch.zeros_like(one) + 1e-3)


@pytest.mark.parametrize("level", ["crystal", "site"])
def test_contrastive_learning_moves_every_level_below(level):
    with seeded_weights(1):
        objective = Contrastive(encoder(), views=Shaken(), level=level)
    batch = some_batch()
    first, again, other = (objective(batch, rng(seed))["contrast"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    first.backward()
    learning = {name for name, p in objective.encoder.named_parameters() if p.grad is not None}
    above = {name for name, _ in objective.encoder.named_parameters() if name.startswith(("before_mean", "to_crystal"))}
    every = {name for name, _ in objective.encoder.named_parameters()}
    assert learning == (every if level == "crystal" else every - above)
    with pytest.raises(ValueError, match="no level 'bond'; it has site, crystal"):
        Contrastive(encoder(), views=Shaken(), level="bond")


def test_sites_are_compared_only_where_both_views_have_the_same():
    for alteration, refused in ((Strain(), False), (Vacancy(), True)):
        views = Rebuilt((alteration,), AllPairs(max_sites=12))
        assert "contrast" in Contrastive(encoder(), views=views)(some_batch(), rng())
        with pytest.raises(ValueError, match="take the level 'crystal'") if refused else nullcontext():
            Contrastive(encoder(), views=views, level="site")(some_batch(), rng())


def test_intrinsic_truths_are_those_of_the_structure():
    crystals = some_crystals()
    batch = some_batch()
    np.testing.assert_allclose(Composition().truth(batch), baselines.element_fractions(crystals)[0], atol=1e-6)
    density = [baselines.density(crystal) for crystal in crystals]
    np.testing.assert_allclose(Density().truth(batch)[:, 0], (np.log(np.array(density)) - math.log(5)) / 0.6, rtol=1e-4)
    pairs = batch.pairs
    radii = np.linspace(0.3, 7.2, 24)
    for number, crystal in enumerate(crystals):
        near, bonds = np.zeros(24), []
        for site in np.flatnonzero(batch.crystal_of_site.numpy() == number):
            own = np.flatnonzero(pairs.center.numpy() == site)
            distances = np.repeat(pairs.distance.numpy()[own], pairs.count.numpy()[own].astype(int))
            near += sum(np.exp(-0.5 * ((d - radii) / 0.3) ** 2) for d in distances)
            bonds.append(math.log(sum(distances <= 1.2 * distances.min())))
        np.testing.assert_allclose(
            RadialDistribution().truth(batch)[number], np.log1p(near / crystal.n_sites), rtol=1e-3, atol=1e-4
        )
        expected = [np.mean(bonds), np.mean(np.square(bonds))]
        np.testing.assert_allclose(Coordination().truth(batch)[number], expected, rtol=1e-5)


@pytest.mark.parametrize("intrinsic", INTRINSICS)
def test_an_intrinsic_property_is_learnt_from_a_vector_that_knows_it(intrinsic):
    assert isinstance(intrinsic, Intrinsic)
    batch = some_batch(spacegroup_number=[225.0, 221.0, 221.0, 194.0, 152.0, 1.0])
    truth = intrinsic.truth(batch)
    predicted = torch.zeros(batch.n_crystals, intrinsic.width, requires_grad=True)
    optimizer = torch.optim.Adam([predicted], lr=0.3)
    losses = []
    for _ in range(60):
        loss = intrinsic.loss(predicted, truth)
        assert loss.shape == (batch.n_crystals,)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.sum().item())
    assert -1e-5 < losses[-1] < 0.05 * losses[0]


class Columns:
    """Gives its losses as a column, which would count each crystal as often as there are crystals."""

    width = 1

    def truth(self, batch):
        return Density().truth(batch)

    def loss(self, predicted, truth):
        return Density().loss(predicted, truth)[:, None]


def test_losses_of_an_intrinsic_property_that_would_be_spread_over_others_are_refused(batch):
    made = Reconstruction(SiteNet(site_width=4, crystal_width=6, hidden=8), intrinsics=[Columns()])
    with pytest.raises(
        ValueError, match=r"^Columns gives losses of shape \((\d+), 1\) for \1 crystals; give \(\1,\), one"
    ):
        made(batch, torch.Generator().manual_seed(0))


def test_a_crystal_without_a_space_group_has_no_part_in_it():
    with seeded_weights(1):
        objective = Reconstruction(encoder(), intrinsics=[SpaceGroup()])
    known = [225.0, 221.0, float("nan"), 194.0, 152.0, 1.0]
    terms = objective(some_batch(spacegroup_number=known), rng())
    one_less = objective(some_batch(spacegroup_number=[*known[:2], 99.0, *known[3:]]), rng())
    assert torch.isfinite(terms["SpaceGroup"])
    assert terms["SpaceGroup"] != one_less["SpaceGroup"]
    with pytest.raises(ValueError, match=r"spacegroup_number of '.+' is 0; give 1 to 230"):
        objective(some_batch(spacegroup_number=[*known[:2], 0.0, *known[3:]]), rng())
    with pytest.raises(ValueError, match="no property 'spacegroup_number' to reconstruct"):
        objective(some_batch(), rng())


def test_statistics_are_those_of_the_structures_each_in_deviations_of_the_crystals_that_are_learnt_from(tmp_path):
    crystals, rows = some_crystals(), np.array([0, 2, 3, 5])
    objective = Reconstruction(encoder(), intrinsics=[Density(), Statistics(farthest=1.5)])
    data = objective.prepared(CrystalDataset.from_crystals(crystals), rows, tmp_path)
    values, names = baselines.statistics(crystals)
    truth = Statistics(farthest=1.5).truth(data.batch(np.arange(len(crystals)))).numpy()
    assert truth.shape == (len(crystals), Statistics().width)
    assert np.flatnonzero(np.isnan(truth).any(axis=1)).tolist() == [1, 4]
    column = names.index("volume per atom")
    of_rows = values[rows, column]
    expected = ((of_rows - of_rows.mean()) / of_rows.std()).clip(-1.5, 1.5)
    np.testing.assert_allclose(truth[rows, column], expected, rtol=1e-5)
    assert 1.5 in expected, "nothing was far here"
    assert not truth[rows, names.index("fraction of Xe")].any()  # which none of them has


def test_two_of_a_class_are_both_prepared_and_both_learnt(tmp_path):
    blocks = [Statistics(weights={name: 1.0}) for name in ("levels", "densities")]
    objective = Reconstruction(encoder(), intrinsics=blocks)
    crystals, rows = some_crystals(), np.arange(len(some_crystals()))
    data = objective.prepared(CrystalDataset.from_crystals(crystals), rows, tmp_path)
    for number, each in enumerate(blocks):
        alone = each.prepared(CrystalDataset.from_crystals(crystals), rows, tmp_path / f"{number}")
        torch.testing.assert_close(each.truth(data.batch(rows)), each.truth(alone.batch(rows)))
    terms = objective(AllPairs()(data.batch(rows)), rng())
    assert set(terms) == {"Statistics", "Statistics_2"}
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in objective.heads.parameters())


def test_blocks_of_statistics_count_by_their_weights_and_others_are_not_told(tmp_path):
    crystals, rows = some_crystals(), np.arange(len(some_crystals()))
    statistics = Statistics(weights={"springs": 2.0, "charges": 0.5})
    data = statistics.prepared(CrystalDataset.from_crystals(crystals), rows, tmp_path)
    truth = statistics.truth(data.batch(rows))
    n_charges, n_springs = (baselines.BLOCKS[name](crystals)[0].shape[1] for name in ("charges", "springs"))
    assert truth.shape == (len(crystals), n_charges + n_springs), "in the order of the columns"
    predicted = torch.randn(truth.shape, generator=rng())
    weights = [0.5] * n_charges + [2.0] * n_springs
    expected = [
        sum(w * (a - b) ** 2 for w, a, b in zip(weights, told, true, strict=True)) / sum(weights)
        for told, true in zip(predicted.tolist(), truth.tolist(), strict=True)
    ]
    np.testing.assert_allclose(statistics.loss(predicted, truth).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"spring": 1.0}, "no block 'spring' of statistics; there are fractions"),
        ({"springs": 0.0}, "the weight of springs is 0.0"),
        ({"springs": math.inf}, "the weight of springs is inf"),
        ({}, "the weights name no block of statistics"),
    ],
)
def test_blocks_of_statistics_that_make_no_sense_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        Statistics(weights=weights)


def test_statistics_that_another_version_made_otherwise_are_made_again(tmp_path, monkeypatch):
    data, rows, statistics = CrystalDataset.from_crystals(some_crystals()[:2]), np.arange(2), Statistics()
    statistics.prepared(data, rows, tmp_path)
    statistics.prepared(data, rows, tmp_path)
    assert len([*tmp_path.glob("*.f4")]) == 1
    monkeypatch.setattr("crystalmax.statistics.surroundings.SOFTENING", 4)
    statistics.prepared(data, rows, tmp_path)
    assert len([*tmp_path.glob("*.f4")]) == 2


def test_statistics_that_were_not_prepared_are_refused():
    with pytest.raises(ValueError, match=r"no statistics to reconstruct; `Reconstruction.prepared` adds them"):
        Reconstruction(encoder(), intrinsics=[Statistics()])(some_batch(), rng())


def test_a_property_that_there_is_not_is_no_target_of_regression():
    batch = AllPairs(max_sites=6)(CrystalBatch.collate(some_crystals()[:2]))
    with pytest.raises(ValueError, match="the data set has no property 'nope' to learn; its properties: none"):
        Regression(SiteNet(), target="nope")(batch, torch.Generator())


def test_without_a_hidden_layer_a_property_is_a_linear_map_of_the_vector():
    with seeded_weights(4):
        objective = Reconstruction(encoder(), intrinsics=[Coordination()], hidden=0)
    batch = some_batch()
    (head,) = objective.heads
    expected = objective.encoder(batch).crystals @ head.weight.T + head.bias
    loss = (expected - Coordination().truth(batch)).square().mean()
    torch.testing.assert_close(objective(batch, rng())["Coordination"], loss)


def mixture(**options):
    parts = (
        DeepInfoMax,
        partial(Reconstruction, intrinsics=(Density(), Composition())),
        partial(Regression, target="gap"),
        partial(Regression, target="energy"),
    )
    with seeded_weights(2):
        return Mixture(encoder(), parts=parts, **options)


def mixed_batch():
    gap = [1.0, float("nan"), 2.0, 0.5, float("nan"), 1.5]
    return some_batch(gap=gap, energy=[-1.0, -2.0, float("nan"), -0.5, -1.5, -3.0])


def test_a_mixture_is_the_weighted_sum_of_its_parts():
    weights = (1.0, 0.5, 2.0, 3.0)
    mixed = mixture(weights=weights)
    terms = mixed(mixed_batch(), rng())
    names = ["site", "site_penalty", "crystal", "crystal_penalty", "Density", "Composition", "error", "error_4"]
    assert list(terms) == names
    generator = rng()
    found = [part(mixed_batch(), generator) for part in mixed.objectives]
    flat = [weight * value for weight, part in zip(weights, found, strict=True) for value in part.values()]
    torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(flat))


def test_names_that_repeat_still_end_like_penalties():
    with seeded_weights(2):
        terms = Mixture(encoder(), parts=[DeepInfoMax, DeepInfoMax])(mixed_batch(), rng())
    once = ["site", "site_penalty", "crystal", "crystal_penalty"]
    assert list(terms) == [*once, "site_2", "site_2_penalty", "crystal_2", "crystal_2_penalty"]


def test_learnt_weights_follow_the_losses():
    mixed = mixture(automatic=True)
    sum(mixed(mixed_batch(), rng()).values()).backward()
    terms = [part(mixed_batch(), rng()) for part in mixed.objectives]
    sizes = torch.tensor([sum(value.item() for value in part.values()) for part in terms])
    # d/d ln w of w L - ln w at w = 1 is L - 1: large losses lose weight.
    torch.testing.assert_close(mixed.log_weights.grad[1:], sizes[1:] - 1, atol=0.2, rtol=0.2)


def test_a_mixture_stores_its_encoder_once_and_comes_back(tmp_path):
    mixed = mixture(weights=(1.0, 1.0, 1.0, 0.5))
    assert isinstance(mixed, Objective)
    assert sum(name.endswith("to_site.weight") for name in mixed.state_dict()) == 1
    assert all(part.encoder is mixed.encoder for part in mixed.objectives)
    save(Model(mixed, AllPairs(), {}), tmp_path / "run")
    twin = load(tmp_path / "run").objective
    assert describe(twin) == describe(mixed)
    for name, value in mixed.eval()(mixed_batch(), rng()).items():
        assert torch.equal(value, twin(mixed_batch(), rng())[name])


def test_impossible_mixtures_are_refused():
    with pytest.raises(ValueError, match="without parts"):
        Mixture(encoder(), parts=())
    for weights in ((1.0, 2.0), (1.0, 1.0, 1.0, 0.0), (1.0, 1.0, 1.0, -1.0)):
        with pytest.raises(ValueError, match="4 parts need as many weights above 0"):
            mixture(weights=weights)
    with pytest.raises(ValueError, match="LayerNorm does not keep the encoder as its `encoder`; let it do so"):
        Mixture(encoder(), parts=(lambda encoder: nn.LayerNorm(4),))


@pytest.mark.parametrize("objective", ["contrastive", "reconstruction", "mixture"])
def test_losses_fall_in_a_few_steps(objective):
    made = {
        "contrastive": lambda: Contrastive(encoder(), views=Shaken(0.1), contrast=VICReg()),
        "reconstruction": lambda: Reconstruction(encoder()),
        "mixture": mixture,
    }
    with seeded_weights(3):
        module = made[objective]()
    assert isinstance(module, nn.Module)
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=2e-3), []
    for _ in range(30):
        loss = sum(module(mixed_batch(), rng()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_every_shipped_objective_survives_a_description():
    for module in (
        Contrastive(encoder(), views=Shaken(0.1)),
        Reconstruction(encoder(), intrinsics=(*INTRINSICS, Statistics()), hidden=0),
        mixture(),
    ):
        assert describe(build(describe(module), trusted=("test_objectives",))) == describe(module)


def test_outliers_on_both_sides_count_as_far_as_was_asked_for(batch):
    told = Statistics({"charges": 1.0}, farthest=1.5)
    targets = dict.fromkeys(told._columns, torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, 2.0]))
    assert told.truth(replace(batch, targets=targets))[:, 0].tolist() == [-1.5, -1.0, 0.0, 1.0, 1.5, 1.5]


def test_the_first_space_group_is_the_first_column():
    logits = torch.zeros(3, 230)
    logits[0, 0] = logits[1, 224] = logits[2, 229] = 50.0
    loss = SpaceGroup().loss(logits, torch.tensor([[1.0], [225.0], [229.0]]))
    assert loss.tolist() == pytest.approx([0.0, 0.0, 50.0], abs=1e-5)
