"""Sums and draws over ragged sets: row r of a flat array belongs to set `owner[r]`.

All index arithmetic of the library is here. Gathering goes through `index_select`, whose gradient is reproducible bit
for bit on CPU; the gradient of `values[index]` is not.
"""

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


def gather(values: Shaped[Tensor, "rows *dims"], index: Int[Tensor, " parts"]) -> Shaped[Tensor, "parts *dims"]:
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


def segment_logsumexp(
    values: Float[Tensor, " parts"], owner: Int[Tensor, " parts"], n_segments: int, count: Float[Tensor, " parts"]
) -> Float[Tensor, " wholes"]:
    """Log of the sum of exponentials over each set, part p counted `count[p]` times; -inf for an empty set."""
    top = values.detach().new_full((n_segments,), -torch.inf)
    top = top.scatter_reduce(0, owner, values.detach(), "amax")
    return segment_sum(count * (values - gather(top, owner)).exp(), owner, n_segments).log() + top


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


def paired_dot(
    left: Float[Tensor, "lefts width"],
    right: Float[Tensor, "rights width"],
    left_row: Int[Tensor, " parts"],
    right_row: Int[Tensor, " parts"],
) -> Float[Tensor, " parts"]:
    """Dot products of chosen rows of two tables, without ever holding the chosen rows of all parts at once."""
    out: Float[Tensor, " parts"] = _PairedDot.apply(  # type: ignore[no-untyped-call]
        left, right, left_row, right_row
    )
    return out


def weighted_sum(
    values: Float[Tensor, "rows width"],
    row: Int[Tensor, " parts"],
    weight: Float[Tensor, " parts"],
    owner: Int[Tensor, " parts"],
    n_segments: int,
) -> Float[Tensor, "wholes width"]:
    """Sum over each set of `weight[p] * values[row[p]]`, without ever holding the values of all parts at once."""
    out: Float[Tensor, "wholes width"] = _WeightedSum.apply(  # type: ignore[no-untyped-call]
        values, row, weight, owner, n_segments
    )
    return out


# A chunk of rows stays in the cache of a core; on an accelerator one pass over everything is faster.
_CHUNK_BYTES = 1 << 20


def _chunks(row: Tensor, width: int) -> list[slice]:
    size = max(_CHUNK_BYTES // (4 * width), 1) if row.device.type == "cpu" else max(len(row), 1)
    return [slice(begin, begin + size) for begin in range(0, len(row), size)]


def _dots(left: Tensor, right: Tensor, left_row: Tensor, right_row: Tensor) -> Tensor:
    out = left.new_empty(len(left_row))
    for part in _chunks(left_row, left.shape[1]):
        product = left.index_select(0, left_row[part]).mul_(right.index_select(0, right_row[part]))
        torch.sum(product, -1, out=out[part])
    return out


def _sums(values: Tensor, row: Tensor, weight: Tensor, owner: Tensor, n_segments: int) -> Tensor:
    out = values.new_zeros(n_segments, values.shape[1])
    for part in _chunks(row, values.shape[1]):
        out.index_add_(0, owner[part], values.index_select(0, row[part]).mul_(weight[part, None]))
    return out


class _PairedDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, left_row: Tensor, right_row: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(left, right, left_row, right_row)
        return _dots(left, right, left_row, right_row)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        left, right, left_row, right_row = ctx.saved_tensors
        (gradient,) = gradients
        to_left, to_right, *_ = ctx.needs_input_grad
        return (
            _sums(right, right_row, gradient, left_row, len(left)) if to_left else None,
            _sums(left, left_row, gradient, right_row, len(right)) if to_right else None,
            None,
            None,
        )


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, row: Tensor, weight: Tensor, owner: Tensor, n_segments: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(values, row, weight, owner)
        return _sums(values, row, weight, owner, n_segments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        values, row, weight, owner = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_values, _, to_weight, *_ = ctx.needs_input_grad
        return (
            _sums(gradient, owner, weight, row, len(values)) if to_values else None,
            None,
            _dots(values, gradient, row, owner) if to_weight else None,
            None,
            None,
        )
