"""Rows of tables, and interpolation of smooth functions of distance between them.

The cubic through two knots on each side (Lagrange) is exact to float32 where knots are close, and both its value and
its gradient cost four rows of a table instead of a network.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from crystalmax import native
from crystalmax.segments import gather


class Between(NamedTuple):
    """Places between knots: the row of the first of four, and the fraction of the way from the second to the third."""

    first: Int[Tensor, " rows"]
    part: Float[Tensor, " rows"]


Part = tuple[Tensor, Tensor | Between | None]
"""A table, and for each row of a concatenation its row there, or its place between rows; None if rows are the same."""


def between(place: Float[Tensor, " rows"], dtype: torch.dtype) -> Between:
    """`Between` for places in units of the spacing, if knot r is at r - 1."""
    first = place.floor()
    return Between(first.long(), (place - first).to(dtype))


def taken(table: Float[Tensor, "rows width"], at: Tensor | Between | None) -> Float[Tensor, "parts width"]:
    """The rows of a `Part`, one for each row of the concatenation."""
    if at is None:
        return table
    return interpolated(table, at) if isinstance(at, Between) else gather(table, at)


def interpolated(knots: Float[Tensor, "knots width"], at: Between) -> Float[Tensor, "rows width"]:
    """Rows of a table at places between its rows."""
    if native.usable(knots, at.part):
        out: Tensor = _Interpolated.apply(knots, *at)  # type: ignore[no-untyped-call]
        return out
    t = at.part[:, None]
    weights = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    return sum((weight * gather(knots, at.first + row) for row, weight in enumerate(weights)), torch.zeros_like(t))


class _Interpolated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: native.Context, knots: Tensor, first: Tensor, part: Tensor) -> Tensor:
        knots, first, part = knots.contiguous(), first.contiguous(), part.contiguous()
        ctx.save_for_backward(first, part)
        ctx.n_knots = len(knots)
        out = knots.new_empty(len(first), knots.shape[1])
        native.run("interpolate_forward", knots, first, part, out, *out.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: native.Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        first, part = ctx.saved_tensors
        of_knots = gradient.new_zeros(ctx.n_knots, gradient.shape[1])
        native.run("interpolate_backward", first, part, gradient.contiguous(), of_knots, *gradient.shape)
        return of_knots, None, None
