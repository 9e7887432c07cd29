"""What tests of encoders share: networks with given weights, float64, comparisons with plain loops and of pairs."""

from contextlib import contextmanager
from dataclasses import replace

import jaxtyping
import numpy as np
import torch

from crystalmax.encoders import SiteNet
from crystalmax.encoding import Encoding
from crystalmax.segments import weighted_sum
from crystalmax.spec import seeded_weights


def made(part, seed=0, **options):
    """A part with weights of this seed."""
    with seeded_weights(seed):
        return part(**options)


@contextmanager
def unchecked():
    """Without checks of shapes: for calls of which one like them has been checked before, and hundreds follow."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


class Dropping(SiteNet):
    """An encoder with dropout, which draws from torch's global generator."""

    def forward(self, batch, *, greedy=False):
        site, crystal = super().forward(batch, greedy=greedy).levels
        dropped = torch.nn.functional.dropout(crystal.summaries, 0.5, self.training)
        return Encoding((site, replace(crystal, summaries=dropped)))


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


def check_merging(net, batch, merging, single):
    """Pairs that a geometry merges give what a geometry that keeps them apart gives, in float64."""
    merged, apart = in_double(merging(batch)), in_double(single(batch))
    assert len(merged.pairs.center) < len(apart.pairs.center)
    net = net.double()
    for one, other in zip(net(merged).levels, net(apart).levels, strict=True):
        torch.testing.assert_close(one.summaries, other.summaries, atol=1e-5, rtol=0)
        members = (level.constituents for level in (one, other))
        sums = [weighted_sum(m.values, m.row, m.weight, m.owner, len(one.summaries)) for m in members]
        torch.testing.assert_close(*sums, atol=1e-4, rtol=0)
