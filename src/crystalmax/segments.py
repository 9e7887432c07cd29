"""Sums and draws over ragged sets: row r of a flat array belongs to set `owner[r]`.

All index arithmetic of the library is here. Gathering goes through `index_select`, whose gradient is reproducible bit
for bit on CPU; the gradient of `values[index]` is not.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from crystalmax import native

Index = Int[Tensor, " parts"]
Numbers = Float[Tensor, " parts"]


def gather(values: Shaped[Tensor, "rows *dims"], index: Index) -> Shaped[Tensor, "parts *dims"]:
    """Rows of `values` by index, with a reproducible gradient."""
    return values.index_select(0, index)


def segment_sum(values: Float[Tensor, "parts *dims"], owner: Index, n_segments: int) -> Float[Tensor, "wholes *dims"]:
    """Sum over each set; zero for a set without members."""
    return values.new_zeros((n_segments, *values.shape[1:])).index_add(0, owner, values)


def segment_mean(
    values: Float[Tensor, "parts *dims"], owner: Index, n_segments: int, weight: Numbers | None = None
) -> Float[Tensor, "wholes *dims"]:
    """Weighted mean over each set; zero for a set without members."""
    weight = values.new_ones(len(owner)) if weight is None else weight
    column = weight.reshape(-1, *[1] * (values.dim() - 1))
    total = segment_sum(weight, owner, n_segments).reshape(-1, *[1] * (values.dim() - 1))
    return segment_sum(values * column, owner, n_segments) / total.clamp_min(torch.finfo(values.dtype).tiny)


def _segment_top(values: Numbers, owner: Index, n_segments: int) -> Float[Tensor, " wholes"]:
    """Largest value of each set, without gradient; -inf for an empty set."""
    return values.new_full((n_segments,), -torch.inf).scatter_reduce(0, owner, values.detach(), "amax")


def segment_softmax(logits: Numbers, owner: Index, n_segments: int, count: Numbers) -> Numbers:
    """Softmax over each set, in which part p stands for `count[p]` equal members and has the sum of their shares."""
    share = count * (logits - gather(_segment_top(logits, owner, n_segments), owner)).exp()
    return share / gather(segment_sum(share, owner, n_segments), owner)


def segment_logsumexp(values: Numbers, owner: Index, n_segments: int, count: Numbers) -> Float[Tensor, " wholes"]:
    """Log of the sum of exponentials over each set, in which part p counts `count[p]` times; -inf for an empty set."""
    top = _segment_top(values, owner, n_segments)
    return segment_sum(count * (values - gather(top, owner)).exp(), owner, n_segments).log() + top


def offsets(sizes: Int[Tensor, " wholes"]) -> Int[Tensor, " bounds"]:
    """The begin of each set, and at last the end of all, for sets of these sizes that are stored one after another."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def ranges(starts: Int[Tensor, " wholes"], sizes: Int[Tensor, " wholes"]) -> Index:
    """The concatenation of `arange(start, start + size)` over all sets."""
    total = int(sizes.sum())
    shift = starts - (sizes.cumsum(0) - sizes)
    return torch.arange(total, device=sizes.device) + torch.repeat_interleave(shift, sizes, output_size=total)


def uniform(n_rows: int, rng: Generator, device: torch.device) -> Float[Tensor, " rows"]:
    """So many random numbers in [0, 1), in float64; they are drawn where the generator is, and then moved."""
    return torch.rand(n_rows, generator=rng, device=rng.device, dtype=torch.float64).to(device)


def rank_within(keys: Numbers, owner: Index, sizes: Int[Tensor, " wholes"]) -> Index:
    """Rank of each part among the members of its set, smallest key first; owners ascending."""
    order = torch.argsort(keys.double() + owner, stable=True)  # keys in [0, 1) sort within owners
    rank = torch.empty_like(owner)
    rank[order] = torch.arange(len(owner), device=owner.device)
    return rank - gather(offsets(sizes)[:-1], owner)


def distinct(keys: Index) -> tuple[Int[Tensor, " rows"], Index]:
    """The distinct values of keys of 0 or more, in no particular order, and the place of each key among them."""
    if keys.device.type != "cpu" or not native.usable():
        found, number = torch.unique(keys, return_inverse=True)
        return found, number
    number, found = torch.empty_like(keys), torch.empty_like(keys)
    n_found = native.run("distinct", keys.contiguous(), number, found, len(keys), *hash_slots(len(keys)))
    return found[:n_found], number


def hash_slots(n_keys: int) -> tuple[Tensor, int]:
    """An empty hash table for this many keys, as the loops in C need it, and its size."""
    size = 1 << (2 * n_keys).bit_length()
    return torch.full((size,), -1), size


def paired_dot(
    left: Float[Tensor, "lefts width"], right: Float[Tensor, "rights width"], left_row: Index, right_row: Index
) -> Numbers:
    """Dot products of pairs of rows of two tables, without a copy of all of these rows."""
    out: Numbers = _PairedDot.apply(left, right, left_row, right_row)  # type: ignore[no-untyped-call]
    return out


def weighted_sum(
    values: Float[Tensor, "rows width"], row: Index, weight: Numbers, owner: Index, n_segments: int
) -> Float[Tensor, "wholes width"]:
    """Sum over each set of `weight[p] * values[row[p]]`, without a copy of the values of all parts."""
    out: Tensor = _WeightedSum.apply(values, row, weight, owner, n_segments)  # type: ignore[no-untyped-call]
    return out


def attention(
    logits: Float[Tensor, " rows"],
    values: Float[Tensor, "rows width"],
    row: Index,
    owner: Index,
    count: Numbers,
    n_segments: int,
) -> Float[Tensor, "wholes width"]:
    """Mean of `values[row[p]]` over each set, weighted by the softmax of `logits[row[p]]`; zero for an empty set.

    Part p stands for `count[p]` equal members. Parts are grouped by owner.
    """
    if native.usable(logits, values, count):
        out: Tensor = _Attention.apply(logits, values, row, owner, count, n_segments)  # type: ignore[no-untyped-call]
        return out
    share = segment_softmax(gather(logits, row), owner, n_segments, count)
    return weighted_sum(values, row, share, owner, n_segments)


# A chunk of rows stays in the cache of a core; on an accelerator one pass over everything is faster.
_CHUNK_BYTES = 1 << 20


def _chunks(row: Tensor, width: int) -> list[slice]:
    size = max(_CHUNK_BYTES // (4 * width), 1) if row.device.type == "cpu" else max(len(row), 1)
    return [slice(begin, begin + size) for begin in range(0, len(row), size)]


def _dots(left: Tensor, right: Tensor, left_row: Tensor, right_row: Tensor) -> Tensor:
    out = left.new_empty(len(left_row))
    if native.usable(left, right):
        arrays = _contiguous(left, right, left_row, right_row)
        _run_within("paired_dot", *arrays, out, len(left_row), left.shape[1], len(left), len(right))
        return out
    for part in _chunks(left_row, left.shape[1]):
        product = left.index_select(0, left_row[part]).mul_(right.index_select(0, right_row[part]))
        torch.sum(product, -1, out=out[part])
    return out


def _sums(values: Tensor, row: Tensor, weight: Tensor, owner: Tensor, n_segments: int) -> Tensor:
    out = values.new_zeros(n_segments, values.shape[1])
    if native.usable(values, weight):
        arrays = _contiguous(values, row, weight, owner)
        _run_within("weighted_sum", *arrays, out, len(row), values.shape[1], len(values), n_segments)
        return out
    for part in _chunks(row, values.shape[1]):
        out.index_add_(0, owner[part], values.index_select(0, row[part]).mul_(weight[part, None]))
    return out


def demand_rows(index: Index, n_rows: int, what: str) -> None:
    """Raise an error for an index outside a table of this many rows, which the loops in C would read regardless."""
    if index.dtype != torch.int64:
        raise TypeError(f"{what} is of {index.dtype}; make it torch.int64, by `.long()`")
    low, high = torch.aminmax(index) if index.is_cpu and len(index) else (0, -1)
    if low < 0 or high >= n_rows:
        raise ValueError(f"{what} has {low} to {high}, not 0 to {n_rows - 1}; number over the whole batch, from 0")


def _run_within(loop: str, *arguments: Tensor | float) -> None:
    """Run a loop in C that returns the first part whose row or set does not exist, or a negative number."""
    if (part := native.run(loop, *arguments)) >= 0:
        raise ValueError(f"part {part} has a row or a set that does not exist; number over the whole batch, from 0")


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


class _PairedDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: native.Context, left: Tensor, right: Tensor, left_row: Tensor, right_row: Tensor) -> Tensor:
        ctx.save_for_backward(left, right, left_row, right_row)
        return _dots(left, right, left_row, right_row)

    @staticmethod
    def backward(ctx: native.Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        left, right, left_row, right_row = ctx.saved_tensors
        to_left, to_right, *_ = ctx.needs_input_grad
        of_left = _sums(right, right_row, gradients[0], left_row, len(left)) if to_left else None
        of_right = _sums(left, left_row, gradients[0], right_row, len(right)) if to_right else None
        return of_left, of_right, None, None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: native.Context, values: Tensor, row: Tensor, weight: Tensor, owner: Tensor, n_segments: int
    ) -> Tensor:
        ctx.save_for_backward(values, row, weight, owner)
        return _sums(values, row, weight, owner, n_segments)

    @staticmethod
    def backward(ctx: native.Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, row, weight, owner = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        to_values, _, to_weight, *_ = ctx.needs_input_grad
        of_values = _sums(gradient, owner, weight, row, len(values)) if to_values else None
        of_weight = _dots(values, gradient, row, owner) if to_weight else None
        return of_values, None, of_weight, None, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: native.Context, logits: Tensor, values: Tensor, row: Tensor, owner: Tensor, count: Tensor, n_segments: int
    ) -> Tensor:
        logits, values, row, owner, count = _contiguous(logits, values, row, owner, count)
        share, out = torch.empty_like(count), values.new_zeros(n_segments, values.shape[1])
        sizes = (len(row), values.shape[1], len(values), n_segments)
        _run_within("attention_forward", logits, values, row, owner, count, share, out, *sizes)
        ctx.save_for_backward(share, values, row, owner)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: native.Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        share, values, row, owner = ctx.saved_tensors
        of_logits, of_values, scratch = values.new_zeros(len(values)), torch.zeros_like(values), torch.empty_like(share)
        found = (of_logits, of_values, scratch)
        native.run(
            "attention_backward", share, values, row, owner, gradient.contiguous(), *found, len(row), values.shape[1]
        )
        return of_logits, of_values, None, None, None, None
