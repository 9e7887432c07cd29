"""Contract of estimators of mutual information."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from crystalmax.objectives.estimators import Estimator, Scores
from crystalmax.testing.claims import check_description, contract, demand, demand_close, demand_role, demand_type


@contract
def check_estimator(estimator: Estimator) -> None:
    """Raise if a loss does not fall when true scores rise, mixes sets, or contradicts what the estimator states."""
    demand_role(estimator, Estimator)
    check_description(estimator)
    rng = Generator().manual_seed(0)
    true, false = (torch.randn(6, generator=rng) for _ in range(2))
    trial = _Trial(estimator, true, false, torch.tensor([0, 0, 0, 1, 1, 2]))
    trial.check_direction()
    trial.check_sets_and_weights()
    trial.check_claims()
    trial.check_set_without_false()


@dataclass(frozen=True)
class _Trial:
    """An estimator with equal numbers of true and false scores, and the set of each."""

    estimator: Estimator
    true: Float[Tensor, " parts"]
    false: Float[Tensor, " parts"]
    owner: Int[Tensor, " parts"]

    @property
    def name(self) -> str:
        return type(self.estimator).__name__

    def loss(
        self, true: Float[Tensor, " parts"], false: Float[Tensor, " parts"], true_weight: float = 1.0
    ) -> Float[Tensor, " wholes"]:
        once = torch.ones_like(true)
        return self.of_scores(Scores(true, self.owner, true_weight * once), Scores(false, self.owner, once))

    def of_scores(self, true: Scores, false: Scores) -> Float[Tensor, " wholes"]:
        n_sets = int(self.owner.max()) + 1
        found = self.estimator.loss(true, false, n_sets)
        demand_type(found, Tensor, f"`loss` of {self.name}")
        shape = tuple(found.shape)
        demand(shape == (n_sets,), f"{self.name} gives a loss of shape {shape} for {n_sets} sets; give one a set")
        finite = bool(found.isfinite().all())
        demand(finite, f"{self.name} gives {found.tolist()} for ordinary scores; keep losses finite")
        return found

    def check_direction(self) -> None:
        here = self.loss(self.true, self.false)
        advice = "a high score says that a constituent is true, so turn the sign"
        lower = self.loss(self.true + 0.5, self.false) < here
        demand(bool(lower.all()), f"the loss of {self.name} does not fall when true scores rise; {advice}")
        higher = self.loss(self.true, self.false + 0.5) > here
        demand(bool(higher.all()), f"the loss of {self.name} does not rise when false scores rise; {advice}")

    def check_sets_and_weights(self) -> None:
        here, first = self.loss(self.true, self.false), self.owner == 0
        moved = self.loss(torch.where(first, self.true + 1, self.true), torch.where(first, self.false - 1, self.false))
        what = f"{self.name} mixes sets: the loss of one changes with the scores of another"
        demand_close(moved[1:], here[1:], f"{what}; reduce by `owner`, with the functions of crystalmax.segments")
        twice = self.loss(self.true, self.false, true_weight=2.0)
        demand_close(twice, here, f"{self.name} changes if all true constituents count twice; they enter by a mean")
        true, times = Scores(self.true, self.owner, torch.ones_like(self.true)), torch.tensor([2, 1, 1, 1, 3, 1])
        counted = self.of_scores(true, Scores(self.false, self.owner, times.to(self.false)))
        listed = self.of_scores(true, self.listed(times))
        demand_close(
            listed, counted, f"{self.name} does not count a constituent as often as its `weight` says; multiply by it"
        )
        if self.estimator.mean_over_false:
            what = f"{self.name} says `mean_over_false`, but its loss changes if all false ones are listed twice"
            twice = self.of_scores(true, self.listed(torch.full_like(times, 2)))
            demand_close(twice, here, f"{what}; take a mean, or say False")

    def listed(self, times: Int[Tensor, " parts"]) -> Scores:
        """False scores, each repeated in this many rows."""
        values, owner = (torch.repeat_interleave(column, times) for column in (self.false, self.owner))
        return Scores(values, owner, torch.ones_like(values))

    def check_set_without_false(self) -> None:
        true, others = self.true.clone().requires_grad_(), self.owner < self.owner.max()
        once = torch.ones_like(self.true)
        false = Scores(self.false[others], self.owner[others], once[others])
        cost = self.of_scores(Scores(true, self.owner, once), false)
        what = f"{self.name} lets a set without false constituents cost something; give it 0, by torch.where"
        demand_close(cost[-1], torch.zeros(()), what)
        (gradient,) = torch.autograd.grad(cost.sum(), true)
        what = f"{self.name} has endless gradients where a set has no false constituents; avoid log(0) and 0 / 0 there"
        demand(bool(gradient.isfinite().all()), what)

    def check_claims(self) -> None:
        at_zero, chance = self.loss(0 * self.true, 0 * self.false), self.estimator.chance
        if chance is not None:
            what = f"{self.name} says that its loss by chance is {chance}, but at scores of 0 it is {at_zero.tolist()}"
            demand_close(at_zero, torch.full_like(at_zero, chance), f"{what}; correct `chance`, or let it be None")
        far = [(30 * scores).requires_grad_() for scores in (self.true, self.false)]
        gradients = torch.autograd.grad(self.loss(far[0], far[1]).sum(), far)
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        demand(
            finite, f"{self.name} has endless gradients at scores of some 30; use softplus or logsumexp, not log(exp)"
        )
