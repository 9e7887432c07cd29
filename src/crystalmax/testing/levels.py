"""Contracts of encoders, and of samplers of false constituents for their levels."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import Crystal, CrystalBatch, Occupant, pairs_of
from crystalmax.encoders import SiteNet
from crystalmax.encoding import Constituents, Encoder, Encoding
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.neighbors import Neighbors
from crystalmax.samples.alterations import Rebuilt
from crystalmax.samples.augmentations import OtherCell, Supercell
from crystalmax.samples.negatives import NegativeSampler
from crystalmax.segments import demand_rows, gather, segment_mean
from crystalmax.testing.batches import moments
from crystalmax.testing.claims import (
    check_description,
    contract,
    demand,
    demand_close,
    demand_role,
    demand_type,
    left_alone,
    own_chance,
    rewritten,
    same,
    toy_crystals,
)


@contract
def check_encoder(encoder: Encoder, geometry: Geometry | None = None) -> None:
    """Raise if an encoder has wrong levels, lacks an invariance or the cut between levels, or has vectors of odd scale.

    Args:
        encoder: A module.
        geometry: The geometry that it is meant for; `AllPairs(max_sites=20)` unless given.
    """
    name, geometry = type(encoder).__name__, AllPairs(max_sites=20) if geometry is None else geometry
    demand(isinstance(encoder, nn.Module), f"{name} is no torch.nn.Module, so it cannot be trained; derive it from one")
    demand_role(encoder, Encoder)
    twin = check_description(encoder)
    crystals = toy_crystals()
    batch = geometry(CrystalBatch.collate(crystals))
    with left_alone(batch, name, "work on new tensors, not in place"):
        encoding = encoder(batch)
    demand_type(encoding, Encoding, name)
    _check_levels(encoder, encoding, batch)
    assert isinstance(encoder, nn.Module)  # as was demanded above
    assert isinstance(twin, nn.Module)
    twin.train(encoder.training).load_state_dict(encoder.state_dict())
    with torch.no_grad():
        what = f"{name} gives other crystal vectors once it is built again and has its weights back, as from a file"
        advice = "register tensors that `__init__` makes as buffers; give an encoder with dropout after `.eval()`"
        demand_close(encoding.crystals, twin(batch).crystals, f"{what}; {advice}")
        for how, others, _ in rewritten(crystals):
            again = encoder(geometry(CrystalBatch.collate(others))).crystals
            advice = "pool with means over owners, and let coordinates enter by distances and angles only"
            demand_close(encoding.crystals, again, f"{name} gives other crystal vectors after {how}; {advice}")
        halves = [encoder(geometry(CrystalBatch.collate(half))).crystals for half in (crystals[:3], crystals[3:])]
        what = f"{name} gives a crystal another vector in other company; let nothing pass between crystals, and use "
        demand_close(encoding.crystals, torch.cat(halves), f"{what}LayerNorm instead of batch normalisation")
        _check_cells(encoder, geometry)
    _check_cut(encoder, encoding, batch)
    for level in encoding.levels:
        scale = float(level.summaries.detach().square().mean().sqrt())
        demand(
            0.02 < scale < 5,
            f"summaries of level {level.name!r} of {name} have root-mean-square {scale:.2g} at initialisation; "
            "normalise them, for example by a LayerNorm before the last linear map, or noise on them has no meaning",
        )


@contract
def check_sampler(sampler: NegativeSampler, encoder: Encoder | None = None, geometry: Geometry | None = None) -> None:
    """Raise if false constituents are of no level of the encoder, have wrong owners, or equal the true ones.

    Args:
        sampler: A family of false samples.
        encoder: Encodes them; a small `SiteNet` unless given.
        geometry: The geometry that it is meant for; `AllPairs(max_sites=20)` unless given.
    """
    name, geometry = type(sampler).__name__, AllPairs(max_sites=20) if geometry is None else geometry
    demand_role(sampler, NegativeSampler)
    check_description(sampler)
    net: Encoder = SiteNet(site_width=8, crystal_width=8, hidden=16) if encoder is None else encoder
    batch = geometry(CrystalBatch.collate(toy_crystals()))

    def encode(other: CrystalBatch) -> Encoding:
        return net(other, greedy=True)

    with torch.no_grad():
        truth = encode(batch)
        with left_alone(batch, name, "work on new tensors, not in place"), own_chance(name):
            drawn = sampler.draw(truth, batch, encode, Generator().manual_seed(1))
        again = sampler.draw(truth, batch, encode, Generator().manual_seed(1))
    known = {level.name: level for level in truth.levels}
    demand_type(drawn, Mapping, name)
    demand(bool(drawn), f"{name} drew nothing for any level; return a mapping from names of levels to constituents")
    for level, false in drawn.items():
        there = ", ".join(known)
        demand(level in known, f"{name} draws for a level {level!r}, but there are {there}; name one of these")
        where = f"false constituents of level {level!r} from {name}"
        demand_type(false, Constituents, f"`draw` of {name}, for level {level!r},")
        n_sets = len(known[level].summaries)
        _check_constituents(false, n_sets, net.widths[level].constituent, where)
        demand(len(false.owner) > 0, f"there are no {where}; draw some for at least one set")
        demand(same(false, again[level]), f"{name} gives other results for the same generator; draw all from `rng`")
        true = same(_mean(false, n_sets), _mean(known[level].constituents, n_sets))
        demand(not true, f"{where} are the true ones; a critic can learn nothing from them, so draw others")


def _check_levels(encoder: Encoder, encoding: Encoding, batch: CrystalBatch) -> None:
    name, promised = type(encoder).__name__, list(encoder.widths)
    found = [level.name for level in encoding.levels]
    demand(found == promised, f"{name} promises the levels {promised} but returns {found}; make `widths` say the same")
    for level in encoding.levels:
        where = f"level {level.name!r} of {name}"
        widths = encoder.widths[level.name]
        n_sets, width = level.summaries.shape
        demand(width == widths.summary, f"{where} promises summaries of width {widths.summary}, but theirs is {width}")
        for values in (level.summaries, level.constituents.values):
            advice = "return them by `.float()`, as critics and heads need them"
            demand(values.dtype == torch.float32, f"{where} has vectors of {values.dtype}; {advice}")
        finite = bool(level.summaries.isfinite().all())
        demand(finite, f"{where} has summaries that are not finite; look for divisions by 0 and logarithms of it")
        _check_constituents(level.constituents, n_sets, widths.constituent, f"constituents of {where}")
        counted = level.constituents.owner[level.constituents.weight > 0]
        empty = n_sets - len(torch.unique(counted))
        demand(empty == 0, f"{empty} of {n_sets} sets of {where} have no constituents that count; every set needs one")
        demand_rows(level.crystal, batch.n_crystals, f"`crystal` of {where}")
        demand(
            level.crystal.shape == (n_sets,) and bool((level.crystal.diff() >= 0).all()),
            f"{where} must say in `crystal`, ascending, which crystal each of its {n_sets} sets belongs to",
        )
        if level.name == "site":
            sites = torch.equal(level.crystal, batch.crystal_of_site)
            demand(sites, f"{where} must have a set for each site, and `batch.crystal_of_site` as its `crystal`")
    top = encoding.levels[-1].crystal.tolist()
    demand(top == list(range(batch.n_crystals)), f"the last level of {name} must have one set a crystal, in order")


def _check_constituents(parts: Constituents, n_sets: int, width: int, where: str) -> None:
    found = parts.values.shape[1]
    demand(found == width, f"{where} have width {found}, but `widths` promises {width}; make both agree")
    for index, bound, what in ((parts.row, len(parts.values), "row"), (parts.owner, n_sets, "owner")):
        demand_rows(index, bound, f"`{what}` of {where}")
    grouped = bool((parts.owner.diff() >= 0).all())
    demand(grouped, f"{where} are not grouped by owner; sort them by `owner`, as loops over sets rely on it")
    sound = bool((parts.weight >= 0).all()) and bool(torch.isfinite(parts.values).all())
    demand(sound, f"{where} have negative weights or values that are not finite")


def _check_cells(encoder: Encoder, geometry: Geometry) -> None:
    """Check that vectors are the same in every cell of a crystal, if pairs are."""
    places = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2
    kinds = tuple((Occupant(number, 1.0),) for number in (38, 22, 8))
    cubic = Crystal(4 * np.eye(3), places, np.array([0, 1, 2, 2, 2]), kinds, "toy perovskite")
    batch, rng = geometry(CrystalBatch.collate([*toy_crystals(), cubic])), Generator().manual_seed(1)
    other, origin = Rebuilt((OtherCell(), Supercell()), geometry).traced(batch, rng)
    if not torch.allclose(moments(other), moments(batch)[origin], atol=1e-3):  # as those of `AllPairs` are not
        geometry = Neighbors(6.0, merge=bool((pairs_of(batch).count > 1).any()))
        batch, other = geometry(batch), geometry(other)
    what = f"{type(encoder).__name__} gives other crystal vectors in another cell, twice as large"
    advice = "take means over sites, and over pairs by their `count`, and leave the lattice to the geometry"
    demand_close(encoder(batch).crystals, encoder(other).crystals, f"{what}; {advice}")


def _check_cut(encoder: Encoder, whole: Encoding, batch: CrystalBatch) -> None:
    name, learns = type(encoder).__name__, dict[str, str]()
    for level, uncut in zip(encoder(batch, greedy=True).levels, whole.levels, strict=True):
        what = f"{name} gives other summaries of level {level.name!r} when greedy; only gradients may differ"
        demand_close(level.summaries, uncut.summaries, what)
        if learns:
            advice = f"detach what goes up to level {level.name!r} when greedy, and share no weights between levels"
            for part, values in (("summaries", level.summaries), ("constituents", level.constituents.values)):
                leaks = [f"{each} (level {learns[each]!r})" for each in _reached(encoder, values) if each in learns]
                what = f"{name} leaks gradient through the cut, from the {part} of level {level.name!r} to"
                demand(not leaks, f"{what} {', '.join(leaks[:3])}; {advice}")
        learns |= dict.fromkeys(_reached(encoder, level.summaries), level.name)
    cut = set(learns.values()) - {learns[each] for each in _reached(encoder, whole.crystals) if each in learns}
    what = f"crystal vectors of {name} teach {', '.join(sorted(cut))} nothing, greedy or not"
    demand(not cut, f"{what}; detach what goes up to the next level only when greedy")
    idle = [each for each, _ in _parameters(encoder) if each not in learns]
    demand(not idle, f"no level of {name} learns {', '.join(idle[:3])}; use these weights in a level, or drop them")


def _parameters(encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
    named = encoder.named_parameters() if isinstance(encoder, nn.Module) else ()
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def _reached(encoder: Encoder, values: Float[Tensor, "rows width"]) -> list[str]:
    """Names of the weights that have a gradient from these values."""
    named = _parameters(encoder)
    if not (values.requires_grad and named):
        return []
    found = torch.autograd.grad(values.sum(), [each for _, each in named], allow_unused=True, retain_graph=True)
    return [name for (name, _), gradient in zip(named, found, strict=True) if gradient is not None]


def _mean(parts: Constituents, n_sets: int) -> Float[Tensor, "wholes width"]:
    return segment_mean(gather(parts.values, parts.row), parts.owner, n_sets, parts.weight)
