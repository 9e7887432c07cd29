"""Lower bounds of mutual information, from the scores that a critic gives to true and to false constituents.

Throughout, a high score says "true" (Hjelm et al., arXiv:1808.06670). The paper's eq. 2, minimised as printed, would
push true scores down: a slip of sign.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from crystalmax.segments import gather, segment_logsumexp, segment_mean


class Scores(NamedTuple):
    """Scores of constituents, the set that each was held against, and how many constituents each row stands for."""

    values: Float[Tensor, " parts"]
    owner: Int[Tensor, " parts"]
    weight: Float[Tensor, " parts"]


@runtime_checkable
class Estimator(Protocol):
    """The loss of each set: lower where true constituents are told from false ones.

    `mean_over_false` says whether false constituents enter by a mean, so that a few drawn by weight give the same loss
    in expectation; true ones always do.
    """

    mean_over_false: bool

    @property
    def chance(self) -> float | None:
        """The loss under a critic that always says 0; none where it depends on the number of false constituents."""

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        """Negative lower bound, up to constants, for each of the `wholes` sets."""


@dataclass(frozen=True)
class JensenShannon:
    """Softplus(-true) + softplus(false), each a mean over the set (eq. 2 of DOI 10.1039/d4dd00202d).

    A critic that always says 0 gives 2 ln 2.
    """

    chance: ClassVar[float] = 2 * math.log(2)
    mean_over_false: ClassVar[bool] = True

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        return segment_mean(softplus(-true.values), true.owner, wholes, true.weight) + segment_mean(
            softplus(false.values), false.owner, wholes, false.weight
        )


@dataclass(frozen=True)
class InfoNCE:
    """Each true constituent against all false ones of its set at once (van den Oord et al., arXiv:1807.03748).

    A critic that always says 0 gives ln(k + 1) for k false constituents.
    """

    chance: ClassVar[None] = None
    mean_over_false: ClassVar[bool] = False

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        rivals = segment_logsumexp(false.values, false.owner, wholes, false.weight)
        return segment_mean(softplus(gather(rivals, true.owner) - true.values), true.owner, wholes, true.weight)
