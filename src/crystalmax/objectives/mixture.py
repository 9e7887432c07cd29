"""Several objectives over one encoder."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder
from crystalmax.objectives.base import Objective


class Mixture(Objective):
    """A weighted sum of objectives; each makes its own passes through the shared encoder.

    Args:
        encoder: The encoder that all parts train.
        parts: Functions that make an objective of the encoder; in a recipe, objectives with `later = true`.
        weights: One for each part; equal unless given. With `automatic` they are the initial weights.
        automatic: Whether the weights are learnt, as the inverse variances of the parts: the loss is the sum of
            w L - ln w (Kendall et al., arXiv:1705.07115, eq. 10, with w = 1 / s^2 and constants left out). For parts
            whose losses are not negative.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        parts: Sequence[Callable[[Encoder], nn.Module]],
        weights: Sequence[float] | None = None,
        automatic: bool = False,
    ) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a mixture without parts trains nothing; give at least one objective")
        if weights is not None and (len(weights) != len(parts) or min(weights) <= 0):
            raise ValueError(f"{len(parts)} parts need as many weights above 0, but they are {list(weights)}")
        self.encoder, self.parts, self.weights, self.automatic = encoder, tuple(parts), weights, automatic
        self.objectives = nn.ModuleList(part(encoder) for part in parts)
        for objective in self.objectives:
            if "encoder" not in objective._modules:
                raise ValueError(f"{type(objective).__name__} does not keep the encoder as its `encoder`; let it do so")
            # Registered once, above: weights are stored once, and `to` moves the one encoder that all share.
            del objective._modules["encoder"]
            object.__setattr__(objective, "encoder", encoder)
        start = torch.ones(len(parts)) if weights is None else torch.tensor([float(weight) for weight in weights])
        self.log_weights = nn.Parameter(start.log(), requires_grad=automatic)

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """The weighted terms of all parts, numbered where names repeat; and `weights`, where these are learnt."""
        terms: dict[str, Float[Tensor, ""]] = {}
        for number, (objective, log_weight) in enumerate(zip(self.objectives, self.log_weights, strict=True), 1):
            for name, value in objective(batch, rng).items():
                if name in terms:  # the end of a name says what is a penalty
                    stem = name.removesuffix("_penalty")
                    name = f"{stem}_{number}{name.removeprefix(stem)}"
                terms[name] = log_weight.exp() * value
        if self.automatic:
            terms["weights"] = -self.log_weights.sum()
        return terms
