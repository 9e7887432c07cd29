"""Critics, which score how well a constituent fits a summary."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from crystalmax.encoding import Constituents, Widths
from crystalmax.layers import Dense
from crystalmax.segments import gather, paired_dot


@runtime_checkable
class Critic(Protocol):
    """A module that scores each constituent against the summary of the set that it is said to belong to."""

    def __call__(self, summaries: Float[Tensor, "wholes width"], constituents: Constituents) -> Float[Tensor, " parts"]:
        """One score a constituent; high says that it belongs."""


class ProjectedDot(nn.Module):
    """Both sides go through a network with one hidden layer into a common space; the score is their dot product.

    The last linear map of the constituents is applied to the summaries instead, u . (W h + b) = (W^T u) . h + u . b:
    this is exact, and half the cost, since a set has one summary and many constituents.

    Args:
        widths: Widths of the level.
        hidden: Width of the hidden layers.
        common: Width of the common space.
    """

    def __init__(self, widths: Widths, *, hidden: int = 64, common: int = 128) -> None:
        super().__init__()
        self.widths, self.hidden, self.common = widths, hidden, common
        self.summary = nn.Sequential(Dense(widths.summary, hidden, norm=False), nn.Linear(hidden, common))
        self.constituent = Dense(widths.constituent, hidden, norm=False)
        self.last = nn.Linear(hidden, common)

    def forward(self, summaries: Float[Tensor, "wholes width"], constituents: Constituents) -> Float[Tensor, " parts"]:
        common = self.summary(summaries)
        hidden = self.constituent(constituents.values)
        products = paired_dot(hidden, common @ self.last.weight, constituents.row, constituents.owner)
        return products + gather(common @ self.last.bias, constituents.owner)
