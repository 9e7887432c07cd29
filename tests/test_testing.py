"""The contract kit: what ships passes it, and planted faults are caught with a message that says what to do."""

import ast
import importlib
import math
import os
import subprocess
import sys
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from crystalmax import spec
from crystalmax.crystal import CrystalBatch, Pairs
from crystalmax.encoders import ALIGNN, CGCNN, GaussianBasis, MEGNet, SiteNet
from crystalmax.encoding import Constituents, Encoding, Level, Widths
from crystalmax.geometry import AllPairs
from crystalmax.neighbors import Neighbors
from crystalmax.objectives import Contrastive, DeepInfoMax, Mixture, Reconstruction, Regression
from crystalmax.objectives.base import Objective
from crystalmax.objectives.contrasts import BarlowTwins, NTXent, VICReg
from crystalmax.objectives.estimators import DonskerVaradhan, Estimator, InfoNCE
from crystalmax.objectives.regularizers import NoRegularizer, UniformPrior
from crystalmax.samples.alterations import Alteration, Rebuilt
from crystalmax.samples.augmentations import ThermalDisplacement
from crystalmax.samples.negatives import Corrupted, OtherCrystals
from crystalmax.samples.transforms import FalseComposition, FalsePolymorph, Transform
from crystalmax.segments import gather, segment_mean, segment_sum
from crystalmax.statistics.intrinsic import Statistics
from crystalmax.testing import (
    check_encoder,
    check_estimator,
    check_geometry,
    check_objective,
    check_sampler,
    check_transform,
    toy_crystals,
)
from encoders import made

SINGLE = Neighbors(4.0, 6, merge=False)
VIEWS = Rebuilt((ThermalDisplacement(),), AllPairs(max_sites=20))


def shipped(role, *modules):
    """All parts of a role in these modules, with their defaults."""
    known = spec._public_classes().values()
    parts = [part() for part in known if is_dataclass(part) and part.__module__.split(".")[-1] in modules]
    return [part for part in parts if isinstance(part, role)]


@pytest.mark.parametrize(
    ("part", "geometry"), [(SiteNet, None), (CGCNN, Neighbors(5.0, 6)), (MEGNet, Neighbors(4.0)), (ALIGNN, SINGLE)]
)
def test_encoders_that_ship_keep_the_contract(part, geometry):
    check_encoder(made(part, site_width=8, crystal_width=8, hidden=16), geometry)


@pytest.mark.parametrize(
    "geometry", [AllPairs(20), AllPairs(20, merge=False), Neighbors(5.0), Neighbors(8.0, 6), SINGLE]
)
def test_geometries_that_ship_keep_the_contract(geometry):
    check_geometry(geometry)


ALTERATIONS = shipped(Alteration, "augmentations", "corruptions")
TRANSFORMS = [
    *shipped(Transform, "transforms", "corruptions"),
    *(Rebuilt((part,), Neighbors(4.0)) for part in ALTERATIONS),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_transforms_that_ship_keep_the_contract(transform):
    check_transform(transform, SINGLE)


@pytest.mark.parametrize(
    "sampler", [OtherCrystals(), Corrupted(FalsePolymorph(), ("site",)), Corrupted(FalseComposition())]
)
def test_samplers_that_ship_keep_the_contract(sampler):
    check_sampler(sampler)


@pytest.mark.parametrize("estimator", shipped(Estimator, "estimators"), ids=str)
def test_estimators_that_ship_keep_the_contract(estimator):
    check_estimator(estimator)


class Toy(nn.Module):
    """An encoder that is sound unless it is told to have a fault."""

    def __init__(self, *, fault="none"):
        super().__init__()
        self.fault = fault
        self.basis = GaussianBasis(width=8, stop=6.0)
        self.site = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8) if fault == "company" else nn.LayerNorm(8)
        self.crystal = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        if fault == "idle":
            self.unused = nn.Linear(2, 2)
        self.phases = torch.rand(8) if fault == "unregistered" else torch.zeros(8)
        self.dropout = nn.Dropout(0.5 if fault == "dropout" else 0.0)

    @property
    def widths(self):
        return {"site": Widths(8, 9 if self.fault == "width" else 8), "crystal": Widths(8, 8)}

    def forward(self, batch, *, greedy=False):
        pairs = batch.pairs
        if self.fault == "tensor":
            return pairs.displacement
        if self.fault == "raises":
            raise KeyError("oops")
        seen = self.basis(pairs.displacement[:, 0].abs() if self.fault == "rotation" else pairs.distance)
        if self.fault == "in place":
            pairs.count.mul_(2)
        counted = None if self.fault == "count" else pairs.count
        sites = self.site(segment_mean(seen, pairs.center, batch.n_sites, counted))
        sites = self.norm(sites) * (40 if self.fault == "scale" else 1)
        cut = greedy and self.fault not in ("leak", "constituents")
        parts = sites.detach() if cut or self.fault == "always cut" else sites
        weighed = parts.detach() if greedy and self.fault == "constituents" else parts
        if self.fault == "order":
            place = torch.arange(batch.n_sites, dtype=torch.float32)
            weighed = weighed * (1 + 0.01 * place[:, None])
        crystals = self.crystal(segment_mean(weighed, batch.crystal_of_site, batch.n_crystals))
        crystals = self.dropout(crystals + self.phases) * (math.nan if self.fault == "nan" else 1)
        if self.fault == "size":
            crystals = crystals * torch.bincount(batch.crystal_of_site)[:, None]
        if self.fault == "64 bits":
            crystals = crystals.double()
        if self.fault == "cell":
            crystals = crystals * batch.lattice.norm(dim=2).mean(1)[:, None].float()
        members = Constituents(seen, torch.arange(len(seen)), pairs.center, pairs.count)
        if self.fault == "empty":
            kept = slice(int(pairs.center.eq(0).sum()), None)
            members = Constituents(seen, members.row[kept], members.owner[kept], members.weight[kept])
        if self.fault == "weightless":  # any loss of these would be 0
            members = replace(members, weight=0 * members.weight)
        if self.fault == "groups":
            members = replace(members, row=members.row.flip(0), owner=members.owner.flip(0))
        if self.fault == "32 bits":
            members = replace(members, owner=members.owner.int())
        if self.fault == "row":
            members = replace(members, row=members.row + 10**7)
        whole = Constituents(parts, torch.arange(batch.n_sites), batch.crystal_of_site, torch.ones(batch.n_sites))
        of_crystal = batch.crystal_of_site * (self.fault != "crystal of sites")
        levels = (
            Level("site", members, sites, of_crystal),
            Level("crystal", whole, crystals, torch.arange(batch.n_crystals)),
        )
        return Encoding(levels)


def test_a_sound_encoder_passes():
    check_encoder(made(Toy), Neighbors(5.0))
    check_encoder(made(Toy, fault="dropout").eval(), Neighbors(5.0))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("order", "other crystal vectors after a change of the order of sites; pool with means over owners"),
        ("rotation", "other crystal vectors after a rotation; .* let coordinates enter by distances and angles only"),
        ("size", "other crystal vectors in another cell, .*; take means over sites"),
        ("cell", "other crystal vectors in another cell, .* leave the lattice to the geometry"),
        ("count", "other crystal vectors in another cell, .* over pairs by their `count`"),
        ("unregistered", "vectors once it is built again .* register tensors that `__init__` makes as buffers"),
        ("dropout", "vectors once it is built again .* give an encoder with dropout after `.eval"),
        ("company", "another vector in other company; .* use LayerNorm instead of batch normalisation"),
        ("always cut", "vectors of Toy teach site nothing, greedy or not; detach what goes up .* only when greedy"),
        ("leak", "leaks gradient through the cut, from the summaries of level 'crystal' to site.weight .* detach what"),
        ("constituents", "leaks gradient through the cut, from the constituents of level 'crystal' .* detach what"),
        ("width", "level 'site' of Toy promises summaries of width 9, but theirs is 8"),
        ("groups", "constituents of level 'site' of Toy are not grouped by owner; sort them"),
        (
            "32 bits",
            r"`owner` of constituents of level 'site' of Toy is of torch.int32; make it torch.int64, by `.long",
        ),
        ("64 bits", r"level 'crystal' of Toy has vectors of torch.float64; return them by `.float"),
        (
            "crystal of sites",
            "level 'site' of Toy must have a set for each site, and `batch.crystal_of_site` as its `cr",
        ),
        ("row", r"`row` of constituents of level 'site' of Toy has 10000000 to \d+, not 0 to \d+; number"),
        ("tensor", "^Toy returned Tensor; return Encoding$"),
        ("raises", "^KeyError on small crystals: 'oops'; mend what raised it$"),
        ("nan", "level 'crystal' of Toy has summaries that are not finite; look for divisions by 0"),
        ("empty", "1 of 23 sets of level 'site' of Toy have no constituents that count; every set needs one"),
        ("weightless", "23 of 23 sets of level 'site' of Toy have no constituents that count"),
        ("in place", "Toy changed `pairs` of its input in place; work on new tensors"),
        ("scale", "level 'site' of Toy have root-mean-square .* at initialisation; normalise them"),
        ("idle", "no level of Toy learns unused.weight, unused.bias; use these weights in a level, or drop them"),
    ],
)
def test_faults_of_encoders_are_caught(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_encoder(made(Toy, fault=fault), Neighbors(5.0))


@pytest.mark.parametrize("fault", ["size", "cell", "count"])
def test_vectors_of_another_cell_are_compared_where_the_pairs_of_a_geometry_depend_on_it(fault):
    check_encoder(made(Toy), AllPairs(20))
    with pytest.raises(AssertionError, match="other crystal vectors in another cell"):
        check_encoder(made(Toy, fault=fault), AllPairs(20))


def test_a_class_that_no_recipe_could_name_is_no_part():
    class Local(Toy):
        pass

    with pytest.raises(AssertionError, match=r"Local cannot be written into a recipe: .* another session could import"):
        check_encoder(Local(), Neighbors(5.0))


@dataclass(frozen=True)
class Corruption:
    """Another species for each site, with a fault."""

    fault: str = "without"

    def __call__(self, batch, rng):
        drawn = torch.randint(len(batch.kinds), (batch.n_sites,), generator=None if self.fault == "chance" else rng)
        if self.fault == "alone":
            drawn = (batch.species + 1) % torch.arange(len(batch.kinds))[1]
        if self.fault == "none":
            return None
        if self.fault == "in place":
            batch.species.copy_(drawn)
            return batch
        if self.fault == "crystals":
            return replace(batch, lattice=batch.lattice[:-1])
        if self.fault == "species":
            return replace(batch, species=drawn + 1)
        if self.fault == "cells":
            return replace(batch, lattice=1.05 * batch.lattice)
        if self.fault == "order":
            return replace(batch, kinds=batch.kinds.flip(0), species=len(batch.kinds) - 1 - batch.species)
        return batch if self.fault == "nothing" else replace(batch, species=drawn)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("in place", "changed `species` of its input in place; make new tensors, and return dataclasses.replace"),
        ("chance", "draws from torch's global generator, .* pass `generator=rng`"),
        ("crystals", "made 5 crystals of 6; keep them all"),
        ("species", "has species that are no row of `kinds`; append new species"),
        ("nothing", "changed nothing in 5 draws that encoders see, .*; a corruption must differ"),
        ("cells", "changed nothing in 5 draws that encoders see, .*; change cells or positions by an alteration"),
        ("order", "changed nothing in 5 draws that encoders see"),
        ("none", "^Corruption returned NoneType; return CrystalBatch$"),
        ("alone", r"^Corruption fails on crystals of one element \(index 1 is out .*; return the batch as it is"),
    ],
)
def test_faults_of_transforms_are_caught(fault, message):
    check_transform(Corruption())
    with pytest.raises(AssertionError, match=message):
        check_transform(Corruption(fault))


@dataclass(frozen=True)
class Family:
    """Constituents of the crystal before, with a fault."""

    fault: str = "none"

    def draw(self, truth, batch, encode, rng):
        parts = truth["site"].constituents
        if self.fault == "true":
            return {"site": parts}
        if self.fault == "level":
            return {"bond": parts}
        if self.fault == "nothing":
            return {}
        if self.fault == "owner":
            return {"site": replace(parts, row=parts.row.roll(7), owner=parts.owner + 1)}
        if self.fault == "empty":
            return {"site": Constituents(parts.values, parts.row[:0], parts.owner[:0], parts.weight[:0])}
        return {"site": replace(parts, row=parts.row.roll(7))}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("true", "false constituents of level 'site' from Family are the true ones; .* draw others"),
        ("level", "draws for a level 'bond', but there are site, crystal; name one of these"),
        ("nothing", "drew nothing for any level; return a mapping"),
        ("owner", "`owner` of false constituents of level 'site' from Family has 1 to 23, not 0 to 22"),
        ("empty", "there are no false constituents of level 'site' from Family; draw some"),
    ],
)
def test_faults_of_samplers_are_caught(fault, message):
    check_sampler(Family())
    with pytest.raises(AssertionError, match=message):
        check_sampler(Family(fault))


@dataclass(frozen=True)
class Bound:
    """The hinge of the difference of means, softened, with a fault."""

    fault: str = "none"
    mean_over_false: ClassVar[bool] = True

    @property
    def chance(self):
        return 1.0 if self.fault == "chance" else math.log(2)

    def loss(self, true, false, wholes):
        if self.fault == "order":
            true, false = false, true
        low = segment_mean(true.values, true.owner, wholes, true.weight)
        weight = None if self.fault == "weight" else false.weight
        high = segment_mean(false.values, false.owner, wholes, weight)
        if self.fault == "sum":
            high = segment_sum(false.values * false.weight, false.owner, wholes)
        n_false = segment_sum(false.weight, false.owner, wholes)
        gap = high / (n_false / n_false) - low if self.fault == "0 / 0" else high - low
        if self.fault == "sets":
            gap = gap + 0.1 * gap.mean()
        if self.fault == "overflow":
            return (1 + (4 * gap).exp()).log() / 4 + math.log(2) * 0.75
        found = nn.functional.softplus(gap)
        if self.fault != "alone":
            found = torch.where(n_false > 0, found, 0.0)
        return found.sum() if self.fault == "shape" else found


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("order", "the loss of Bound does not fall when true scores rise; .* so turn the sign"),
        ("sets", "Bound mixes sets: .* reduce by `owner`"),
        ("shape", r"gives a loss of shape \(\) for 3 sets; give one a set"),
        ("chance", r"says that its loss by chance is 1.0, but at scores of 0 .* correct `chance`"),
        ("weight", "does not count a constituent as often as its `weight` says"),
        ("sum", "says `mean_over_false`, but its loss changes if all false ones are listed twice; take a mean"),
        ("alone", "Bound lets a set without false constituents cost something; give it 0"),
        ("0 / 0", "Bound has endless gradients where a set has no false constituents"),
        ("overflow", "keep losses finite|endless gradients at scores of some 30; use softplus"),
    ],
)
def test_faults_of_estimators_are_caught(fault, message):
    check_estimator(Bound())
    with pytest.raises(AssertionError, match=message):
        check_estimator(Bound(fault))


@dataclass(frozen=True)
class Pairing:
    """Neighbors, with a fault."""

    fault: str = "none"

    def __call__(self, batch):
        found = Neighbors(5.0, merge=False)(batch)
        pairs = found.pairs
        if self.fault == "groups":
            order = torch.argsort(pairs.neighbor, stable=True)
            return replace(batch, pairs=Pairs(**{name: gather(column, order) for name, column in vars(pairs).items()}))
        if self.fault == "lonely":
            kept = (pairs.center > 0).nonzero()[:, 0]
            return replace(batch, pairs=Pairs(**{name: gather(column, kept) for name, column in vars(pairs).items()}))
        if self.fault == "sites":
            return replace(found, positions=batch.positions + 1)
        if self.fault == "strangers":
            return replace(batch, pairs=replace(pairs, neighbor=pairs.neighbor.flip(0)))
        if self.fault == "32 bits":
            return replace(batch, pairs=replace(pairs, neighbor=pairs.neighbor.int()))
        if self.fault == "direction":
            return replace(batch, pairs=replace(pairs, displacement=-pairs.displacement))
        if self.fault == "axis":
            kept = (pairs.displacement[:, 2].abs() < 3).nonzero()[:, 0]
            return replace(batch, pairs=Pairs(**{name: gather(column, kept) for name, column in vars(pairs).items()}))
        return batch if self.fault == "none at all" else found


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("groups", "pairs from Pairing are not grouped by center; sort them by `center`"),
        ("lonely", "leaves 1 of 23 sites without a pair; give each at least its nearest"),
        ("sites", "changed `positions`; a geometry adds pairs and nothing else"),
        ("strangers", "pairs sites of different crystals; look for neighbors within each crystal"),
        ("32 bits", "`neighbor` of pairs from Pairing is of torch.int32; make it torch.int64"),
        ("direction", "displacements that do not lead from the center to an image of the neighbor"),
        ("axis", "gives other distances after a rotation; make pairs from distances alone"),
        ("none at all", "returned a batch without pairs"),
    ],
)
def test_faults_of_geometries_are_caught(fault, message):
    check_geometry(Pairing())
    with pytest.raises(AssertionError, match=message):
        check_geometry(Pairing(fault))


OBJECTIVES = {
    "Deep InfoMax": DeepInfoMax,
    "of a few": partial(DeepInfoMax, constituents=3, families=2),
    "InfoNCE, a prior": partial(DeepInfoMax, estimator=InfoNCE(), regularizer=UniformPrior),
    "no noise": partial(DeepInfoMax, estimator=DonskerVaradhan(), regularizer=NoRegularizer),
    "statistics, prepared": partial(Reconstruction, intrinsics=[Statistics({"composition": 1.0})]),
    "mixture": partial(Mixture, parts=[DeepInfoMax, Reconstruction], automatic=True),
    **{
        f"{type(contrast).__name__}, {level}": partial(Contrastive, views=VIEWS, contrast=contrast, level=level)
        for contrast in (NTXent(), BarlowTwins(), VICReg())
        for level in ("site", "crystal")
    },
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_objectives_that_ship_keep_the_contract(objective):
    check_objective(objective(made(SiteNet, site_width=8, crystal_width=8, hidden=16)))


def test_an_objective_that_needs_labels_keeps_the_contract_on_crystals_that_have_them():
    labelled = [replace(crystal, targets={"size": float(crystal.n_sites)}) for crystal in toy_crystals()]
    check_objective(Regression(made(Toy), target="size"), Neighbors(5.0), labelled)
    with pytest.raises(AssertionError, match="the data set has no property 'size' to learn"):
        check_objective(Regression(made(Toy), target="size"), Neighbors(5.0))


class Sizes(Objective):
    """Vectors are to tell the number of sites; with a fault."""

    def __init__(self, encoder, *, fault="none"):
        super().__init__()
        self.encoder, self.fault = encoder, fault
        self.head = nn.Linear(8, 1)
        self.start = torch.rand(1) if fault == "unregistered" else torch.zeros(1)
        self.step = 0.0
        if fault == "idle":
            self.unused = nn.Linear(2, 2)

    def forward(self, batch, rng):
        vectors = self.encoder(batch).crystals
        sizes = torch.bincount(batch.crystal_of_site).float() / 3
        told = self.head(vectors.detach() if self.fault == "detached" else vectors)[:, 0] + self.start
        if self.fault == "in place":
            batch.positions.add_(1)
        if self.fault == "chance":
            told = told + torch.randn(1)
        if self.fault == "steps":
            self.step += 1.0
        if self.fault == "few":
            told = told / (len(sizes) - 2)
        gap = (told - sizes + self.step).square()
        if self.fault == "root":
            gap = (gap * 0).sqrt()
        return {"sizes": 2 * gap.detach().mean() - gap.mean() if self.fault == "reversed" else gap.mean()}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("detached", "Sizes sends no gradient to its encoder; leave `detach`"),
        ("in place", "Sizes changed `positions` of its input in place; work on new tensors"),
        ("chance", "Sizes draws from torch's global generator"),
        ("steps", "Sizes gives other terms for the same generator; draw all numbers from `rng`"),
        ("few", "Sizes gives (inf|nan) as 'sizes' of 2 small crystals; look for divisions by 0"),
        ("root", r"Sizes has endless gradients for encoder.site.weight, .*; look for roots"),
        ("unregistered", "Sizes gives other terms once it is built again .*; register tensors"),
        ("idle", "Sizes does not learn unused.weight, unused.bias; use these weights"),
        ("reversed", r"the terms of Sizes rose from [\d.e+]+ to [\d.e+]+ in 30 steps of Adam"),
    ],
)
def test_faults_of_objectives_are_caught(fault, message):
    check_objective(Sizes(made(Toy)), Neighbors(5.0))
    with pytest.raises(AssertionError, match=message):
        check_objective(Sizes(made(Toy), fault=fault), Neighbors(5.0))


class Halved(Objective):
    """Another objective, for half; its encoder is that one's."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    @property
    def encoder(self):
        return self.whole.encoder

    def forward(self, batch, rng):
        return {name: value / 2 for name, value in self.whole(batch, rng).items()}


def test_an_encoder_is_known_by_its_weights_whatever_an_objective_calls_it():
    check_objective(Halved(Sizes(made(Toy))), Neighbors(5.0))
    for fault, message in (("detached", "Halved sends no gradient to its encoder"), ("idle", "learn whole.unused.w")):
        with pytest.raises(AssertionError, match=message):
            check_objective(Halved(Sizes(made(Toy), fault=fault)), Neighbors(5.0))


class Bare(nn.Module):
    """It has nothing that a role asks for."""


def complaints():
    """What each check says of it."""
    found = {}
    for check in (check_encoder, check_estimator, check_geometry, check_objective, check_sampler, check_transform):
        try:
            check(Bare if check is check_geometry else Bare())
        except AssertionError as error:
            found[check.__name__] = str(error)
    return found


def test_parts_that_lack_what_their_role_asks_for_are_told_what():
    """In a process of its own, where the types that these tests check at every call do not answer first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    script = f"import {__name__} as tests; print(tests.complaints())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    said = ast.literal_eval(done.stdout)
    assert said["check_encoder"] == "Bare has no widths; write it as crystalmax.encoding.Encoder says"
    needed = "chance, loss, mean_over_false"
    assert (
        said["check_estimator"] == f"Bare has no {needed}; write it as crystalmax.objectives.estimators.Estimator says"
    )
    assert said["check_sampler"] == "Bare has no draw; write it as crystalmax.samples.negatives.NegativeSampler says"
    assert said["check_objective"].startswith("Bare does not inherit crystalmax.objectives.base.Objective")
    assert said["check_geometry"].endswith("Bare'> is a class; give one that is made of it")
    assert said["check_transform"].startswith("NotImplementedError on small crystals: Module [Bare] is missing")


def test_the_example_that_the_page_prints_keeps_the_contract(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    my_lab = importlib.import_module("my_lab")
    check_encoder(my_lab.PlainMeans())
    check_transform(my_lab.SwapTwo())
    check_sampler(Corrupted(my_lab.SwapTwo()))  # a part that ships, with one of another package inside


def test_the_example_makes_its_tensors_where_the_batch_is(monkeypatch):
    """As on a GPU: what is made without a device lies elsewhere, here on one that holds no numbers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    my_lab = importlib.import_module("my_lab")
    batch, encoder = AllPairs(20)(CrystalBatch.collate(toy_crystals())), my_lab.PlainMeans()
    with torch.device("meta"):
        other = my_lab.SwapTwo()(batch, torch.Generator().manual_seed(0))
        levels = encoder(other).levels
    assert other.species.is_cpu
    for level in levels:
        members = level.constituents
        made = (level.summaries, level.crystal, members.values, members.row, members.owner, members.weight)
        assert all(tensor.is_cpu for tensor in made)


@pytest.mark.parametrize("alteration", ALTERATIONS, ids=str)
def test_alterations_that_ship_keep_the_contract_as_they_are(alteration):
    check_transform(alteration, Neighbors(4.0))


def test_all_that_ships_was_looked_at():
    """An empty list of parts would pass every check."""
    assert len(TRANSFORMS) >= 11
    assert len(ALTERATIONS) >= 5
    assert len(shipped(Estimator, "estimators")) >= 5


def test_toy_crystals_are_of_all_sorts():
    crystals = toy_crystals()
    assert [crystal.n_sites for crystal in crystals] == [1, 4, 7, 3, 6, 2]
    assert {crystal.is_ordered for crystal in crystals} == {True, False}


def test_frozen_parts_satisfy_their_protocols_for_type_checkers_too():
    """A plain annotation asks for an attribute that can be set, which that of a frozen dataclass cannot."""
    modules = [sys.modules[name] for name in spec.PUBLIC_MODULES]
    found = {each for module in modules for each in vars(module).values() if getattr(each, "_is_protocol", False)}
    assert Estimator in found
    assert {role.__name__: role.__annotations__ for role in found if role.__annotations__} == {}
