"""Sums and draws over ragged sets: row r of a flat array belongs to set `owner[r]`.

All index arithmetic of the library is here. Gathering goes through `index_select`, whose gradient is reproducible bit
for bit on CPU; the gradient of `values[index]` is not.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def gather(values: Float[Tensor, "rows *dims"], index: Int[Tensor, " parts"]) -> Float[Tensor, "parts *dims"]:
    """Rows of `values` by index, with a reproducible gradient."""
    return values.index_select(0, index)


def segment_sum(
    values: Float[Tensor, "parts *dims"], owner: Int[Tensor, " parts"], n_segments: int
) -> Float[Tensor, "wholes *dims"]:
    """Sum over each set; zero for a set without members."""
    out = values.new_zeros((n_segments, *values.shape[1:]))
    return out.index_add(0, owner, values)


def segment_mean(
    values: Float[Tensor, "parts *dims"],
    owner: Int[Tensor, " parts"],
    n_segments: int,
    weight: Float[Tensor, " parts"] | None = None,
) -> Float[Tensor, "wholes *dims"]:
    """Weighted mean over each set; zero for a set without members."""
    if weight is None:
        weight = values.new_ones(len(owner))
    column = weight.reshape(-1, *[1] * (values.dim() - 1))
    total = segment_sum(weight, owner, n_segments).reshape(-1, *[1] * (values.dim() - 1))
    return segment_sum(values * column, owner, n_segments) / total.clamp_min(torch.finfo(values.dtype).tiny)


def segment_softmax(
    logits: Float[Tensor, " parts"],
    owner: Int[Tensor, " parts"],
    n_segments: int,
    count: Float[Tensor, " parts"],
) -> Float[Tensor, " parts"]:
    """Softmax over each set, where part p stands for `count[p]` equal members and gets their share together."""
    top = logits.detach().new_full((n_segments,), -torch.inf)
    top = top.scatter_reduce(0, owner, logits.detach(), "amax")
    share = count * (logits - gather(top, owner)).exp()
    return share / gather(segment_sum(share, owner, n_segments), owner)


def offsets(sizes: Int[Tensor, " wholes"]) -> Int[Tensor, " bounds"]:
    """Where each set begins, and, last, where all end, for sets stored one after another."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def ranges(starts: Int[Tensor, " wholes"], sizes: Int[Tensor, " wholes"]) -> Int[Tensor, " parts"]:
    """The concatenation of `arange(start, start + size)` over all sets."""
    total = int(sizes.sum())
    shift = starts - (sizes.cumsum(0) - sizes)
    return torch.arange(total, device=sizes.device) + torch.repeat_interleave(shift, sizes, output_size=total)


def rank_within(
    keys: Float[Tensor, " parts"], owner: Int[Tensor, " parts"], sizes: Int[Tensor, " wholes"]
) -> Int[Tensor, " parts"]:
    """Rank of each part among the members of its set, smallest key first; owners ascending."""
    order = torch.argsort(keys.double() + owner, stable=True)  # keys in [0, 1) sort within owners
    rank = torch.empty_like(owner)
    rank[order] = torch.arange(len(owner), device=owner.device)
    return rank - gather(offsets(sizes)[:-1], owner)
