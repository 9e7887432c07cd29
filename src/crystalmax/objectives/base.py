"""What training minimises."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Generator, Tensor

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder


@runtime_checkable
class Objective(Protocol):
    """A module over one encoder; training minimises the sum of its terms."""

    encoder: Encoder

    @property
    def chance(self) -> float | None:
        """Loss of each level before anything is learnt, where there is such a number."""

    def __call__(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """Terms of the loss by name, for a batch with pairs."""
