"""Lower bounds of mutual information, from the scores that a critic gives to true and to false constituents.

Throughout, a high score says "true" (Hjelm et al., arXiv:1808.06670). The paper's eq. 2, minimised as printed, would
push true scores down: a slip of sign.

All estimators have the same optimal critic: T = ln p/q, where p and q are the probabilities of a constituent among true
and among false ones; for InfoNCE, Donsker-Varadhan and SMILE, plus any constant for each set. If false constituents
come from other crystals, the mean of T over true ones is the mutual information of summary and constituent, in nats. So
a critic can be trained with one estimator, and the information be computed with another.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from crystalmax.segments import gather, segment_logsumexp, segment_mean, segment_sum

_TANGENT = 30.0  # beyond this score the exponential is replaced by its tangent, so that float32 does not overflow


class Scores(NamedTuple):
    """Scores of constituents, the set that each is scored against, and how many constituents each row stands for."""

    values: Float[Tensor, " parts"]
    owner: Int[Tensor, " parts"]
    weight: Float[Tensor, " parts"]


@runtime_checkable
class Estimator(Protocol):
    """Computes the loss of each set, which is lower if true constituents have higher scores than false ones."""

    @property
    def mean_over_false(self) -> bool:
        """Whether the loss is a mean over false constituents, so that a random part of them has the same expected loss.

        For true constituents it always is.
        """

    @property
    def chance(self) -> float | None:
        """The loss for scores of 0; None if it depends on the number of false constituents."""

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        """Negative lower bound, up to constants, for each of the `wholes` sets.

        The loss of a set without false constituents is 0.
        """


@dataclass(frozen=True)
class JensenShannon:
    """Softplus(-true) + softplus(false), each a mean over the set (eq. 2 of DOI 10.1039/d4dd00202d).

    A critic that always says 0 gives 2 ln 2.
    """

    chance: ClassVar[float] = 2 * math.log(2)
    mean_over_false: ClassVar[bool] = True

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        loss = _mean(softplus(-true.values), true, wholes) + _mean(softplus(false.values), false, wholes)
        return torch.where(_sizes(false, wholes) > 0, loss, 0.0)


@dataclass(frozen=True)
class InfoNCE:
    """Each true constituent against all false ones of its set at once (van den Oord et al., arXiv:1807.03748).

    A critic that always says 0 gives ln(k + 1) for k false constituents; the bound is ln(k + 1) less the loss, so that
    it can show no more than ln(k + 1) nats.
    """

    chance: ClassVar[None] = None
    mean_over_false: ClassVar[bool] = False

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        rivals = segment_logsumexp(false.values, false.owner, wholes, false.weight)
        return _mean(softplus(gather(rivals, true.owner) - true.values), true, wholes)


@dataclass(frozen=True)
class NWJ:
    """Mean of e^T over false constituents less that of T over true ones, less 1: minus the bound of the f-divergence.

    Nguyen, Wainwright and Jordan, arXiv:0809.0853; also in arXiv:1905.06922, where T + 1 is called T. Written this way,
    the best critic is that of Jensen-Shannon too, and one that always says 0 gives 0.

    Differs: beyond a score of 30 the exponential goes on as its tangent, so that nothing overflows; the loss is above
    10^13 there.
    """

    chance: ClassVar[float] = 0.0
    mean_over_false: ClassVar[bool] = True

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        beyond = false.values - _TANGENT
        tangent = math.exp(_TANGENT) * (1 + beyond)
        ratio = torch.where(beyond > 0, tangent, false.values.clamp_max(_TANGENT).exp())
        loss = _mean(ratio, false, wholes) - _mean(true.values, true, wholes) - 1
        return torch.where(_sizes(false, wholes) > 0, loss, 0.0)


@dataclass(frozen=True)
class DonskerVaradhan:
    """Log of the mean of e^T over false constituents less the mean of T over true ones (MINE, arXiv:1801.04062).

    A critic that always says 0 gives 0. The log of a mean over few false constituents is too low on average, for
    k of them and Gaussians that share I nats by about (exp 2I - 1) / 2k, so that the bound holds for many only.
    """

    chance: ClassVar[float] = 0.0
    mean_over_false: ClassVar[bool] = False

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        size = _sizes(false, wholes)
        log_mean = segment_logsumexp(false.values, false.owner, wholes, false.weight) - size.log()
        return torch.where(size > 0, log_mean - _mean(true.values, true, wholes), 0.0)


@dataclass(frozen=True)
class Smile:
    """Donsker-Varadhan with the scores of false constituents kept in [-clip, clip] (Song and Ermon, arXiv:1910.06222).

    Its variance stays finite, at the price of a bias where more than `clip` nats are to be shown. A critic that always
    says 0 gives 0. As in the paper, this is the value, while the gradient is that of Jensen-Shannon: once false scores
    are clipped, nothing would keep true ones from growing without limit.

    Attributes:
        clip: Largest score that a false constituent enters with; their tau.
    """

    clip: float = 5.0
    chance: ClassVar[float] = 0.0
    mean_over_false: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"scores cannot be kept in [-clip, clip] with clip = {self.clip}; give a number above 0")

    def loss(self, true: Scores, false: Scores, wholes: int) -> Float[Tensor, " wholes"]:
        clipped = false._replace(values=false.values.detach().clamp(-self.clip, self.clip))
        value = DonskerVaradhan().loss(true._replace(values=true.values.detach()), clipped, wholes)
        slope = JensenShannon().loss(true, false, wholes)
        return value + (slope - slope.detach())


def _mean(values: Float[Tensor, " parts"], scores: Scores, wholes: int) -> Float[Tensor, " wholes"]:
    return segment_mean(values, scores.owner, wholes, scores.weight)


def _sizes(scores: Scores, wholes: int) -> Float[Tensor, " wholes"]:
    return segment_sum(scores.weight, scores.owner, wholes)
