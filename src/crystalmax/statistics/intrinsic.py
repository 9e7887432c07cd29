"""Intrinsic properties: numbers that follow from a structure alone, and that a crystal vector is trained to predict."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from crystalmax.crystal import Crystal, CrystalBatch, pairs_of, property_of
from crystalmax.elements import N_ELEMENTS, columns
from crystalmax.segments import gather, segment_mean, segment_sum
from crystalmax.statistics import baselines
from crystalmax.statistics.baselines import BLOCKS, GRAMS_PER_CUBIC_CENTIMETRE, REFERENCE, names_of_blocks
from crystalmax.storage.columns import standardised
from crystalmax.storage.dataset import Dataset
from crystalmax.storage.writing import hash_of

Numbers = Float[Tensor, "crystals width"]
Losses = Float[Tensor, " crystals"]

WEIGHTS = {
    "fractions": 0.1,
    "composition": 1.0,
    "valence": 0.3,
    "charges": 2.0,
    "levels": 2.0,
    "structure": 1.0,
    "springs": 2.0,
    "moduli": 2.0,
    "densities": 2.0,
}
"""Weight of each number in the loss, by block of statistics; as for the weights that ship, but without bands.

Chosen on development splits (docs/research/blocks.md). Bands take too long to compute for a default.
"""


@runtime_checkable
class Intrinsic(Protocol):
    """A property that can be computed from a batch with pairs, and the loss of a prediction of it."""

    @property
    def width(self) -> int:
        """Length of a prediction."""

    def truth(self, batch: CrystalBatch) -> Float[Tensor, "crystals _"]:
        """What is to be predicted; NaN in rows where it is unknown."""

    def loss(self, predicted: Numbers, truth: Float[Tensor, "crystals _"]) -> Losses:
        """The loss of each crystal."""


@runtime_checkable
class Prepares(Protocol):
    """A part of an objective that needs further columns in the data set, which are made once, before training."""

    def prepared(self, data: Dataset, rows: Int[np.ndarray, " rows"], folder: Path) -> Dataset:
        """The data set with these columns, made for these rows only; they may be saved in the folder of the run."""


def prepared(parts: Iterable[object], data: Dataset, rows: Int[np.ndarray, " rows"], folder: Path) -> Dataset:
    """The data set with the columns that these parts need, where they need any."""
    for part in parts:
        if isinstance(part, Prepares):
            data = part.prepared(data, rows, folder)
    return data


class _Squared:
    """For properties that are about standardised: the loss is the mean squared error."""

    def loss(self, predicted: Numbers, truth: Numbers) -> Losses:
        return (predicted - truth).square().mean(1)


@dataclass(frozen=True)
class Composition:
    """Fraction of the atoms that belongs to each element; the loss is the Kullback-Leibler divergence, in nats."""

    width = N_ELEMENTS

    def truth(self, batch: CrystalBatch) -> Float[Tensor, "crystals elements"]:
        atoms = segment_sum(gather(batch.kinds[:, :N_ELEMENTS], batch.species), batch.crystal_of_site, batch.n_crystals)
        return atoms / atoms.sum(1, keepdim=True)

    def loss(self, predicted: Numbers, truth: Numbers) -> Losses:
        divergence: Tensor = torch.special.xlogy(truth, truth) - truth * log_softmax(predicted, dim=1)
        return divergence.sum(1)


@dataclass(frozen=True)
class Density(_Squared):
    """Logarithm of the density in gram per cubic centimetre, about standardised."""

    width = 1

    def truth(self, batch: CrystalBatch) -> Float[Tensor, "crystals 1"]:
        (weights,) = columns("atomic_weight")
        of_kind = batch.kinds[:, :N_ELEMENTS] @ torch.tensor(weights).to(batch.kinds)
        mass = segment_sum(gather(of_kind, batch.species), batch.crystal_of_site, batch.n_crystals)
        density: Tensor = GRAMS_PER_CUBIC_CENTIMETRE * mass / torch.linalg.det(batch.lattice).abs().to(mass)
        return (density.log() - math.log(5.0))[:, None] / 0.6


@dataclass(frozen=True)
class RadialDistribution(_Squared):
    """Number n of neighbors at each distance, smeared by Gaussians and averaged over sites, as ln(1 + n).

    Attributes:
        width: Number of distances.
        stop: The last of them, in angstrom; the first is `stop / width`.
        smearing: Deviation of the Gaussians, in angstrom.
    """

    width: int = 24
    stop: float = 7.2
    smearing: float = 0.3

    def __post_init__(self) -> None:
        if not self.smearing > 0:
            raise ValueError(f"smearing is {self.smearing}; give a deviation above 0, in angstrom")

    def truth(self, batch: CrystalBatch) -> Float[Tensor, "crystals width"]:
        pairs = pairs_of(batch)
        at = torch.linspace(self.stop / self.width, self.stop, self.width).to(pairs.displacement)
        near = torch.exp(-0.5 * ((pairs.distance[:, None] - at) / self.smearing).square()) * pairs.count[:, None]
        of_site = segment_sum(near, pairs.center, batch.n_sites)
        return segment_mean(of_site, batch.crystal_of_site, batch.n_crystals).log1p()


@dataclass(frozen=True)
class Coordination(_Squared):
    """Mean of ln n and of its square over sites, where n is the number of neighbors within `reach`.

    Attributes:
        reach: Largest distance that counts, as a multiple of the distance to the nearest neighbor.
    """

    width = 2
    reach: float = 1.2

    def truth(self, batch: CrystalBatch) -> Float[Tensor, "crystals 2"]:
        pairs = pairs_of(batch)
        distance = pairs.distance
        nearest = distance.new_full((batch.n_sites,), torch.inf).scatter_reduce(0, pairs.center, distance, "amin")
        bonded = (distance <= self.reach * gather(nearest, pairs.center)) * pairs.count
        number = segment_sum(bonded, pairs.center, batch.n_sites).clamp_min(1).log()
        return segment_mean(torch.stack([number, number.square()], 1), batch.crystal_of_site, batch.n_crystals)


@dataclass(frozen=True)
class Statistics:
    """Blocks of `baselines.statistics`, each number with mean 0 and deviation 1 where it is learnt from.

    The loss is the mean squared error over the numbers, weighted by block, since there are 103 element fractions, but
    only 7 numbers of charges. All are computed once, before training. Numbers are clipped at `farthest` standard
    deviations from the mean: for an element that few crystals have, each of them is an outlier.

    Args:
        weights: Weight of each number, by the name of its block in `baselines.BLOCKS`; other blocks are not predicted.
        farthest: Where numbers are clipped, in standard deviations.

    Raises:
        ValueError: There is no block of that name, a weight is not above 0, or no block is named.
    """

    weights: Mapping[str, float] = field(default_factory=WEIGHTS.copy)
    farthest: float = 4.0

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"the weights name no block of statistics; give weights to some of {', '.join(BLOCKS)}")
        for name, weight in self.weights.items():
            if name not in BLOCKS:
                raise ValueError(f"there is no block {name!r} of statistics; there are {', '.join(BLOCKS)}")
            if not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} is {weight}; give a number above 0, or leave it out")

    @property
    def width(self) -> int:
        """Number of statistics that are predicted."""
        return len(self._columns)

    def prepared(self, data: Dataset, rows: Int[np.ndarray, " rows"], folder: Path) -> Dataset:
        """The data set with a column for each number, NaN in other rows; they are saved in the folder."""
        # The name of the file depends on the columns, and on how this version computes them.
        told = {"columns": [*self._columns], "reference": self._statistics([REFERENCE]).round(3).tolist()}
        path = folder / f"statistics-{hash_of(told)[:8]}.f4"
        return data.with_targets(tuple(self._columns), standardised(data, rows, self._statistics, self.width, path))

    def truth(self, batch: CrystalBatch) -> Float[Tensor, "crystals numbers"]:
        """The columns that `prepared` made."""
        if not batch.targets.keys() >= self._columns.keys():
            raise ValueError(
                "the data set has no statistics to reconstruct; `Reconstruction.prepared` adds them, before training"
            )
        numbers = torch.stack([batch.targets[name] for name in self._columns], dim=1).to(batch.kinds)
        return numbers.clamp(-self.farthest, self.farthest)

    def loss(self, predicted: Numbers, truth: Numbers) -> Losses:
        """The weighted mean of squares."""
        weights = torch.tensor(list(self._columns.values())).to(predicted)
        return (predicted - truth).square() @ (weights / weights.sum())

    @cached_property
    def _columns(self) -> dict[str, float]:
        """Names of the numbers, as columns of a data set, and their weights."""
        told = ((name, block) for block, names in names_of_blocks().items() for name in names if block in self.weights)
        return {f"statistics: {name}": self.weights[block] for name, block in told}

    def _statistics(self, crystals: list[Crystal]) -> Float[np.ndarray, "crystals numbers"]:
        return baselines.statistics(crystals, self.weights)[0]


@dataclass(frozen=True)
class SpaceGroup:
    """The number of the space group, where the data set has it as a property; the loss is the cross entropy, in nats.

    Attributes:
        target: Name of that property.
    """

    width = 230
    target: str = "spacegroup_number"

    def truth(self, batch: CrystalBatch) -> Float[Tensor, "crystals 1"]:
        numbers = property_of(batch, self.target, "reconstruct")
        if wrong := ((numbers < 1) | (numbers > self.width)).nonzero()[:, 0].tolist():
            found = f"{self.target} of {batch.keys[wrong[0]]!r} is {numbers[wrong[0]]:g}"
            raise ValueError(f"{found}; give 1 to {self.width}, and leave it empty where it is not known")
        return numbers[:, None].to(batch.kinds)

    def loss(self, predicted: Numbers, truth: Float[Tensor, "crystals 1"]) -> Losses:
        return cross_entropy(predicted, truth[:, 0].nan_to_num(nan=1.0).long() - 1, reduction="none")
