"""What training minimises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder

BESIDE = ("epoch", "split", "crystals", "crystals_per_second")
"""What else a row of the history holds: names that no term of a loss may have."""


class Objective(nn.Module, ABC):
    """A module over one encoder; training minimises the sum of its terms.

    A class to inherit from, not a protocol: since Python 3.12, protocols do not see what a module keeps as a submodule.
    """

    encoder: Encoder
    labels_of: tuple[str, ...] = ()
    """Names of the properties whose labels the objective learns from."""

    @property
    def chance(self) -> float | None:
        """Loss of each level for a critic that knows nothing, where there is such a number; else None."""
        return None

    @abstractmethod
    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """Terms of the loss by name, for a batch with pairs."""

    def terms(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """The terms for a batch, after a check that they can be minimised and logged.

        Raises:
            ValueError: They cannot; the message names the class.
        """
        name, terms = type(self).__name__, self(batch, rng)
        if not isinstance(terms, Mapping) or not terms:
            raise ValueError(f"{name} gave {type(terms).__name__} {terms!r:.40}; give a mapping with a term at least")
        for term, value in terms.items():
            if not isinstance(term, str) or term in BESIDE:
                raise ValueError(f"{name} gave a term called {term!r}, which is the name of no loss; give it another")
            if not (isinstance(value, Tensor) and value.shape == () and value.is_floating_point()):
                found = f"a tensor of shape {[*value.shape]}" if isinstance(value, Tensor) else f"{value!r:.40}"
                raise ValueError(f"{name} gave {found} as {term!r}; give a floating-point tensor of one number, ()")
        if torch.is_grad_enabled() and not any(value.requires_grad for value in terms.values()):
            raise ValueError(f"{name} gave terms that depend on no weight; leave `detach` and `no_grad` out")
        return terms


def demand_one_each(part: object, what: str, found: Tensor, number: int, of: str) -> None:
    """Raise a ValueError for other shapes, such as one number for all, which would be broadcast without notice."""
    if found.shape != (number,):
        name, shape = type(part).__name__, tuple(found.shape)
        raise ValueError(f"{name} gives {what} of shape {shape} for {number} {of}; give ({number},), one each")
