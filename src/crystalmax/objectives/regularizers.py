"""Regularizers of summaries: noise before the critic sees them, and a penalty in the loss."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.encoding import Widths

Noised = tuple[Float[Tensor, "wholes width"], Float[Tensor, " wholes"]]


@runtime_checkable
class Regularizer(Protocol):
    """Makes the summaries that the critic sees, and a penalty for each."""

    def __call__(self, summaries: Float[Tensor, "wholes width"], rng: Generator) -> Noised:
        """Noised summaries, and a penalty for each."""


class GaussianNoise(nn.Module):
    """Gaussian noise of learnt size, with its Kullback-Leibler divergence from a standard normal as penalty (eq. 3, 4).

    The penalty is 0.5 (z^2 + s^2 - ln s^2 - 1), a mean over dimensions: zero for z = 0, s = 1.

    Differs: the paper's eq. 4 has its minimum at another value; the size of the noise is read from the summary
    itself, not from the hidden layer before it; it is kept between exp(-5) and exp(2), so that half precision cannot
    overflow.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.log_variance = nn.Linear(widths.summary, widths.summary)

    def forward(self, summaries: Float[Tensor, "wholes width"], rng: Generator) -> Noised:
        log_variance = self.log_variance(summaries).clamp(-10.0, 4.0)
        penalty = 0.5 * (summaries**2 + log_variance.exp() - log_variance - 1.0).mean(-1)
        # Drawn in float32 whatever the precision, so that runs that differ in it have the same noise.
        noise = torch.randn(summaries.shape, generator=rng, device=rng.device).to(summaries.dtype)
        return summaries + (0.5 * log_variance).exp() * noise.to(summaries.device), penalty


class NoRegularizer(nn.Module):
    """No noise, and no penalty."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths

    def forward(self, summaries: Float[Tensor, "wholes width"], rng: Generator) -> Noised:
        return summaries, summaries.new_zeros(len(summaries))


class UniformPrior(nn.Module):
    """No noise; the penalty is the distance of columns, after a sigmoid, from a uniform distribution over the batch.

    That is the squared Wasserstein distance in one dimension, a mean over dimensions: sorted values against evenly
    spaced ones. The uniform prior of Hjelm et al. (arXiv:1808.06670, eq. 7) without its adversary.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths

    def forward(self, summaries: Float[Tensor, "wholes width"], rng: Generator) -> Noised:
        squashed = summaries.sigmoid()
        rank = squashed.argsort(0).argsort(0)
        return summaries, (squashed - (rank + 0.5) / len(summaries)).square().mean(1)
