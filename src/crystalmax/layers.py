"""Layers that networks share: linear, activation and normalisation, which a loop in C does in one pass over memory."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import mish

from crystalmax import native


class Dense(nn.Linear):
    """Linear, then Mish (arXiv:1908.08681), then LayerNorm.

    Args:
        width_in: Columns of the input.
        width_out: Columns of the output.
        norm: Whether LayerNorm follows.

    Raises:
        ValueError: There are no columns.
    """

    def __init__(self, width_in: int, width_out: int, *, norm: bool = True) -> None:
        if min(width_in, width_out) < 1:  # loops in C rely on it
            raise ValueError(f"a layer from {width_in} to {width_out} columns maps nothing; give widths of 1 or more")
        super().__init__(width_in, width_out)
        self.norm = nn.LayerNorm(width_out) if norm else None

    def forward(self, input: Float[Tensor, "rows wide"]) -> Float[Tensor, "rows out"]:  # torch's name
        """The layer on each row."""
        if not (native.usable(input, self.weight.t()) and self.out_features % native.LANES == 0):
            activated = mish(super().forward(input))
            return activated if self.norm is None else self.norm(activated)
        norm = (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)
        out: Tensor = _Dense.apply(input, self.weight, self.bias, *norm, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return out


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear maps between these widths, each followed by Mish and then LayerNorm."""
    return nn.Sequential(*(Dense(width_in, width_out) for width_in, width_out in pairwise(widths)))


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: native.Context,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gain: Tensor | None,
        shift: Tensor | None,
        keep: bool,
    ) -> Tensor:
        x = x.contiguous()
        out = x.new_empty(len(x), len(weight))
        linear = torch.empty_like(out) if keep else None
        native.run("dense_forward", x, weight.t().contiguous(), bias, gain, shift, linear, out, *x.shape, out.shape[1])
        if linear is not None:
            ctx.save_for_backward(x, weight, gain, linear)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: native.Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gain, linear = ctx.saved_tensors
        of_bias, sizes = weight.new_zeros(len(weight)), (*x.shape, len(weight))
        of_gain, of_shift = (None, None) if gain is None else (torch.zeros_like(gain), torch.zeros_like(gain))
        sums, gradient = (of_bias, of_gain, of_shift), gradient.contiguous()
        if not ctx.needs_input_grad[0] and x.shape[1] <= native.LANES:
            of_weight = weight.new_zeros(weight.shape[::-1])
            native.run("dense_backward", linear, gain, gradient, x, None, of_weight, *sums, *sizes)
            return None, of_weight.t(), *sums, None
        of_linear = torch.empty_like(linear)
        native.run("dense_backward", linear, gain, gradient, None, of_linear, None, *sums, *sizes)
        of_input = _of_input(of_linear, weight) if ctx.needs_input_grad[0] else None
        return of_input, (x.t() @ of_linear).t(), *sums, None


def _of_input(gradient: Tensor, weight: Tensor) -> Tensor:
    if weight.shape[1] % native.LANES:
        return gradient @ weight
    out = gradient.new_empty(len(gradient), weight.shape[1])
    native.run("dense_forward", gradient, weight, None, None, None, out, None, *gradient.shape, weight.shape[1])
    return out
