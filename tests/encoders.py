"""What every encoder on neighbors has to do, as functions that its tests call."""

from dataclasses import replace

import numpy as np
import torch

from crystalmax.crystal import CrystalBatch
from crystalmax.negatives import Corrupted, OtherCrystals
from crystalmax.objectives import DeepInfoMax
from crystalmax.training import seeded_weights
from crystalmax.transforms import FalseComposition, FalsePermutation, FalsePolymorph
from crystals import (
    metal,
    mixed,
    other_basis,
    perovskite,
    pure,
    quartz,
    rock_salt,
    rotated,
    shifted,
    shuffled,
    some_crystals,
    supercell,
)


def made(part, seed=0, **options):
    """A part with weights of this seed."""
    with seeded_weights(seed):
        return part(**options)


def in_double(batch):
    pairs = replace(batch.pairs, displacement=batch.pairs.displacement.double(), count=batch.pairs.count.double())
    return replace(batch, kinds=batch.kinds.double(), pairs=pairs)


def check_against_loops(net, batch, loops):
    """Every summary and every member equals that of plain loops, in float64."""
    net, batch = net.double(), in_double(batch)
    naive = loops(net, batch)
    encoding = net(batch)
    assert [level.name for level in encoding.levels] == list(naive.summaries) == list(net.widths)
    for level in encoding.levels:
        np.testing.assert_allclose(level.summaries.detach(), np.array(naive.summaries[level.name]), atol=1e-5)
        parts, found = level.constituents, [[] for _ in level.summaries]
        for row, owner, weight in zip(parts.row.tolist(), parts.owner.tolist(), parts.weight.tolist(), strict=True):
            assert weight == 1
            found[owner].append(parts.values[row].tolist())
        for members, expected in zip(found, naive.members[level.name], strict=True):
            np.testing.assert_allclose(sorted(members), np.array(sorted(map(list, expected))), atol=1e-5)


def ways_of_writing(crystal, seed=0):
    """The same crystal rotated, shifted, with its sites in another order, in another and in a larger cell."""
    rng = np.random.default_rng(seed)
    shear = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    yield rotated(crystal, rng)
    yield shifted(crystal, rng.uniform(-1, 1, 3))
    yield shuffled(crystal, rng.permutation(crystal.n_sites))
    yield other_basis(crystal, shear)
    yield rotated(supercell(crystal, (2, 1, 1)), rng)


def check_invariance(net, geometry, crystals):
    """No vector of a crystal changes by 1e-5, however it is written, and whatever company it has."""
    with torch.no_grad():
        together = net(geometry(CrystalBatch.collate(crystals))).crystals
        for vector, crystal in zip(together, crystals, strict=True):
            for other in ways_of_writing(crystal):
                again = net(geometry(CrystalBatch.collate([other]))).crystals[0]
                torch.testing.assert_close(again, vector, atol=1e-5, rtol=0)


def check_species(net, geometry):
    """A mixture is neither of its elements, and a vacancy counts."""
    kinds = [*pure("Fe", "Ni"), mixed(Fe=0.5, Ni=0.5), *pure("O"), mixed(O=0.8)]
    vectors = net(geometry(CrystalBatch.collate([metal(kind) for kind in kinds]))).crystals
    distances = torch.cdist(vectors, vectors) + torch.eye(len(kinds))
    assert distances.min() > 1e-3


def check_learning(net, geometry, rng, steps=25):
    """Deep InfoMax as it ships learns to tell true members of every level from false ones within a few steps."""
    levels = tuple(net.widths)
    negatives = [
        OtherCrystals(),
        Corrupted(FalsePolymorph(), levels),
        Corrupted(FalseComposition(), levels),
        Corrupted(FalsePermutation(), levels=("crystal",)),
    ]
    with seeded_weights(1):
        objective = DeepInfoMax(net, negatives=negatives, beta=0.01)
    crystals = [*some_crystals(), rock_salt(4.2, ("Mg", "O")), metal(pure("Cu")[0]), perovskite(4.1), quartz()]
    batch = geometry(CrystalBatch.collate(crystals))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    losses = {level: [] for level in levels}
    for _ in range(steps):
        terms = objective(batch, rng)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        for level in levels:
            losses[level].append(terms[level].item())
    for level, values in losses.items():
        assert np.mean(values[-5:]) < np.mean(values[:3]) - 0.1, (level, values)
    assert all(parameter.grad is not None for parameter in objective.parameters())
