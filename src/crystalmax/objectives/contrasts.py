"""Losses of contrastive learning, which make two views of one thing alike, and views of different ones unlike."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, relu


@runtime_checkable
class Contrast(Protocol):
    """The loss of two views; row i of both belongs to the same thing."""

    def __call__(self, one: Float[Tensor, "rows width"], other: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
        """The loss, which is low where both views of each thing are alike, and different things differ."""


@dataclass(frozen=True)
class NTXent:
    """Each view has to be closest to its partner among all other views (SimCLR, arXiv:2002.05709, eq. 1).

    Attributes:
        temperature: Divides the cosines; the smaller, the more the nearest rivals count.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; give one above 0")

    def __call__(self, one: Float[Tensor, "rows width"], other: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
        views = normalize(torch.cat([one, other]), dim=1)
        n = len(one)
        itself = torch.eye(2 * n, dtype=torch.bool, device=views.device)
        logits = (views @ views.T / self.temperature).masked_fill(itself, -torch.inf)
        partner = (torch.arange(2 * n, device=views.device) + n) % (2 * n)
        return cross_entropy(logits, partner)


@dataclass(frozen=True)
class BarlowTwins:
    """Columns agree between views, and are uncorrelated with each other (arXiv:2103.03230, eq. 1), a mean over columns.

    Attributes:
        redundancy: Weight of the correlation between different columns.
    """

    redundancy: float = 5e-3

    def __call__(self, one: Float[Tensor, "rows width"], other: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
        correlation = _standardised(one).T @ _standardised(other) / len(one)
        agreement = (1 - correlation.diagonal()).square().sum()
        return (agreement + self.redundancy * _off_diagonal(correlation).square().sum()) / len(correlation)


@dataclass(frozen=True)
class VICReg:
    """Views are equal; columns have a standard deviation of 1 and are uncorrelated (arXiv:2105.04906, eq. 6).

    Attributes:
        invariance: Weight of the squared distance between views, a mean over columns, as in the authors' code.
        variance: Weight of the term that keeps columns from varying too little.
        covariance: Weight of the covariance between columns.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0

    def __call__(self, one: Float[Tensor, "rows width"], other: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
        distance = (one - other).square().mean()
        spread = sum(relu(1 - (view.var(0) + 1e-4).sqrt()).mean() for view in (one, other))
        together = sum(_off_diagonal(view.T.cov()).square().sum() / view.shape[1] for view in (one, other))
        return self.invariance * distance + self.variance * spread + self.covariance * together


def _standardised(view: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    return (view - view.mean(0)) / (view.std(0, unbiased=False) + 1e-6)


def _off_diagonal(square: Float[Tensor, "width width"]) -> Float[Tensor, "width width"]:
    return square - torch.diag(square.diagonal())
