"""What training minimises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder


class Objective(nn.Module, ABC):
    """A module over one encoder; training minimises the sum of its terms.

    A class to inherit from, not a protocol: since Python 3.12, protocols do not see what a module keeps as a submodule.
    """

    encoder: Encoder

    @property
    def chance(self) -> float | None:
        """Loss of each level before anything is learnt, where there is such a number."""
        return None

    @abstractmethod
    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """Terms of the loss by name, for a batch with pairs."""
